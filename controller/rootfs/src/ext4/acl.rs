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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_without_an_id_get_shorter() {
        let value = [2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 5, 0, 42, 0, 0, 0];
        assert_eq!(to_disk(&value).unwrap(), [1, 0, 0, 0, 1, 0, 7, 0, 2, 0, 5, 0, 42, 0, 0, 0]);
        assert_eq!(to_disk(&value[..19]), None);
        assert_eq!(to_disk(&[1, 0, 0, 0]), None);
    }
}
