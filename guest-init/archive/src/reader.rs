//! A reader of tar streams: POSIX ustar and pax, and GNU's long names. It trusts no length, and keeps one entry in memory.

use std::io::{self, Read};

use tar::Header;

use crate::{error::Error, name, pax::Records};

const BLOCK: usize = 512;

/// The longest extended header or long name, in bytes. Extended attributes, which are passed over, may be long.
const MAX_EXTENDED: u64 = 1024 * 1024;

/// The longest file, in bytes: what a file system can count.
const MAX_FILE: u64 = i64::MAX as u64;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    Directory,
    /// What is not copied, in words.
    Other(&'static str),
}

/// An entry, with its extended headers applied. Names are as they stand in the archive.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    /// Permission bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since 1970 and nanoseconds.
    pub(crate) mtime: (i64, u32),
}

/// Reads entries one after the other.
pub(crate) struct Reader<R> {
    stream: R,
    /// Bytes from the start.
    at: u64,
    /// Bytes of the current entry that were not read yet, and the padding behind them.
    left: u64,
    padding: u64,
    ended: bool,
}

impl<R: Read> Reader<R> {
    pub(crate) fn new(stream: R) -> Self {
        Self { stream, at: 0, left: 0, padding: 0, ended: false }
    }

    /// The next entry; `None` at the archive's end mark. What was not read of the current entry is passed over.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, Error> {
        let mut records = Records::default();
        let (mut long_name, mut long_link) = (None, None);
        while !self.ended {
            self.pass_over()?;
            let mut block = [0; BLOCK];
            self.fill(&mut block)?;
            if block.iter().all(|&b| b == 0) {
                self.ended = true;
                break;
            }
            let header = Header::from_byte_slice(&block);
            let old = header.as_old();
            let sum =
                block.iter().enumerate().map(|(n, &b)| if (148..156).contains(&n) { 32 } else { u64::from(b) }).sum();
            if number(&old.cksum) != Some(sum) {
                return Err(self.broken("this is no header of a tar archive, or it was damaged"));
            }
            let size = number(&old.size).ok_or_else(|| self.broken("a header has a size that is no number"))?;
            match old.linkflag[0] {
                b'x' => records = Records::parse(&self.extended(size)?).map_err(|problem| self.broken(&problem))?,
                // Defaults for all that follows; the tools that write them put comments there.
                b'g' => drop(self.extended(size)?),
                b'L' => long_name = Some(until_nul(self.extended(size)?)),
                b'K' => long_link = Some(until_nul(self.extended(size)?)),
                flag => return self.entry(header, flag, size, records, (long_name, long_link)).map(Some),
            }
        }
        if records != Records::default() || long_name.is_some() || long_link.is_some() {
            return Err(self.broken("it ends behind an extended header"));
        }
        Ok(None)
    }

    /// Reads some of the current entry's bytes; 0 at their end.
    pub(crate) fn data(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let read = self.read(&mut buffer[..wanted])?;
        self.left -= read as u64;
        Ok(read)
    }

    fn entry(
        &mut self,
        header: &Header,
        flag: u8,
        size: u64,
        records: Records,
        (long_name, long_link): (Option<Vec<u8>>, Option<Vec<u8>>),
    ) -> Result<Entry, Error> {
        let old = header.as_old();
        let name = records.path.or(long_name).unwrap_or_else(|| header.path_bytes().into_owned());
        let link = || header.link_name_bytes().unwrap_or_default().into_owned();
        let link = records.link.or(long_link).unwrap_or_else(link);
        let refused = |problem: &str| Error::Refused { name: name::shown(&name), problem: problem.to_owned() };
        let kind = match flag {
            // The oldest archives have no type for directories: their names end with a slash.
            b'0' | 0 if name.ends_with(b"/") => Kind::Directory,
            b'S' => return Err(refused("it is a file with holes: make the archive without --sparse")),
            b'0' | 0 | b'7' if records.is_sparse => {
                return Err(refused("it is a file with holes: make the archive without --sparse"));
            }
            b'0' | 0 | b'7' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' | b'4' => Kind::Other("a device"),
            b'5' => Kind::Directory,
            b'6' => Kind::Other("a named pipe"),
            _ => return Err(refused("it is of a type that is not known")),
        };
        // The size of the others says nothing of stored bytes: a hard link may name its target's.
        let size = if kind == Kind::File { records.size.unwrap_or(size) } else { 0 };
        if size > MAX_FILE {
            return Err(refused("no file can have this size"));
        }
        let id = |record: Option<u64>, field: &[u8]| {
            let id = record.or_else(|| number(field)).and_then(|id| u32::try_from(id).ok());
            // The largest number means "no id" to the kernel.
            id.filter(|&id| id != u32::MAX).ok_or_else(|| refused("its owner is no number that an owner can have"))
        };
        let (uid, gid) = (id(records.uid, &old.uid)?, id(records.gid, &old.gid)?);
        let mode = number(&old.mode).ok_or_else(|| refused("its mode is no number"))?;
        let mode = u32::try_from(mode & 0o7777).unwrap_or(0);
        let seconds = || number(&old.mtime).and_then(|seconds| i64::try_from(seconds).ok());
        let mtime = records.mtime.or_else(|| seconds().map(|seconds| (seconds, 0)));
        let mtime = mtime.ok_or_else(|| refused("its time is no number"))?;
        (self.left, self.padding) = (size, size.next_multiple_of(BLOCK as u64) - size);
        Ok(Entry { name, link, kind, mode, uid, gid, mtime })
    }

    fn extended(&mut self, size: u64) -> Result<Vec<u8>, Error> {
        if size > MAX_EXTENDED {
            return Err(self.broken(&format!("an extended header of {size} bytes, more than {MAX_EXTENDED}")));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        self.fill(&mut bytes)?;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(bytes)
    }

    fn pass_over(&mut self) -> Result<(), Error> {
        let mut buffer = vec![0; if self.left > BLOCK as u64 { 32 * 1024 } else { BLOCK }];
        while self.data(&mut buffer)? > 0 {}
        let padding = usize::try_from(std::mem::take(&mut self.padding)).unwrap_or(0);
        self.fill(&mut buffer[..padding])
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        let mut filled = 0;
        while filled < buffer.len() {
            filled += self.read(&mut buffer[filled..])?;
        }
        Ok(())
    }

    /// At least one byte: before its end mark an archive has no end.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        loop {
            match self.stream.read(buffer) {
                Ok(0) if self.at == 0 => return Err(self.broken("it is empty")),
                Ok(0) => return Err(self.broken("it was cut off")),
                Ok(read) => {
                    self.at += read as u64;
                    return Ok(read);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::Stream(e)),
            }
        }
    }

    fn broken(&self, problem: &str) -> Error {
        Error::Broken { at: self.at, problem: problem.to_owned() }
    }
}

/// A field of a header: octal digits, or GNU's binary form for what they cannot hold. An empty field is 0.
fn number(field: &[u8]) -> Option<u64> {
    if field.first() == Some(&0x80) {
        return field[1..].iter().try_fold(0u64, |sum, &b| sum.checked_mul(256)?.checked_add(b.into()));
    }
    let text = field.split(|&b| b == 0).next().unwrap_or_default();
    let text = std::str::from_utf8(text).ok()?.trim_matches(' ');
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok().filter(|_| !text.starts_with('+')) }
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: u8, size: u64) -> Header {
        let mut header = Header::new_ustar();
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_size(size);
        header.set_mode(0o644);
        header.as_old_mut().name[..1].copy_from_slice(b"f");
        header.set_cksum();
        header
    }

    fn archive(parts: &[(Header, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (header, data) in parts {
            builder.append(header, *data).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn all(bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>, Error> {
        let mut reader = Reader::new(bytes);
        let mut found = Vec::new();
        while let Some(entry) = reader.next()? {
            let (mut content, mut buffer) = (Vec::new(), [0; 100]);
            loop {
                match reader.data(&mut buffer)? {
                    0 => break,
                    n => content.extend(&buffer[..n]),
                }
            }
            found.push((String::from_utf8_lossy(&entry.name).into_owned(), content));
        }
        Ok(found)
    }

    #[test]
    fn names_of_all_forms_are_read_and_entries_may_be_left_unread() {
        let long = "n".repeat(300);
        let record = format!("310 path={long}\n");
        let bytes = archive(&[
            (header(b'g', 20), b"20 comment=whatever\n"),
            (header(b'x', record.len() as u64), record.as_bytes()),
            (header(b'0', 700), &[7; 700]),
            (header(b'L', 201), &[&[b'm'; 200][..], &[0]].concat()),
            (header(b'0', 0), b""),
            (header(0, 3), b"abc"),
        ]);
        let found = all(&bytes).unwrap();
        assert_eq!(found, [(long, vec![7; 700]), ("m".repeat(200), Vec::new()), ("f".to_owned(), b"abc".to_vec())]);
        let mut reader = Reader::new(&bytes[..]);
        let mut names = Vec::new();
        while let Some(entry) = reader.next().unwrap() {
            names.push(entry.name.len());
        }
        assert_eq!(names, [300, 200, 1]);
    }

    #[test]
    fn every_cut_is_an_error() {
        let bytes =
            archive(&[(header(b'L', 201), &[b'm'; 201]), (header(b'0', 600), &[7; 600]), (header(b'5', 0), b"")]);
        let whole = bytes.len() - 2 * BLOCK;
        for cut in 0..whole + BLOCK {
            assert!(matches!(all(&bytes[..cut]), Err(Error::Broken { .. })), "cut at {cut}");
        }
        assert_eq!(all(&bytes[..whole + BLOCK]).unwrap().len(), 2, "one block of zeros is an end mark");
    }

    #[test]
    fn a_size_that_lies_takes_no_memory_and_is_an_error() {
        for kind in [b'x', b'g', b'L', b'K'] {
            let error = all(&archive(&[(header(kind, 8 << 30), b"")])).unwrap_err();
            assert!(error.to_string().contains("more than"), "{error}");
        }
        let huge = archive(&[(header(b'0', 1 << 50), b"few")]);
        assert!(all(&huge).unwrap_err().to_string().contains("cut off"));
        let record = b"28 size=9223372036854775808\n";
        let bytes = archive(&[(header(b'x', record.len() as u64), record), (header(b'0', 0), b"")]);
        assert!(all(&bytes).unwrap_err().to_string().contains("no file can have this size"));
        let mut binary = header(b'0', 0);
        binary.as_old_mut().size = [0x80, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255];
        binary.set_cksum();
        assert!(all(&archive(&[(binary, b"")])).unwrap_err().to_string().contains("size that is no number"));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let sparse = b"22 GNU.sparse.major=1\n";
        let mut damaged = header(b'0', 0);
        damaged.as_old_mut().name[0] = b'g';
        for (parts, why) in [
            (vec![(header(b'Z', 0), &b""[..])], "type that is not known"),
            (vec![(header(b'S', 0), b"")], "holes"),
            (vec![(header(b'x', sparse.len() as u64), sparse), (header(b'0', 0), b"")], "holes"),
            (vec![(header(b'x', 3), b"9 x")], "record that is none"),
            (vec![(header(b'L', 2), b"a\0")], "ends behind"),
            (vec![(damaged, b"")], "no header"),
        ] {
            let error = all(&archive(&parts)).unwrap_err().to_string();
            assert!(error.contains(why), "{why}: {error}");
        }
        assert!(all(b"").unwrap_err().to_string().contains("empty"));
        assert!(all(&[b'x'; 2048]).unwrap_err().to_string().contains("no header"));
    }
}
