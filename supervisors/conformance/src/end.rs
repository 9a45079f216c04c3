//! Halt, kill, delete.

use std::fs;

use microagent_supervisor_protocol::{ErrorCode, MachineState, Request, Verb};

use crate::{
    bench::{Bench, SOON, entries},
    check::{Check, Trouble, own, require},
};

pub(crate) const CHECKS: &[Check] = &[
    Check {
        name: "halts",
        promise: "`halt` asks the workload to end and returns when the machine has; a second one finds it so",
        run: halts,
    },
    Check {
        name: "halts-without-waiting",
        promise: "`halt` with `noWait` returns at once, and the machine then ends",
        run: no_wait,
    },
    Check {
        name: "refuses-endless-grace",
        promise: "a grace period of more than 3600 seconds is InvalidRequest, and ends nothing",
        run: endless_grace,
    },
    Check { name: "kills", promise: "`kill` ends the machine at once; a second one finds it so", run: kills },
    Check {
        name: "kills-what-starts",
        promise: "`kill` ends a machine whose guest is not ready yet",
        run: kills_starting,
    },
    Check {
        name: "deletes-what-runs",
        promise: "`delete` ends a machine that runs, and removes what was made for it; a second one finds it so",
        run: deletes,
    },
    Check {
        name: "leaves-what-is-not-its-own",
        promise: "`delete` leaves disks and files in the machine's directory that it did not make",
        run: leaves_foreign,
    },
];

fn exited(bench: &Bench<'_>, verb: Verb) -> Result<(), Trouble> {
    for _ in 0..2 {
        let machine = bench.machine(&bench.plain(verb))?;
        require(machine.state == MachineState::Exited, || {
            format!("after `{}` the machine is {:?}", verb.as_str(), machine.state)
        })?;
        // What was asked for is no failure.
        require(machine.failure.is_none(), || {
            format!("a machine that was asked to end is told with a failure: {:?}", machine.failure)
        })?;
    }
    bench.gone(&format!("`{}`", verb.as_str()))
}

fn halts(bench: &Bench<'_>) -> Result<(), Trouble> {
    bench.running("boot-1")?;
    exited(bench, Verb::Halt)
}

fn no_wait(bench: &Bench<'_>) -> Result<(), Trouble> {
    bench.running("boot-1")?;
    let machine = bench.machine(&bench.halt_request(1, true))?;
    require(matches!(machine.state, MachineState::Running | MachineState::Halting | MachineState::Exited), || {
        format!("after `halt` the machine is {:?}", machine.state)
    })?;
    let until = std::time::Instant::now() + SOON * 6;
    while bench.inspect()?.state != MachineState::Exited {
        require(std::time::Instant::now() < until, || {
            "the machine does not end after a `halt` with noWait".to_owned()
        })?;
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    bench.gone("`halt`")
}

fn endless_grace(bench: &Bench<'_>) -> Result<(), Trouble> {
    bench.start("boot-1")?;
    bench.refused(&bench.halt_request(3601, false), &[ErrorCode::InvalidRequest])?;
    let machine = bench.inspect()?;
    require(matches!(machine.state, MachineState::Starting | MachineState::Running), || {
        format!("after a `halt` that was refused the machine is {:?}", machine.state)
    })
}

fn kills(bench: &Bench<'_>) -> Result<(), Trouble> {
    bench.running("boot-1")?;
    exited(bench, Verb::Kill)
}

fn kills_starting(bench: &Bench<'_>) -> Result<(), Trouble> {
    bench.start("boot-1")?;
    exited(bench, Verb::Kill)
}

fn deletes(bench: &Bench<'_>) -> Result<(), Trouble> {
    bench.running("boot-1")?;
    for _ in 0..2 {
        bench.leave()?;
    }
    let machine = bench.inspect()?;
    require(machine.state == MachineState::Absent, || format!("a deleted machine is {:?}", machine.state))
}

fn leaves_foreign(bench: &Bench<'_>) -> Result<(), Trouble> {
    bench.start("boot-1")?;
    fs::write(bench.dir().join("notes.txt"), "mine").map_err(|e| own("cannot write a file", &e))?;
    let machine = bench.machine(&Request::Delete(bench.about()))?;
    require(machine.state == MachineState::Absent, || format!("after `delete` the machine is {:?}", machine.state))?;
    let left = entries(&bench.dir())?;
    require(left == ["notes.txt"], || format!("`delete` left {left:?}, and not what is somebody else's alone"))?;
    let parts = entries(&bench.home().join("parts"))?;
    require(!parts.is_empty(), || "`delete` removed the machine's disks".to_owned())?;
    fs::remove_file(bench.dir().join("notes.txt")).map_err(|e| own("cannot remove a file", &e))
}
