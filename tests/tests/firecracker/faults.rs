//! What goes wrong: each has its code, says why, and leaves nothing behind.

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
};

use microagent_supervisor_protocol::{
    CheckStatus, ErrorBody, ErrorCode, FirecrackerDisk, KernelFormat, MachineState, PROTOCOL, QemuOptions, Response,
};
use microagent_tests::{
    firecracker::{Fault, MachineHost},
    host::bin_dir,
};

use crate::refused;

/// A start that must fail, and leave no machine.
fn fails(host: &MachineHost) -> ErrorBody {
    let error = refused(host.start("b1"));
    assert_eq!(host.inspect().unwrap().state, MachineState::Absent, "{error}");
    let processes: Vec<_> = processes(host);
    assert_eq!(processes, Vec::<String>::new(), "{error}");
    error
}

/// The processes that name the host's directory.
fn processes(host: &MachineHost) -> Vec<String> {
    let root = host.root().to_str().unwrap().to_owned();
    let lines =
        fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).filter(|line| line.contains(&root)).collect()
}

#[test]
fn a_firecracker_that_cannot_start_is_told_with_its_own_words() {
    let error = fails(&MachineHost::with_fault("stay", Fault::Dies));
    assert_eq!(error.code, ErrorCode::VmmFailed);
    assert!(error.message.contains("ended with exit status: 1"), "{error}");
    assert!(error.details.unwrap().contains("no memory for you"));
}

#[test]
fn a_firecracker_whose_socket_never_comes_is_given_up() {
    let error = fails(&MachineHost::with_fault("stay", Fault::NoSocket));
    assert_eq!(error.code, ErrorCode::VmmFailed);
    assert!(error.message.contains("was not ready within"), "{error}");
}

#[test]
fn a_firecracker_that_ends_while_it_is_told_is_noticed_at_once() {
    let error = fails(&MachineHost::with_fault("stay", Fault::DiesConfigured));
    assert_eq!(error.code, ErrorCode::VmmFailed);
    assert!(error.message.contains("it hung up on PUT /drives/disk0"), "{error}");
    assert!(error.details.unwrap().contains("killed by a bad drive"));
}

#[test]
fn a_kernel_that_firecracker_refuses_is_told_in_its_words() {
    let error = fails(&MachineHost::with_fault("stay", Fault::RefusesKernel));
    assert_eq!((error.code, error.retryable), (ErrorCode::KernelRefused, false));
    assert!(error.message.contains("Cannot load kernel"), "{error}");
}

#[test]
fn a_slow_firecracker_is_waited_for_and_a_mute_one_is_not() {
    let host = MachineHost::with_fault("stay", Fault::Slow).running();
    assert_eq!(host.halt(5).unwrap().failure, None);
    let error = fails(&MachineHost::with_fault("stay", Fault::Mute));
    assert!(error.message.contains("does not answer PUT /logger within"), "{error}");
}

#[test]
fn half_an_answer_and_no_answer_of_http_are_told_as_that() {
    let error = fails(&MachineHost::with_fault("stay", Fault::HalfAnAnswer));
    assert!(error.message.contains("it hung up on PUT /logger"), "{error}");
    let error = fails(&MachineHost::with_fault("stay", Fault::Babbles));
    assert!(error.message.contains("its answer to PUT /logger is not one"), "{error}");
}

#[test]
fn a_failed_start_does_not_hinder_the_next_one() {
    let mut host = MachineHost::with_fault("stay", Fault::RefusesKernel);
    fails(&host);
    host.script.fault = None;
    host.start("b1").unwrap();
    let _ = host.until(|m| m.state == MachineState::Running);
}

#[test]
fn a_panic_and_a_silent_guest_have_their_own_codes() {
    let host = MachineHost::new("dead-kernel");
    host.start("b1").unwrap();
    let failure = host.ended().failure.unwrap();
    assert_eq!(failure.code, ErrorCode::GuestPanic);
    assert!(failure.message.contains("No working init found"), "{failure}");
    let mut host = MachineHost::new("silent");
    host.boot_timeout_ms = 200;
    host.start("b1").unwrap();
    assert_eq!(host.ended().failure.unwrap().code, ErrorCode::GuestTimeout);
}

#[test]
fn a_guest_that_breaks_the_protocol_is_ended() {
    for mode in ["garbage", "huge", "disorder"] {
        let host = MachineHost::new(mode);
        host.start("b1").unwrap();
        assert_eq!(host.ended().failure.unwrap().code, ErrorCode::GuestProtocol, "{mode}");
    }
}

#[test]
fn a_kernel_that_cannot_boot_is_refused_before_anything_is_started() {
    let mut host = MachineHost::new("stay");
    host.kernel.format = KernelFormat::BzImage;
    let error = fails(&host);
    assert_eq!(error.code, ErrorCode::KernelRefused);
    assert!(error.message.contains("microagent kernel install"), "{error}");
    host.kernel.format = KernelFormat::Elf;
    fs::write(&host.kernel.path, b"not a kernel").unwrap();
    assert_eq!(fails(&host).code, ErrorCode::KernelRefused);
    assert_eq!(host.asked(), [], "Firecracker was not asked");
    let checks = host.supervisor().check(Some(host.config()), std::time::Duration::from_secs(60)).unwrap();
    assert!(checks.iter().any(|c| c.name == "Config" && c.status == CheckStatus::Failed));
}

#[test]
fn what_firecracker_cannot_do_is_refused() {
    let disk = |id: &str, bytes_per_second| FirecrackerDisk {
        id: id.to_owned(),
        cache: None,
        io_engine: None,
        bytes_per_second,
        operations_per_second: None,
    };
    let refused_for = |change: &dyn Fn(&mut MachineHost), word: &str| {
        let mut host = MachineHost::new("stay");
        change(&mut host);
        let error = fails(&host);
        assert_eq!(error.code, ErrorCode::UnsupportedConfig, "{error}");
        assert!(error.message.contains(word), "{error}");
    };
    refused_for(&|host| host.vcpus = 33, "between 1 and 32");
    refused_for(&|host| host.options.balloon_mib = Some(100), "balloon of 100 MiB");
    refused_for(&|host| host.options.disks = vec![disk("data", None)], "\"data\", which the machine does not have");
    refused_for(&|host| host.options.disks = vec![disk("overlay", Some(0))], "a rate of 0");
    refused_for(&|host| host.options.disks = vec![disk("overlay", None), disk("overlay", None)], "twice");
    let host = MachineHost::new("stay");
    let config = microagent_supervisor_protocol::MachineConfig { qemu: Some(QemuOptions::default()), ..host.config() };
    let error = refused(host.supervisor().prepare(host.target(), config, std::time::Duration::from_secs(60)));
    assert_eq!(error.code, ErrorCode::UnsupportedConfig);
}

#[test]
fn a_firecracker_that_is_not_there_too_old_or_another_program_is_told_apart() {
    let mut host = MachineHost::new("stay");
    for (version, code) in
        [("1.15.1", ErrorCode::VmmUnsuitable), ("1.9.0", ErrorCode::VmmUnsuitable), ("x", ErrorCode::VmmUnsuitable)]
    {
        host.script.version = version.to_owned();
        let error = fails(&host);
        assert_eq!(error.code, code, "{error}");
        assert!(error.message.contains(version), "{error}");
    }
    let capabilities = host.supervisor().capabilities(std::time::Duration::from_secs(60)).unwrap();
    assert!(capabilities.accelerators.is_empty() && capabilities.accelerator_reason.is_some());
    fs::remove_file(host.root().join("firecracker")).unwrap();
    assert_eq!(fails(&host).code, ErrorCode::VmmNotFound);
}

#[test]
fn what_another_backend_learnt_of_kvm_is_not_tried_again() {
    let host = MachineHost::new("stay");
    let root = host.root();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let learnt = serde_json::json!({ "hostBootId": boot.trim(), "kvmBroken": "its guests never say a word" });
    fs::write(root.join("host.json"), learnt.to_string()).unwrap();
    let told = Command::new(bin_dir().join("microagent-supervisor-firecracker"))
        .env("MICROAGENT_FIRECRACKER", root.join("firecracker"))
        .env("MICROAGENT_RUNTIME_DIR", root)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .and_then(|mut supervisor| {
            let request = serde_json::json!({ "protocol": PROTOCOL, "verb": "capabilities" });
            supervisor.stdin.take().unwrap().write_all(request.to_string().as_bytes())?;
            supervisor.wait_with_output()
        })
        .unwrap();
    let response: Response = serde_json::from_slice(&told.stdout).unwrap();
    let capabilities = response.capabilities.unwrap();
    assert_eq!(capabilities.accelerators, []);
    assert!(capabilities.accelerator_reason.unwrap().contains("its guests never say a word"));
}
