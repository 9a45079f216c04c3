//! Extent trees: which blocks of the disk a file has. Read in order, with one node of each level in memory.

use super::{disk::Disk, error::ReadError, inode::Inode, le16, le32, superblock::Superblock, wide};
use crate::ext4::{checksum, inode_seed_of};

const MAGIC: u16 = 0xf30a;
const ENTRY: usize = 12;
/// The deepest that Linux makes and reads: enough for the largest file with extents of one block.
const MAX_DEPTH: u16 = 5;
/// Extents longer than this have room and no contents yet: they are longer by this than they say.
const MAX_WRITTEN: u16 = 32_768;

/// Blocks of a file that lie side by side both in the file and on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// First block within the file.
    pub(super) logical: u64,
    /// First block on the disk.
    pub(super) physical: u64,
    /// How many blocks; never 0.
    pub(super) count: u64,
    /// Whether it has contents; zeros else.
    pub(super) written: bool,
}

/// The extents of a file, in rising order, without overlap, all on the disk.
#[derive(Debug)]
pub(super) struct Extents<'a> {
    disk: &'a Disk<'a>,
    first_block: u64,
    blocks: u64,
    has_checksums: bool,
    seed: u32,
    place: String,
    /// From the root to the leaf that is being read.
    nodes: Vec<Node>,
    /// The first block in the file behind the last extent.
    end: u64,
}

#[derive(Debug)]
struct Node {
    bytes: Vec<u8>,
    depth: u16,
    count: usize,
    next: usize,
}

impl Node {
    fn entry(&mut self) -> Option<&[u8]> {
        if self.next == self.count {
            return None;
        }
        self.next += 1;
        self.bytes.get(self.next * ENTRY..(self.next + 1) * ENTRY)
    }
}

impl<'a> Extents<'a> {
    pub(super) fn new(disk: &'a Disk<'a>, superblock: &Superblock, inode: &Inode) -> Result<Self, ReadError> {
        let mut this = Self {
            disk,
            first_block: superblock.first_block.into(),
            blocks: superblock.blocks,
            has_checksums: superblock.has_checksums,
            seed: inode_seed_of(superblock.seed, inode.number, inode.generation),
            place: inode.place(),
            nodes: Vec::new(),
            end: 0,
        };
        let root = this.node(inode.extent_root()?.to_vec(), None)?;
        this.nodes.push(root);
        Ok(this)
    }

    /// The next extent.
    pub(super) fn next(&mut self) -> Result<Option<Extent>, ReadError> {
        loop {
            let Some(node) = self.nodes.last_mut() else { return Ok(None) };
            let depth = node.depth;
            let Some(entry) = node.entry() else {
                self.nodes.pop();
                continue;
            };
            if depth == 0 {
                let entry = entry.first_chunk().copied().unwrap_or([0; ENTRY]);
                return self.extent(&entry).map(Some);
            }
            let child = wide(le16(entry, 8).into(), le32(entry, 4));
            let bytes = self.disk.block(child)?;
            let node = self.node(bytes, Some(depth))?;
            self.nodes.push(node);
        }
    }

    fn extent(&mut self, entry: &[u8; ENTRY]) -> Result<Extent, ReadError> {
        let length = le16(entry, 4);
        let written = length <= MAX_WRITTEN;
        let count = u64::from(if written { length } else { length - MAX_WRITTEN });
        let extent = Extent {
            logical: le32(entry, 0).into(),
            physical: wide(le16(entry, 6).into(), le32(entry, 8)),
            count,
            written,
        };
        if count == 0 || extent.logical < self.end || extent.logical + count > 1 << 32 {
            return Err(self.bad("its extents overlap, are out of order or empty"));
        }
        if extent.physical <= self.first_block || extent.physical + count > self.blocks {
            return Err(self.bad("an extent lies outside of the disk"));
        }
        self.end = extent.logical + count;
        Ok(extent)
    }

    /// Reads a node: the root, or a child of a node of this depth.
    fn node(&self, bytes: Vec<u8>, parent: Option<u16>) -> Result<Node, ReadError> {
        let (count, max, depth) = (usize::from(le16(&bytes, 2)), usize::from(le16(&bytes, 4)), le16(&bytes, 6));
        let room = bytes.len() / ENTRY - 1;
        let right_depth = parent.map_or(depth <= MAX_DEPTH, |parent| depth.checked_add(1) == Some(parent));
        if le16(&bytes, 0) != MAGIC || count > max || max > room || !right_depth {
            return Err(self.bad("a node of its extent tree is none"));
        }
        if parent.is_some() {
            // Every node below the root leads to an extent further on, so the walk comes to its end.
            if count == 0 {
                return Err(self.bad("a node of its extent tree is empty"));
            }
            let tail = ENTRY + max * ENTRY;
            if self.has_checksums
                && (tail + 4 > bytes.len() || le32(&bytes, tail) != checksum(self.seed, &bytes[..tail]))
            {
                return Err(self.bad("the checksum of a node of its extent tree is wrong"));
            }
        } else if count == 0 && depth > 0 {
            return Err(self.bad("its extent tree is empty and deep"));
        }
        Ok(Node { bytes, depth, count, next: 0 })
    }

    fn bad(&self, why: &'static str) -> ReadError {
        ReadError::damaged(self.place.clone(), why)
    }
}
