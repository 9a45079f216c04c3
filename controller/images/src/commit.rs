//! An image made of another one and one layer more.

use std::{
    fs::{File, Permissions},
    io::{self, BufWriter, Write},
    os::unix::fs::PermissionsExt,
};

use flate2::{Compression, write::GzEncoder};
use microagent_base::{
    Digest,
    digest::Hasher,
    durable::{self, TEMPORARY_PREFIX},
};
use microagent_rootfs::OverlayError;
use serde_json::{Map, Value, json};

use crate::{
    Error, Image, ImageReference, Result, Store,
    image::{MAX_LAYERS, Manifest},
    lock, resolve,
    wire::{self, Document},
};

const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// An image that is to be made.
#[derive(Clone, Debug)]
pub struct Commit<'a> {
    /// The manifest of the image that it begins with.
    pub base: Digest,
    /// The name that it gets: one of a registry, with a tag. Another image of that name loses it.
    pub name: &'a ImageReference,
    /// What made the layer, for the image's history.
    pub created_by: &'a str,
    /// What people say of the layer, for the history.
    pub message: Option<&'a str>,
    /// Who made the layer; the base's author stays where there is none.
    pub author: Option<&'a str>,
    /// When the layer was made.
    pub created: jiff::Timestamp,
}

impl Store {
    /// Makes an image of `commit.base` and of the layer whose uncompressed archive `fill` writes, and gives it its name,
    /// with what `fill` gave. The configuration is the base's, with the layer and a line of history added; manifest and
    /// layer are of the same kind, OCI's or Docker's, as the base's manifest. All of it is durable on return; a crash
    /// leaves at worst blobs that the next clean-up removes. Blocking.
    ///
    /// # Errors
    /// [`Error::InvalidReference`] for a name that no image here can have, [`Error::ImageIncomplete`] when the base is not
    /// whole, [`Error::UnsupportedImage`] when it can have no further layer, [`Error::Commit`] with what `fill` failed for,
    /// and those of the operating system.
    pub fn commit_layer<T>(
        &self,
        commit: &Commit<'_>,
        fill: impl FnOnce(&mut dyn Write) -> Result<T, OverlayError>,
    ) -> Result<(Image, T)> {
        let name = checked_name(commit.name)?;
        let _in_use = lock::in_use(&self.locks())?;
        let base = self.base(&commit.base)?;
        let (layer, filled) = self.write_layer(&name, fill)?;
        let config = config(commit, base.config, base.manifest.layers.len(), &layer.diff_id);
        let config = encoded(&name, "the configuration", &config, wire::MAX_CONFIG)?;
        let config_digest = Digest::of(&config);
        let (manifest_type, layer_type) =
            if base.is_docker { (wire::DOCKER_MANIFEST, DOCKER_LAYER) } else { (wire::OCI_MANIFEST, OCI_LAYER) };
        let mut layers = base.layers;
        layers.push(json!({ "mediaType": layer_type, "digest": layer.digest, "size": layer.size }));
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": {
                "mediaType": base.manifest.config.media_type,
                "digest": config_digest,
                "size": config.len(),
            },
            "layers": layers,
        });
        let manifest = encoded(&name, "the manifest", &manifest, wire::MAX_MANIFEST)?;
        // Read back as any other image is: what is not taken later is not made now.
        let checked = Manifest::of(&name, resolve::manifest(&name, &manifest)?)?;
        let image = checked.with_config(&name, Digest::of(&manifest), &config)?;
        self.commit(&image, &manifest, manifest_type, (&config_digest, &config))?;
        Ok((image, filled))
    }

    fn base(&self, digest: &Digest) -> Result<Base> {
        let reference = digest.to_string();
        let gone = |why: &str| Error::ImageIncomplete { reference: reference.clone(), why: why.to_owned() };
        let image = self.image(digest)?.ok_or_else(|| gone("the image or one of its layers is gone"))?;
        if image.layers.len() >= MAX_LAYERS {
            let why = format!("it has {MAX_LAYERS} layers already; no more are supported");
            return Err(Error::UnsupportedImage { reference: image.reference, why });
        }
        let bytes = self.read_blob(digest, wire::MAX_MANIFEST)?.ok_or_else(|| gone("its manifest is gone"))?;
        let document: Document = resolve::manifest(&reference, &bytes)?;
        let media_type = document.media_type.clone();
        let manifest = Manifest::of(&reference, document)?;
        let config = self.read_blob(&manifest.config.digest, wire::MAX_CONFIG)?;
        let config = config.ok_or_else(|| gone("its configuration is gone"))?;
        let broken = |e: serde_json::Error| Error::InvalidImage { reference: reference.clone(), why: e.to_string() };
        let mut raw: Map<String, Value> = serde_json::from_slice(&bytes).map_err(broken)?;
        let mut layers = match raw.remove("layers") {
            Some(Value::Array(layers)) => layers,
            _ => Vec::new(),
        };
        for layer in layers.iter_mut().filter_map(Value::as_object_mut) {
            // Nobody is sent elsewhere for what is here.
            layer.remove("urls");
        }
        let is_docker =
            media_type.map_or(manifest.config.media_type == wire::DOCKER_CONFIG, |kind| kind == wire::DOCKER_MANIFEST);
        Ok(Base { manifest, layers, config: serde_json::from_slice(&config).map_err(broken)?, is_docker })
    }

    /// Compresses a layer into its place.
    fn write_layer<T>(
        &self,
        reference: &str,
        fill: impl FnOnce(&mut dyn Write) -> Result<T, OverlayError>,
    ) -> Result<(Written, T)> {
        let dir = self.ingest_dir();
        let file = tempfile::Builder::new()
            .prefix(TEMPORARY_PREFIX)
            .permissions(Permissions::from_mode(0o400))
            .tempfile_in(&dir)
            .map_err(Error::io("create a temporary file in", &dir))?;
        let (written, filled) = compress(file.as_file(), fill).map_err(|source| match source {
            OverlayError::Write(source) => Error::io("write", &dir)(source),
            OverlayError::Cancelled => Error::Cancelled { what: format!("the commit of {reference}") },
            source => Error::Commit { reference: reference.to_owned(), source: Box::new(source) },
        })?;
        let target = self.blob_path(&written.digest);
        file.as_file().sync_all().map_err(Error::io("flush", &dir))?;
        file.persist(&target).map_err(|e| Error::io("put in place", &target)(e.error))?;
        durable::sync_dir(&self.root.join("blobs/sha256"))?;
        Ok((written, filled))
    }
}

/// What a commit begins with.
struct Base {
    manifest: Manifest,
    /// The layers as the manifest describes them.
    layers: Vec<Value>,
    config: Map<String, Value>,
    is_docker: bool,
}

/// A layer as it was stored.
struct Written {
    digest: Digest,
    size: u64,
    diff_id: Digest,
}

/// Writes a layer, compressed; hashed before and behind the compression.
fn compress<T>(
    file: &File,
    fill: impl FnOnce(&mut dyn Write) -> Result<T, OverlayError>,
) -> Result<(Written, T), OverlayError> {
    let blob = Hashed::new(BufWriter::with_capacity(1 << 18, file));
    let mut layer = Hashed::new(GzEncoder::new(blob, Compression::default()));
    let filled = fill(&mut layer)?;
    let diff_id = layer.hasher.finish();
    let mut blob = layer.inner.finish().map_err(OverlayError::Write)?;
    blob.flush().map_err(OverlayError::Write)?;
    Ok((Written { digest: blob.hasher.finish(), size: blob.hasher.len(), diff_id }, filled))
}

/// Hashes what passes through.
struct Hashed<W> {
    inner: W,
    hasher: Hasher,
}

impl<W: Write> Hashed<W> {
    fn new(inner: W) -> Self {
        Self { inner, hasher: Hasher::new() }
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The canonical name. A path on this host names what somebody else wrote there, and a digest cannot be chosen.
fn checked_name(name: &ImageReference) -> Result<String> {
    let invalid = |why: &str| Error::InvalidReference { reference: name.to_string(), why: why.to_owned() };
    match name {
        ImageReference::Registry(reference) if reference.digest().is_none() => Ok(name.name()),
        ImageReference::Registry(_) => Err(invalid("a new image cannot be given a digest; write name:tag")),
        _ => Err(invalid("a new image is kept under a name such as team/tool:1")),
    }
}

/// The configuration of the base with one layer more.
fn config(commit: &Commit<'_>, mut config: Map<String, Value>, layers: usize, diff_id: &Digest) -> Value {
    let created = Value::from(commit.created.to_string());
    let mut line = json!({ "created": created, "created_by": commit.created_by });
    for (key, value) in [("author", commit.author), ("comment", commit.message)] {
        if let Some(value) = value {
            line[key] = value.into();
        }
    }
    config.insert("created".to_owned(), created);
    if let Some(author) = commit.author {
        config.insert("author".to_owned(), author.into());
    }
    // How Docker's builder came to the base's last layer, which is not the last any more.
    config.remove("container");
    config.remove("container_config");
    let mut history = match config.remove("history") {
        Some(Value::Array(history)) => history,
        _ => Vec::new(),
    };
    // Some tools hold the lines that stand for layers against the layers: none of them may lack.
    let stands_for_layer = |line: &&Value| line["empty_layer"].as_bool() != Some(true);
    for _ in history.iter().filter(stands_for_layer).count()..layers {
        history.push(json!({ "comment": "a layer whose history was not told" }));
    }
    history.push(line);
    config.insert("history".to_owned(), Value::Array(history));
    // It was read before: there is a list, and it has one digest for each layer.
    if let Some(Value::Array(diff_ids)) = config.get_mut("rootfs").and_then(|rootfs| rootfs.get_mut("diff_ids")) {
        diff_ids.push(diff_id.to_string().into());
    }
    Value::Object(config)
}

fn encoded(reference: &str, what: &str, value: &Value, limit: u64) -> Result<Vec<u8>> {
    let bytes = value.to_string().into_bytes();
    if bytes.len() as u64 > limit {
        return Err(Error::TooLarge { what: what.to_owned(), origin: reference.to_owned(), limit });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_name_with_a_tag_can_be_given() {
        let checked = |text: &str| checked_name(&text.parse().unwrap());
        assert_eq!(checked("tool").unwrap(), "docker.io/library/tool:latest");
        assert_eq!(checked("localhost:5000/team/tool:1").unwrap(), "localhost:5000/team/tool:1");
        let pinned = format!("tool@{}", Digest::of(b""));
        for bad in ["oci-layout:/x:1", "oci-archive:/x", pinned.as_str()] {
            assert_eq!(checked(bad).unwrap_err().category(), "InvalidReference");
        }
    }

    #[test]
    fn a_history_has_a_line_for_each_layer_whatever_the_base_told() {
        let name: ImageReference = "a".parse().unwrap();
        let make = |history: Value, author| {
            let base = json!({ "author": "old", "container_config": {}, "config": { "Cmd": ["sh"] }, "own": 1,
                "history": history, "rootfs": { "type": "layers", "diff_ids": ["sha256:a", "sha256:b"] } });
            let Value::Object(base) = base else { panic!("no object") };
            let commit = Commit {
                base: Digest::of(b""),
                name: &name,
                created_by: "microagent commit default/web",
                message: Some("with tools"),
                author,
                created: jiff::Timestamp::UNIX_EPOCH,
            };
            config(&commit, base, 2, &Digest::of(b"new"))
        };
        for (history, lines) in [
            (json!([{ "created_by": "x" }, { "empty_layer": true }, { "created_by": "y" }]), 4),
            (json!([{ "created_by": "x" }, { "empty_layer": true }]), 4),
            (Value::Null, 3),
        ] {
            let made = make(history, None);
            let history = made["history"].as_array().unwrap();
            assert_eq!(history.len(), lines);
            let expected = json!({ "created": "1970-01-01T00:00:00Z", "created_by": "microagent commit default/web",
                "comment": "with tools" });
            assert_eq!(history.last(), Some(&expected));
            assert_eq!(made["rootfs"]["diff_ids"][2], json!(Digest::of(b"new")));
            assert_eq!(
                (&made["author"], &made["own"], &made["config"]["Cmd"][0]),
                (&json!("old"), &json!(1), &json!("sh"))
            );
            assert!(made.get("container_config").is_none());
        }
        assert_eq!(make(Value::Null, Some("me"))["author"], "me");
    }
}
