//! Files that the host places in the guest. Guest-init's root is the guest's root by then, so every symbolic link of the
//! image resolves inside of it.

use std::{
    fs::{self, File as Handle, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

use microagent_guest_protocol::File;
use rustix::fs::OFlags;

use crate::{error::Error, user::Database};

/// How many symbolic links may lie one after another, as in the kernel.
const MAX_LINKS: usize = 40;

/// Writes `file` as a whole: no reader sees a part of it, and hard links to what was there keep their content.
pub(crate) fn write(file: &File, users: &Database) -> Result<(), Error> {
    let owner = file.owner.as_deref().map(|owner| users.owner(owner)).transpose()?.unwrap_or((Some(0), Some(0)));
    let path = Path::new(&file.path);
    place(path, &file.content, file.mode, owner).map_err(|(doing, source)| Error::FileFailed {
        path: path.to_owned(),
        doing,
        source,
    })
}

type Step<T> = Result<T, (&'static str, io::Error)>;

fn place(path: &Path, content: &[u8], mode: u32, owner: (Option<u32>, Option<u32>)) -> Step<()> {
    let path = destination(path).map_err(|e| ("resolve its symbolic links", e))?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent).map_err(|e| ("make its directory", e))?;
    let name = path.file_name().ok_or_else(|| ("find its name", io::ErrorKind::InvalidInput.into()))?;
    let temporary = parent.join(format!(".{}.microagent-new", name.to_string_lossy()));
    // Left by a boot that ended right here.
    let _ = fs::remove_file(&temporary);
    let new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary);
    let placed =
        new.map_err(|e| ("create it", e)).and_then(|handle| fill(handle, content, mode, owner)).and_then(|()| {
            match fs::rename(&temporary, &path) {
                // A mount point, such as /etc/hosts, can only be written in place.
                Err(e) if e.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) => {
                    let handle = open_in_place(&path).map_err(|e| ("open it", e))?;
                    fill(handle, content, mode, owner)
                }
                other => other.map_err(|e| ("move it into place", e)),
            }
        });
    let _ = fs::remove_file(&temporary);
    placed
}

fn open_in_place(path: &Path) -> io::Result<Handle> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    OpenOptions::new().write(true).truncate(true).custom_flags(flags).open(path)
}

fn fill(mut handle: Handle, content: &[u8], mode: u32, (uid, gid): (Option<u32>, Option<u32>)) -> Step<()> {
    handle.write_all(content).map_err(|e| ("write its content", e))?;
    fchown(&handle, uid, gid).map_err(|e| ("set its owner", e))?;
    // After the owner, whose change takes setuid away.
    handle.set_permissions(Permissions::from_mode(mode)).map_err(|e| ("set its mode", e))
}

/// An empty file at `path` unless there is one; returns where it really is.
pub(crate) fn ensure(path: &Path) -> io::Result<PathBuf> {
    let path = destination(path)?;
    if fs::symlink_metadata(&path).is_err() {
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
        OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path)?;
    }
    Ok(path)
}

/// Follows the symbolic links at the end of `path`, also to where nothing is yet.
fn destination(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&path) {
            Ok(target) => path = path.parent().unwrap_or(Path::new("/")).join(target),
            Err(_) => return Ok(path),
        }
    }
    Err(rustix::io::Errno::LOOP.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    const KEEP: (Option<u32>, Option<u32>) = (None, None);

    #[test]
    fn a_file_comes_with_its_parents_content_and_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/run.sh");
        place(&path, b"one", 0o4755, KEEP).unwrap();
        place(&path, b"two", 0o4751, KEEP).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o4751);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_is_followed_even_to_where_nothing_is() {
        let dir = tempfile::tempdir().unwrap();
        symlink("real/target", dir.path().join("link")).unwrap();
        place(&dir.path().join("link"), b"x", 0o600, KEEP).unwrap();
        assert_eq!(fs::read(dir.path().join("real/target")).unwrap(), b"x");
        assert!(dir.path().join("link").is_symlink());
        assert_eq!(ensure(&dir.path().join("link")).unwrap(), dir.path().join("real/target"));
        assert_eq!(fs::read(dir.path().join("real/target")).unwrap(), b"x");
    }

    #[test]
    fn links_in_a_ring_and_directories_in_the_way_are_errors_and_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        symlink("b", dir.path().join("a")).unwrap();
        symlink("a", dir.path().join("b")).unwrap();
        assert!(place(&dir.path().join("a"), b"", 0o600, KEEP).is_err());
        fs::create_dir(dir.path().join("d")).unwrap();
        assert!(place(&dir.path().join("d"), b"", 0o600, KEEP).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }

    #[test]
    fn a_pipe_in_the_way_is_replaced_and_a_hard_link_keeps_the_old_content() {
        let dir = tempfile::tempdir().unwrap();
        let (pipe, old) = (dir.path().join("pipe"), dir.path().join("old"));
        // Not by a program: another test reaps every child of this process.
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        place(&pipe, b"now a file", 0o600, KEEP).unwrap();
        fs::hard_link(&pipe, &old).unwrap();
        place(&pipe, b"new", 0o600, KEEP).unwrap();
        assert_eq!((fs::read(&pipe).unwrap(), fs::read(&old).unwrap()), (b"new".to_vec(), b"now a file".to_vec()));
    }
}
