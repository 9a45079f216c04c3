//! The place that something is copied to.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    os::{fd::OwnedFd, unix::ffi::OsStringExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, openat2, readlinkat, statat},
    io::Errno,
};

use crate::error::Error;

/// How many symbolic links may lie one after another, as in the kernel.
const MAX_LINKS: usize = 40;

/// What is at a place.
pub(crate) enum Found {
    Directory(OwnedFd),
    /// What is no directory.
    File {
        parent: OwnedFd,
        name: OsString,
    },
    Nothing {
        parent: OwnedFd,
        name: OsString,
    },
}

/// Looks what is at `path` below `root`, through all symbolic links, which are resolved inside the root; also through one that leads to
/// where nothing is yet.
pub(crate) fn find(root: &Path, path: &Path) -> Result<Found, Error> {
    let failed = |doing, e: Errno| Error::Failed { doing, path: path.to_owned(), source: e.into() };
    let unusable = |problem: String| Error::Destination { path: path.to_owned(), problem };
    let top = File::open(root).map_err(|source| Error::Failed { doing: "open", path: root.to_owned(), source })?;
    let open = |path: &Path| {
        // Not the links of /proc, which lead out of every root.
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        openat2(&top, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), resolve)
    };
    let mut at = path.to_owned();
    for _ in 0..MAX_LINKS {
        match open(&at) {
            Ok(directory) => return Ok(Found::Directory(directory)),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            // A directory was moved meanwhile.
            Err(Errno::AGAIN) => continue,
            Err(e) => return Err(failed("open", e)),
        }
        let Some(name) = at.file_name().map(OsStr::to_owned) else {
            return Err(unusable("its path ends with `..`, and leads to no directory".to_owned()));
        };
        let above = at.parent().unwrap_or(Path::new("/")).to_owned();
        let parent = open(&above).map_err(|e| match e {
            Errno::NOENT => unusable(format!("there is no directory {}: make it first", above.display())),
            Errno::NOTDIR => unusable(format!("{} is no directory", above.display())),
            e => failed("open the directory of", e),
        })?;
        match statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(Found::Nothing { parent, name }),
            Err(e) => return Err(failed("look at", e)),
            Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {}
                FileType::Symlink => {
                    let link = readlinkat(&parent, &name, Vec::new()).map_err(|e| failed("read the link", e))?;
                    at = above.join(PathBuf::from(OsString::from_vec(link.into_bytes())));
                }
                _ => return Ok(Found::File { parent, name }),
            },
        }
    }
    Err(failed("follow the links of", Errno::LOOP))
}
