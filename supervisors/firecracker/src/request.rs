//! The bodies of requests, as Firecracker's API description has them.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// `PUT /machine-config`.
#[derive(Debug, Serialize)]
pub(crate) struct MachineConfiguration {
    /// 1 to 32.
    pub(crate) vcpu_count: u32,
    pub(crate) mem_size_mib: u64,
    /// Whether the guest sees pairs of its CPUs as threads of one core.
    pub(crate) smt: bool,
    /// What diff snapshots need.
    pub(crate) track_dirty_pages: bool,
}

/// `PUT /boot-source`.
#[derive(Debug, Serialize)]
pub(crate) struct BootSource<'a> {
    pub(crate) kernel_image_path: &'a str,
    pub(crate) initrd_path: &'a str,
    pub(crate) boot_args: &'a str,
}

/// `PUT /drives/{drive_id}`.
#[derive(Debug, Serialize)]
pub(crate) struct Drive<'a> {
    /// Letters, digits and underscores.
    pub(crate) drive_id: String,
    pub(crate) path_on_host: &'a str,
    /// Never: guest-init finds its disks by their order, and the kernel is told of no root.
    pub(crate) is_root_device: bool,
    pub(crate) is_read_only: bool,
    pub(crate) cache_type: CacheType,
    pub(crate) io_engine: FileEngine,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rate_limiter: Option<RateLimiter>,
}

/// What becomes of a guest's flush.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) enum CacheType {
    Unsafe,
    Writeback,
}

/// How a drive is read and written.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) enum FileEngine {
    Sync,
    Async,
}

/// How much a device may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct RateLimiter {
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bandwidth: Option<TokenBucket>,
    /// Operations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ops: Option<TokenBucket>,
}

/// So many in so much time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct TokenBucket {
    pub(crate) size: u64,
    /// Milliseconds.
    pub(crate) refill_time: u64,
}

/// `PUT /vsock`.
#[derive(Debug, Serialize)]
pub(crate) struct Vsock<'a> {
    /// At least 3.
    pub(crate) guest_cid: u32,
    pub(crate) uds_path: &'a str,
}

/// `PUT /entropy`: a device without a limit.
#[derive(Debug, Serialize)]
pub(crate) struct EntropyDevice {}

/// `PUT /balloon`.
#[derive(Debug, Serialize)]
pub(crate) struct Balloon {
    pub(crate) amount_mib: u32,
    pub(crate) deflate_on_oom: bool,
}

/// `PUT /logger`.
#[derive(Debug, Serialize)]
pub(crate) struct Logger<'a> {
    pub(crate) log_path: &'a str,
    pub(crate) level: &'a str,
    pub(crate) show_level: bool,
}

/// `PUT /metrics`.
#[derive(Debug, Serialize)]
pub(crate) struct Metrics<'a> {
    pub(crate) metrics_path: &'a str,
}

/// `PUT /actions`.
#[derive(Debug, Serialize)]
pub(crate) struct InstanceActionInfo {
    pub(crate) action_type: Action,
}

/// What can be done once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Action {
    InstanceStart,
    #[cfg(target_arch = "x86_64")]
    SendCtrlAltDel,
    FlushMetrics,
}

/// `PATCH /vm`.
#[derive(Debug, Serialize)]
pub(crate) struct Vm {
    pub(crate) state: VmState,
}

/// What the CPUs do.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) enum VmState {
    Paused,
    Resumed,
}

/// `PUT /snapshot/create`.
#[derive(Debug, Serialize)]
pub(crate) struct SnapshotCreate<'a> {
    /// `Full` or `Diff`.
    pub(crate) snapshot_type: &'a str,
    pub(crate) snapshot_path: &'a Path,
    pub(crate) mem_file_path: &'a Path,
}

/// `PUT /snapshot/load`.
#[derive(Debug, Serialize)]
pub(crate) struct SnapshotLoad<'a> {
    pub(crate) snapshot_path: &'a Path,
    pub(crate) mem_backend: MemoryBackend<'a>,
    pub(crate) track_dirty_pages: bool,
    pub(crate) resume_vm: bool,
}

/// Where the memory comes from.
#[derive(Debug, Serialize)]
pub(crate) struct MemoryBackend<'a> {
    /// `File`.
    pub(crate) backend_type: &'a str,
    pub(crate) backend_path: &'a Path,
}

/// As much of the answer to `GET /` as is wanted.
#[derive(Debug, Deserialize)]
pub(crate) struct InstanceInfo {
    /// `Not started`, `Running` or `Paused`.
    pub(crate) state: String,
}

/// The answer to `GET /version`.
#[derive(Debug, Deserialize)]
pub(crate) struct FirecrackerVersion {
    pub(crate) firecracker_version: String,
}
