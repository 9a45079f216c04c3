//! `spec.lifecycle`: when a workspace ends, and how.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The longest time that a field of seconds can hold: ten years.
const TEN_YEARS: u32 = 315_360_000;

/// When the workspace ends, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Lifecycle {
    /// Seconds after the workload ended until the workspace is deleted, 0 to ten years. Without it: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = TEN_YEARS))]
    pub ttl_seconds_after_finished: Option<u32>,
    /// Seconds without exec, port traffic or output after which the machine is halted, 1 to ten years. Without it: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = TEN_YEARS))]
    pub idle_timeout_seconds: Option<u32>,
    /// The time at which the workspace is deleted, as RFC 3339 (`2027-01-31T12:00:00Z`). Without it: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
    /// Seconds that the way to Ready may take before the workspace counts as stalled, 1 to ten years. Without it: no
    /// limit beside those of each stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = TEN_YEARS))]
    pub progress_deadline_seconds: Option<u32>,
    /// What happens to the writable disks when the workspace is deleted: `Delete` (default) or `Retain`.
    #[serde(default)]
    pub on_delete: OnDelete,
    /// Seconds that the workload gets between SIGTERM and SIGKILL, 0 to 3600. Default: 30.
    #[serde(default = "default_grace")]
    #[schemars(range(min = 0, max = 3600))]
    pub termination_grace_period_seconds: u32,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self {
            ttl_seconds_after_finished: None,
            idle_timeout_seconds: None,
            expires_at: None,
            progress_deadline_seconds: None,
            on_delete: OnDelete::default(),
            termination_grace_period_seconds: default_grace(),
        }
    }
}

fn default_grace() -> u32 {
    30
}

/// What happens to the writable disks when a workspace is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum OnDelete {
    /// They are deleted.
    #[default]
    Delete,
    /// They are kept.
    Retain,
}
