//! Extent trees: which blocks of the disk a file has.

use super::{BLOCK, checksum, put};
use crate::blocks::Run;

const MAGIC: u16 = 0xf30a;
/// Most blocks of one initialised extent.
const MAX_EXTENT: u32 = 32_768;
/// Entries in the inode, and in a block.
const IN_INODE: usize = 4;
const IN_BLOCK: usize = 340;
const ENTRY: usize = 12;
/// Where a block's checksum stands: behind the header and all entries.
const TAIL: usize = ENTRY + IN_BLOCK * ENTRY;

/// The extent tree of one file.
#[derive(Debug)]
pub(crate) struct ExtentTree {
    /// The root, in the inode.
    pub(crate) root: [u8; 60],
    /// The other nodes, side by side on the disk from the first block that was given.
    pub(crate) blocks: Vec<[u8; BLOCK]>,
}

impl ExtentTree {
    /// The tree of these runs. Nodes outside the inode go to the blocks from `first` on.
    pub(crate) fn new(runs: &[Run], first: u32, seed: u32) -> Self {
        let mut entries: Vec<(u32, [u8; ENTRY])> = Vec::with_capacity(runs.len());
        for run in runs {
            let mut at = 0;
            while at < run.count {
                let count = (run.count - at).min(MAX_EXTENT);
                entries.push(leaf(run.logical + at, run.physical + at, count));
                at += count;
            }
        }
        let mut blocks = Vec::new();
        let mut depth = 0;
        while entries.len() > IN_INODE {
            let mut parents = Vec::with_capacity(entries.len().div_ceil(IN_BLOCK));
            for node in entries.chunks(IN_BLOCK) {
                let mut block = [0; BLOCK];
                fill(&mut block, node, IN_BLOCK as u16, depth);
                let sum = checksum(seed, &block[..TAIL]);
                put(&mut block, TAIL, sum.to_le_bytes());
                let logical = node.first().map_or(0, |entry| entry.0);
                parents.push(index(logical, first + blocks.len() as u32));
                blocks.push(block);
            }
            entries = parents;
            depth += 1;
        }
        let mut root = [0; 60];
        fill(&mut root, &entries, IN_INODE as u16, depth);
        Self { root, blocks }
    }
}

fn fill(out: &mut [u8], entries: &[(u32, [u8; ENTRY])], max: u16, depth: u16) {
    put(out, 0, MAGIC.to_le_bytes());
    put(out, 2, (entries.len() as u16).to_le_bytes());
    put(out, 4, max.to_le_bytes());
    put(out, 6, depth.to_le_bytes());
    for (slot, (_, bytes)) in out[ENTRY..].chunks_exact_mut(ENTRY).zip(entries) {
        slot.copy_from_slice(bytes);
    }
}

fn leaf(logical: u32, physical: u32, count: u32) -> (u32, [u8; ENTRY]) {
    let mut out = [0; ENTRY];
    put(&mut out, 0, logical.to_le_bytes());
    put(&mut out, 4, (count as u16).to_le_bytes());
    put(&mut out, 8, physical.to_le_bytes());
    (logical, out)
}

fn index(logical: u32, child: u32) -> (u32, [u8; ENTRY]) {
    let mut out = [0; ENTRY];
    put(&mut out, 0, logical.to_le_bytes());
    put(&mut out, 4, child.to_le_bytes());
    (logical, out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holes(count: u32) -> Vec<Run> {
        (0..count).map(|i| Run { logical: i * 2, physical: 1000 + i * 3, count: 1 }).collect()
    }

    #[test]
    fn a_tree_grows_a_level_when_a_node_is_full() {
        let shape = |count| {
            let tree = ExtentTree::new(&holes(count), 50, 1);
            (tree.blocks.len(), u16::from_le_bytes([tree.root[6], tree.root[7]]))
        };
        assert_eq!(shape(0), (0, 0));
        assert_eq!(shape(4), (0, 0));
        assert_eq!(shape(5), (1, 1));
        assert_eq!(shape(1360), (4, 1));
        assert_eq!(shape(1361), (6, 2));
    }

    #[test]
    fn a_long_run_is_cut_into_extents() {
        let tree = ExtentTree::new(&[Run { logical: 0, physical: 9, count: 70_000 }], 0, 0);
        assert_eq!(u16::from_le_bytes([tree.root[2], tree.root[3]]), 3);
        assert_eq!(tree.root[12 + 24 + 4..12 + 24 + 6], (70_000_u32 - 65_536).to_le_bytes()[..2]);
    }
}
