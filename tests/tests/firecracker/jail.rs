//! Machines in a jail. Only root makes jails.

use std::{fs, os::unix::fs::MetadataExt, time::Duration};

use microagent_supervisor_protocol::{ErrorCode, MachineState};
use microagent_tests::firecracker::{JAIL_FILES, MachineHost};
use rustix::process::{Signal, geteuid};

use crate::refused;

const PATIENCE: Duration = Duration::from_secs(120);

fn jailed(guest: &str, test: &str) -> Option<MachineHost> {
    if !geteuid().is_root() {
        eprintln!("skipped: {test}: only root makes jails");
        return None;
    }
    let mut host = MachineHost::new(guest);
    host.options.jailer = Some(true);
    Some(host)
}

#[test]
fn a_jailed_machine_lives_as_any_other_and_as_a_user_of_its_own() {
    let Some(host) = jailed("echo", "a_jailed_machine_lives_as_any_other_and_as_a_user_of_its_own") else { return };
    let host = host.running();
    let vmm = host.vmm();
    let user = fs::metadata(format!("/proc/{}", vmm.pid)).unwrap().uid();
    assert!(user >= 0x7000_0000, "{user}");
    let args = host.jailer_args();
    let expected = [
        "--id",
        "u-1",
        "--exec-file",
        host.root().join("firecracker").to_str().unwrap(),
        "--uid",
        &user.to_string(),
        "--gid",
        &user.to_string(),
        "--chroot-base-dir",
        "jail",
    ]
    .map(str::to_owned);
    assert_eq!(args[..expected.len()], expected);
    let end = args.iter().position(|arg| arg == "--").unwrap();
    assert_eq!(args[end..], ["--", "--api-sock", "/api.sock", "--level", "Off"]);
    assert!(args.iter().all(|arg| arg != "--no-seccomp" && arg != "--daemonize" && arg != "--new-pid-ns"));
    for name in JAIL_FILES {
        assert!(host.jail().join(name).exists(), "{name}");
    }
    assert_eq!(host.body("/boot-source")["kernel_image_path"], "/kernel");
    assert_eq!(host.body("/drives/disk1")["path_on_host"], "/disk1");
    assert_eq!(host.body("/vsock")["uds_path"], "/guest.sock");
    host.pause().unwrap();
    assert_eq!(host.resume().unwrap().state, MachineState::Running);
    assert!(host.connect().is_ok());
    let machine = host.halt(5).unwrap();
    assert_eq!((machine.state, machine.failure), (MachineState::Exited, None));
}

#[test]
fn what_is_shared_keeps_its_owner_and_what_is_the_machines_own_becomes_its_users() {
    let Some(host) = jailed("stay", "what_is_shared_keeps_its_owner_and_what_is_the_machines_own_becomes_its_users")
    else {
        return;
    };
    fs::set_permissions(host.root().join("initrd"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let owners = |name: &str| fs::metadata(host.root().join(name)).unwrap().uid();
    let before = ["base.ext4", "vmlinux", "initrd"].map(owners);
    let host = host.clone().running();
    assert_eq!(["base.ext4", "vmlinux", "initrd"].map(owners), before);
    assert!(owners("overlay.ext4") >= 0x7000_0000);
    // What is shown inside is not there for anybody else.
    assert_eq!(fs::metadata(host.jail().join("disk0")).unwrap().len(), 0);
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(host.root().to_str().unwrap()), "{mounts}");
    host.delete().unwrap();
    assert_eq!(fs::read_dir(host.dir()).unwrap().count(), 0, "the jail is gone");
}

#[test]
fn a_killed_shim_takes_a_jailed_machine_along_although_it_is_another_users() {
    let Some(host) = jailed("stay", "a_killed_shim_takes_a_jailed_machine_along_although_it_is_another_users") else {
        return;
    };
    let host = host.running();
    let (shim, outer, vmm) = (host.process("shim"), host.process("vmm"), host.vmm());
    assert_ne!(outer.pid, vmm.pid);
    shim.signal(Signal::KILL).unwrap();
    for process in [shim, outer, vmm] {
        assert!(process.wait_gone(PATIENCE).unwrap());
    }
    let machine = host.inspect().unwrap();
    assert_eq!((machine.state, machine.failure.unwrap().code), (MachineState::Exited, ErrorCode::ShimLost));
}

#[test]
fn each_process_between_the_shim_and_a_jailed_vmm_ends_it_and_the_machine_is_told_as_ended() {
    let Some(host) =
        jailed("stay", "each_process_between_the_shim_and_a_jailed_vmm_ends_it_and_the_machine_is_told_as_ended")
    else {
        return;
    };
    for (n, which) in ["vmm", "inner", "outer"].iter().enumerate() {
        host.start(&format!("b{n}")).unwrap();
        let _ = host.until(|m| m.state == MachineState::Running);
        let (outer, vmm) = (host.process("vmm"), host.vmm());
        let parent = fs::read_to_string(format!("/proc/{}/stat", vmm.pid)).unwrap();
        let parent = parent.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap().parse().unwrap();
        let inner = microagent_base::process::ProcessId::of(parent).unwrap();
        let victim = match *which {
            "vmm" => vmm,
            "inner" => inner,
            _ => outer,
        };
        victim.signal(Signal::KILL).unwrap();
        let failure = host.ended().failure.unwrap();
        assert_eq!(failure.code, ErrorCode::VmmFailed, "{which}");
        assert!(failure.message.contains("signal: 9"), "{which}: {}", failure.message);
        for process in [outer, inner, vmm] {
            assert!(process.wait_gone(PATIENCE).unwrap(), "{which}");
        }
    }
}

#[test]
fn an_old_firecracker_is_stopped_behind_its_jail() {
    let Some(mut host) = jailed("echo", "an_old_firecracker_is_stopped_behind_its_jail") else { return };
    (host.script.version, host.script.jailer_version) = ("1.16.1".to_owned(), "1.16.1".to_owned());
    let host = host.running();
    host.pause().unwrap();
    assert!(host.vmm().is_stopped().unwrap());
    host.resume().unwrap();
    assert!(host.connect().is_ok());
}

#[test]
fn a_jail_that_is_asked_for_is_never_left_out() {
    let Some(mut host) = jailed("stay", "a_jail_that_is_asked_for_is_never_left_out") else { return };
    host.script.jailer_version = "1.16.0".to_owned();
    let error = refused(host.start("b1"));
    assert_eq!(error.code, ErrorCode::UnsupportedConfig);
    assert!(error.message.contains("which is not the jailer of Firecracker v1.17.0"), "{error}");
    // Where it is not asked for, it is left out, and `check` says so.
    host.options.jailer = None;
    let host = host.running();
    assert_eq!(host.body("/vsock")["uds_path"], "guest.sock");
    let checks = host.supervisor().check(None, PATIENCE).unwrap();
    let check = checks.iter().find(|check| check.name == "Jailer").unwrap();
    assert!(check.message.contains("without a jail") && check.remediation.is_some(), "{check:?}");
}

#[test]
fn a_machine_that_root_starts_is_jailed_where_nothing_else_is_asked_for() {
    let Some(mut host) = jailed("stay", "a_machine_that_root_starts_is_jailed_where_nothing_else_is_asked_for") else {
        return;
    };
    host.options.jailer = None;
    let host = host.running();
    assert_eq!(host.body("/vsock")["uds_path"], "/guest.sock");
}
