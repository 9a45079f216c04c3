//! What `plan` remembers of a workspace from one pass to the next, also when the controller is killed in between.

use jiff::Timestamp;
use microagent_crds::RunResult;
use serde::{Deserialize, Serialize};

/// Everything that cannot be observed again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
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
    /// The failure that holds the workspace up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// All setup commands have ended well on the disk that the workspace has.
    #[serde(default)]
    pub setup_complete: bool,
    /// The halt that was asked for: of which boot, and since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halt: Option<HaltAsked>,
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
    /// The stage.
    pub stage: Stage,
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
    /// Ending the machine.
    Halt,
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
}
