//! Why an overlay does not become a layer.

use std::io;

use crate::ReadError;

/// Why [`write_layer`](crate::write_layer) failed. What was written is then no layer.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// The disk cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// There is no upper directory: no machine has ever written to the disk.
    #[error("no machine has written to the disk yet, so there is nothing to make a layer of; start the workspace once")]
    Empty,
    /// A file of the overlay cannot be in a layer.
    #[error("{path:?} {misfit}")]
    Entry {
        /// Its path in the workspace, with replacement characters where it is not UTF-8.
        path: String,
        /// Why.
        misfit: Misfit,
    },
    /// The layer costs more than is allowed.
    #[error(
        "the layer would have more than {limit} {what}; delete what is not needed in the workspace, or halt and shrink it"
    )]
    Limit {
        /// What ran out.
        what: &'static str,
        /// How much is allowed.
        limit: u64,
    },
    /// The layer cannot be written.
    #[error("cannot write the layer: {0}; see to it that there is room")]
    Write(#[source] io::Error),
    /// Nobody wants the layer any longer.
    #[error("the commit was cancelled")]
    Cancelled,
}

/// Why a file cannot be in a layer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// The directory was moved, and only its new name says from where.
    #[error(
        "was renamed by overlayfs with a redirect; a layer has no such thing: copy the directory and delete the old one"
    )]
    Redirect,
    /// The file has new attributes and the contents of a lower layer.
    #[error("has its contents in a lower layer (metacopy); a layer has no such thing: write the file anew")]
    Metacopy,
    /// The name means a deletion to who reads the layer.
    #[error("has a name that means a deletion in a layer (it begins with \".wh.\"); rename it")]
    WhiteoutName,
    /// The path is longer than a layer may have.
    #[error("is longer than 4096 bytes, or deeper than 256 directories; move it up")]
    TooLong,
    /// The attribute's name cannot be written.
    #[error("has the extended attribute {0:?}, whose name an archive cannot hold; remove it")]
    Xattr(String),
    /// Two names lead to one directory, or the name of one is twice in its parent: the disk is damaged.
    #[error("is there twice; the disk is damaged: check it with e2fsck")]
    Twice,
}

impl OverlayError {
    pub(super) fn entry(path: &[u8], misfit: Misfit) -> Self {
        // Messages stay readable.
        let shown = &path[..path.len().min(256)];
        Self::Entry { path: format!("/{}", String::from_utf8_lossy(shown)), misfit }
    }

    /// The stable code of the cause, in CamelCase.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Read(error) => error.category(),
            Self::Empty => "OverlayEmpty",
            Self::Entry { .. } => "OverlayEntryRefused",
            Self::Limit { .. } => "LayerTooLarge",
            Self::Write(source) => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "DiskFull",
                _ => "LayerWriteFailed",
            },
            Self::Cancelled => "Cancelled",
        }
    }
}
