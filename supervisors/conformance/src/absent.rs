//! Calls about a machine that was never started.

use microagent_supervisor_protocol::{ErrorCode, MachineState, Request, Verb};

use crate::{
    bench::{Bench, entries},
    check::{Check, Trouble, require},
};

pub(crate) const CHECKS: &[Check] = &[
    Check {
        name: "absent-is-told",
        promise: "`inspect` of a machine that never was says so, and makes nothing",
        run: told,
    },
    Check {
        name: "absent-can-be-ended",
        promise: "`halt`, `kill` and `delete` find their work done where there is no machine, and make nothing",
        run: ended,
    },
    Check {
        name: "absent-cannot-be-changed",
        promise: "`pause`, `resume` and `quarantine` are MachineNotRunning where there is no machine",
        run: changed,
    },
    Check {
        name: "prepares-twice",
        promise: "`prepare` makes the directory and starts nothing; a second one changes nothing",
        run: prepared,
    },
];

fn told(bench: &Bench<'_>) -> Result<(), Trouble> {
    let machine = bench.inspect()?;
    require(machine.state == MachineState::Absent, || format!("the machine is {:?}", machine.state))?;
    nothing_made(bench)
}

fn ended(bench: &Bench<'_>) -> Result<(), Trouble> {
    for verb in [Verb::Halt, Verb::Kill, Verb::Delete, Verb::Delete] {
        let machine = bench.machine(&bench.plain(verb))?;
        require(machine.state == MachineState::Absent, || {
            format!("after `{}` the machine is {:?}", verb.as_str(), machine.state)
        })?;
    }
    nothing_made(bench)
}

fn changed(bench: &Bench<'_>) -> Result<(), Trouble> {
    for verb in [Verb::Pause, Verb::Resume, Verb::Quarantine] {
        bench.needs(&[verb])?;
        bench.refused(&bench.plain(verb), &[ErrorCode::MachineNotRunning])?;
    }
    nothing_made(bench)
}

fn prepared(bench: &Bench<'_>) -> Result<(), Trouble> {
    bench.needs_machines()?;
    let request = bench.prepare_request()?;
    for _ in 0..2 {
        let machine = bench.machine(&request)?;
        require(machine.state == MachineState::Prepared, || {
            format!("after `prepare` the machine is {:?}", machine.state)
        })?;
        require(bench.dir().is_dir(), || "`prepare` did not make the machine's directory".to_owned())?;
    }
    require(bench.processes()?.is_empty(), || "`prepare` left a process".to_owned())?;
    let machine = bench.machine(&Request::Inspect(bench.about()))?;
    require(matches!(machine.state, MachineState::Prepared | MachineState::Absent), || {
        format!("a machine that was only prepared is {:?}", machine.state)
    })
}

fn nothing_made(bench: &Bench<'_>) -> Result<(), Trouble> {
    let made = entries(bench.home())?;
    require(made == ["parts"], || format!("a call about no machine made {made:?}"))
}
