//! Pausing, quarantine and use of machines through the real executable, with a QEMU and a guest that are scripts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test and its helpers end by panicking")]

#[allow(dead_code, reason = "each program uses its part of the fake host")]
mod fake;

use std::{
    fs::File,
    io::{self, Read},
    os::unix::net::UnixStream,
    time::{Duration, Instant, SystemTime},
};

use fake::{Host, PATIENCE};
use microagent_guest_protocol::frame::{self, Kind};
use microagent_supervisor_protocol::{CallError, ErrorCode, Halt, MachineState, Verb};

fn running(mode: &str) -> Host {
    let host = Host::new(mode);
    host.start("b1").unwrap();
    host.until(|m| m.state == MachineState::Running);
    host
}

fn code<T: std::fmt::Debug>(result: Result<T, CallError>) -> (ErrorCode, bool) {
    match result {
        Err(CallError::Refused { error, .. }) => (error.code, error.retryable),
        other => panic!("{other:?}"),
    }
}

fn is_echoed(client: &mut UnixStream) -> bool {
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    frame::write(client, Kind::Stdin, b"hello").is_ok()
        && matches!(frame::read(client), Ok(Some(frame)) if frame.payload == b"hello")
}

/// Plays the guest when the fake vsock program runs this executable.
#[test]
fn fake_guest() {
    fake::guest();
}

#[test]
fn every_way_between_running_paused_and_quarantined_works_and_may_be_gone_twice() {
    use MachineState::{Paused, Quarantined, Running};
    let host = running("stay");
    let go = |to| match to {
        Paused => host.pause(),
        Quarantined => host.quarantine(),
        _ => host.resume(),
    };
    for to in [Running, Paused, Running, Quarantined, Paused, Quarantined, Running] {
        for _ in 0..2 {
            assert_eq!(go(to).unwrap().state, to);
            assert_eq!(host.inspect().unwrap().state, to);
            assert_eq!(host.record().machine.state, to);
        }
    }
    assert_eq!(host.qemu_was_told(), ["stop", "cont", "stop", "cont"]);
}

#[test]
fn a_supervisor_tells_which_of_the_verbs_it_has() {
    let verbs = Host::new("stay").supervisor().capabilities(PATIENCE).unwrap().verbs;
    for verb in [Verb::Pause, Verb::Resume, Verb::Quarantine] {
        assert!(verbs.contains(&verb));
    }
}

#[test]
fn a_machine_that_does_not_run_is_not_paused() {
    let mut host = Host::new("silent");
    host.boot_timeout_ms = 600_000;
    let refused = |host: &Host| {
        for result in [host.pause(), host.resume(), host.quarantine()] {
            assert_eq!(code(result), (ErrorCode::MachineNotRunning, true));
        }
    };
    refused(&host);
    host.start("b1").unwrap();
    assert_eq!(host.inspect().unwrap().state, MachineState::Starting);
    refused(&host);
    host.kill().unwrap();
    refused(&host);
    assert_eq!(host.inspect().unwrap().state, MachineState::Exited);

    let halting = running("stubborn");
    halting.supervisor().halt(halting.target(), Halt { grace_seconds: 600, no_wait: true }, PATIENCE).unwrap();
    refused(&halting);
    assert_eq!(halting.inspect().unwrap().state, MachineState::Halting);
}

#[test]
fn a_paused_machine_runs_on_to_be_halted_and_is_killed_as_it_is() {
    let host = running("stay");
    host.pause().unwrap();
    let machine = host.halt(60).unwrap();
    assert_eq!((machine.state, machine.failure), (MachineState::Exited, None));
    assert_eq!(host.qemu_was_told(), ["stop", "cont"]);

    let host = running("stay");
    host.pause().unwrap();
    let machine = host.kill().unwrap();
    assert_eq!((machine.state, machine.failure), (MachineState::Exited, None));
    assert_eq!(host.qemu_was_told(), ["stop"]);
}

#[test]
fn a_qemu_that_refuses_is_told_again_what_the_record_says() {
    let host = running("unwilling");
    assert_eq!(code(host.pause()), (ErrorCode::VmmFailed, true));
    assert_eq!(host.inspect().unwrap().state, MachineState::Running);
    // It stopped although it said no: nobody asks for it, and it has to run on.
    let begun = Instant::now();
    while host.qemu_was_told() != ["refused stop", "cont"] {
        assert!(begun.elapsed() < PATIENCE, "{:?}", host.qemu_was_told());
        std::thread::yield_now();
    }
    assert_eq!(host.pause().unwrap().state, MachineState::Paused);
}

#[test]
fn a_qemu_that_babbles_cannot_hold_up_its_end() {
    let host = running("babbling");
    assert_eq!(code(host.pause()).0, ErrorCode::VmmFailed);
    let machine = host.kill().unwrap();
    assert_eq!((machine.state, machine.failure), (MachineState::Exited, None));
}

#[test]
fn a_quarantined_machine_has_no_connections_but_its_supervisors() {
    let host = running("echo");
    let mut before = host.connect().unwrap();
    assert!(is_echoed(&mut before));
    host.quarantine().unwrap();
    assert_eq!(before.read(&mut [0]).unwrap(), 0, "what was open is closed");
    for _ in 0..3 {
        assert_eq!(host.connect().unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
    // A pause and its end do not connect it again, a resume does.
    host.pause().unwrap();
    assert!(host.connect().is_err());
    host.quarantine().unwrap();
    assert!(host.connect().is_err());
    host.resume().unwrap();
    assert!(is_echoed(&mut host.connect().unwrap()));
    host.quarantine().unwrap();
    let machine = host.halt(60).unwrap();
    assert_eq!((machine.state, machine.failure), (MachineState::Exited, None), "the shim can still ask the guest");
}

#[test]
fn a_pause_leaves_connections_open() {
    let host = running("echo");
    let mut client = host.connect().unwrap();
    host.pause().unwrap();
    host.resume().unwrap();
    assert!(is_echoed(&mut client));
}

#[test]
fn a_byte_for_a_client_is_a_use_of_the_machine_and_an_inspect_is_none() {
    let host = running("echo");
    let started = host.inspect().unwrap().started_at.unwrap();
    let mut client = host.connect().unwrap();
    let file = File::options().write(true).open(host.dir().join("activity")).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    for _ in 0..3 {
        assert_eq!(host.inspect().unwrap().active_at, Some(started));
    }
    // Noted within a second.
    let begun = Instant::now();
    while host.inspect().unwrap().active_at == Some(started) {
        assert!(is_echoed(&mut client) && begun.elapsed() < PATIENCE);
    }
    let active = host.inspect().unwrap().active_at.unwrap();
    assert!(active > started && active <= jiff::Timestamp::now());
    file.set_modified(SystemTime::now() + Duration::from_secs(3600)).unwrap();
    assert!(host.inspect().unwrap().active_at.unwrap() <= jiff::Timestamp::now());
}
