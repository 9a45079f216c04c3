//! Getting an image into the store.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, TryStreamExt, stream};
use microagent_base::{Digest, Progress, progress::Step};
use serde::{Deserialize, Serialize};

use crate::{
    Arriving, Baseline, Credentials, Error, Image, ImageReference, Platform, Registries, Result, Store,
    fetch::{self, Retry, blocking},
    image::Manifest,
    import::Import,
    lock::{self, InUse},
    meter::Meter,
    registries::Sources,
    registry::{Registry, RegistryReference},
    resolve::{self, Resolved, Way},
    wire::{self, Descriptor, Document},
};

/// How often it is asked whether a pull is still wanted while the network is silent.
const CANCEL_POLL: Duration = Duration::from_millis(100);

/// Space that a pull leaves free: what else runs on the host must not starve.
const MARGIN: u64 = 64 << 20;

/// When a registry or a layout is asked, with the meaning of Kubernetes' `imagePullPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PullPolicy {
    /// What the name means now is asked for each time; blobs that are in the store are not fetched again. A
    /// reference that is pinned to a digest and complete in the store asks nobody.
    Always,
    /// Asked only when the store does not have the image.
    IfNotPresent,
    /// Never asked.
    Never,
}

/// How to pull.
#[derive(Clone, Debug)]
pub struct PullOptions {
    /// Where logins are.
    pub credentials: Credentials,
    /// The registries, as `host[:port]`, that are spoken to without encryption. Those on a loopback address always
    /// are.
    pub insecure: Vec<String>,
    /// How registries are reached otherwise: mirrors and certificates.
    pub registries: Registries,
    /// How long a registry may be silent in the middle of an answer before it is asked again.
    pub patience: Duration,
    /// How many layers come at once, at least 1.
    pub parallel: usize,
}

impl Default for PullOptions {
    /// The user's logins, no mirrors, encryption everywhere, half a minute of patience, 3 layers at once as Docker does.
    fn default() -> Self {
        Self {
            credentials: Credentials::from_environment(),
            insecure: Vec::new(),
            registries: Registries::default(),
            patience: Duration::from_secs(30),
            parallel: 3,
        }
    }
}

impl Store {
    /// Makes sure that the image is whole in the store, and describes it.
    ///
    /// Everything is verified by digest on its way in. An interrupted pull continues where it stopped, also in
    /// another process; several pulls of one blob, in any number of processes, fetch it once. `progress` gets steps
    /// named `pulling <name>`; when it says that the pull is cancelled, this returns within a moment.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::is_retryable`] tells which are worth another attempt.
    pub async fn pull(
        &self,
        reference: &ImageReference,
        platform: &Platform,
        policy: PullPolicy,
        options: &PullOptions,
        progress: Arc<dyn Progress>,
    ) -> Result<Image> {
        self.pull_arriving(reference, platform, policy, options, progress, drop).await
    }

    /// [`Store::pull`] and [`Store::build_baseline`] in one: the root disk is made while the layers come.
    ///
    /// `progress` gets the steps of the pull until that is done, then those of the build. A pull or a build that fails
    /// or is cut short, by whatever, leaves no root disk; what has come of the layers is kept as [`Store::pull`] does.
    ///
    /// # Errors
    /// That of the pull, when it fails; else that of the build, when that does: the image is then in the store.
    pub async fn pull_baseline(
        &self,
        reference: &ImageReference,
        platform: &Platform,
        policy: PullPolicy,
        options: &PullOptions,
        progress: Arc<dyn Progress>,
    ) -> Result<(Image, Baseline)> {
        let mut build = None;
        let after = Arc::new(After { progress: progress.clone(), pulled: AtomicBool::new(false) });
        let listener = after.clone();
        let begun = |arriving: Arriving| build = Some(tokio::task::spawn_blocking(move || arriving.build(listener)));
        let pulled = self.pull_arriving(reference, platform, policy, options, progress, begun).await;
        after.pulled.store(true, Ordering::Relaxed);
        // When the pull has failed the build knows it, and ends.
        let built = match build {
            Some(build) => build.await.map_err(|e| fetch::lost(&e))?,
            None => Ok(None),
        };
        let image = pulled?;
        if let Some(baseline) = built? {
            return Ok((image, baseline));
        }
        // Nothing came, for all of it was here.
        let (store, image) = (self.clone(), image);
        blocking(move || store.build_baseline(&image, after.as_ref()).map(|baseline| (image, baseline))).await
    }

    /// [`Store::pull`] that tells, as soon as it is known what the image is made of and unless it is in the store already,
    /// of its layers: a root disk can be built while they come. `begun` must not block; what it is given may be dropped.
    ///
    /// # Errors
    /// Those of [`Store::pull`].
    pub async fn pull_arriving(
        &self,
        reference: &ImageReference,
        platform: &Platform,
        policy: PullPolicy,
        options: &PullOptions,
        progress: Arc<dyn Progress>,
        begun: impl FnOnce(Arriving),
    ) -> Result<Image> {
        let name = reference.name();
        if policy != PullPolicy::Always || reference.digest().is_some() {
            let (store, wanted, platform, digest) = (self.clone(), name.clone(), platform.clone(), reference.digest());
            let find = move || {
                // Not while another process prunes: what it decided about must not be found any longer.
                let _in_use = lock::in_use(&store.locks())?;
                store.find(&wanted, digest, &platform)
            };
            if let Some(image) = blocking(find).await? {
                return Ok(image);
            }
        }
        if policy == PullPolicy::Never {
            let why = "it is not in the store of this host and the pull policy is Never".to_owned();
            return Err(Error::ImageNotFound { reference: name, why });
        }
        let locks = self.locks();
        // Shared with the blocking work, which may run on for a moment when this future is dropped.
        let in_use = Arc::new(blocking(move || lock::in_use(&locks)).await?);
        let what = format!("pulling {name}");
        let watch = progress.clone();
        let work = async {
            match reference {
                ImageReference::Registry(registry) => {
                    self.fetch(registry, &name, platform, options, progress, in_use, begun).await
                }
                local => {
                    let (store, local, platform) = (self.clone(), local.clone(), platform.clone());
                    let import = blocking(move || Import::open(store, &local, &name, &platform)).await?;
                    let arriving = Arriving::new(self.clone(), import.image().clone(), options.parallel, in_use);
                    let arrivals = arriving.arrivals();
                    let ending = arrivals.ending();
                    begun(arriving.clone());
                    blocking(move || {
                        // Held until the work is done, though this future may be dropped.
                        let _held = (arriving, ending);
                        import.run(&arrivals, progress)
                    })
                    .await
                }
            }
        };
        tokio::select! {
            result = work => result,
            () = cancelled(watch.as_ref()) => Err(Error::Cancelled { what }),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "they are those of the pull")]
    async fn fetch(
        &self,
        reference: &RegistryReference,
        name: &str,
        platform: &Platform,
        options: &PullOptions,
        progress: Arc<dyn Progress>,
        in_use: Arc<InUse>,
        begun: impl FnOnce(Arriving),
    ) -> Result<Image> {
        let what = format!("pulling {name}");
        let meter = Meter::new(progress.clone(), &what, None);
        let sources = Sources::of(reference, options).await?;
        let remote = Remote { store: self, sources: &sources, name, platform, meter: &meter };

        let (descriptor, bytes, document) = remote.manifest(reference).await?;
        let manifest = Manifest::of(name, document)?;
        let config = remote.config(&manifest.config).await?;
        let image = manifest.with_config(name, descriptor.digest, &config)?;
        resolve::check_platform(name, platform, &image.platform)?;

        let meter = Meter::new(progress, &what, Some(unique(&manifest.layers).iter().map(|l| l.size).sum()));
        self.check_space(&manifest.layers)?;
        let arriving = Arriving::new(self.clone(), image.clone(), options.parallel, in_use.clone());
        let arrivals = arriving.arrivals();
        let _ending = arrivals.ending();
        begun(arriving);
        let mut transfers = Vec::new();
        for layer in unique(&manifest.layers) {
            transfers.push(fetch::layer(self, &sources, layer, &meter, arrivals.blob(layer.digest)));
        }
        stream::iter(transfers).buffer_unordered(options.parallel.max(1)).try_collect::<()>().await?;
        let (store, done) = (self.clone(), image.clone());
        blocking(move || {
            let _in_use = in_use;
            store.commit(&done, &bytes, &descriptor.media_type, (&manifest.config.digest, &config))
        })
        .await?;
        Ok(image)
    }

    /// Refuses a pull that cannot fit before it fills the disk.
    fn check_space(&self, layers: &[Descriptor]) -> Result<()> {
        let missing = unique(layers).into_iter().filter(|l| !self.has_blob(&l.digest, l.size));
        let needed: u64 = missing.map(|l| l.size).sum();
        let stat = rustix::fs::statvfs(&self.root).map_err(|e| Error::io("measure", &self.root)(e.into()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if needed == 0 || needed.saturating_add(MARGIN) <= free {
            return Ok(());
        }
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let why = format!(
            "the layers need {} MiB and the host {} MiB beside them, and {} MiB are free",
            mib(needed),
            mib(MARGIN),
            free >> 20
        );
        Err(Error::DiskFull { path: self.root.clone(), why })
    }
}

/// One pull from a registry or its mirrors.
struct Remote<'a> {
    store: &'a Store,
    sources: &'a Sources,
    name: &'a str,
    platform: &'a Platform,
    meter: &'a Meter,
}

impl Remote<'_> {
    /// The manifest of the platform: its descriptor, its bytes, and what they say.
    async fn manifest(&self, reference: &RegistryReference) -> Result<(Descriptor, Vec<u8>, Document)> {
        let pinned = reference.digest();
        let version = match (&pinned, reference.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or("latest").to_owned(),
        };
        let (mut bytes, media_type) = self.ask(&version, pinned).await?;
        let (mut way, mut found) = (Way::default(), None);
        let document = loop {
            let entry = match resolve::resolve(self.name, &bytes, self.platform)? {
                Resolved::Manifest(document) => break document,
                Resolved::Entry(entry) => way.down(self.name, entry)?,
            };
            bytes = match self.stored(&entry.digest, wire::MAX_MANIFEST).await? {
                Some(bytes) => bytes,
                None => self.ask(&entry.digest.to_string(), Some(entry.digest)).await?.0,
            };
            found = Some(entry);
        };
        let descriptor = found.unwrap_or_else(|| Descriptor {
            // Docker images from before OCI name their type in the document; for others the header tells.
            media_type: document.media_type.clone().or(media_type).unwrap_or_else(|| wire::OCI_MANIFEST.to_owned()),
            digest: Digest::of(&bytes),
            size: bytes.len() as u64,
            platform: None,
            annotations: None,
        });
        Ok((descriptor, bytes, document))
    }

    /// Asks for a manifest as often as it is worth it, wherever it may be.
    async fn ask(&self, version: &str, expected: Option<Digest>) -> Result<(Vec<u8>, Option<String>)> {
        let (mut at, mut retry) = (self.sources.first(), Retry::default());
        loop {
            self.meter.check()?;
            let registry = self.sources.get(at);
            let answer = registry.manifest(version).await.and_then(|(bytes, media_type)| {
                self.check("the manifest", registry, &bytes, expected)?;
                Ok((bytes, media_type))
            });
            match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => self.again(&mut at, &mut retry, error).await?,
            }
        }
    }

    async fn config(&self, config: &Descriptor) -> Result<Vec<u8>> {
        if let Some(bytes) = self.stored(&config.digest, wire::MAX_CONFIG).await? {
            return Ok(bytes);
        }
        let (mut at, mut retry) = (self.sources.first(), Retry::default());
        loop {
            self.meter.check()?;
            let registry = self.sources.get(at);
            let answer = registry.small_blob(&config.digest, config.size).await.and_then(|bytes| {
                self.check("the config", registry, &bytes, Some(config.digest))?;
                Ok(bytes)
            });
            match answer {
                Ok(bytes) => return Ok(bytes),
                Err(error) => self.again(&mut at, &mut retry, error).await?,
            }
        }
    }

    /// Waits before the same place is asked again, or goes on to the next one.
    async fn again(&self, at: &mut usize, retry: &mut Retry, error: Error) -> Result<()> {
        if let Err(error) = retry.after(error).await {
            *at = self.sources.after(*at, error)?;
            *retry = Retry::default();
        }
        Ok(())
    }

    async fn stored(&self, digest: &Digest, limit: u64) -> Result<Option<Vec<u8>>> {
        let (store, digest) = (self.store.clone(), *digest);
        blocking(move || store.read_blob(&digest, limit)).await
    }

    fn check(&self, what: &str, registry: &Registry, bytes: &[u8], expected: Option<Digest>) -> Result<()> {
        let Some(expected) = expected else { return Ok(()) };
        let origin = format!("registry {}", registry.name());
        resolve::check_digest(&format!("{what} of {}", self.name), &origin, bytes, expected)
    }
}

/// The progress of a build beside a pull, silent as long as the pull tells its own.
struct After {
    progress: Arc<dyn Progress>,
    pulled: AtomicBool,
}

impl Progress for After {
    fn step(&self, step: Step) {
        if self.pulled.load(Ordering::Relaxed) {
            self.progress.step(step);
        }
    }

    fn cancelled(&self) -> bool {
        self.progress.cancelled()
    }
}

/// Each layer once, the largest first so that the last transfer is a short one.
pub(crate) fn unique(layers: &[Descriptor]) -> Vec<&Descriptor> {
    let mut seen = HashSet::new();
    let mut unique: Vec<_> = layers.iter().filter(|l| seen.insert(l.digest)).collect();
    unique.sort_by_key(|l| std::cmp::Reverse(l.size));
    unique
}

pub(crate) async fn cancelled(progress: &dyn Progress) {
    while !progress.cancelled() {
        tokio::time::sleep(CANCEL_POLL).await;
    }
}
