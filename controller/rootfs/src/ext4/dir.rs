//! Directories: names in blocks.

use super::{BLOCK, checksum, htree, put};

/// Bytes at the end of a directory block for its checksum, in the guise of an unused entry.
pub(crate) const TAIL: usize = 12;
/// Bytes for entries.
pub(crate) const ROOM: usize = BLOCK - TAIL;

/// File types in directory entries.
pub(crate) const TYPE_DIRECTORY: u8 = 2;

/// A name in a directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Name<'a> {
    pub(crate) inode: u32,
    pub(crate) name: &'a [u8],
    /// The file type, from its mode.
    pub(crate) mode: u16,
}

impl Name<'_> {
    /// Bytes of its entry.
    pub(crate) fn size(&self) -> usize {
        (8 + self.name.len()).next_multiple_of(4)
    }

    fn kind(&self) -> u8 {
        match self.mode & 0o170_000 {
            super::kind::FILE => 1,
            super::kind::DIRECTORY => TYPE_DIRECTORY,
            super::kind::CHAR => 3,
            super::kind::BLOCK => 4,
            super::kind::FIFO => 5,
            super::kind::SYMLINK => 7,
            _ => 0,
        }
    }
}

/// The blocks of a directory, and whether they are a hash tree: more than one block always is, or the kernel would
/// search it name by name for ever. `None` when the names are more than a hash tree holds.
pub(crate) fn directory_blocks(
    own: u32,
    parent: u32,
    names: &[Name<'_>],
    inode_seed: u32,
    hash_seed: &[u8; 16],
) -> Option<(Vec<[u8; BLOCK]>, bool)> {
    let mut all = vec![
        Name { inode: own, name: b".", mode: super::kind::DIRECTORY },
        Name { inode: parent, name: b"..", mode: super::kind::DIRECTORY },
    ];
    let size: usize = names.iter().chain(&all).map(Name::size).sum();
    if size > ROOM {
        return Some((htree::blocks(own, parent, names, inode_seed, hash_seed)?, true));
    }
    all.extend_from_slice(names);
    Some((vec![leaf(&all, inode_seed)], false))
}

/// A block of names, which must fit.
pub(crate) fn leaf(names: &[Name<'_>], inode_seed: u32) -> [u8; BLOCK] {
    let mut out = [0; BLOCK];
    let mut at = 0;
    for (number, name) in names.iter().enumerate() {
        // The last entry takes all that is left.
        let size = if number + 1 == names.len() { ROOM - at } else { name.size() };
        put(&mut out, at, name.inode.to_le_bytes());
        put(&mut out, at + 4, (size as u16).to_le_bytes());
        put(&mut out, at + 6, [name.name.len() as u8, name.kind()]);
        out[at + 8..at + 8 + name.name.len()].copy_from_slice(name.name);
        at += size;
    }
    put(&mut out, ROOM + 4, (TAIL as u16).to_le_bytes());
    put(&mut out, ROOM + 7, [0xde]);
    let sum = checksum(inode_seed, &out[..ROOM]);
    put(&mut out, ROOM + 8, sum.to_le_bytes());
    out
}
