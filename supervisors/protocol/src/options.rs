//! Options of a machine that only one backend understands. Another backend refuses them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Choices for QEMU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QemuOptions {
    /// The machine type; chosen by the supervisor when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<QemuMachine>,
    /// The accelerator; KVM where it works, else TCG, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<crate::Accelerator>,
}

/// A machine type of QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum QemuMachine {
    /// `microvm`: virtio over MMIO, no PCI.
    Microvm,
    /// `q35`: virtio over PCI.
    Q35,
}

/// Choices for Firecracker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FirecrackerOptions {
    /// Whether the VMM runs in a jail of Firecracker's jailer: a root directory, a user and a cgroup of its own. When absent it does
    /// where the supervisor is root and a jailer is found. `true` is refused where that is not so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jailer: Option<bool>,
    /// The size at which the balloon begins, in MiB: memory that the guest gives back. There is no balloon when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balloon_mib: Option<u32>,
    /// Whether pages that are written are tracked, which diff snapshots need and which costs a little speed.
    #[serde(default)]
    pub track_dirty_pages: bool,
    /// Choices for single disks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<FirecrackerDisk>,
}

/// Choices for one disk under Firecracker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FirecrackerDisk {
    /// The disk's `id` in the machine's configuration.
    pub id: String,
    /// Whether a flush of the guest reaches the host's disk. `Writeback` when absent, for a disk that can be written to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<DiskCache>,
    /// How the VMM reads and writes. `Sync` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_engine: Option<IoEngine>,
    /// The most bytes a second. Unlimited when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// The most operations a second. Unlimited when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operations_per_second: Option<u64>,
}

/// What becomes of a guest's flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum DiskCache {
    /// Nothing: fast, and lost with the host.
    Unsafe,
    /// It reaches the host's disk.
    Writeback,
}

/// How Firecracker reads and writes a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum IoEngine {
    /// One system call after the other.
    Sync,
    /// `io_uring`.
    Async,
}

/// Choices for Apple Virtualization.framework.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AppleVfOptions {
    /// Whether the machine has a balloon device: memory that the guest can be asked to give back.
    #[serde(default)]
    pub balloon: bool,
}
