//! Inodes.

use super::{error::ReadError, le16, le32, superblock::Superblock, wide};
use crate::{
    ext4::{FLAG_EXTENTS, checksum, inode_seed_of, kind},
    layer::Time,
};

/// What a file cannot be read with: compressed, encrypted, its value in another inode, its contents in the inode.
const REFUSED: [(u32, &str); 4] =
    [(0x4, "compression"), (0x800, "encrypt"), (0x20_0000, "ea_inode"), (0x1000_0000, "inline_data")];
/// Where the block map begins, and how long it is.
const MAP: usize = 0x28;
const MAP_LENGTH: usize = 60;

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InodeKind {
    File,
    Directory,
    Symlink,
    /// Major and minor number.
    Char(u32, u32),
    /// Major and minor number.
    Block(u32, u32),
    Fifo,
    Socket,
}

/// An inode that is in use.
#[derive(Debug)]
pub(crate) struct Inode {
    pub(crate) number: u32,
    pub(crate) kind: InodeKind,
    /// Permission bits with setuid, setgid and sticky.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// In bytes.
    pub(crate) size: u64,
    pub(crate) links: u16,
    pub(crate) mtime: Time,
    pub(super) flags: u32,
    pub(super) generation: u32,
    /// 0 is none.
    pub(super) attribute_block: u64,
    /// All of it, as it stands in the table.
    bytes: Vec<u8>,
}

impl Inode {
    pub(super) fn parse(number: u32, bytes: Vec<u8>, superblock: &Superblock) -> Result<Self, ReadError> {
        let bad = |why| Err(ReadError::damaged(format!("inode {number}"), why));
        let generation = le32(&bytes, 0x64);
        let extra = extra(&bytes);
        if bytes.len() > 128 && (128 + extra > bytes.len() || !extra.is_multiple_of(4)) {
            return bad("the size of its extra part cannot be");
        }
        if superblock.has_checksums && !has_right_checksum(&bytes, inode_seed_of(superblock.seed, number, generation)) {
            return bad("its checksum is wrong");
        }
        let links = le16(&bytes, 0x1a);
        if links == 0 {
            return bad("it is in use and has no links");
        }
        let flags = le32(&bytes, 0x20);
        if let Some((_, name)) = REFUSED.iter().find(|(bit, _)| flags & bit != 0) {
            return Err(ReadError::Unsupported { what: format!("inode {number} with the feature {name}") });
        }
        let mode = le16(&bytes, 0);
        let device = device(le32(&bytes, MAP), le32(&bytes, MAP + 4));
        let kind = match mode & 0o170_000 {
            kind::FILE => InodeKind::File,
            kind::DIRECTORY => InodeKind::Directory,
            kind::SYMLINK => InodeKind::Symlink,
            kind::CHAR => InodeKind::Char(device.0, device.1),
            kind::BLOCK => InodeKind::Block(device.0, device.1),
            kind::FIFO => InodeKind::Fifo,
            kind::SOCKET => InodeKind::Socket,
            _ => return bad("it has no file type that there is"),
        };
        let size = wide(le32(&bytes, 0x6c), le32(&bytes, 0x04));
        // Block numbers within a file have 32 bits.
        if size > u64::from(superblock.block_size) << 32 {
            return bad("it is larger than any file can be");
        }
        Ok(Self {
            number,
            kind,
            mode: mode & 0o7777,
            uid: u32::from(le16(&bytes, 0x78)) << 16 | u32::from(le16(&bytes, 0x02)),
            gid: u32::from(le16(&bytes, 0x7a)) << 16 | u32::from(le16(&bytes, 0x18)),
            size,
            links,
            mtime: time(le32(&bytes, 0x10), if extra >= 0x8c - 128 { le32(&bytes, 0x88) } else { 0 }),
            flags,
            generation,
            attribute_block: wide(u32::from(le16(&bytes, 0x76)), le32(&bytes, 0x68)),
            bytes,
        })
    }

    /// How messages name it.
    pub(super) fn place(&self) -> String {
        format!("inode {}", self.number)
    }

    /// The root of the extent tree.
    pub(super) fn extent_root(&self) -> Result<&[u8], ReadError> {
        if self.flags & FLAG_EXTENTS == 0 {
            return Err(ReadError::Unsupported {
                what: format!("{} with a block map in place of extents", self.place()),
            });
        }
        Ok(self.map())
    }

    /// The target of a symbolic link that is short enough to stand in the inode, with what follows it.
    pub(super) fn short_target(&self) -> Option<&[u8]> {
        (self.flags & FLAG_EXTENTS == 0 && self.size < MAP_LENGTH as u64).then(|| self.map())
    }

    /// What stands behind the fields: extended attributes, if there are any.
    pub(super) fn tail(&self) -> &[u8] {
        self.bytes.get(128 + extra(&self.bytes)..).unwrap_or_default()
    }

    fn map(&self) -> &[u8] {
        self.bytes.get(MAP..MAP + MAP_LENGTH).unwrap_or_default()
    }
}

/// Bytes in use behind the first 128.
fn extra(bytes: &[u8]) -> usize {
    if bytes.len() > 128 { usize::from(le16(bytes, 0x80)) } else { 0 }
}

/// The checksum covers the whole inode, with zeros in its own place; its upper half is there only where there is room.
fn has_right_checksum(bytes: &[u8], seed: u32) -> bool {
    let mut plain = bytes.to_vec();
    plain[0x7c..0x7e].fill(0);
    let is_whole = extra(bytes) >= 4;
    if is_whole {
        plain[0x82..0x84].fill(0);
    }
    let sum = checksum(seed, &plain);
    le16(bytes, 0x7c) == sum as u16 && (!is_whole || le16(bytes, 0x82) == (sum >> 16) as u16)
}

/// The reverse of how the kernel packs seconds in 34 bits and nanoseconds. Nanoseconds that cannot be are the last that can.
fn time(low: u32, extra: u32) -> Time {
    let epoch = i64::from(extra & 3) << 32;
    Time { seconds: i64::from(low.cast_signed()) + epoch, nanos: (extra >> 2).min(999_999_999) }
}

/// The old encoding in the first word, or else the new one in the second.
fn device(old: u32, new: u32) -> (u32, u32) {
    if old != 0 {
        ((old >> 8) & 0xff, old & 0xff)
    } else {
        ((new >> 8) & 0xfff, (new & 0xff) | ((new >> 12) & 0xf_ff00))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_back_from_1901_to_2446() {
        for (seconds, low, extra) in [
            (0, 0, 5 << 2),
            (-1, u32::MAX, 5 << 2),
            (1 << 31, 1 << 31, (5 << 2) | 1),
            (15_032_385_535, 0x7fff_ffff, (5 << 2) | 3),
        ] {
            assert_eq!(time(low, extra), Time { seconds, nanos: 5 });
        }
        assert_eq!(time(0, u32::MAX).nanos, 999_999_999);
    }

    #[test]
    fn devices_come_back_from_both_encodings() {
        assert_eq!(device(0x103, 0), (1, 3));
        assert_eq!(device(0, 0x1111_0370), (259, 70_000));
        assert_eq!(device(0, 0), (0, 0));
    }
}
