//! Machines with real guests for the conformance kit: the installed kernel, guest-init, and a disk that holds nothing else.

use std::{
    fs::{self, File},
    io::{self, Cursor},
    path::{Path, PathBuf},
};

use microagent_base::{Digest, Silent};
use microagent_conformance::Parts;
use microagent_controller::{
    find_guest_init,
    world::{bootable, needs, qemu_options},
};
use microagent_crds::Acceleration;
use microagent_guest_protocol::{Config, Process, Root};
use microagent_kernel::{KernelSource, KernelStore};
use microagent_rootfs::{EmptyOptions, Layer, Options};
use microagent_supervisor_protocol::{Capabilities, Disk, MachineConfig, OUTPUT_BYTES};
use tempfile::TempDir;

use crate::{
    context::Context,
    failure::{Failure, Result},
};

/// The writable space of a machine, in bytes.
const OVERLAY: u64 = 16 << 20;

/// Parts of machines whose workload is guest-init itself, waiting for its end.
pub(super) struct Guests {
    config: MachineConfig,
    _dir: TempDir,
}

impl Guests {
    pub(super) fn new(context: &Context, capabilities: &Capabilities, options: Option<&str>) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("microagent-").tempdir()?;
        let store = KernelStore::open(&context.paths.kernels())?;
        let kernel = store.find(&KernelSource::Default, None)?.ok_or_else(|| {
            Failure::new("no kernel is installed for the guests").help("install one with `microagent kernel install`")
        })?;
        let guest_init = find_guest_init().map_err(|fault| Failure::new(fault.message))?;
        let initramfs = store.initramfs(&kernel, &guest_init, needs(&kernel))?;
        let baseline = dir.path().join("baseline.ext4");
        build(&baseline, &guest_init)?;
        let mut config = MachineConfig {
            vcpus: 1,
            memory_mib: 256,
            kernel: bootable(&kernel, capabilities, &[]),
            initramfs: initramfs.path,
            disks: vec![Disk { id: "baseline".to_owned(), path: baseline, read_only: true }],
            boot_timeout_ms: 120_000,
            log_bytes: 1 << 20,
            output_bytes: OUTPUT_BYTES,
            qemu: qemu_options(&kernel, &capabilities.backend, Acceleration::Preferred),
            firecracker: None,
            apple_vf: None,
        };
        if let Some(options) = options {
            set_options(&mut config, &capabilities.backend, options)
                .map_err(|e| Failure::usage(format!("--backend-options for {}: {e}", capabilities.backend)))?;
        }
        Ok(Self { config, _dir: dir })
    }
}

impl Parts for Guests {
    fn config(&self, dir: &Path) -> io::Result<MachineConfig> {
        let path: PathBuf = dir.join("overlay.ext4");
        if !path.exists() {
            let options = EmptyOptions { label: "overlay".to_owned(), ..EmptyOptions::default() };
            let file = File::options().read(true).write(true).create_new(true).open(&path)?;
            microagent_rootfs::format(&file, OVERLAY, &options).map_err(io::Error::other)?;
        }
        let mut config = self.config.clone();
        config.disks.push(Disk { id: "overlay".to_owned(), path, read_only: false });
        Ok(config)
    }

    fn guest(&self, boot_id: &str) -> Config {
        Config {
            root: Root { baseline: 0, overlay: Some(1) },
            ..Config::new(boot_id, Process::new(vec!["/init".to_owned(), "idle".to_owned()]))
        }
    }
}

fn set_options(config: &mut MachineConfig, backend: &str, options: &str) -> serde_json::Result<()> {
    match backend {
        "Qemu" => config.qemu = Some(serde_json::from_str(options)?),
        "Firecracker" => config.firecracker = Some(serde_json::from_str(options)?),
        "AppleVf" => config.apple_vf = Some(serde_json::from_str(options)?),
        _ => return Err(serde::de::Error::custom("this backend has none")),
    }
    Ok(())
}

/// A disk with guest-init as its only file.
fn build(out: &Path, guest_init: &Path) -> Result<()> {
    let program = fs::read(guest_init)?;
    let mut header = tar::Header::new_ustar();
    header.set_size(program.len() as u64);
    header.set_mode(0o755);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, "init", program.as_slice())?;
    let archive = archive.into_inner()?;
    let digest = Digest::of(&archive);
    let layer = Layer { size: archive.len() as u64, blob: Box::new(Cursor::new(archive)), digest, diff_id: digest };
    let file = File::options().read(true).write(true).create_new(true).open(out)?;
    microagent_rootfs::build(vec![layer], &file, &Options::default(), &Silent)
        .map_err(|e| Failure::new(format!("cannot make the guests' disk: {e}")))?;
    Ok(())
}
