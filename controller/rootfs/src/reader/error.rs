//! Why a file system cannot be read.

use std::io;

/// Why the file system on a disk cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The disk file cannot be read, or ends too early.
    #[error("cannot read the disk at byte {at}: {source}")]
    Io {
        /// Where, in bytes from the start of the disk.
        at: u64,
        /// The reason that the system gave.
        source: io::Error,
    },
    /// It is sound as far as is known, and has what is not read here.
    #[error(
        "the file system has {what}, which is not read here; copy what you need out of the running workspace instead"
    )]
    Unsupported {
        /// What, by its name.
        what: String,
    },
    /// It contradicts itself.
    #[error(
        "the file system is damaged: {place}: {why}; start the workspace, which lets the kernel mend what can be mended, or check the disk with e2fsck"
    )]
    Damaged {
        /// Where.
        place: String,
        /// What is wrong there.
        why: &'static str,
    },
    /// The machine did not end cleanly, and what its kernel noted for that cannot be taken up here.
    #[error(
        "the machine was not halted cleanly and its journal cannot be replayed here: {why}; start the workspace and halt it, then try again"
    )]
    Journal {
        /// What is wrong with it, or not known.
        why: String,
    },
}

impl ReadError {
    pub(crate) fn damaged(place: impl Into<String>, why: &'static str) -> Self {
        Self::Damaged { place: place.into(), why }
    }

    /// The stable code of the cause.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Io { .. } => "DiskUnreadable",
            Self::Unsupported { .. } => "DiskUnsupported",
            Self::Damaged { .. } => "DiskDamaged",
            Self::Journal { .. } => "JournalNotReplayable",
        }
    }
}
