//! Snapshots: a machine's memory and devices in files.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A snapshot to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Snapshot {
    /// The directory that will hold it: absolute, absent before, there whole or not at all after. Its parent is there.
    pub dir: PathBuf,
    /// How much of the memory it holds.
    pub kind: SnapshotKind,
    /// Whether a machine that ran goes on running afterwards; it stays paused otherwise.
    #[serde(default = "yes")]
    pub resume: bool,
}

/// How much of the memory a snapshot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum SnapshotKind {
    /// All of it.
    Full,
    /// The pages that were written since the snapshot before, which it needs to be of use.
    Diff,
}

/// What a machine is started from instead of a boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Restore {
    /// The directory that `snapshot` made. It is read only, and may serve several machines one after the other.
    pub dir: PathBuf,
}

fn yes() -> bool {
    true
}
