//! Writes the archive of a layer: POSIX ustar headers, and PAX extended headers for what they cannot hold.

use std::{collections::BTreeMap, io::Write};

use tar::{EntryType, Header};

use super::error::OverlayError;
use crate::layer::Time;

/// The unit of the format, in bytes.
const BLOCK: u64 = 512;
/// Longest name and link in a header, in bytes.
const SHORT: usize = 100;
/// Largest owner and group, and the first size, that octal digits of a header cannot hold.
const MAX_ID: u32 = 0o7_777_777;
const FIRST_LARGE: u64 = 1 << 33;

/// What kinds of entries are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind<'a> {
    /// Of so many bytes, which follow by [`Archive::data`].
    File(u64),
    Directory,
    Symlink(&'a [u8]),
    HardLink(&'a [u8]),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
}

/// What all kinds have.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Attributes<'a> {
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Time,
    pub(super) xattrs: Option<&'a BTreeMap<Vec<u8>, Vec<u8>>>,
}

/// An archive under way. The same entries give the same bytes.
pub(super) struct Archive<'a> {
    out: &'a mut dyn Write,
    /// Bytes that the entry at hand still lacks, and those that fill up its last block.
    lacking: u64,
    padding: u64,
}

impl<'a> Archive<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> Self {
        Self { out, lacking: 0, padding: 0 }
    }

    /// Begins an entry. The path has no slash in front; that of a directory ends with one.
    pub(super) fn entry(
        &mut self,
        path: &[u8],
        kind: Kind<'_>,
        attributes: &Attributes<'_>,
    ) -> Result<(), OverlayError> {
        let mut pax = Records::default();
        let mut header = Header::new_ustar();
        let (size, link) = match kind {
            Kind::File(size) => (size, &[][..]),
            Kind::Symlink(target) | Kind::HardLink(target) => (0, target),
            _ => (0, &[][..]),
        };
        header.set_entry_type(match kind {
            Kind::File(_) => EntryType::Regular,
            Kind::Directory => EntryType::Directory,
            Kind::Symlink(_) => EntryType::Symlink,
            Kind::HardLink(_) => EntryType::Link,
            Kind::Char(..) => EntryType::Char,
            Kind::Block(..) => EntryType::Block,
            Kind::Fifo => EntryType::Fifo,
        });
        fill(&mut header.as_old_mut().name, path, "path", &mut pax);
        fill(&mut header.as_old_mut().linkname, link, "linkpath", &mut pax);
        header.set_mode(attributes.mode.into());
        header.set_uid(pax.id("uid", attributes.uid));
        header.set_gid(pax.id("gid", attributes.gid));
        if size >= FIRST_LARGE {
            pax.add(b"size", size.to_string().as_bytes());
        }
        header.set_size(if size < FIRST_LARGE { size } else { 0 });
        header.set_mtime(pax.time(attributes.mtime));
        if let Kind::Char(major, minor) | Kind::Block(major, minor) = kind {
            header
                .set_device_major(major)
                .and_then(|()| header.set_device_minor(minor))
                .map_err(OverlayError::Write)?;
        }
        for (name, value) in attributes.xattrs.into_iter().flatten() {
            pax.add(&[b"SCHILY.xattr.", name.as_slice()].concat(), value);
        }
        header.set_cksum();
        if !pax.0.is_empty() {
            let mut extended = Header::new_ustar();
            extended.set_entry_type(EntryType::XHeader);
            fill(&mut extended.as_old_mut().name, b"PaxHeaders/entry", "", &mut Records::default());
            extended.set_mode(0o644);
            extended.set_size(pax.0.len() as u64);
            extended.set_cksum();
            self.write(extended.as_bytes())?;
            self.begin(pax.0.len() as u64);
            self.data(&pax.0)?;
        }
        self.write(header.as_bytes())?;
        self.begin(size);
        Ok(())
    }

    fn begin(&mut self, size: u64) {
        self.lacking = size;
        self.padding = size.next_multiple_of(BLOCK) - size;
    }

    /// The next bytes of the file that was begun last; never more of them than it has.
    pub(super) fn data(&mut self, bytes: &[u8]) -> Result<(), OverlayError> {
        self.write(bytes)?;
        self.lacking = self.lacking.saturating_sub(bytes.len() as u64);
        if self.lacking == 0 {
            let padding = std::mem::take(&mut self.padding);
            self.write(&[0; BLOCK as usize][..padding as usize])?;
        }
        Ok(())
    }

    /// The end of the archive.
    pub(super) fn finish(self) -> Result<(), OverlayError> {
        self.out.write_all(&[0; 2 * BLOCK as usize]).map_err(OverlayError::Write)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), OverlayError> {
        self.out.write_all(bytes).map_err(OverlayError::Write)
    }
}

/// Puts what fits into the header, and all of it beside it where it does not.
fn fill(field: &mut [u8; SHORT], text: &[u8], key: &str, pax: &mut Records) {
    let count = text.len().min(SHORT);
    field[..count].copy_from_slice(&text[..count]);
    if text.len() > SHORT {
        pax.add(key.as_bytes(), text);
    }
}

/// The records of an extended header.
#[derive(Default)]
struct Records(Vec<u8>);

impl Records {
    /// `LENGTH KEY=VALUE\n`, where the length counts itself.
    fn add(&mut self, key: &[u8], value: &[u8]) {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        self.0.extend_from_slice(length.to_string().as_bytes());
        self.0.extend_from_slice(b" ");
        self.0.extend_from_slice(key);
        self.0.extend_from_slice(b"=");
        self.0.extend_from_slice(value);
        self.0.extend_from_slice(b"\n");
    }

    fn id(&mut self, key: &str, id: u32) -> u64 {
        if id > MAX_ID {
            self.add(key.as_bytes(), id.to_string().as_bytes());
            return 0;
        }
        id.into()
    }

    /// The whole seconds for the header; all of the time beside it where those are not it.
    fn time(&mut self, time: Time) -> u64 {
        let Time { seconds, nanos } = time;
        match u64::try_from(seconds).ok().filter(|&whole| whole < FIRST_LARGE) {
            Some(whole) if nanos == 0 => whole,
            whole => {
                // Before 1970 the digits count back from the next second, behind a sign.
                let (sign, whole_seconds, fraction) = match (seconds < 0, nanos) {
                    (true, 1..) => ("-", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanos),
                    (true, 0) => ("-", seconds.unsigned_abs(), 0),
                    (false, _) => ("", seconds.unsigned_abs(), nanos),
                };
                let mut text = format!("{sign}{whole_seconds}");
                if fraction > 0 {
                    text.push_str(format!(".{fraction:09}").trim_end_matches('0'));
                }
                self.add(b"mtime", text.as_bytes());
                whole.unwrap_or(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tar::{self as reader, Reader};

    fn read_back(path: &[u8], kind: Kind<'_>, attributes: &Attributes<'_>) -> reader::Entry {
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes);
        archive.entry(path, kind, attributes).unwrap();
        if let Kind::File(size) = kind {
            archive.data(&vec![b'x'; size as usize]).unwrap();
        }
        archive.finish().unwrap();
        let mut reader = Reader::new(&bytes[..]);
        let entry = reader.next().unwrap().unwrap();
        assert!(reader.next().unwrap().is_none());
        entry
    }

    #[test]
    fn what_a_header_cannot_hold_comes_back_too() {
        let xattrs = BTreeMap::from([(b"user.a".to_vec(), b"\0=\n".to_vec()), (b"user.long".to_vec(), vec![7; 3000])]);
        let long = [&b"d/".repeat(90)[..], &[0xff; 200]].concat();
        for mtime in [(0, 0), (5, 0), (5, 123_456_789), (-1, 0), (-2, 750_000_000), (-1, 999_999_999), (1 << 33, 1)] {
            let attributes = Attributes {
                mode: 0o6755,
                uid: u32::MAX - 1,
                gid: MAX_ID,
                mtime: Time { seconds: mtime.0, nanos: mtime.1 },
                xattrs: Some(&xattrs),
            };
            let entry = read_back(&long, Kind::File(513), &attributes);
            assert_eq!((entry.path, entry.mode, entry.uid, entry.gid), (long.clone(), 0o6755, u32::MAX - 1, MAX_ID));
            assert_eq!((entry.mtime, &entry.xattrs), (attributes.mtime, &xattrs));
        }
    }

    #[test]
    fn every_kind_comes_back() {
        let plain = Attributes::default();
        assert_eq!(read_back(b"d/", Kind::Directory, &plain).kind, reader::Kind::Directory);
        assert_eq!(read_back(b"f", Kind::Fifo, &plain).kind, reader::Kind::Fifo);
        let device = read_back(b"c", Kind::Char(4095, (1 << 20) - 1), &plain);
        assert_eq!((device.kind, device.major, device.minor), (reader::Kind::Char, 4095, (1 << 20) - 1));
        let target = b"t/".repeat(1000);
        let link = read_back(b"l", Kind::Symlink(&target), &plain);
        assert_eq!((link.kind, link.link), (reader::Kind::Symlink, target));
        let hard = read_back(b"h", Kind::HardLink(b"other"), &plain);
        assert_eq!((hard.kind, hard.link.as_slice()), (reader::Kind::HardLink, &b"other"[..]));
    }
}
