//! The kernel source: out of the package that the distribution signs, into a directory, with nothing installed.

use std::{
    fs,
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use microagent_base::{Digest, Progress, durable, progress::Step};
use serde::{Deserialize, Serialize};

use crate::{
    compression::{Compression, Limited},
    deb,
    error::{Error, Result, io_error},
    kernel::PackageId,
};

/// A kernel source has some 90 000 files in 1.5 GiB.
const MAX_FILES: usize = 500_000;
const MAX_BYTES: u64 = 8 << 30;
/// A step of progress for each so many bytes.
const TOLD: u64 = 4 << 20;

/// An unpacked source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Tree {
    /// The package that it was taken from.
    pub(crate) package: PackageId,
    /// Below the directory that it was unpacked into.
    pub(crate) root: PathBuf,
    /// The time of its newest file, in seconds since 1970: the time that a build of it bears.
    pub(crate) time: i64,
}

/// What tells that the source at a place is whole.
const RECORD: &str = "tree.json";

impl Tree {
    /// The source that an earlier build left at `dir`, where it is that of this package.
    pub(crate) fn at(dir: &Path, package: Digest) -> Option<Self> {
        let tree: Self = durable::read_json(&dir.join(RECORD)).ok().flatten()?;
        (tree.package.digest == package && dir.join(&tree.root).join("Makefile").is_file()).then_some(tree)
    }

    /// Unpacks the source in the package at `file` into `dir`, which is made anew.
    pub(crate) fn unpack(file: &Path, package: PackageId, dir: &Path, progress: &dyn Progress) -> Result<Self> {
        durable::remove_dir(dir)?;
        durable::private_dir(dir)?;
        let mut found = None;
        deb::for_each_file(file, |path, content, _| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if found.is_none() && path.starts_with("usr/src") && is_source(name) {
                found = Some(unpack_tar(file, content, dir, progress)?);
            }
            Ok(())
        })?;
        let damaged = |reason: &str| Error::CorruptedPackage { path: file.to_owned(), reason: reason.to_owned() };
        let time = found.ok_or_else(|| damaged("it has no kernel source in usr/src"))?;
        let mut roots = Vec::new();
        for entry in fs::read_dir(dir).map_err(io_error("list", dir))? {
            let entry = entry.map_err(io_error("list", dir))?;
            if entry.path().join("Kconfig").is_file() && entry.path().join("Makefile").is_file() {
                roots.push(PathBuf::from(entry.file_name()));
            }
        }
        let root = roots.pop().filter(|_| roots.is_empty()).ok_or_else(|| damaged("it is no kernel source"))?;
        let tree = Self { package, root, time };
        durable::write_json(&dir.join(RECORD), &tree)?;
        Ok(tree)
    }
}

/// `linux-source-6.12.tar.xz`; not the patches that are beside it.
fn is_source(name: &str) -> bool {
    name.starts_with("linux-source-") && name.contains(".tar") && !name.contains("patch")
}

/// Unpacks a compressed archive. Its entries may not leave `dir`; gives the time of the newest.
fn unpack_tar(package: &Path, content: &mut dyn Read, dir: &Path, progress: &dyn Progress) -> Result<i64> {
    let damaged = |reason: String| Error::CorruptedPackage { path: package.to_owned(), reason };
    let mut content = BufReader::with_capacity(128 << 10, content);
    let compression = {
        let start = std::io::BufRead::fill_buf(&mut content).map_err(|e| damaged(e.to_string()))?;
        Compression::detect(start)
            .ok_or_else(|| damaged("its source is compressed in a way that is not known".to_owned()))?
    };
    let reader = compression.reader(content).map_err(|e| damaged(e.to_string()))?;
    let mut archive = tar::Archive::new(Limited::new(reader, MAX_BYTES));
    let (mut newest, mut done, mut told) = (0, 0, 0);
    for (count, entry) in archive.entries().map_err(|e| damaged(e.to_string()))?.enumerate() {
        if progress.cancelled() {
            return Err(Error::Cancelled);
        }
        if count > MAX_FILES {
            return Err(damaged(format!("its source has more than {MAX_FILES} files")));
        }
        let mut entry = entry.map_err(|e| damaged(e.to_string()))?;
        newest = newest.max(entry.header().mtime().unwrap_or(0));
        let size = entry.size();
        let unpacked = entry.unpack_in(dir).map_err(|e| match e.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Error::io("write", dir, e),
            _ => damaged(microagent_base::causes(&e)),
        })?;
        if !unpacked {
            return Err(damaged("an entry of its source leaves the source".to_owned()));
        }
        done += size;
        if done - told >= TOLD {
            told = done;
            progress.step(Step { what: "unpacking the kernel source".to_owned(), done, total: None });
        }
    }
    Ok(i64::try_from(newest).unwrap_or(0))
}
