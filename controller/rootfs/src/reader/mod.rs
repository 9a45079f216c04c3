//! Reads an `ext4` file system that a guest's kernel wrote, without mounting it: kernel, `Documentation/filesystems/ext4`.
//!
//! The guest may have written anything to its disk, so nothing here trusts a byte: every number is held against its bounds
//! before it is used, every structure with a checksum is verified, no walk comes back to where it was, and what is not
//! known is refused by its name. A machine that was killed leaves a journal to be replayed; that is done in memory, and
//! the disk is never written.

mod directory;
mod disk;
mod error;
mod extents;
mod inode;
mod journal;
mod superblock;
mod xattr;

use std::{cell::RefCell, collections::HashMap, fs::File};

pub(crate) use directory::Entry;
pub use error::ReadError;
pub(crate) use inode::{Inode, InodeKind};

use crate::ext4::{ROOT_INODE, checksum, inode_seed_of};
use disk::Disk;
use extents::Extents;
use superblock::Superblock;

/// Bytes of contents that are handed on at a time.
const PIECE: usize = 128 * 1024;

/// A little-endian number of 16 bits; 0 where the bytes end before it.
fn le16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |b| u16::from_le_bytes(*b))
}

/// A little-endian number of 32 bits; 0 where the bytes end before it.
fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b))
}

/// A number whose halves stand apart.
fn wide(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// A file system, read-only.
#[derive(Debug)]
pub(crate) struct FileSystem<'a> {
    disk: Disk<'a>,
    superblock: Superblock,
    /// Where the inode tables of groups begin, as far as it was looked up.
    tables: RefCell<HashMap<u32, u64>>,
}

impl<'a> FileSystem<'a> {
    /// Reads the superblock and replays the journal, if there is something in it.
    ///
    /// # Errors
    /// What is on the disk is no sound `ext4`, has features that are not known, or a journal that cannot be replayed.
    pub(crate) fn open(file: &'a File) -> Result<Self, ReadError> {
        let superblock = Superblock::read(file)?;
        let disk = Disk::new(file, superblock.block_size, superblock.blocks);
        let mut this = Self { disk, superblock, tables: RefCell::default() };
        if this.superblock.needs_recovery {
            let replayed = journal::replay(&this)?;
            this.disk.lay_over(replayed);
            // The superblock and the descriptors may have been in it.
            let newer = Superblock::parse(&this.disk.array(superblock::OFFSET)?)?;
            if newer.block_size != this.superblock.block_size {
                return Err(ReadError::damaged("the superblock", "the journal changes the block size"));
            }
            this.disk.resize(newer.blocks);
            this.superblock = newer;
            this.tables.borrow_mut().clear();
        }
        Ok(this)
    }

    /// The inode of the root directory.
    pub(crate) fn root(&self) -> Result<Inode, ReadError> {
        self.inode(ROOT_INODE)
    }

    /// An inode that is in use.
    pub(crate) fn inode(&self, number: u32) -> Result<Inode, ReadError> {
        let superblock = &self.superblock;
        let bad = |why| ReadError::damaged(format!("inode {number}"), why);
        let known = number >= superblock.first_inode || number == ROOT_INODE || number == superblock.journal_inode;
        if !known || number > superblock.inodes {
            return Err(bad("there is no such inode"));
        }
        let (group, slot) = ((number - 1) / superblock.group_inodes, (number - 1) % superblock.group_inodes);
        let table = self.inode_table(group)?;
        let mut bytes = vec![0; superblock.inode_size];
        let at = table * u64::from(superblock.block_size) + u64::from(slot) * superblock.inode_size as u64;
        self.disk.read(at, &mut bytes)?;
        Inode::parse(number, bytes, superblock)
    }

    /// The names in a directory, without `.` and `..`, in the order in which they stand there. `take` is given each and
    /// may refuse to go on.
    pub(crate) fn names<E: From<ReadError>>(
        &self,
        directory: &Inode,
        take: &mut dyn FnMut(Entry<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        directory::names(self, directory, take)
    }

    /// The inode that a name in a directory means.
    pub(crate) fn find(&self, directory: &Inode, name: &[u8]) -> Result<Option<Inode>, ReadError> {
        let mut found = None;
        self.names::<ReadError>(directory, &mut |entry| {
            if entry.name == name {
                found = Some(entry.inode);
            }
            Ok(())
        })?;
        found.map(|number| self.inode(number)).transpose()
    }

    /// The extended attributes of a file by their full names, access control lists in the form of system calls.
    pub(crate) fn xattrs(&self, inode: &Inode) -> Result<xattr::Xattrs, ReadError> {
        let mut found = xattr::of_inode(inode)?;
        if inode.attribute_block != 0 {
            let bytes = self.disk.block(inode.attribute_block)?;
            xattr::of_block(inode, &bytes, &self.superblock, &mut found)?;
        }
        Ok(found)
    }

    /// The target of a symbolic link.
    pub(crate) fn target(&self, inode: &Inode) -> Result<Vec<u8>, ReadError> {
        let bad = |why| Err(ReadError::damaged(inode.place(), why));
        let size = match usize::try_from(inode.size) {
            // The kernel reads targets of one block at most, with a closing NUL.
            Ok(size) if size > 0 && size < (self.superblock.block_size as usize).min(4096) => size,
            _ => return bad("the target of the symbolic link has no length that one can have"),
        };
        let target = if let Some(target) = inode.short_target() {
            target.get(..size).map(<[u8]>::to_vec).unwrap_or_default()
        } else {
            let mut target = Vec::with_capacity(size);
            self.contents::<ReadError>(inode, &mut |piece| {
                target.extend_from_slice(piece);
                Ok(())
            })?;
            target
        };
        if target.len() != size || target.contains(&0) {
            return bad("the target of the symbolic link has a NUL or is cut short");
        }
        Ok(target)
    }

    /// Hands on the contents of a file in order, holes as zeros: exactly as many bytes as it has.
    pub(crate) fn contents<E: From<ReadError>>(
        &self,
        inode: &Inode,
        take: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let block = u64::from(self.superblock.block_size);
        if inode.size == 0 {
            return Ok(());
        }
        let mut extents = self.extents(inode)?;
        let (zeros, mut buffer) = (vec![0; PIECE], vec![0; PIECE]);
        let mut at = 0;
        loop {
            let extent = extents.next()?.filter(|extent| extent.logical * block < inode.size);
            let hole_end = extent.as_ref().map_or(inode.size, |extent| extent.logical * block);
            while at < hole_end {
                let count = (hole_end - at).min(PIECE as u64);
                take(&zeros[..count as usize])?;
                at += count;
            }
            let Some(extent) = extent else { return Ok(()) };
            let end = ((extent.logical + extent.count) * block).min(inode.size);
            let mut source = extent.physical * block;
            while at < end {
                let count = (end - at).min(PIECE as u64);
                if extent.written {
                    let piece = &mut buffer[..count as usize];
                    self.disk.read(source, piece)?;
                    take(piece)?;
                } else {
                    take(&zeros[..count as usize])?;
                }
                at += count;
                source += count;
            }
        }
    }

    fn extents(&self, inode: &Inode) -> Result<Extents<'_>, ReadError> {
        Extents::new(&self.disk, &self.superblock, inode)
    }

    /// The first block of the inode table of a group.
    fn inode_table(&self, group: u32) -> Result<u64, ReadError> {
        if let Some(&table) = self.tables.borrow().get(&group) {
            return Ok(table);
        }
        let superblock = &self.superblock;
        let mut descriptor = vec![0; superblock.descriptor_size];
        let first = u64::from(superblock.first_block + 1) * u64::from(superblock.block_size);
        self.disk.read(first + u64::from(group) * superblock.descriptor_size as u64, &mut descriptor)?;
        let bad = |why| Err(ReadError::damaged(format!("the descriptor of group {group}"), why));
        if superblock.has_checksums {
            let mut plain = descriptor.clone();
            plain[0x1e..0x20].fill(0);
            let sum = checksum(checksum(superblock.seed, &group.to_le_bytes()), &plain);
            if le16(&descriptor, 0x1e) != sum as u16 {
                return bad("its checksum is wrong");
            }
        }
        let table = wide(le32(&descriptor, 0x28), le32(&descriptor, 0x08));
        let length = (u64::from(superblock.group_inodes) * superblock.inode_size as u64)
            .div_ceil(u64::from(superblock.block_size));
        if table <= u64::from(superblock.first_block)
            || table.checked_add(length).is_none_or(|end| end > superblock.blocks)
        {
            return bad("the inode table lies outside of the disk");
        }
        self.tables.borrow_mut().insert(group, table);
        Ok(table)
    }

    /// The seed of the checksums of an inode's structures.
    fn seed(&self, inode: &Inode) -> u32 {
        inode_seed_of(self.superblock.seed, inode.number, inode.generation)
    }
}
