//! A machine as the framework is asked for it: checked, and with every choice made.

use std::{fs::File, io, io::Seek, path::PathBuf};

use microagent_supervisor_protocol::{ErrorBody, ErrorCode, MachineConfig};
use serde::{Deserialize, Serialize};

use crate::{framework::Host, kernel, kernel_args};

/// What a disk's size is a multiple of, in bytes: the framework refuses others.
const SECTOR: u64 = 512;

/// What one machine is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Machine {
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory in bytes, whole MiB.
    pub memory_bytes: u64,
    /// The kernel's file.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
    /// What the kernel is told.
    pub command_line: String,
    /// The disks, in the order in which the guest sees them.
    pub disks: Vec<Disk>,
    /// Whether there is a balloon device.
    pub balloon: bool,
}

/// A disk that is a raw file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Disk {
    /// The file.
    pub path: PathBuf,
    /// The guest cannot write to it.
    pub read_only: bool,
    /// What becomes of the guest's flushes.
    pub synchronization: Synchronization,
}

/// What becomes of a guest's flush: `VZDiskImageSynchronizationMode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Synchronization {
    /// It reaches the medium, as `F_FULLFSYNC` of fcntl(2) has it.
    Full,
    /// Nothing: there is nothing to flush.
    None,
}

impl Machine {
    /// The machine that this configuration asks for.
    ///
    /// # Errors
    /// `UnsupportedConfig` for what this host cannot give, `KernelRefused`, and `FileUnavailable`.
    pub fn plan(config: &MachineConfig, host: &Host) -> Result<Self, ErrorBody> {
        let (least, most) = (host.memory_mib.start(), host.memory_mib.end());
        if !host.memory_mib.contains(&config.memory_mib) {
            let message = format!("{} MiB of memory: between {least} and {most} can be had here", config.memory_mib);
            return Err(ErrorBody::new(ErrorCode::UnsupportedConfig, message));
        }
        kernel::check(&config.kernel)?;
        Ok(Self {
            vcpus: config.vcpus,
            memory_bytes: config.memory_mib << 20,
            kernel: config.kernel.path.clone(),
            initramfs: config.initramfs.clone(),
            command_line: kernel_args::command_line(&config.kernel.args),
            disks: config.disks.iter().map(disk).collect::<Result<_, _>>()?,
            balloon: config.apple_vf.is_some_and(|options| options.balloon),
        })
    }
}

fn disk(disk: &microagent_supervisor_protocol::Disk) -> Result<Disk, ErrorBody> {
    let path = &disk.path;
    let size = size(path).map_err(|e| {
        let message = format!("disk {} {}: its size cannot be known: {e}", disk.id, path.display());
        ErrorBody::new(ErrorCode::FileUnavailable, message)
    })?;
    if size == 0 || size % SECTOR != 0 {
        let message = format!(
            "disk {} {}: {size} bytes are no disk here: a raw image has a whole number of {SECTOR}-byte sectors",
            disk.id,
            path.display()
        );
        return Err(ErrorBody::new(ErrorCode::UnsupportedConfig, message));
    }
    // What a guest was told to be on the disk has to be there after a power cut.
    let synchronization = if disk.read_only { Synchronization::None } else { Synchronization::Full };
    Ok(Disk { path: path.clone(), read_only: disk.read_only, synchronization })
}

/// By its end, which devices have too.
fn size(path: &std::path::Path) -> io::Result<u64> {
    File::open(path)?.seek(io::SeekFrom::End(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use microagent_supervisor_protocol::{AppleVfOptions, Disk as Asked, Kernel};

    fn host() -> Host {
        Host { vmm: None, findings: Vec::new(), max_vcpus: 4, memory_mib: 128..=1024 }
    }

    /// A configuration whose files are in this directory.
    fn config(dir: &std::path::Path) -> MachineConfig {
        let files =
            [("kernel", kernel::tests::bootable()), ("initrd", vec![1]), ("a", vec![0; 1024]), ("b", vec![0; 512])];
        for (name, bytes) in files {
            std::fs::write(dir.join(name), bytes).unwrap();
        }
        let disk = |id: &str, read_only| Asked { id: id.to_owned(), path: dir.join(id), read_only };
        MachineConfig {
            vcpus: 2,
            memory_mib: 256,
            kernel: Kernel { path: dir.join("kernel"), format: kernel::FORMAT, args: vec!["quiet".to_owned()] },
            initramfs: dir.join("initrd"),
            disks: vec![disk("a", true), disk("b", false)],
            boot_timeout_ms: 1,
            log_bytes: 1,
            output_bytes: 1,
            qemu: None,
            firecracker: None,
            apple_vf: Some(AppleVfOptions { balloon: true }),
        }
    }

    #[test]
    fn a_machine_is_planned_with_every_choice_made() {
        let dir = tempfile::tempdir().unwrap();
        let machine = Machine::plan(&config(dir.path()), &host()).unwrap();
        let disk =
            |name: &str, read_only, synchronization| Disk { path: dir.path().join(name), read_only, synchronization };
        assert_eq!((machine.vcpus, machine.memory_bytes, machine.balloon), (2, 256 << 20, true));
        assert_eq!(machine.disks, [disk("a", true, Synchronization::None), disk("b", false, Synchronization::Full)]);
        assert!(machine.command_line.starts_with("console=hvc0 ") && machine.command_line.ends_with(" quiet"));
        let usual = MachineConfig { apple_vf: None, ..config(dir.path()) };
        assert!(!Machine::plan(&usual, &host()).unwrap().balloon);
    }

    #[test]
    fn what_this_host_cannot_give_is_refused_and_says_what_it_can() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |change: &dyn Fn(&mut MachineConfig)| {
            let mut config = config(dir.path());
            change(&mut config);
            let error = Machine::plan(&config, &host()).unwrap_err();
            (error.code, error.message)
        };
        let (code, message) = refused(&|config| config.memory_mib = 2048);
        assert_eq!(code, ErrorCode::UnsupportedConfig);
        assert!(message.contains("between 128 and 1024"), "{message}");
        for length in [0, 513] {
            let (code, message) = refused(&|config| std::fs::write(&config.disks[1].path, vec![0; length]).unwrap());
            assert_eq!(code, ErrorCode::UnsupportedConfig);
            assert!(message.contains("disk b"), "{message}");
        }
        assert_eq!(refused(&|config| config.disks[0].path.push("none")).0, ErrorCode::FileUnavailable);
        assert_eq!(refused(&|config| std::fs::write(&config.kernel.path, "x").unwrap()).0, ErrorCode::KernelRefused);
    }
}
