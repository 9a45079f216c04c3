//! The JSON documents of an image, as far as they are used here. Unknown fields are ignored, as the specification
//! demands; sources: `manifest.md`, `image-index.md`, `config.md`, and Docker's image manifest V2, schema 2.

use std::collections::BTreeMap;

use microagent_base::Digest;
use serde::{Deserialize, Serialize};

use crate::Platform;

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// The name of an image in an OCI layout.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// What BuildKit marks attestations with.
pub(crate) const DOCKER_REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// The largest manifest or index that is read: the least that registries must accept.
pub(crate) const MAX_MANIFEST: u64 = 4 << 20;
/// The largest config that is read. Real ones have some kilobytes.
pub(crate) const MAX_CONFIG: u64 = 4 << 20;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annotations: Option<BTreeMap<String, String>>,
}

impl Descriptor {
    pub(crate) fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(name).map(String::as_str)
    }
}

/// A manifest or an index: which one is told by the members, since the media type may lie or be absent.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Document {
    #[serde(default)]
    pub(crate) schema_version: u64,
    pub(crate) media_type: Option<String>,
    pub(crate) artifact_type: Option<String>,
    /// Read one by one, see [`Document::entries`].
    manifests: Option<Vec<serde_json::Value>>,
    pub(crate) config: Option<Descriptor>,
    pub(crate) layers: Option<Vec<Descriptor>>,
}

impl Document {
    pub(crate) fn is_index(&self) -> bool {
        self.manifests.is_some()
    }

    /// The entries of an index; none for a manifest. An entry that cannot be used here, such as one with another
    /// digest algorithm, must not spoil the others. Entries that say that they are artifacts (OCI 1.1) are left out.
    pub(crate) fn entries(&mut self) -> Option<Vec<Descriptor>> {
        let entries = self.manifests.take()?;
        let is_artifact = |entry: &serde_json::Value| {
            let kind = entry.get("artifactType").and_then(|kind| kind.as_str());
            kind.is_some_and(|kind| !kind.is_empty() && ![OCI_CONFIG, DOCKER_CONFIG].contains(&kind))
        };
        let images = entries.into_iter().filter(|entry| !is_artifact(entry));
        Some(images.filter_map(|entry| serde_json::from_value(entry).ok()).collect())
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct Config {
    pub(crate) os: Option<String>,
    pub(crate) architecture: Option<String>,
    pub(crate) variant: Option<String>,
    pub(crate) created: Option<String>,
    #[serde(default)]
    pub(crate) config: Option<RunConfig>,
    pub(crate) rootfs: Rootfs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct RunConfig {
    pub(crate) entrypoint: Option<Vec<String>>,
    pub(crate) cmd: Option<Vec<String>>,
    pub(crate) env: Option<Vec<String>>,
    pub(crate) user: Option<String>,
    pub(crate) working_dir: Option<String>,
    pub(crate) stop_signal: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Rootfs {
    #[serde(default)]
    pub(crate) diff_ids: Vec<Digest>,
}
