//! Extended attributes: behind the inode, and in one block.

use std::collections::BTreeMap;

use super::{error::ReadError, inode::Inode, le16, le32, superblock::Superblock};
use crate::ext4::{acl_from_disk, checksum};

const MAGIC: u32 = 0xea02_0000;
/// Bytes of a block before its first entry.
const HEADER: usize = 32;
/// Bytes of an entry before its name.
const ENTRY: usize = 16;

/// Attributes by their full names.
pub(crate) type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// The attributes behind the inode.
pub(super) fn of_inode(inode: &Inode) -> Result<Xattrs, ReadError> {
    let mut found = Xattrs::new();
    let tail = inode.tail();
    if le32(tail, 0) == MAGIC {
        // Values are found from the first entry on.
        read(inode, tail.get(4..).unwrap_or_default(), 0, &mut found)?;
    }
    Ok(found)
}

/// Adds the attributes in a block.
pub(super) fn of_block(
    inode: &Inode,
    bytes: &[u8],
    superblock: &Superblock,
    found: &mut Xattrs,
) -> Result<(), ReadError> {
    let bad = |why| Err(ReadError::damaged(inode.place(), why));
    if le32(bytes, 0) != MAGIC || le32(bytes, 8) != 1 {
        return bad("its block of extended attributes is none");
    }
    if superblock.has_checksums {
        let mut plain = bytes.to_vec();
        plain[16..20].fill(0);
        let sum = checksum(checksum(superblock.seed, &inode.attribute_block.to_le_bytes()), &plain);
        if sum != le32(bytes, 16) {
            return bad("the checksum of its block of extended attributes is wrong");
        }
    }
    read(inode, bytes, HEADER, found)
}

/// Reads entries from `at` on; the offsets of values count from the start of `bytes`.
fn read(inode: &Inode, bytes: &[u8], mut at: usize, found: &mut Xattrs) -> Result<(), ReadError> {
    let bad = |why| Err(ReadError::damaged(inode.place(), why));
    // All values together take no more than the place that they stand in: nobody makes much of little.
    let mut room = bytes.len();
    // Four zero bytes end the list, or the end of the place.
    while at + 4 <= bytes.len() && le32(bytes, at) != 0 {
        let Some(head) = bytes.get(at..at + ENTRY) else { return bad("its extended attributes are cut short") };
        let (length, prefix) = (usize::from(head[0]), head[1]);
        let Some(name) = bytes.get(at + ENTRY..at + ENTRY + length) else {
            return bad("its extended attributes are cut short");
        };
        if le32(head, 4) != 0 {
            return Err(ReadError::Unsupported { what: format!("{} with the feature ea_inode", inode.place()) });
        }
        let (offset, size) = (usize::from(le16(head, 2)), le32(head, 8) as usize);
        let value =
            if size == 0 { Some(&[][..]) } else { offset.checked_add(size).and_then(|end| bytes.get(offset..end)) };
        let (Some(value), Some(left)) = (value, room.checked_sub(size)) else {
            return bad("the value of an extended attribute lies outside of its place");
        };
        room = left;
        let (name, value) = match (prefix, name) {
            (2, b"") | (3, b"") => {
                let full = if prefix == 2 { "system.posix_acl_access" } else { "system.posix_acl_default" };
                let Some(value) = acl_from_disk(value) else { return bad("an access control list of it is malformed") };
                (full.as_bytes().to_vec(), value)
            }
            (1 | 4 | 6, name) if !name.is_empty() && !name.contains(&0) => {
                let prefix: &[u8] = match prefix {
                    1 => b"user.",
                    4 => b"trusted.",
                    _ => b"security.",
                };
                ([prefix, name].concat(), value.to_vec())
            }
            (7.., _) => {
                let what = format!("{} with extended attributes of the kind {prefix}", inode.place());
                return Err(ReadError::Unsupported { what });
            }
            _ => return bad("an extended attribute has a name that cannot be"),
        };
        if found.insert(name, value).is_some() {
            return bad("an extended attribute is there twice");
        }
        at += (ENTRY + length).next_multiple_of(4);
    }
    Ok(())
}
