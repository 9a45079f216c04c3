//! Why a copy fails.

use std::{io, path::PathBuf};

/// What ended the unpacking of an archive.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream that the archive comes from.
    #[error("the archive cannot be read on: {0}")]
    Stream(io::Error),
    /// It is no archive, or was cut off.
    #[error("the archive is broken at byte {at}: {problem}")]
    Broken {
        /// Bytes from its start.
        at: u64,
        /// What is wrong.
        problem: String,
    },
    /// An entry that is not unpacked.
    #[error("the archive's entry {name:?} is refused: {problem}")]
    Refused {
        /// Its name, as far as it is text.
        name: String,
        /// Why.
        problem: String,
    },
    /// Nothing can be copied to this place.
    #[error("cannot copy to {}: {problem}", path.display())]
    Destination {
        /// The place.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// The file system refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    Failed {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl Error {
    /// A stable code.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Stream(_) => "StreamFailed",
            Self::Broken { .. } => "ArchiveBroken",
            Self::Refused { .. } => "EntryRefused",
            Self::Destination { .. } => "DestinationUnusable",
            Self::Failed { .. } => "CopyFailed",
        }
    }
}
