//! Verbs that not every supervisor has, and what holds for all of them.

use std::fs;

use microagent_guest_protocol::EnvVar;
use microagent_supervisor_protocol::{
    ConsoleRequest, ErrorCode, GcRequest, MAX_CONSOLE, MachineState, PROTOCOL, Request, Restore, Snapshot,
    SnapshotKind, SnapshotRequest, Verb,
};

use crate::{
    bench::{Bench, entries},
    check::{Check, Trouble, own, require},
    processes,
    start::same,
};

pub(crate) const CHECKS: &[Check] = &[
    Check {
        name: "keeps-secrets-in-memory",
        promise: "the guest's configuration is in no file of the machine's directory and on no command line",
        run: secrets,
    },
    Check {
        name: "tells-the-console",
        promise: "`console` gives at most what was asked for, as text without control characters, and changes nothing",
        run: console,
    },
    Check {
        name: "collects-garbage",
        promise: "`gc` removes the machines that are not to be kept, and those alone",
        run: gc,
    },
    Check {
        name: "makes-snapshots",
        promise: "`snapshot` makes its directory whole or not at all, leaves the machine as asked, and a start goes on from it",
        run: snapshot,
    },
];

/// Not a word that anything else has.
const SENTINEL: &str = "c0nf0rmance-s3cret-7f1d";

fn secrets(bench: &Bench<'_>) -> Result<(), Trouble> {
    bench.needs_machines()?;
    let mut request = bench.start_request("boot-1")?;
    request.guest.workload.env.push(EnvVar { name: "SECRET".to_owned(), value: SENTINEL.to_owned() });
    bench.machine(&Request::Start(Box::new(request)))?;
    look_for_sentinel(bench)?;
    bench.ready()?;
    look_for_sentinel(bench)
}

fn look_for_sentinel(bench: &Bench<'_>) -> Result<(), Trouble> {
    for name in entries(&bench.dir())? {
        let path = bench.dir().join(&name);
        if path.is_file() {
            let bytes = fs::read(&path).map_err(|e| own("cannot read a file", &e))?;
            require(!processes::contains(&bytes, SENTINEL.as_bytes()), || {
                format!("the guest's configuration is in the file {name}")
            })?;
        }
    }
    for process in bench.processes()? {
        let line = fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
        require(!processes::contains(&line, SENTINEL.as_bytes()), || {
            format!("the guest's configuration is on the command line of process {}", process.pid)
        })?;
    }
    Ok(())
}

fn console(bench: &Bench<'_>) -> Result<(), Trouble> {
    bench.needs(&[Verb::Console])?;
    let machine = bench.running("boot-1")?;
    let ask = |max_bytes| {
        Request::Console(ConsoleRequest { protocol: PROTOCOL.to_owned(), target: bench.target(), max_bytes })
    };
    for max_bytes in [1, 64, MAX_CONSOLE] {
        let response = bench.call(&ask(max_bytes))?;
        let Some(console) = response.console else {
            return Err(Trouble::Failed(format!("`console` does not tell the console: {:?}", response.error)));
        };
        // One byte that is no text becomes a replacement character of three.
        require(console.text.len() <= max_bytes as usize * 3, || {
            format!("`console` gave {} bytes of text where {max_bytes} were asked for", console.text.len())
        })?;
        let control = console.text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t'));
        require(control.is_none(), || format!("`console` gave the control character {control:?}"))?;
    }
    for max_bytes in [0, MAX_CONSOLE + 1] {
        bench.refused(&ask(max_bytes), &[ErrorCode::InvalidRequest])?;
    }
    same(&machine, &bench.inspect()?, "`console`")
}

fn gc(bench: &Bench<'_>) -> Result<(), Trouble> {
    bench.needs(&[Verb::Gc])?;
    let machine = bench.start("boot-1")?;
    let other = bench.home().join("other");
    fs::create_dir(&other)
        .and_then(|()| fs::write(other.join("notes.txt"), "mine"))
        .map_err(|e| own("cannot write a file", &e))?;
    let collect = |keep: &[&str]| {
        bench.call(&Request::Gc(GcRequest {
            protocol: PROTOCOL.to_owned(),
            machine_dirs: vec![bench.dir(), other.clone(), bench.home().join("absent")],
            keep: keep.iter().map(|uid| (*uid).to_owned()).collect(),
        }))
    };
    let removed = |response: microagent_supervisor_protocol::Response| match response.error {
        Some(error) => Err(Trouble::Failed(format!("`gc` failed: {error}"))),
        None => Ok(response.removed),
    };
    let first = removed(collect(&[&bench.uid])?)?;
    require(first.is_empty(), || format!("`gc` removed {first:?}, which was to be kept"))?;
    same(&machine, &bench.inspect()?, "`gc`")?;
    let second = removed(collect(&[])?)?;
    require(second == [bench.uid.clone()], || format!("`gc` tells that it removed {second:?}, not {}", bench.uid))?;
    require(bench.inspect()?.state == MachineState::Absent, || "`gc` left the machine".to_owned())?;
    bench.gone("`gc`")?;
    require(entries(&other)? == ["notes.txt"], || "`gc` touched a directory without a machine".to_owned())
}

fn snapshot(bench: &Bench<'_>) -> Result<(), Trouble> {
    bench.needs(&[Verb::Snapshot])?;
    bench.running("boot-1")?;
    let dir = bench.home().join("snapshot");
    let make = |resume| {
        Request::Snapshot(SnapshotRequest {
            protocol: PROTOCOL.to_owned(),
            target: bench.target(),
            snapshot: Snapshot { dir: dir.clone(), kind: SnapshotKind::Full, resume },
        })
    };
    let machine = bench.machine(&make(false))?;
    require(machine.state == MachineState::Paused, || {
        format!("after a `snapshot` that was to leave it paused the machine is {:?}", machine.state)
    })?;
    require(!entries(&dir)?.is_empty(), || "`snapshot` did not make its directory".to_owned())?;
    bench.refused(&make(true), &[ErrorCode::SnapshotInvalid])?;
    bench.machine(&bench.plain(Verb::Kill))?;
    bench.refused(
        &Request::Snapshot(SnapshotRequest {
            protocol: PROTOCOL.to_owned(),
            target: bench.target(),
            snapshot: Snapshot { dir: bench.home().join("other"), kind: SnapshotKind::Full, resume: true },
        }),
        &[ErrorCode::MachineNotRunning],
    )?;
    let mut request = bench.start_request("boot-2")?;
    request.restore = Some(Restore { dir: dir.clone() });
    bench.machine(&Request::Start(Box::new(request)))?;
    bench.ready()?;
    bench.machine(&bench.plain(Verb::Kill))?;
    // A snapshot that is not whole.
    let parts = entries(&dir)?;
    for name in &parts {
        let path = dir.join(name);
        if path.is_file() {
            fs::write(&path, b"").map_err(|e| own("cannot write a file", &e))?;
        }
    }
    let mut request = bench.start_request("boot-3")?;
    request.restore = Some(Restore { dir });
    bench.refused(&Request::Start(Box::new(request)), &[ErrorCode::SnapshotInvalid]).map(drop)
}
