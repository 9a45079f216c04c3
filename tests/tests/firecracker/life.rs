//! Whole lives of machines.

use std::{fs, io::Read};

use microagent_guest_protocol::frame::{self, Kind};
use microagent_supervisor_protocol::{
    Accelerator, DiskCache, ErrorCode, Exit, FirecrackerDisk, IoEngine, MachineState, VsockProvider,
};
use microagent_tests::firecracker::{MachineHost, SECRET};
use rustix::process::Signal;
use serde_json::json;

use crate::refused;

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);

#[test]
fn a_machine_is_started_told_halted_and_deleted() {
    let host = MachineHost::new("stay");
    let started = host.start("b1").unwrap();
    assert_eq!((started.state, started.accelerator), (MachineState::Starting, Some(Accelerator::Kvm)));
    let running = host.until(|m| m.state == MachineState::Running);
    assert!(running.guest.ready && running.timings.contains_key("listening"));
    assert_eq!(host.start("b1").unwrap().identity.unwrap().boot_id, "b1", "a second start changes nothing");
    assert_eq!(refused(host.start("b2")).code, ErrorCode::MachineRunning);
    let machine = host.halt(5).unwrap();
    assert_eq!((machine.state, machine.failure), (MachineState::Exited, None));
    assert!(!host.process("shim").is_alive());
    assert_eq!(host.delete().unwrap().state, MachineState::Absent);
    assert_eq!(fs::read_dir(host.dir()).unwrap().count(), 0, "nothing is left");
    assert_eq!(host.inspect().unwrap().state, MachineState::Absent);
}

#[test]
fn firecracker_is_told_exactly_what_the_machine_is_and_nothing_runs_before_that() {
    let mut host = MachineHost::new("stay");
    host.options.balloon_mib = Some(32);
    host.options.track_dirty_pages = true;
    host.options.disks = vec![FirecrackerDisk {
        id: "overlay".to_owned(),
        cache: Some(DiskCache::Unsafe),
        io_engine: Some(IoEngine::Async),
        bytes_per_second: Some(1_000_000),
        operations_per_second: None,
    }];
    host.kernel.args = vec!["quiet".to_owned()];
    let host = host.running();
    let asked = host.asked();
    let paths: Vec<_> = asked.iter().map(|asked| (asked.method.as_str(), asked.path.as_str(), asked.status)).collect();
    assert_eq!(
        paths,
        [
            ("PUT", "/logger", 204),
            ("PUT", "/metrics", 204),
            ("PUT", "/machine-config", 204),
            ("PUT", "/boot-source", 204),
            ("PUT", "/drives/disk0", 204),
            ("PUT", "/drives/disk1", 204),
            ("PUT", "/balloon", 204),
            ("PUT", "/entropy", 204),
            ("PUT", "/vsock", 204),
            ("PUT", "/actions", 204),
            ("PUT", "/actions", 204),
        ]
    );
    assert_eq!(asked[9].body, json!({ "action_type": "InstanceStart" }));
    assert_eq!(
        host.body("/machine-config"),
        json!({ "vcpu_count": 2, "mem_size_mib": 128, "smt": false, "track_dirty_pages": true })
    );
    let source = host.body("/boot-source");
    assert_eq!(source["kernel_image_path"], host.root().join("vmlinux").to_str().unwrap());
    let line = source["boot_args"].as_str().unwrap();
    for word in ["console=ttyS0", "reboot=k", "i8042.noaux", "microagent.off=restart"] {
        assert!(line.split(' ').any(|found| found == word), "{line}");
    }
    assert!(line.ends_with(" quiet"), "the caller's words win: {line}");
    assert_eq!(
        host.body("/drives/disk0"),
        json!({
            "drive_id": "disk0", "path_on_host": host.root().join("base.ext4"), "is_root_device": false, "is_read_only": true,
            "cache_type": "Unsafe", "io_engine": "Sync",
        })
    );
    assert_eq!(
        host.body("/drives/disk1"),
        json!({
            "drive_id": "disk1", "path_on_host": host.root().join("overlay.ext4"), "is_root_device": false, "is_read_only": false,
            "cache_type": "Unsafe", "io_engine": "Async",
            "rate_limiter": { "bandwidth": { "size": 1_000_000, "refill_time": 1000 } },
        })
    );
    assert_eq!(host.body("/vsock"), json!({ "guest_cid": 3, "uds_path": "guest.sock" }));
    assert_eq!(host.body("/balloon"), json!({ "amount_mib": 32, "deflate_on_oom": true }));
}

#[test]
fn a_disk_that_is_written_to_is_flushed_where_nothing_else_is_asked_for() {
    let host = MachineHost::new("stay").running();
    assert_eq!(host.body("/drives/disk1")["cache_type"], "Writeback");
}

#[test]
fn a_workload_that_fails_with_7_is_told_with_all_of_its_output_and_no_secret_is_in_a_file() {
    let host = MachineHost::new("workload");
    host.start("b1").unwrap();
    let machine = host.ended();
    assert_eq!((machine.guest.workload_exit, machine.failure), (Some(Exit::code(7)), None));
    assert!(host.log("workload.log").contains(" stdout F hello\n"));
    assert!(host.log("console.log").starts_with("[    0.000000] Linux version"), "the VMM's log is not in it");
    assert!(host.log("vmm.log").contains("WARN] the stand-in starts"), "but in its own");
    assert!(host.log("metrics.json").contains("panic_count"));
    for entry in fs::read_dir(host.dir()).unwrap().map(Result::unwrap).filter(|e| e.file_type().unwrap().is_file()) {
        let bytes = fs::read(entry.path()).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains(SECRET), "{:?}", entry.path());
    }
}

#[test]
fn what_a_guest_copies_out_is_there_when_it_has_ended() {
    let mut host = MachineHost::new("outputs-good");
    host.outputs = vec!["a", "b"];
    host.start("b1").unwrap();
    let machine = host.ended();
    assert_eq!(machine.failure, None);
    assert_eq!(fs::metadata(host.dir().join("outputs/a.tar")).unwrap().len(), 100_000);
    assert!(machine.artifacts[1].error.as_deref().unwrap().contains("No such file"));
}

fn is_echoed(client: &mut std::os::unix::net::UnixStream) -> bool {
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    frame::write(client, Kind::Stdin, b"hello").is_ok()
        && matches!(frame::read(client), Ok(Some(frame)) if frame.payload == b"hello")
}

/// What the API says of the machine's CPUs.
fn is_still(host: &MachineHost) -> bool {
    host.asked().iter().rev().find(|asked| asked.path == "/vm").is_some_and(|asked| asked.body["state"] == "Paused")
}

#[test]
fn every_way_between_running_paused_and_quarantined_works_and_may_be_gone_twice() {
    use MachineState::{Paused, Quarantined, Running};
    let host = MachineHost::new("echo").running();
    let go = |to| match to {
        Paused => host.pause(),
        Quarantined => host.quarantine(),
        _ => host.resume(),
    };
    for to in [Running, Paused, Running, Quarantined, Paused, Quarantined, Running] {
        for _ in 0..2 {
            assert_eq!(go(to).unwrap().state, to);
            assert_eq!(host.inspect().unwrap().state, to);
            assert_eq!(is_still(&host), to == Paused);
        }
    }
    assert!(is_echoed(&mut host.connect().unwrap()), "it can be reached after all that");
    let machine = host.halt(60).unwrap();
    assert_eq!((machine.state, machine.failure), (MachineState::Exited, None));
}

#[test]
fn an_old_firecracker_whose_api_would_leave_its_guest_deaf_is_stopped_as_a_process() {
    let mut host = MachineHost::new("echo");
    host.script.version = "1.16.1".to_owned();
    let host = host.running();
    for _ in 0..2 {
        host.pause().unwrap();
        assert!(host.process("vmm").is_stopped().unwrap());
        host.resume().unwrap();
        assert!(!host.process("vmm").is_stopped().unwrap());
    }
    assert!(host.asked().iter().all(|asked| asked.path != "/vm"), "its API is not asked for it");
    assert!(is_echoed(&mut host.connect().unwrap()));
    host.pause().unwrap();
    assert_eq!(host.halt(60).unwrap().failure, None, "it runs on to be halted");
}

#[test]
fn a_quarantined_machine_has_no_connections_but_its_supervisors() {
    let host = MachineHost::new("echo").running();
    let mut before = host.connect().unwrap();
    assert!(is_echoed(&mut before));
    host.quarantine().unwrap();
    assert_eq!(before.read(&mut [0]).unwrap(), 0, "what was open is closed");
    assert!(host.connect().is_err());
    assert_eq!(host.halt(60).unwrap().failure, None, "the shim can still ask the guest");
}

#[test]
fn a_stubborn_guest_is_ended_when_its_grace_is_over_and_a_paused_one_is_killed_as_it_is() {
    let host = MachineHost::new("stubborn").running();
    let machine = host.halt(0).unwrap();
    assert_eq!((machine.state, machine.failure), (MachineState::Exited, None));

    let host = MachineHost::new("stay").running();
    host.pause().unwrap();
    let machine = host.kill().unwrap();
    assert_eq!((machine.state, machine.failure), (MachineState::Exited, None));
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_guest_that_does_not_answer_has_its_button_pressed() {
    let host = MachineHost::new("deaf").running();
    let machine = host.halt(600).unwrap();
    assert_eq!((machine.state, machine.failure), (MachineState::Exited, None));
    assert!(host.asked().iter().any(|asked| asked.body == json!({ "action_type": "SendCtrlAltDel" })));
}

#[test]
fn a_killed_shim_takes_its_machine_along_and_a_killed_vmm_is_told_with_its_cause() {
    let host = MachineHost::new("stay").running();
    let (shim, vmm) = (host.process("shim"), host.process("vmm"));
    shim.signal(Signal::KILL).unwrap();
    assert!(vmm.wait_gone(PATIENCE).unwrap());
    let machine = host.inspect().unwrap();
    assert_eq!((machine.state, machine.failure.unwrap().code), (MachineState::Exited, ErrorCode::ShimLost));

    host.start("b2").unwrap();
    let _ = host.until(|m| m.state == MachineState::Running);
    host.process("vmm").signal(Signal::KILL).unwrap();
    let failure = host.ended().failure.unwrap();
    assert_eq!(failure.code, ErrorCode::VmmFailed);
    assert!(failure.message.contains("signal: 9"), "{}", failure.message);

    host.start("b3").unwrap();
    let _ = host.until(|m| m.state == MachineState::Running);
    let (shim, vmm) = (host.process("shim"), host.process("vmm"));
    vmm.signal(Signal::KILL).unwrap();
    shim.signal(Signal::KILL).unwrap();
    assert!(shim.wait_gone(PATIENCE).unwrap() && vmm.wait_gone(PATIENCE).unwrap());
    assert_eq!(host.inspect().unwrap().state, MachineState::Exited);
}

#[test]
fn a_directory_below_a_very_long_path_is_as_good_as_any() {
    let mut host = MachineHost::new("echo");
    host.below = format!("{}/m", "x".repeat(200));
    fs::create_dir(host.root().join("x".repeat(200))).unwrap();
    let host = host.running();
    assert!(is_echoed(&mut host.connect().unwrap()));
    host.pause().unwrap();
    host.resume().unwrap();
    assert_eq!(host.halt(5).unwrap().failure, None);
}

#[test]
fn two_machines_do_not_write_to_one_disk() {
    let host = MachineHost::new("stay").running();
    let mut other = host.clone();
    other.uid = "u-2".to_owned();
    other.below = "m2".to_owned();
    let error = refused(other.start("b1"));
    assert_eq!((error.code, error.retryable), (ErrorCode::DiskInUse, true));
    assert!(error.message.contains("overlay"), "{}", error.message);
    assert_eq!(other.inspect().unwrap().state, MachineState::Absent);
    host.kill().unwrap();
    other.start("b1").unwrap();
    other.delete().unwrap();
}

#[test]
fn capabilities_tell_what_it_can_do() {
    let capabilities = MachineHost::new("stay").supervisor().capabilities(PATIENCE).unwrap();
    assert_eq!((capabilities.backend.as_str(), capabilities.max_vcpus), ("Firecracker", 32));
    assert_eq!(capabilities.vmm.as_deref(), Some("Firecracker v1.17.0"));
    assert_eq!(capabilities.accelerators, [Accelerator::Kvm]);
    assert_eq!(capabilities.features.vsock, Some(VsockProvider::Vmm));
    assert!(capabilities.features.network_modes.is_empty());
}
