//! Where everything lives. All of it is private to the user (directories 0700, files 0600).
//!
//! ```text
//! STATE/
//!   lock                          held by the one controller that runs on this directory
//!   admin.sock                    where that controller tells how it is: metrics, health, its state
//!   manifests/                    the managed folder: what `microagent apply` and `run` declare
//!   workspaces/NAMESPACE/NAME.json  the record of each workspace: UID, generation, last good spec, memory
//!   status/NAMESPACE/NAME.json    the whole object with its status, for people and programs
//!   status/_files/NAME.json       a manifest file from which no workspace could be read
//!   requests/NAMESPACE.NAME.json  a restart that `microagent restart` asks for
//!   events.jsonl, events.1.jsonl  the bounded journal
//!   machines/UID/                 one machine: its disks, and what its supervisor keeps there
//!   artifacts/NAMESPACE/NAME/UID/ the outputs of the last boot that had any: BOOT/OUTPUT.tar, and the list kept.json
//!   retained/NAMESPACE/NAME/UID/  the disks of a workspace that is gone, where `lifecycle.onDelete` is `Retain`
//!   orphans/UID/                  the disks of a machine that belonged to no workspace
//! CACHE/
//!   images/                       an OCI layout with its baselines
//!   users/                        the state directories whose workspaces use them
//!   kernels/                      kernels and initramfs
//! ```

use std::path::{Path, PathBuf};

use microagent_base::durable::{self, DurableError};

use crate::Key;

/// The state and cache directories of one controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// What must not be lost.
    pub state: PathBuf,
    /// What can be made again.
    pub cache: PathBuf,
}

/// How the names of overlays begin.
const OVERLAY: &str = "overlay-";

/// Overrides the state directory.
pub const STATE_DIR_VARIABLE: &str = "MICROAGENT_STATE_DIR";
/// Overrides the cache directory.
pub const CACHE_DIR_VARIABLE: &str = "MICROAGENT_CACHE_DIR";

impl Paths {
    /// The directories asked for; where not given those of the environment variables; else those of the file-system
    /// hierarchy for root (`/var/lib/microagent`, `/var/cache/microagent`) and of the XDG base directory specification
    /// for others (`$XDG_STATE_HOME/microagent`, `$XDG_CACHE_HOME/microagent`).
    #[must_use]
    pub fn resolve(state: Option<PathBuf>, cache: Option<PathBuf>) -> Self {
        let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let home = || variable("HOME").unwrap_or_else(|| PathBuf::from("/"));
        let root = rustix::process::geteuid().is_root();
        let pick = |given: Option<PathBuf>, own: &str, system: &str, xdg: &str, fallback: &str| {
            let path = given.or_else(|| variable(own)).unwrap_or_else(|| {
                if root {
                    PathBuf::from(system)
                } else {
                    variable(xdg).unwrap_or_else(|| home().join(fallback)).join("microagent")
                }
            });
            std::path::absolute(&path).unwrap_or(path)
        };
        Self {
            state: pick(state, STATE_DIR_VARIABLE, "/var/lib/microagent", "XDG_STATE_HOME", ".local/state"),
            cache: pick(cache, CACHE_DIR_VARIABLE, "/var/cache/microagent", "XDG_CACHE_HOME", ".cache"),
        }
    }

    /// Makes the directories that are not there yet.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn create(&self) -> Result<(), DurableError> {
        let state = [self.manifests(), self.requests(), self.workspaces(), self.status(), self.machines()];
        for dir in state.into_iter().chain([self.images(), self.kernels()]) {
            durable::private_dir(&dir)?;
        }
        Ok(())
    }

    /// The lock of the one controller.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.state.join("lock")
    }

    /// The socket of the admin endpoint.
    #[must_use]
    pub fn admin_socket(&self) -> PathBuf {
        self.state.join("admin.sock")
    }

    /// The managed folder.
    #[must_use]
    pub fn manifests(&self) -> PathBuf {
        self.state.join("manifests")
    }

    /// The file of a workspace in the managed folder.
    #[must_use]
    pub fn manifest(&self, key: &Key) -> PathBuf {
        self.manifests().join(format!("{}.{}.yaml", key.namespace, key.name))
    }

    /// The records.
    #[must_use]
    pub fn workspaces(&self) -> PathBuf {
        self.state.join("workspaces")
    }

    /// The record of a workspace.
    #[must_use]
    pub fn record(&self, key: &Key) -> PathBuf {
        self.workspaces().join(&key.namespace).join(format!("{}.json", key.name))
    }

    /// The published objects.
    #[must_use]
    pub fn status(&self) -> PathBuf {
        self.state.join("status")
    }

    /// The published object of a workspace.
    #[must_use]
    pub fn object(&self, key: &Key) -> PathBuf {
        self.status().join(&key.namespace).join(format!("{}.json", key.name))
    }

    /// The published problems of manifest files.
    #[must_use]
    pub fn file_problems(&self) -> PathBuf {
        self.status().join("_files")
    }

    /// What people ask for that is no part of a manifest.
    #[must_use]
    pub fn requests(&self) -> PathBuf {
        self.state.join("requests")
    }

    /// The restart that is asked for of a workspace.
    #[must_use]
    pub fn restart_request(&self, key: &Key) -> PathBuf {
        self.requests().join(format!("{}.{}.json", key.namespace, key.name))
    }

    /// The journal of events.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.state.join("events.jsonl")
    }

    /// All machines.
    #[must_use]
    pub fn machines(&self) -> PathBuf {
        self.state.join("machines")
    }

    /// One machine.
    #[must_use]
    pub fn machine(&self, uid: &str) -> MachinePaths {
        MachinePaths { dir: self.machines().join(uid) }
    }

    /// The outputs of a workspace. They outlive it.
    #[must_use]
    pub fn artifacts(&self, key: &Key, uid: &str) -> PathBuf {
        self.state.join("artifacts").join(&key.namespace).join(&key.name).join(uid)
    }

    /// The list of the outputs of a workspace.
    #[must_use]
    pub fn kept_outputs(&self, key: &Key, uid: &str) -> PathBuf {
        self.artifacts(key, uid).join("kept.json")
    }

    /// The disks of a workspace that is gone and wanted them retained.
    #[must_use]
    pub fn retained(&self, key: &Key, uid: &str) -> PathBuf {
        self.all_retained().join(&key.namespace).join(&key.name).join(uid)
    }

    /// The disks of all workspaces that are gone and wanted them retained.
    #[must_use]
    pub(crate) fn all_retained(&self) -> PathBuf {
        self.state.join("retained")
    }

    /// The disks of machines that belonged to no workspace.
    #[must_use]
    pub fn orphan(&self, uid: &str) -> PathBuf {
        self.orphans().join(uid)
    }

    /// All such disks.
    #[must_use]
    pub(crate) fn orphans(&self) -> PathBuf {
        self.state.join("orphans")
    }

    /// The image store.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.cache.join("images")
    }

    /// The state directories that use the image store.
    #[must_use]
    pub(crate) fn image_users(&self) -> PathBuf {
        self.cache.join("users")
    }

    /// The first digits of the image that an overlay of this name lies over, see [`MachinePaths::overlay`].
    pub(crate) fn image_of_overlay(name: &str) -> Option<&str> {
        name.strip_prefix(OVERLAY)?.strip_suffix(".ext4").filter(|digits| !digits.is_empty())
    }

    /// The kernel store.
    #[must_use]
    pub fn kernels(&self) -> PathBuf {
        self.cache.join("kernels")
    }
}

/// The directory of one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachinePaths {
    dir: PathBuf,
}

impl MachinePaths {
    /// All of it; removed with the workspace.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Held while the machine is started, and while its disks are read when there is none.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.dir.join("lock")
    }

    /// What the supervisor and its shim own: records, sockets, logs.
    #[must_use]
    pub fn supervisor(&self) -> PathBuf {
        self.dir.join("vm")
    }

    /// What the workspace wrote: never removed but with the workspace.
    #[must_use]
    pub fn disks(&self) -> PathBuf {
        self.dir.join("disks")
    }

    /// The writable disk over the baseline with this key. A workspace that changes its image gets a new one; the old one stays.
    #[must_use]
    pub fn overlay(&self, baseline: &str) -> PathBuf {
        self.disks().join(format!("{OVERLAY}{baseline}.ext4"))
    }

    /// An empty disk of the workspace.
    #[must_use]
    pub fn disk(&self, name: &str) -> PathBuf {
        self.disks().join(format!("disk-{name}.ext4"))
    }

    /// Output of setup and workload, in the CRI log format.
    #[must_use]
    pub fn workload_log(&self) -> PathBuf {
        self.supervisor().join("workload.log")
    }

    /// The serial console.
    #[must_use]
    pub fn console_log(&self) -> PathBuf {
        self.supervisor().join("console.log")
    }

    /// The socket that leads to the guest's vsock ports.
    #[must_use]
    pub fn vsock(&self) -> PathBuf {
        self.supervisor().join("vsock.sock")
    }
}
