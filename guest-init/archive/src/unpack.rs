//! A tar stream that becomes files below one place, by the rules of `docker cp`.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Seek, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, chownat, fchmod, fchown, fstat,
        futimens, linkat, mkdirat, openat, renameat, statat, symlinkat, unlinkat, utimensat,
    },
    io::Errno,
};

use crate::{
    MAX_PROBLEMS,
    error::Error,
    name::{parts, shown},
    reader::{Entry, Kind, Reader},
    target::{self, Found},
};

/// How much of a file is copied at once, in bytes.
const CHUNK: usize = 64 * 1024;

/// The bits of a mode that give a program its owner's or group's rights.
const SPECIAL: u32 = 0o6000;

/// What is unpacked, and to where.
#[derive(Debug)]
pub struct Unpack<'a> {
    /// The root directory inside of which `to` is resolved.
    pub root: &'a Path,
    /// The place: an absolute path inside the root. A slash at its end says that it must be a directory.
    pub to: &'a Path,
    /// What the archive stands for.
    pub what: What,
    /// Whose the files will be.
    pub owners: Owners,
    /// Whether modes keep the bits that give a program its owner's or group's rights.
    pub special_bits: bool,
}

/// What an archive stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// One file or directory of this name: its first entry, below which all others lie. Into a directory that is there it comes under this
    /// name; else it gets the name of the place.
    Named(OsString),
    /// The same, of which only what is in the directory is meant. The place is made where it is not there.
    Contents,
    /// Entries that go into a directory that is there.
    Entries,
}

/// Whose the files will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owners {
    /// Those of the process.
    Ours,
    /// This user's and this group's.
    Of {
        /// The user's number.
        uid: u32,
        /// The group's number.
        gid: u32,
    },
    /// As the archive says.
    Kept,
}

/// How much came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of files.
    pub bytes: u64,
}

/// Unpacks an archive up to its end mark; what may follow is not read. Gives what was left out. `count` tells how much came, also when it
/// fails: the first entry that cannot be made ends it.
///
/// Directories that are there keep their owner, mode and time. A file takes the place of a file; nothing takes that of a directory, nor a
/// directory that of anything else, and no symbolic link below the place is followed.
///
/// # Errors
/// An archive that is broken or cut off, an entry whose name leads elsewhere, a place that cannot be copied to, or what the file system
/// refuses.
pub fn unpack(stream: impl io::Read, how: &Unpack<'_>, count: &mut Count) -> Result<Vec<String>, Error> {
    let mut reader = Reader::new(stream);
    let Start { base, path, prefix, top, mut entry } = start(&mut reader, how)?;
    let mut tree = Tree { how, base, path, open: Vec::new(), problems: Vec::new() };
    while let Some(next) = entry {
        let mut place = parts(&next.name)?;
        if !place.starts_with(&top) {
            let problem = "it does not lie below the first entry".to_owned();
            return Err(Error::Refused { name: shown(&next.name), problem });
        }
        place.splice(..top.len(), prefix.iter().cloned());
        if !place.is_empty() {
            tree.place(&mut reader, &next, &place, &top, count)?;
        }
        entry = reader.next()?;
    }
    tree.leave(0)?;
    Ok(tree.problems)
}

/// Where it begins.
struct Start {
    /// The directory below which all goes.
    base: OwnedFd,
    /// Its path, for people.
    path: PathBuf,
    /// What comes before names there.
    prefix: Vec<OsString>,
    /// What is taken from the begin of names.
    top: Vec<OsString>,
    /// The first entry.
    entry: Option<Entry>,
}

fn start<R: io::Read>(reader: &mut Reader<R>, how: &Unpack<'_>) -> Result<Start, Error> {
    let unusable = |problem: &str| Error::Destination { path: how.to.to_owned(), problem: problem.to_owned() };
    let found = target::find(how.root, how.to)?;
    let first = reader.next()?;
    if how.what == What::Entries {
        let Found::Directory(base) = found else {
            return Err(unusable("an archive is unpacked to a directory that is there"));
        };
        return Ok(Start { base, path: how.to.to_owned(), prefix: Vec::new(), top: Vec::new(), entry: first });
    }
    let first = first.ok_or(Error::Broken { at: 0, problem: "it has no entry".to_owned() })?;
    let top = parts(&first.name)?;
    if top.len() > 1 {
        let problem = "it is not the top of what was copied".to_owned();
        return Err(Error::Refused { name: shown(&first.name), problem });
    }
    let is_directory = first.kind == Kind::Directory;
    if how.what == What::Contents && !is_directory {
        return Err(unusable("what is to be copied is no directory, and has no contents to copy"));
    }
    let (base, prefix, path) = match (found, &how.what) {
        (Found::Directory(base), What::Named(name)) => (base, vec![name.clone()], how.to),
        (Found::Directory(base), _) => (base, Vec::new(), how.to),
        (Found::File { .. }, _) if is_directory => return Err(unusable("a directory cannot be copied onto a file")),
        (Found::File { .. } | Found::Nothing { .. }, _) if !is_directory && ends_with_slash(how.to) => {
            return Err(unusable("there is no such directory: make it first"));
        }
        (Found::File { parent, name } | Found::Nothing { parent, name }, _) => {
            (parent, vec![name], how.to.parent().unwrap_or(how.to))
        }
    };
    Ok(Start { base, path: path.to_owned(), prefix, top, entry: Some(first) })
}

fn ends_with_slash(path: &Path) -> bool {
    let path = path.as_os_str().as_bytes();
    path.ends_with(b"/") || path.ends_with(b"/.")
}

/// What is made, entry by entry.
struct Tree<'a> {
    how: &'a Unpack<'a>,
    base: OwnedFd,
    path: PathBuf,
    /// The directories that lead to the present entry, outer ones first.
    open: Vec<Open>,
    problems: Vec<String>,
}

struct Open {
    name: OsString,
    fd: OwnedFd,
    /// What it is to become once all that lies in it is there. Nothing for one that was there before.
    later: Option<Attributes>,
}

/// What a file has besides its content.
struct Attributes {
    owner: Option<(Uid, Gid)>,
    mode: Mode,
    times: Timestamps,
}

impl Tree<'_> {
    fn place<R: io::Read>(
        &mut self,
        reader: &mut Reader<R>,
        entry: &Entry,
        place: &[OsString],
        top: &[OsString],
        count: &mut Count,
    ) -> Result<(), Error> {
        let Some((name, above)) = place.split_last() else { return Ok(()) };
        self.enter(above)?;
        let attributes = self.attributes(entry);
        let parent = self.innermost();
        let failed = |doing, source: io::Error| Error::Failed { doing, path: self.path(place), source };
        match entry.kind {
            Kind::Directory => {
                let (is_new, fd) = self.make_directory(name).map_err(|e| failed("make the directory", e))?;
                self.open.push(Open { name: name.clone(), fd, later: is_new.then_some(attributes) });
            }
            Kind::File => {
                let temporary = Temporary::name(parent);
                let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = openat(parent, &temporary.name, flags, Mode::RUSR | Mode::WUSR);
                let mut file = File::from(file.map_err(|e| failed("create", e.into()))?);
                let before = count.bytes;
                let copied = pour(reader, &mut file, &mut count.bytes, |e| failed("write", e));
                let placed = copied.and_then(|()| {
                    attributes.give(&file).map_err(|e| failed("set owner, mode and time of", e.into()))?;
                    temporary.into_place(name, &mut file, &attributes).map_err(|e| failed("put into place", e))
                });
                if let Err(e) = placed {
                    // Not a byte of a file that is not there came.
                    count.bytes = before;
                    return Err(e);
                }
            }
            Kind::Symlink => {
                let temporary = Temporary::name(parent);
                symlinkat(OsStr::from_bytes(&entry.link), parent, &temporary.name)
                    .map_err(|e| failed("make the link", e.into()))?;
                temporary.dress(&attributes).map_err(|e| failed("set owner and time of", e.into()))?;
                temporary.rename(name).map_err(|e| failed("put into place", e.into()))?;
            }
            Kind::HardLink => {
                let target = parts(&entry.link)?;
                let refused = |problem: &str| Error::Refused { name: shown(&entry.name), problem: problem.to_owned() };
                let below = target
                    .strip_prefix(top)
                    .ok_or_else(|| refused("its other name does not lie below the first entry"))?;
                // Names of one archive lie beside each other: what comes before them is the same for both.
                let prefix = place.len() - (parts(&entry.name)?.len() - top.len());
                let target = [&place[..prefix], below].concat();
                let temporary = Temporary::name(parent);
                self.link(&target, &temporary).map_err(|e| match e.kind() {
                    io::ErrorKind::NotFound => refused("its other name is not there"),
                    _ => failed("link", e),
                })?;
                temporary.rename(name).map_err(|e| failed("put into place", e.into()))?;
            }
            Kind::Other(what) => {
                let problem = format!("{}: {what} is not copied", self.path(place).display());
                self.problem(problem);
                return Ok(());
            }
        }
        count.entries += 1;
        Ok(())
    }

    /// Makes `above` the directories that are open, and makes those that lack.
    fn enter(&mut self, above: &[OsString]) -> Result<(), Error> {
        let common = self.open.iter().zip(above).take_while(|(open, name)| open.name == **name).count();
        self.leave(common)?;
        for (depth, name) in above.iter().enumerate().skip(common) {
            let failed = |source| Error::Failed { doing: "enter", path: self.path(&above[..=depth]), source };
            let (is_new, fd) = self.make_directory(name).map_err(failed)?;
            let later = is_new.then(|| Attributes {
                owner: self.given_owner(),
                mode: Mode::from_raw_mode(0o755),
                times: unchanged(),
            });
            self.open.push(Open { name: name.clone(), fd, later });
        }
        Ok(())
    }

    /// Closes all directories but the outer `keep`, and gives them what they were to become.
    fn leave(&mut self, keep: usize) -> Result<(), Error> {
        while self.open.len() > keep {
            let path = self.path(&self.open.iter().map(|open| open.name.clone()).collect::<Vec<_>>());
            let Some(Open { fd, later, .. }) = self.open.pop() else { break };
            if let Some(later) = later {
                let doing = "set owner, mode and time of";
                later.give(&fd).map_err(|e| Error::Failed { doing, path, source: e.into() })?;
            }
        }
        Ok(())
    }

    /// Opens a directory of the innermost one, and makes it where it is not there; tells whether it did.
    fn make_directory(&self, name: &OsStr) -> io::Result<(bool, OwnedFd)> {
        let open = |flags| {
            openat(
                self.innermost(),
                name,
                flags | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            )
        };
        match mkdirat(self.innermost(), name, Mode::RWXU) {
            // Only ours is changed later, which needs more than to go through.
            Ok(()) => Ok((true, open(OFlags::RDONLY)?)),
            Err(Errno::EXIST) => match open(OFlags::PATH) {
                Ok(fd) => Ok((false, fd)),
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    Err(io::Error::other("what is there is no directory, and links are not followed"))
                }
                Err(e) => Err(e.into()),
            },
            Err(e) => Err(e.into()),
        }
    }

    /// Gives a file that is there a further name.
    fn link(&self, target: &[OsString], temporary: &Temporary<'_>) -> io::Result<()> {
        let (name, above) = target.split_last().ok_or(io::ErrorKind::NotFound)?;
        let mut directory = openat(&self.base, ".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        for name in above {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            directory = openat(&directory, name, flags, Mode::empty())?;
        }
        let stat = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("its other name is no file"));
        }
        Ok(linkat(&directory, name, temporary.parent, &temporary.name, AtFlags::empty())?)
    }

    fn innermost(&self) -> BorrowedFd<'_> {
        self.open.last().map_or(self.base.as_fd(), |open| open.fd.as_fd())
    }

    fn attributes(&self, entry: &Entry) -> Attributes {
        let owner = match self.how.owners {
            Owners::Kept => Some((Uid::from_raw(entry.uid), Gid::from_raw(entry.gid))),
            _ => self.given_owner(),
        };
        let mode = if self.how.special_bits { entry.mode } else { entry.mode & !SPECIAL };
        let mut times = unchanged();
        times.last_modification = Timespec { tv_sec: entry.mtime.0, tv_nsec: entry.mtime.1.into() };
        Attributes { owner, mode: Mode::from_raw_mode(mode), times }
    }

    fn given_owner(&self) -> Option<(Uid, Gid)> {
        match self.how.owners {
            Owners::Of { uid, gid } => Some((Uid::from_raw(uid), Gid::from_raw(gid))),
            Owners::Ours | Owners::Kept => None,
        }
    }

    /// Where an entry goes, for people.
    fn path(&self, place: &[OsString]) -> PathBuf {
        place.iter().fold(self.path.clone(), |path, part| path.join(part))
    }

    fn problem(&mut self, problem: String) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        }
    }
}

/// Copies the present entry's bytes.
fn pour<R: io::Read>(
    reader: &mut Reader<R>,
    file: &mut File,
    bytes: &mut u64,
    failed: impl Fn(io::Error) -> Error,
) -> Result<(), Error> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = reader.data(&mut chunk)?;
        if read == 0 {
            return Ok(());
        }
        file.write_all(&chunk[..read]).map_err(&failed)?;
        *bytes += read as u64;
    }
}

fn unchanged() -> Timestamps {
    let unchanged = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    Timestamps { last_access: unchanged, last_modification: unchanged }
}

impl Attributes {
    fn give(&self, to: impl AsFd) -> Result<(), Errno> {
        if let Some((uid, gid)) = self.owner {
            fchown(&to, Some(uid), Some(gid))?;
        }
        // After the owner, whose change takes the special bits away; and never without it.
        fchmod(&to, self.mode)?;
        futimens(&to, &self.times)
    }
}

/// A name that nobody else has, in the directory where something is to appear. What has it is removed unless it got its own name.
struct Temporary<'a> {
    parent: BorrowedFd<'a>,
    name: String,
    is_left: bool,
}

impl<'a> Temporary<'a> {
    fn name(parent: BorrowedFd<'a>) -> Self {
        use std::hash::{BuildHasher, RandomState};
        // Another key each time.
        let name = format!(".microagent-cp-{:016x}", RandomState::new().hash_one(std::process::id()));
        Self { parent, name, is_left: true }
    }

    /// Gives a symbolic link its owner and time. A mode it has none.
    fn dress(&self, attributes: &Attributes) -> Result<(), Errno> {
        if let Some((uid, gid)) = attributes.owner {
            chownat(self.parent, &self.name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        utimensat(self.parent, &self.name, &attributes.times, AtFlags::SYMLINK_NOFOLLOW)
    }

    fn rename(mut self, name: &OsStr) -> Result<(), Errno> {
        renameat(self.parent, &self.name, self.parent, name)?;
        // Two names of one file are left as they are by a rename.
        self.is_left = statat(self.parent, &self.name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        Ok(())
    }

    fn into_place(self, name: &OsStr, file: &mut File, attributes: &Attributes) -> io::Result<()> {
        let parent = self.parent;
        match self.rename(name) {
            // A mount point, such as /etc/hosts in a guest, can only be written in place.
            Err(Errno::BUSY) => write_in_place(parent, name, file, attributes),
            renamed => Ok(renamed?),
        }
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if self.is_left {
            let _ = unlinkat(self.parent, &self.name, AtFlags::empty());
        }
    }
}

fn write_in_place(parent: BorrowedFd<'_>, name: &OsStr, file: &mut File, attributes: &Attributes) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut place = File::from(openat(parent, name, flags, Mode::empty())?);
    if FileType::from_raw_mode(fstat(&place)?.st_mode) != FileType::RegularFile {
        return Err(Errno::BUSY.into());
    }
    place.set_len(0)?;
    file.rewind()?;
    io::copy(file, &mut place)?;
    Ok(attributes.give(&place)?)
}
