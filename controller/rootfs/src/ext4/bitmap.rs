//! Bitmaps of blocks and inodes.

use super::{BLOCK, GROUP_BLOCKS};

/// Which blocks are in use. Groups without any cost nothing: a sparse disk has many.
#[derive(Debug)]
pub(crate) struct BlockMap {
    groups: Vec<Option<Box<[u8; BLOCK]>>>,
}

impl BlockMap {
    /// For a file system of so many blocks: bits behind its end are set, as they must be.
    pub(crate) fn new(blocks: u32) -> Self {
        let mut groups: Vec<Option<Box<[u8; BLOCK]>>> = vec![None; blocks.div_ceil(GROUP_BLOCKS) as usize];
        let tail = blocks % GROUP_BLOCKS;
        if tail != 0
            && let Some(last) = groups.last_mut()
        {
            set(last.get_or_insert_with(|| Box::new([0; BLOCK])).as_mut_slice(), tail, GROUP_BLOCKS);
        }
        Self { groups }
    }

    /// Sets the bits of blocks that lie side by side.
    pub(crate) fn mark(&mut self, first: u32, count: u32) {
        let (mut at, end) = (u64::from(first), u64::from(first) + u64::from(count));
        let size = u64::from(GROUP_BLOCKS);
        while at < end {
            let stop = end.min((at / size + 1) * size);
            if let Some(group) = self.groups.get_mut((at / size) as usize) {
                let start = at / size * size;
                let bitmap = group.get_or_insert_with(|| Box::new([0; BLOCK]));
                set(bitmap.as_mut_slice(), (at - start) as u32, (stop - start) as u32);
            }
            at = stop;
        }
    }

    /// A group's bitmap; `None` when nothing in it is in use.
    pub(crate) fn group(&self, group: u32) -> Option<&[u8; BLOCK]> {
        self.groups.get(group as usize)?.as_deref()
    }

    /// Free blocks of a group.
    pub(crate) fn free(&self, group: u32) -> u32 {
        self.group(group).map_or(GROUP_BLOCKS, |bitmap| bitmap.iter().map(|byte| byte.count_zeros()).sum())
    }
}

/// The bitmap of a group whose first `used` of `total` inodes are in use; bits behind the last inode are set.
pub(crate) fn inode_bitmap(used: u32, total: u32) -> [u8; BLOCK] {
    let mut bitmap = [0; BLOCK];
    set(&mut bitmap, 0, used);
    set(&mut bitmap, total, GROUP_BLOCKS);
    bitmap
}

fn set(bitmap: &mut [u8], from: u32, to: u32) {
    let mut at = from;
    while at < to {
        if at.is_multiple_of(8) && at + 8 <= to {
            bitmap[(at / 8) as usize] = 0xff;
            at += 8;
        } else {
            bitmap[(at / 8) as usize] |= 1 << (at % 8);
            at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_cross_groups_and_the_end_is_padded() {
        let mut map = BlockMap::new(GROUP_BLOCKS + 10);
        map.mark(GROUP_BLOCKS - 3, 5);
        assert_eq!((map.free(0), map.free(1)), (GROUP_BLOCKS - 3, 8));
        assert_eq!(map.group(0).unwrap()[BLOCK - 1], 0b1110_0000);
        assert_eq!(map.group(1).unwrap()[..3], [0b11, 0b1111_1100, 0xff]);
    }

    #[test]
    fn inode_bitmaps_have_their_padding_set() {
        let bitmap = inode_bitmap(11, 32);
        assert_eq!(bitmap[..5], [0xff, 0b111, 0, 0, 0xff]);
    }
}
