//! What of the store nobody needs: found by looking, taken away by whoever holds the [`Sweep`].

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, Metadata},
    os::unix::fs::MetadataExt,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use microagent_base::{
    Digest, Progress,
    durable::{self, TEMPORARY_PREFIX},
};
use serde::Serialize;

use crate::{
    Baseline, Error, Result, Store,
    image::Manifest,
    index::Index,
    ingest::PARTIAL,
    lock::{self, Sweep},
    resolve, wire,
};

/// How often it is looked whether the store is at rest.
const POLL: Duration = Duration::from_millis(50);

/// An image, or a name of one, that is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RemovedImage {
    /// The name; none for an image that had none.
    pub reference: Option<String>,
    /// The digest of the manifest.
    pub digest: Digest,
}

/// A root disk that is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RemovedDisk {
    /// The digest of the manifest it was made from; none for what an interrupted build left.
    pub image: Option<Digest>,
    /// The bytes that it took on the host's disk.
    pub bytes: u64,
}

/// How many files, and the bytes that they take on the host's disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// How many.
    pub count: usize,
    /// The bytes that they take, holes not counted.
    pub bytes: u64,
}

/// What a removal took away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Removed {
    /// The images and names.
    pub images: Vec<RemovedImage>,
    /// The root disks.
    pub root_disks: Vec<RemovedDisk>,
    /// What interrupted pulls left.
    pub transfers: Tally,
    /// The blobs that no image has any longer.
    pub blobs: Tally,
}

impl Removed {
    /// The bytes that were freed on the host's disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.root_disks.iter().map(|d| d.bytes).sum::<u64>() + self.transfers.bytes + self.blobs.bytes
    }
}

/// A file or two that go together.
pub(crate) struct Litter {
    /// In the order in which they are to go.
    files: Vec<PathBuf>,
    pub(crate) bytes: u64,
    /// When the newest of it was written.
    pub(crate) written: Option<SystemTime>,
}

impl Litter {
    fn new(files: impl IntoIterator<Item = (PathBuf, Metadata)>) -> Self {
        let mut this = Self { files: Vec::new(), bytes: 0, written: None };
        for (path, metadata) in files {
            this.bytes += metadata.blocks() * 512;
            this.written = this.written.max(metadata.modified().ok());
            this.files.push(path);
        }
        this
    }

    /// Whether nothing of it was written for so long. A time in the future is of a clock that was set back: it is old.
    pub(crate) fn is_older(&self, than: Option<Duration>) -> bool {
        let age = self.written.and_then(|written| SystemTime::now().duration_since(written).ok());
        than.is_none_or(|than| age.is_none_or(|age| age >= than))
    }

    /// That a file is gone already is no error.
    pub(crate) fn remove(&self, _sweep: &Sweep) -> Result<()> {
        for file in &self.files {
            durable::remove_file(file)?;
        }
        Ok(())
    }
}

/// The root disk files of one key: a finished disk, or what an interrupted build or removal left.
pub(crate) struct DiskLitter {
    pub(crate) disk: Option<Baseline>,
    pub(crate) litter: Litter,
}

pub(crate) fn tally<'a>(litter: impl IntoIterator<Item = &'a Litter>) -> Tally {
    litter.into_iter().fold(Tally::default(), |sum, l| Tally { count: sum.count + 1, bytes: sum.bytes + l.bytes })
}

impl Store {
    /// Waits until nobody pulls, builds or pushes, and keeps everybody from beginning. Short: who wants to begin waits.
    pub(crate) fn at_rest(&self, wait: Duration, progress: &dyn Progress) -> Result<Sweep> {
        let started = Instant::now();
        loop {
            if let Some(sweep) = lock::sweep(&self.locks())? {
                return Ok(sweep);
            }
            if progress.cancelled() {
                return Err(Error::Cancelled { what: "waiting for the image store".to_owned() });
            }
            if started.elapsed() >= wait {
                return Err(Error::Busy);
            }
            std::thread::sleep(POLL);
        }
    }

    /// The blobs that the images of an index do not have.
    pub(crate) fn stray_blobs(&self, index: &Index) -> Result<Vec<Litter>> {
        let mut needed = HashSet::new();
        for entry in &index.manifests {
            needed.insert(entry.digest.hex());
            let reference = entry.digest.to_string();
            if let Some(bytes) = self.read_blob(&entry.digest, wire::MAX_MANIFEST)? {
                let manifest = Manifest::of(&reference, resolve::manifest(&reference, &bytes)?)?;
                needed.insert(manifest.config.digest.hex());
                needed.extend(manifest.layers.iter().map(|l| l.digest.hex()));
            }
        }
        let blobs = self.files("blobs/sha256")?.into_iter().filter(|(name, ..)| !needed.contains(name));
        Ok(blobs.map(|(_, path, metadata)| Litter::new([(path, metadata)])).collect())
    }

    /// All blobs.
    pub(crate) fn all_blobs(&self) -> Result<Vec<Litter>> {
        Ok(self.files("blobs/sha256")?.into_iter().map(|(_, path, metadata)| Litter::new([(path, metadata)])).collect())
    }

    /// What was on its way into the store. Nobody continues it while the store is at rest.
    pub(crate) fn transfers(&self) -> Result<Vec<Litter>> {
        let ours = |name: &str| name.ends_with(PARTIAL) || name.starts_with(TEMPORARY_PREFIX);
        let files = self.files("ingest")?.into_iter().filter(|(name, ..)| ours(name));
        Ok(files.map(|(_, path, metadata)| Litter::new([(path, metadata)])).collect())
    }

    /// The root disks, finished or not.
    pub(crate) fn disks(&self) -> Result<Vec<DiskLitter>> {
        let mut disks = Vec::new();
        let mut keys: BTreeMap<String, Vec<(PathBuf, Metadata)>> = BTreeMap::new();
        for (name, path, metadata) in self.files("baselines")? {
            if name.starts_with(TEMPORARY_PREFIX) {
                disks.push(DiskLitter { disk: None, litter: Litter::new([(path, metadata)]) });
            } else if let Some((key, "json" | "ext4")) = name.rsplit_once('.') {
                keys.entry(key.to_owned()).or_default().push((path, metadata));
            }
        }
        for (key, mut files) in keys {
            // The description first: without it the disk is not taken for finished.
            files.sort_by_key(|(path, _)| path.extension().is_none_or(|e| e != "json"));
            let disk = self.baseline_of(&key)?;
            disks.push(DiskLitter { disk, litter: Litter::new(files) });
        }
        Ok(disks)
    }

    /// The regular files of a part of the store: name, path and what is known of each.
    fn files(&self, part: &str) -> Result<Vec<(String, PathBuf, Metadata)>> {
        let dir = self.root.join(part);
        let mut files = Vec::new();
        for entry in fs::read_dir(&dir).map_err(Error::io("list", &dir))? {
            let entry = entry.map_err(Error::io("list", &dir))?;
            // What goes meanwhile is none any longer, and what has another name is none of ours.
            let (Ok(name), Ok(metadata)) = (entry.file_name().into_string(), entry.metadata()) else { continue };
            if metadata.is_file() {
                files.push((name, entry.path(), metadata));
            }
        }
        files.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(files)
    }
}
