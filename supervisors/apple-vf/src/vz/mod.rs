//! Apple's Virtualization.framework itself.
#![allow(unsafe_code, reason = "all bindings of the framework are unsafe functions")]

mod configuration;
mod delegate;
mod entitlement;
mod machine;

use std::sync::mpsc::Sender;

use microagent_supervisor_protocol::{ErrorBody, ErrorCode};
use objc2_foundation::{NSError, NSProcessInfo};
use objc2_virtualization::{VZVirtualMachine, VZVirtualMachineConfiguration};

use crate::{
    framework::{End, Finding, Framework, Host, VirtualMachine},
    machine::Machine,
};

/// The first macOS that has all that is called here: the modes of disk images, and `stop`.
const MIN_MACOS: isize = 12;

struct AppleFramework;

/// The framework of this host.
#[must_use]
pub fn host() -> &'static dyn Framework {
    &AppleFramework
}

impl Framework for AppleFramework {
    fn host(&self) -> Host {
        let version = NSProcessInfo::processInfo().operatingSystemVersion();
        let name = format!("macOS {}.{}.{}", version.majorVersion, version.minorVersion, version.patchVersion);
        let vmm = format!("Virtualization.framework of {name}");
        // SAFETY: these only tell bounds.
        let (cpus, least, most) = unsafe {
            (
                VZVirtualMachineConfiguration::maximumAllowedCPUCount(),
                VZVirtualMachineConfiguration::minimumAllowedMemorySize(),
                VZVirtualMachineConfiguration::maximumAllowedMemorySize(),
            )
        };
        Host {
            findings: vec![
                Finding { name: "Framework", found: new_enough(version.majorVersion, &name).map(|()| vmm.clone()) },
                Finding { name: "Hypervisor", found: supported() },
                Finding { name: "Entitlement", found: entitlement::held() },
            ],
            vmm: Some(vmm),
            max_vcpus: u32::try_from(cpus).unwrap_or(u32::MAX),
            memory_mib: least.div_ceil(1 << 20)..=most >> 20,
        }
    }

    fn create(&self, machine: &Machine, told: Sender<End>) -> Result<Box<dyn VirtualMachine>, ErrorBody> {
        let configuration = configuration::of(machine)?;
        Ok(Box::new(machine::AppleMachine::new(&configuration, told)?))
    }
}

fn new_enough(major: isize, name: &str) -> Result<(), ErrorBody> {
    if major >= MIN_MACOS {
        return Ok(());
    }
    let message = format!("{name} is too old: machines need macOS {MIN_MACOS} or newer");
    Err(ErrorBody { remediation: "update macOS".to_owned(), ..ErrorBody::new(ErrorCode::VmmUnsuitable, message) })
}

fn supported() -> Result<String, ErrorBody> {
    // SAFETY: this only tells whether there is a hypervisor.
    if unsafe { VZVirtualMachine::isSupported() } {
        return Ok("Apple's hypervisor works".to_owned());
    }
    let message = "this Mac has no hypervisor for Virtualization.framework, as one that is a virtual machine itself may have none";
    let remediation = "use a Mac that is no virtual machine, or one that allows machines inside of it".to_owned();
    Err(ErrorBody { remediation, ..ErrorBody::new(ErrorCode::AcceleratorUnavailable, message) })
}

/// What the framework says of an error.
fn words(error: &NSError) -> String {
    let what = error.localizedDescription().to_string();
    match error.localizedFailureReason() {
        Some(why) if !what.contains(&why.to_string()) => format!("{what} {why}"),
        _ => what,
    }
}
