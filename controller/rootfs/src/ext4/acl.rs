//! Access control lists: archives carry the form of system calls, ext4 stores a shorter one.

/// Turns the value of `system.posix_acl_*` (`linux/posix_acl_xattr.h`) into that of ext4 (`fs/ext4/acl.h`). `None`
/// when it is malformed.
pub(crate) fn to_disk(value: &[u8]) -> Option<Vec<u8>> {
    let (version, entries) = value.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != 2 || entries.is_empty() || entries.len() % 8 != 0 {
        return None;
    }
    let mut out = 1_u32.to_le_bytes().to_vec();
    for entry in entries.chunks_exact(8) {
        let permissions = u16::from_le_bytes([entry[2], entry[3]]);
        if permissions > 7 {
            return None;
        }
        match u16::from_le_bytes([entry[0], entry[1]]) {
            // Owner, owning group, mask, others: no id.
            0x01 | 0x04 | 0x10 | 0x20 => out.extend_from_slice(&entry[..4]),
            // A named user or group.
            0x02 | 0x08 => out.extend_from_slice(entry),
            _ => return None,
        }
    }
    Some(out)
}

/// The reverse of [`to_disk`].
pub(crate) fn from_disk(value: &[u8]) -> Option<Vec<u8>> {
    let (version, mut rest) = value.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != 1 || rest.is_empty() {
        return None;
    }
    let mut out = 2_u32.to_le_bytes().to_vec();
    while !rest.is_empty() {
        let (head, behind) = rest.split_first_chunk::<4>()?;
        out.extend_from_slice(head);
        if u16::from_le_bytes([head[2], head[3]]) > 7 {
            return None;
        }
        rest = match u16::from_le_bytes([head[0], head[1]]) {
            0x01 | 0x04 | 0x10 | 0x20 => {
                out.extend_from_slice(&u32::MAX.to_le_bytes());
                behind
            }
            0x02 | 0x08 => {
                let (id, behind) = behind.split_first_chunk::<4>()?;
                out.extend_from_slice(id);
                behind
            }
            _ => return None,
        };
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_get_an_id_back_that_says_none() {
        let value = [2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 5, 0, 42, 0, 0, 0];
        let disk = to_disk(&value).unwrap();
        assert_eq!(from_disk(&disk).unwrap(), value);
        for cut in 0..disk.len() {
            assert!(cut == 8 || from_disk(&disk[..cut]).is_none(), "{cut}");
        }
    }

    #[test]
    fn entries_without_an_id_get_shorter() {
        let value = [2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 5, 0, 42, 0, 0, 0];
        assert_eq!(to_disk(&value).unwrap(), [1, 0, 0, 0, 1, 0, 7, 0, 2, 0, 5, 0, 42, 0, 0, 0]);
        assert_eq!(to_disk(&value[..19]), None);
        assert_eq!(to_disk(&[1, 0, 0, 0]), None);
    }
}
