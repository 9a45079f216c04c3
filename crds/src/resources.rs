//! `spec.resources` and `spec.rootDisk`: how large the machine is.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quantity::{Cpus, Memory};

/// How large the machine is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Resources {
    /// Virtual CPUs, more than 0 and at most 64, as a whole number or a quantity in a string (`2`, `"1.5"`, `500m`).
    /// A machine has whole CPUs: a fraction is rounded up. Default: 1.
    #[serde(default = "default_cpus")]
    #[x_kube(validation = ("isQuantity(string(self)) && quantity(string(self)).compareTo(quantity('0')) > 0 \
        && quantity(string(self)).compareTo(quantity('64')) <= 0",
        "must be a quantity of CPUs above 0 and at most 64"))]
    pub cpus: Cpus,
    /// The machine's memory, 64Mi to 1Ti, as a quantity of bytes. Default: 512Mi.
    #[serde(default = "default_memory")]
    #[x_kube(validation = ("isQuantity(self) && quantity(self).compareTo(quantity('64Mi')) >= 0 \
        && quantity(self).compareTo(quantity('1Ti')) <= 0", "must be a quantity of bytes from 64Mi to 1Ti"))]
    pub memory: Memory,
    /// The writable space on the root disk, 64Mi to 16Ti, as a quantity of bytes. It is sparse: what is not written
    /// takes no room on the host. Default: 10Gi.
    #[serde(default = "default_disk")]
    #[x_kube(validation = ("isQuantity(self) && quantity(self).compareTo(quantity('64Mi')) >= 0 \
        && quantity(self).compareTo(quantity('16Ti')) <= 0", "must be a quantity of bytes from 64Mi to 16Ti"))]
    pub disk: Memory,
}

impl Default for Resources {
    fn default() -> Self {
        Self { cpus: default_cpus(), memory: default_memory(), disk: default_disk() }
    }
}

fn default_cpus() -> Cpus {
    Cpus::new(1)
}

fn default_memory() -> Memory {
    Memory::from_mebibytes(512)
}

fn default_disk() -> Memory {
    Memory::from_mebibytes(10 * 1024)
}

/// How the root disk is made from the image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RootDisk {
    /// `Overlay` (default): the image's disk is shared and read-only, with a writable disk laid over it. `Copy`: a plain
    /// writable disk of the workspace's own, for workloads such as container engines that need one.
    #[serde(default)]
    pub mode: RootDiskMode,
}

/// The two kinds of root disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum RootDiskMode {
    /// A shared read-only baseline with a writable overlay.
    #[default]
    Overlay,
    /// A plain writable disk of its own.
    Copy,
}
