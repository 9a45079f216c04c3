//! What the controller must remember of a workspace when it is killed: one file each, written before any effect that
//! depends on it.

use std::{path::PathBuf, sync::Arc};

use jiff::Timestamp;
use microagent_crds::Workspace;
use serde::{Deserialize, Serialize};

use crate::{Key, memory::Memory};

/// The durable record of one workspace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Record {
    /// Its name.
    pub key: Key,
    /// Made once, kept by name until the workspace is gone. A UUID of version 7.
    pub uid: String,
    /// Rises by one when, and only when, the canonical spec changes. Starts at 1.
    pub generation: i64,
    /// The hash of the canonical spec of this generation.
    pub spec_hash: String,
    /// The last good manifest, with defaults. The source has the same one: many workspaces are to be little memory.
    #[serde(with = "shared")]
    pub workspace: Arc<Workspace>,
    /// The manifest file it comes from.
    pub file: PathBuf,
    /// When the workspace was first seen.
    pub created_at: Timestamp,
    /// The tombstone: since when the workspace is to go. It is held until nothing of it is left on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<Timestamp>,
    /// Why the manifest as it is now is not the one that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
    /// Why its node has no room for it any more: what reserved the room is gone. The machine is not to run then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreserved: Option<String>,
    /// What `plan` remembers.
    #[serde(default)]
    pub memory: Memory,
}

impl Record {
    /// The manifest, to be changed for this record alone.
    pub fn workspace_mut(&mut self) -> &mut Workspace {
        Arc::make_mut(&mut self.workspace)
    }
}

/// Serde for what is shared in memory and written as itself.
mod shared {
    use super::{Arc, Deserialize, Serialize};

    pub(super) fn serialize<T: Serialize, S: serde::Serializer>(value: &Arc<T>, to: S) -> Result<S::Ok, S::Error> {
        value.as_ref().serialize(to)
    }

    pub(super) fn deserialize<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(
        from: D,
    ) -> Result<Arc<T>, D::Error> {
        T::deserialize(from).map(Arc::new)
    }
}

/// Why a manifest is not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Problem {
    /// A stable code in CamelCase, such as `InvalidManifest`, `NameConflict`, `NotSupported`.
    pub code: String,
    /// What, where, why and what to do; may have several lines.
    pub message: String,
}
