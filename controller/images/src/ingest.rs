//! A blob on its way into the store: a partial file that survives an interrupted transfer and is continued by the
//! next one, in this process or a later one.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use microagent_base::{Digest, digest::Hasher, durable, lock::FileLock};

use crate::{Error, Result, arrival::Arrival};

/// The suffix of partial files in `ingest/`.
pub(crate) const PARTIAL: &str = ".partial";

/// The one writer of a blob: it holds the blob's lock as long as it may write.
pub(crate) struct Ingest {
    file: File,
    path: PathBuf,
    target: PathBuf,
    hasher: Hasher,
    digest: Digest,
    size: u64,
    resumed: bool,
    arrival: Arrival,
    _lock: FileLock,
}

impl Ingest {
    /// Opens the partial file of a blob and reads what is there already. `arrival` is told how far it is from now on.
    pub(crate) fn open(
        ingest: &Path,
        target: PathBuf,
        digest: Digest,
        size: u64,
        lock: FileLock,
        arrival: Arrival,
    ) -> Result<Self> {
        let path = ingest.join(digest.hex() + PARTIAL);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        let hasher = Hasher::new();
        let mut this = Self { file, path, target, hasher, digest, size, resumed: false, arrival, _lock: lock };
        let there = this.file.metadata().map_err(Error::io("read", &this.path))?.len();
        if there > size {
            this.restart()?;
        } else if there > 0 {
            std::io::copy(&mut (&this.file).take(there), &mut this.hasher).map_err(Error::io("read", &this.path))?;
            this.resumed = true;
        }
        this.arrival.begins(&this.file, this.len()).map_err(Error::io("share", &this.path))?;
        Ok(this)
    }

    /// How many bytes are there.
    pub(crate) fn len(&self) -> u64 {
        self.hasher.len()
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    /// Whether part of the bytes came from an earlier transfer, so that a wrong digest may be that one's fault.
    pub(crate) fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// What is there came from another place than what comes from now on.
    pub(crate) fn change_source(&mut self) {
        self.resumed = self.len() > 0;
    }

    /// Drops what is there.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)))
            .map_err(Error::io("empty", &self.path))?;
        self.hasher = Hasher::new();
        self.resumed = false;
        self.arrival.restarts();
        Ok(())
    }

    /// Takes the next bytes; never more than the descriptor said.
    pub(crate) fn write(&mut self, bytes: &[u8], origin: &str) -> Result<()> {
        if self.len() + bytes.len() as u64 > self.size {
            return Err(Error::TooLarge {
                what: format!("layer {}", self.digest),
                origin: origin.to_owned(),
                limit: self.size,
            });
        }
        self.file.write_all(bytes).map_err(Error::io("write", &self.path))?;
        self.hasher.update(bytes);
        self.arrival.reaches(self.len(), self.size);
        Ok(())
    }

    /// Takes the content of a file by sharing its extents, where the file system can (btrfs, XFS). Never a hard link:
    /// the file belongs to somebody else, who may write to it.
    pub(crate) fn reflink(&mut self, source: &File) -> Result<bool> {
        self.restart()?;
        if rustix::fs::ioctl_ficlone(&self.file, source).is_err() {
            return Ok(false);
        }
        let there = self.file.metadata().map_err(Error::io("read", &self.path))?.len();
        if there != self.size {
            self.restart()?;
            return Ok(false);
        }
        // Our copy is hashed, not the source: what was checked is what is kept.
        std::io::copy(&mut (&self.file).take(there), &mut self.hasher).map_err(Error::io("read", &self.path))?;
        self.arrival.reaches(there, self.size);
        Ok(true)
    }

    /// Puts the whole blob in its place. When it is not the right one, what is there is dropped and the ingest given
    /// back with the reason.
    pub(crate) fn finish(mut self, origin: &str) -> Result<(), (Box<Self>, Error)> {
        let actual = self.hasher.finish();
        let wrong = if self.len() < self.size {
            Error::LayerTruncated { digest: self.digest, origin: origin.to_owned(), got: self.len(), size: self.size }
        } else if actual != self.digest {
            if let Err(e) = self.restart() {
                return Err((Box::new(self), e));
            }
            Error::DigestMismatch {
                what: "a layer".to_owned(),
                origin: origin.to_owned(),
                expected: self.digest,
                actual,
            }
        } else {
            return self.place().map_err(|e| (Box::new(self), e));
        };
        Err((Box::new(self), wrong))
    }

    fn place(&self) -> Result<()> {
        self.file
            .set_permissions(Permissions::from_mode(0o400))
            .and_then(|()| self.file.sync_all())
            .map_err(Error::io("flush", &self.path))?;
        durable::rename(&self.path, &self.target)?;
        self.arrival.is_whole();
        Ok(())
    }

    /// Removes the partial file: what is in it is of no use to anybody.
    pub(crate) fn discard(self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", &self.path)(e)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path, content: &[u8]) -> Ingest {
        let lock = FileLock::try_exclusive(&dir.join("lock")).unwrap();
        let (digest, arrivals) = (Digest::of(content), crate::arrival::Arrivals::default());
        Ingest::open(dir, dir.join("blob"), digest, content.len() as u64, lock, arrivals.blob(digest)).unwrap()
    }

    #[test]
    fn an_interrupted_blob_is_continued_where_it_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = open(dir.path(), b"hello world");
        first.write(b"hello", "here").unwrap();
        drop(first);
        let mut second = open(dir.path(), b"hello world");
        assert_eq!((second.len(), second.is_resumed()), (5, true));
        second.write(b" world", "here").unwrap();
        assert!(second.finish("here").is_ok());
        assert_eq!(fs::read(dir.path().join("blob")).unwrap(), b"hello world");
        assert!(!dir.path().join(Digest::of(b"hello world").hex() + PARTIAL).exists());
    }

    #[test]
    fn a_wrong_blob_never_reaches_its_place_and_leaves_nothing_to_continue() {
        let dir = tempfile::tempdir().unwrap();
        let mut ingest = open(dir.path(), b"right");
        ingest.write(b"wrong", "here").unwrap();
        let (ingest, error) = ingest.finish("here").err().unwrap();
        assert_eq!((error.category(), ingest.len()), ("DigestMismatch", 0));
        drop(ingest);
        assert!(!dir.path().join("blob").exists());
        let mut ingest = open(dir.path(), b"right");
        ingest.write(b"rig", "here").unwrap();
        let (_, error) = ingest.finish("here").err().unwrap();
        assert_eq!(error.category(), "LayerTruncated");
    }

    #[test]
    fn more_bytes_than_announced_are_refused_and_a_longer_partial_starts_anew() {
        let dir = tempfile::tempdir().unwrap();
        let mut ingest = open(dir.path(), b"abc");
        assert_eq!(ingest.write(b"abcd", "here").unwrap_err().category(), "ImageTooLarge");
        drop(ingest);
        fs::write(dir.path().join(Digest::of(b"abc").hex() + PARTIAL), "too long").unwrap();
        assert_eq!(open(dir.path(), b"abc").len(), 0);
    }
}
