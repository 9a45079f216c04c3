//! Extended attributes: behind the inode where they fit, else in one block.

use std::collections::BTreeMap;

use super::{BLOCK, acl, checksum, inode::INLINE_ATTRIBUTES, put};
use crate::error::Problem;

const MAGIC: u32 = 0xea02_0000;
const HEADER: usize = 32;
const ENTRY: usize = 16;
/// Zero bytes that end the list of entries.
const END: usize = 4;
/// Bytes for entries and values in the inode, whose header is the magic number alone.
const INLINE_ROOM: usize = INLINE_ATTRIBUTES - 4;
/// The same in a block.
const BLOCK_ROOM: usize = BLOCK - HEADER;

/// An attribute as ext4 has it: a number for the name's prefix, and the rest of the name.
///
/// The order is the one that blocks are searched in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Xattr {
    pub(crate) prefix: u8,
    pub(crate) name: Box<[u8]>,
    pub(crate) value: Box<[u8]>,
}

impl Xattr {
    fn size(&self) -> usize {
        (ENTRY + self.name.len()).next_multiple_of(4) + self.value.len().next_multiple_of(4)
    }
}

/// The attributes of an entry that a Linux file can have, in order.
///
/// Left out: the namespaces of other systems, which Linux would refuse too, and overlayfs's own: workspaces see this
/// tree through overlayfs, and an image could otherwise forge deletions and redirections.
pub(crate) fn acceptable_xattrs(given: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<Vec<Xattr>, Problem> {
    let mut xattrs = Vec::with_capacity(given.len());
    for (full, value) in given {
        let malformed = || Problem::Xattr(String::from_utf8_lossy(&full[..full.len().min(256)]).into_owned());
        let (prefix, name) = match full.as_slice() {
            b"system.posix_acl_access" => (2, &[][..]),
            b"system.posix_acl_default" => (3, &[][..]),
            name if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") => continue,
            name => {
                let known: [(u8, &[u8]); 3] = [(1, b"user."), (4, b"trusted."), (6, b"security.")];
                let Some((prefix, name)) = known.iter().find_map(|&(n, p)| Some((n, name.strip_prefix(p)?))) else {
                    continue;
                };
                if name.is_empty() || name.len() > 255 || name.contains(&0) {
                    return Err(malformed());
                }
                (prefix, name)
            }
        };
        let value = if name.is_empty() { acl::to_disk(value).ok_or_else(malformed)? } else { value.clone() };
        xattrs.push(Xattr { prefix, name: name.into(), value: value.into() });
    }
    xattrs.sort_by(|a, b| (a.prefix, a.name.len(), &a.name).cmp(&(b.prefix, b.name.len(), &b.name)));
    let (_, block) = place(&xattrs);
    if block.iter().map(|x| x.size()).sum::<usize>() + END > BLOCK_ROOM {
        return Err(Problem::XattrsTooLarge);
    }
    Ok(xattrs)
}

/// Which attributes go to the inode, and which to the block: each in order, to the inode while there is room.
fn place(xattrs: &[Xattr]) -> (Vec<&Xattr>, Vec<&Xattr>) {
    let mut used = END;
    xattrs.iter().partition(|xattr| {
        let fits = used + xattr.size() <= INLINE_ROOM;
        if fits {
            used += xattr.size();
        }
        fits
    })
}

/// The attributes behind the inode.
pub(crate) fn inline_attributes(xattrs: &[Xattr]) -> [u8; INLINE_ATTRIBUTES] {
    let mut out = [0; INLINE_ATTRIBUTES];
    let (inline, _) = place(xattrs);
    if !inline.is_empty() {
        put(&mut out, 0, MAGIC.to_le_bytes());
        // Values are found from the first entry on; they have no hashes here.
        fill(&mut out[4..], 0, &inline, |_| 0);
    }
    out
}

/// The block of attributes, `None` when all are in the inode.
pub(crate) fn attribute_block(xattrs: &[Xattr], block: u32, seed: u32) -> Option<[u8; BLOCK]> {
    let (_, rest) = place(xattrs);
    if rest.is_empty() {
        return None;
    }
    let mut out = [0; BLOCK];
    put(&mut out, 0, MAGIC.to_le_bytes());
    // One inode uses it, and it is one block.
    put(&mut out, 4, 1_u32.to_le_bytes());
    put(&mut out, 8, 1_u32.to_le_bytes());
    fill(&mut out, HEADER, &rest, entry_hash);
    let hashes: Vec<u32> = rest.iter().map(|xattr| entry_hash(xattr)).collect();
    let hash = if hashes.contains(&0) { 0 } else { hashes.iter().fold(0_u32, |h, e| h.rotate_left(16) ^ e) };
    put(&mut out, 12, hash.to_le_bytes());
    let sum = checksum(checksum(seed, &u64::from(block).to_le_bytes()), &out);
    put(&mut out, 16, sum.to_le_bytes());
    Some(out)
}

/// Entries from `at` on, values from the end downwards. Offsets of values count from the start of `out`.
fn fill(out: &mut [u8], mut at: usize, xattrs: &[&Xattr], hash: impl Fn(&Xattr) -> u32) {
    let mut end = out.len();
    for xattr in xattrs {
        let length = xattr.value.len();
        let mut offset = 0;
        if length > 0 {
            end -= length.next_multiple_of(4);
            offset = end;
            out[end..end + length].copy_from_slice(&xattr.value);
        }
        put(out, at, [xattr.name.len() as u8, xattr.prefix]);
        put(out, at + 2, (offset as u16).to_le_bytes());
        put(out, at + 8, (length as u32).to_le_bytes());
        put(out, at + 12, hash(xattr).to_le_bytes());
        out[at + ENTRY..at + ENTRY + xattr.name.len()].copy_from_slice(&xattr.name);
        at += (ENTRY + xattr.name.len()).next_multiple_of(4);
    }
}

fn entry_hash(xattr: &Xattr) -> u32 {
    let name = xattr.name.iter().fold(0_u32, |hash, &byte| hash.rotate_left(5) ^ u32::from(byte));
    xattr.value.chunks(4).fold(name, |hash, word| {
        let mut bytes = [0; 4];
        bytes[..word.len()].copy_from_slice(word);
        hash.rotate_left(16) ^ u32::from_le_bytes(bytes)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(pairs: &[(&str, usize)]) -> BTreeMap<Vec<u8>, Vec<u8>> {
        pairs.iter().map(|(name, size)| (name.as_bytes().to_vec(), vec![7; *size])).collect()
    }

    #[test]
    fn what_linux_or_overlayfs_must_not_see_is_left_out() {
        let xattrs = acceptable_xattrs(&given(&[
            ("user.a", 1),
            ("trusted.overlay.opaque", 1),
            ("user.overlay.whiteout", 1),
            ("com.apple.provenance", 9),
        ]));
        assert_eq!(xattrs.unwrap().len(), 1);
        assert_eq!(acceptable_xattrs(&given(&[("user.", 1)])), Err(Problem::Xattr("user.".into())));
    }

    #[test]
    fn attributes_fill_the_inode_then_one_block_and_no_more() {
        let small = acceptable_xattrs(&given(&[("security.capability", 20)])).unwrap();
        assert_eq!(attribute_block(&small, 9, 0), None);
        // 16 for the entry, 4 for its name, 4 for the end.
        let exact = acceptable_xattrs(&given(&[("user.a", BLOCK_ROOM - 24)])).unwrap();
        assert!(attribute_block(&exact, 9, 0).is_some());
        let over = acceptable_xattrs(&given(&[("user.a", BLOCK_ROOM - 23)]));
        assert_eq!(over, Err(Problem::XattrsTooLarge));
    }
}
