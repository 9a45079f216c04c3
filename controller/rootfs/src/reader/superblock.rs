//! The superblock: sizes, features, and what checksums start from.

use std::{fs::File, os::unix::fs::FileExt};

use super::{error::ReadError, le16, le32, wide};
use crate::ext4::{SUPERBLOCK, checksum, fs_seed};

/// Where it stands, in bytes.
pub(super) const OFFSET: u64 = 1024;

const MAGIC: u16 = 0xef53;
const COMPAT_HAS_JOURNAL: u32 = 0x4;
const INCOMPAT_FILETYPE: u32 = 0x2;
const INCOMPAT_RECOVER: u32 = 0x4;
const INCOMPAT_64BIT: u32 = 0x80;
const INCOMPAT_CSUM_SEED: u32 = 0x2000;
const RO_METADATA_CSUM: u32 = 0x400;
/// What a reader must know of and does: file types in directories, a journal, extents, wide block numbers, structures
/// outside their groups, a block that keeps two hosts apart, a checksum seed of its own, large directories.
const KNOWN: u32 = 0x2 | 0x4 | 0x40 | 0x80 | 0x100 | 0x200 | 0x2000 | 0x4000;
/// The names of the others, as tune2fs(8) has them.
const NAMES: [(u32, &str); 8] = [
    (0x1, "compression"),
    (0x8, "journal_dev"),
    (0x10, "meta_bg"),
    (0x400, "ea_inode"),
    (0x1000, "dirdata"),
    (0x8000, "inline_data"),
    (0x1_0000, "encrypt"),
    (0x2_0000, "casefold"),
];
/// What an ext4 of Linux can have in `s_log_block_size`: 1 to 64 KiB.
const MAX_LOG_BLOCK: u32 = 6;

/// What is used of a superblock.
#[derive(Clone, Debug)]
pub(super) struct Superblock {
    /// In bytes: a power of two from 1 KiB to 64 KiB.
    pub(super) block_size: u32,
    pub(super) blocks: u64,
    /// The block with the superblock: 1 for blocks of 1 KiB, else 0.
    pub(super) first_block: u32,
    pub(super) inodes: u32,
    pub(super) group_inodes: u32,
    /// In bytes.
    pub(super) inode_size: usize,
    /// The first inode that is not reserved.
    pub(super) first_inode: u32,
    /// In bytes.
    pub(super) descriptor_size: usize,
    /// 0 is none.
    pub(super) journal_inode: u32,
    pub(super) needs_recovery: bool,
    pub(super) has_checksums: bool,
    /// Directory entries tell the types of files.
    pub(super) has_types: bool,
    /// What all checksums start from.
    pub(super) seed: u32,
}

impl Superblock {
    pub(super) fn read(file: &File) -> Result<Self, ReadError> {
        let mut bytes = [0; SUPERBLOCK];
        file.read_exact_at(&mut bytes, OFFSET).map_err(|source| ReadError::Io { at: OFFSET, source })?;
        Self::parse(&bytes)
    }

    pub(super) fn parse(bytes: &[u8; SUPERBLOCK]) -> Result<Self, ReadError> {
        let bad = |why| Err(ReadError::damaged("the superblock", why));
        if le16(bytes, 0x38) != MAGIC {
            return bad("there is no ext4 file system");
        }
        let (compat, incompat, read_only) = (le32(bytes, 0x5c), le32(bytes, 0x60), le32(bytes, 0x64));
        refuse_unknown(incompat)?;
        if le32(bytes, 0x4c) != 1 {
            return Err(ReadError::Unsupported { what: format!("revision {}", le32(bytes, 0x4c)) });
        }
        let has_checksums = read_only & RO_METADATA_CSUM != 0;
        if has_checksums {
            if bytes[0x175] != 1 {
                return Err(ReadError::Unsupported { what: format!("checksums of type {}", bytes[0x175]) });
            }
            if le32(bytes, 0x3fc) != checksum(!0, &bytes[..0x3fc]) {
                return bad("its checksum is wrong");
            }
        }
        let log = le32(bytes, 0x18);
        if log > MAX_LOG_BLOCK {
            return bad("the block size is none that ext4 has");
        }
        let block_size = 1024_u32 << log;
        let first_block = le32(bytes, 0x14);
        if first_block != u32::from(log == 0) {
            return bad("the first block is not where it belongs");
        }
        let is_wide = incompat & INCOMPAT_64BIT != 0;
        let blocks = wide(if is_wide { le32(bytes, 0x150) } else { 0 }, le32(bytes, 0x04));
        // Every byte of the file system has a number of 63 bits.
        if blocks <= u64::from(first_block) || blocks.checked_mul(u64::from(block_size)).is_none_or(|b| b >> 63 != 0) {
            return bad("the number of blocks cannot be");
        }
        let (group_blocks, group_inodes, inodes) = (le32(bytes, 0x20), le32(bytes, 0x28), le32(bytes, 0x00));
        // With `bigalloc` a bit of the block bitmap stands for many blocks.
        if group_blocks == 0 || !(1..=8 * block_size).contains(&group_inodes) {
            return bad("the groups cannot be");
        }
        let groups = (blocks - u64::from(first_block)).div_ceil(u64::from(group_blocks));
        if u64::from(inodes) != groups * u64::from(group_inodes) {
            return bad("the number of inodes is not that of its groups");
        }
        let inode_size = usize::from(le16(bytes, 0x58));
        if !inode_size.is_power_of_two() || !(128..=block_size as usize).contains(&inode_size) {
            return bad("the inode size cannot be");
        }
        let descriptor_size = if is_wide { usize::from(le16(bytes, 0xfe)) } else { 32 };
        if is_wide && (!descriptor_size.is_power_of_two() || !(64..=1024).contains(&descriptor_size)) {
            return bad("the descriptor size cannot be");
        }
        let table = groups.checked_mul(descriptor_size as u64).map(|bytes| bytes.div_ceil(u64::from(block_size)));
        if table.is_none_or(|table| u64::from(first_block) + 1 + table > blocks) {
            return bad("the descriptors do not fit the disk");
        }
        let uuid = bytes[0x68..].first_chunk().copied().unwrap_or([0; 16]);
        let seed = if incompat & INCOMPAT_CSUM_SEED != 0 { le32(bytes, 0x270) } else { fs_seed(&uuid) };
        Ok(Self {
            block_size,
            blocks,
            first_block,
            inodes,
            group_inodes,
            inode_size,
            first_inode: le32(bytes, 0x54).max(11),
            descriptor_size,
            journal_inode: if compat & COMPAT_HAS_JOURNAL != 0 { le32(bytes, 0xe0) } else { 0 },
            needs_recovery: incompat & INCOMPAT_RECOVER != 0,
            has_checksums,
            has_types: incompat & INCOMPAT_FILETYPE != 0,
            seed,
        })
    }
}

fn refuse_unknown(incompat: u32) -> Result<(), ReadError> {
    let unknown = incompat & !KNOWN;
    if unknown == 0 {
        return Ok(());
    }
    let what = match NAMES.iter().find(|(bit, _)| unknown & bit != 0) {
        Some((_, name)) => format!("the feature {name}"),
        None => format!("features of the unknown bits {unknown:#x}"),
    };
    Err(ReadError::Unsupported { what })
}
