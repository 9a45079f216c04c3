//! The machine's disks, as the virtio block driver names them.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::inotify,
};

use crate::{error::Error, peer::timespec};

/// How long a disk may take to appear. It is there before guest-init asks, unless its driver is still looking for it; ten
/// times what the slowest host seen needed.
const LIMIT: Duration = Duration::from_secs(10);

/// `vda` for 0, `vdz` for 25, `vdaa` for 26.
fn name(disk: u32) -> String {
    let mut letters = Vec::new();
    let mut rest = u64::from(disk) + 1;
    while rest > 0 {
        rest -= 1;
        letters.push(b'a' + u8::try_from(rest % 26).unwrap_or(0));
        rest /= 26;
    }
    letters.reverse();
    format!("vd{}", String::from_utf8_lossy(&letters))
}

/// The device of a disk, once it is there.
pub(crate) fn wait_for(disk: u32) -> Result<PathBuf, Error> {
    let name = name(disk);
    let path = Path::new("/dev").join(&name);
    if appears(&path, LIMIT) { Ok(path) } else { Err(Error::DiskNotFound { disk, name, seconds: LIMIT.as_secs() }) }
}

/// Whether `path` is there, or comes into its directory within `limit`: devtmpfs tells of new nodes as any directory does.
fn appears(path: &Path, limit: Duration) -> bool {
    if path.exists() {
        return true;
    }
    let deadline = Instant::now() + limit;
    let Ok(watch) = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK) else { return false };
    let Some(directory) = path.parent() else { return false };
    if inotify::add_watch(&watch, directory, inotify::WatchFlags::CREATE).is_err() {
        return false;
    }
    // Looked at after the watch is set, so that none slips in between.
    while !path.exists() {
        let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
        let _ = poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&timespec(left)));
        let _ = rustix::io::read(&watch, &mut [0u8; 1024]);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_named_as_the_kernel_names_them() {
        for (disk, expected) in [
            (0, "vda"),
            (1, "vdb"),
            (25, "vdz"),
            (26, "vdaa"),
            (51, "vdaz"),
            (52, "vdba"),
            (701, "vdzz"),
            (702, "vdaaa"),
        ] {
            assert_eq!(name(disk), expected);
        }
        assert!(name(u32::MAX).starts_with("vd"));
    }

    #[test]
    fn a_disk_that_comes_late_is_waited_for_and_one_that_never_comes_is_not_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vdb");
        assert!(!appears(&path, Duration::from_millis(1)));
        let late = path.clone();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| appears(&path, Duration::from_secs(60)));
            std::fs::write(late, "").unwrap();
            assert!(waiter.join().unwrap());
        });
    }
}
