//! Where the structures of an image's disk are.

use crate::{
    error::Error,
    ext4::{DESCRIPTORS_PER_BLOCK, GROUP_BLOCKS, INODES_PER_BLOCK, MAX_GROUP_INODES},
};

/// Where contents may begin: behind the superblock and the descriptors of the largest possible file system.
pub(crate) const FIRST_DATA_BLOCK: u32 = 1 + (1 << 17) / DESCRIPTORS_PER_BLOCK;
/// The disk ends on a multiple of this many blocks: 1 MiB.
const GRAIN: u64 = 256;
/// A file system cannot have more blocks.
pub(crate) const TOO_MANY_BLOCKS: Error = Error::TooLarge { what: "blocks", limit: u32::MAX as u64 };

/// Where the structures behind the contents are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) blocks: u32,
    pub(crate) groups: u32,
    pub(crate) group_inodes: u32,
    pub(crate) inode_table: u32,
    pub(crate) block_bitmaps: u32,
    pub(crate) inode_bitmaps: u32,
}

impl Layout {
    /// For tables that begin at a block and hold inodes up to a number.
    pub(crate) fn new(start: u32, last_inode: u32) -> Result<Self, Error> {
        let mut groups = u64::from(last_inode.div_ceil(MAX_GROUP_INODES));
        loop {
            let group_inodes = u64::from(last_inode).div_ceil(groups).next_multiple_of(INODES_PER_BLOCK.into());
            let table = groups * group_inodes / u64::from(INODES_PER_BLOCK);
            let end = u64::from(start) + table + 2 * groups;
            // Many inodes without contents may need more groups than blocks would.
            let least = (groups - 1) * u64::from(GROUP_BLOCKS) + GRAIN;
            let blocks = end.next_multiple_of(GRAIN).max(least);
            let needed = blocks.div_ceil(GROUP_BLOCKS.into());
            if needed > groups {
                groups = needed;
                continue;
            }
            let block = |at| u32::try_from(at).map_err(|_| TOO_MANY_BLOCKS);
            return Ok(Self {
                blocks: block(blocks)?,
                groups: block(groups)?,
                group_inodes: block(group_inodes)?,
                inode_table: start,
                block_bitmaps: block(u64::from(start) + table)?,
                inode_bitmaps: block(u64::from(start) + table + groups)?,
            });
        }
    }

    pub(crate) fn end(&self) -> u32 {
        self.inode_bitmaps + self.groups
    }

    pub(crate) fn descriptor_blocks(&self) -> u32 {
        self.groups.div_ceil(DESCRIPTORS_PER_BLOCK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_always_has_room_for_its_own_structures() {
        for (start, inodes) in [(1025, 11), (32_767, 11), (32_768 - 200, 500), (5, 2_000_000), (40_000_000, 100_000)] {
            let layout = Layout::new(start, inodes).unwrap();
            assert!(layout.end() <= layout.blocks, "{layout:?}");
            assert!(layout.groups * layout.group_inodes >= inodes);
            assert!(layout.group_inodes <= MAX_GROUP_INODES);
            assert_eq!(layout.groups, layout.blocks.div_ceil(GROUP_BLOCKS));
            assert_eq!(layout.block_bitmaps - layout.inode_table, layout.groups * layout.group_inodes / 16);
        }
    }
}
