//! The journal of a machine that did not end cleanly: kernel, `Documentation/filesystems/ext4/journal.rst`. Big-endian,
//! unlike the rest.
//!
//! A transaction is what stands between two commits; one without its commit never was. What is kept in memory is where the
//! newest content of each block stands in the journal, some 40 bytes a block of it.

use std::collections::HashMap;

use super::{
    FileSystem,
    disk::{JOURNAL_MAGIC, Replayed},
    error::ReadError,
    extents::Extent,
    inode::InodeKind,
};
use crate::ext4::checksum;

const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const SUPERBLOCK_2: u32 = 4;
const REVOKE: u32 = 5;

const COMPAT_CHECKSUM: u32 = 0x1;
const INCOMPAT_64BIT: u32 = 0x2;
const INCOMPAT_CSUM_V2: u32 = 0x8;
const INCOMPAT_CSUM_V3: u32 = 0x10;
/// What is done here: revoked blocks, block numbers of 64 bits, and two kinds of checksums.
const KNOWN: u32 = 0x1 | INCOMPAT_64BIT | INCOMPAT_CSUM_V2 | INCOMPAT_CSUM_V3;
const NAMES: [(u32, &str); 2] = [(0x4, "asynchronous commits"), (0x20, "fast commits")];

const TAG_ESCAPED: u32 = 1;
const TAG_SAME_UUID: u32 = 2;
const TAG_LAST: u32 = 8;

/// Bytes of the header that each of the journal's own blocks has.
const HEADER: usize = 12;
/// The longest journal, in blocks: the largest that `mke2fs` makes by itself, for disks of hundreds of GiB.
const MAX_BLOCKS: u32 = 1 << 18;

fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |b| u32::from_be_bytes(*b))
}

fn unusable(why: impl Into<String>) -> ReadError {
    ReadError::Journal { why: why.into() }
}

/// Where the newest content of each block stands that the journal has. The disk is as it was.
pub(super) fn replay(fs: &FileSystem<'_>) -> Result<HashMap<u64, Replayed>, ReadError> {
    let mut log = Log::open(fs)?;
    let mut replayed = HashMap::new();
    if log.start == 0 {
        return Ok(replayed);
    }
    log.at = log.start;
    let mut transaction = Transaction::default();
    // Each turn takes one block of the journal, so a log that goes round in a circle comes to its end too.
    while log.taken < u64::from(log.last) {
        let block = log.take()?;
        let (magic, kind, sequence) = (be32(&block, 0), be32(&block, 4), be32(&block, 8));
        // What an earlier round left.
        if magic != JOURNAL_MAGIC || sequence != log.sequence {
            return Ok(replayed);
        }
        match kind {
            // The machine ended while this transaction was being written: none of it counts. Were it whole, all of it would.
            DESCRIPTOR | REVOKE if !log.has_right_tail(&block) => {
                return if log.commits()? {
                    Err(unusable("the checksum of a block in it is wrong"))
                } else {
                    Ok(replayed)
                };
            }
            DESCRIPTOR => {
                for tag in log.tags(&block) {
                    let block = log.pass();
                    transaction.blocks.push((tag, log.place(block)?));
                }
            }
            REVOKE => transaction.revoked.extend(log.revoked(&block)?),
            COMMIT if !log.is_sound_commit(&block) => return Ok(replayed),
            COMMIT => {
                std::mem::take(&mut transaction).apply(&log, &mut replayed)?;
                log.sequence = log.sequence.wrapping_add(1);
            }
            _ => return Ok(replayed),
        }
    }
    Ok(replayed)
}

/// What a transaction changes, as far as it was read.
#[derive(Default)]
struct Transaction {
    blocks: Vec<(Tag, u64)>,
    revoked: Vec<u64>,
}

impl Transaction {
    fn apply(self, log: &Log<'_>, replayed: &mut HashMap<u64, Replayed>) -> Result<(), ReadError> {
        for (tag, block) in self.blocks {
            if tag.block >= log.fs.superblock.blocks {
                return Err(unusable("it has a block that lies behind the end of the file system"));
            }
            log.check(&tag, block)?;
            replayed.insert(tag.block, Replayed { block, escaped: tag.flags & TAG_ESCAPED != 0 });
        }
        // Revoked: what this transaction and earlier ones say of the block is out of date.
        for block in self.revoked {
            replayed.remove(&block);
        }
        Ok(())
    }
}

/// What a descriptor says of one block that follows it.
struct Tag {
    /// Where on the disk the block belongs.
    block: u64,
    flags: u32,
    checksum: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Checksums {
    None,
    /// The lower 16 bits in each tag.
    V2,
    V3,
}

/// The journal as a ring of blocks.
struct Log<'a> {
    fs: &'a FileSystem<'a>,
    extents: Vec<Extent>,
    first: u32,
    /// Behind the last block.
    last: u32,
    start: u32,
    /// Of the transaction that is being read.
    sequence: u32,
    is_wide: bool,
    checksums: Checksums,
    seed: u32,
    /// The next block.
    at: u32,
    /// How many blocks were taken in all.
    taken: u64,
}

impl<'a> Log<'a> {
    fn open(fs: &'a FileSystem<'a>) -> Result<Self, ReadError> {
        let superblock = &fs.superblock;
        if superblock.journal_inode == 0 {
            return Err(unusable("it stands on another device"));
        }
        let inode = fs.inode(superblock.journal_inode)?;
        let blocks = u32::try_from(inode.size / u64::from(superblock.block_size)).unwrap_or(u32::MAX);
        if inode.kind != InodeKind::File || blocks == 0 {
            return Err(unusable("its inode is no file"));
        }
        if blocks > MAX_BLOCKS {
            return Err(unusable(format!("it has {blocks} blocks; at most {MAX_BLOCKS} are read")));
        }
        let mut extents = Vec::new();
        let mut walk = fs.extents(&inode)?;
        // No two extents share a block of the file, so there are no more of them than blocks.
        while let Some(extent) = walk.next()?.filter(|extent| extent.logical < u64::from(blocks)) {
            extents.push(extent);
        }
        let mut log = Self {
            fs,
            extents,
            first: 0,
            last: blocks,
            start: 0,
            sequence: 0,
            is_wide: false,
            checksums: Checksums::None,
            seed: 0,
            at: 0,
            taken: 0,
        };
        let head = log.read(0)?;
        log.parse(&head, blocks)?;
        Ok(log)
    }

    fn parse(&mut self, head: &[u8], blocks: u32) -> Result<(), ReadError> {
        if be32(head, 0) != JOURNAL_MAGIC || be32(head, 4) != SUPERBLOCK_2 {
            return Err(unusable("it does not begin with a superblock of version 2"));
        }
        if be32(head, 0x0c) != self.fs.superblock.block_size {
            return Err(unusable("its blocks have another size than those of the file system"));
        }
        let incompat = be32(head, 0x28);
        if let Some((_, name)) = NAMES.iter().find(|(bit, _)| incompat & bit != 0) {
            return Err(unusable(format!("it has {name}, which are not read here")));
        }
        if incompat & !KNOWN != 0 {
            return Err(unusable(format!("it has features of the unknown bits {:#x}", incompat & !KNOWN)));
        }
        if be32(head, 0x24) & COMPAT_CHECKSUM != 0 {
            return Err(unusable("it has checksums of version 1, which are not read here"));
        }
        self.is_wide = incompat & INCOMPAT_64BIT != 0;
        self.checksums = match (incompat & INCOMPAT_CSUM_V2 != 0, incompat & INCOMPAT_CSUM_V3 != 0) {
            (false, false) => Checksums::None,
            (true, false) => Checksums::V2,
            (false, true) => Checksums::V3,
            (true, true) => return Err(unusable("it has two kinds of checksums")),
        };
        if self.checksums != Checksums::None {
            let mut plain = head.get(..1024).unwrap_or_default().to_vec();
            plain[0xfc..0x100].fill(0);
            if head.get(0x50) != Some(&4) || be32(head, 0xfc) != checksum(!0, &plain) {
                return Err(unusable("the checksum of its superblock is wrong"));
            }
            self.seed = checksum(!0, head.get(0x30..0x40).unwrap_or_default());
        }
        (self.last, self.first) = (be32(head, 0x10), be32(head, 0x14));
        (self.sequence, self.start) = (be32(head, 0x18), be32(head, 0x1c));
        let starts_inside = self.start == 0 || (self.first..self.last).contains(&self.start);
        if self.first == 0 || self.first >= self.last || self.last > blocks || !starts_inside {
            return Err(unusable("the log lies outside of it"));
        }
        Ok(())
    }

    /// The block of the disk in which a block of the journal stands.
    fn place(&self, block: u32) -> Result<u64, ReadError> {
        let block = u64::from(block);
        let behind = self.extents.partition_point(|extent| extent.logical <= block);
        match behind.checked_sub(1).and_then(|at| self.extents.get(at)) {
            Some(extent) if block < extent.logical + extent.count && extent.written => {
                Ok(extent.physical + (block - extent.logical))
            }
            _ => Err(unusable("it has holes")),
        }
    }

    fn read(&self, block: u32) -> Result<Vec<u8>, ReadError> {
        self.fs.disk.block(self.place(block)?)
    }

    /// Passes over the next block; gives its number in the journal.
    fn pass(&mut self) -> u32 {
        let block = self.at;
        self.at = if block + 1 >= self.last { self.first } else { block + 1 };
        self.taken += 1;
        block
    }

    fn take(&mut self) -> Result<Vec<u8>, ReadError> {
        let block = self.pass();
        self.read(block)
    }

    /// Whether a descriptor or a block of revoked ones is as it was written: its checksum stands in its last four bytes.
    fn has_right_tail(&self, block: &[u8]) -> bool {
        if self.checksums == Checksums::None {
            return true;
        }
        let tail = block.len() - 4;
        be32(block, tail) == checksum(checksum(self.seed, &block[..tail]), &[0; 4])
    }

    /// Whether the transaction that is being read has its commit somewhere in the rest of the log.
    fn commits(&mut self) -> Result<bool, ReadError> {
        while self.taken < u64::from(self.last) {
            let block = self.take()?;
            let head = (be32(&block, 0), be32(&block, 4), be32(&block, 8));
            if head == (JOURNAL_MAGIC, COMMIT, self.sequence) && self.is_sound_commit(&block) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn is_sound_commit(&self, block: &[u8]) -> bool {
        if self.checksums == Checksums::None {
            return true;
        }
        let mut plain = block.to_vec();
        plain[0x10..0x14].fill(0);
        be32(block, 0x10) == checksum(self.seed, &plain)
    }

    /// The end of what a descriptor says.
    fn end(&self, block: &[u8]) -> usize {
        if self.checksums == Checksums::None { block.len() } else { block.len() - 4 }
    }

    fn tags(&self, block: &[u8]) -> Vec<Tag> {
        let size = match (self.checksums, self.is_wide) {
            (Checksums::V3, _) => 16,
            (Checksums::V2, true) => 14,
            (Checksums::V2, false) => 10,
            (Checksums::None, true) => 12,
            (Checksums::None, false) => 8,
        };
        let mut tags = Vec::new();
        let mut rest = block.get(HEADER..self.end(block)).unwrap_or_default();
        while let Some((tag, behind)) = rest.split_at_checked(size) {
            let (high, flags, sum) = match self.checksums {
                Checksums::V3 => (be32(tag, 8), be32(tag, 4), be32(tag, 12)),
                _ => (be32(tag, 8), be32(tag, 4) & 0xffff, be32(tag, 4) >> 16),
            };
            let high = if self.is_wide { u64::from(high) << 32 } else { 0 };
            tags.push(Tag { block: high | u64::from(be32(tag, 0)), flags, checksum: sum });
            // The first tag is followed by the UUID of the file system that it is for; there is only one.
            let uuid = if flags & TAG_SAME_UUID == 0 { 16 } else { 0 };
            rest = behind.get(uuid..).unwrap_or_default();
            if flags & TAG_LAST != 0 {
                break;
            }
        }
        tags
    }

    fn revoked(&self, block: &[u8]) -> Result<Vec<u64>, ReadError> {
        let used = be32(block, HEADER) as usize;
        let bytes = block.get(HEADER + 4..used).filter(|_| used <= self.end(block));
        let bytes = bytes.ok_or_else(|| unusable("a block of revoked blocks is malformed"))?;
        let number = |bytes: &[u8]| bytes.iter().fold(0, |value, &byte| value << 8 | u64::from(byte));
        Ok(bytes.chunks_exact(if self.is_wide { 8 } else { 4 }).map(number).collect())
    }

    /// Whether a block in the journal is what its tag says: what is wrong there was not cut short, but damaged.
    fn check(&self, tag: &Tag, place: u64) -> Result<(), ReadError> {
        if self.checksums == Checksums::None {
            return Ok(());
        }
        let sum = checksum(checksum(self.seed, &self.sequence.to_be_bytes()), &self.fs.disk.block(place)?);
        let is_right = match self.checksums {
            Checksums::V3 => sum == tag.checksum,
            _ => sum & 0xffff == tag.checksum,
        };
        if is_right { Ok(()) } else { Err(unusable("the checksum of a block in it is wrong")) }
    }
}
