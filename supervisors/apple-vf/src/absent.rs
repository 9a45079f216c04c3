//! A host without the framework.

use std::{env::consts::OS, sync::mpsc::Sender, thread};

use microagent_supervisor_protocol::{ErrorBody, ErrorCode};

use crate::framework::{End, Finding, Framework, Host, VirtualMachine};
use crate::machine::Machine;

struct Absent;

/// The framework of this host.
#[must_use]
pub fn host() -> &'static dyn Framework {
    &Absent
}

impl Framework for Absent {
    fn host(&self) -> Host {
        Host {
            vmm: None,
            findings: vec![Finding { name: "Framework", found: Err(absent()) }],
            // What the framework would allow is not known; nothing is started, and nothing is refused for its number.
            max_vcpus: thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
            memory_mib: 0..=u64::MAX,
        }
    }

    fn create(&self, _machine: &Machine, _told: Sender<End>) -> Result<Box<dyn VirtualMachine>, ErrorBody> {
        Err(absent())
    }
}

fn absent() -> ErrorBody {
    let message = format!("Virtualization.framework is a part of macOS, and this host runs {OS}");
    ErrorBody {
        remediation: "use backend Firecracker or Qemu".to_owned(),
        ..ErrorBody::new(ErrorCode::VmmNotFound, message)
    }
}
