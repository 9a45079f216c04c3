//! `spec.disks`: further disks beside the root disk.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::{quantity::Memory, rules};

/// A disk mounted into the guest beside the root disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DiskSpec {
    /// The disk's name, an RFC 1123 label, each once.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rules::LABEL)]
    pub name: String,
    /// Where the disk is mounted in the guest. Absolute, without `..`, not `/`, each path once. The directory is made
    /// when it is absent.
    #[schemars(length(min = 2, max = 1024))]
    #[x_kube(validation = rules::ABSOLUTE_PATH)]
    #[x_kube(validation = ("!self.matches('^/+$')", "must not be `/`: that is the root disk"))]
    pub mount_path: String,
    /// Mounted without the right to write. Default: false.
    #[serde(default)]
    pub read_only: bool,
    /// What is on the disk: exactly one of `empty`, `image` and `bundle`.
    pub source: DiskSource,
}

/// What is on a disk: exactly one of the fields is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = ("[has(self.empty), has(self.image), has(self.bundle)].exists_one(given, given)",
    "give exactly one of `empty`, `image` and `bundle`"))]
pub struct DiskSource {
    /// A new, empty ext4 disk that lives as long as the workspace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub empty: Option<EmptyDisk>,
    /// A file on the host with an ext4 file system. Unless `readOnly` is set, the machine writes to that file, and it
    /// is never deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<HostFile>,
    /// A tar archive on the host whose content fills a new disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bundle: Option<HostFile>,
}

/// A new, empty disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EmptyDisk {
    /// The size, 16Mi to 16Ti, as a quantity of bytes. It is sparse: what is not written takes no room on the host.
    #[x_kube(validation = ("isQuantity(self) && quantity(self).compareTo(quantity('16Mi')) >= 0 \
        && quantity(self).compareTo(quantity('16Ti')) <= 0", "must be a quantity of bytes from 16Mi to 16Ti"))]
    pub size: Memory,
}

/// A file on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HostFile {
    /// The file's path on the host. Absolute, without `..`.
    #[schemars(length(min = 2, max = 1024))]
    #[x_kube(validation = rules::ABSOLUTE_PATH)]
    pub path: String,
}
