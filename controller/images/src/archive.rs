//! An OCI image layout in an uncompressed tar file, read in place: one walk over the headers, then members by their
//! position. Headers are decoded by the `tar` crate; its own walk is not used, for it reads extension headers of any
//! size into memory.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    path::Path,
};

use tar::{EntryType, Header};

use crate::{
    import::{Layout, Member},
    layout::open_regular,
};

const BLOCK: u64 = 512;
/// An image has three members and one for each layer; a whole repository in one archive has some thousands.
const MAX_MEMBERS: usize = 100_000;
/// Links from one to the next. Docker linked layers that were the same, once.
const MAX_LINKS: usize = 8;
/// The largest extension header that is read: one that gives the size of a member needs some bytes.
const MAX_EXTENSION: u64 = 64 << 10;

/// The archive and where its members are.
pub(crate) struct Archive {
    file: File,
    members: Members,
}

/// Where the members are.
#[derive(Default)]
struct Members {
    files: HashMap<String, (u64, u64)>,
    /// Other names, and the names they stand for.
    links: HashMap<String, String>,
}

impl Archive {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = open_regular(path)?;
        let members = walk(&file, file.metadata()?.len())?;
        Ok(Self { file, members })
    }
}

impl Layout for Archive {
    fn member(&self, name: &str) -> io::Result<Option<Member>> {
        let mut name = name;
        for _ in 0..MAX_LINKS {
            let Some(target) = self.members.links.get(name) else { break };
            name = target;
        }
        let Some(&(at, size)) = self.members.files.get(name) else { return Ok(None) };
        Ok(Some(Member { size, file: self.file.try_clone()?, at: Some(at) }))
    }
}

fn walk(file: &File, length: u64) -> io::Result<Members> {
    let bad = |at: u64, why: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{why} at byte {at}"));
    let mut members = Members::default();
    let (mut at, mut next_size) = (0, None);
    while at + BLOCK <= length {
        let mut block = [0; BLOCK as usize];
        file.read_exact_at(&mut block, at)?;
        if block.iter().all(|byte| *byte == 0) {
            break;
        }
        let header = Header::from_byte_slice(&block);
        if !is_tar(header, &block) {
            let compressed =
                at == 0 && (block.starts_with(&[0x1f, 0x8b]) || block.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]));
            return Err(bad(
                at,
                if compressed { "it is compressed; decompress it first:" } else { "it is no tar header" },
            ));
        }
        let stated = header.entry_size().map_err(|e| bad(at, &e.to_string()))?;
        let kind = header.entry_type();
        let size = if kind.is_file() { next_size.take().unwrap_or(stated) } else { stated };
        let data = at + BLOCK;
        let end = data.checked_add(size).filter(|end| *end <= length).ok_or_else(|| bad(at, "it is cut off"))?;
        match kind {
            EntryType::Regular | EntryType::Continuous => {
                // Of two members of one name the last one counts, as when unpacking.
                if let Some(name) = name(header) {
                    members.links.remove(&name);
                    members.files.insert(name, (data, size));
                }
            }
            EntryType::Symlink | EntryType::Link => {
                let link = header.link_name_bytes();
                let from = name(header);
                if let (Some(name), Some(link)) =
                    (from, link.as_deref().and_then(|link| std::str::from_utf8(link).ok()))
                    && let Some(target) = target(&name, link, kind == EntryType::Symlink)
                {
                    members.files.remove(&name);
                    members.links.insert(name, target);
                }
            }
            EntryType::XHeader => next_size = extension_size(file, data, size)?,
            _ => {}
        }
        if members.files.len() + members.links.len() > MAX_MEMBERS {
            return Err(bad(at, "it has more than 100000 members"));
        }
        at = end.div_ceil(BLOCK).checked_mul(BLOCK).ok_or_else(|| bad(at, "it is cut off"))?;
    }
    Ok(members)
}

fn name(header: &Header) -> Option<String> {
    let path = header.path_bytes();
    std::str::from_utf8(&path).ok().map(|name| name.trim_start_matches("./").to_owned())
}

/// The member that a link stands for; none when it leads out of the archive, where nothing is ever looked for.
fn target(name: &str, link: &str, relative: bool) -> Option<String> {
    let mut parts: Vec<&str> = if relative { name.split('/').collect() } else { Vec::new() };
    parts.pop();
    if link.starts_with('/') {
        return None;
    }
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// Whether the checksum of a header is right: the sum of its bytes, its own field taken as spaces.
fn is_tar(header: &Header, block: &[u8]) -> bool {
    let sum: u32 =
        block.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) }).sum();
    header.cksum().is_ok_and(|stated| stated == sum)
}

/// The `size` record of a pax header, written for members of 8 GiB and more.
fn extension_size(file: &File, at: u64, size: u64) -> io::Result<Option<u64>> {
    let mut text = Vec::new();
    At { file, at }.take(size.min(MAX_EXTENSION)).read_to_end(&mut text)?;
    let records = text.split(|byte| *byte == b'\n').filter_map(|record| std::str::from_utf8(record).ok());
    let mut sizes = records.filter_map(|record| record.split_once(' ')?.1.strip_prefix("size=")?.parse().ok());
    Ok(sizes.next_back())
}

/// Reads a file from a position without moving its cursor, which clones of the file share.
pub(crate) struct At<'a> {
    pub(crate) file: &'a File,
    pub(crate) at: u64,
}

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in members {
            let mut header = Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn open(bytes: &[u8]) -> io::Result<Archive> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        Archive::open(file.path())
    }

    fn read(archive: &Archive, name: &str) -> Option<Vec<u8>> {
        let member = archive.member(name).unwrap()?;
        let mut bytes = Vec::new();
        member.reader().read_to_end(&mut bytes).unwrap();
        Some(bytes)
    }

    #[test]
    fn members_are_read_where_they_lie_and_the_last_of_a_name_counts() {
        let long = [7; 1000];
        let archive = open(&archive(&[("./index.json", b"old"), ("blobs/x", &long), ("index.json", b"new")])).unwrap();
        assert_eq!(read(&archive, "index.json").unwrap(), b"new");
        assert_eq!(read(&archive, "blobs/x").unwrap(), long);
        assert!(read(&archive, "other").is_none());
    }

    #[test]
    fn what_is_cut_compressed_or_no_tar_is_refused() {
        let whole = archive(&[("index.json", &[1; 5000])]);
        for (bytes, why) in [(&whole[..1024], "cut off"), (&[0x1f; 600], "no tar"), (&[0xff; 5000], "no tar")] {
            let error = open(bytes).err().unwrap().to_string();
            assert!(error.contains(why), "{error}");
        }
        let mut gzip = vec![0x1f, 0x8b];
        gzip.resize(1024, 3);
        assert!(open(&gzip).err().unwrap().to_string().contains("decompress it first"));
        assert!(open(b"").unwrap().members.files.is_empty());
    }

    #[test]
    fn a_size_beyond_the_header_comes_from_the_extension() {
        let record = b"14 size=70000\n";
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.set_size(record.len() as u64);
        header.set_path("x").unwrap();
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(record);
        bytes.resize(1024, 0);
        let mut header = Header::new_ustar();
        header.set_size(0);
        header.set_path("big").unwrap();
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(bytes.len() + 70_144, 9);
        assert_eq!(read(&open(&bytes).unwrap(), "big").unwrap(), vec![9; 70_000]);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_walk_panic_or_leave_the_file(
            flips in proptest::collection::vec((0..2560_usize, proptest::num::u8::ANY), 0..20),
            fix in proptest::bool::ANY,
        ) {
            let mut bytes = archive(&[("index.json", &[1; 600])]);
            for (at, byte) in flips {
                bytes[at] = byte;
            }
            if fix {
                // With a right checksum the other fields are looked at too.
                let mut header = Header::from_byte_slice(&bytes[..512]).clone();
                header.set_cksum();
                bytes[..512].copy_from_slice(header.as_bytes());
            }
            if let Ok(archive) = open(&bytes) {
                for (at, size) in archive.members.files.values() {
                    proptest::prop_assert!(at + size <= bytes.len() as u64);
                }
            }
        }
    }
}
