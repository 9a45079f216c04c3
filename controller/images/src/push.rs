//! An image from the store into a registry.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use microagent_base::{Digest, Progress, digest::Hasher};
use reqwest::Url;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::{
    Error, Image, ImageReference, Platform, PullOptions, RegistryReference, Result, Store,
    fetch::{Retry, blocking},
    image::Manifest,
    index::{self, Index},
    lock,
    meter::Meter,
    pull::{cancelled, unique},
    registry::{Begun, Chunks, Registry, Sent},
    resolve, wire,
    wire::Descriptor,
};

/// How much of a blob is read at once.
const CHUNK: u64 = 64 << 10;
/// Chunks between the disk and the network: 512 KiB for each upload.
const QUEUE: usize = 8;
/// From how many other repositories blobs are mounted: each widens the token that is asked for.
const MAX_MOUNTS: usize = 4;

/// What was pushed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pushed {
    /// The name in full.
    pub reference: String,
    /// The digest of the manifest, as the registry has it.
    pub digest: Digest,
    /// The blobs that were sent.
    pub uploaded: usize,
    /// The blobs that the registry took from another of its repositories.
    pub mounted: usize,
    /// The blobs that the repository had already.
    pub present: usize,
}

/// What is pushed: all of it is in the store.
struct Source {
    image: Image,
    media_type: String,
    bytes: Vec<u8>,
    manifest: Manifest,
    /// The repositories of the same registry that have a blob, as far as the names in the store tell.
    mounts: HashMap<Digest, String>,
}

/// One push.
struct Push<'a> {
    store: &'a Store,
    registry: &'a Registry,
    source: &'a Source,
    meter: &'a Meter,
    uploaded: AtomicUsize,
    mounted: AtomicUsize,
    present: AtomicUsize,
}

impl Store {
    /// Pushes the image that `wanted` means, see [`Store::look_up`], to `destination`, or to where its name says. What
    /// the registry has is not sent; of several platforms one is pushed. An upload that is cut goes on where it stopped
    /// or begins anew. `progress` gets steps named `pushing <name>`; when it says that the push is cancelled, this
    /// returns within a moment.
    ///
    /// # Errors
    /// Those of [`Store::look_up`]; [`Error::InvalidReference`] for a destination that is no name in a registry;
    /// [`Error::PushDenied`], [`Error::PushRefused`] and the others of a registry.
    pub async fn push(
        &self,
        wanted: &str,
        destination: Option<&str>,
        platform: Option<&Platform>,
        options: &PullOptions,
        progress: Arc<dyn Progress>,
    ) -> Result<Pushed> {
        let locks = self.locks();
        // From here on nothing of the image is swept.
        let _in_use = blocking(move || lock::in_use(&locks)).await?;
        let (store, text, platform) = (self.clone(), wanted.to_owned(), platform.cloned());
        let given = destination.map(str::to_owned);
        let (target, source) = blocking(move || {
            let image = store.look_up(&text, platform.as_ref())?;
            let target = destination_of(given.as_deref().unwrap_or(&image.reference))?;
            Ok((target.clone(), store.source(&text, image, &target)?))
        })
        .await?;
        let name = target.to_string();
        let what = format!("pushing {name}");
        let (credentials, host, repository) =
            (options.credentials.clone(), target.registry().to_owned(), target.repository().to_owned());
        let found = blocking(move || credentials.find(&host, &repository)).await?;
        let mut from: Vec<&str> = source.mounts.values().map(String::as_str).collect();
        from.sort_unstable();
        from.dedup();
        let place = options.registries.itself(&target);
        let plain = place.insecure || options.insecure.iter().any(|name| name == target.registry());
        let registry = Registry::for_push(&target, plain, place.ca_file.as_deref(), options.patience, found, &from)?;
        let layers = unique(&source.manifest.layers);
        let size = layers.iter().map(|l| l.size).sum::<u64>() + source.manifest.config.size;
        let meter = Meter::new(progress.clone(), &what, Some(size));
        let push = Push {
            store: self,
            registry: &registry,
            source: &source,
            meter: &meter,
            uploaded: AtomicUsize::new(0),
            mounted: AtomicUsize::new(0),
            present: AtomicUsize::new(0),
        };
        let work = async {
            // First and alone: it gets the token that the others then share.
            push.count(push.blob(&source.manifest.config).await?);
            let layers = layers.into_iter().map(|layer| async { push.blob(layer).await.map(|how| push.count(how)) });
            // Collected, for a stream of closures that borrow is more than the compiler can follow.
            let layers: Vec<_> = layers.collect();
            stream::iter(layers).buffer_unordered(options.parallel.max(1)).try_collect::<()>().await?;
            push.manifest(target.tag().unwrap_or("latest")).await
        };
        tokio::select! {
            done = work => done?,
            () = cancelled(progress.as_ref()) => return Err(Error::Cancelled { what: what.clone() }),
        }
        let count = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        Ok(Pushed {
            reference: name,
            digest: source.image.digest,
            uploaded: count(&push.uploaded),
            mounted: count(&push.mounted),
            present: count(&push.present),
        })
    }

    fn source(&self, wanted: &str, image: Image, target: &RegistryReference) -> Result<Source> {
        let index = Index::read(&self.root)?;
        let gone = || Error::ImageIncomplete { reference: wanted.to_owned(), why: "its manifest is gone".to_owned() };
        let entry = index.manifests.iter().find(|e| e.digest == image.digest).ok_or_else(gone)?;
        let bytes = self.read_blob(&image.digest, wire::MAX_MANIFEST)?.ok_or_else(gone)?;
        let manifest = Manifest::of(wanted, resolve::manifest(wanted, &bytes)?)?;
        let mut mounts = HashMap::new();
        let mut repositories: Vec<String> = Vec::new();
        for other in &index.manifests {
            let Some(Ok(ImageReference::Registry(name))) = index::name(other).map(str::parse) else { continue };
            if name.registry() != target.registry() || name.repository() == target.repository() {
                continue;
            }
            let repository = name.repository().to_owned();
            if !repositories.contains(&repository) {
                if repositories.len() == MAX_MOUNTS {
                    continue;
                }
                repositories.push(repository.clone());
            }
            let Some(other) = self.load(other)? else { continue };
            for layer in other.layers {
                mounts.entry(layer.digest).or_insert_with(|| repository.clone());
            }
        }
        mounts.retain(|digest, _| manifest.layers.iter().any(|l| l.digest == *digest));
        Ok(Source { image, media_type: entry.media_type.clone(), bytes, manifest, mounts })
    }
}

/// How a blob came to be in the repository.
enum Came {
    Uploaded,
    Mounted,
    Present,
}

impl Push<'_> {
    fn count(&self, came: Came) {
        let counter = match came {
            Came::Uploaded => &self.uploaded,
            Came::Mounted => &self.mounted,
            Came::Present => &self.present,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Makes sure that the repository has a blob.
    async fn blob(&self, blob: &Descriptor) -> Result<Came> {
        let mut retry = Retry::default();
        let mut mount = self.source.mounts.get(&blob.digest).map(String::as_str);
        // Where an upload that was cut may go on, and how far the registry has ever come.
        let (mut cut, mut furthest): (Option<Url>, u64) = (None, 0);
        loop {
            self.meter.check()?;
            match self.attempt(blob, &mut mount, &mut cut, &mut furthest, &mut retry).await {
                Ok(came) => return Ok(came),
                Err(error) => retry.after(error).await?,
            }
        }
    }

    async fn attempt(
        &self,
        blob: &Descriptor,
        mount: &mut Option<&str>,
        cut: &mut Option<Url>,
        furthest: &mut u64,
        retry: &mut Retry,
    ) -> Result<Came> {
        // Asked again after a cut: only the answer may have been lost.
        if self.registry.has(&blob.digest).await? {
            self.meter.add(blob.size);
            return Ok(Came::Present);
        }
        let resumed = match cut.take() {
            Some(at) => self.registry.progress(&at).await?.filter(|(offset, _)| *offset < blob.size),
            None => None,
        };
        let (offset, at) = match resumed {
            Some(place) => place,
            None => match self.begin(blob, mount.take()).await? {
                Begun::Mounted => {
                    self.meter.add(blob.size);
                    return Ok(Came::Mounted);
                }
                Begun::At(at) => (0, at),
            },
        };
        if offset > *furthest {
            *furthest = offset;
            *retry = Retry::default();
        }
        match self.send(blob, &at, offset).await {
            Ok(Sent::Kept) => Ok(Came::Uploaded),
            Ok(Sent::Again) => match self.begin(blob, None).await? {
                Begun::Mounted => Ok(Came::Mounted),
                Begun::At(at) => match self.send(blob, &at, 0).await? {
                    Sent::Kept => Ok(Came::Uploaded),
                    Sent::Again => Err(Error::PushDenied {
                        registry: self.registry.name().to_owned(),
                        what: format!("the blob {}", blob.digest),
                        why: "it does not take the token that its own token server gave".to_owned(),
                    }),
                },
            },
            Err(error) => {
                // What does not take the rest of an upload takes a new one.
                let refused_rest = offset > 0 && matches!(error, Error::PushRefused { .. });
                if error.is_transient() {
                    *cut = Some(at);
                } else if refused_rest {
                    let registry = self.registry.name().to_owned();
                    let what = format!("the rest of the blob {}", blob.digest);
                    return Err(Error::RegistryUnreachable { registry, what, why: error.to_string() });
                }
                Err(error)
            }
        }
    }

    /// A registry that does not let this user read the other repository may still take the blob itself.
    async fn begin(&self, blob: &Descriptor, mount: Option<&str>) -> Result<Begun> {
        match self.registry.begin(&blob.digest, mount).await {
            Err(Error::PushDenied { .. } | Error::PushRefused { .. }) if mount.is_some() => {
                self.registry.begin(&blob.digest, None).await
            }
            begun => begun,
        }
    }

    /// Sends a blob from `offset`, read and verified by a thread of its own, so that no more of it than a few chunks
    /// is ever in memory.
    async fn send(&self, blob: &Descriptor, at: &Url, offset: u64) -> Result<Sent> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let (taken, broken) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(None)));
        let path = self.store.blob_path(&blob.digest);
        let file = File::open(&path).map_err(Error::io("read", &path))?;
        let reader = Reader { file, path, digest: blob.digest, size: blob.size, sender, broken: broken.clone() };
        // Ends when the request drops its body, at the latest.
        tokio::task::spawn_blocking(move || reader.run(offset));
        self.meter.add(offset);
        let meter = self.meter.clone();
        let chunks = Chunks { receiver, left: blob.size - offset, taken: taken.clone(), meter };
        let result = self.registry.put_blob(at, &blob.digest, offset, chunks).await;
        if !matches!(result, Ok(Sent::Kept)) {
            self.meter.take_back(offset + taken.load(Ordering::Relaxed));
        }
        // Why the reader gave up says more than that the request then failed.
        let broken = broken.lock().unwrap_or_else(PoisonError::into_inner).take();
        match broken {
            Some(Error::DigestMismatch { .. }) => {
                let (store, name, digest) = (self.store.clone(), self.source.image.reference.clone(), blob.digest);
                Err(blocking(move || store.damaged(&name, &digest)).await?)
            }
            Some(error) => Err(error),
            None => result,
        }
    }

    async fn manifest(&self, tag: &str) -> Result<()> {
        let mut retry = Retry::default();
        loop {
            self.meter.check()?;
            match self.registry.put_manifest(tag, &self.source.media_type, &self.source.bytes).await {
                Ok(()) => return Ok(()),
                Err(error) => retry.after(error).await?,
            }
        }
    }
}

/// Where to push to.
fn destination_of(text: &str) -> Result<RegistryReference> {
    match text.parse()? {
        // An image without a name is called by its digest, which reads like a repository `sha256`.
        ImageReference::Registry(target) if target.digest().is_none() && text.parse::<Digest>().is_err() => Ok(target),
        _ => Err(Error::InvalidReference {
            reference: text.to_owned(),
            why: "an image is pushed under a name like registry.example/team/image:tag; give one as the destination"
                .to_owned(),
        }),
    }
}

/// Reads a blob for an upload.
struct Reader {
    file: File,
    path: PathBuf,
    digest: Digest,
    size: u64,
    sender: mpsc::Sender<io::Result<Bytes>>,
    broken: Arc<Mutex<Option<Error>>>,
}

impl Reader {
    /// Reads all, and sends what is behind `offset`.
    fn run(self, offset: u64) {
        if let Err(error) = self.send(offset) {
            *self.broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            // Ends the request.
            let _ = self.sender.blocking_send(Err(io::Error::other("the blob cannot be read")));
        }
    }

    /// The last chunk is sent only when all was verified, so that no registry keeps a damaged blob.
    fn send(&self, offset: u64) -> Result<()> {
        let mut hasher = Hasher::new();
        let file = &self.file;
        io::copy(&mut file.take(offset), &mut hasher).map_err(Error::io("read", &self.path))?;
        while hasher.len() < self.size {
            let mut chunk = Vec::new();
            let read = file.take(CHUNK.min(self.size - hasher.len())).read_to_end(&mut chunk);
            read.map_err(Error::io("read", &self.path))?;
            hasher.update(&chunk);
            let is_last = chunk.is_empty() || hasher.len() == self.size;
            if is_last && hasher.finish() != self.digest {
                return Err(Error::DigestMismatch {
                    what: "a blob".to_owned(),
                    origin: "this host".to_owned(),
                    expected: self.digest,
                    actual: hasher.finish(),
                });
            }
            // Nobody takes it any longer: the request says why.
            if self.sender.blocking_send(Ok(chunk.into())).is_err() {
                break;
            }
        }
        Ok(())
    }
}
