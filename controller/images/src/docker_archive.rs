//! What `docker save` writes: a tar with a `manifest.json` that names a config and layers for each image. Newer ones are an
//! OCI image layout at the same time. Shown to the import as a layout of the one image that is wanted.
//!
//! Form: Docker image specification v1.2, "Combined Image JSON + Filesystem Changeset Format".

use std::{
    collections::HashMap,
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
};

use microagent_base::Digest;
use serde::Deserialize;
use serde_json::json;

use crate::{
    Error, Result,
    archive::Archive,
    image,
    import::{Layout, Member, blob_name, unreadable},
    registry::RegistryReference,
    resolve,
    wire::{self, Document},
};

/// Layouts of `docker save` have one index for each image, and in it one for the platforms.
const MAX_DEPTH: usize = 2;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// One image of such an archive.
pub(crate) struct DockerArchive {
    archive: Archive,
    /// What the archive has not, by the name it has in a layout.
    made: HashMap<String, Vec<u8>>,
    /// What the archive has under another name.
    names: HashMap<String, String>,
}

impl Layout for DockerArchive {
    fn member(&self, name: &str) -> io::Result<Option<Member>> {
        if let Some(bytes) = self.made.get(name) {
            let mut file = tempfile::tempfile()?;
            file.write_all(bytes)?;
            file.seek(SeekFrom::Start(0))?;
            return Ok(Some(Member { size: bytes.len() as u64, file, at: None }));
        }
        self.archive.member(self.names.get(name).map_or(name, String::as_str))
    }
}

impl DockerArchive {
    /// Finds the image that `wanted` names; without it, the only one there is. `name` names the archive in errors.
    pub(crate) fn open(path: &Path, wanted: Option<&RegistryReference>, name: &str) -> Result<Self> {
        let archive = Archive::open(path).map_err(|e| unreadable(name, &e))?;
        let mut this = Self { archive, made: HashMap::new(), names: HashMap::new() };
        let manifest = this.read("manifest.json", wire::MAX_MANIFEST, name)?;
        let all: Vec<Saved> = serde_json::from_slice(&manifest)
            .map_err(|e| invalid(name, format!("its manifest.json does not decode: {e}")))?;
        let saved = choose(all, wanted, name)?;
        let config = this.read(&saved.config, wire::MAX_CONFIG, name)?;
        let digest = Digest::of(&config);
        let stem = saved.config.rsplit('/').next().unwrap_or_default().trim_end_matches(".json");
        if stem.len() == 64 && stem != digest.hex() {
            return Err(invalid(name, format!("its config {} has digest {digest}", saved.config)));
        }
        let (bytes, media_type) = match this.of_layout(digest) {
            Some(found) => found,
            None => (this.manifest(&saved, &config, name)?, wire::OCI_MANIFEST.to_owned()),
        };
        let entry = json!({"mediaType": media_type, "digest": Digest::of(&bytes), "size": bytes.len()});
        let index = json!({"schemaVersion": 2, "manifests": [entry]});
        this.made.insert(blob_name(&Digest::of(&bytes)), bytes);
        this.made.insert(blob_name(&digest), config);
        this.made.insert("index.json".to_owned(), index.to_string().into_bytes());
        this.made.insert("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
        Ok(this)
    }

    fn read(&self, member: &str, limit: u64, name: &str) -> Result<Vec<u8>> {
        let found = self.archive.member(member).map_err(|e| unreadable(name, &e))?;
        let found = found.ok_or_else(|| invalid(name, format!("it has no {member}")))?;
        if found.size > limit {
            return Err(Error::TooLarge { what: member.to_owned(), origin: name.to_owned(), limit });
        }
        let mut bytes = Vec::new();
        found.reader().read_to_end(&mut bytes).map_err(|e| unreadable(name, &e))?;
        Ok(bytes)
    }

    /// The manifest that the archive has of this config as a layout, if it is one and has all of it: the image then has the
    /// digest that it has in a registry.
    fn of_layout(&self, config: Digest) -> Option<(Vec<u8>, String)> {
        let mut indexes = vec![self.read("index.json", wire::MAX_MANIFEST, "").ok()?];
        for _ in 0..=MAX_DEPTH {
            let mut deeper = Vec::new();
            for bytes in indexes {
                let Ok(mut document) = resolve::parse("", &bytes) else { continue };
                // An archive of a hundred images is a large one.
                for entry in document.entries().unwrap_or_default().into_iter().take(1000) {
                    let Ok(bytes) = self.read(&blob_name(&entry.digest), wire::MAX_MANIFEST, "") else { continue };
                    match resolve::parse("", &bytes) {
                        Ok(Document { config: Some(found), layers: Some(layers), .. })
                            if found.digest == config && Digest::of(&bytes) == entry.digest =>
                        {
                            let mut layers = layers.iter().map(|layer| blob_name(&layer.digest));
                            if layers.all(|layer| self.archive.member(&layer).is_ok_and(|m| m.is_some())) {
                                return Some((bytes, entry.media_type));
                            }
                        }
                        Ok(document) if document.is_index() && deeper.len() < 16 => deeper.push(bytes),
                        _ => {}
                    }
                }
            }
            indexes = deeper;
        }
        None
    }

    /// A manifest of what `manifest.json` names. It follows from the config and the layers alone.
    fn manifest(&mut self, saved: &Saved, config: &[u8], name: &str) -> Result<Vec<u8>> {
        let decoded: wire::Config =
            serde_json::from_slice(config).map_err(|e| invalid(name, format!("its config does not decode: {e}")))?;
        let diff_ids = decoded.rootfs.diff_ids;
        if diff_ids.len() != saved.layers.len() || saved.layers.len() > image::MAX_LAYERS {
            let why = format!("it has {} layers, its config {} diff_ids", saved.layers.len(), diff_ids.len());
            return Err(invalid(name, why));
        }
        let mut layers = Vec::new();
        for (layer, diff_id) in saved.layers.iter().zip(diff_ids) {
            let member = self.archive.member(layer).map_err(|e| unreadable(name, &e))?;
            let member = member.ok_or_else(|| invalid(name, format!("it has no {layer}")))?;
            let mut head = Vec::new();
            member.reader().take(4).read_to_end(&mut head).map_err(|e| unreadable(name, &e))?;
            let compression = match head.as_slice() {
                [0x1f, 0x8b, ..] => "+gzip",
                [0x28, 0xb5, 0x2f, 0xfd] => "+zstd",
                _ => "",
            };
            // A plain layer is known by its diff id already, and held against it when it is copied.
            let digest = if compression.is_empty() {
                diff_id
            } else {
                Digest::of_reader(&mut member.reader()).map_err(|e| unreadable(name, &e))?.0
            };
            self.names.insert(blob_name(&digest), layer.clone());
            let media_type = format!("{}{compression}", wire::OCI_LAYER);
            layers.push(json!({"mediaType": media_type, "digest": digest, "size": member.size}));
        }
        let config = json!({"mediaType": wire::OCI_CONFIG, "digest": Digest::of(config), "size": config.len()});
        let manifest = json!({"schemaVersion": 2, "mediaType": wire::OCI_MANIFEST, "config": config, "layers": layers});
        Ok(manifest.to_string().into_bytes())
    }
}

fn choose(all: Vec<Saved>, wanted: Option<&RegistryReference>, name: &str) -> Result<Saved> {
    let tags: Vec<String> = all.iter().flat_map(|saved| saved.repo_tags.iter().flatten()).take(30).cloned().collect();
    let tags = tags.join(", ");
    let is_wanted = |saved: &Saved| match wanted {
        None => true,
        Some(wanted) => {
            saved.repo_tags.iter().flatten().any(|tag| tag.parse::<RegistryReference>().is_ok_and(|tag| tag == *wanted))
        }
    };
    let mut matching = all.into_iter().filter(is_wanted);
    match (matching.next(), matching.next()) {
        (Some(saved), None) => Ok(saved),
        (Some(_), Some(_)) => Err(Error::InvalidReference {
            reference: name.to_owned(),
            why: format!("it holds several images ({tags}): name one behind a colon"),
        }),
        (None, _) => Err(Error::ImageNotFound {
            reference: name.to_owned(),
            why: format!("the archive has no image of that name; it has: {tags}"),
        }),
    }
}

fn invalid(name: &str, why: String) -> Error {
    Error::InvalidImage { reference: name.to_owned(), why }
}
