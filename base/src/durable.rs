//! Files that are whole or absent: written to a temporary name in the same directory, flushed to the
//! disk, renamed over the old file, and the directory flushed. After a crash at any instruction a reader
//! finds the old content or the new, never a part.

mod batch;

use std::{
    fs::{self, File, Permissions},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};
use tempfile::NamedTempFile;

pub use batch::write_all_json;

/// The prefix of names that are still being written. A sweep may remove any such file that no lock protects.
pub const TEMPORARY_PREFIX: &str = ".tmp-";

/// Why a durable file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DurableError {
    /// The operating system refused.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// The verb of the failed step.
        action: &'static str,
        /// The file or directory that was in use.
        path: PathBuf,
        /// The reason the system gave.
        source: io::Error,
    },
    /// The file is there, but its content does not decode.
    #[error("{path} is not what microagent writes there: {source}; move the file away to let it be made anew")]
    Decode {
        /// The file.
        path: PathBuf,
        /// Where and why decoding stopped.
        source: serde_json::Error,
    },
    /// The value cannot be written as JSON.
    #[error("cannot encode the content of {path}: {source}")]
    Encode {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: serde_json::Error,
    },
}

fn io_error<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> DurableError + 'a {
    move |source| DurableError::Io { action, path: path.to_owned(), source }
}

impl DurableError {
    /// The reason of the system, when there is one.
    #[must_use]
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Io { source, .. } => Some(source.kind()),
            _ => None,
        }
    }
}

/// Makes `path` and its parents, each with mode 0700.
///
/// # Errors
/// Those of the operating system; that the directory exists already is not one.
pub fn private_dir(path: &Path) -> Result<(), DurableError> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error("create directory", path))
}

/// Writes `bytes` to `path` with mode 0600. See the module for what a crash leaves.
///
/// # Errors
/// Those of the operating system; the old file is then untouched.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), DurableError> {
    put(path, bytes, true)
}

fn put(path: &Path, bytes: &[u8], flush: bool) -> Result<(), DurableError> {
    let file = temporary(path, bytes)?;
    if flush {
        file.as_file().sync_all().map_err(io_error("flush", path))?;
    }
    file.persist(path).map_err(|e| io_error("replace", path)(e.error))?;
    if flush { sync_dir(parent(path)) } else { Ok(()) }
}

/// What is to be at `path`, under a name of its own beside it.
fn temporary(path: &Path, bytes: &[u8]) -> Result<NamedTempFile, DurableError> {
    let dir = parent(path);
    let mut file = tempfile::Builder::new()
        .prefix(TEMPORARY_PREFIX)
        .permissions(Permissions::from_mode(0o600))
        .tempfile_in(dir)
        .map_err(io_error("create a temporary file in", dir))?;
    file.write_all(bytes).map_err(io_error("write", path))?;
    Ok(file)
}

/// Writes `value` as indented JSON. See [`write()`].
///
/// # Errors
/// Those of [`write()`], and a value that JSON cannot hold.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), DurableError> {
    put(path, &encode(path, value)?, true)
}

/// Writes `bytes` as [`write()`] does, but nothing is flushed: for what can be computed again. Readers see the old content
/// or the new; after a power cut the file may be empty.
///
/// # Errors
/// As [`write()`].
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), DurableError> {
    put(path, bytes, false)
}

/// What [`write_json`] writes. `path` is how an error names it.
///
/// # Errors
/// A value that JSON cannot hold.
pub fn encode(path: &Path, value: &impl Serialize) -> Result<Vec<u8>, DurableError> {
    let mut bytes =
        serde_json::to_vec_pretty(value).map_err(|source| DurableError::Encode { path: path.to_owned(), source })?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Reads a JSON file; `None` when there is none.
///
/// # Errors
/// Those of the operating system, and content that does not decode.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, DurableError> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| DurableError::Decode { path: path.to_owned(), source }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io_error("read", path)(e)),
    }
}

/// Renames `from` to `to`, both on one file system, and flushes what they are in.
///
/// # Errors
/// Those of the operating system.
pub fn rename(from: &Path, to: &Path) -> Result<(), DurableError> {
    fs::rename(from, to).map_err(io_error("rename", from))?;
    sync_dir(parent(to))?;
    if parent(from) != parent(to) {
        sync_dir(parent(from))?;
    }
    Ok(())
}

/// Removes a file; that it is not there is no error.
///
/// # Errors
/// Those of the operating system.
pub fn remove_file(path: &Path) -> Result<(), DurableError> {
    absent_ok(fs::remove_file(path), "remove", path)
}

/// Removes a directory and all below it, never following a symbolic link; that it is not there is no error.
///
/// # Errors
/// Those of the operating system.
pub fn remove_dir(path: &Path) -> Result<(), DurableError> {
    absent_ok(fs::remove_dir_all(path), "remove directory", path)
}

/// Flushes a directory, so that the names in it survive a power cut.
///
/// # Errors
/// Those of the operating system.
pub fn sync_dir(dir: &Path) -> Result<(), DurableError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(io_error("flush directory", dir))
}

fn absent_ok(result: io::Result<()>, action: &'static str, path: &Path) -> Result<(), DurableError> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(io_error(action, path)),
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_file_is_private_and_leaves_no_temporary_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        write_json(&path, &vec![1, 2]).unwrap();
        write_json(&path, &vec![3]).unwrap();
        assert_eq!(read_json::<Vec<u8>>(&path).unwrap(), Some(vec![3]));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_absent_file_reads_as_none_and_a_torn_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        assert_eq!(read_json::<u8>(&path).unwrap(), None);
        fs::write(&path, "{").unwrap();
        let message = read_json::<u8>(&path).unwrap_err().to_string();
        assert!(message.contains("state.json"), "{message}");
    }

    #[test]
    fn removing_what_is_absent_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        remove_file(&dir.path().join("no")).unwrap();
        remove_dir(&dir.path().join("no")).unwrap();
    }

    #[test]
    fn bytes_are_written_and_replaced_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for put in [write, replace] {
            put(&path, b"long").unwrap();
            put(&path, b"b").unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"b");
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn a_directory_is_made_private_with_its_parents() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        for _ in 0..2 {
            private_dir(&path).unwrap();
        }
        for made in [&path, parent(&path)] {
            assert_eq!(fs::metadata(made).unwrap().permissions().mode() & 0o777, 0o700);
        }
    }

    #[test]
    fn what_is_renamed_or_removed_is_no_longer_there() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        private_dir(&at("d")).unwrap();
        write(&at("a"), b"a").unwrap();
        rename(&at("a"), &at("d/b")).unwrap();
        assert!(!at("a").exists() && fs::read(at("d/b")).unwrap() == b"a");
        rename(&at("d/b"), &at("d/c")).unwrap();
        remove_file(&at("d/c")).unwrap();
        assert!(at("d").exists() && !at("d/c").exists());
        write(&at("d/e"), b"e").unwrap();
        remove_dir(&at("d")).unwrap();
        assert!(!at("d").exists());
    }

    #[test]
    fn an_error_tells_the_reason_of_the_system() {
        let dir = tempfile::tempdir().unwrap();
        let no = dir.path().join("no");
        let kind = |result: Result<(), DurableError>| result.unwrap_err().io_kind();
        assert_eq!(kind(rename(&no, &dir.path().join("b"))), Some(io::ErrorKind::NotFound));
        assert_eq!(kind(sync_dir(&no)), Some(io::ErrorKind::NotFound));
        assert_eq!(kind(write(&no.join("file"), b"")), Some(io::ErrorKind::NotFound));
        assert_eq!(kind(read_json::<u8>(dir.path()).map(drop)), Some(io::ErrorKind::IsADirectory));
        assert!(remove_file(dir.path()).is_err(), "a directory is not removed as a file");
        write(&no, b"{").unwrap();
        assert_eq!(kind(read_json::<u8>(&no).map(drop)), None);
    }

    #[test]
    fn a_file_without_a_directory_is_in_the_working_directory() {
        for (path, dir) in [("a", "."), ("/", "."), ("/a", "/"), ("a/b", "a")] {
            assert_eq!(parent(Path::new(path)), Path::new(dir), "{path}");
        }
    }
}
