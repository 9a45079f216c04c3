//! What a pass can decide to do.

use crate::memory::{Boot, Stage};

/// One effect. All are idempotent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Begin to find and pull the image of the spec.
    ResolveImage,
    /// Begin to build the root file system of the resolved image.
    BuildRootfs,
    /// Begin to install the kernel of the spec and to make its initramfs.
    InstallKernel,
    /// Make the writable disks that are absent.
    CreateDisks,
    /// Start the machine for this boot, or find that it was started.
    StartMachine(Boot),
    /// Ask the guest to end within the grace period; the machine is ended after it in any case.
    HaltMachine {
        /// Seconds that the workload gets.
        grace_seconds: u32,
    },
    /// End the machine now.
    KillMachine,
    /// Remove what the supervisor keeps of the machine.
    DeleteMachine,
    /// Remove the disks, and with them the workspace's directory.
    RemoveDisks,
    /// Forget the workspace: the last thing that happens to it.
    Forget,
}

impl Action {
    /// The stage that a failure of this action is a failure of.
    #[must_use]
    pub fn stage(&self) -> Stage {
        match self {
            Self::ResolveImage => Stage::Image,
            Self::BuildRootfs => Stage::Rootfs,
            Self::InstallKernel => Stage::Kernel,
            Self::CreateDisks => Stage::Disks,
            Self::StartMachine(_) => Stage::Start,
            Self::HaltMachine { .. } | Self::KillMachine => Stage::Halt,
            Self::DeleteMachine | Self::RemoveDisks | Self::Forget => Stage::Delete,
        }
    }
}
