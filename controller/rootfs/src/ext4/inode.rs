//! Inodes.

use super::{BLOCK, INODE, checksum, put};
use crate::layer::Time;

/// File types in the mode.
pub(crate) mod kind {
    pub(crate) const FIFO: u16 = 0o010_000;
    pub(crate) const CHAR: u16 = 0o020_000;
    pub(crate) const DIRECTORY: u16 = 0o040_000;
    pub(crate) const BLOCK: u16 = 0o060_000;
    pub(crate) const FILE: u16 = 0o100_000;
    pub(crate) const SYMLINK: u16 = 0o120_000;
    pub(crate) const SOCKET: u16 = 0o140_000;
}

/// The directory has a hash tree.
pub(crate) const FLAG_INDEX: u32 = 0x1000;
/// The block map is a tree of extents.
pub(crate) const FLAG_EXTENTS: u32 = 0x8_0000;
/// Bytes in use behind the first 128.
const EXTRA: u16 = 32;
/// Room for attributes behind that.
pub(crate) const INLINE_ATTRIBUTES: usize = INODE - 128 - EXTRA as usize;

/// What the 60 bytes of the block map hold.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Payload {
    /// The root of an extent tree. An indexed directory has a hash tree.
    Extents { root: [u8; 60], indexed: bool },
    /// The target of a short symbolic link.
    Target([u8; 60]),
    /// A device: major and minor number.
    Device(u32, u32),
    /// Nothing: a FIFO.
    Nothing,
}

/// An inode to be written.
#[derive(Debug)]
pub(crate) struct Inode {
    /// File type and permissions.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    pub(crate) links: u16,
    /// Blocks of contents, of extents and of attributes.
    pub(crate) blocks: u64,
    pub(crate) time: Time,
    pub(crate) payload: Payload,
    /// The block of attributes; 0 is none.
    pub(crate) attribute_block: u32,
    pub(crate) inline_attributes: [u8; INLINE_ATTRIBUTES],
}

impl Inode {
    /// The bytes in the inode table. `seed` is that of the inode.
    pub(crate) fn encode(&self, seed: u32) -> [u8; INODE] {
        let mut out = [0; INODE];
        let (seconds, extra) = encode_time(self.time);
        let sectors = self.blocks * (BLOCK as u64 / 512);
        put(&mut out, 0x00, self.mode.to_le_bytes());
        put(&mut out, 0x02, (self.uid as u16).to_le_bytes());
        put(&mut out, 0x04, (self.size as u32).to_le_bytes());
        for at in [0x08, 0x0c, 0x10, 0x90] {
            put(&mut out, at, seconds.to_le_bytes());
        }
        put(&mut out, 0x18, (self.gid as u16).to_le_bytes());
        put(&mut out, 0x1a, self.links.to_le_bytes());
        put(&mut out, 0x1c, (sectors as u32).to_le_bytes());
        let flags = match self.payload {
            Payload::Extents { indexed: true, .. } => FLAG_EXTENTS | FLAG_INDEX,
            Payload::Extents { indexed: false, .. } => FLAG_EXTENTS,
            _ => 0,
        };
        put(&mut out, 0x20, flags.to_le_bytes());
        match self.payload {
            Payload::Extents { root: bytes, .. } | Payload::Target(bytes) => put(&mut out, 0x28, bytes),
            Payload::Device(major, minor) => {
                let (old, new) = encode_device(major, minor);
                put(&mut out, 0x28, old.to_le_bytes());
                put(&mut out, 0x2c, new.to_le_bytes());
            }
            Payload::Nothing => {}
        }
        put(&mut out, 0x68, self.attribute_block.to_le_bytes());
        put(&mut out, 0x6c, ((self.size >> 32) as u32).to_le_bytes());
        put(&mut out, 0x74, ((sectors >> 32) as u16).to_le_bytes());
        put(&mut out, 0x78, ((self.uid >> 16) as u16).to_le_bytes());
        put(&mut out, 0x7a, ((self.gid >> 16) as u16).to_le_bytes());
        put(&mut out, 0x80, EXTRA.to_le_bytes());
        for at in [0x84, 0x88, 0x8c, 0x94] {
            put(&mut out, at, extra.to_le_bytes());
        }
        put(&mut out, 0xa0, self.inline_attributes);
        let sum = checksum(seed, &out);
        put(&mut out, 0x7c, (sum as u16).to_le_bytes());
        put(&mut out, 0x82, ((sum >> 16) as u16).to_le_bytes());
        out
    }
}

/// Seconds in 34 bits, from 1901 to 2446, and nanoseconds. Times outside are moved to the nearest one inside, as the
/// kernel does.
fn encode_time(time: Time) -> (u32, u32) {
    const FIRST: i64 = i32::MIN as i64;
    const LAST: i64 = (1 << 34) + FIRST - 1;
    let (seconds, nanos) = match time.seconds {
        early if early < FIRST => (FIRST, 0),
        late if late > LAST => (LAST, 0),
        seconds => (seconds, time.nanos.min(999_999_999)),
    };
    let low = seconds as u32;
    let epoch = (seconds - i64::from(low.cast_signed())) >> 32;
    (low, (nanos << 2) | (epoch as u32 & 3))
}

/// The old encoding in the first word where it can hold the numbers, else the new one in the second.
fn encode_device(major: u32, minor: u32) -> (u32, u32) {
    if major < 256 && minor < 256 {
        ((major << 8) | minor, 0)
    } else {
        (0, (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_reach_from_1901_to_2446() {
        let time = |seconds| encode_time(Time { seconds, nanos: 5 });
        assert_eq!(time(0), (0, 5 << 2));
        assert_eq!(time(-1), (u32::MAX, 5 << 2));
        assert_eq!(time(1 << 31), (1 << 31, (5 << 2) | 1));
        assert_eq!(time(i64::from(i32::MIN)), (1 << 31, 5 << 2));
        assert_eq!(time(i64::MIN), (1 << 31, 0));
        assert_eq!(time(i64::MAX), (0x7fff_ffff, 3));
    }

    #[test]
    fn devices_use_the_old_encoding_while_they_fit() {
        assert_eq!(encode_device(1, 3), (0x103, 0));
        assert_eq!(encode_device(259, 70_000), (0, 0x1111_0370));
    }
}
