//! Telling a fresh Firecracker what its machine is, and starting it.

use std::{path::Path, time::Duration};

use microagent_shim::{GUEST_SOCKET, LOGGER, METRICS_PIPE};
use microagent_supervisor_protocol::{ErrorBody, ErrorCode, MachineConfig};

use crate::{
    api::{Api, ApiError, PATIENCE},
    disks, kernel_args,
    plan::{API_SOCKET, GUEST_CID, Notes, Part, drive_id},
    request::{
        Action, Balloon, BootSource, Drive, EntropyDevice, InstanceActionInfo, Logger, MachineConfiguration, Metrics,
        Vsock,
    },
};

/// How long the start may take: the kernel is read from the disk, and the guest's memory is mapped.
const START: Duration = Duration::from_secs(30);

/// How Firecracker begins what it says of a kernel that it cannot load. It has no codes.
const KERNEL_FAULT: &str = "Cannot load kernel";

/// Boots the machine. Nothing runs before the last request.
pub(crate) fn boot(notes: &Notes, config: &MachineConfig) -> Result<(), ErrorBody> {
    let mut api = Api::connect(Path::new(API_SOCKET))?;
    watch(&mut api, notes)?;
    let options = config.firecracker.clone().unwrap_or_default();
    let machine = MachineConfiguration {
        vcpu_count: config.vcpus,
        mem_size_mib: config.memory_mib,
        smt: false,
        track_dirty_pages: options.track_dirty_pages,
    };
    api.put("/machine-config", &machine, PATIENCE)?;
    let source = BootSource {
        kernel_image_path: &notes.part(Part::Kernel, &config.kernel.path),
        initrd_path: &notes.part(Part::Initramfs, &config.initramfs),
        boot_args: &kernel_args::command_line(&config.kernel.args),
    };
    api.put("/boot-source", &source, PATIENCE).map_err(kernel_fault)?;
    // The order of these is the order in the guest.
    for (n, disk) in config.disks.iter().enumerate() {
        let choice = disks::choice(config, disk);
        let drive = Drive {
            drive_id: drive_id(n),
            path_on_host: &notes.part(Part::Disk(n), &disk.path),
            is_root_device: false,
            is_read_only: disk.read_only,
            cache_type: choice.cache,
            io_engine: choice.engine,
            rate_limiter: choice.rate,
        };
        api.put(&format!("/drives/{}", drive.drive_id), &drive, PATIENCE)?;
    }
    if let Some(amount_mib) = options.balloon_mib {
        api.put("/balloon", &Balloon { amount_mib, deflate_on_oom: true }, PATIENCE)?;
    }
    // A guest without entropy of its own waits for it at the first key it makes.
    api.put("/entropy", &EntropyDevice {}, PATIENCE)?;
    api.put("/vsock", &Vsock { guest_cid: GUEST_CID, uds_path: &notes.file(GUEST_SOCKET) }, PATIENCE)?;
    act(&mut api, Action::InstanceStart, START).map_err(kernel_fault)?;
    flush_metrics(&mut api);
    Ok(())
}

/// Has Firecracker log and tell its metrics where the shim reads them, before anything else is said: its log would go to the console.
pub(crate) fn watch(api: &mut Api, notes: &Notes) -> Result<(), ErrorBody> {
    let logger = Logger { log_path: &notes.file(LOGGER), level: "Warning", show_level: true };
    api.put("/logger", &logger, PATIENCE)?;
    api.put("/metrics", &Metrics { metrics_path: &notes.file(METRICS_PIPE) }, PATIENCE)?;
    Ok(())
}

/// The first metrics would come a minute after the start.
pub(crate) fn flush_metrics(api: &mut Api) {
    if let Err(e) = act(api, Action::FlushMetrics, PATIENCE) {
        eprintln!("Firecracker does not tell its metrics yet: {e}");
    }
}

pub(crate) fn act(api: &mut Api, action_type: Action, patience: Duration) -> Result<(), ApiError> {
    api.put("/actions", &InstanceActionInfo { action_type }, patience)
}

fn kernel_fault(error: ApiError) -> ErrorBody {
    match &error {
        ApiError::Refused { what, fault } if what == "PUT /boot-source" || fault.contains(KERNEL_FAULT) => {
            ErrorBody::new(
                ErrorCode::KernelRefused,
                format!("Firecracker refuses the kernel or the initramfs: {fault}"),
            )
        }
        _ => error.into(),
    }
}
