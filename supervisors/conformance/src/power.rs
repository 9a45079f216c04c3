//! Pause, resume, quarantine.

use std::time::Duration;

use microagent_supervisor_protocol::{ErrorCode, MachineState, Verb, vsock};

use crate::{
    bench::{Bench, owner},
    check::{Check, Trouble, require},
    start::same,
};

pub(crate) const CHECKS: &[Check] = &[
    Check {
        name: "changes-power",
        promise: "`pause`, `resume` and `quarantine` lead from each state to each other, and a second call finds its work done",
        run: changes,
    },
    Check {
        name: "quarantine-cuts-connections",
        promise: "while a machine is Quarantined or Paused its vsock socket leads nowhere; resumed, it leads to the guest again",
        run: cuts,
    },
    Check {
        name: "ended-cannot-be-changed",
        promise: "`pause`, `resume` and `quarantine` of a machine that has ended are MachineNotRunning",
        run: ended,
    },
    Check {
        name: "paused-can-be-ended",
        promise: "`halt` and `delete` work on a machine that is paused",
        run: paused_ends,
    },
];

/// How long the guest may take to answer a connection.
const ANSWER: Duration = Duration::from_secs(20);

const CHANGES: [Verb; 3] = [Verb::Pause, Verb::Resume, Verb::Quarantine];

fn state_after(verb: Verb) -> MachineState {
    match verb {
        Verb::Pause => MachineState::Paused,
        Verb::Quarantine => MachineState::Quarantined,
        _ => MachineState::Running,
    }
}

fn change(bench: &Bench<'_>, verb: Verb) -> Result<(), Trouble> {
    let (machine, wanted) = (bench.machine(&bench.plain(verb))?, state_after(verb));
    require(machine.state == wanted, || format!("after `{}` the machine is {:?}", verb.as_str(), machine.state))?;
    let seen = bench.inspect()?.state;
    require(seen == wanted, || format!("after `{}` `inspect` tells that the machine is {seen:?}", verb.as_str()))
}

fn changes(bench: &Bench<'_>) -> Result<(), Trouble> {
    bench.needs(&CHANGES)?;
    let first = bench.running("boot-1")?;
    for verb in CHANGES {
        for from in CHANGES {
            change(bench, from)?;
            change(bench, verb)?;
            change(bench, verb)?;
        }
    }
    change(bench, Verb::Resume)?;
    same(&first, &bench.inspect()?, "pausing and resuming")
}

fn cuts(bench: &Bench<'_>) -> Result<(), Trouble> {
    bench.needs(&CHANGES)?;
    if bench.known()?.features.vsock.is_none() {
        return Err(Trouble::Skipped("nothing speaks to its guests over vsock".to_owned()));
    }
    let machine = bench.running("boot-1")?;
    owner(&machine)?;
    let socket = machine.vsock.ok_or_else(|| Trouble::Failed("no vsock socket is told".to_owned()))?;
    let reach = || vsock::connect(&socket, microagent_guest_protocol::CONTROL_PORT, ANSWER);
    let must_reach =
        |when: &str| reach().map(drop).map_err(|e| Trouble::Failed(format!("{when} the guest cannot be reached: {e}")));
    must_reach("while it runs")?;
    for verb in [Verb::Quarantine, Verb::Pause] {
        change(bench, verb)?;
        require(reach().is_err(), || format!("after `{}` the guest can be reached", verb.as_str()))?;
        change(bench, Verb::Resume)?;
        must_reach(&format!("after `{}` and `resume`", verb.as_str()))?;
    }
    Ok(())
}

fn ended(bench: &Bench<'_>) -> Result<(), Trouble> {
    bench.needs(&CHANGES)?;
    bench.start("boot-1")?;
    bench.machine(&bench.plain(Verb::Kill))?;
    for verb in CHANGES {
        let response = bench.refused(&bench.plain(verb), &[ErrorCode::MachineNotRunning])?;
        let state = response.machine.map(|machine| machine.state);
        require(state.is_none_or(|state| state == MachineState::Exited), || {
            format!("`{}` of a machine that has ended tells that it is {state:?}", verb.as_str())
        })?;
    }
    Ok(())
}

fn paused_ends(bench: &Bench<'_>) -> Result<(), Trouble> {
    bench.needs(&CHANGES)?;
    bench.running("boot-1")?;
    change(bench, Verb::Pause)?;
    let machine = bench.machine(&bench.plain(Verb::Halt))?;
    require(machine.state == MachineState::Exited, || {
        format!("a paused machine that is halted is {:?}", machine.state)
    })?;
    bench.gone("`halt`")?;
    bench.running("boot-2")?;
    change(bench, Verb::Pause)
    // That `delete` ends it is seen when the check leaves the machine.
}
