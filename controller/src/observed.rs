//! What is true of one workspace on this host, as `plan` sees it.

use std::collections::BTreeMap;

use microagent_crds::status::Artifact;
use microagent_supervisor_protocol::Machine;
use serde::{Deserialize, Serialize};

use crate::memory::Fault;

/// One look. Taken anew for every pass; nothing of it is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// The image of the spec.
    pub image: Work<ImageFacts>,
    /// The root file system of that image.
    pub rootfs: Work<RootfsFacts>,
    /// The kernel of the spec.
    pub kernel: Work<KernelFacts>,
    /// The writable disks that the spec wants.
    pub disks: Disks,
    /// The machine.
    pub machine: MachineSight,
    /// The outputs that were kept last, where the machine that is seen had outputs.
    pub kept_outputs: Option<KeptOutputs>,
    /// The token of the restart that was requested for this UID last.
    pub restart_request: Option<String>,
    /// What declares the workspace is there and is ours to withdraw.
    pub withdrawable: bool,
}

/// Work that is shared between workspaces and runs outside the pass.
#[derive(Clone, Debug, PartialEq)]
pub enum Work<T> {
    /// Not done, and nobody is at it.
    Absent,
    /// It is wanted, and waits for a free slot.
    Queued,
    /// Somebody is at it.
    Running {
        /// What is being done, for people: `pulling web: 12.0 of 48.3 MiB`. Empty at the very beginning.
        message: String,
    },
    /// Done.
    Ready(T),
    /// The last attempt failed, and nobody is at it.
    Failed(Fault),
}

impl<T> Work<T> {
    /// What was made, when it is.
    pub fn ready(&self) -> Option<&T> {
        match self {
            Self::Ready(facts) => Some(facts),
            _ => None,
        }
    }

    /// Whether it will be made, or fail, without anything being done for it.
    pub fn is_under_way(&self) -> bool {
        matches!(self, Self::Queued | Self::Running { .. })
    }

    /// The same work, with what was made seen otherwise.
    pub fn map<U>(self, see: impl FnOnce(T) -> U) -> Work<U> {
        match self {
            Self::Absent => Work::Absent,
            Self::Queued => Work::Queued,
            Self::Running { message } => Work::Running { message },
            Self::Ready(facts) => Work::Ready(see(facts)),
            Self::Failed(fault) => Work::Failed(fault),
        }
    }

    /// Whether it is made.
    pub fn is_ready(&self) -> bool {
        self.ready().is_some()
    }
}

/// A resolved image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFacts {
    /// The reference of the spec that was resolved.
    pub reference: String,
    /// The digest of its manifest.
    pub digest: String,
    /// How long resolving and pulling took, in milliseconds, when it was done for this controller.
    pub took_ms: Option<u64>,
}

/// A built root file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootfsFacts {
    /// How long building took, in milliseconds, when it was done for this controller.
    pub took_ms: Option<u64>,
}

/// An installed kernel with its initramfs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelFacts {
    /// Its version, as `uname -r` gives it.
    pub version: String,
    /// The digest of its content.
    pub digest: String,
    /// How long installing took, in milliseconds, when it was done for this controller.
    pub took_ms: Option<u64>,
}

/// The writable disks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disks {
    /// All that the spec wants are there.
    pub complete: bool,
    /// Something of the workspace is on the host: its machine directory exists.
    pub any: bool,
    /// Something that the workspace wrote is among it.
    pub written: bool,
}

/// The outputs of one boot in their own place, where they outlive the machine and the workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeptOutputs {
    /// The boot that they are of.
    pub boot_id: String,
    /// The outputs.
    pub artifacts: Vec<Artifact>,
}

/// What the backend's supervisor says of the machine.
#[derive(Clone, Debug, PartialEq)]
pub enum MachineSight {
    /// It answered.
    Seen {
        /// The backend that was asked.
        backend: String,
        /// Why the machine is not on a better one.
        why: Option<String>,
        /// Its answer.
        machine: Box<Machine>,
        /// Milliseconds of the stages that the controller itself went through for this boot.
        timings: BTreeMap<String, u64>,
    },
    /// There is no machine and never was one: no supervisor had to be asked.
    None,
    /// Nobody knows. Nothing may be done to a machine in this state.
    Unknown(Fault),
}
