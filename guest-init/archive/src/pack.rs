//! A file or a directory as a tar stream (POSIX ustar with GNU's long names). Names are looked up from descriptors of directories, and no
//! symbolic link below the start is followed.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::OwnedFd,
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, fstatfs, openat, openat2, readlinkat, statat,
};
use tar::{Builder, EntryType, Header};

use crate::{MAX_DEPTH, MAX_PROBLEMS};

/// File systems that hold files, by their magic numbers in linux/magic.h: ext4, overlayfs, tmpfs, XFS, Btrfs. Others, /proc and /sys
/// first, hold what the kernel makes up.
const WITH_FILES: [u64; 5] = [0xEF53, 0x794C_7630, 0x0102_1994, 0x5846_5342, 0x9123_683E];

/// The room for a name in a header, in bytes.
const NAME: usize = 100;

/// How a [`Source`] is read.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// Whether a symbolic link at the end of the path stands for what it leads to. One that a slash follows always does.
    pub follow: bool,
    /// Whether what is on no disk, such as `/proc`, is left out, and refused as a start.
    pub only_disks: bool,
    /// A file system that is left out, and refused as a start: that of the secrets.
    pub without: Option<u64>,
}

/// What is to be packed.
#[derive(Debug)]
pub struct Source {
    start: Start,
    stat: Stat,
    name: PathBuf,
    reading: Reading,
}

#[derive(Debug)]
enum Start {
    Opened(OwnedFd),
    Link(Vec<u8>),
}

impl Source {
    /// Opens what is at `path` below `root`. Symbolic links on the way are resolved inside the root.
    ///
    /// # Errors
    /// That there is nothing, or nothing that can be packed.
    pub fn open(root: &Path, path: &Path, reading: Reading) -> io::Result<Self> {
        let root = File::open(root)?;
        // Not those of /proc, which lead out of every root.
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let last = if reading.follow { OFlags::empty() } else { OFlags::NOFOLLOW };
        let open = |flags| openat2(&root, path, flags | last | OFlags::CLOEXEC, Mode::empty(), resolve);
        // First without opening it: to open a device is to use it.
        let found = open(OFlags::PATH)?;
        let stat = fstat(&found)?;
        if reading.without == Some(stat.st_dev) {
            return Err(io::Error::other("it is a secret, which is not copied out"));
        }
        let start = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => Start::Link(readlinkat(&found, "", Vec::new())?.into_bytes()),
            FileType::Directory | FileType::RegularFile => {
                let opened = open(OFlags::RDONLY | OFlags::NONBLOCK)?;
                if reading.only_disks && !holds_files(&opened) {
                    return Err(io::Error::other("it is not on a disk"));
                }
                Start::Opened(opened)
            }
            _ => return Err(io::Error::other("it is neither a file nor a directory")),
        };
        // The last part of the path as it was given, as `tar -C PARENT -c NAME` has it.
        let name = path.file_name().map_or_else(|| PathBuf::from("."), PathBuf::from);
        Ok(Self { start, stat, name, reading })
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        FileType::from_raw_mode(self.stat.st_mode) == FileType::Directory
    }

    /// Writes it below the last part of its path. Sockets, pipes and devices are left out. Gives what could not be read; the archive is
    /// well formed in any case.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(self, to: &mut impl Write) -> io::Result<Vec<String>> {
        let is_directory = self.is_directory();
        let Self { start, stat, name, reading } = self;
        let mut archive = Archive { builder: Builder::new(to), problems: Vec::new(), reading };
        match start {
            Start::Link(target) => archive.link(&stat, &name, &target)?,
            Start::Opened(fd) if is_directory => archive.tree(fd, &stat, name)?,
            Start::Opened(fd) => archive.file(fd.into(), &stat, &name)?,
        }
        archive.builder.into_inner()?.flush()?;
        Ok(archive.problems)
    }
}

fn holds_files(fd: &OwnedFd) -> bool {
    fstatfs(fd).is_ok_and(|fs| u64::try_from(fs.f_type).is_ok_and(|kind| WITH_FILES.contains(&kind)))
}

struct Archive<W: Write> {
    builder: Builder<W>,
    problems: Vec<String>,
    reading: Reading,
}

/// A directory whose entries are being read.
struct Level {
    entries: Dir,
    path: PathBuf,
    device: u64,
}

impl<W: Write> Archive<W> {
    fn tree(&mut self, start: OwnedFd, stat: &Stat, name: PathBuf) -> io::Result<()> {
        let mut levels = Vec::new();
        self.directory(start, stat, name, &mut levels)?;
        while let Some(level) = levels.last_mut() {
            let entry = match level.entries.next() {
                Some(Ok(entry)) => entry,
                Some(Err(e)) => {
                    let path = level.path.clone();
                    levels.pop();
                    self.problem(&path, &e.into());
                    continue;
                }
                None => {
                    levels.pop();
                    continue;
                }
            };
            let name = OsString::from_vec(entry.file_name().to_bytes().to_vec());
            if name == "." || name == ".." {
                continue;
            }
            let path = level.path.join(&name);
            if let Err(e) = self.entry(level.device, &name, &path, &mut levels)? {
                self.problem(&path, &e);
            }
        }
        Ok(())
    }

    /// Takes one entry of the innermost directory. The outer error is the writer's, the inner one is its own.
    fn entry(
        &mut self,
        device: u64,
        name: &OsString,
        path: &Path,
        levels: &mut Vec<Level>,
    ) -> io::Result<io::Result<()>> {
        let depth = levels.len();
        let Some(Ok(parent)) = levels.last().map(|level| level.entries.fd()) else { return Ok(Ok(())) };
        let stat = match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(e) => return Ok(Err(e.into())),
        };
        let open = |more| {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            openat(parent, name, flags | more, Mode::empty())
        };
        match FileType::from_raw_mode(stat.st_mode) {
            _ if Some(stat.st_dev) == self.reading.without => Ok(Ok(())),
            FileType::Directory if depth >= MAX_DEPTH => {
                Ok(Err(io::Error::other(format!("more than {MAX_DEPTH} directories lie in each other"))))
            }
            FileType::Directory => match open(OFlags::DIRECTORY) {
                Ok(fd) if !self.reading.only_disks || stat.st_dev == device || holds_files(&fd) => {
                    self.directory(fd, &stat, path.to_owned(), levels).map(Ok)
                }
                Ok(_) => Ok(Ok(())),
                Err(e) => Ok(Err(e.into())),
            },
            FileType::RegularFile => match open(OFlags::empty()) {
                Ok(fd) => self.file(fd.into(), &stat, path).map(Ok),
                Err(e) => Ok(Err(e.into())),
            },
            FileType::Symlink => match readlinkat(parent, name, Vec::new()) {
                Ok(target) => self.link(&stat, path, target.as_bytes()).map(Ok),
                Err(e) => Ok(Err(e.into())),
            },
            _ => Ok(Ok(())),
        }
    }

    fn directory(&mut self, fd: OwnedFd, stat: &Stat, path: PathBuf, levels: &mut Vec<Level>) -> io::Result<()> {
        // With a slash at its end, as every tar has it.
        let named = path.join("");
        self.append(header(stat, EntryType::Directory, 0), &named, b"", io::empty())?;
        match Dir::new(fd) {
            Ok(entries) => levels.push(Level { entries, path, device: stat.st_dev }),
            Err(e) => self.problem(&path, &e.into()),
        }
        Ok(())
    }

    fn file(&mut self, file: File, stat: &Stat, path: &Path) -> io::Result<()> {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let mut whole = Whole { file, left: size, problem: None };
        self.append(header(stat, EntryType::Regular, size), path, b"", &mut whole)?;
        if let Some(problem) = whole.problem {
            self.problem(path, &problem);
        }
        Ok(())
    }

    fn link(&mut self, stat: &Stat, path: &Path, target: &[u8]) -> io::Result<()> {
        self.append(header(stat, EntryType::Symlink, 0), path, target, io::empty())
    }

    /// Appends an entry under its very name, whatever bytes that has. What is too long for the header stands in an entry of its own before it.
    fn append(&mut self, mut header: Header, path: &Path, link: &[u8], data: impl Read) -> io::Result<()> {
        let name = path.as_os_str().as_bytes();
        if name.len() > NAME {
            self.append_long(EntryType::GNULongName, name)?;
        }
        if link.len() > NAME {
            self.append_long(EntryType::GNULongLink, link)?;
        }
        let old = header.as_old_mut();
        for (field, text) in [(&mut old.name, name), (&mut old.linkname, link)] {
            let short = &text[..text.len().min(NAME)];
            field[..short.len()].copy_from_slice(short);
        }
        header.set_cksum();
        self.builder.append(&header, data)
    }

    fn append_long(&mut self, kind: EntryType, text: &[u8]) -> io::Result<()> {
        let mut header = Header::new_gnu();
        let word = b"././@LongLink";
        header.as_old_mut().name[..word.len()].copy_from_slice(word);
        header.set_entry_type(kind);
        header.set_size(text.len() as u64 + 1);
        header.set_cksum();
        self.builder.append(&header, text.chain(&[0][..]))
    }

    fn problem(&mut self, path: &Path, problem: &io::Error) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(format!("{}: {problem}", path.display()));
        }
    }
}

fn header(stat: &Stat, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_size(size);
    header
}

/// As many bytes as were announced: zeros stand for what cannot be read, as the archive would break otherwise.
struct Whole {
    file: File,
    left: u64,
    problem: Option<io::Error>,
}

impl Read for Whole {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let buffer = &mut buffer[..wanted];
        if wanted == 0 {
            return Ok(0);
        }
        let read = match &self.problem {
            Some(_) => 0,
            None => match self.file.read(buffer) {
                Ok(0) => {
                    self.problem = Some(io::Error::other("it is shorter than it was"));
                    0
                }
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => return Err(e),
                Err(e) => {
                    self.problem = Some(e);
                    0
                }
            },
        };
        let read = if self.problem.is_some() {
            buffer.fill(0);
            wanted
        } else {
            read
        };
        self.left -= read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        collections::BTreeMap,
        fs,
        os::unix::{fs::PermissionsExt, fs::symlink, net::UnixListener},
    };

    /// Each entry's name, with its type, its link or its content.
    fn archived(root: &Path, path: &str) -> io::Result<(BTreeMap<String, String>, Vec<String>)> {
        let mut bytes = Vec::new();
        let reading = Reading { follow: true, only_disks: true, without: None };
        let problems = Source::open(root, Path::new(path), reading)?.write(&mut bytes)?;
        let mut entries = BTreeMap::new();
        for entry in tar::Archive::new(&bytes[..]).entries()? {
            let mut entry = entry?;
            let name = entry.path()?.display().to_string();
            let mut text = String::new();
            entry.read_to_string(&mut text)?;
            if let Some(link) = entry.link_name()? {
                text = format!("-> {}", link.display());
            }
            entries.insert(name, format!("{:o} {text}", entry.header().mode()?));
        }
        Ok((entries, problems))
    }

    #[test]
    fn a_tree_is_archived_below_its_own_name_without_following_links_and_without_what_is_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let long = "n".repeat(200);
        fs::create_dir_all(root.join("work/out/deep").join(&long)).unwrap();
        fs::write(root.join("work/out/a"), "A").unwrap();
        fs::set_permissions(root.join("work/out/a"), fs::Permissions::from_mode(0o4750)).unwrap();
        fs::write(root.join("work/out/deep").join(&long).join(&long), "B").unwrap();
        fs::write(root.join("secret"), "S").unwrap();
        symlink("/secret", root.join("work/out/link")).unwrap();
        symlink("..", root.join("work/out/up")).unwrap();
        let _socket = UnixListener::bind(root.join("work/out/s")).unwrap();
        let (entries, problems) = archived(root, "/work/out").unwrap();
        assert!(problems.is_empty(), "{problems:?}");
        let names: Vec<_> = entries.keys().map(String::as_str).collect();
        let deep = format!("out/deep/{long}/");
        let file = format!("{deep}{long}");
        assert_eq!(names, ["out/", "out/a", "out/deep/", &deep, &file, "out/link", "out/up"]);
        assert_eq!((entries["out/a"].as_str(), entries[&file].as_str()), ("4750 A", "644 B"));
        assert_eq!((entries["out/link"].as_str(), entries["out/up"].as_str()), ("777 -> /secret", "777 -> .."));
    }

    #[test]
    fn links_of_the_path_are_resolved_inside_the_root_and_never_leave_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(root.join("etc/motd"), "inside").unwrap();
        fs::write(dir.path().join("motd"), "outside").unwrap();
        symlink("/etc", root.join("absolute")).unwrap();
        symlink("../../../../etc", root.join("relative")).unwrap();
        symlink("../motd", root.join("up")).unwrap();
        symlink("/proc/self/root/etc", root.join("magic")).unwrap();
        for path in ["/absolute/motd", "/relative/motd", "/../../etc/motd"] {
            assert_eq!(archived(&root, path).unwrap().0["motd"], "644 inside", "{path}");
        }
        assert_eq!(archived(&root, "/up").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(archived(&root, "/magic/hostname").is_err());
        assert!(archived(Path::new("/"), "/proc/self/root/etc").is_err(), "a magic link leads out of every root");
    }

    #[test]
    fn what_the_kernel_makes_up_and_devices_are_refused_as_a_start() {
        for path in ["/proc/version", "/proc", "/dev/null"] {
            let error = archived(Path::new("/"), path).unwrap_err().to_string();
            assert!(error.contains("not on a disk") || error.contains("neither a file"), "{path}: {error}");
        }
    }

    #[test]
    fn a_tree_that_is_too_deep_is_told_and_the_rest_of_it_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let deep: PathBuf = std::iter::repeat_n("d", MAX_DEPTH + 3).collect();
        fs::create_dir_all(dir.path().join("out").join(deep)).unwrap();
        let (entries, problems) = archived(dir.path(), "/out").unwrap();
        assert_eq!((entries.len(), problems.len()), (MAX_DEPTH, 1));
        assert!(problems[0].contains("256 directories"), "{problems:?}");
    }

    #[test]
    fn a_file_that_became_shorter_is_filled_up_and_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "1234").unwrap();
        let mut whole = Whole { file: File::open(&path).unwrap(), left: 6, problem: None };
        let mut bytes = Vec::new();
        whole.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"1234\0\0");
        assert!(whole.problem.is_some());
    }
}
