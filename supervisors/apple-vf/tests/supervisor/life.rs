//! Whole lives of machines, and what can go wrong in them.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    process::{Command, Stdio},
};

use microagent_base::process::ProcessId;
use microagent_guest_protocol::{
    CONTROL_PORT,
    frame::{self, Kind},
};
use microagent_shim::Record;
use microagent_supervisor_protocol::{Accelerator, ErrorCode, MachineState, vsock};
use rustix::process::Signal;
use serde_json::json;

use crate::host::{Host, PATIENCE, refused};

fn connect(host: &Host) -> std::io::Result<UnixStream> {
    vsock::connect(&host.inspect().vsock.unwrap(), CONTROL_PORT, PATIENCE)
}

fn record(host: &Host) -> Record {
    serde_json::from_str(&host.log("machine.json")).unwrap()
}

#[test]
fn a_workload_runs_to_its_end() {
    let host = Host::new(&["stand-in.guest=workload"]);
    let started = host.start().unwrap();
    assert_eq!(started.accelerator, Some(Accelerator::Hvf));
    let ended = host.ended();
    assert_eq!(ended.failure, None);
    assert_eq!(ended.guest.workload_exit.unwrap().code, Some(7));
    assert!(host.log("console.log").contains("guest-init listening"));
    assert!(host.log("workload.log").contains("stdout F hello"));
}

#[test]
fn clients_reach_the_guest_and_an_end_of_one_way_leaves_the_other_open() {
    let host = Host::new(&["stand-in.guest=echo"]).running();
    let mut stream = connect(&host).unwrap();
    let large = vec![b'x'; 60_000];
    for _ in 0..8 {
        frame::write(&mut stream, Kind::Stdin, &large).unwrap();
        assert_eq!(frame::read(&mut stream).unwrap().unwrap().payload, large);
    }
    frame::write(&mut stream, Kind::Stdin, b"last").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(frame::read(&mut stream).unwrap().unwrap().payload, b"last");
    assert!(frame::read(&mut stream).unwrap().is_none());
    let other = vsock::connect(&host.inspect().vsock.unwrap(), 9, PATIENCE).unwrap_err();
    assert_eq!(other.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn a_machine_that_is_paused_stands_still_and_goes_on_when_it_is_resumed() {
    let host = Host::new(&["stand-in.guest=echo"]).running();
    let mut open = connect(&host).unwrap();
    assert_eq!(host.supervisor.pause(host.target(), PATIENCE).unwrap().state, MachineState::Paused);
    assert!(connect(&host).is_err());
    assert_eq!(host.supervisor.pause(host.target(), PATIENCE).unwrap().state, MachineState::Paused);
    assert_eq!(host.supervisor.resume(host.target(), PATIENCE).unwrap().state, MachineState::Running);
    frame::write(&mut open, Kind::Stdin, b"still there").unwrap();
    assert_eq!(frame::read(&mut open).unwrap().unwrap().payload, b"still there");
    connect(&host).unwrap();
    // Words go to the log by a thread of the shim; all are there once the machine has ended.
    host.supervisor.kill(host.target(), PATIENCE).unwrap();
    let log = host.log("vmm.log");
    let done: Vec<_> = log.lines().filter(|line| line.starts_with("stand-in:")).collect();
    assert_eq!(done, ["stand-in: Stopped to Running", "stand-in: Running to Paused", "stand-in: Paused to Running"]);
}

#[test]
fn a_framework_that_does_not_pause_is_told_and_the_machine_runs_on() {
    let host = Host::new(&["stand-in.guest=stay", "stand-in.fault=pause"]).running();
    let error = refused(host.supervisor.pause(host.target(), PATIENCE));
    assert_eq!(error.code, ErrorCode::VmmFailed);
    assert!(error.message.contains("does not pause"), "{}", error.message);
    assert_eq!(host.inspect().state, MachineState::Running);
    connect(&host).unwrap();
}

#[test]
fn a_start_that_the_framework_refuses_leaves_no_machine_and_tells_its_words() {
    for (fault, code, words) in [
        ("start", ErrorCode::VmmFailed, "internal virtualization error"),
        ("create", ErrorCode::UnsupportedConfig, "as was asked for"),
    ] {
        let host = Host::new(&[&format!("stand-in.fault={fault}")]);
        let error = refused(host.start());
        assert_eq!(error.code, code);
        assert!(error.message.contains(words), "{}", error.message);
        assert_eq!(host.inspect().state, MachineState::Absent);
    }
}

#[test]
fn what_cannot_be_had_is_refused_before_anything_is_started() {
    let mut host = Host::new(&[]);
    fs::write(&host.config.kernel.path, b"\x1f\x8b\x08").unwrap();
    assert_eq!(refused(host.start()).code, ErrorCode::KernelRefused);
    let mut host_of_disks = Host::new(&[]);
    fs::write(&host_of_disks.config.disks[1].path, [0; 100]).unwrap();
    assert_eq!(refused(host_of_disks.start()).code, ErrorCode::UnsupportedConfig);
    host_of_disks.config.vcpus = 9;
    assert!(refused(host_of_disks.start()).message.contains("between 1 and 8"));
    host.config.memory_mib = 100_000;
    assert_eq!(refused(host.start()).code, ErrorCode::UnsupportedConfig);
}

#[test]
fn a_machine_that_the_framework_ends_is_told_with_its_words() {
    let host = Host::new(&["stand-in.guest=crash"]);
    host.start().unwrap();
    let failure = host.ended().failure.unwrap();
    assert_eq!(failure.code, ErrorCode::VmmFailed);
    assert!(format!("{failure:?}").contains("stopped unexpectedly"), "{failure:?}");
    assert!(host.log("vmm.log").contains("stopped unexpectedly"));
}

#[test]
fn a_guest_that_cannot_be_asked_hears_the_power_button() {
    let host = Host::new(&["stand-in.guest=deaf"]).running();
    let ended = host.halt(1);
    assert_eq!(ended.state, MachineState::Exited);
    assert!(host.log("console.log").contains("Power key pressed"), "{}", host.log("console.log"));
}

#[test]
fn nothing_of_a_machine_runs_on_when_its_shim_is_killed() {
    let host = Host::new(&["stand-in.guest=stay"]).running();
    let record = record(&host);
    let vmm = record.vmm.unwrap();
    record.shim.signal(Signal::KILL).unwrap();
    assert!(vmm.wait_gone(PATIENCE).unwrap());
    assert_eq!(host.ended().failure.unwrap().code, ErrorCode::ShimLost);
}

/// Where nothing else ends it, as on macOS.
#[test]
fn a_vmm_ends_with_its_owner_by_itself() {
    let host = Host::new(&[]);
    fs::create_dir(host.dir()).unwrap();
    let mut owner = Command::new("sleep").arg("600").spawn().unwrap();
    let mut vmm = Command::new(host.supervisor.path())
        .arg("vm")
        .current_dir(host.dir())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut console = BufReader::new(vmm.stdout.take().unwrap());
    let config = &host.config;
    let boot = json!({"boot": {
        "owner": ProcessId::of(owner.id()).unwrap(),
        "machine": {
            "vcpus": 1, "memoryBytes": 1 << 28, "kernel": config.kernel.path, "initramfs": config.initramfs,
            "commandLine": "stand-in.guest=stay", "balloon": false,
            "disks": [{"path": config.disks[0].path, "readOnly": true, "synchronization": "none"}],
        },
    }});
    let ask = |request: String| {
        let socket = host.dir().join("vm.sock");
        let begun = std::time::Instant::now();
        let mut stream = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(e) => assert!(begun.elapsed() < PATIENCE, "{e}"),
            }
            std::thread::yield_now();
        };
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(ask("\"pause\"\n".to_owned()).contains("MachineNotRunning"));
    assert_eq!(ask(format!("{boot}\n")), "ok\n");
    assert!(ask(format!("{boot}\n")).contains("has a machine already"));
    assert!(host.dir().join("guest.sock").exists());
    owner.kill().unwrap();
    owner.wait().unwrap();
    let gone = ProcessId::of(vmm.id()).is_ok_and(|vmm| vmm.wait_gone(PATIENCE).unwrap());
    // One that did not end by itself ends now.
    let _ = vmm.kill();
    assert!(gone && vmm.wait().unwrap().code() == Some(1));
    let (mut said, mut words) = (String::new(), String::new());
    while console.read_line(&mut said).unwrap() > 0 {}
    vmm.stderr.take().unwrap().read_to_string(&mut words).unwrap();
    assert!(said.contains("stopped from outside"), "{said}");
    assert!(words.contains("owner has ended"), "{words}");
}
