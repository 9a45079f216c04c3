//! Small OCI images made in memory, and where they can be put: a registry, a layout, an archive.

#![expect(clippy::expect_used, reason = "a harness fails its test by panicking")]

use std::{fs, io::Write, path::Path};

use microagent_base::Digest;
use serde_json::{Value, json};

use crate::registry::Registry;

/// The time of every entry, so that the same fixture has the same digests.
const MTIME: u64 = 1_700_000_000;

/// How a layer is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// A plain tar.
    None,
    /// `tar+gzip`.
    Gzip,
    /// `tar+zstd`.
    Zstd,
}

/// A layer in the making: a tar archive.
pub struct LayerBuilder(tar::Builder<Vec<u8>>);

impl Default for LayerBuilder {
    fn default() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }
}

impl LayerBuilder {
    /// An empty layer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory.
    #[must_use]
    pub fn dir(self, path: &str, mode: u32) -> Self {
        self.entry(path, tar::EntryType::Directory, mode, &[], None)
    }

    /// Adds a regular file of root.
    #[must_use]
    pub fn file(self, path: &str, mode: u32, content: &[u8]) -> Self {
        self.entry(path, tar::EntryType::Regular, mode, content, None)
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(path, tar::EntryType::Symlink, 0o777, &[], Some(target))
    }

    /// Adds another name of a file.
    #[must_use]
    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(path, tar::EntryType::Link, 0o644, &[], Some(target))
    }

    /// Hides what lower layers have under a path.
    #[must_use]
    pub fn whiteout(self, path: &str) -> Self {
        let (dir, name) = path.rsplit_once('/').map_or(("", path), |(dir, name)| (dir, name));
        let marker = if dir.is_empty() { format!(".wh.{name}") } else { format!("{dir}/.wh.{name}") };
        self.file(&marker, 0o644, &[])
    }

    /// The archive.
    ///
    /// # Panics
    /// Never in practice: it is written to memory.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.0.into_inner().expect("a tar in memory")
    }

    fn entry(mut self, path: &str, kind: tar::EntryType, mode: u32, content: &[u8], link: Option<&str>) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(MTIME);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(content.len() as u64);
        let added = match link {
            Some(target) => self.0.append_link(&mut header, path, target),
            None => self.0.append_data(&mut header, path, content),
        };
        added.expect("a tar entry");
        self
    }
}

/// An image in the making. It runs on Linux on this host's architecture unless told otherwise.
#[derive(Clone, Debug)]
pub struct ImageFixture {
    layers: Vec<(Vec<u8>, Compression)>,
    config: Value,
    docker: bool,
}

impl Default for ImageFixture {
    fn default() -> Self {
        let config = json!({
            "created": "2023-11-14T22:13:20Z", "os": "linux", "architecture": host_architecture(), "config": {},
        });
        Self { layers: Vec::new(), config, docker: false }
    }
}

impl ImageFixture {
    /// An image without layers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a layer on top: the bytes of a tar, see [`LayerBuilder`].
    #[must_use]
    pub fn layer(mut self, tar: Vec<u8>, compression: Compression) -> Self {
        self.layers.push((tar, compression));
        self
    }

    /// Sets a member of the `config` object: `Entrypoint`, `Cmd`, `Env`, `User`, `WorkingDir`, `StopSignal`.
    #[must_use]
    pub fn run(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.config["config"][name] = value.into();
        self
    }

    /// Says that the image runs elsewhere.
    #[must_use]
    pub fn platform(mut self, os: &str, architecture: &str) -> Self {
        self.config["os"] = os.into();
        self.config["architecture"] = architecture.into();
        self
    }

    /// Uses Docker's media types (image manifest V2, schema 2) in place of OCI's.
    #[must_use]
    pub fn docker(mut self) -> Self {
        self.docker = true;
        self
    }

    /// The blobs and the manifest.
    ///
    /// # Panics
    /// Never in practice: all is in memory.
    #[must_use]
    pub fn build(mut self) -> BuiltImage {
        let diff_ids: Vec<Digest> = self.layers.iter().map(|(tar, _)| Digest::of(tar)).collect();
        self.config["rootfs"] = json!({"type": "layers", "diff_ids": diff_ids});
        let config = serde_json::to_vec(&self.config).expect("a config");
        let layers: Vec<(Vec<u8>, String)> =
            self.layers.iter().map(|(tar, c)| (compress(tar, *c), layer_type(*c, self.docker))).collect();
        let (media_type, config_type) = if self.docker {
            ("application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.container.image.v1+json")
        } else {
            ("application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.config.v1+json")
        };
        let described: Vec<Value> = layers.iter().map(|(bytes, kind)| descriptor(kind, bytes)).collect();
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2, "mediaType": media_type,
            "config": descriptor(config_type, &config), "layers": described,
        }));
        BuiltImage {
            manifest: manifest.expect("a manifest"),
            media_type: media_type.to_owned(),
            platform: json!({"os": self.config["os"], "architecture": self.config["architecture"]}),
            config,
            layers: layers.into_iter().map(|(bytes, _)| bytes).collect(),
        }
    }
}

/// The bytes of an image.
#[derive(Clone, Debug)]
pub struct BuiltImage {
    /// The manifest.
    pub manifest: Vec<u8>,
    /// Its media type.
    pub media_type: String,
    /// Its platform, as an index has it.
    pub platform: Value,
    /// The config.
    pub config: Vec<u8>,
    /// The layers as stored, the lowest first.
    pub layers: Vec<Vec<u8>>,
}

impl BuiltImage {
    /// The digest of the manifest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    /// The entry of this image in an index.
    #[must_use]
    pub fn entry(&self) -> Value {
        let mut entry = descriptor(&self.media_type, &self.manifest);
        entry["platform"] = self.platform.clone();
        entry
    }

    /// Pushes the image under a tag; the reference to pull it by.
    pub fn push(&self, registry: &Registry, repository: &str, tag: &str) -> String {
        self.push_blobs(registry, repository);
        registry.put_manifest(repository, tag, &self.media_type, &self.manifest);
        format!("{}/{repository}:{tag}", registry.addr())
    }

    fn push_blobs(&self, registry: &Registry, repository: &str) {
        for blob in self.layers.iter().chain([&self.config]) {
            registry.put_blob(repository, blob);
        }
    }

    /// Writes an OCI layout that holds this image under a tag.
    ///
    /// # Panics
    /// When the directory cannot be written.
    pub fn write_layout(&self, dir: &Path, tag: &str) {
        let mut entry = self.entry();
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        write_layout(dir, &[self], &[entry]);
    }

    /// Writes the layout as one uncompressed tar file.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn write_archive(&self, file: &Path, tag: &str) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        self.write_layout(dir.path(), tag);
        let mut builder = tar::Builder::new(fs::File::create(file).expect("the archive"));
        builder.append_dir_all(".", dir.path()).and_then(|()| builder.finish()).expect("the archive");
    }
}

/// Writes an OCI layout of several images. `entries` become the manifests of its `index.json`.
///
/// # Panics
/// When the directory cannot be written.
pub fn write_layout(dir: &Path, images: &[&BuiltImage], entries: &[Value]) {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("the layout");
    let write = |path: &Path, bytes: &[u8]| fs::write(path, bytes).expect("a file of the layout");
    for blob in images.iter().flat_map(|i| i.layers.iter().chain([&i.config, &i.manifest])) {
        write(&blobs.join(Digest::of(blob).hex()), blob);
    }
    write(&dir.join("oci-layout"), br#"{"imageLayoutVersion": "1.0.0"}"#);
    write(&dir.join("index.json"), &index(entries));
}

/// Pushes an index over images of several platforms, with what BuildKit adds: an attestation, which no runtime may
/// take for an image. The reference to pull it by.
///
/// # Panics
/// When the registry refuses it.
pub fn push_index(registry: &Registry, repository: &str, tag: &str, images: &[&BuiltImage]) -> String {
    let mut entries = Vec::new();
    for image in images {
        image.push_blobs(registry, repository);
        registry.put_manifest(repository, &image.digest().to_string(), &image.media_type, &image.manifest);
        entries.push(image.entry());
    }
    if let Some(first) = images.first() {
        let attestation = ImageFixture::new().layer(b"not a tar".to_vec(), Compression::None).build();
        attestation.push_blobs(registry, repository);
        let digest = attestation.digest().to_string();
        registry.put_manifest(repository, &digest, &attestation.media_type, &attestation.manifest);
        let mut entry = attestation.entry();
        entry["platform"] = json!({"os": "unknown", "architecture": "unknown"});
        entry["annotations"] = json!({
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": first.digest(),
        });
        entries.insert(0, entry);
    }
    registry.put_manifest(repository, tag, "application/vnd.oci.image.index.v1+json", &index(&entries));
    format!("{}/{repository}:{tag}", registry.addr())
}

/// The bytes of an index of these entries.
///
/// # Panics
/// Never in practice: it is written to memory.
#[must_use]
pub fn index(entries: &[Value]) -> Vec<u8> {
    let index =
        json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries});
    serde_json::to_vec(&index).expect("an index")
}

/// A layer of one file with bytes that do not compress well, for tests that need one of some size.
#[must_use]
pub fn noise_layer(path: &str, length: usize) -> Vec<u8> {
    // A xorshift: the same bytes in every run.
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    LayerBuilder::new().file(path, 0o644, &bytes).finish()
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len()})
}

fn compress(tar: &[u8], compression: Compression) -> Vec<u8> {
    match compression {
        Compression::None => tar.to_vec(),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(tar).and_then(|()| encoder.finish()).expect("gzip in memory")
        }
        Compression::Zstd => zstd::encode_all(tar, 1).expect("zstd in memory"),
    }
}

fn layer_type(compression: Compression, docker: bool) -> String {
    let (base, joint) = if docker {
        ("application/vnd.docker.image.rootfs.diff.tar", ".")
    } else {
        ("application/vnd.oci.image.layer.v1.tar", "+")
    };
    match compression {
        Compression::None => base.to_owned(),
        Compression::Gzip => format!("{base}{joint}gzip"),
        Compression::Zstd => format!("{base}{joint}zstd"),
    }
}

fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
