//! Snapshots, and machines that go on from them.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use microagent_guest_protocol::frame::{self, Kind};
use microagent_supervisor_protocol::{ErrorBody, ErrorCode, MachineState, Snapshot, SnapshotKind};
use microagent_tests::firecracker::{Fault, MachineHost};
use rustix::process::geteuid;
use serde_json::{Value, json};

use crate::refused;

fn full(dir: &Path, resume: bool) -> Snapshot {
    Snapshot { dir: dir.to_owned(), kind: SnapshotKind::Full, resume }
}

fn error(host: &MachineHost, snapshot: Snapshot) -> ErrorBody {
    host.snapshot(snapshot).error.expect("it is refused")
}

/// A snapshot of a machine that is gone afterwards.
fn taken(host: &MachineHost) -> PathBuf {
    let dir = host.root().join("s1");
    let response = host.snapshot(full(&dir, false));
    assert_eq!(response.error, None);
    assert_eq!(response.machine.unwrap().state, MachineState::Paused);
    host.kill().unwrap();
    dir
}

fn goes_on(host: &MachineHost, boot: &str, dir: &Path) {
    host.start_from(boot, Some(dir)).unwrap();
    let machine = host.until(|m| m.state == MachineState::Running && m.guest.ready);
    assert!(machine.guest.workload_started_at.is_some(), "what the guest had told is known");
    assert!(host.log("console.log").contains("the guest goes on; the host has heard 3 events"));
}

fn is_echoed(host: &MachineHost) -> bool {
    let mut client = host.connect().unwrap();
    frame::write(&mut client, Kind::Stdin, b"hello").unwrap();
    matches!(frame::read(&mut client), Ok(Some(frame)) if frame.payload == b"hello")
}

#[test]
fn a_machine_goes_on_from_a_snapshot_with_a_new_clock_and_new_random_numbers() {
    let host = MachineHost::new("echo").running();
    let dir = taken(&host);
    goes_on(&host, "b2", &dir);
    assert_eq!(
        host.body("/snapshot/load"),
        json!({
            "snapshot_path": dir.join("state"), "resume_vm": false, "track_dirty_pages": false,
            "mem_backend": { "backend_type": "File", "backend_path": dir.join("memory") },
        })
    );
    let puts: Vec<_> = host.asked().into_iter().rev().map(|asked| asked.path).take(5).collect();
    assert_eq!(puts, ["/actions", "/vm", "/snapshot/load", "/metrics", "/logger"], "nothing is configured before");
    assert!(is_echoed(&host));
    assert_eq!(host.halt(5).unwrap().failure, None);
    // A snapshot is only read: it may serve once more.
    goes_on(&host, "b3", &dir);
}

#[test]
fn a_machine_that_a_snapshot_was_made_of_runs_on_and_can_be_reached_whatever_its_firecrackers_version() {
    for version in ["1.16.1", "1.17.0"] {
        let mut host = MachineHost::new("echo");
        host.script.version = version.to_owned();
        let host = host.running();
        let response = host.snapshot(full(&host.root().join("s1"), true));
        assert_eq!((response.error, response.machine.unwrap().state), (None, MachineState::Running), "{version}");
        let _ = host.until(|m| m.guest.timings.contains_key("resumed"));
        assert!(is_echoed(&host), "{version}");
        host.pause().unwrap();
        let response = host.snapshot(full(&host.root().join("s2"), true));
        assert_eq!((response.error, response.machine.unwrap().state), (None, MachineState::Paused), "it was paused");
        host.resume().unwrap();
        assert!(is_echoed(&host), "{version}");
        assert_eq!(host.halt(5).unwrap().failure, None, "{version}");
    }
}

#[test]
fn a_workload_that_ends_after_a_snapshot_is_told() {
    let host = MachineHost::new("stay").running();
    assert_eq!(host.snapshot(full(&host.root().join("s1"), true)).error, None);
    let _ = host.until(|m| m.guest.timings.contains_key("resumed"));
    assert_eq!(host.halt(5).unwrap().failure, None);
}

#[test]
fn what_changed_since_is_laid_over_what_was_there() {
    let mut host = MachineHost::new("echo");
    host.options.track_dirty_pages = true;
    let host = host.running();
    let dirs = ["s0", "s1", "s2"].map(|name| host.root().join(name));
    for (n, dir) in dirs.iter().enumerate() {
        let kind = if n == 0 { SnapshotKind::Full } else { SnapshotKind::Diff };
        let response = host.snapshot(Snapshot { dir: dir.clone(), kind, resume: n < 2 });
        assert_eq!(response.error, None);
        if n < 2 {
            let _ = host.until(|m| m.state == MachineState::Running);
            assert!(is_echoed(&host), "it goes on in between");
        }
    }
    host.kill().unwrap();
    goes_on(&host, "b2", &dirs[2]);
    let memory = fs::File::open(host.dir().join("memory")).unwrap();
    let byte = |page: u64| {
        let mut byte = [0];
        memory.read_exact_at(&mut byte, page << 20).unwrap();
        byte[0]
    };
    assert_eq!([0, 1, 2, 3].map(byte), [1, 2, 3, 1]);
    assert_eq!(host.body("/snapshot/load")["mem_backend"]["backend_path"], "memory");
    host.delete().unwrap();
    assert!(!host.dir().join("memory").exists());
    // Changes alone are nothing.
    fs::remove_dir_all(&dirs[0]).unwrap();
    assert_eq!(refused(host.start_from("b3", Some(&dirs[2]))).code, ErrorCode::SnapshotInvalid);
}

#[test]
fn a_snapshot_that_cannot_be_made_leaves_nothing_and_the_machine_as_it_was() {
    let mut host = MachineHost::with_fault("echo", Fault::FullDisk);
    // With this one the guest is lost where it is not asked to go on after a failure too.
    host.script.version = "1.16.1".to_owned();
    let host = host.running();
    let dir = host.root().join("s1");
    let full_disk = error(&host, full(&dir, true));
    assert_eq!((full_disk.code, full_disk.retryable), (ErrorCode::DiskFull, true), "{full_disk}");
    assert!(
        !dir.exists()
            && fs::read_dir(host.root())
                .unwrap()
                .flatten()
                .all(|e| !e.file_name().to_string_lossy().starts_with(".tmp-"))
    );
    assert_eq!(host.inspect().unwrap().state, MachineState::Running);
    let _ = host.until(|m| m.guest.timings.contains_key("resumed"));
    assert!(is_echoed(&host));
    for (dir, code) in [
        (host.root().to_owned(), ErrorCode::SnapshotInvalid),
        (PathBuf::from("s1"), ErrorCode::InvalidRequest),
        (host.root().join("x/y"), ErrorCode::FileUnavailable),
    ] {
        assert_eq!(error(&host, full(&dir, true)).code, code);
    }
    let untracked = Snapshot { dir: host.root().join("s2"), kind: SnapshotKind::Diff, resume: true };
    assert_eq!(error(&host, untracked).code, ErrorCode::UnsupportedConfig);
    host.quarantine().unwrap();
    assert_eq!(error(&host, full(&dir, true)).code, ErrorCode::MachineNotRunning);
    host.kill().unwrap();
    assert_eq!(error(&host, full(&dir, true)).code, ErrorCode::MachineNotRunning);
}

#[test]
fn a_machine_goes_on_only_where_everything_is_as_it_was() {
    let host = MachineHost::new("echo").running();
    let dir = taken(&host);
    let differs = |host: &MachineHost, words: &[&str]| {
        let error = refused(host.start_from("b2", Some(&dir)));
        assert_eq!(error.code, ErrorCode::SnapshotIncompatible, "{error}");
        assert!(words.iter().all(|word| error.message.contains(word)), "{error}");
        assert_eq!(host.inspect().unwrap().state, MachineState::Exited, "the boot before is what is known");
    };
    let mut other = host.clone();
    other.script.version = "1.18.0".to_owned();
    other.vcpus = 1;
    differs(&other, &["vmm was Firecracker v1.17.0 and is Firecracker v1.18.0", "vcpus was 2 and is 1"]);
    for (name, text) in [("cpu", "another CPU"), ("host kernel", "5.10.0")] {
        let path = dir.join("manifest.json");
        let manifest = fs::read(&path).unwrap();
        let mut changed: Value = serde_json::from_slice(&manifest).unwrap();
        changed["facts"][name] = json!(text);
        fs::write(&path, changed.to_string()).unwrap();
        differs(&host, &[&format!("{name} was {text} and is ")]);
        fs::write(&path, manifest).unwrap();
    }
    let overlay = fs::File::options().write(true).open(host.root().join("overlay.ext4")).unwrap();
    overlay.write_all_at(b"x", 0).unwrap();
    differs(&host, &["disk overlay was writable, 1048576 bytes"]);
}

#[test]
fn a_snapshot_that_is_torn_is_refused_with_the_part() {
    let host = MachineHost::new("echo").running();
    let dir = taken(&host);
    let memory = fs::File::options().write(true).open(dir.join("memory")).unwrap();
    memory.set_len(5).unwrap();
    let error = refused(host.start_from("b2", Some(&dir)));
    assert_eq!(error.code, ErrorCode::SnapshotInvalid);
    assert!(error.message.contains("memory has 5 bytes, not 134217728"), "{error}");
    // What only Firecracker can see it tells by ending.
    memory.set_len(128 << 20).unwrap();
    let length = fs::metadata(dir.join("state")).unwrap().len();
    fs::write(dir.join("state"), vec![b'x'; usize::try_from(length).unwrap()]).unwrap();
    let error = refused(host.start_from("b2", Some(&dir)));
    assert_eq!(error.code, ErrorCode::SnapshotInvalid);
    assert!(error.details.unwrap().contains("Failed to load the snapshot"));
}

#[test]
fn a_jailed_machine_goes_on_from_a_snapshot_in_another_jail() {
    if !geteuid().is_root() {
        eprintln!("skipped: a_jailed_machine_goes_on_from_a_snapshot_in_another_jail: only root makes jails");
        return;
    }
    let mut host = MachineHost::new("echo");
    host.options.jailer = Some(true);
    host.options.track_dirty_pages = true;
    let host = host.running();
    let dir = taken(&host);
    goes_on(&host, "b2", &dir);
    assert_eq!(host.body("/snapshot/load")["snapshot_path"], "/state");
    assert!(!host.jail().join("snapshot").exists());
    let changes = Snapshot { dir: host.root().join("s2"), kind: SnapshotKind::Diff, resume: false };
    assert_eq!(host.snapshot(changes).error, None);
    host.kill().unwrap();
    host.delete().unwrap();
    assert_eq!(fs::read_dir(host.dir()).unwrap().count(), 0);
    assert!(dir.join("memory").exists(), "the snapshot is not the machine's");
}
