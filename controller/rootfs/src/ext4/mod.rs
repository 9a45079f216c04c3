//! The structures of ext4 as bytes: kernel, `Documentation/filesystems/ext4`. Pure functions; nothing here does I/O.
//!
//! Both kinds of disk have 4 KiB blocks, 256-byte inodes and metadata checksums. Neither has `64bit`, which only disks
//! above 16 TiB need.

mod acl;
mod bitmap;
mod dir;
mod extent;
mod group;
mod hash;
mod htree;
mod inode;
mod journal;
mod superblock;
mod xattr;

pub(crate) use acl::from_disk as acl_from_disk;
pub(crate) use bitmap::{BlockMap, inode_bitmap};
pub(crate) use dir::{Name, directory_blocks};
pub(crate) use extent::ExtentTree;
pub(crate) use group::{Group, INODE_ZEROED, descriptor_table};
pub(crate) use htree::MAX_LEAVES;
pub(crate) use inode::{FLAG_EXTENTS, FLAG_INDEX, Inode, Payload, kind};
pub(crate) use journal::{journal_blocks, journal_superblock};
pub(crate) use superblock::{Journal, SUPERBLOCK, Superblock};
pub(crate) use xattr::{Xattr, acceptable_xattrs, attribute_block, inline_attributes};

/// Bytes in a block.
pub(crate) const BLOCK: usize = 4096;
/// Bytes in an inode.
pub(crate) const INODE: usize = 256;
/// Inodes in a block of an inode table.
pub(crate) const INODES_PER_BLOCK: u32 = (BLOCK / INODE) as u32;
/// Blocks in a group: one bitmap block has a bit for each.
pub(crate) const GROUP_BLOCKS: u32 = 8 * BLOCK as u32;
/// Most inodes in a group, for the same reason.
pub(crate) const MAX_GROUP_INODES: u32 = 8 * BLOCK as u32;
/// Group descriptors in a block.
pub(crate) const DESCRIPTORS_PER_BLOCK: u32 = (BLOCK / group::DESCRIPTOR) as u32;
/// The root directory's inode.
pub(crate) const ROOT_INODE: u32 = 2;
/// The journal's inode.
pub(crate) const JOURNAL_INODE: u32 = 8;
/// The first inode that is not reserved.
pub(crate) const FIRST_INODE: u32 = 11;

/// Puts little-endian bytes at a fixed place of a structure.
pub(crate) fn put<const N: usize>(structure: &mut [u8], at: usize, bytes: [u8; N]) {
    structure[at..at + N].copy_from_slice(&bytes);
}

/// The CRC-32C of ext4: started from a seed and not inverted at the end.
pub(crate) fn checksum(seed: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, bytes)
}

/// The seed of all checksums of a file system.
pub(crate) fn fs_seed(uuid: &[u8; 16]) -> u32 {
    checksum(!0, uuid)
}

/// The seed of the checksums of an inode that is written here, and of its directory and extent blocks: generations are all
/// zero.
pub(crate) fn inode_seed(fs_seed: u32, number: u32) -> u32 {
    inode_seed_of(fs_seed, number, 0)
}

/// The seed of the checksums of an inode of this generation, and of its directory and extent blocks.
pub(crate) fn inode_seed_of(fs_seed: u32, number: u32, generation: u32) -> u32 {
    checksum(checksum(fs_seed, &number.to_le_bytes()), &generation.to_le_bytes())
}
