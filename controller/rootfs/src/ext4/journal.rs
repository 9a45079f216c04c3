//! The journal of a new disk: kernel, `Documentation/filesystems/ext4/journal.rst`. Big-endian, unlike the rest.

use super::{BLOCK, put};

/// Blocks of the journal for a disk of so many blocks, as `mke2fs` chooses up to 64 MiB. Larger ones would only take
/// more room on the host once they are used. None below 8 MiB: the kernel wants 1024 blocks at least.
pub(crate) fn journal_blocks(blocks: u32) -> Option<u32> {
    match blocks {
        0..2048 => None,
        2048..32_768 => Some(1024),
        32_768..262_144 => Some(4096),
        262_144..524_288 => Some(8192),
        _ => Some(16_384),
    }
}

/// The first block of an empty journal. All other blocks may be holes.
pub(crate) fn journal_superblock(blocks: u32) -> [u8; BLOCK] {
    let mut out = [0; BLOCK];
    put(&mut out, 0x00, 0xc03b_3998_u32.to_be_bytes());
    // A superblock of version 2.
    put(&mut out, 0x04, 4_u32.to_be_bytes());
    put(&mut out, 0x0c, (BLOCK as u32).to_be_bytes());
    put(&mut out, 0x10, blocks.to_be_bytes());
    // The log begins at block 1 with transaction 1; a start of 0 at 0x1c means that it is empty.
    put(&mut out, 0x14, 1_u32.to_be_bytes());
    put(&mut out, 0x18, 1_u32.to_be_bytes());
    // One file system uses it.
    put(&mut out, 0x40, 1_u32.to_be_bytes());
    out
}
