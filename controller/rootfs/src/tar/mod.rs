//! A reader of layer archives. Strict: what it does not know is an error, for a layer that is half understood would
//! become a disk that is half right.

mod header;
mod pax;
mod sparse;

pub(crate) use sparse::Map;

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    error::{LayerError, Problem},
    layer::Time,
    limits::{MAX_EXTENDED_HEADER, MAX_FILE, MAX_SPARSE_PIECES},
};
use header::{BLOCK, Raw, sparse_pieces};
use pax::Pax;
use sparse::{MapReader, Pieces};

/// Bytes of global headers. Every entry looks through them; `git archive` writes 52.
const MAX_GLOBALS: u64 = 8 * 1024;

/// Where an archive comes from.
pub(crate) trait Input {
    /// Reads some bytes; `Ok(0)` only at the end.
    fn pull(&mut self, out: &mut [u8]) -> Result<usize, LayerError>;

    /// Passes over up to `limit` bytes; `Ok(0)` only at the end.
    fn skip(&mut self, limit: u64) -> Result<u64, LayerError>;
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    Char,
    Block,
    Directory,
    Fifo,
}

/// An entry, with the extended headers applied. Paths are as they stand in the archive.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The contents of a file; a file without holes has one piece.
    pub(crate) map: Map,
}

/// Reads entries one after the other.
pub(crate) struct Reader<I> {
    input: I,
    /// Offset in the archive.
    offset: u64,
    /// Stored bytes of the current entry that were not read yet, and the padding behind them.
    remaining: u64,
    padding: u64,
    globals: Arc<Pax>,
    ended: bool,
}

impl<I: Input> Reader<I> {
    pub(crate) fn new(input: I) -> Self {
        Self { input, offset: 0, remaining: 0, padding: 0, globals: Arc::default(), ended: false }
    }

    pub(crate) fn into_input(self) -> I {
        self.input
    }

    /// The next entry; `None` at the end of the archive. What was not read of the current entry is passed over.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, LayerError> {
        self.skip_rest()?;
        let mut local: Option<Pax> = None;
        let (mut long_name, mut long_link) = (None, None);
        loop {
            let start = self.offset;
            let archive = |problem| LayerError::Archive { offset: start, problem };
            let Some(block) = self.header()? else {
                // An extended header has to extend something.
                let dangling = local.is_some() || long_name.is_some() || long_link.is_some();
                return if dangling { Err(archive(Problem::Truncated)) } else { Ok(None) };
            };
            let raw = Raw::parse(&block).map_err(archive)?;
            match raw.kind {
                b'x' => {
                    let records = self.extended(raw.size)?;
                    let pax = local.get_or_insert_with(|| Pax::over(&self.globals));
                    pax.add(&records, 2 * MAX_EXTENDED_HEADER).map_err(archive)?;
                }
                b'g' => {
                    let records = self.extended(raw.size)?;
                    Arc::make_mut(&mut self.globals).add(&records, MAX_GLOBALS).map_err(archive)?;
                }
                b'L' => long_name = Some(until_nul(self.extended(raw.size)?)),
                b'K' => long_link = Some(until_nul(self.extended(raw.size)?)),
                _ => {
                    let globals = Arc::clone(&self.globals);
                    let entry = self.entry(raw, local.as_ref().unwrap_or(&globals), long_name, long_link, start);
                    return entry.map(Some);
                }
            }
        }
    }

    /// Fills `out` with stored bytes of the current entry.
    pub(crate) fn read_exact(&mut self, out: &mut [u8]) -> Result<(), LayerError> {
        if (out.len() as u64) > self.remaining {
            return Err(self.broken(Problem::Truncated));
        }
        self.remaining -= out.len() as u64;
        self.pull_all(out)
    }

    fn entry(
        &mut self,
        raw: Raw,
        pax: &Pax,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
        start: u64,
    ) -> Result<Entry, LayerError> {
        let text = |key, long: Option<Vec<u8>>, short: Vec<u8>| match pax.get(key) {
            Some(value) => value.to_vec(),
            None => long.unwrap_or(short),
        };
        let mut path = text("path", long_name, raw.name);
        if let Some(name) = pax.get("GNU.sparse.name") {
            path = name.to_vec();
        }
        let link = text("linkpath", long_link, raw.link);
        // Until the path is known to be sound, the offset names the entry better.
        let fail = |problem| match path.is_empty() {
            true => LayerError::Archive { offset: start, problem },
            false => LayerError::entry(&path, problem),
        };
        let kind = kind(raw.kind, &path).map_err(fail)?;
        let stored = match kind {
            Kind::File => pax.number("size").map_err(fail)?.unwrap_or(raw.size),
            // The size of the others says nothing of stored bytes: a hard link may name its target's.
            _ => 0,
        };
        if kind == Kind::Directory && raw.kind != b'5' && raw.size != 0 {
            return Err(fail(Problem::Type(char::from(raw.kind))));
        }
        if stored > MAX_FILE {
            return Err(fail(Problem::FileTooLarge));
        }
        self.remaining = stored;
        self.padding = stored.next_multiple_of(BLOCK as u64) - stored;
        let mtime = pax.time("mtime").map_err(fail)?.unwrap_or(Time { seconds: raw.mtime, nanos: 0 });
        let uid = pax.small("uid").map_err(fail)?.unwrap_or(raw.uid);
        let gid = pax.small("gid").map_err(fail)?.unwrap_or(raw.gid);
        let major = pax.small("SCHILY.devmajor").map_err(fail)?.unwrap_or(raw.major);
        let minor = pax.small("SCHILY.devminor").map_err(fail)?.unwrap_or(raw.minor);
        let xattrs = pax.xattrs().map_err(fail)?;
        let sparse = if kind == Kind::File { sparse::of_pax(pax).map_err(fail)? } else { None };
        let map = match (sparse, raw.sparse) {
            (Some((size, Pieces::Known(pieces))), _) => Map::new(size, pieces, stored),
            (Some((size, Pieces::InData)), _) => {
                let pieces = self.sparse_map()?;
                Map::new(size, pieces, self.remaining)
            }
            (None, Some(old)) => {
                let mut pieces = old.pieces;
                let mut extended = old.extended;
                while extended {
                    let mut block = [0; BLOCK];
                    self.pull_all(&mut block)?;
                    pieces.extend(sparse_pieces(&block[..504]).map_err(fail)?);
                    extended = block[504] != 0;
                    if pieces.len() > MAX_SPARSE_PIECES {
                        return Err(fail(Problem::Sparse));
                    }
                }
                Map::new(old.real_size, pieces, stored)
            }
            (None, None) => Map::new(stored, vec![(0, stored)], stored),
        }
        .map_err(fail)?;
        Ok(Entry { path, link, kind, mode: raw.mode, uid, gid, mtime, major, minor, xattrs, map })
    }

    /// The map in front of the stored bytes of a PAX 1.0 sparse file.
    fn sparse_map(&mut self) -> Result<Vec<(u64, u64)>, LayerError> {
        let mut reader = MapReader::default();
        loop {
            let mut block = [0; BLOCK];
            self.read_exact(&mut block)?;
            if let Some(pieces) = reader.block(&block).map_err(|problem| self.broken(problem))? {
                return Ok(pieces);
            }
        }
    }

    /// The next block that is not the end of the archive.
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>, LayerError> {
        if self.ended {
            return Ok(None);
        }
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.input.pull(&mut block[filled..])? {
                // An archive may lack its end marker: that it is whole is what the digests say.
                0 if filled == 0 => {
                    self.ended = true;
                    return Ok(None);
                }
                0 => return Err(self.broken(Problem::Truncated)),
                count => filled += count,
            }
        }
        self.offset += BLOCK as u64;
        if block.iter().all(|&b| b == 0) {
            self.ended = true;
            return Ok(None);
        }
        Ok(Some(block))
    }

    fn extended(&mut self, size: u64) -> Result<Vec<u8>, LayerError> {
        if size > MAX_EXTENDED_HEADER {
            return Err(self.broken(Problem::ExtendedHeader(size)));
        }
        let mut bytes = vec![0; size as usize];
        self.pull_all(&mut bytes)?;
        self.remaining = 0;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        self.skip_rest()?;
        Ok(bytes)
    }

    fn pull_all(&mut self, out: &mut [u8]) -> Result<(), LayerError> {
        let mut filled = 0;
        while filled < out.len() {
            match self.input.pull(&mut out[filled..])? {
                0 => return Err(self.broken(Problem::Truncated)),
                count => filled += count,
            }
        }
        self.offset += out.len() as u64;
        Ok(())
    }

    fn skip_rest(&mut self) -> Result<(), LayerError> {
        let mut rest = std::mem::take(&mut self.remaining) + std::mem::take(&mut self.padding);
        while rest > 0 {
            match self.input.skip(rest)? {
                0 => return Err(self.broken(Problem::Truncated)),
                count => {
                    rest -= count;
                    self.offset += count;
                }
            }
        }
        Ok(())
    }

    fn broken(&self, problem: Problem) -> LayerError {
        LayerError::Archive { offset: self.offset, problem }
    }
}

fn kind(flag: u8, path: &[u8]) -> Result<Kind, Problem> {
    match flag {
        // v7 has no type for directories: their names end with a slash.
        b'0' | 0 if path.ends_with(b"/") => Ok(Kind::Directory),
        b'0' | 0 | b'7' | b'S' => Ok(Kind::File),
        b'1' => Ok(Kind::HardLink),
        b'2' => Ok(Kind::Symlink),
        b'3' => Ok(Kind::Char),
        b'4' => Ok(Kind::Block),
        b'5' => Ok(Kind::Directory),
        b'6' => Ok(Kind::Fifo),
        other => Err(Problem::Type(char::from(other))),
    }
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|&b| b == 0) {
        bytes.truncate(end);
    }
    bytes
}

/// Archives that are in memory, for tests.
#[cfg(test)]
impl Input for &[u8] {
    fn pull(&mut self, out: &mut [u8]) -> Result<usize, LayerError> {
        let count = out.len().min(self.len());
        out[..count].copy_from_slice(&self[..count]);
        *self = &self[count..];
        Ok(count)
    }

    fn skip(&mut self, limit: u64) -> Result<u64, LayerError> {
        let count = limit.min(self.len() as u64);
        *self = &self[count as usize..];
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(path: &str, size: usize) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(size as u64);
        header.set_mode(0o104_755);
        builder.append_data(&mut header, path, &vec![b'x'; size][..]).unwrap();
        builder.into_inner().unwrap()
    }

    #[test]
    fn a_file_is_read_and_what_is_left_of_it_passed_over() {
        let bytes = [archive("a", 700), archive("b", 3)].concat();
        // The first archive's end marker is cut off.
        let bytes = [&bytes[..512 + 1024], &bytes[512 + 1024 + 1024..]].concat();
        let mut reader = Reader::new(&bytes[..]);
        let a = reader.next().unwrap().unwrap();
        assert_eq!((a.path.as_slice(), a.kind, a.mode, a.map.size), (&b"a"[..], Kind::File, 0o4755, 700));
        let mut some = [0; 100];
        reader.read_exact(&mut some).unwrap();
        assert_eq!(some, [b'x'; 100]);
        assert_eq!(reader.next().unwrap().unwrap().path, b"b");
        assert!(reader.next().unwrap().is_none());
    }

    #[test]
    fn every_cut_is_an_error_or_a_clean_end() {
        let bytes = archive(&format!("{}f", "long/".repeat(40)), 600);
        for cut in 0..bytes.len() {
            let mut reader = Reader::new(&bytes[..cut]);
            while let Ok(Some(_)) = reader.next() {}
        }
        let mut reader = Reader::new(&bytes[..512 * 3 + 100]);
        assert!(matches!(reader.next(), Ok(Some(_))));
        assert!(matches!(reader.next(), Err(LayerError::Archive { problem: Problem::Truncated, .. })));
    }

    #[test]
    fn an_unknown_type_is_refused_not_skipped() {
        let mut bytes = archive("a", 0);
        bytes[156] = b'Z';
        let sum: u32 = bytes[..512]
            .iter()
            .enumerate()
            .map(|(i, &b)| if (148..156).contains(&i) { 32 } else { u32::from(b) })
            .sum();
        bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let error = Reader::new(&bytes[..]).next().unwrap_err();
        assert!(matches!(error, LayerError::Entry { problem: Problem::Type('Z'), .. }), "{error}");
    }

    #[test]
    fn an_extended_header_without_bound_is_refused() {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::XHeader);
        header.set_size(8 << 30);
        header.set_cksum();
        let error = Reader::new(&header.as_bytes()[..]).next().unwrap_err();
        assert!(matches!(error, LayerError::Archive { problem: Problem::ExtendedHeader(_), .. }), "{error}");
    }
}
