//! Looking at a directory and its files without being fooled: everything goes through one open directory, so that a
//! folder swapped meanwhile mixes nothing up; nothing but regular files is opened for reading; reading is bounded.

use std::{
    ffi::{CStr, OsStr},
    fs::File,
    io::{self, Read},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::Path,
    time::UNIX_EPOCH,
};

use microagent_crds::Reason;
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, open, openat, statat},
    io::Errno,
};

use super::DirId;
use crate::Problem;

/// The size in bytes up to which a manifest file is read, as large as an object of a Kubernetes API may be.
pub const MAX_FILE: u64 = 1024 * 1024;

/// Whether a file of this name is a manifest: `.yaml`, `.yml` or `.json`, and not what an editor leaves behind
/// (`.a.yaml.swp`, `a.yaml~`, `#a.yaml#`, `4913`).
#[must_use]
pub fn is_manifest_name(name: &OsStr) -> bool {
    let name = name.as_bytes();
    let ends = [&b".yaml"[..], b".yml", b".json"].iter().any(|end| name.ends_with(end));
    ends && !name.starts_with(b".") && !name.starts_with(b"#")
}

/// What tells one state of a file from another. The time of the last status change is part of it: it moves even when
/// a program sets size and modification time back to what they were. (The widths of these fields differ between systems.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    dev: i128,
    ino: i128,
    size: i128,
    modified: i128,
    changed: i128,
}

impl Identity {
    fn of(stat: &Stat) -> Self {
        let time = |seconds: i128, nanoseconds: i128| seconds * 1_000_000_000 + nanoseconds;
        Self {
            dev: stat.st_dev.into(),
            ino: stat.st_ino.into(),
            size: stat.st_size.into(),
            modified: time(stat.st_mtime.into(), stat.st_mtime_nsec.into()),
            changed: time(stat.st_ctime.into(), stat.st_ctime_nsec.into()),
        }
    }
}

/// An open directory.
pub(super) struct OpenDir {
    file: File,
    pub(super) identity: DirId,
}

impl OpenDir {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let fd = open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let file = File::from(fd);
        let identity = identity(&file)?;
        Ok(Self { file, identity })
    }

    /// Gives the names of manifests, in no order; at most `max`.
    ///
    /// # Errors
    /// Those of the system; more than `max` names are [`io::ErrorKind::QuotaExceeded`].
    pub(super) fn each_manifest(&self, max: usize, mut take: impl FnMut(&OsStr)) -> io::Result<()> {
        let mut left = max;
        for entry in Dir::read_from(&self.file)? {
            let entry = entry?;
            let name = os_str(entry.file_name());
            if is_manifest_name(name) {
                left = left.checked_sub(1).ok_or(io::ErrorKind::QuotaExceeded)?;
                take(name);
            }
        }
        Ok(())
    }

    /// The identity of a file; `None` when it is gone.
    pub(super) fn look(&self, name: &OsStr) -> Result<Option<Identity>, Problem> {
        let stat = match statat(&self.file, name, AtFlags::empty()) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => {
                // A link that leads nowhere is not a file that is gone: what it led to may come back.
                return match statat(&self.file, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(_) => {
                        Err(unreadable("the symbolic link leads nowhere", "restore what it leads to or remove it"))
                    }
                    Err(_) => Ok(None),
                };
            }
            Err(e) => return Err(refused(e.into())),
        };
        acceptable(&stat).map(Some)
    }

    /// The content of a file whose identity is `expected`; `None` when it changed.
    pub(super) fn read(&self, name: &OsStr, expected: Identity) -> Result<Option<Vec<u8>>, Problem> {
        // Without blocking: what was a regular file at the look may be a pipe by now.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let mut file = match openat(&self.file, name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(refused(e.into())),
        };
        let same = |file: &File| -> Result<bool, Problem> {
            let stat = fstat(file).map_err(|e| refused(e.into()))?;
            Ok(acceptable(&stat)? == expected)
        };
        if !same(&file)? {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        (&mut file).take(MAX_FILE).read_to_end(&mut bytes).map_err(refused)?;
        let whole = same(&file)? && i128::try_from(bytes.len()).is_ok_and(|len| len == expected.size);
        Ok(whole.then_some(bytes))
    }
}

/// The identity of the directory that `path` leads to now.
pub(super) fn dir_identity(path: &Path) -> io::Result<DirId> {
    OpenDir::open(path).map(|dir| dir.identity)
}

fn identity(dir: &File) -> io::Result<DirId> {
    let metadata = dir.metadata()?;
    let born = metadata.created().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
    Ok(DirId {
        dev: metadata.dev(),
        ino: metadata.ino(),
        born: born.and_then(|age| u64::try_from(age.as_nanos()).ok()),
    })
}

fn acceptable(stat: &Stat) -> Result<Identity, Problem> {
    let what = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let identity = Identity::of(stat);
            if identity.size > i128::from(MAX_FILE) {
                return Err(Problem {
                    code: Reason::InvalidManifest.as_str().to_owned(),
                    message: format!(
                        "the file has {} bytes; a manifest file may have {MAX_FILE}: split it into several files",
                        identity.size
                    ),
                });
            }
            return Ok(identity);
        }
        FileType::Directory => "a directory",
        FileType::Fifo => "a named pipe",
        FileType::Socket => "a socket",
        _ => "a device",
    };
    Err(unreadable(&format!("it is {what}"), "only regular files are read; move it out of the folder or rename it"))
}

fn refused(error: io::Error) -> Problem {
    unreadable(&error.to_string(), "let the user that runs microagent read the file, or remove it")
}

fn unreadable(why: &str, help: &str) -> Problem {
    Problem {
        code: Reason::InvalidManifest.as_str().to_owned(),
        message: format!("the file cannot be read: {why}; {help}"),
    }
}

fn os_str(name: &CStr) -> &OsStr {
    OsStr::from_bytes(name.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_changed_since_the_look_is_not_read() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a.yaml");
        std::fs::write(&path, "old").unwrap();
        let dir = OpenDir::open(root.path()).unwrap();
        let name = OsStr::new("a.yaml");
        let identity = dir.look(name).unwrap().unwrap();
        assert_eq!(dir.read(name, identity).unwrap().as_deref(), Some(&b"old"[..]));
        std::fs::write(root.path().join("new"), "new").unwrap();
        std::fs::rename(root.path().join("new"), &path).unwrap();
        assert_eq!(dir.read(name, identity).unwrap(), None);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(dir.read(name, identity).unwrap(), None);
        assert!(dir.look(name).unwrap().is_none());
    }

    #[test]
    fn only_directories_are_opened_as_such_and_for_this_process_alone() {
        let root = tempfile::tempdir().unwrap();
        let dir = OpenDir::open(root.path()).unwrap();
        assert!(rustix::io::fcntl_getfd(&dir.file).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        std::fs::write(root.path().join("file"), "").unwrap();
        let error = OpenDir::open(&root.path().join("file")).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
    }

    #[test]
    fn a_file_that_became_a_pipe_since_the_look_blocks_nobody() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a.yaml");
        std::fs::write(&path, "old").unwrap();
        let dir = OpenDir::open(root.path()).unwrap();
        let name = OsStr::new("a.yaml");
        let identity = dir.look(name).unwrap().unwrap();
        std::fs::remove_file(&path).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(dir.read(name, identity).unwrap_err().message.contains("a named pipe"));
    }

    #[test]
    fn a_file_whose_size_is_not_that_of_its_content_is_not_read() {
        let root = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/proc/version", root.path().join("a.yaml")).unwrap();
        let dir = OpenDir::open(root.path()).unwrap();
        let name = OsStr::new("a.yaml");
        let identity = dir.look(name).unwrap().unwrap();
        assert_eq!((identity.size, dir.read(name, identity).unwrap()), (0, None));
    }

    #[test]
    fn times_differ_that_differ_by_a_second_or_a_nanosecond() {
        let root = tempfile::tempdir().unwrap();
        let file = File::create(root.path().join("a.yaml")).unwrap();
        let dir = OpenDir::open(root.path()).unwrap();
        let times = [(9, 2), (10, 0), (10, 1), (10, 2), (11, 0), (11, 1)];
        let seen: std::collections::BTreeSet<i128> = times
            .into_iter()
            .map(|(seconds, nanoseconds)| {
                file.set_modified(UNIX_EPOCH + std::time::Duration::new(seconds, nanoseconds)).unwrap();
                dir.look(OsStr::new("a.yaml")).unwrap().unwrap().modified
            })
            .collect();
        assert_eq!(seen.len(), times.len());
    }

    #[test]
    fn only_manifests_count_and_nothing_an_editor_leaves_behind() {
        for name in ["a.yaml", "a.yml", "a.json", "a.b.yaml", "4913.yaml"] {
            assert!(is_manifest_name(OsStr::new(name)), "{name}");
        }
        for name in [
            "a.yaml~",
            ".a.yaml",
            ".a.yaml.swp",
            "#a.yaml#",
            ".#a.yaml",
            "4913",
            "a.yaml.bak",
            "a",
            "yaml",
            "..data",
            "a.YAML",
            "#a.yaml",
            "a.yaml.swp",
        ] {
            assert!(!is_manifest_name(OsStr::new(name)), "{name}");
        }
    }
}
