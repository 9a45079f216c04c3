//! The layers of one pull, for a root disk that is built while they come.
//!
//! Transfers write to their ingest file and tell here how far they are; readers follow in the same file. A transfer
//! never waits for a reader, and a reader only for its own transfer, so that neither can hold up the other for good:
//!
//! - What keeps a reader waiting is a transfer that has begun, and at most as many transfers as run at once have begun
//!   and not ended. The build has more threads than that, so one is always free for a layer that is whole.
//! - A build thread takes a layer only once its transfer has begun, and while it takes one it waits for any of them.
//! - When the pull ends before its layers are whole, in whatever way, every reader is told.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use microagent_base::{Digest, Progress};
use microagent_rootfs as rootfs;

use crate::{Error, Image, Result};

/// How often a reader looks whether the build is still wanted, and for less than [`TELL`] bytes.
const POLL: Duration = Duration::from_millis(50);

/// Readers are woken for this many bytes: what a build reads at once.
const TELL: u64 = 128 << 10;

/// How far the layers of a pull are. Clones tell the same.
#[derive(Clone, Default)]
pub(crate) struct Arrivals {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    blobs: Mutex<HashMap<Digest, Blob>>,
    changed: Condvar,
    /// Whether the pull ended before all were whole. Beside the lock, for it is looked at by those who hold it.
    failed: AtomicBool,
}

/// One blob.
#[derive(Default)]
struct Blob {
    stage: Stage,
    /// Where it comes to.
    file: Option<Arc<File>>,
    /// How much of it is there.
    len: u64,
    /// How much was there when readers were last told.
    told: u64,
    /// The most that any reader has read.
    read: u64,
    /// This pull brought it, and so verified it.
    brought: bool,
    /// What a reader had read was dropped: it may have been wrong.
    restarted: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// Its transfer has not begun: another is before it, or another process has it.
    #[default]
    Awaited,
    Coming,
    /// In its place in the store.
    Whole,
    /// The pull ended before.
    Failed,
}

impl Stage {
    fn is_settled(self) -> bool {
        matches!(self, Self::Whole | Self::Failed)
    }
}

impl Arrivals {
    /// All layers are awaited.
    pub(crate) fn of(image: &Image) -> Self {
        let this = Self::default();
        this.lock().extend(image.layers.iter().map(|layer| (layer.digest, Blob::default())));
        this
    }

    /// What a transfer of this blob tells.
    pub(crate) fn blob(&self, digest: Digest) -> Arrival {
        Arrival { arrivals: self.clone(), digest }
    }

    /// Tells, when it is dropped, that the pull has ended: what is not whole then will not come.
    pub(crate) fn ending(&self) -> Ending {
        Ending(self.clone())
    }

    /// Waits until no layer is on its way any longer; gives whether all are whole.
    pub(crate) fn settled(&self, progress: &dyn Progress, what: &str) -> Result<bool> {
        let mut blobs = self.lock();
        while !blobs.values().all(|blob| blob.stage.is_settled()) {
            if progress.cancelled() {
                return Err(Error::Cancelled { what: what.to_owned() });
            }
            blobs = self.wait(blobs);
        }
        Ok(blobs.values().all(|blob| blob.stage == Stage::Whole))
    }

    /// Whether the pull ended before all layers were whole.
    pub(crate) fn have_failed(&self) -> bool {
        self.inner.failed.load(Ordering::Relaxed)
    }

    /// Whether a reader may have been given bytes that were dropped afterwards.
    pub(crate) fn were_restarted(&self) -> bool {
        self.lock().values().any(|blob| blob.restarted)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Blob>> {
        self.inner.blobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&'a self, blobs: MutexGuard<'a, HashMap<Digest, Blob>>) -> MutexGuard<'a, HashMap<Digest, Blob>> {
        self.inner.changed.wait_timeout(blobs, POLL).unwrap_or_else(PoisonError::into_inner).0
    }
}

/// See [`Arrivals::ending`].
pub(crate) struct Ending(Arrivals);

impl Drop for Ending {
    fn drop(&mut self) {
        let mut blobs = self.0.lock();
        for blob in blobs.values_mut().filter(|blob| !blob.stage.is_settled()) {
            blob.stage = Stage::Failed;
            blob.file = None;
            self.0.inner.failed.store(true, Ordering::Relaxed);
        }
        self.0.inner.changed.notify_all();
    }
}

/// What the one transfer of a blob tells of it.
#[derive(Clone)]
pub(crate) struct Arrival {
    arrivals: Arrivals,
    digest: Digest,
}

impl Arrival {
    /// The blob comes to this file, which has `len` bytes of it already.
    pub(crate) fn begins(&self, file: &File, len: u64) -> io::Result<()> {
        let file = Arc::new(file.try_clone()?);
        self.change(|blob| {
            *blob = Blob { stage: Stage::Coming, file: Some(file), len, told: len, brought: true, ..Blob::default() }
        });
        Ok(())
    }

    /// So much of it is there.
    pub(crate) fn reaches(&self, len: u64, size: u64) {
        let mut blobs = self.arrivals.lock();
        let Some(blob) = blobs.get_mut(&self.digest) else { return };
        blob.len = len;
        if len >= size || len.saturating_sub(blob.told) >= TELL {
            blob.told = len;
            self.arrivals.inner.changed.notify_all();
        }
    }

    /// What was there is dropped.
    pub(crate) fn restarts(&self) {
        self.change(|blob| {
            blob.restarted |= blob.read > 0;
            (blob.len, blob.told) = (0, 0);
        });
    }

    /// It is in its place in the store.
    pub(crate) fn is_whole(&self) {
        self.change(|blob| (blob.stage, blob.file) = (Stage::Whole, None));
    }

    fn change(&self, change: impl FnOnce(&mut Blob)) {
        let mut blobs = self.arrivals.lock();
        // A transfer may write on for a moment after its pull was given up.
        if let Some(blob) = blobs.get_mut(&self.digest).filter(|blob| blob.stage != Stage::Failed) {
            change(blob);
        }
        self.arrivals.inner.changed.notify_all();
    }
}

/// Reads a blob of a pull from its beginning, waiting for what is not there yet.
pub(crate) struct Follower {
    arrivals: Arrivals,
    progress: Arc<dyn Progress>,
    digest: Digest,
    size: u64,
    /// Where it is once it is whole.
    path: PathBuf,
    file: Option<Arc<File>>,
    at: u64,
}

impl Follower {
    pub(crate) fn new(
        arrivals: Arrivals,
        progress: Arc<dyn Progress>,
        digest: Digest,
        size: u64,
        path: PathBuf,
    ) -> Self {
        Self { arrivals, progress, digest, size, path, file: None, at: 0 }
    }

    /// Waits for more than was read. The file, and how many bytes of it may be read.
    fn more(&mut self) -> io::Result<(Arc<File>, u64)> {
        let mut blobs = self.arrivals.lock();
        loop {
            let blob = blobs.get_mut(&self.digest).ok_or_else(|| io::Error::other("it is no layer of the pull"))?;
            let there = if blob.stage == Stage::Whole { self.size } else { blob.len };
            match (blob.stage, &self.file, &blob.file) {
                (Stage::Failed, ..) => return Err(io::Error::other("the pull ended before the layer was whole")),
                (Stage::Whole, None, _) => {
                    drop(blobs);
                    let file = Arc::new(File::open(&self.path)?);
                    self.file = Some(file.clone());
                    return Ok((file, self.size - self.at));
                }
                (_, Some(file), _) | (_, None, Some(file)) if there > self.at => {
                    let file = file.clone();
                    blob.read = blob.read.max(there);
                    self.file = Some(file.clone());
                    return Ok((file, there - self.at));
                }
                _ => {}
            }
            if self.progress.cancelled() {
                return Err(io::Error::other("nobody wants the root disk any longer"));
            }
            blobs = self.arrivals.wait(blobs);
        }
    }
}

impl Read for Follower {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() || self.at >= self.size {
            return Ok(0);
        }
        loop {
            let (file, there) = self.more()?;
            let count = out.len().min(usize::try_from(there).unwrap_or(usize::MAX));
            let read = file.read_at(&mut out[..count], self.at)?;
            if read > 0 {
                self.at += read as u64;
                return Ok(read);
            }
            // Nothing where something was: it was dropped in this moment, or the stored blob is not what it was.
            let whole = self.arrivals.lock().get(&self.digest).is_none_or(|blob| blob.stage == Stage::Whole);
            if whole {
                return Ok(0);
            }
        }
    }
}

/// The arrivals of the layers of an image, by their place in it.
pub(crate) struct ByPlace<'a> {
    pub(crate) image: &'a Image,
    pub(crate) arrivals: &'a Arrivals,
}

impl rootfs::Arrivals for ByPlace<'_> {
    fn next(&self, waiting: &[usize], stopped: &dyn Fn() -> bool) -> usize {
        let mut blobs = self.arrivals.lock();
        loop {
            let begun = |place: &&usize| {
                let blob = self.image.layers.get(**place).and_then(|layer| blobs.get(&layer.digest));
                blob.is_none_or(|blob| blob.stage != Stage::Awaited)
            };
            if let Some(place) = waiting.iter().find(begun) {
                return *place;
            }
            if stopped() {
                return waiting.first().copied().unwrap_or_default();
            }
            blobs = self.arrivals.wait(blobs);
        }
    }

    fn verifies(&self, layer: usize) -> bool {
        let blobs = self.arrivals.lock();
        self.image.layers.get(layer).and_then(|layer| blobs.get(&layer.digest)).is_some_and(|blob| blob.brought)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use microagent_base::Silent;
    use microagent_rootfs::Arrivals as _;

    use super::*;
    use crate::{ImageConfig, LayerDescriptor, Platform};

    fn image(layers: &[&[u8]]) -> Image {
        let layer = |bytes: &&[u8]| LayerDescriptor {
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
            diff_id: Digest::of(bytes),
            media_type: String::new(),
        };
        Image {
            reference: "x".to_owned(),
            digest: Digest::of(b"manifest"),
            platform: Platform { os: "linux".to_owned(), architecture: "amd64".to_owned(), variant: None },
            config: ImageConfig::default(),
            layers: layers.iter().map(layer).collect(),
            size: 0,
        }
    }

    #[test]
    fn a_layer_that_has_begun_is_read_before_larger_ones_that_have_not() {
        let image = image(&[b"large", b"mid", b"s"]);
        let arrivals = Arrivals::of(&image);
        let places = ByPlace { image: &image, arrivals: &arrivals };
        arrivals.blob(image.layers[2].digest).is_whole();
        assert_eq!(places.next(&[0, 1, 2], &|| false), 2);
        // Nothing has begun of the rest: whichever does is the next.
        let file = tempfile::tempfile().unwrap();
        let (other, digest) = (arrivals.clone(), image.layers[1].digest);
        let begins = std::thread::spawn(move || other.blob(digest).begins(&file, 0).unwrap());
        assert_eq!(places.next(&[0, 1], &|| false), 1);
        begins.join().unwrap();
        assert!(places.verifies(1) && !places.verifies(2) && !places.verifies(0));
        // Nobody waits for a build that has ended.
        assert_eq!(places.next(&[0], &|| true), 0);
        drop(arrivals.ending());
        assert_eq!(places.next(&[0], &|| false), 0);
        assert!(arrivals.have_failed() && !arrivals.settled(&Silent, "x").unwrap());
    }

    #[test]
    fn a_reader_follows_over_cuts_restarts_and_the_move_into_the_store() {
        let (dir, content) = (tempfile::tempdir().unwrap(), b"0123456789");
        let (image, path) = (image(&[content]), dir.path().join("blob"));
        let (digest, arrivals) = (image.layers[0].digest, Arrivals::of(&image));
        let follow = || Follower::new(arrivals.clone(), Arc::new(Silent), digest, 10, dir.path().join("stored"));
        let mut file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        let arrival = arrivals.blob(digest);
        arrival.begins(&file, 0).unwrap();
        let mut early = follow();
        file.write_all(b"0123").unwrap();
        arrival.reaches(4, 10);
        let mut part = [0; 10];
        assert_eq!(early.read(&mut part).unwrap(), 4);
        assert!(!arrivals.were_restarted());
        file.set_len(0).unwrap();
        arrival.restarts();
        assert!(arrivals.were_restarted());
        let rest = std::thread::spawn(move || early.read(&mut [0; 10]).unwrap());
        file.write_all_at(content, 0).unwrap();
        arrival.reaches(10, 10);
        assert_eq!(rest.join().unwrap(), 6);
        std::fs::rename(&path, dir.path().join("stored")).unwrap();
        arrival.is_whole();
        let mut late = Vec::new();
        follow().read_to_end(&mut late).unwrap();
        assert_eq!(late, content);
        assert!(arrivals.settled(&Silent, "x").unwrap());
        drop(arrivals.ending());
        assert!(!arrivals.have_failed());
    }

    #[test]
    fn a_reader_ends_with_its_pull_and_with_its_build() {
        let image = image(&[b"never"]);
        let digest = image.layers[0].digest;
        let cancelled: Arc<dyn Progress> = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let arrivals = Arrivals::of(&image);
        let mut reader = Follower::new(arrivals.clone(), cancelled.clone(), digest, 5, PathBuf::new());
        assert!(reader.read(&mut [0; 5]).is_err());
        assert_eq!(arrivals.settled(cancelled.as_ref(), "x").unwrap_err().category(), "Cancelled");
        let mut reader = Follower::new(arrivals.clone(), Arc::new(Silent), digest, 5, PathBuf::new());
        let ends = std::thread::spawn(move || reader.read(&mut [0; 5]).unwrap_err().to_string());
        drop(arrivals.ending());
        assert!(ends.join().unwrap().contains("pull ended"));
    }
}
