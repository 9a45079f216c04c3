//! The read-only root disk of an image: built once, shared by every workspace of that image on the host.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Instant,
};

use microagent_base::{
    Digest, Progress,
    durable::{self, DurableError, TEMPORARY_PREFIX},
    progress::Step,
};
use microagent_rootfs as rootfs;
use serde::{Deserialize, Serialize};

use crate::{
    Error, Image, LayerDescriptor, Platform, Result, Store,
    arrival::{Arrivals, ByPlace, Follower},
    lock::{self, InUse},
};

/// A finished root disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    /// The ext4 file, mode 0444.
    #[serde(skip)]
    pub path: PathBuf,
    /// What it was made from and by: the digest of manifest, platform and format version, in hexadecimal.
    pub key: String,
    /// The digest of the image's manifest.
    pub manifest: Digest,
    /// The UUID of the file system; it follows from the key.
    pub uuid: [u8; 16],
    /// The bytes of the file as a guest sees it.
    pub size: u64,
    /// The bytes that it takes on the host's disk.
    pub allocated: u64,
    /// How long it took to build, in milliseconds.
    pub build_ms: u64,
}

impl Store {
    /// The finished root disk of an image, if there is one of the current format.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn baseline(&self, image: &Image) -> Result<Option<Baseline>> {
        self.baseline_of(&key(&image.digest, &image.platform).hex())
    }

    /// Every finished root disk.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn baselines(&self) -> Result<Vec<Baseline>> {
        let dir = self.baseline_dir();
        let mut all = Vec::new();
        for file in fs::read_dir(&dir).map_err(Error::io("list", &dir))? {
            let name = file.map_err(Error::io("list", &dir))?.file_name();
            if let Some(key) = name.to_str().and_then(|name| name.strip_suffix(".json")) {
                all.extend(self.baseline_of(key)?);
            }
        }
        all.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(all)
    }

    /// Builds the root disk of an image, or gives the one that is there. Blocking. One process builds a disk; others
    /// that want the same wait for it.
    ///
    /// # Errors
    /// [`Error::ImageIncomplete`] when a blob is gone or damaged, which is then dropped so that the next pull fetches
    /// it again; [`Error::Build`]; those of the operating system.
    pub fn build_baseline(&self, image: &Image, progress: &dyn Progress) -> Result<Baseline> {
        if let Some(done) = self.baseline(image)? {
            return Ok(done);
        }
        let _in_use = lock::in_use(&self.locks())?;
        self.build_once(image, progress, |path, uuid| self.build_stored(image, path, uuid, progress))
    }

    /// Has `write` make the disk in the file of that name and with that UUID, unless the disk is there.
    fn build_once(
        &self,
        image: &Image,
        progress: &dyn Progress,
        write: impl FnOnce(&Path, [u8; 16]) -> Result<rootfs::Report>,
    ) -> Result<Baseline> {
        let key = key(&image.digest, &image.platform);
        let lock = lock::path(&self.locks(), "baseline", &key);
        let _lock = lock::exclusive_blocking(&lock, progress, &what(image))?;
        if let Some(done) = self.baseline(image)? {
            return Ok(done);
        }
        let started = Instant::now();
        let (dir, uuid) = (self.baseline_dir(), file_system_uuid(&key));
        let temporary = dir.join(format!("{TEMPORARY_PREFIX}{}", key.hex()));
        let target = dir.join(format!("{}.ext4", key.hex()));
        // Only the holder of the lock makes this name: what is there was left by one that was killed.
        durable::remove_file(&temporary)?;
        let report = match write(&temporary, uuid) {
            Ok(report) => report,
            Err(error) => {
                durable::remove_file(&temporary)?;
                return Err(error);
            }
        };
        durable::rename(&temporary, &target)?;
        let metadata = fs::metadata(&target).map_err(Error::io("read", &target))?;
        let baseline = Baseline {
            path: target,
            key: key.hex(),
            manifest: image.digest,
            uuid,
            size: report.size,
            allocated: metadata.blocks() * 512,
            build_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        // Last: from now on the disk counts as finished.
        durable::write_json(&dir.join(format!("{}.json", baseline.key)), &baseline)?;
        Ok(baseline)
    }

    fn build_stored(
        &self,
        image: &Image,
        path: &Path,
        uuid: [u8; 16],
        progress: &dyn Progress,
    ) -> Result<rootfs::Report> {
        let mut layers = Vec::with_capacity(image.layers.len());
        for layer in &image.layers {
            let blob = match File::open(self.blob_path(&layer.digest)) {
                Ok(blob) => blob,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    return Err(Error::ImageIncomplete {
                        reference: image.reference.clone(),
                        why: format!("layer {} is gone", layer.digest),
                    });
                }
                Err(e) => return Err(Error::io("read", self.blob_path(&layer.digest))(e)),
            };
            layers.push(described(layer, blob));
        }
        let result =
            write_disk(image, path, uuid, |out, options| rootfs::build(layers, out, options, &Building(progress)));
        result.map_err(|failure| self.judge(image, failure))
    }

    fn judge(&self, image: &Image, failure: Failure) -> Error {
        match failure {
            Failure::Store(error) => error,
            Failure::Build(rootfs::Error::Cancelled) => Error::Cancelled { what: what(image) },
            Failure::Build(source @ rootfs::Error::Layer { .. }) => {
                self.explain(image, source).unwrap_or_else(|error| error)
            }
            Failure::Build(source) => Error::Build { reference: image.reference.clone(), source: Box::new(source) },
        }
    }

    /// Tells a blob that was damaged on this disk, which pulling again mends, from an image that is itself broken.
    fn explain(&self, image: &Image, source: rootfs::Error) -> Result<Error> {
        for layer in &image.layers {
            let path = self.blob_path(&layer.digest);
            let mut file = File::open(&path).map_err(Error::io("read", &path))?;
            let (actual, _) = Digest::of_reader(&mut file).map_err(Error::io("read", &path))?;
            if actual != layer.digest {
                durable::remove_file(&path)?;
                return Ok(Error::ImageIncomplete {
                    reference: image.reference.clone(),
                    why: format!("layer {} was damaged on this disk and has been dropped", layer.digest),
                });
            }
        }
        Ok(Error::Build { reference: image.reference.clone(), source: Box::new(source) })
    }

    pub(crate) fn baseline_of(&self, key: &str) -> Result<Option<Baseline>> {
        let dir = self.baseline_dir();
        let found = match durable::read_json::<Baseline>(&dir.join(format!("{key}.json"))) {
            // A description that was damaged describes nothing: the disk is built anew.
            Err(error @ DurableError::Decode { .. }) => {
                tracing::warn!("{error}; the root disk counts as not there");
                None
            }
            found => found?,
        };
        let Some(found) = found else { return Ok(None) };
        let path = dir.join(format!("{key}.ext4"));
        let metadata = fs::symlink_metadata(&path).ok().filter(|m| m.is_file() && m.len() == found.size);
        Ok(metadata.map(|m| Baseline { path, key: key.to_owned(), allocated: m.blocks() * 512, ..found }))
    }

    fn baseline_dir(&self) -> PathBuf {
        self.root.join("baselines")
    }
}

/// An image whose layers are coming into the store, and from which a root disk can be made at the same time. Clones are
/// of the same pull.
#[derive(Clone)]
pub struct Arriving {
    store: Store,
    image: Image,
    arrivals: Arrivals,
    /// How many transfers may have begun and not ended at once.
    transfers: usize,
    _in_use: Arc<InUse>,
}

impl Arriving {
    pub(crate) fn new(store: Store, image: Image, transfers: usize, in_use: Arc<InUse>) -> Self {
        let arrivals = Arrivals::of(&image);
        Self { store, image, arrivals, transfers: transfers.max(1), _in_use: in_use }
    }

    pub(crate) fn arrivals(&self) -> Arrivals {
        self.arrivals.clone()
    }

    /// What is coming.
    #[must_use]
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// Builds the root disk, or gives the one that is there. Blocking. It is there for others only once every layer is in
    /// the store. None when the pull ended before: its own error tells why.
    ///
    /// # Errors
    /// Those of [`Store::build_baseline`].
    pub fn build(&self, progress: Arc<dyn Progress>) -> Result<Option<Baseline>> {
        // Nobody wants the disk of a pull that has failed.
        let wanted: Arc<dyn Progress> = Arc::new(WhileComing { progress, arrivals: self.arrivals.clone() });
        let built = self.store.build_once(&self.image, wanted.as_ref(), |path, uuid| {
            let written = self.write(path, uuid, &wanted);
            // What was read may not have been verified yet, so it is judged and shown to others only now.
            if !self.arrivals.settled(wanted.as_ref(), &what(&self.image))? {
                return Err(Error::Cancelled { what: what(&self.image) });
            }
            match written {
                // Wrong bytes may have been read, and right ones are there by now.
                Err(_) if self.arrivals.were_restarted() => {
                    durable::remove_file(path)?;
                    self.store.build_stored(&self.image, path, uuid, wanted.as_ref())
                }
                written => written.map_err(|failure| self.store.judge(&self.image, failure)),
            }
        });
        match built {
            Err(_) if self.arrivals.have_failed() => Ok(None),
            built => built.map(Some),
        }
    }

    fn write(&self, path: &Path, uuid: [u8; 16], progress: &Arc<dyn Progress>) -> Result<rootfs::Report, Failure> {
        let Self { store, image, arrivals, transfers, .. } = self;
        let follow = |layer: &LayerDescriptor| {
            let path = store.blob_path(&layer.digest);
            described(layer, Follower::new(arrivals.clone(), progress.clone(), layer.digest, layer.size, path))
        };
        let layers = image.layers.iter().map(follow).collect();
        write_disk(image, path, uuid, |out, options| {
            let cores = thread::available_parallelism().map_or(1, usize::from);
            // As many as may be kept waiting by their transfers, and those that can work.
            let options = rootfs::Options { threads: transfers + cores, ..options.clone() };
            let by_place = ByPlace { image, arrivals };
            rootfs::build_arriving(layers, out, &options, &by_place, &Building(progress.as_ref()))
        })
    }
}

/// The progress of a build that is of use only as long as its layers may still come.
struct WhileComing {
    progress: Arc<dyn Progress>,
    arrivals: Arrivals,
}

impl Progress for WhileComing {
    fn step(&self, step: Step) {
        self.progress.step(step);
    }

    fn cancelled(&self) -> bool {
        self.progress.cancelled() || self.arrivals.have_failed()
    }
}

/// Why a disk was not written, not judged yet.
enum Failure {
    Build(rootfs::Error),
    Store(Error),
}

/// Makes the file, has the file system written, and makes it durable and read-only.
fn write_disk(
    image: &Image,
    path: &Path,
    uuid: [u8; 16],
    build: impl FnOnce(&File, &rootfs::Options) -> Result<rootfs::Report, rootfs::Error>,
) -> Result<rootfs::Report, Failure> {
    let made = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
    let out = made.map_err(|e| Failure::Store(Error::io("create", path)(e)))?;
    let options = rootfs::Options { uuid, created: image.config.created, ..rootfs::Options::default() };
    let report = build(&out, &options).map_err(Failure::Build)?;
    out.set_permissions(Permissions::from_mode(0o444))
        .and_then(|()| out.sync_all())
        .map_err(|e| Failure::Store(Error::io("flush", path)(e)))?;
    Ok(report)
}

fn described(layer: &LayerDescriptor, blob: impl std::io::Read + Send + 'static) -> rootfs::Layer {
    rootfs::Layer { blob: Box::new(blob), digest: layer.digest, size: layer.size, diff_id: layer.diff_id }
}

fn what(image: &Image) -> String {
    format!("building the root disk of {}", image.reference)
}

/// Says of every step what it is part of.
struct Building<'a>(&'a dyn Progress);

impl Progress for Building<'_> {
    fn step(&self, step: Step) {
        self.0.step(Step { what: format!("building root disk: {}", step.what), ..step });
    }

    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }
}

/// What a root disk depends on, and nothing else.
fn key(manifest: &Digest, platform: &Platform) -> Digest {
    let format = rootfs::FORMAT_VERSION;
    Digest::of(format!("microagent baseline\n{manifest}\n{platform}\nformat {format}\n").as_bytes())
}

/// A version 8 UUID of the key (RFC 9562, section 5.8), so that the same image gives the same bytes.
fn file_system_uuid(key: &Digest) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&key.bytes()[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_follows_from_manifest_and_platform() {
        let (amd64, arm64): (Platform, Platform) = ("linux/amd64".parse().unwrap(), "linux/arm64".parse().unwrap());
        let of = |content: &[u8], platform| key(&Digest::of(content), platform);
        assert_eq!(of(b"a", &amd64), of(b"a", &amd64));
        assert_ne!(of(b"a", &amd64), of(b"b", &amd64));
        assert_ne!(of(b"a", &amd64), of(b"a", &arm64));
        let uuid = file_system_uuid(&of(b"a", &amd64));
        assert_eq!((uuid[6] >> 4, uuid[8] >> 6), (8, 2));
    }
}
