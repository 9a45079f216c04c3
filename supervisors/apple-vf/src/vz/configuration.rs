//! A machine in the framework's terms.

use std::path::Path;

use microagent_supervisor_protocol::{ErrorBody, ErrorCode};
use objc2::{AnyThread, rc::Retained};
use objc2_foundation::{NSArray, NSFileHandle, NSString, NSURL};
use objc2_virtualization::{
    VZDiskImageCachingMode, VZDiskImageStorageDeviceAttachment, VZDiskImageSynchronizationMode,
    VZEntropyDeviceConfiguration, VZFileHandleSerialPortAttachment, VZGenericPlatformConfiguration, VZLinuxBootLoader,
    VZMemoryBalloonDeviceConfiguration, VZSerialPortConfiguration, VZSocketDeviceConfiguration,
    VZStorageDeviceConfiguration, VZVirtioBlockDeviceConfiguration, VZVirtioConsoleDeviceSerialPortConfiguration,
    VZVirtioEntropyDeviceConfiguration, VZVirtioSocketDeviceConfiguration,
    VZVirtioTraditionalMemoryBalloonDeviceConfiguration, VZVirtualMachineConfiguration,
};

use super::words;
use crate::machine::{Disk, Machine, Synchronization};

/// The descriptor of the console: the shim reads what the VMM prints there.
const STDOUT: i32 = 1;

/// The configuration, which the framework has found to be good.
pub(super) fn of(machine: &Machine) -> Result<Retained<VZVirtualMachineConfiguration>, ErrorBody> {
    let disks = machine.disks.iter().map(disk).collect::<Result<Vec<_>, _>>()?;
    // SAFETY: each object is new and of this thread alone until it is given away; each setter is given an object of the class that its
    // header names.
    let checked = unsafe {
        let configuration = VZVirtualMachineConfiguration::new();
        configuration.setPlatform(&VZGenericPlatformConfiguration::new());
        configuration.setBootLoader(Some(&boot_loader(machine)));
        configuration.setCPUCount(machine.vcpus as usize);
        configuration.setMemorySize(machine.memory_bytes);
        configuration.setStorageDevices(&NSArray::from_retained_slice(&disks));
        configuration.setSerialPorts(&NSArray::from_retained_slice(&[console()]));
        // A guest without entropy of its own waits for it at the first key it makes.
        let entropy: Retained<VZEntropyDeviceConfiguration> = VZVirtioEntropyDeviceConfiguration::new().into_super();
        configuration.setEntropyDevices(&NSArray::from_retained_slice(&[entropy]));
        let socket: Retained<VZSocketDeviceConfiguration> = VZVirtioSocketDeviceConfiguration::new().into_super();
        configuration.setSocketDevices(&NSArray::from_retained_slice(&[socket]));
        if machine.balloon {
            let balloon: Retained<VZMemoryBalloonDeviceConfiguration> =
                VZVirtioTraditionalMemoryBalloonDeviceConfiguration::new().into_super();
            configuration.setMemoryBalloonDevices(&NSArray::from_retained_slice(&[balloon]));
        }
        configuration.validateWithError().map(|()| configuration)
    };
    checked.map_err(|e| {
        let message = format!("Virtualization.framework refuses the machine: {}", words(&e));
        ErrorBody::new(ErrorCode::UnsupportedConfig, message)
    })
}

unsafe fn boot_loader(machine: &Machine) -> Retained<VZLinuxBootLoader> {
    // SAFETY: as in `of`.
    unsafe {
        let loader = VZLinuxBootLoader::initWithKernelURL(VZLinuxBootLoader::alloc(), &url(&machine.kernel));
        loader.setInitialRamdiskURL(Some(&url(&machine.initramfs)));
        loader.setCommandLine(&NSString::from_str(&machine.command_line));
        loader
    }
}

unsafe fn console() -> Retained<VZSerialPortConfiguration> {
    let stdout = NSFileHandle::initWithFileDescriptor(NSFileHandle::alloc(), STDOUT);
    // SAFETY: as in `of`. The descriptor is open as long as this process.
    unsafe {
        let attachment = VZFileHandleSerialPortAttachment::initWithFileHandleForReading_fileHandleForWriting(
            VZFileHandleSerialPortAttachment::alloc(),
            None,
            Some(&stdout),
        );
        let port = VZVirtioConsoleDeviceSerialPortConfiguration::new();
        port.setAttachment(Some(&attachment));
        port.into_super()
    }
}

fn disk(disk: &Disk) -> Result<Retained<VZStorageDeviceConfiguration>, ErrorBody> {
    let synchronization = match disk.synchronization {
        Synchronization::Full => VZDiskImageSynchronizationMode::Full,
        Synchronization::None => VZDiskImageSynchronizationMode::None,
    };
    // SAFETY: as in `of`.
    let attached = unsafe {
        VZDiskImageStorageDeviceAttachment::initWithURL_readOnly_cachingMode_synchronizationMode_error(
            VZDiskImageStorageDeviceAttachment::alloc(),
            &url(&disk.path),
            disk.read_only,
            // With what the framework chooses by itself, Linux guests have found their file systems damaged.
            VZDiskImageCachingMode::Cached,
            synchronization,
        )
    };
    let attachment = attached.map_err(|e| {
        let message = format!("disk {}: Virtualization.framework does not take it: {}", disk.path.display(), words(&e));
        ErrorBody::new(ErrorCode::FileUnavailable, message)
    })?;
    // SAFETY: as in `of`.
    let device = unsafe {
        VZVirtioBlockDeviceConfiguration::initWithAttachment(VZVirtioBlockDeviceConfiguration::alloc(), &attachment)
    };
    Ok(device.into_super())
}

/// Paths come from JSON, so all of them are text.
fn url(path: &Path) -> Retained<NSURL> {
    NSURL::initFileURLWithPath(NSURL::alloc(), &NSString::from_str(&path.to_string_lossy()))
}
