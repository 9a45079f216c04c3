//! What a supervisor can be asked.

use std::path::PathBuf;

use microagent_guest_protocol::Config as GuestConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AppleVfOptions, ErrorBody, ErrorCode, FirecrackerOptions, QemuOptions, Restore, Snapshot};

/// One call. The field `verb` tells which; unknown verbs and unknown fields are refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "verb", rename_all = "camelCase")]
pub enum Request {
    /// What this supervisor and this host can do. Changes nothing.
    Capabilities(CapabilitiesRequest),
    /// Whether a machine of this configuration could start here now. Changes nothing.
    Check(CheckRequest),
    /// Makes the machine's directory ready to start. Starts nothing.
    Prepare(PrepareRequest),
    /// Starts the machine under a shim and returns once the VMM runs. The guest's progress is told by `inspect`.
    Start(Box<StartRequest>),
    /// What is true of the machine now. Changes nothing.
    Inspect(MachineRequest),
    /// Makes the machine's CPUs stand still: `Running` or `Quarantined` become `Paused`. Its connections stay, new ones are closed. Answered
    /// once it is so and recorded, as `resume` and `quarantine` are; each of the three finds its work done when it is called again,
    /// and is refused with `MachineNotRunning` while the guest is not configured yet, once its workload has ended or its halt was
    /// asked for, and where there is no machine.
    Pause(MachineRequest),
    /// Lets the machine run on, connected as before: `Paused` or `Quarantined` become `Running`.
    Resume(MachineRequest),
    /// Lets the machine run, cut off from everything but its supervisor: `Running` or `Paused` become `Quarantined`. Connections
    /// that are open are closed.
    Quarantine(MachineRequest),
    /// Asks the guest to end within its grace period, then ends it. A machine that is paused runs on for that. Outputs are copied out
    /// in between, which `kill` does not wait for.
    Halt(HaltRequest),
    /// Ends the machine at once.
    Kill(MachineRequest),
    /// Writes the machine's memory and devices to a directory, so that another start can go on from there. The machine is paused for
    /// that. Refused with `MachineNotRunning` unless it is `Running` or `Paused`, and with `SnapshotInvalid` where the directory is there.
    Snapshot(SnapshotRequest),
    /// The end of the console log, as text. Changes nothing.
    Console(ConsoleRequest),
    /// Ends the machine and removes everything that this supervisor and its shim put into the machine's directory. Disks
    /// are not theirs.
    Delete(MachineRequest),
    /// Ends and removes what belongs to no machine that is to be kept: as `delete` for each of these directories with a machine that this
    /// supervisor made, and what it made for such machines elsewhere on the host. One that cannot be removed hinders no other.
    Gc(GcRequest),
}

/// The name of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Verb {
    /// See [`Request::Capabilities`].
    Capabilities,
    /// See [`Request::Check`].
    Check,
    /// See [`Request::Prepare`].
    Prepare,
    /// See [`Request::Start`].
    Start,
    /// See [`Request::Inspect`].
    Inspect,
    /// See [`Request::Pause`].
    Pause,
    /// See [`Request::Resume`].
    Resume,
    /// See [`Request::Quarantine`].
    Quarantine,
    /// See [`Request::Halt`].
    Halt,
    /// See [`Request::Kill`].
    Kill,
    /// See [`Request::Snapshot`].
    Snapshot,
    /// See [`Request::Console`].
    Console,
    /// See [`Request::Delete`].
    Delete,
    /// See [`Request::Gc`].
    Gc,
}

impl Verb {
    /// Every verb, in the order of the protocol's page.
    pub const ALL: [Self; 14] = [
        Self::Capabilities,
        Self::Check,
        Self::Prepare,
        Self::Start,
        Self::Inspect,
        Self::Pause,
        Self::Resume,
        Self::Quarantine,
        Self::Halt,
        Self::Kill,
        Self::Snapshot,
        Self::Console,
        Self::Delete,
        Self::Gc,
    ];

    /// Those that every supervisor has.
    pub const REQUIRED: [Self; 8] = [
        Self::Capabilities,
        Self::Check,
        Self::Prepare,
        Self::Start,
        Self::Inspect,
        Self::Halt,
        Self::Kill,
        Self::Delete,
    ];

    /// The word, as on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Capabilities => "capabilities",
            Self::Check => "check",
            Self::Prepare => "prepare",
            Self::Start => "start",
            Self::Inspect => "inspect",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Quarantine => "quarantine",
            Self::Halt => "halt",
            Self::Kill => "kill",
            Self::Snapshot => "snapshot",
            Self::Console => "console",
            Self::Delete => "delete",
            Self::Gc => "gc",
        }
    }
}

impl Request {
    /// Which call this is.
    #[must_use]
    pub fn verb(&self) -> Verb {
        match self {
            Self::Capabilities(_) => Verb::Capabilities,
            Self::Check(_) => Verb::Check,
            Self::Prepare(_) => Verb::Prepare,
            Self::Start(_) => Verb::Start,
            Self::Inspect(_) => Verb::Inspect,
            Self::Pause(_) => Verb::Pause,
            Self::Resume(_) => Verb::Resume,
            Self::Quarantine(_) => Verb::Quarantine,
            Self::Halt(_) => Verb::Halt,
            Self::Kill(_) => Verb::Kill,
            Self::Snapshot(_) => Verb::Snapshot,
            Self::Console(_) => Verb::Console,
            Self::Delete(_) => Verb::Delete,
            Self::Gc(_) => Verb::Gc,
        }
    }

    /// The version that the caller speaks.
    #[must_use]
    pub fn protocol(&self) -> &str {
        match self {
            Self::Capabilities(r) => &r.protocol,
            Self::Check(r) => &r.protocol,
            Self::Prepare(r) => &r.protocol,
            Self::Start(r) => &r.protocol,
            Self::Inspect(r)
            | Self::Pause(r)
            | Self::Resume(r)
            | Self::Quarantine(r)
            | Self::Kill(r)
            | Self::Delete(r) => &r.protocol,
            Self::Halt(r) => &r.protocol,
            Self::Snapshot(r) => &r.protocol,
            Self::Console(r) => &r.protocol,
            Self::Gc(r) => &r.protocol,
        }
    }

    /// The machine that it is about; none for a call about the host.
    #[must_use]
    pub fn target(&self) -> Option<&Target> {
        match self {
            Self::Capabilities(_) | Self::Check(_) | Self::Gc(_) => None,
            Self::Prepare(r) => Some(&r.target),
            Self::Start(r) => Some(&r.target),
            Self::Inspect(r)
            | Self::Pause(r)
            | Self::Resume(r)
            | Self::Quarantine(r)
            | Self::Kill(r)
            | Self::Delete(r) => Some(&r.target),
            Self::Halt(r) => Some(&r.target),
            Self::Snapshot(r) => Some(&r.target),
            Self::Console(r) => Some(&r.target),
        }
    }
}

/// Who a machine is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Identity {
    /// The workspace's UID: lower-case letters, digits and `-`, at most 63 bytes.
    pub uid: String,
    /// The workspace's namespace and name, `namespace/name`, for people.
    pub name: String,
    /// The generation of the workspace that the machine is made from.
    pub generation: i64,
    /// The caller's name for one start. A second `start` with the same boot id changes nothing; one with another boot id is
    /// refused while the machine runs.
    pub boot_id: String,
}

/// Which machine, and where it lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Target {
    /// The workspace's UID. An answer is never about another.
    pub uid: String,
    /// The machine's directory: absolute, private, one per UID. Records, sockets and logs are put here.
    pub machine_dir: PathBuf,
}

impl Target {
    /// Checks what every supervisor checks: the UID goes into names and messages, and the directory stands for itself wherever the
    /// supervisor runs.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidRequest`].
    pub fn check(&self) -> Result<(), ErrorBody> {
        let invalid = |message: String| Err(ErrorBody::new(ErrorCode::InvalidRequest, message));
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if self.uid.is_empty() || self.uid.len() > 63 || !self.uid.bytes().all(good) {
            return invalid("the UID must be 1 to 63 lower-case letters, digits and `-`".to_owned());
        }
        if !self.machine_dir.is_absolute() {
            return invalid(format!("the machine's directory {} is not an absolute path", self.machine_dir.display()));
        }
        Ok(())
    }
}

impl Identity {
    /// Checks that this is of the target, and can be told apart from another boot.
    ///
    /// # Errors
    /// [`ErrorCode::IdentityMismatch`] and [`ErrorCode::InvalidRequest`].
    pub fn check(&self, target: &Target) -> Result<(), ErrorBody> {
        if self.uid != target.uid {
            let message = format!("the identity is of {}, the target is {}", self.uid, target.uid);
            return Err(ErrorBody::new(ErrorCode::IdentityMismatch, message));
        }
        if self.boot_id.is_empty() || self.boot_id.len() > 128 {
            return Err(ErrorBody::new(ErrorCode::InvalidRequest, "the boot id must have 1 to 128 bytes"));
        }
        Ok(())
    }
}

/// See [`Request::Capabilities`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CapabilitiesRequest {
    /// [`crate::PROTOCOL`].
    pub protocol: String,
}

/// See [`Request::Check`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CheckRequest {
    /// [`crate::PROTOCOL`].
    pub protocol: String,
    /// The machine that would be started; without it only the host is checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<MachineConfig>,
}

/// See [`Request::Prepare`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PrepareRequest {
    /// [`crate::PROTOCOL`].
    pub protocol: String,
    /// Which machine.
    pub target: Target,
    /// What it is made of.
    pub config: MachineConfig,
}

/// See [`Request::Start`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StartRequest {
    /// [`crate::PROTOCOL`].
    pub protocol: String,
    /// Which machine.
    pub target: Target,
    /// Who it is.
    pub identity: Identity,
    /// What it is made of.
    pub config: MachineConfig,
    /// What the shim tells guest-init after boot. May hold secrets: never written to a disk or a log.
    pub guest: GuestConfig,
    /// A snapshot that the machine goes on from, instead of a boot. Only where `capabilities` tell of snapshots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<Restore>,
}

/// A call about a machine that needs nothing further.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MachineRequest {
    /// [`crate::PROTOCOL`].
    pub protocol: String,
    /// Which machine.
    pub target: Target,
}

/// See [`Request::Halt`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HaltRequest {
    /// [`crate::PROTOCOL`].
    pub protocol: String,
    /// Which machine.
    pub target: Target,
    /// How.
    pub halt: Halt,
}

/// See [`Request::Snapshot`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SnapshotRequest {
    /// [`crate::PROTOCOL`].
    pub protocol: String,
    /// Which machine.
    pub target: Target,
    /// What is to be made.
    pub snapshot: Snapshot,
}

/// See [`Request::Console`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConsoleRequest {
    /// [`crate::PROTOCOL`].
    pub protocol: String,
    /// Which machine.
    pub target: Target,
    /// How many bytes of the log's end are wanted, 1 to [`crate::MAX_CONSOLE`].
    pub max_bytes: u32,
}

/// See [`Request::Gc`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GcRequest {
    /// [`crate::PROTOCOL`].
    pub protocol: String,
    /// Directories that may be machines': absolute, at most 65,536. What is absent, or holds no machine of this supervisor, is left alone.
    pub machine_dirs: Vec<PathBuf>,
    /// The UIDs of the machines to be kept.
    pub keep: Vec<String>,
}

/// How a machine is to be halted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Halt {
    /// Seconds that the workload gets after SIGTERM, at most 3600. The machine is ended 10 seconds later in any case; 70 where there
    /// are outputs to be copied out, which begins when the workload has ended.
    pub grace_seconds: u32,
    /// Return once the halt is asked for, not once the machine has ended.
    #[serde(default)]
    pub no_wait: bool,
}

/// What a machine is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MachineConfig {
    /// Virtual CPUs, 1 to 255.
    pub vcpus: u32,
    /// Memory in MiB, at least 64.
    pub memory_mib: u64,
    /// What is booted.
    pub kernel: Kernel,
    /// The initramfs with guest-init as its `/init`.
    pub initramfs: PathBuf,
    /// The disks. The guest sees them in this order: the first is `/dev/vda`.
    pub disks: Vec<Disk>,
    /// How long the guest may take from the VMM's start until guest-init listens, in milliseconds. After that the machine is
    /// ended with `GuestTimeout`.
    pub boot_timeout_ms: u64,
    /// The size at which each log file is rotated, in bytes; one older file is kept.
    pub log_bytes: u64,
    /// How many bytes all outputs of one boot may have together. One that does not fit is given up, with an error of its own.
    #[serde(default = "default_output_bytes")]
    pub output_bytes: u64,
    /// Options that only QEMU understands; other backends refuse them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qemu: Option<QemuOptions>,
    /// Options that only Firecracker understands; other backends refuse them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firecracker: Option<FirecrackerOptions>,
    /// Options that only Apple Virtualization.framework understands; other backends refuse them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apple_vf: Option<AppleVfOptions>,
}

/// The usual bound of outputs, in bytes: 1 GiB.
pub const OUTPUT_BYTES: u64 = 1 << 30;

fn default_output_bytes() -> u64 {
    OUTPUT_BYTES
}

/// A kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Kernel {
    /// The file.
    pub path: PathBuf,
    /// What the file is.
    pub format: KernelFormat,
    /// Words added to the end of the kernel's command line.
    #[serde(default)]
    pub args: Vec<String>,
}

/// The form of a kernel file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum KernelFormat {
    /// An uncompressed ELF `vmlinux` with a PVH entry.
    Elf,
    /// The x86 boot protocol's compressed image.
    BzImage,
    /// The arm64 `Image`.
    Image,
}

/// A raw disk file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Disk {
    /// What it is, for people: `baseline`, `overlay`, or the name of the workspace's disk.
    pub id: String,
    /// The file.
    pub path: PathBuf,
    /// The guest cannot write to it; several machines may share it.
    pub read_only: bool,
}
