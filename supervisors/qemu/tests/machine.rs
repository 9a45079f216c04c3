//! Whole lives of machines through the real executable, with a VMM and a guest that are scripts: what the shim and the verbs
//! do whatever the guest does. Real guests boot in the end-to-end tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test and its helpers end by panicking")]

#[allow(dead_code, reason = "each program uses its part of the fake host")]
mod fake;

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
};

use fake::{Host, PATIENCE, SUPERVISOR};
use microagent_guest_protocol::{Exit, Health, Probe};
use microagent_shim::MACHINE_RECORD;
use microagent_supervisor_protocol::{Accelerator, CallError, ErrorCode, Halt, Machine, MachineState, Owner, Response};
use rustix::process::Signal;

fn code<T: std::fmt::Debug>(result: Result<T, CallError>) -> ErrorCode {
    match result {
        Err(CallError::Refused { error, .. }) => error.code,
        other => panic!("{other:?}"),
    }
}

/// Plays the guest when the fake vsock program runs this executable.
#[test]
fn fake_guest() {
    fake::guest();
}

#[test]
fn a_workload_that_fails_with_7_is_told_with_all_of_its_output() {
    let host = Host::new("workload");
    let started = host.start("b1").unwrap();
    assert_eq!(started.accelerator, Some(Accelerator::Tcg));
    let machine = host.ended();
    assert_eq!((machine.state, &machine.failure), (MachineState::Exited, &None));
    assert_eq!(machine.guest.workload_exit, Some(Exit::code(7)));
    assert!(machine.guest.ready && machine.guest.setup_complete && machine.vsock.is_none());
    for stage in ["console", "listening", "configured"] {
        assert!(machine.timings.contains_key(stage), "{stage}");
    }
    let log = fs::read_to_string(host.dir().join("workload.log")).unwrap();
    assert!(log.contains(" stdout F hello\n") && log.ends_with(" stderr P bye\n"), "{log}");
    assert!(fs::read_to_string(host.dir().join("console.log")).unwrap().contains("guest-init listening"));
}

#[test]
fn the_secrets_of_the_guest_are_in_no_file() {
    let host = Host::new("workload");
    host.start("b1").unwrap();
    host.ended();
    // Sockets hold nothing, and the shim removes them when it ends, which may be now.
    let files =
        fs::read_dir(host.dir()).unwrap().map(Result::unwrap).filter(|entry| entry.file_type().unwrap().is_file());
    let mut read = 0;
    for file in files {
        let bytes = fs::read(file.path()).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains(fake::SECRET));
        read += 1;
    }
    assert!(read >= 3, "the record and the logs were read");
}

#[test]
fn a_start_is_done_once_for_each_boot_id() {
    let host = Host::new("stay");
    host.start("b1").unwrap();
    let running = host.until(|m| m.state == MachineState::Running);
    let first = host.record();
    assert_eq!(host.start("b1").unwrap(), Machine { active_at: None, ..running });
    assert_eq!(host.record(), first);
    assert_eq!(code(host.start("b2")), ErrorCode::MachineRunning);
    host.kill().unwrap();
    assert_eq!(host.start("b1").unwrap().state, MachineState::Exited);
    host.start("b2").unwrap();
    assert_ne!(host.record().vmm, first.vmm);
}

#[test]
fn two_starts_at_once_make_one_machine() {
    let host = Host::new("stay");
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| host.start("b1"))).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(results.iter().any(Result::is_ok), "{results:?}");
    for refused in results.into_iter().filter(Result::is_err) {
        assert_eq!(code(refused), ErrorCode::MachineBusy);
    }
    assert!(host.record().vmm.unwrap().is_alive());
}

#[test]
fn verbs_in_the_wrong_order_find_nothing_and_break_nothing() {
    let host = Host::new("stay");
    for found in [host.inspect(), host.halt(1), host.kill(), host.delete(), host.delete(), host.inspect()] {
        assert_eq!(found.unwrap().state, MachineState::Absent);
    }
    assert_eq!(host.prepare().unwrap().state, MachineState::Prepared);
    assert_eq!(host.prepare().unwrap().state, MachineState::Prepared);
    host.start("b1").unwrap();
    for _ in 0..2 {
        assert_eq!(host.kill().unwrap().state, MachineState::Exited);
    }
    assert_eq!(host.halt(1).unwrap().failure, None);
}

#[test]
fn a_directory_answers_only_for_its_own_uid() {
    let host = Host::new("stay");
    host.start("b1").unwrap();
    let mut other = host.clone();
    other.uid = "other".to_owned();
    for refused in [other.inspect(), other.kill(), other.delete(), other.start("b1")] {
        assert_eq!(code(refused), ErrorCode::IdentityMismatch);
    }
    assert!(host.record().vmm.unwrap().is_alive());
}

#[test]
fn a_killed_shim_takes_its_machine_along_and_is_told_as_lost() {
    let host = Host::new("stay");
    host.start("b1").unwrap();
    let record = host.record();
    record.shim.signal(Signal::KILL).unwrap();
    for process in [record.shim, record.vmm.unwrap(), record.helper.unwrap()] {
        assert!(process.wait_gone(PATIENCE).unwrap());
    }
    let machine = host.inspect().unwrap();
    assert_eq!((machine.state, machine.failure.unwrap().code), (MachineState::Exited, ErrorCode::ShimLost));
    host.start("b2").unwrap();
    assert!(host.record().vmm.unwrap().is_alive());
}

#[test]
fn the_owner_is_the_shim_for_as_long_as_the_machine_lives() {
    let host = Host::new("stay");
    let started = host.start("b1").unwrap();
    let shim = host.record().shim;
    assert_eq!(started.owner, Some(Owner { pid: shim.pid, start_time: shim.start_time }));
    assert_eq!(host.inspect().unwrap().owner, started.owner);
    assert_eq!(host.kill().unwrap().owner, None);
    assert_eq!(host.record().machine.owner, None);
}

#[test]
fn a_machine_of_an_earlier_boot_of_the_host_is_lost_and_no_process_of_this_boot_is_touched() {
    let host = Host::new("stay");
    host.start("b1").unwrap();
    host.until(|m| m.state == MachineState::Running);
    let present = host.record();
    let mut record = present.clone();
    let earlier = Some("00000000-0000-0000-0000-000000000001".parse().unwrap());
    record.shim.boot = earlier;
    for process in [&mut record.vmm, &mut record.helper] {
        process.as_mut().unwrap().boot = earlier;
    }
    fs::write(host.dir().join(MACHINE_RECORD), serde_json::to_vec(&record).unwrap()).unwrap();
    let machine = host.inspect().unwrap();
    assert_eq!((machine.state, machine.failure.unwrap().code), (MachineState::Exited, ErrorCode::ShimLost));
    assert_eq!(machine.owner, None);
    for process in [present.shim, present.vmm.unwrap(), present.helper.unwrap()] {
        assert!(process.is_alive());
    }
}

#[test]
fn a_killed_vmm_is_told_with_its_cause() {
    let host = Host::new("stay");
    host.start("b1").unwrap();
    host.until(|m| m.state == MachineState::Running);
    host.record().vmm.unwrap().signal(Signal::KILL).unwrap();
    let failure = host.ended().failure.unwrap();
    assert_eq!(failure.code, ErrorCode::VmmFailed);
    assert!(failure.message.contains("signal: 9"), "{}", failure.message);
}

#[test]
fn a_vmm_that_cannot_start_is_told_with_its_own_words() {
    let host = Host::new("dead");
    host.start("b1").unwrap();
    let failure = host.ended().failure.unwrap();
    assert_eq!(failure.code, ErrorCode::VmmFailed);
    assert!(failure.details.unwrap().contains("no memory for you"));
}

#[test]
fn a_panic_and_a_silent_guest_have_their_own_codes() {
    for (mode, expected) in [("panic", ErrorCode::GuestPanic), ("silent", ErrorCode::GuestTimeout)] {
        let mut host = Host::new(mode);
        host.boot_timeout_ms = if mode == "silent" { 200 } else { 60_000 };
        host.start("b1").unwrap();
        assert_eq!(host.ended().failure.unwrap().code, expected, "{mode}");
    }
}

#[test]
fn a_guest_that_breaks_the_protocol_is_ended() {
    for mode in ["disorder", "garbage", "huge"] {
        let host = Host::new(mode);
        host.start("b1").unwrap();
        assert_eq!(host.ended().failure.unwrap().code, ErrorCode::GuestProtocol, "{mode}");
    }
}

#[test]
fn the_verdict_of_the_health_probe_is_recorded_and_goes_with_its_boot() {
    let mut host = Host::new("healthy");
    host.health = Some(Health {
        probe: Probe::TcpSocket { host: None, port: 80 },
        initial_delay_seconds: 0,
        period_seconds: 1,
        timeout_seconds: 1,
        success_threshold: 1,
        failure_threshold: 1,
    });
    host.start("b1").unwrap();
    let machine = host.until(|m| m.guest.health.as_ref().is_some_and(|h| h.message == "probe 3 "));
    assert_eq!((machine.guest.health.unwrap().healthy, machine.failure), (false, None));
    assert_eq!(host.halt(60).unwrap().failure, None);
    host.health = None;
    host.start("b2").unwrap();
    let failure = host.ended().failure.unwrap();
    assert_eq!(failure.code, ErrorCode::GuestProtocol, "{}: none was asked for", failure.message);
}

#[test]
fn a_halted_guest_powers_off_and_that_is_no_failure() {
    let host = Host::new("stay");
    host.start("b1").unwrap();
    host.until(|m| m.state == MachineState::Running);
    let machine = host.halt(60).unwrap();
    assert_eq!((machine.state, machine.failure), (MachineState::Exited, None));
}

#[test]
fn a_halt_that_need_not_be_waited_for_is_recorded_at_once() {
    let host = Host::new("stubborn");
    host.start("b1").unwrap();
    host.until(|m| m.state == MachineState::Running);
    let halt = Halt { grace_seconds: 600, no_wait: true };
    assert_eq!(host.supervisor().halt(host.target(), halt, PATIENCE).unwrap().state, MachineState::Halting);
    assert_eq!(host.kill().unwrap().state, MachineState::Exited);
}

#[test]
fn delete_ends_the_machine_and_leaves_only_what_is_not_ours() {
    let host = Host::new("stay");
    host.start("b1").unwrap();
    fs::write(host.dir().join("overlay.ext4"), "theirs").unwrap();
    let record = host.record();
    host.delete().unwrap();
    for process in [record.shim, record.vmm.unwrap(), record.helper.unwrap()] {
        assert!(!process.is_alive());
    }
    let left: Vec<_> = fs::read_dir(host.dir()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["overlay.ext4"]);
}

#[test]
fn a_directory_with_a_very_long_path_works() {
    let mut host = Host::new("workload");
    host.below = "d".repeat(120);
    host.start("b1").unwrap();
    assert_eq!(host.ended().guest.workload_exit, Some(Exit::code(7)));
    let mut host = Host::new("stay");
    host.below = "d".repeat(120);
    host.start("b1").unwrap();
    assert_eq!(host.kill().unwrap().failure, None);
}

#[test]
fn what_is_missing_on_the_host_is_named() {
    let host = Host::new("stay");
    fs::remove_file(host.root().join("qemu")).unwrap();
    assert_eq!(code(host.start("b1")), ErrorCode::VmmNotFound);
    let host = Host::new("stay");
    fs::remove_file(host.root().join("kernel")).unwrap();
    assert_eq!(code(host.start("b1")), ErrorCode::FileUnavailable);
    assert_eq!(host.inspect().unwrap().state, MachineState::Absent);
}

#[test]
fn kvm_that_shows_no_sign_of_life_is_replaced_by_the_translator_and_remembered() {
    let mut host = Host::new("kvmless");
    host.accelerator = None;
    let first = host.supervisor().capabilities(PATIENCE).unwrap();
    if first.accelerators.first() != Some(&Accelerator::Kvm) {
        println!("SKIP kvm_that_shows_no_sign_of_life: needs a /dev/kvm that runs instructions");
        return;
    }
    assert_eq!(host.start("b1").unwrap().accelerator, Some(Accelerator::Kvm));
    let machine = host.ended();
    assert_eq!((machine.accelerator, machine.guest.workload_exit), (Some(Accelerator::Tcg), Some(Exit::code(7))));
    assert!(machine.accelerator_reason.unwrap().contains("no vcpu for you"));
    assert_eq!(host.supervisor().capabilities(PATIENCE).unwrap().accelerators, [Accelerator::Tcg]);
}

#[test]
fn what_is_no_request_is_answered_with_a_code() {
    let v1 = "supervisor.microagent.dev/v1";
    for (text, code) in [
        ("{".to_owned(), ErrorCode::InvalidRequest),
        (format!(r#"{{"protocol":"{v1}","verb":"dance"}}"#), ErrorCode::UnsupportedVerb),
        (r#"{"protocol":"other/v1","verb":"check"}"#.to_owned(), ErrorCode::UnsupportedProtocol),
        (" ".repeat(33 * 1024 * 1024), ErrorCode::InvalidRequest),
    ] {
        let mut child = Command::new(SUPERVISOR).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // A supervisor need not read past the bound.
        let _ = std::thread::spawn(move || stdin.write_all(text.as_bytes())).join().unwrap();
        let output = child.wait_with_output().unwrap();
        let response: Response = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((output.status.code(), response.error.unwrap().code), (Some(1), code));
    }
}
