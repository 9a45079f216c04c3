//! Where Firecracker finds the parts of a machine: as they are on the host, or by the names that they have in its jail.

use std::path::{Path, PathBuf};

use microagent_shim::{GUEST_SOCKET, LOGGER, METRICS_PIPE};
use microagent_supervisor_protocol::MachineConfig;
use serde::{Deserialize, Serialize};

use crate::jail::Jail;

/// Firecracker's API, in the machine's directory.
pub(crate) const API_SOCKET: &str = "api.sock";

/// The address of each guest on its own vsock device, the first that is not reserved. Nobody else sees it, and a snapshot keeps it.
pub(crate) const GUEST_CID: u32 = 3;

/// What the shim carries from `start` to the launch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Notes {
    /// What Firecracker says of its version.
    pub(crate) version: String,
    /// The jail, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) jail: Option<Jail>,
}

/// The parts of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Kernel,
    Initramfs,
    /// Counted from 0.
    Disk(usize),
}

impl Part {
    /// All parts of a machine, where they are on the host, and whether nobody writes to them.
    pub(crate) fn all(config: &MachineConfig) -> impl Iterator<Item = (Self, &Path, bool)> {
        let disks = config.disks.iter().enumerate().map(|(n, d)| (Self::Disk(n), d.path.as_path(), d.read_only));
        let boot = [(Self::Kernel, config.kernel.path.as_path(), true), (Self::Initramfs, &*config.initramfs, true)];
        boot.into_iter().chain(disks)
    }

    /// Its name in a jail.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Kernel => "kernel".to_owned(),
            Self::Initramfs => "initramfs".to_owned(),
            Self::Disk(n) => drive_id(n),
        }
    }
}

/// The name of a disk in Firecracker's API: letters, digits and underscores.
pub(crate) fn drive_id(n: usize) -> String {
    format!("disk{n}")
}

impl Notes {
    /// The part as Firecracker has to be told of it.
    pub(crate) fn part(&self, part: Part, host: &Path) -> String {
        match &self.jail {
            Some(_) => format!("/{}", part.name()),
            None => text(host),
        }
    }

    /// A file of the machine's directory as Firecracker has to be told of it.
    pub(crate) fn file(&self, name: &str) -> String {
        if self.jail.is_some() { format!("/{name}") } else { name.to_owned() }
    }

    /// That file as the shim finds it, whose working directory is the machine's.
    pub(crate) fn outside(&self, name: &str) -> PathBuf {
        match &self.jail {
            Some(jail) => jail.root.join(name),
            None => PathBuf::from(name),
        }
    }
}

/// The pipes of a machine.
pub(crate) const PIPES: [&str; 2] = [LOGGER, METRICS_PIPE];

/// The sockets that Firecracker makes.
pub(crate) const SOCKETS: [&str; 2] = [API_SOCKET, GUEST_SOCKET];

/// Paths come from JSON, so all of them are text.
pub(crate) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
