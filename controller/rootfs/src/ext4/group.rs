//! Block group descriptors.

use super::{BLOCK, checksum, inode_bitmap, put};

/// Bytes of a descriptor without the `64bit` feature.
pub(crate) const DESCRIPTOR: usize = 32;
/// No inode of the group is in use and its bitmap was never written.
const INODE_UNINIT: u16 = 1;
/// No block of the group is in use but for its own structures, and its bitmap was never written.
const BLOCK_UNINIT: u16 = 2;
/// The inode table is zero where it is not in use: the kernel need not clear it.
pub(crate) const INODE_ZEROED: u16 = 4;

/// What a descriptor tells of a group.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Group {
    pub(crate) block_bitmap: u32,
    pub(crate) inode_bitmap: u32,
    pub(crate) inode_table: u32,
    pub(crate) free_blocks: u32,
    pub(crate) free_inodes: u32,
    pub(crate) directories: u32,
    pub(crate) flags: u16,
    /// Checksums of the bitmaps, as 32 bits; zero for bitmaps never written.
    pub(crate) block_bitmap_checksum: u32,
    pub(crate) inode_bitmap_checksum: u32,
    /// Inodes at the end of the table that were never in use.
    pub(crate) unused_inodes: u32,
}

impl Group {
    /// Writes the bitmaps by `write(block, bytes)` and tells of them in the descriptor. A bitmap of nothing but free blocks or
    /// inodes is not written: the descriptor says that it would be all zeros.
    pub(crate) fn write_bitmaps<E>(
        &mut self,
        blocks: Option<&[u8; BLOCK]>,
        used_inodes: u32,
        all_inodes: u32,
        seed: u32,
        write: impl Fn(u32, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        match blocks {
            Some(bitmap) => {
                self.block_bitmap_checksum = checksum(seed, bitmap);
                write(self.block_bitmap, bitmap)?;
            }
            None => self.flags |= BLOCK_UNINIT,
        }
        if used_inodes > 0 {
            let bitmap = inode_bitmap(used_inodes, all_inodes);
            self.inode_bitmap_checksum = checksum(seed, &bitmap[..all_inodes as usize / 8]);
            write(self.inode_bitmap, &bitmap)?;
        } else {
            self.flags |= INODE_UNINIT;
        }
        Ok(())
    }
}

/// All descriptors, filled up to whole blocks.
pub(crate) fn descriptor_table(seed: u32, groups: &[Group]) -> Vec<u8> {
    let mut table = vec![0; (groups.len() * DESCRIPTOR).next_multiple_of(BLOCK)];
    for (number, (group, out)) in groups.iter().zip(table.chunks_exact_mut(DESCRIPTOR)).enumerate() {
        put(out, 0x00, group.block_bitmap.to_le_bytes());
        put(out, 0x04, group.inode_bitmap.to_le_bytes());
        put(out, 0x08, group.inode_table.to_le_bytes());
        // 32,768 at most: all of these fit 16 bits.
        put(out, 0x0c, (group.free_blocks as u16).to_le_bytes());
        put(out, 0x0e, (group.free_inodes as u16).to_le_bytes());
        put(out, 0x10, (group.directories as u16).to_le_bytes());
        put(out, 0x12, group.flags.to_le_bytes());
        put(out, 0x18, (group.block_bitmap_checksum as u16).to_le_bytes());
        put(out, 0x1a, (group.inode_bitmap_checksum as u16).to_le_bytes());
        put(out, 0x1c, (group.unused_inodes as u16).to_le_bytes());
        let sum = checksum(checksum(seed, &(number as u32).to_le_bytes()), out);
        put(out, 0x1e, (sum as u16).to_le_bytes());
    }
    table
}
