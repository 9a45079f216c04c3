//! The images of this host.
//!
//! ```text
//! oci-layout  index.json  blobs/sha256/HEX    an OCI image layout that other tools can read
//! ingest/HEX.partial                          blobs on their way
//! baselines/KEY.ext4 and KEY.json             root disks; whole when both are there
//! locks/                                      see `lock`
//! ```
//!
//! A file under `blobs/` is always whole: it was verified, flushed and renamed into place.

use std::{
    fs::{self, File, Permissions},
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use microagent_base::{
    Digest,
    durable::{self, TEMPORARY_PREFIX},
};

use crate::{
    Error, Image, Platform, Result,
    image::Manifest,
    index::{self, Index},
    ingest::PARTIAL,
    lock, resolve,
    wire::{self, Descriptor},
};

/// How long an interrupted transfer is worth continuing: a day, within which most retries and restarts happen.
const PARTIAL_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// The store in one directory. Cheap to clone; many processes may use one directory.
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) root: PathBuf,
}

/// An image of the list.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct StoredImage {
    /// The canonical name; none when a newer image has taken it.
    pub reference: Option<String>,
    /// The digest of the manifest.
    pub digest: Digest,
    /// What it runs on.
    pub platform: Platform,
    /// The bytes of its layers as stored.
    pub size: u64,
    /// The bytes that the root disk made from it takes on the host's disk, holes not counted; none when there is none.
    pub root_disk: Option<u64>,
    /// When it came into the store under this name.
    pub pulled: Option<jiff::Timestamp>,
    /// Whether all of it is there.
    pub complete: bool,
}

impl Store {
    /// Opens the store in `dir`, making it when it is not there, and sweeps what crashed transfers left.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn open(dir: &Path) -> Result<Self> {
        let root = std::path::absolute(dir).map_err(Error::io("resolve", dir))?;
        for part in ["blobs/sha256", "ingest", "baselines", "locks"] {
            durable::private_dir(&root.join(part))?;
        }
        let this = Self { root };
        Index::update(&this.root, |_| {
            let layout = this.root.join("oci-layout");
            if !layout.exists() {
                durable::write(&layout, b"{\"imageLayoutVersion\":\"1.0.0\"}\n")?;
            }
            Ok(((), !this.root.join("index.json").exists()))
        })?;
        this.sweep_transfers();
        Ok(this)
    }

    /// The image with this manifest digest, when all its blobs are there.
    ///
    /// # Errors
    /// Those of the operating system, and a manifest or config in the store that does not decode.
    pub fn image(&self, manifest: &Digest) -> Result<Option<Image>> {
        let index = Index::read(&self.root)?;
        let mut entries = index.manifests.iter().rev().filter(|e| e.digest == *manifest);
        // An entry with a name tells more than one without.
        let Some(entry) = entries.clone().find(|e| index::name(e).is_some()).or_else(|| entries.next()) else {
            return Ok(None);
        };
        self.load(entry)
    }

    /// The image that a reference means on this host, without asking any registry.
    pub(crate) fn find(&self, name: &str, digest: Option<Digest>, platform: &Platform) -> Result<Option<Image>> {
        let index = Index::read(&self.root)?;
        let Some(entry) = index.find(name, digest, platform) else { return Ok(None) };
        Ok(self.load(entry)?.map(|image| Image { reference: name.to_owned(), ..image }))
    }

    /// Every image, in the order in which they came.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn list(&self) -> Result<Vec<StoredImage>> {
        let index = Index::read(&self.root)?;
        let disks = self.baselines()?;
        let mut list = Vec::with_capacity(index.manifests.len());
        for entry in &index.manifests {
            let Some(platform) = entry.platform.clone() else { continue };
            let image = self.load(entry)?;
            list.push(StoredImage {
                reference: index::name(entry).map(str::to_owned),
                digest: entry.digest,
                platform,
                size: image.as_ref().map_or(0, |i| i.size),
                root_disk: disks.iter().filter(|d| d.manifest == entry.digest).map(|d| d.allocated).max(),
                pulled: index::pulled(entry),
                complete: image.is_some(),
            });
        }
        Ok(list)
    }

    /// Where a blob is or will be.
    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    pub(crate) fn ingest_dir(&self) -> PathBuf {
        self.root.join("ingest")
    }

    pub(crate) fn locks(&self) -> PathBuf {
        self.root.join("locks")
    }

    /// Whether a blob is in its place with its size. Its content was verified before it came there.
    pub(crate) fn has_blob(&self, digest: &Digest, size: u64) -> bool {
        fs::symlink_metadata(self.blob_path(digest)).is_ok_and(|m| m.is_file() && m.len() == size)
    }

    /// A small blob, verified; none when it is not there or no longer what it was.
    pub(crate) fn read_blob(&self, digest: &Digest, limit: u64) -> Result<Option<Vec<u8>>> {
        let path = self.blob_path(digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("read", path)(e)),
        };
        let mut bytes = Vec::new();
        file.take(limit + 1).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
        Ok((Digest::of(&bytes) == *digest).then_some(bytes))
    }

    /// Puts a small blob that is already verified into its place.
    pub(crate) fn put_blob(&self, digest: &Digest, bytes: &[u8]) -> Result<()> {
        if self.read_blob(digest, bytes.len() as u64)?.is_some() {
            return Ok(());
        }
        let (dir, target) = (self.ingest_dir(), self.blob_path(digest));
        let mut file = tempfile::Builder::new()
            .prefix(TEMPORARY_PREFIX)
            .permissions(Permissions::from_mode(0o400))
            .tempfile_in(&dir)
            .map_err(Error::io("create a temporary file in", &dir))?;
        file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(Error::io("write", &target))?;
        file.persist(&target).map_err(|e| Error::io("put in place", &target)(e.error))?;
        Ok(durable::sync_dir(&self.root.join("blobs/sha256"))?)
    }

    /// Keeps a manifest whose layers are all there, and gives it its name. The last step of every pull.
    pub(crate) fn commit(
        &self,
        image: &Image,
        manifest: &[u8],
        media_type: &str,
        config: (&Digest, &[u8]),
    ) -> Result<()> {
        self.put_blob(config.0, config.1)?;
        self.put_blob(&image.digest, manifest)?;
        let descriptor = Descriptor {
            media_type: media_type.to_owned(),
            digest: image.digest,
            size: manifest.len() as u64,
            platform: None,
            annotations: None,
        };
        Index::update(&self.root, |index| Ok(((), index.put(&image.reference, descriptor, &image.platform))))
    }

    pub(crate) fn load(&self, entry: &Descriptor) -> Result<Option<Image>> {
        let reference = index::name(entry).map_or_else(|| entry.digest.to_string(), str::to_owned);
        let Some((manifest, config)) = self.documents(&reference, entry)? else { return Ok(None) };
        let whole = manifest.layers.iter().all(|l| self.has_blob(&l.digest, l.size));
        if whole { manifest.with_config(&reference, entry.digest, &config).map(Some) } else { Ok(None) }
    }

    fn documents(&self, reference: &str, entry: &Descriptor) -> Result<Option<(Manifest, Vec<u8>)>> {
        let Some(bytes) = self.read_blob(&entry.digest, wire::MAX_MANIFEST)? else { return Ok(None) };
        let manifest = Manifest::of(reference, resolve::manifest(reference, &bytes)?)?;
        Ok(self.read_blob(&manifest.config.digest, wire::MAX_CONFIG)?.map(|config| (manifest, config)))
    }

    /// Removes transfers that nobody continues. Best effort: what stays is swept another time.
    fn sweep_transfers(&self) {
        let old = |path: &Path| {
            let modified = fs::metadata(path).and_then(|m| m.modified()).ok();
            modified.and_then(|t| SystemTime::now().duration_since(t).ok()).is_some_and(|age| age > PARTIAL_LIFETIME)
        };
        let Ok(Some(_sweep)) = lock::sweep(&self.locks()) else { return };
        for dir in [self.ingest_dir(), self.root.join("baselines"), self.root.clone()] {
            for file in fs::read_dir(&dir).into_iter().flatten().flatten() {
                let (path, name) = (file.path(), file.file_name());
                let name = name.to_string_lossy();
                // The root's own temporaries belong to index.json, which is written outside the sweep's lock.
                let dead = name.starts_with(TEMPORARY_PREFIX) && dir != self.root;
                if dead || (name.ends_with(PARTIAL) || name.starts_with(TEMPORARY_PREFIX)) && old(&path) {
                    let removed = durable::remove_file(&path);
                    tracing::debug!(path = %path.display(), ok = removed.is_ok(), "swept what a crash left");
                }
            }
        }
    }
}
