//! QEMU's command line. No I/O.

use std::path::Path;

use microagent_supervisor_protocol::{Accelerator, MachineConfig, QemuMachine};
use serde_json::json;

use crate::{host::Vsock, kernel_args, tsc::Tsc};

/// The Unix socket between QEMU and the program that serves vsock, in the machine's directory.
pub(crate) const VHOST_SOCKET: &str = "vhost.sock";

/// The Unix socket by which QEMU is told to pause and to run on, in the machine's directory.
pub(crate) const QMP_SOCKET: &str = "qmp.sock";

/// What one start is made of.
pub(crate) struct Plan<'a> {
    pub(crate) uid: &'a str,
    pub(crate) config: &'a MachineConfig,
    pub(crate) machine: QemuMachine,
    pub(crate) accelerator: Accelerator,
    pub(crate) tsc: Option<Tsc>,
    pub(crate) vsock: &'a Vsock,
    pub(crate) cid: u32,
}

/// All arguments of QEMU.
pub(crate) fn arguments(plan: &Plan<'_>) -> Vec<String> {
    let config = plan.config;
    let (machine, bus) = match plan.machine {
        // auto-kernel-cmdline would describe the devices on the command line; the kernel finds them through ACPI, and two
        // descriptions make each device appear twice. Without rtc the kernel waits two seconds for a clock.
        QemuMachine::Microvm => ("microvm,acpi=on,rtc=on,isa-serial=on,auto-kernel-cmdline=off", "device"),
        QemuMachine::Q35 => ("q35,acpi=on", "pci"),
    };
    let (accelerator, cpu) = match plan.accelerator {
        Accelerator::Kvm => ("kvm", "host"),
        Accelerator::Tcg | Accelerator::Hvf => ("tcg", "max"),
    };
    let mut args = Args::default();
    args.flags(["-nodefaults", "-no-user-config", "-no-reboot"]);
    args.pair("-name", format!("microagent-{}", plan.uid));
    args.pair("-display", "none");
    args.pair("-monitor", "none");
    args.pair("-parallel", "none");
    args.pair("-qmp", format!("unix:{QMP_SOCKET},server=on,wait=off"));
    // What a QEMU that its guest has taken over must not do: change user, start programs, change limits.
    args.pair("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    // A program that serves vsock reads and writes the guest's memory.
    args.pair("-machine", format!("{machine},memory-backend=memory"));
    args.pair("-object", format!("memory-backend-memfd,id=memory,size={}M,share=on", config.memory_mib));
    args.pair("-m", format!("{}M", config.memory_mib));
    args.pair("-accel", accelerator);
    args.pair("-cpu", cpu);
    args.pair("-smp", config.vcpus.to_string());
    args.pair("-kernel", text(&config.kernel.path));
    args.pair("-initrd", text(&config.initramfs));
    args.pair("-append", kernel_args::command_line(plan.accelerator, plan.tsc, &config.kernel.args));
    args.pair("-chardev", "stdio,id=console,signal=off");
    args.pair("-serial", "chardev:console");
    // The order of these is the order in the guest, on MMIO as on PCI. MMIO devices get no bus of ours: QEMU gives them out
    // from the last, whose interrupts are free, and the first ones' are not.
    for (n, disk) in config.disks.iter().enumerate() {
        // A read-only disk is shared by machines; QEMU's locks would refuse that where another program has it open for writing.
        let locking = if disk.read_only { "off" } else { "auto" };
        let file =
            json!({"driver": "file", "filename": text(&disk.path), "locking": locking, "read-only": disk.read_only});
        let node = json!({
            "driver": "raw", "node-name": format!("disk{n}"), "read-only": disk.read_only, "discard": "unmap", "file": file,
        });
        args.pair("-blockdev", node.to_string());
        args.pair("-device", format!("virtio-blk-{bus},drive=disk{n}"));
    }
    match plan.vsock {
        Vsock::Kernel => args.pair("-device", format!("vhost-vsock-{bus},guest-cid={}", plan.cid)),
        Vsock::Program(_) => {
            args.pair("-chardev", format!("socket,id=vsock,path={VHOST_SOCKET}"));
            args.pair("-device", format!("vhost-user-vsock-{bus},chardev=vsock"));
        }
    }
    // A guest without entropy of its own waits for it at the first key it makes.
    args.pair("-object", "rng-builtin,id=rng");
    args.pair("-device", format!("virtio-rng-{bus},rng=rng"));
    args.0
}

/// All arguments of the program that serves vsock.
pub(crate) fn vsock_arguments(cid: u32) -> Vec<String> {
    let mut args = Args::default();
    args.pair("--guest-cid", cid.to_string());
    args.pair("--socket", VHOST_SOCKET);
    args.pair("--uds-path", microagent_shim::GUEST_SOCKET);
    args.0
}

#[derive(Default)]
struct Args(Vec<String>);

impl Args {
    fn flags<const N: usize>(&mut self, flags: [&str; N]) {
        self.0.extend(flags.map(str::to_owned));
    }

    fn pair(&mut self, name: &str, value: impl Into<String>) {
        self.0.extend([name.to_owned(), value.into()]);
    }
}

/// Paths come from JSON, so all of them are text.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
