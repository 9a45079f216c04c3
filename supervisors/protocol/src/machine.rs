//! What is true of a machine.

use std::{collections::BTreeMap, path::PathBuf};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use microagent_guest_protocol::Exit;

use crate::{ErrorBody, Identity};

/// A machine as its supervisor finds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Machine {
    /// The UID of the request.
    pub uid: String,
    /// What it is doing.
    pub state: MachineState,
    /// Who it is; absent when it was never started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// What runs its instructions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<Accelerator>,
    /// Why the accelerator is not the fastest one, where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator_reason: Option<String>,
    /// The Unix socket that leads to the guest's vsock ports by the `CONNECT <port>` handshake, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vsock: Option<PathBuf>,
    /// The process that lives exactly as long as the machine and changes its record: while it lives, a change of what is told here
    /// shows as a rename in the machine's directory; when it is gone, only `inspect` knows what is true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// When the machine was last used: a byte of an exec or of port traffic, or output of the workload. At most a second behind.
    /// Told by `inspect` alone; its change is no rename.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub active_at: Option<Timestamp>,
    /// What the guest has told.
    #[serde(default)]
    pub guest: GuestStatus,
    /// The outputs that were copied out when the workload ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<Artifact>,
    /// When the VMM was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub started_at: Option<Timestamp>,
    /// When the VMM ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub finished_at: Option<Timestamp>,
    /// Why it ended, where it did not end as the guest or the caller wished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<ErrorBody>,
    /// Milliseconds since the VMM was started, on the host's clock, by stage: `console`, `listening`, `configured`, …
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub timings: BTreeMap<String, u64>,
}

impl Machine {
    /// A machine that is in this state and of which nothing else is known.
    #[must_use]
    pub fn bare(uid: &str, state: MachineState) -> Self {
        Self {
            uid: uid.to_owned(),
            state,
            identity: None,
            accelerator: None,
            accelerator_reason: None,
            vsock: None,
            owner: None,
            active_at: None,
            guest: GuestStatus::default(),
            artifacts: Vec::new(),
            started_at: None,
            finished_at: None,
            failure: None,
            timings: BTreeMap::new(),
        }
    }
}

/// What a machine is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum MachineState {
    /// There is none.
    Absent,
    /// It could be started.
    Prepared,
    /// The VMM runs, the guest has not taken its configuration yet.
    Starting,
    /// The guest has its configuration.
    Running,
    /// Its CPUs stand still, as was asked for.
    Paused,
    /// It runs cut off from everything, as was asked for.
    Quarantined,
    /// It was asked to end and has not ended yet.
    Halting,
    /// The VMM has ended and is gone.
    Exited,
}

/// A process, told apart from a later one with the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Owner {
    /// The process id.
    pub pid: u32,
    /// When it started, in clock ticks since the host booted: field 22 of `/proc/PID/stat`, proc(5). On macOS, in microseconds since
    /// 1970.
    pub start_time: u64,
}

/// An output that was copied out: a tar archive in the machine's directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Artifact {
    /// The name of the output in the guest's configuration.
    pub name: String,
    /// The file, absolute; absent when nothing could be copied out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Its size in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Its digest, `sha256:` and 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Why it is absent or not whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Accelerator {
    /// The Linux kernel's hypervisor.
    Kvm,
    /// QEMU's translator: works everywhere, many times slower.
    Tcg,
    /// Apple's hypervisor.
    Hvf,
}

/// What the guest has told of this boot. All of it is the guest's word.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GuestStatus {
    /// Guest-init has taken the configuration.
    #[serde(default)]
    pub ready: bool,
    /// All setup commands have ended well, now or in an earlier boot.
    #[serde(default)]
    pub setup_complete: bool,
    /// The setup command that runs or that failed last, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setup_index: Option<u32>,
    /// How a setup command failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setup_failure: Option<Exit>,
    /// When the workload was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub workload_started_at: Option<Timestamp>,
    /// When the workload ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub workload_finished_at: Option<Timestamp>,
    /// How the workload ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_exit: Option<Exit>,
    /// What the health probe found; absent before its first verdict, and without a probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// What guest-init could not do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<ErrorText>,
    /// Milliseconds since the guest's kernel started, by stage: `init`, `listening`, `configured`, `mounted`, `workload`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub timings: BTreeMap<String, u64>,
}

/// The verdict of the health probe. It changes only when a threshold is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Health {
    /// Whether as many probes in a row as were asked for succeeded, or failed.
    pub healthy: bool,
    /// What the last probe said.
    pub message: String,
}

/// A failure as the guest words it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ErrorText {
    /// A stable code in CamelCase.
    pub code: String,
    /// What, where and why.
    pub message: String,
}
