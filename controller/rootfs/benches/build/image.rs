//! Real images on disk, as OCI layouts.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use microagent_base::Digest;
use microagent_rootfs::Layer;
use serde_json::Value;

/// An image of one platform in an OCI layout.
pub(crate) struct Image {
    pub(crate) name: String,
    pub(crate) layout: PathBuf,
    pub(crate) layers: Vec<Blob>,
}

/// A layer.
pub(crate) struct Blob {
    pub(crate) path: PathBuf,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) diff_id: Digest,
}

impl Image {
    /// The image of this name that `scripts/real-images` makes for `purpose`; `None`, said on standard error, when it cannot be made
    /// here.
    pub(crate) fn real(purpose: &str, name: &str) -> Option<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/real-images");
        let output = Command::new(script).arg(purpose).output().unwrap();
        let dir = String::from_utf8(output.stdout).unwrap();
        if !output.status.success() {
            eprintln!("the image {name} cannot be made here: {}", String::from_utf8_lossy(&output.stderr));
            return None;
        }
        Some(Self { name: purpose.to_owned(), ..Self::open(&Path::new(dir.trim()).join(name)) })
    }

    /// The one image of a layout.
    pub(crate) fn open(layout: &Path) -> Self {
        let blob = |digest: &Digest| layout.join("blobs/sha256").join(digest.hex());
        let json = |path: PathBuf| serde_json::from_slice::<Value>(&fs::read(path).unwrap()).unwrap();
        let digest = |value: &Value| value.as_str().unwrap().parse::<Digest>().unwrap();
        let index = json(layout.join("index.json"));
        let manifest = json(blob(&digest(&index["manifests"][0]["digest"])));
        let config = json(blob(&digest(&manifest["config"]["digest"])));
        let diff_ids = config["rootfs"]["diff_ids"].as_array().unwrap();
        let layers = manifest["layers"].as_array().unwrap().iter().zip(diff_ids).map(|(layer, diff_id)| {
            let digest = digest(&layer["digest"]);
            Blob {
                path: blob(&digest),
                digest,
                size: layer["size"].as_u64().unwrap(),
                diff_id: diff_id.as_str().unwrap().parse().unwrap(),
            }
        });
        Self { name: String::new(), layout: layout.to_owned(), layers: layers.collect() }
    }

    pub(crate) fn layers(&self) -> Vec<Layer> {
        let layer = |blob: &Blob| Layer {
            blob: Box::new(File::open(&blob.path).unwrap()),
            digest: blob.digest,
            size: blob.size,
            diff_id: blob.diff_id,
        };
        self.layers.iter().map(layer).collect()
    }
}
