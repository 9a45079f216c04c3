//! What `plan` remembers of a workspace from one pass to the next, also when the controller is killed in between.

use std::collections::BTreeMap;

use jiff::Timestamp;
use microagent_crds::{RunResult, status::Artifact};
use serde::{Deserialize, Serialize};

/// Everything that cannot be observed again. Read tolerantly: what another version remembered beside this is forgotten, and at worst
/// something is tried again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// The image as it was resolved. A workspace stays on this digest until its `spec.image` changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<PinnedImage>,
    /// The boot that was asked for and whose end was not seen yet. Written before the supervisor is called, so that an
    /// uncertain start is repeated with the same boot id and never doubled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<Boot>,
    /// The boot id whose end was counted last; the same end is never counted twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted_boot: Option<String>,
    /// How often the machine was started again.
    #[serde(default)]
    pub restarts: Restarts,
    /// How the workload ended last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<RunResult>,
    /// The machine that ended for good, by the hash of what it was made from: nothing is started for it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<String>,
    /// The failures that hold the workspace up, one of each stage: two that fail side by side each keep their own count.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub failures: BTreeMap<Stage, Failure>,
    /// All setup commands have ended well on the disk that the workspace has.
    #[serde(default)]
    pub setup_complete: bool,
    /// The halt that was asked for: of which boot, and since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halt: Option<HaltAsked>,
    /// The restarts that were asked for and are done, or on their way.
    #[serde(default, skip_serializing_if = "RestartTokens::is_empty")]
    pub restarted: RestartTokens,
    /// The machine that was halted because nothing used it, by the hash of what it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<String>,
    /// The end that `spec.lifecycle` set has come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expired: Option<Expired>,
    /// Since when the workspace is on its way to what is wanted; kept only for a spec with a deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// The outputs of the last boot that had any, as they were kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<Artifact>,
}

/// An image reference and the manifest it stood for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PinnedImage {
    /// As in the spec.
    pub reference: String,
    /// The manifest's digest.
    pub digest: String,
}

/// One start of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Boot {
    /// Its name: a UUID of version 4.
    pub id: String,
    /// The generation it is made from.
    pub generation: i64,
    /// The hash of the part of the spec that a running machine cannot change.
    pub machine_hash: String,
}

/// See [`Memory::restarts`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Restarts {
    /// How often in the life of the workspace.
    #[serde(default)]
    pub count: u32,
    /// How often in a row without ten minutes of running in between; the backoff grows with it.
    #[serde(default)]
    pub in_a_row: u32,
    /// Not before this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<Timestamp>,
}

/// A failure of one stage, and when it is tried again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Failure {
    /// The cause.
    pub fault: Fault,
    /// How often in a row.
    pub count: u32,
    /// The generation that was being made so.
    pub generation: i64,
    /// Not before this.
    pub next_attempt: Timestamp,
    /// It is being tried again: the next failure is another one, not the same seen twice.
    #[serde(default)]
    pub retrying: bool,
}

/// What a restart was asked for with: the value of the annotation, and the token of the request. Each new one is one restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RestartTokens {
    /// The annotation [`crate::plan::RESTART_ANNOTATION`] of the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotation: Option<String>,
    /// The request of `microagent restart`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
}

impl RestartTokens {
    /// Whether nothing was asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// See [`Memory::expired`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Expired {
    /// The generation whose end it is: another one may live on.
    pub generation: i64,
    /// What set the end, for people.
    pub message: String,
}

/// See [`Memory::progress`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Progress {
    /// The generation that is wanted.
    pub generation: i64,
    /// Since when.
    pub since: Timestamp,
}

/// A part of the way from a manifest to a running workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stage {
    /// Finding and pulling the image.
    Image,
    /// Building the root file system.
    Rootfs,
    /// Installing the kernel and making its initramfs.
    Kernel,
    /// Making the writable disks.
    Disks,
    /// Starting the machine.
    Start,
    /// The guest, from its first instruction to the workload's.
    Guest,
    /// Pausing, resuming or cutting off the machine.
    Power,
    /// Ending the machine.
    Halt,
    /// Keeping the outputs of a boot that has ended.
    Outputs,
    /// Removing what is left of it.
    Delete,
}

/// Why something failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fault {
    /// The stable code in CamelCase; becomes the reason of a condition.
    pub code: String,
    /// What, where, why and what to do.
    pub message: String,
    /// Whether it may pass without a person doing something.
    pub retryable: bool,
}

/// See [`Memory::halt`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HaltAsked {
    /// The boot that is to end.
    pub boot_id: String,
    /// When the supervisor was first asked.
    pub at: Timestamp,
    /// When it was asked last. Asked again while the machine does not say that it is halting: the controller may have been killed
    /// before it came to ask.
    pub asked_at: Timestamp,
    /// Why.
    pub cause: HaltCause,
}

/// Why a machine is to end. All but the first hold until it has ended, whatever the spec says meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum HaltCause {
    /// No machine is wanted: the workspace is to be halted, or to go.
    Unwanted,
    /// A restart was asked for.
    Restart,
    /// Nothing has used it for as long as the spec allows.
    Idle {
        /// For how long, for people.
        message: String,
    },
    /// Its health probe failed.
    Unhealthy {
        /// What the probe said.
        message: String,
    },
}
