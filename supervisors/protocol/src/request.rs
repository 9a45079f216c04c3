//! What a supervisor can be asked.

use std::path::PathBuf;

use microagent_guest_protocol::Config as GuestConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    /// Makes the machine's CPUs stand still: `Running` or `Quarantined` become `Paused`. Its connections stay as they are. Answered
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
    /// Ends the machine and removes everything that this supervisor and its shim put into the machine's directory. Disks
    /// are not theirs.
    Delete(MachineRequest),
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
    /// See [`Request::Delete`].
    Delete,
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
            Self::Delete(_) => Verb::Delete,
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
