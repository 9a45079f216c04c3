//! Many durable files at once.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use serde::Serialize;
use tempfile::TempPath;

use super::{DurableError, encode, io_error, parent, sync_dir, temporary, write_json};

/// The number of files from which on their file system is flushed once, not each file by itself: each of those takes a
/// write of the journal, about a millisecond, while the one flush may have to wait for what others wrote.
const FLUSH_TOGETHER: usize = 64;

/// Writes each value as [`write_json`] does, many for little more than the price of one: all go to temporary names, are
/// flushed together, renamed, and then their directories are flushed. Gives what became of each, in order. After a crash at
/// any instruction each file is what it was or what it was to be, but not all need be the same of the two.
///
/// Flushing together counts on a system that tells of writes that failed since, as Linux does from 5.8 on.
pub fn write_all_json<'a, T: Serialize + 'a>(
    files: impl IntoIterator<Item = (PathBuf, &'a T)>,
) -> Vec<Result<(), DurableError>> {
    let files: Vec<(PathBuf, &T)> = files.into_iter().collect();
    if files.len() < FLUSH_TOGETHER || cfg!(not(target_os = "linux")) {
        return files.iter().map(|(path, value)| write_json(path, *value)).collect();
    }
    // Opened before anything is written: what fails from now on is told by the flush.
    let systems = FileSystems::open(files.iter().map(|(path, _)| parent(path)));
    let written: Vec<Result<TempPath, DurableError>> =
        files.iter().map(|(path, value)| Ok(temporary(path, &encode(path, *value)?)?.into_temp_path())).collect();
    let flushed = systems.flush();
    let mut results: Vec<Result<(), DurableError>> = files
        .iter()
        .zip(written)
        .map(|((path, _), written)| {
            let file = written?;
            flushed.check(path)?;
            file.persist(path).map_err(|e| io_error("replace", path)(e.error))
        })
        .collect();
    let mut dirs: BTreeMap<&Path, Vec<&mut Result<(), DurableError>>> = BTreeMap::new();
    for ((path, _), result) in files.iter().zip(&mut results) {
        dirs.entry(parent(path)).or_default().push(result);
    }
    for (dir, results) in dirs {
        if sync_dir(dir).is_err() {
            // Once more for each, so that each is told why; the renames stay, and are flushed by whoever tries again.
            results.into_iter().filter(|result| result.is_ok()).for_each(|result| *result = sync_dir(dir));
        }
    }
    results
}

/// The file systems of some directories.
struct FileSystems {
    /// By device number.
    open: BTreeMap<u64, File>,
    /// The device of each directory, where it could be opened.
    devices: BTreeMap<PathBuf, u64>,
}

/// What became of a flush.
struct Flushed {
    failed: BTreeMap<u64, io::Error>,
    devices: BTreeMap<PathBuf, u64>,
}

impl FileSystems {
    fn open<'a>(dirs: impl Iterator<Item = &'a Path>) -> Self {
        let mut systems = Self { open: BTreeMap::new(), devices: BTreeMap::new() };
        for dir in dirs {
            if systems.devices.contains_key(dir) {
                continue;
            }
            if let Ok(file) = File::open(dir)
                && let Ok(metadata) = file.metadata()
            {
                systems.devices.insert(dir.to_owned(), metadata.dev());
                systems.open.entry(metadata.dev()).or_insert(file);
            }
        }
        systems
    }

    fn flush(self) -> Flushed {
        let flush = |(device, file): (u64, File)| Some((device, flush_file_system(&file).err()?));
        Flushed { failed: self.open.into_iter().filter_map(flush).collect(), devices: self.devices }
    }
}

impl Flushed {
    /// Whether what was written to this path is on the disk.
    fn check(&self, path: &Path) -> Result<(), DurableError> {
        let dir = parent(path);
        // Opened in vain, or another since: what was written there may be on another file system.
        let device = fs::metadata(dir).map_err(io_error("flush", path))?.dev();
        if self.devices.get(dir) != Some(&device) {
            return Err(io_error("flush", path)(io::Error::other("its directory was replaced meanwhile")));
        }
        match self.failed.get(&device) {
            Some(error) => Err(io_error("flush", path)(
                error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error),
            )),
            None => Ok(()),
        }
    }
}

#[cfg(target_os = "linux")]
fn flush_file_system(dir: &File) -> io::Result<()> {
    Ok(rustix::fs::syncfs(dir)?)
}

/// Not used: each file is flushed by itself.
#[cfg(not(target_os = "linux"))]
fn flush_file_system(dir: &File) -> io::Result<()> {
    dir.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::{TEMPORARY_PREFIX, read_json};

    fn paths(dir: &Path, n: usize) -> Vec<PathBuf> {
        (0..n).map(|i| dir.join(format!("{}/{i}.json", i % 3))).collect()
    }

    fn dirs(dir: &Path) {
        (0..3).for_each(|i| fs::create_dir_all(dir.join(i.to_string())).unwrap());
    }

    /// The names that are not whole files.
    fn temporaries(dir: &Path) -> usize {
        let names = (0..3).flat_map(|i| fs::read_dir(dir.join(i.to_string())).unwrap());
        names
            .filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with(TEMPORARY_PREFIX))
            .count()
    }

    #[test]
    fn few_and_many_files_are_written_and_nothing_else_is_left() {
        for n in [0, 1, FLUSH_TOGETHER - 1, FLUSH_TOGETHER, 3 * FLUSH_TOGETHER] {
            let dir = tempfile::tempdir().unwrap();
            dirs(dir.path());
            let paths = paths(dir.path(), n);
            for round in 0..2 {
                let values: Vec<usize> = (0..n).map(|i| i + round).collect();
                let results = write_all_json(paths.iter().cloned().zip(&values));
                assert_eq!(results.iter().filter(|result| result.is_ok()).count(), n);
                for (path, value) in paths.iter().zip(values) {
                    assert_eq!(read_json(path).unwrap(), Some(value));
                }
            }
            assert_eq!(temporaries(dir.path()), 0);
        }
    }

    #[test]
    fn one_file_that_cannot_be_written_hinders_no_other_and_is_named() {
        let dir = tempfile::tempdir().unwrap();
        dirs(dir.path());
        let mut paths = paths(dir.path(), 2 * FLUSH_TOGETHER);
        paths[7] = dir.path().join("absent/7.json");
        // No rename over a directory succeeds.
        fs::create_dir(&paths[9]).unwrap();
        let results = write_all_json(paths.iter().cloned().zip(std::iter::repeat(&true)));
        for (i, (result, path)) in results.iter().zip(&paths).enumerate() {
            if i == 7 || i == 9 {
                let told = result.as_ref().unwrap_err().to_string();
                assert!(told.contains(&format!("{}", parent(path).display())), "{told}");
            } else {
                assert_eq!((result.is_ok(), read_json(path).unwrap()), (true, Some(true)));
            }
        }
        assert_eq!(temporaries(dir.path()), 0);
    }

    #[test]
    fn what_may_not_have_been_flushed_counts_as_not_written() {
        let dir = tempfile::tempdir().unwrap();
        dirs(dir.path());
        let (known, late) = (dir.path().join("0"), dir.path().join("late"));
        let systems = FileSystems::open([known.as_path(), late.as_path()].into_iter());
        fs::create_dir(&late).unwrap();
        let mut flushed = systems.flush();
        flushed.check(&known.join("a.json")).unwrap();
        assert!(flushed.check(&late.join("a.json")).is_err(), "it was not there when writing began");
        let device = fs::metadata(&known).unwrap().dev();
        flushed.failed.insert(device, io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error()));
        let error = flushed.check(&known.join("a.json")).unwrap_err();
        assert_eq!(error.io_kind(), Some(io::ErrorKind::StorageFull));
    }
}
