//! An image from a layout on this host into the store. Blocking; run it on a thread that may block.

use std::{
    fs::File,
    io::{self, Read},
    sync::Arc,
};

use microagent_base::{Digest, Progress};

use crate::{
    Error, Image, ImageReference, Platform, Result, Store,
    archive::{Archive, At},
    arrival::{Arrival, Arrivals},
    docker_archive::DockerArchive,
    image::Manifest,
    ingest::Ingest,
    layout::Directory,
    lock,
    meter::Meter,
    resolve::{self, Resolved, Way},
    wire::{self, Descriptor},
};

/// Something that holds `oci-layout`, `index.json` and `blobs/…`.
pub(crate) trait Layout: Send {
    /// A member by its name in the layout; none when it is not there.
    fn member(&self, name: &str) -> io::Result<Option<Member>>;
}

/// A member of a layout.
pub(crate) struct Member {
    pub(crate) size: u64,
    pub(crate) file: File,
    /// Where it begins, when it is only a part of the file.
    pub(crate) at: Option<u64>,
}

impl Member {
    pub(crate) fn reader(&self) -> impl Read + '_ {
        At { file: &self.file, at: self.at.unwrap_or(0) }.take(self.size)
    }
}

/// One import: what is to be copied, verified but for the layers.
pub(crate) struct Import {
    source: Source,
    manifest: Manifest,
    descriptor: Descriptor,
    /// The bytes of the manifest and of the config.
    documents: (Vec<u8>, Vec<u8>),
    image: Image,
}

impl Import {
    /// Finds the image that a local reference names.
    pub(crate) fn open(store: Store, reference: &ImageReference, name: &str, platform: &Platform) -> Result<Self> {
        let unreadable = |e: io::Error| unreadable(name, &e);
        let (layout, tag): (Box<dyn Layout>, _) = match reference {
            ImageReference::OciLayout { dir, tag } => {
                (Box::new(Directory::open(dir).map_err(unreadable)?), tag.as_deref())
            }
            ImageReference::OciArchive { file, tag } => {
                (Box::new(Archive::open(file).map_err(unreadable)?), tag.as_deref())
            }
            ImageReference::DockerArchive { file, image } => {
                (Box::new(DockerArchive::open(file, image.as_ref(), name)?), None)
            }
            ImageReference::Registry(_) => {
                let why = "it is in a registry, not on this host".to_owned();
                return Err(Error::InvalidReference { reference: name.to_owned(), why });
            }
        };
        let source = Source { store, layout, name: name.to_owned() };
        source.check_version()?;
        let mut way = Way::default();
        let mut descriptor = source.named(tag, platform)?;
        let (bytes, document) = loop {
            let bytes = source.document(&descriptor, wire::MAX_MANIFEST, "a manifest")?;
            match resolve::resolve(name, &bytes, platform)? {
                Resolved::Manifest(document) => break (bytes, document),
                Resolved::Entry(entry) => descriptor = way.down(name, entry)?,
            }
        };
        let manifest = Manifest::of(name, document)?;
        let config = source.document(&manifest.config, wire::MAX_CONFIG, "a config")?;
        let image = manifest.with_config(name, descriptor.digest, &config)?;
        resolve::check_platform(name, platform, &image.platform)?;
        Ok(Self { source, manifest, descriptor, documents: (bytes, config), image })
    }

    /// What it is that will be copied.
    pub(crate) fn image(&self) -> &Image {
        &self.image
    }

    /// Copies the layers, and gives the image its name.
    pub(crate) fn run(self, arrivals: &Arrivals, progress: Arc<dyn Progress>) -> Result<Image> {
        let meter = Meter::new(progress, &format!("pulling {}", self.source.name), Some(self.image.size));
        for layer in &self.manifest.layers {
            self.source.layer(layer, &meter, arrivals.blob(layer.digest))?;
        }
        let (bytes, config) = &self.documents;
        let config = (&self.manifest.config.digest, config.as_slice());
        self.source.store.commit(&self.image, bytes, &self.descriptor.media_type, config)?;
        Ok(self.image)
    }
}

/// Where an import comes from and goes to.
struct Source {
    store: Store,
    layout: Box<dyn Layout>,
    name: String,
}

impl Source {
    fn invalid(&self, why: String) -> Error {
        Error::InvalidImage { reference: self.name.clone(), why }
    }

    fn member(&self, name: &str) -> Result<Member> {
        let member = self.layout.member(name).map_err(|e| unreadable(&self.name, &e))?;
        member.ok_or_else(|| self.invalid(format!("it has no {name}")))
    }

    fn small(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        let member = self.member(name)?;
        if member.size > limit {
            return Err(Error::TooLarge { what: name.to_owned(), origin: self.name.clone(), limit });
        }
        let mut bytes = Vec::new();
        member.reader().read_to_end(&mut bytes).map_err(|e| unreadable(&self.name, &e))?;
        Ok(bytes)
    }

    fn check_version(&self) -> Result<()> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Version {
            image_layout_version: String,
        }
        let bytes = self.small("oci-layout", 4096)?;
        let version: Version =
            serde_json::from_slice(&bytes).map_err(|e| self.invalid(format!("its oci-layout does not decode: {e}")))?;
        if version.image_layout_version.starts_with("1.") {
            return Ok(());
        }
        let why = format!("it has layout version {:?}; 1.x is supported", version.image_layout_version);
        Err(Error::UnsupportedImage { reference: self.name.clone(), why })
    }

    /// The entry of `index.json` that the tag names; without tag, the only image there is.
    fn named(&self, tag: Option<&str>, platform: &Platform) -> Result<Descriptor> {
        let mut document = resolve::parse(&self.name, &self.small("index.json", wire::MAX_MANIFEST)?)?;
        let all = document.entries().ok_or_else(|| self.invalid("its index.json lists no manifests".to_owned()))?;
        let mut names: Vec<&str> = all.iter().filter_map(|e| e.annotation(wire::REF_NAME)).take(30).collect();
        names.dedup();
        let names = names.join(", ");
        let several =
            tag.is_none() && all.iter().any(|e| e.annotation(wire::REF_NAME) != all[0].annotation(wire::REF_NAME));
        if several {
            let why = format!("it holds several images ({names}): name one behind a colon");
            return Err(Error::InvalidReference { reference: self.name.clone(), why });
        }
        let matching: Vec<Descriptor> =
            all.iter().filter(|e| tag.is_none() || e.annotation(wire::REF_NAME) == tag).cloned().collect();
        match matching.as_slice() {
            [] => Err(Error::ImageNotFound {
                reference: self.name.clone(),
                why: format!("its layout has no image of that tag; it has: {names}"),
            }),
            // What is listed alone is not chosen by platform here: it may be an index.
            [only] => Ok(only.clone()),
            _ => resolve::choose(&self.name, matching, platform),
        }
    }

    /// A manifest, index or config, verified.
    fn document(&self, descriptor: &Descriptor, limit: u64, what: &str) -> Result<Vec<u8>> {
        let bytes = self.small(&blob_name(&descriptor.digest), limit)?;
        resolve::check_digest(what, &self.name, &bytes, descriptor.digest)?;
        Ok(bytes)
    }

    fn layer(&self, layer: &Descriptor, meter: &Meter, arrival: Arrival) -> Result<()> {
        let path = lock::path(&self.store.locks(), "blob", &layer.digest);
        let held = lock::exclusive_blocking(&path, meter.progress(), meter.what())?;
        if self.store.has_blob(&layer.digest, layer.size) {
            meter.add(layer.size);
            arrival.is_whole();
            return Ok(());
        }
        let member = self.member(&blob_name(&layer.digest))?;
        let target = self.store.blob_path(&layer.digest);
        let mut ingest = Ingest::open(&self.store.ingest_dir(), target, layer.digest, layer.size, held, arrival)?;
        let result = self.fill(&mut ingest, &member, meter);
        let result = match result {
            Ok(()) => match ingest.finish(&self.name) {
                Ok(()) => return Ok(()),
                Err((back, error)) => {
                    ingest = *back;
                    Err(error)
                }
            },
            Err(error) => Err(error),
        };
        // Copying again costs little: nothing is kept to be continued.
        ingest.discard()?;
        result
    }

    fn fill(&self, ingest: &mut Ingest, member: &Member, meter: &Meter) -> Result<()> {
        if member.at.is_none() && ingest.reflink(&member.file)? {
            meter.add(ingest.len());
            return Ok(());
        }
        ingest.restart()?;
        let mut reader = member.reader();
        let mut buffer = vec![0; 1 << 20];
        loop {
            meter.check()?;
            let read = match reader.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(unreadable(&self.name, &e)),
            };
            ingest.write(&buffer[..read], &self.name)?;
            meter.add(read as u64);
        }
    }
}

pub(crate) fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Tells an image that is not there from one that cannot be read.
pub(crate) fn unreadable(name: &str, error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            Error::ImageNotFound { reference: name.to_owned(), why: format!("{error}; check the path") }
        }
        _ => Error::InvalidImage { reference: name.to_owned(), why: error.to_string() },
    }
}
