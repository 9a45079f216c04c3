//! `spec.kernel`: which kernel boots the machine.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rules;

/// Where a kernel comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KernelSource {
    /// The newest kernel that is installed for this host's architecture, one that was built before others; else that of the
    /// distribution's package.
    #[default]
    Default,
    /// A kernel image on the host, named by `path`.
    Path,
    /// Downloaded from `url` and checked against `sha256`.
    Url,
    /// A layer of the OCI artifact named by `image`.
    Oci,
    /// The distribution's signed kernel package, through the host's package manager.
    Package,
    /// Built on the host of the distribution's signed kernel source, with what guests need and nothing else.
    Build,
}

impl KernelSource {
    /// The name in a manifest.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Path => "path",
            Self::Url => "url",
            Self::Oci => "oci",
            Self::Package => "package",
            Self::Build => "build",
        }
    }
}

/// Which kernel boots the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("(self.source == 'path') == has(self.path)")
    .message("`path` goes with `source: path`, and only with it").field_path(".path"))]
#[x_kube(validation = Rule::new("(self.source == 'url') == has(self.url)")
    .message("`url` goes with `source: url`, and only with it").field_path(".url"))]
#[x_kube(validation = Rule::new("(self.source == 'oci') == has(self.image)")
    .message("`image` goes with `source: oci`, and only with it").field_path(".image"))]
#[x_kube(validation = Rule::new("self.source != 'url' || has(self.sha256)")
    .message("`source: url` needs `sha256`, so that what is downloaded can be verified").field_path(".sha256"))]
#[x_kube(validation = Rule::new("!has(self.sha256) || self.source == 'url' || self.source == 'path'")
    .message("`sha256` goes with `source: url` or `source: path`").field_path(".sha256"))]
#[x_kube(validation = Rule::new("!has(self.modules) || self.source == 'path'")
    .message("`modules` goes with `source: path`").field_path(".modules"))]
#[x_kube(validation = Rule::new("!has(self.version) || self.source == 'package' || self.source == 'build' || self.source == 'default'")
    .message("`version` goes with `source: package`, `source: build` or `source: default`").field_path(".version"))]
pub struct KernelSpec {
    /// Where the kernel comes from: `default`, `path`, `url`, `oci`, `package` or `build`. Default: `default`, which takes the
    /// newest kernel installed on the host, one that was built before others, and installs the distribution's package when there is
    /// none. `build` builds a lean one when there is none: 5 to 30 minutes, and the host needs a compiler.
    #[serde(default)]
    pub source: KernelSource,
    /// With `source: path`: the kernel on the host, a bzImage or an ELF vmlinux. Absolute.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = rules::ABSOLUTE_PATH)]
    pub path: Option<String>,
    /// With `source: path`: the directory on the host with this kernel's modules (its `lib/modules/VERSION`). Absolute.
    /// Not needed for a kernel that has the virtio, vsock and overlay drivers built in.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = rules::ABSOLUTE_PATH)]
    pub modules: Option<String>,
    /// With `source: url`: the address to download from, `https` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    #[x_kube(validation = ("self.matches('^https://[^ ]+$')", "must be an https:// address"))]
    pub url: Option<String>,
    /// The SHA-256 digest of the kernel file: 64 lower-case hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 64, max = 64))]
    #[x_kube(validation = ("self.matches('^[0-9a-f]{64}$')", "must be 64 lower-case hexadecimal digits"))]
    pub sha256: Option<String>,
    /// With `source: oci`: the reference of the OCI artifact.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub image: Option<String>,
    /// The version wanted, as `uname -r` gives it or a leading part of it (`6.1` takes any 6.1 kernel). Without it: the
    /// newest.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(validation = ("self.matches('^[0-9A-Za-z][0-9A-Za-z.+~_:-]*$')", "must be a kernel version, such as 6.1"))]
    pub version: Option<String>,
    /// Arguments added to the kernel command line, one per entry, behind those that microagent gives.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)))]
    #[x_kube(validation = (r"self.all(a, a.matches('^[!-~]+$'))",
        "each argument must be printable ASCII without blanks; write two arguments as two entries"))]
    pub args: Vec<String>,
}
