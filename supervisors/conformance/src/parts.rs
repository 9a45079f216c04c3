//! What a machine is made of.

use std::{fs, io, path::Path};

use microagent_guest_protocol::{Config, Process};
use microagent_supervisor_protocol::{Disk, Kernel, KernelFormat, MachineConfig, OUTPUT_BYTES};

/// Gives each check the parts of its machine.
pub trait Parts {
    /// A machine whose files are in this directory, which is the machine's alone. Whoever has real guests makes it boot.
    ///
    /// # Errors
    /// When the files cannot be made.
    fn config(&self, dir: &Path) -> io::Result<MachineConfig>;

    /// What its guest is told: a workload that runs until it is asked to end.
    fn guest(&self, boot_id: &str) -> Config;
}

/// Parts for supervisors without guests: files that are there and mean nothing.
#[derive(Clone, Copy, Debug)]
pub struct Placeholders;

impl Parts for Placeholders {
    fn config(&self, dir: &Path) -> io::Result<MachineConfig> {
        for name in ["kernel", "initramfs", "disk"] {
            fs::write(dir.join(name), name)?;
        }
        Ok(MachineConfig {
            vcpus: 1,
            memory_mib: 128,
            kernel: Kernel { path: dir.join("kernel"), format: KernelFormat::Elf, args: Vec::new() },
            initramfs: dir.join("initramfs"),
            disks: vec![Disk { id: "disk".to_owned(), path: dir.join("disk"), read_only: false }],
            boot_timeout_ms: 120_000,
            log_bytes: 1024 * 1024,
            output_bytes: OUTPUT_BYTES,
            qemu: None,
            firecracker: None,
            apple_vf: None,
        })
    }

    fn guest(&self, boot_id: &str) -> Config {
        Config::new(boot_id, Process::new(vec!["stay".to_owned()]))
    }
}
