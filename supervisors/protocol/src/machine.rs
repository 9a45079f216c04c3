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
    /// What the guest has told.
    #[serde(default)]
    pub guest: GuestStatus,
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
            guest: GuestStatus::default(),
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
    /// It was asked to end and has not ended yet.
    Halting,
    /// The VMM has ended and is gone.
    Exited,
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
    /// What guest-init could not do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<ErrorText>,
    /// Milliseconds since the guest's kernel started, by stage: `init`, `listening`, `configured`, `mounted`, `workload`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub timings: BTreeMap<String, u64>,
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
