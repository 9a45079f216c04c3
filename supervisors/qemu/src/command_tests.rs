use super::*;
use microagent_supervisor_protocol::{Disk, Kernel, KernelFormat};

fn config() -> MachineConfig {
    let disk = |id: &str, path: &str, read_only| Disk { id: id.to_owned(), path: path.into(), read_only };
    MachineConfig {
        vcpus: 2,
        memory_mib: 512,
        kernel: Kernel { path: "/k/vmlinux".into(), format: KernelFormat::Elf, args: vec!["quiet".to_owned()] },
        initramfs: "/k/initramfs".into(),
        disks: vec![disk("baseline", "/d/a,b \"c\".ext4", true), disk("overlay", "/d/overlay.ext4", false)],
        boot_timeout_ms: 1000,
        log_bytes: 1000,
        output_bytes: 1000,
        qemu: None,
        firecracker: None,
        apple_vf: None,
    }
}

fn lines(machine: QemuMachine, accelerator: Accelerator, vsock: &Vsock) -> String {
    let config = config();
    let plan = Plan {
        uid: "u-1",
        config: &config,
        machine,
        accelerator,
        tsc: Some(Tsc { khz: 2_000_000, steady: true }),
        vsock,
        cid: 77,
    };
    let mut text = String::new();
    for argument in arguments(&plan) {
        let separator = if argument.starts_with('-') && !text.is_empty() { "\n" } else { " " };
        text += separator;
        text += &argument;
    }
    text.trim().to_owned()
}

#[test]
fn a_translated_microvm_with_a_vsock_program() {
    insta::assert_snapshot!(lines(QemuMachine::Microvm, Accelerator::Tcg, &Vsock::Program("/v".into())));
}

#[test]
fn a_q35_with_kvm_and_the_kernels_vsock() {
    insta::assert_snapshot!(lines(QemuMachine::Q35, Accelerator::Kvm, &Vsock::Kernel));
}

#[test]
fn the_vsock_program_serves_the_socket_that_the_shim_alone_connects_to() {
    assert_eq!(vsock_arguments(5), ["--guest-cid", "5", "--socket", "vhost.sock", "--uds-path", "guest.sock"]);
}
