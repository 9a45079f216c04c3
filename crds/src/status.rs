//! `status`: what is so, as the controller last saw it.
//!
//! It is read tolerantly: a condition, reason or phase of a newer version must not make the whole object unreadable.

use std::{borrow::Cow, collections::BTreeMap};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    condition::{Condition, ConditionStatus, ConditionType},
    reason::Reason,
    spec::Backend,
};

/// What is so, as the controller last saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkspaceStatus {
    /// Where the workspace is in its life, for people. Programs read the conditions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// The generation of the spec that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The generation of the spec that the running machine was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running_generation: Option<i64>,
    /// The conditions, one of each type.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "known_conditions")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The image in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageStatus>,
    /// The kernel in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelStatus>,
    /// The backend that runs the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<Backend>,
    /// The node that the machine is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// The identity of the present boot; another one means that the machine was started anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// How often the machine was started again, and when it is next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restarts: Option<Restarts>,
    /// How the workload last ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<RunResult>,
    /// The outputs that were copied out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<Artifact>,
    /// The guest ports that the host listens for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortStatus>,
    /// How long each stage of the last start took, in milliseconds, by the stage's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub timings: BTreeMap<String, u64>,
}

impl WorkspaceStatus {
    /// The condition of this type, if there is one.
    #[must_use]
    pub fn condition(&self, wanted: ConditionType) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.type_ == wanted)
    }

    /// Whether this condition is `True`.
    #[must_use]
    pub fn is_true(&self, wanted: ConditionType) -> bool {
        self.condition(wanted).is_some_and(Condition::is_true)
    }
}

/// Leaves out conditions whose type this version does not know.
fn known_conditions<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Condition>, D::Error> {
    // Read field by field, not tried as one thing and then as another: objects are read at every look.
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Lenient<'a> {
        #[serde(rename = "type", borrow)]
        type_: Cow<'a, str>,
        status: ConditionStatus,
        reason: Reason,
        #[serde(default)]
        message: String,
        observed_generation: Option<i64>,
        last_transition_time: Time,
    }
    let all: Vec<Lenient<'_>> = Deserialize::deserialize(deserializer)?;
    let known = |one: Lenient<'_>| {
        let type_ = ConditionType::ALL.iter().copied().find(|known| known.as_str() == one.type_)?;
        let Lenient { status, reason, message, observed_generation, last_transition_time, .. } = one;
        Some(Condition { type_, status, reason, message, observed_generation, last_transition_time })
    };
    Ok(all.into_iter().filter_map(known).collect())
}

/// Where a workspace is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Nothing was done yet, or it waits for room.
    Pending,
    /// The image, the root disk or the kernel is being made ready.
    Building,
    /// The machine is on its way up.
    Starting,
    /// The workload runs.
    Running,
    /// The machine is being stopped.
    Halting,
    /// The machine is stopped, as was asked for.
    Halted,
    /// The workload ended with success, and is not to run again.
    Succeeded,
    /// The workload ended with a failure and is not to run again, or a person must act.
    Failed,
    /// The workspace is being deleted.
    Terminating,
    /// The machine's CPUs stand still, as was asked for.
    Paused,
    /// The machine runs cut off from everything, as was asked for.
    Quarantined,
    /// What is so cannot be told.
    #[default]
    #[serde(other)]
    Unknown,
}

impl Phase {
    /// The name in `status.phase`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Building => "Building",
            Self::Starting => "Starting",
            Self::Running => "Running",
            Self::Halting => "Halting",
            Self::Halted => "Halted",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Terminating => "Terminating",
            Self::Paused => "Paused",
            Self::Quarantined => "Quarantined",
            Self::Unknown => "Unknown",
        }
    }
}

/// The image in use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageStatus {
    /// The digest of the image's manifest, `sha256:` and 64 hexadecimal digits.
    pub digest: String,
}

/// The kernel in use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct KernelStatus {
    /// The version, as `uname -r` gives it.
    pub version: String,
    /// The digest of the kernel file, `sha256:` and 64 hexadecimal digits.
    pub digest: String,
}

/// How often the machine was started again, and when it is next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Restarts {
    /// Restarts since the spec was last changed.
    #[serde(default)]
    pub count: u32,
    /// When the machine last ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<Time>,
    /// When it is next started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<Time>,
}

/// How the workload last ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunResult {
    /// The workload's exit code, 0 to 255, when it exited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The number of the signal that ended it, when one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Whether the guest's kernel ended it for want of memory.
    #[serde(default)]
    pub oom_killed: bool,
    /// When the workload was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
    /// What happened, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl RunResult {
    /// Whether the workload exited with 0.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.exit_code == Some(0)
    }
}

/// An output that was copied out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Artifact {
    /// The output's name.
    pub name: String,
    /// Where it is on the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Its size in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Its digest, `sha256:` and 64 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Why it could not be copied out, when it could not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A guest port that the host listens for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortStatus {
    /// The TCP port in the guest.
    pub guest_port: u16,
    /// The TCP port on the host.
    pub host_port: u16,
    /// The address on the host.
    #[serde(rename = "hostIP")]
    pub host_ip: String,
}
