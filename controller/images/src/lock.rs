//! The locks of a store, all under `locks/`, and how they are waited for.
//!
//! A fixed set of files, named by kind and the first byte of a digest: none is ever removed, so none is ever
//! locked by one process while another has replaced it. Two digests with the same first byte wait for each other,
//! which costs a little and cannot deadlock, for nobody holds two of a kind.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use microagent_base::{
    Digest, Progress,
    lock::{FileLock, LockError},
};
use rustix::fs::{FlockOperation, flock};

use crate::{Error, Result};

/// How often a lock that another holds is looked at: soon enough for people, too seldom to cost anything.
const POLL: Duration = Duration::from_millis(50);

/// The lock that guards one thing of a kind.
pub(crate) fn path(locks: &Path, kind: &str, digest: &Digest) -> PathBuf {
    locks.join(format!("{kind}-{:02x}", digest.bytes()[0]))
}

fn attempt(path: &Path) -> Result<Option<FileLock>> {
    match FileLock::try_exclusive(path) {
        Ok(lock) => Ok(Some(lock)),
        Err(LockError::Held { .. }) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn check(progress: &dyn Progress, what: &str) -> Result<()> {
    if progress.cancelled() { Err(Error::Cancelled { what: what.to_owned() }) } else { Ok(()) }
}

/// Waits for a lock without blocking the thread.
pub(crate) async fn exclusive(path: &Path, progress: &dyn Progress, what: &str) -> Result<FileLock> {
    loop {
        check(progress, what)?;
        if let Some(lock) = attempt(path)? {
            return Ok(lock);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Waits for a lock, blocking the thread.
pub(crate) fn exclusive_blocking(path: &Path, progress: &dyn Progress, what: &str) -> Result<FileLock> {
    loop {
        check(progress, what)?;
        if let Some(lock) = attempt(path)? {
            return Ok(lock);
        }
        std::thread::sleep(POLL);
    }
}

/// A promise that no blob is swept meanwhile. Many may hold it at once, in any process.
#[derive(Debug)]
#[must_use = "blobs may be swept when this is dropped"]
pub(crate) struct InUse {
    _file: File,
}

/// The only holder: blobs may be swept.
#[derive(Debug)]
#[must_use = "sweeping is allowed only while this is held"]
pub(crate) struct Sweep {
    _file: File,
}

/// Waits while another process sweeps, which is short.
pub(crate) fn in_use(locks: &Path) -> Result<InUse> {
    let file = open(&locks.join("blobs"))?;
    retry(|| flock(&file, FlockOperation::LockShared)).map_err(Error::io("lock", locks))?;
    Ok(InUse { _file: file })
}

/// None when anybody uses blobs: they are swept another time.
pub(crate) fn sweep(locks: &Path) -> Result<Option<Sweep>> {
    let file = open(&locks.join("blobs"))?;
    match retry(|| flock(&file, FlockOperation::NonBlockingLockExclusive)) {
        Ok(()) => Ok(Some(Sweep { _file: file })),
        Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
        Err(e) => Err(Error::io("lock", locks)(e)),
    }
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(Error::io("open the lock", path))
}

fn retry(mut call: impl FnMut() -> rustix::io::Result<()>) -> std::io::Result<()> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            other => return other.map_err(Into::into),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use microagent_base::Silent;

    use super::*;

    #[test]
    fn blobs_in_use_are_not_swept() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (in_use(dir.path()).unwrap(), in_use(dir.path()).unwrap());
        assert!(sweep(dir.path()).unwrap().is_none());
        drop(one);
        assert!(sweep(dir.path()).unwrap().is_none());
        drop(two);
        assert!(sweep(dir.path()).unwrap().is_some());
    }

    #[tokio::test]
    async fn waiting_for_a_lock_ends_when_it_is_cancelled() {
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path(), "blob", &Digest::of(b""));
        let _held = exclusive_blocking(&path, &Silent, "x").unwrap();
        let error = exclusive(&path, &AtomicBool::new(true), "the pull").await.unwrap_err();
        assert_eq!(error.category(), "Cancelled");
    }
}
