//! Directories. A hash tree's own blocks look like blocks without names to who reads one after the other, as here.

use super::{FileSystem, error::ReadError, inode::Inode, le16, le32};
use crate::ext4::{FLAG_INDEX, checksum};

/// Bytes at the end of a block for its checksum, in the guise of an unused entry.
const TAIL: usize = 12;
/// Bytes of an entry before its name.
const HEAD: usize = 8;
/// Longest name, in bytes.
const MAX_NAME: usize = 255;

/// A name in a directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) inode: u32,
}

/// See [`FileSystem::names`].
pub(super) fn names<E: From<ReadError>>(
    fs: &FileSystem<'_>,
    directory: &Inode,
    take: &mut dyn FnMut(Entry<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let bad = |why| ReadError::damaged(directory.place(), why);
    let size = u64::from(fs.superblock.block_size);
    if directory.size == 0 || !directory.size.is_multiple_of(size) {
        return Err(bad("the directory has no whole blocks").into());
    }
    let blocks = directory.size / size;
    let seed = fs.seed(directory);
    let mut extents = fs.extents(directory)?;
    let mut at = 0;
    while at < blocks {
        let extent = extents.next()?.filter(|extent| extent.logical == at && extent.written);
        let Some(extent) = extent else { return Err(bad("the directory has holes").into()) };
        for number in 0..extent.count.min(blocks - at) {
            let bytes = fs.disk.block(extent.physical + number)?;
            let kind = kind(&bytes, directory, at + number);
            let end = match (kind, fs.superblock.has_checksums) {
                (_, false) => bytes.len(),
                (BlockKind::Names, true) => sound_names(&bytes, seed).ok_or_else(|| bad(WRONG))?,
                (BlockKind::Root | BlockKind::Node, true) => sound_index(&bytes, seed).ok_or_else(|| bad(WRONG))?,
            };
            if kind != BlockKind::Node {
                block(fs, &bytes[..end], &bad, take)?;
            }
        }
        at += extent.count;
    }
    Ok(())
}

const WRONG: &str = "the checksum of a block of the directory is wrong or missing";

#[derive(Clone, Copy, PartialEq, Eq)]
enum BlockKind {
    Names,
    /// The root of a hash tree, with `.` and `..` before it.
    Root,
    /// A node below it: nothing but one unused entry to who does not know of it.
    Node,
}

fn kind(bytes: &[u8], directory: &Inode, logical: u64) -> BlockKind {
    match (directory.flags & FLAG_INDEX != 0, logical) {
        (true, 0) => BlockKind::Root,
        (true, _) if le32(bytes, 0) == 0 && record_length(bytes, 0, bytes.len()) == bytes.len() => BlockKind::Node,
        _ => BlockKind::Names,
    }
}

/// Where the names end, if the checksum behind them is right.
fn sound_names(bytes: &[u8], seed: u32) -> Option<usize> {
    let tail = bytes.len() - TAIL;
    let is_tail = le32(bytes, tail) == 0 && le16(bytes, tail + 4) == TAIL as u16 && le16(bytes, tail + 6) == 0xde00;
    (is_tail && le32(bytes, tail + 8) == checksum(seed, &bytes[..tail])).then_some(tail)
}

/// Where a block of a hash tree ends, if its checksum is right: it covers the entries in use, then four bytes behind the
/// last possible one, then itself as zero.
fn sound_index(bytes: &[u8], seed: u32) -> Option<usize> {
    let start = if record_length(bytes, 0, bytes.len()) == bytes.len() { 8 } else { 32 };
    let (limit, count) = (usize::from(le16(bytes, start)), usize::from(le16(bytes, start + 2)));
    let tail = start + limit * 8;
    if count > limit || tail + 8 > bytes.len() {
        return None;
    }
    let sum = checksum(checksum(seed, &bytes[..start + count * 8]), &bytes[tail..tail + 4]);
    (le32(bytes, tail + 4) == checksum(sum, &[0; 4])).then_some(bytes.len())
}

/// The length of the entry at `at`. In blocks of 64 KiB the whole block does not fit the field.
fn record_length(bytes: &[u8], at: usize, block: usize) -> usize {
    match usize::from(le16(bytes, at + 4)) {
        0 | 0xffff if block == 1 << 16 => 1 << 16,
        length => length,
    }
}

fn block<E: From<ReadError>>(
    fs: &FileSystem<'_>,
    bytes: &[u8],
    bad: &dyn Fn(&'static str) -> ReadError,
    take: &mut dyn FnMut(Entry<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut at = 0;
    while at < bytes.len() {
        let length = record_length(bytes, at, fs.superblock.block_size as usize);
        // Every entry takes 12 bytes at least, so this comes to its end.
        if length < HEAD + 4 || !length.is_multiple_of(4) || at + length > bytes.len() {
            return Err(bad("an entry of the directory has a length that cannot be").into());
        }
        let inode = le32(bytes, at);
        // Without file types in directories their byte is the upper half of the length.
        let name_length = if fs.superblock.has_types { bytes[at + 6].into() } else { usize::from(le16(bytes, at + 6)) };
        let name = bytes.get(at + HEAD..at + HEAD + name_length).filter(|_| HEAD + name_length <= length);
        at += length;
        if inode == 0 {
            continue;
        }
        match name {
            Some(b"." | b"..") => {}
            Some(name) if !name.is_empty() && name.len() <= MAX_NAME && !name.iter().any(|b| [b'/', 0].contains(b)) => {
                take(Entry { name, inode })?;
            }
            _ => return Err(bad("an entry of the directory has a name that cannot be").into()),
        }
    }
    Ok(())
}
