//! Why a disk could not be made.

use std::{fmt, io};

use microagent_base::Digest;

/// Why [`build`](crate::build) or [`format()`](crate::format()) failed. The output is then of no use and should be removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk file could not be written.
    #[error("cannot {action} the disk file: {source}; see to it that its file system has room and is writable")]
    Disk {
        /// The verb of the failed step.
        action: &'static str,
        /// The reason the system gave.
        source: io::Error,
    },
    /// The output has content already.
    #[error("the disk file has {length} bytes already; give an empty file")]
    NotEmpty {
        /// Its length in bytes.
        length: u64,
    },
    /// The label is longer than ext4 can hold.
    #[error("the volume label {label:?} is longer than 16 bytes; shorten it")]
    Label {
        /// The label.
        label: String,
    },
    /// The size is one that an empty disk cannot have.
    #[error("a disk of {size} bytes cannot be made; ask for 1 MiB to 16 TiB")]
    Size {
        /// The size asked for, in bytes.
        size: u64,
    },
    /// The merged image does not fit one file system.
    #[error("the image needs more {what} than one ext4 file system has ({limit}); use a smaller image")]
    TooLarge {
        /// What ran out.
        what: &'static str,
        /// How much of it there is.
        limit: u64,
    },
    /// A layer is at fault.
    #[error("{layer}: {cause}")]
    Layer {
        /// Which one.
        layer: LayerName,
        /// What is wrong with it.
        #[source]
        cause: LayerError,
    },
    /// Nobody wants the disk any longer.
    #[error("the build was cancelled")]
    Cancelled,
    /// A worker thread could not be started or ended without a result.
    #[error("a worker thread failed: {0}; try again when the host has more memory and threads")]
    Thread(String),
}

/// A layer, as messages name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerName {
    /// Its place in the manifest, from 0.
    pub index: usize,
    /// The digest of its blob, as the manifest gives it.
    pub digest: Digest,
}

impl fmt::Display for LayerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "layer {} ({})", self.index + 1, self.digest)
    }
}

/// What is wrong with a layer.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The blob's reader failed.
    #[error("cannot read the blob: {0}; try again")]
    Read(#[source] io::Error),
    /// The blob does not have the size that the manifest names.
    #[error("the blob has {actual} bytes, or more, where the manifest says {expected}; pull the image again")]
    Size {
        /// Bytes, by the manifest.
        expected: u64,
        /// Bytes read when that was noticed.
        actual: u64,
    },
    /// The blob is not the one that the manifest names.
    #[error("the blob's digest is {actual}, not what the manifest says; pull the image again")]
    Digest {
        /// What the bytes hash to.
        actual: Digest,
    },
    /// The decompressed layer is not the one that the image configuration names.
    #[error(
        "the decompressed digest is {actual}, but the image configuration says {expected}; the image is broken: have it built again"
    )]
    DiffId {
        /// By the image configuration.
        expected: Digest,
        /// What the bytes hash to.
        actual: Digest,
    },
    /// The compressed stream is damaged.
    #[error("cannot decompress the blob: {0}; the image is broken: have it built again")]
    Decompress(#[source] io::Error),
    /// A compression that image layers do not use.
    #[error("the blob is compressed with {0}; layers can be plain, gzip or zstd")]
    Compression(&'static str),
    /// The archive breaks the format between entries.
    #[error("the archive is broken at byte {offset}: {problem}")]
    Archive {
        /// Offset in the decompressed layer.
        offset: u64,
        /// What is wrong.
        #[source]
        problem: Problem,
    },
    /// An entry cannot be taken.
    #[error("entry {path:?}: {problem}")]
    Entry {
        /// The entry's path, with replacement characters where it is not UTF-8.
        path: String,
        /// What is wrong.
        #[source]
        problem: Problem,
    },
    /// The image costs more than was allowed.
    #[error("the image has more than {limit} {what}; use a smaller image or raise the limit")]
    Limit {
        /// What ran out.
        what: &'static str,
        /// How much was allowed.
        limit: u64,
    },
    /// The disk has no room for the layer's contents.
    #[error("cannot write the disk file: {0}; see to it that its file system has room and is writable")]
    Write(#[source] io::Error),
    /// The layer's contents pass the end of the largest possible file system.
    #[error("the contents pass the 16 TiB that one ext4 file system can have; use a smaller image")]
    TooLarge,
    /// The build was cancelled, or another layer failed.
    #[error("stopped")]
    Stopped,
    /// The thread that hashes could not be started or is gone.
    #[error("the hashing thread failed: {0}")]
    Thread(String),
}

impl LayerError {
    pub(crate) fn entry(path: &[u8], problem: Problem) -> Self {
        // A path may be as long as a hostile header: messages stay readable.
        let shown = &path[..path.len().min(256)];
        Self::Entry { path: String::from_utf8_lossy(shown).into_owned(), problem }
    }
}

/// What is wrong with an archive or with one of its entries.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The archive ends inside a header or a file.
    #[error("it ends too early")]
    Truncated,
    /// The header's checksum is wrong.
    #[error("the header's checksum is wrong")]
    Checksum,
    /// A numeric field cannot be read, or is out of range.
    #[error("the field {0} is not a number in range")]
    Number(&'static str),
    /// An entry type outside the formats that are read.
    #[error("entries of type {0:?} are not known")]
    Type(char),
    /// An extended header is larger than 1 MiB.
    #[error("an extended header has {0} bytes; at most 1048576 are read")]
    ExtendedHeader(u64),
    /// A PAX record breaks the format.
    #[error("a PAX record is malformed")]
    Pax,
    /// The map of a sparse file contradicts itself.
    #[error("the map of the sparse file is malformed")]
    Sparse,
    /// A path is empty.
    #[error("a path is empty")]
    EmptyPath,
    /// A path has a NUL byte.
    #[error("a path has a NUL byte")]
    Nul,
    /// A path has a `..` component.
    #[error("a path has a \"..\" component")]
    Parent,
    /// A path is longer than 4096 bytes.
    #[error("a path is longer than 4096 bytes")]
    PathTooLong,
    /// A name is longer than 255 bytes.
    #[error("a name is longer than 255 bytes")]
    NameTooLong,
    /// Directories are nested deeper than 256.
    #[error("directories are nested deeper than 256")]
    TooDeep,
    /// The root of the image is not a directory.
    #[error("the root can only be a directory")]
    Root,
    /// A whiteout that names no plain file name.
    #[error("the whiteout does not name a file")]
    Whiteout,
    /// A symbolic link target that is empty, has a NUL byte or more than 4095 bytes.
    #[error("a symbolic link needs a target of 1 to 4095 bytes without NUL")]
    SymlinkTarget,
    /// The target of a hard link is not there.
    #[error("the target {0:?} of the hard link is not there")]
    LinkMissing(String),
    /// The target of a hard link is a directory.
    #[error("the target {0:?} of the hard link is a directory")]
    LinkToDirectory(String),
    /// A hard link to itself.
    #[error("the hard link is its own target")]
    LinkToItself,
    /// An inode has more than 65,000 names.
    #[error("the file has more than 65000 hard links")]
    TooManyLinks,
    /// A component of the path exists and is no directory.
    #[error("a directory of the path is a file")]
    ParentNotDirectory,
    /// More than 40 symbolic links on the way.
    #[error("the path passes more than 40 symbolic links")]
    SymlinkLoop,
    /// All paths of the image together lead through too many or too long symbolic links.
    #[error("the paths of the image lead through more than 4 GiB of symbolic link targets")]
    SymlinkWork,
    /// A device number outside 12 bits of major and 20 bits of minor.
    #[error("the device number is out of range")]
    Device,
    /// The character device 0:0, which overlayfs takes for a whiteout.
    #[error("the character device 0:0 means \"deleted\" to overlayfs and cannot be in an image")]
    WhiteoutDevice,
    /// The extended attributes do not fit the inode and one block.
    #[error("the extended attributes do not fit one block of 4096 bytes")]
    XattrsTooLarge,
    /// An extended attribute has a name or value that the kernel would refuse.
    #[error("the extended attribute {0:?} is malformed")]
    Xattr(String),
    /// The file is larger than ext4 can hold.
    #[error("the file is larger than 16 TiB")]
    FileTooLarge,
}

impl Error {
    /// The stable code of the cause, in CamelCase, for conditions, metrics and scripts.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Disk { source, .. } => disk_category(source),
            Self::NotEmpty { .. } => "DiskNotEmpty",
            Self::Label { .. } => "DiskLabelInvalid",
            Self::Size { .. } => "DiskSizeInvalid",
            Self::TooLarge { .. } => "ImageTooLarge",
            Self::Cancelled => "Cancelled",
            Self::Thread(_) => "ThreadFailed",
            Self::Layer { cause, .. } => match cause {
                LayerError::Read(_) => "LayerUnreadable",
                LayerError::Size { .. } => "LayerSizeMismatch",
                LayerError::Digest { .. } => "LayerDigestMismatch",
                LayerError::DiffId { .. } => "LayerDiffIdMismatch",
                LayerError::Decompress(_) | LayerError::Archive { .. } => "LayerCorrupt",
                LayerError::Compression(_) => "LayerCompressionUnsupported",
                LayerError::Entry { .. } => "LayerEntryRefused",
                LayerError::Limit { .. } | LayerError::TooLarge => "ImageTooLarge",
                LayerError::Write(source) => disk_category(source),
                LayerError::Stopped => "Cancelled",
                LayerError::Thread(_) => "ThreadFailed",
            },
        }
    }

    pub(crate) fn disk(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Disk { action, source }
    }
}

fn disk_category(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "DiskFull",
        _ => "DiskWriteFailed",
    }
}
