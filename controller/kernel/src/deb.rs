//! Debian packages, read and never installed: deb(5), an `ar` archive with a compressed tar in it.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::{Component, Path, PathBuf},
};

use crate::{
    compression::{Compression, Limited, read_up_to},
    error::{Error, Result, io_error},
};

/// The unpacked size of the largest distribution kernel package (generic, all modules) is some 600 MiB.
const MAX_UNPACKED: u64 = 2 << 30;
/// More members than any kernel package has (some 7000).
const MAX_MEMBERS: usize = 100_000;

/// Calls `visit` with the path (relative, plain), the content and the size of each regular file in the package.
pub(crate) fn for_each_file(
    package: &Path,
    mut visit: impl FnMut(&Path, &mut dyn Read, u64) -> Result<()>,
) -> Result<()> {
    let damaged = |reason: String| Error::CorruptedPackage { path: package.to_owned(), reason };
    let file = File::open(package).map_err(io_error("open", package))?;
    let data = data_member(BufReader::with_capacity(128 << 10, file)).map_err(|e| damaged(e.to_string()))?;
    let mut data = BufReader::with_capacity(128 << 10, data);
    let compression = {
        let start = io::BufRead::fill_buf(&mut data).map_err(|e| damaged(e.to_string()))?;
        Compression::detect(start)
    };
    let reader: Box<dyn Read> = match compression {
        Some(compression) => compression.reader(data).map_err(|e| damaged(e.to_string()))?,
        None => Box::new(data),
    };
    let mut archive = tar::Archive::new(Limited::new(reader, MAX_UNPACKED));
    let entries = archive.entries().map_err(|e| damaged(e.to_string()))?;
    for (count, entry) in entries.enumerate() {
        let mut entry = entry.map_err(|e| damaged(e.to_string()))?;
        if count == MAX_MEMBERS {
            return Err(damaged(format!("it has more than {MAX_MEMBERS} members")));
        }
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = entry.path().map_err(|e| damaged(e.to_string()))?.into_owned();
        let path = plain(&path).ok_or_else(|| damaged(format!("its member {path:?} leaves the package")))?;
        let size = entry.size();
        visit(&path, &mut entry, size)?;
    }
    // A tar has an end mark; the checksum of the compression stands behind it.
    let mut rest = archive.into_inner();
    io::copy(&mut rest, &mut io::sink()).map_err(|e| damaged(e.to_string()))?;
    Ok(())
}

/// The `data.tar.*` member, from its first byte to its last.
fn data_member(mut ar: impl Read) -> io::Result<impl Read> {
    let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    let mut magic = [0; 8];
    read_up_to(&mut ar, &mut magic)?;
    if &magic != b"!<arch>\n" {
        return Err(invalid("it is no ar archive"));
    }
    loop {
        let mut header = [0; 60];
        match read_up_to(&mut ar, &mut header)? {
            60 => {}
            0 => return Err(invalid("it has no data.tar member")),
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        if &header[58..] != b"`\n" {
            return Err(invalid("an ar header is malformed"));
        }
        let size = std::str::from_utf8(&header[48..58]).ok().and_then(|text| text.trim_end().parse::<u64>().ok());
        let size = size.ok_or_else(|| invalid("the size in an ar header is no number"))?;
        if header.starts_with(b"data.tar") {
            return Ok(Whole { inner: ar, left: size });
        }
        // Members start at even offsets.
        let padded = size + size % 2;
        if io::copy(&mut ar.by_ref().take(padded), &mut io::sink())? != padded {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Reads a member to the end that its header gives. A tar that ends between two of its members looks whole, so that an
/// archive was cut short must be seen here.
struct Whole<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Whole<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.by_ref().take(self.left).read(buffer)?;
        if read == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive is cut short"));
        }
        self.left -= read as u64;
        Ok(read)
    }
}

/// The path without `./` and a leading `/`; `None` when it would leave the package.
fn plain(path: &Path) -> Option<PathBuf> {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir | Component::RootDir => {}
            Component::Normal(name) => out.push(name),
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(out)
}

/// Test fixtures: packages.
#[cfg(test)]
pub(crate) mod fixture {
    use super::*;
    use crate::compression::fixture::compress;

    pub(crate) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            // Written by hand: the builder refuses the hostile paths that tests want.
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            builder.append(&header, *bytes).unwrap();
        }
        builder.into_inner().unwrap()
    }

    pub(crate) fn deb(compression: Option<Compression>, files: &[(&str, &[u8])]) -> Vec<u8> {
        let tar = tar(files);
        let data = compression.map_or(tar.clone(), |compression| compress(compression, &tar));
        let mut out = b"!<arch>\n".to_vec();
        for (name, bytes) in [("debian-binary", &b"2.0\n"[..]), ("control.tar.xz", b"odd"), ("data.tar.x", &data)] {
            out.extend(format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100_644, bytes.len()).bytes());
            out.extend(bytes);
            out.resize(out.len().next_multiple_of(2), b'\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Vec<(PathBuf, Vec<u8>)>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let mut out = Vec::new();
        for_each_file(file.path(), |path, reader, _| {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).map_err(io_error("read", path))?;
            out.push((path.to_owned(), bytes));
            Ok(())
        })?;
        Ok(out)
    }

    #[test]
    fn the_files_of_a_package_are_read_in_every_compression_that_dpkg_has() {
        for compression in [None, Some(Compression::Gzip), Some(Compression::Xz), Some(Compression::Zstd)] {
            let deb = fixture::deb(compression, &[("./boot/config-1", b"a"), ("./lib/x.ko", b"b")]);
            let files = read(&deb).unwrap();
            assert_eq!(files, [("boot/config-1".into(), b"a".to_vec()), ("lib/x.ko".into(), b"b".to_vec())]);
        }
    }

    #[test]
    fn a_member_that_leaves_the_package_is_refused() {
        let error = read(&fixture::deb(None, &[("./lib/../../etc/passwd", b"a")])).unwrap_err();
        assert_eq!(error.category(), "PackageCorrupted");
        assert!(error.to_string().contains("leaves the package"), "{error}");
    }

    #[test]
    fn a_package_cut_anywhere_is_an_error() {
        for compression in [Some(Compression::Gzip), Some(Compression::Xz), Some(Compression::Zstd), None] {
            let deb = fixture::deb(compression, &[("./boot/config-1", &[7; 3000])]);
            // The last byte may be padding of the archive. Every place in what is small, some in what is large.
            for at in (0..deb.len() - 1).step_by(deb.len() / 200) {
                assert!(read(&deb[..at]).is_err(), "{compression:?} {at}");
            }
        }
        assert!(read(b"<html>").is_err());
    }
}
