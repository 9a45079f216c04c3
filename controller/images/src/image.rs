//! An image whose every blob is in the store.

use microagent_base::Digest;
use serde::{Deserialize, Serialize};

use crate::{
    Error, Platform, Result,
    wire::{self, Document},
};

/// An image for one platform, verified and whole in the store at the moment it was looked up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The canonical name it was asked for by.
    pub reference: String,
    /// The digest of the manifest of this platform: what a status pins.
    pub digest: Digest,
    /// What the image itself says it runs on.
    pub platform: Platform,
    /// How to run it.
    pub config: ImageConfig,
    /// The layers, the lowest first.
    pub layers: Vec<LayerDescriptor>,
    /// The bytes of all layers as stored (compressed); a layer that occurs twice counts twice.
    pub size: u64,
}

/// How an image wants to be run (`config.md`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// Further arguments, or the program when there is no entrypoint.
    pub cmd: Vec<String>,
    /// `NAME=value` each.
    pub env: Vec<String>,
    /// `user`, `uid`, `user:group` or `uid:gid`; empty is root.
    pub user: String,
    /// Empty is `/`.
    pub working_dir: String,
    /// A name such as `SIGTERM`, or a number; empty is `SIGTERM`.
    pub stop_signal: String,
    /// When the image was made, in seconds since 1970; 0 when it does not say.
    pub created: i64,
}

/// One layer of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerDescriptor {
    /// The digest of the blob as stored.
    pub digest: Digest,
    /// The bytes of the blob as stored.
    pub size: u64,
    /// The digest of the uncompressed tar.
    pub diff_id: Digest,
    /// As the manifest says; the compression is told by the content, not by this.
    pub media_type: String,
}

/// The layer types that are run, and nothing else.
const LAYER_TYPES: [&str; 6] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
];

/// Docker stops at 127 layers; no builder makes many more, and each costs an open file.
pub(crate) const MAX_LAYERS: usize = 512;

/// A checked manifest: what must be fetched.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    pub(crate) config: wire::Descriptor,
    pub(crate) layers: Vec<wire::Descriptor>,
}

impl Manifest {
    /// Checks that a document is the manifest of an image that can be run.
    pub(crate) fn of(reference: &str, document: Document) -> Result<Self> {
        let unsupported = |why: String| Error::UnsupportedImage { reference: reference.to_owned(), why };
        let (Some(config), Some(layers)) = (document.config, document.layers) else {
            return Err(Error::InvalidImage {
                reference: reference.to_owned(),
                why: "its manifest has no config or no layers".to_owned(),
            });
        };
        if ![wire::OCI_CONFIG, wire::DOCKER_CONFIG].contains(&config.media_type.as_str()) {
            let kind = document.artifact_type.unwrap_or_else(|| config.media_type.clone());
            return Err(unsupported(format!("it is not a container image but an artifact of type {kind}")));
        }
        if layers.is_empty() || layers.len() > MAX_LAYERS {
            return Err(unsupported(format!("it has {} layers; 1 to {MAX_LAYERS} are supported", layers.len())));
        }
        for layer in &layers {
            check_layer_type(&layer.media_type).map_err(|why| unsupported(format!("layer {} {why}", layer.digest)))?;
        }
        if config.size > wire::MAX_CONFIG {
            return Err(unsupported(format!("its config has {} bytes; at most 4 MiB are read", config.size)));
        }
        if layers.iter().try_fold(0_u64, |sum, l| sum.checked_add(l.size)).is_none() {
            return Err(unsupported("the sizes of its layers do not fit 64 bits".to_owned()));
        }
        Ok(Self { config, layers })
    }

    /// Joins the manifest with its config, which must describe the same layers.
    pub(crate) fn with_config(&self, reference: &str, digest: Digest, config: &[u8]) -> Result<Image> {
        let invalid = |why: String| Error::InvalidImage { reference: reference.to_owned(), why };
        let config: wire::Config =
            serde_json::from_slice(config).map_err(|e| invalid(format!("its config does not decode: {e}")))?;
        let (Some(os), Some(architecture)) = (config.os, config.architecture) else {
            return Err(invalid("its config names no os or no architecture".to_owned()));
        };
        let diff_ids = config.rootfs.diff_ids;
        if diff_ids.len() != self.layers.len() {
            return Err(invalid(format!(
                "its manifest has {} layers, its config {} diff_ids",
                self.layers.len(),
                diff_ids.len()
            )));
        }
        let run = config.config.unwrap_or_default();
        let layers: Vec<_> = self
            .layers
            .iter()
            .zip(diff_ids)
            .map(|(layer, diff_id)| LayerDescriptor {
                digest: layer.digest,
                size: layer.size,
                diff_id,
                media_type: layer.media_type.clone(),
            })
            .collect();
        Ok(Image {
            reference: reference.to_owned(),
            digest,
            platform: Platform { os, architecture, variant: config.variant.filter(|v| !v.is_empty()) },
            config: ImageConfig {
                entrypoint: run.entrypoint.unwrap_or_default(),
                cmd: run.cmd.unwrap_or_default(),
                env: run.env.unwrap_or_default(),
                user: run.user.unwrap_or_default(),
                working_dir: run.working_dir.unwrap_or_default(),
                stop_signal: run.stop_signal.unwrap_or_default(),
                // A creation time that does not parse is no reason to refuse an image.
                created: config.created.and_then(|t| t.parse::<jiff::Timestamp>().ok()).map_or(0, |t| t.as_second()),
            },
            size: layers.iter().map(|l| l.size).sum(),
            layers,
        })
    }
}

fn check_layer_type(media_type: &str) -> Result<(), String> {
    if LAYER_TYPES.contains(&media_type) {
        return Ok(());
    }
    Err(if media_type.contains("foreign") || media_type.contains("nondistributable") {
        format!("is a foreign layer ({media_type}), kept outside the registry; such layers are never fetched")
    } else if media_type.ends_with("+encrypted") {
        format!("is encrypted ({media_type}); decrypt the image first")
    } else {
        format!("has the type {media_type}; tar, tar+gzip and tar+zstd layers are supported")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn manifest(layer_type: &str) -> Value {
        json!({
            "schemaVersion": 2,
            "config": {"mediaType": wire::OCI_CONFIG, "digest": Digest::of(b"c"), "size": 2},
            "layers": [{"mediaType": layer_type, "digest": Digest::of(b"l"), "size": 10, "urls": ["http://evil"]}],
        })
    }

    fn check(manifest: Value) -> Result<Manifest> {
        Manifest::of("x", serde_json::from_value(manifest).unwrap())
    }

    #[test]
    fn only_plain_gzip_and_zstd_layers_are_run() {
        for good in LAYER_TYPES {
            check(manifest(good)).unwrap();
        }
        for (bad, why) in [
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "foreign"),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar", "foreign"),
            ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "encrypted"),
            ("application/wasm", "has the type"),
        ] {
            let error = check(manifest(bad)).unwrap_err();
            assert_eq!(error.category(), "UnsupportedImage");
            assert!(error.to_string().contains(why), "{error}");
        }
    }

    #[test]
    fn an_artifact_is_no_image() {
        let mut artifact = manifest(LAYER_TYPES[0]);
        artifact["config"]["mediaType"] = "application/vnd.cncf.helm.config.v1+json".into();
        let error = check(artifact).unwrap_err();
        assert!(error.to_string().contains("helm"), "{error}");
    }

    #[test]
    fn no_layers_too_many_and_sizes_that_overflow_are_refused() {
        let mut none = manifest(LAYER_TYPES[0]);
        none["layers"] = json!([]);
        assert_eq!(check(none).unwrap_err().category(), "UnsupportedImage");
        let mut many = manifest(LAYER_TYPES[0]);
        many["layers"] = vec![many["layers"][0].clone(); MAX_LAYERS + 1].into();
        assert_eq!(check(many).unwrap_err().category(), "UnsupportedImage");
        let mut huge = manifest(LAYER_TYPES[0]);
        huge["layers"][0]["size"] = u64::MAX.into();
        huge["layers"] = vec![huge["layers"][0].clone(); 2].into();
        assert_eq!(check(huge).unwrap_err().category(), "UnsupportedImage");
    }

    #[test]
    fn a_config_must_describe_the_layers_of_the_manifest() {
        let manifest = check(manifest(LAYER_TYPES[0])).unwrap();
        let config = |diff_ids: Value| {
            let config = json!({
                "os": "linux", "architecture": "amd64", "created": "1970-01-01T00:01:00Z",
                "config": {"Cmd": ["sh"], "Env": null, "Entrypoint": null},
                "rootfs": {"type": "layers", "diff_ids": diff_ids},
            });
            serde_json::to_vec(&config).unwrap()
        };
        let image = manifest.with_config("x", Digest::of(b""), &config(json!([Digest::of(b"d")]))).unwrap();
        assert_eq!((image.config.created, image.config.cmd, image.size), (60, vec!["sh".to_owned()], 10));
        let error = manifest.with_config("x", Digest::of(b""), &config(json!([]))).unwrap_err();
        assert_eq!(error.category(), "InvalidImage");
        assert_eq!(manifest.with_config("x", Digest::of(b""), b"{").unwrap_err().category(), "InvalidImage");
    }
}
