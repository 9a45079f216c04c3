//! The folder source: what the manifests of a folder ask for, as complete snapshots, never as changes.
//!
//! Hints of the file system ([`watch`]) only hasten a look; what counts is the look itself ([`FolderSource::scan`]).
//! Nothing in the folder is ever written, moved or deleted.

mod document;
mod folder;
mod look;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use microagent_crds::{Reason, Workspace};
use serde::{Deserialize, Serialize};

use crate::{Key, Problem};

pub use folder::{FolderSource, MAX_FILES, PATIENCE, QUIET, QUIET_UNANNOUNCED};
pub use look::{MAX_FILE, is_manifest_name};
pub use watch::{Hint, HintReason, watch};

/// What one look at a folder found.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The folder.
    pub dir: PathBuf,
    /// When the look began, on the clock that never jumps.
    pub at: Instant,
    /// Whether the whole folder was listed, and was the same one before and after. Of an incomplete snapshot nothing
    /// but `reason` counts: least of all what it lacks.
    pub complete: bool,
    /// Which directory was listed.
    pub identity: Option<DirId>,
    /// Why the snapshot is not complete.
    pub reason: Option<Problem>,
    /// Whether there is nothing at the folder's path.
    pub missing: bool,
    /// What is in the folder: the same one as of the look before when nothing changed.
    pub listing: Arc<Listing>,
    /// Whether every file is as it was read. Where not, its last reading counts until two looks agree, and what is
    /// absent proves nothing.
    pub settled: bool,
    /// The files that are not as they were read, each since when.
    pub changing: BTreeMap<Arc<Path>, Instant>,
    /// When to look again even though nothing hints at it.
    pub retry_in: Option<Duration>,
}

/// What is in a folder.
#[derive(Debug, Default)]
pub struct Listing {
    /// What the documents declare, by name.
    pub entries: BTreeMap<Key, Entry>,
    /// The files with documents from which not even a name could be had, each with why.
    pub problems: BTreeMap<PathBuf, Problem>,
    /// All manifest files that are there, whatever is in them.
    pub files: BTreeSet<Arc<Path>>,
}

/// What a folder says of one workspace.
#[derive(Clone, Debug)]
pub enum Entry {
    /// One valid document.
    Valid {
        /// The workspace, with defaults.
        workspace: Arc<Workspace>,
        /// The hash of its canonical spec, made once when the file is read.
        spec_hash: Arc<str>,
        /// The file that declares it.
        file: Arc<Path>,
    },
    /// A document that is wrong, or more than one document.
    Invalid {
        /// Why.
        problem: Problem,
        /// All files that declare it.
        files: Vec<Arc<Path>>,
    },
}

impl Entry {
    /// The files that declare the workspace.
    #[must_use]
    pub fn files(&self) -> &[Arc<Path>] {
        match self {
            Self::Valid { file, .. } => std::slice::from_ref(file),
            Self::Invalid { files, .. } => files,
        }
    }

    /// Whether both are of the same readings of the same files.
    pub(crate) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Valid { workspace: a, file: x, .. }, Self::Valid { workspace: b, file: y, .. }) => {
                Arc::ptr_eq(a, b) && x == y
            }
            (Self::Invalid { problem: a, files: x }, Self::Invalid { problem: b, files: y }) => a == b && x == y,
            _ => false,
        }
    }
}

/// Which directory a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirId {
    /// The device.
    pub dev: u64,
    /// The inode number on it.
    pub ino: u64,
    /// When the directory was made, in nanoseconds since 1970, where the file system knows: some file systems give the
    /// number of a deleted directory to the next one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub born: Option<u64>,
}

/// Why one name that is declared more than once is not taken, with what to do.
pub(crate) fn duplicate(key: &Key, files: &[Arc<Path>]) -> Problem {
    let mut places: Vec<String> = Vec::new();
    for (at, file) in files.iter().enumerate() {
        if files[..at].contains(file) {
            continue;
        }
        let times = files.iter().filter(|f| *f == file).count();
        places.push(match times {
            1 => file.display().to_string(),
            _ => format!("{} ({times} documents)", file.display()),
        });
    }
    Problem {
        code: Reason::NameConflict.as_str().to_owned(),
        message: format!(
            "workspace {key} is declared {} times, in {}: none of them is taken, and what runs stays as it is; \
             keep one, or give the others a name of their own",
            files.len(),
            places.join(" and in ")
        ),
    }
}
