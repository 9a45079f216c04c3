//! What guests copy out, through the real executable, with a QEMU and a guest that are scripts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test and its helpers end by panicking")]

#[allow(dead_code, reason = "each program uses its part of the fake host")]
mod fake;

use std::fs;

use fake::Host;
use microagent_base::Digest;
use microagent_guest_protocol::Exit;
use microagent_supervisor_protocol::{Artifact, CallError, ErrorCode, Machine, MachineState};

fn with_outputs(mode: &str) -> Host {
    let mut host = Host::new(mode);
    host.outputs = vec!["a", "b"];
    host.start("b1").unwrap();
    host
}

fn errors(machine: &Machine) -> Vec<(&str, Option<&str>)> {
    machine.artifacts.iter().map(|a| (a.name.as_str(), a.error.as_deref())).collect()
}

fn files(host: &Host) -> Vec<String> {
    let folder = fs::read_dir(host.dir().join("outputs")).into_iter().flatten();
    folder.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

/// Plays the guest when the fake vsock program runs this executable.
#[test]
fn fake_guest() {
    fake::guest();
}

#[test]
fn outputs_are_whole_files_when_the_machine_counts_as_exited_and_go_with_the_next_start() {
    let mut host = with_outputs("outputs-good");
    let machine = host.ended();
    assert_eq!((machine.guest.workload_exit, &machine.failure), (Some(Exit::code(0)), &None));
    let path = host.dir().join("outputs/a.tar");
    let expected = Artifact {
        name: "a".to_owned(),
        path: Some(path.clone()),
        bytes: Some(100_000),
        digest: Some(Digest::of(&fs::read(&path).unwrap()).to_string()),
        error: None,
    };
    assert_eq!(machine.artifacts[0], expected);
    assert_eq!(errors(&machine), [("a", None), ("b", Some("/x: No such file "))]);
    assert_eq!(files(&host), ["a.tar"]);

    host.outputs = vec!["c"];
    fs::write(host.root().join("kernel"), "").unwrap();
    assert!(host.start("b2").unwrap().artifacts.is_empty());
    assert!(files(&host).is_empty());
    host.delete().unwrap();
    assert!(!host.dir().join("outputs").exists());
}

#[test]
fn a_halt_gives_outputs_their_time() {
    let host = with_outputs("stay-outputs");
    host.until(|m| m.state == MachineState::Running);
    let machine = host.halt(60).unwrap();
    assert_eq!((machine.state, &machine.failure), (MachineState::Exited, &None));
    assert_eq!(errors(&machine), [("a", None), ("b", Some("/x: No such file "))]);
}

#[test]
fn an_output_past_the_bound_is_its_own_error() {
    let host = with_outputs("outputs-huge");
    let machine = host.ended();
    assert_eq!(machine.failure, None);
    assert!(machine.artifacts[0].error.as_ref().unwrap().contains("1048576 bytes"), "{:?}", machine.artifacts);
    assert!(machine.artifacts[0].path.is_none() && files(&host).is_empty());
}

#[test]
fn a_guest_that_powers_off_in_the_middle_of_an_output_loses_its_outputs_only() {
    let host = with_outputs("outputs-cut");
    let machine = host.ended();
    assert_eq!((machine.guest.workload_exit, &machine.failure), (Some(Exit::code(0)), &None));
    assert_eq!(machine.artifacts.iter().filter(|a| a.error.is_some() && a.path.is_none()).count(), 2);
    assert!(files(&host).is_empty());
}

#[test]
fn a_guest_that_lies_about_outputs_is_ended_and_writes_nothing() {
    for mode in ["outputs-early", "outputs-unnamed", "outputs-other", "outputs-twice"] {
        let host = with_outputs(mode);
        let machine = host.ended();
        assert_eq!(machine.failure.unwrap().code, ErrorCode::GuestProtocol, "{mode}");
        assert!(files(&host).is_empty() && !host.root().join("a.tar").exists(), "{mode}");
    }
}

#[test]
fn a_name_that_is_no_label_is_refused_before_anything_starts() {
    let mut host = Host::new("stay");
    host.outputs = vec!["../a"];
    match host.start("b1") {
        Err(CallError::Refused { error, .. }) => assert_eq!(error.code, ErrorCode::InvalidRequest),
        other => panic!("{other:?}"),
    }
    assert_eq!(host.inspect().unwrap().state, MachineState::Absent);
}
