//! `spec.files`: files placed in the guest before setup.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::{rules, secrets::KeyRef};

/// A file placed in the guest at every start, before setup. Missing parent directories are made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = ("has(self.content) != has(self.contentFrom)", "give exactly one of `content` and `contentFrom`"))]
pub struct FileSpec {
    /// Where the file is placed in the guest. Absolute, without `..`, each path once.
    #[schemars(length(min = 2, max = 1024))]
    #[x_kube(validation = rules::ABSOLUTE_PATH)]
    pub path: String,
    /// The content as text, at most 256 KiB (262144 characters).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 262_144))]
    pub content: Option<String>,
    /// Where the content comes from, instead of `content`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_from: Option<ContentSource>,
    /// Permission bits as three or four octal digits in a string. Default: `"0644"`.
    #[serde(default = "default_mode")]
    #[schemars(length(min = 3, max = 4))]
    #[x_kube(validation = ("self.matches('^[0-7]{3,4}$')", "must be three or four octal digits in quotes, such as \"0644\""))]
    pub mode: String,
    /// The owner as `user` or `user:group`, by name or number, looked up in the guest. Default: root's (`0:0`).
    #[serde(default = "default_owner")]
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(validation = rules::OWNER)]
    pub owner: String,
}

impl FileSpec {
    /// The permission bits as a number; 0o644 when `mode` is not octal, which validation has refused before.
    #[must_use]
    pub fn mode_bits(&self) -> u32 {
        u32::from_str_radix(&self.mode, 8).map_or(0o644, |bits| bits & 0o7777)
    }
}

/// Where the content of a file comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = ("has(self.file) != has(self.configMapKeyRef)", "give exactly one of `file` and `configMapKeyRef`"))]
pub struct ContentSource {
    /// A file on the host. Absolute, without `..`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 1024))]
    #[x_kube(validation = rules::ABSOLUTE_PATH)]
    pub file: Option<String>,
    /// A key of a ConfigMap in the workspace's namespace (Kubernetes only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<KeyRef>,
}

pub(crate) fn default_mode() -> String {
    "0644".to_owned()
}

fn default_owner() -> String {
    "0:0".to_owned()
}
