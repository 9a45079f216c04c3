//! How much a hostile image may cost.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::LayerError;

/// Longest path of an entry, in bytes: `PATH_MAX` of Linux, with its closing NUL.
pub(crate) const MAX_PATH: usize = 4096;
/// Longest name in a directory, in bytes: the field in an ext4 directory entry is one byte.
pub(crate) const MAX_NAME: usize = 255;
/// Deepest directory. Far above what real trees need, and low enough that a path of it can still be opened.
pub(crate) const MAX_DEPTH: u32 = 256;
/// Longest symbolic link target, in bytes: it must fit one block with its closing NUL.
pub(crate) const MAX_SYMLINK: usize = 4095;
/// Longest extended header of an archive, in bytes. Real ones are below 100 KiB even with many attributes.
pub(crate) const MAX_EXTENDED_HEADER: u64 = 1 << 20;
/// Most pieces of one sparse file. 16 bytes of memory each, while the file is read.
pub(crate) const MAX_SPARSE_PIECES: usize = 1 << 18;
/// Most names of one inode: `EXT4_LINK_MAX`.
pub(crate) const MAX_LINKS: u32 = 65_000;
/// Largest file, in bytes: logical block numbers of ext4 have 32 bits, and the last one is not used.
pub(crate) const MAX_FILE: u64 = (u32::MAX as u64) * 4096;

/// What an image may cost before it is refused. Totals over all layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Decompressed archive bytes; also bytes of files on the disk, which small files and the pieces of sparse ones
    /// take in whole blocks.
    pub max_content_bytes: u64,
    /// Archive entries, whiteouts included.
    pub max_entries: u64,
    /// Bytes of memory for names, link targets, extended attributes and block lists.
    pub max_metadata_bytes: u64,
}

impl Default for Limits {
    /// 64 GiB of content, two million entries, 1 GiB of metadata: several times the largest images in use.
    fn default() -> Self {
        Self { max_content_bytes: 64 << 30, max_entries: 2_000_000, max_metadata_bytes: 1 << 30 }
    }
}

/// What is left of the limits, shared by all layers under way.
#[derive(Debug)]
pub(crate) struct Budget {
    limits: Limits,
    content: AtomicU64,
    stored: AtomicU64,
    entries: AtomicU64,
    metadata: AtomicU64,
}

impl Budget {
    pub(crate) fn new(limits: Limits) -> Self {
        let [content, stored, entries, metadata] = [const { AtomicU64::new(0) }; 4];
        Self { limits, content, stored, entries, metadata }
    }

    pub(crate) fn content(&self, bytes: u64) -> Result<(), LayerError> {
        take(&self.content, bytes, self.limits.max_content_bytes, "bytes of decompressed content")
    }

    pub(crate) fn stored(&self, bytes: u64) -> Result<(), LayerError> {
        take(&self.stored, bytes, self.limits.max_content_bytes, "bytes of files on the disk")
    }

    pub(crate) fn entry(&self) -> Result<(), LayerError> {
        take(&self.entries, 1, self.limits.max_entries, "archive entries")
    }

    pub(crate) fn metadata(&self, bytes: usize) -> Result<(), LayerError> {
        take(&self.metadata, bytes as u64, self.limits.max_metadata_bytes, "bytes of names and attributes")
    }

    pub(crate) fn used_entries(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }
}

fn take(used: &AtomicU64, amount: u64, limit: u64, what: &'static str) -> Result<(), LayerError> {
    let before = used.fetch_add(amount, Ordering::Relaxed);
    if before.saturating_add(amount) > limit { Err(LayerError::Limit { what, limit }) } else { Ok(()) }
}
