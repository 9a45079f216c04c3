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
    /// Make the machine's CPUs stand still.
    PauseMachine,
    /// Let the machine run on, connected.
    ResumeMachine,
    /// Cut the machine off from everything.
    QuarantineMachine,
    /// Ask the guest to end within the grace period; the machine is ended after it in any case.
    HaltMachine {
        /// Seconds that the workload gets.
        grace_seconds: u32,
    },
    /// End the machine now.
    KillMachine,
    /// Move the outputs of the boot that has ended to where they outlive the machine.
    KeepOutputs,
    /// Remove what the supervisor keeps of the machine.
    DeleteMachine,
    /// Move what the workspace wrote to where it outlives the workspace.
    RetainDisks,
    /// End whatever may still run of the machine, and remove the workspace's directory with the disks in it.
    RemoveDisks,
    /// Take back what declares the workspace, where that is ours.
    WithdrawManifest,
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
            Self::PauseMachine | Self::ResumeMachine | Self::QuarantineMachine => Stage::Power,
            Self::HaltMachine { .. } | Self::KillMachine => Stage::Halt,
            Self::KeepOutputs => Stage::Outputs,
            Self::DeleteMachine | Self::RetainDisks | Self::RemoveDisks | Self::WithdrawManifest | Self::Forget => {
                Stage::Delete
            }
        }
    }
}
