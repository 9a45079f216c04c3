//! `spec.secrets`: values that reach the guest's memory only.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::rules;

/// A value that reaches the guest's memory only: never a disk of the guest, never a log. It is read at each start of the machine, and
/// taken as it stands; all together have at most 1 MiB.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = ("has(self.env) != has(self.path)", "give exactly one of `env` and `path`"))]
pub struct SecretSpec {
    /// The secret's name, an RFC 1123 label, each once.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rules::LABEL)]
    pub name: String,
    /// The environment variable of the workload that holds the value: text without NUL. Setup, probes and commands have it too.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(validation = rules::ENV_NAME)]
    pub env: Option<String>,
    /// The file in the guest, in memory, that holds the value; only the workload's user can read it (mode 0400), and nobody can write
    /// it. Absolute, without `..`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 1024))]
    #[x_kube(validation = rules::ABSOLUTE_PATH)]
    pub path: Option<String>,
    /// Where the value comes from: exactly one of `file`, `env` and `secretKeyRef`.
    pub from: SecretSource,
}

/// Where a secret's value comes from: exactly one of the fields is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = ("[has(self.file), has(self.env), has(self.secretKeyRef)].exists_one(given, given)",
    "give exactly one of `file`, `env` and `secretKeyRef`"))]
pub struct SecretSource {
    /// A file on the host, which the controller can read, of at most 1 MiB. Absolute, without `..`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 1024))]
    #[x_kube(validation = rules::ABSOLUTE_PATH)]
    pub file: Option<String>,
    /// An environment variable of the controller (in a folder only).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(validation = rules::ENV_NAME)]
    pub env: Option<String>,
    /// A key of a Secret in the workspace's namespace (Kubernetes only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<KeyRef>,
}

/// A key of a Secret or ConfigMap in the workspace's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyRef {
    /// The object's name.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::OBJECT_NAME)]
    pub name: String,
    /// The key within the object.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::OBJECT_KEY)]
    pub key: String,
}

/// The name of an object in the workspace's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LocalObject {
    /// The object's name.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::OBJECT_NAME)]
    pub name: String,
}
