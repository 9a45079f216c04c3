//! The superblock.

use super::{FIRST_INODE, GROUP_BLOCKS, INODE, JOURNAL_INODE, checksum, put};

/// Bytes of the superblock.
pub(crate) const SUPERBLOCK: usize = 1024;

const COMPAT_HAS_JOURNAL: u32 = 0x4;
const COMPAT_EXT_ATTR: u32 = 0x8;
const COMPAT_DIR_INDEX: u32 = 0x20;
/// Copies of the superblock stand only where the superblock says, not at fixed places amid the contents.
const COMPAT_SPARSE_SUPER2: u32 = 0x200;
const INCOMPAT_FILETYPE: u32 = 0x2;
const INCOMPAT_EXTENTS: u32 = 0x40;
/// A group's structures may stand outside of it.
const INCOMPAT_FLEX_BG: u32 = 0x200;
const RO_LARGE_FILE: u32 = 0x2;
const RO_HUGE_FILE: u32 = 0x8;
const RO_DIR_NLINK: u32 = 0x20;
const RO_EXTRA_ISIZE: u32 = 0x40;
const RO_METADATA_CSUM: u32 = 0x400;
/// Mount with extended attributes and access control lists, as `mke2fs` sets it.
const DEFAULT_MOUNT_OPTIONS: u32 = 0x4 | 0x8;
/// Names are hashed as unsigned bytes.
const FLAG_UNSIGNED_HASH: u32 = 2;
const HASH_HALF_MD4: u8 = 1;

/// What differs between file systems.
#[derive(Clone, Debug)]
pub(crate) struct Superblock {
    pub(crate) blocks: u32,
    pub(crate) free_blocks: u32,
    pub(crate) inodes: u32,
    pub(crate) free_inodes: u32,
    pub(crate) group_inodes: u32,
    pub(crate) uuid: [u8; 16],
    pub(crate) hash_seed: [u8; 16],
    pub(crate) label: [u8; 16],
    /// Seconds since 1970.
    pub(crate) created: u32,
    pub(crate) journal: Option<Journal>,
    pub(crate) lost_and_found: Option<u32>,
    /// The groups with a copy of the superblock; 0 is none.
    pub(crate) copies: [u32; 2],
}

/// Where the journal is: a copy of the block map and size of its inode.
#[derive(Clone, Debug)]
pub(crate) struct Journal {
    pub(crate) map: [u8; 60],
    pub(crate) size: u64,
}

impl Superblock {
    /// The bytes of the superblock, or of its copy in another group.
    pub(crate) fn encode(&self, group: u32) -> [u8; SUPERBLOCK] {
        let mut out = [0; SUPERBLOCK];
        let mut compat = COMPAT_EXT_ATTR | COMPAT_DIR_INDEX | COMPAT_SPARSE_SUPER2;
        put(&mut out, 0x00, self.inodes.to_le_bytes());
        put(&mut out, 0x04, self.blocks.to_le_bytes());
        put(&mut out, 0x0c, self.free_blocks.to_le_bytes());
        put(&mut out, 0x10, self.free_inodes.to_le_bytes());
        // Block and cluster sizes, as the binary logarithm of KiB.
        put(&mut out, 0x18, 2_u32.to_le_bytes());
        put(&mut out, 0x1c, 2_u32.to_le_bytes());
        put(&mut out, 0x20, GROUP_BLOCKS.to_le_bytes());
        put(&mut out, 0x24, GROUP_BLOCKS.to_le_bytes());
        put(&mut out, 0x28, self.group_inodes.to_le_bytes());
        put(&mut out, 0x30, self.created.to_le_bytes());
        // Never check because of the number of mounts.
        put(&mut out, 0x36, u16::MAX.to_le_bytes());
        put(&mut out, 0x38, 0xef53_u16.to_le_bytes());
        // Clean; go on after errors.
        put(&mut out, 0x3a, 1_u16.to_le_bytes());
        put(&mut out, 0x3c, 1_u16.to_le_bytes());
        put(&mut out, 0x40, self.created.to_le_bytes());
        // Revision 1: features and inode sizes.
        put(&mut out, 0x4c, 1_u32.to_le_bytes());
        put(&mut out, 0x54, FIRST_INODE.to_le_bytes());
        put(&mut out, 0x58, (INODE as u16).to_le_bytes());
        put(&mut out, 0x5a, (group as u16).to_le_bytes());
        put(&mut out, 0x60, (INCOMPAT_FILETYPE | INCOMPAT_EXTENTS | INCOMPAT_FLEX_BG).to_le_bytes());
        let read_only = RO_LARGE_FILE | RO_HUGE_FILE | RO_DIR_NLINK | RO_EXTRA_ISIZE | RO_METADATA_CSUM;
        put(&mut out, 0x64, read_only.to_le_bytes());
        put(&mut out, 0x68, self.uuid);
        put(&mut out, 0x78, self.label);
        put(&mut out, 0xec, self.hash_seed);
        put(&mut out, 0xfc, [HASH_HALF_MD4]);
        put(&mut out, 0x100, DEFAULT_MOUNT_OPTIONS.to_le_bytes());
        put(&mut out, 0x108, self.created.to_le_bytes());
        // Room that every inode must have, and should have, behind its first 128 bytes.
        put(&mut out, 0x15c, 32_u16.to_le_bytes());
        put(&mut out, 0x15e, 32_u16.to_le_bytes());
        put(&mut out, 0x160, FLAG_UNSIGNED_HASH.to_le_bytes());
        // 16 groups share an allocation target, as mke2fs sets it.
        put(&mut out, 0x174, [4]);
        // CRC-32C.
        put(&mut out, 0x175, [1]);
        put(&mut out, 0x24c, self.copies[0].to_le_bytes());
        put(&mut out, 0x250, self.copies[1].to_le_bytes());
        put(&mut out, 0x268, self.lost_and_found.unwrap_or(0).to_le_bytes());
        if let Some(journal) = &self.journal {
            compat |= COMPAT_HAS_JOURNAL;
            put(&mut out, 0xe0, JOURNAL_INODE.to_le_bytes());
            // A copy of the journal's inode, in case the inode table is damaged. The journal's own UUID at 0xd0 stays
            // zero: any other value means an external journal.
            put(&mut out, 0xfd, [1]);
            put(&mut out, 0x10c, journal.map);
            put(&mut out, 0x10c + 60, ((journal.size >> 32) as u32).to_le_bytes());
            put(&mut out, 0x10c + 64, (journal.size as u32).to_le_bytes());
        }
        put(&mut out, 0x5c, compat.to_le_bytes());
        let sum = checksum(!0, &out[..0x3fc]);
        put(&mut out, 0x3fc, sum.to_le_bytes());
        out
    }
}
