//! What supervisors learnt of this host since it booted, so that later starts, and other backends, need not learn it again.
//!
//! One small file, `host.json`, in `MICROAGENT_RUNTIME_DIR`, or `microagent` below `XDG_RUNTIME_DIR`, or
//! `/run/microagent` for root, or `microagent` below the user's cache directory. It counts only for the boot of the host that
//! it names; removing it does no harm.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use microagent_base::durable;
use serde::{Deserialize, Serialize};

/// What is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Memory {
    /// The host's boot: `/proc/sys/kernel/random/boot_id`.
    pub host_boot_id: String,
    /// Why guests do not run with KVM although the probe does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kvm_broken: Option<String>,
    /// The frequency of the time stamp counter, in kHz.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tsc_khz: Option<u64>,
}

impl Memory {
    /// What is known; nothing when the file is absent, broken, or of another boot.
    #[must_use]
    pub fn recall() -> Self {
        let host_boot_id = boot_id();
        let known = folder().and_then(|f| durable::read_json::<Self>(&f.join(NAME)).ok()?);
        known.filter(|m| m.host_boot_id == host_boot_id).unwrap_or(Self { host_boot_id, ..Self::default() })
    }

    /// Keeps it. That it cannot be kept only costs time later.
    pub fn keep(&self) {
        let kept = folder()
            .map(|folder| durable::private_dir(&folder).and_then(|()| durable::write_json(&folder.join(NAME), self)));
        if let Some(Err(e)) = kept {
            eprintln!("what was learnt of this host is not kept: {e}");
        }
    }
}

const NAME: &str = "host.json";

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

fn folder() -> Option<PathBuf> {
    let variable = |name: &str| env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    if let Some(folder) = variable("MICROAGENT_RUNTIME_DIR") {
        return Some(folder);
    }
    if let Some(runtime) = variable("XDG_RUNTIME_DIR") {
        return Some(runtime.join("microagent"));
    }
    if rustix::process::geteuid().is_root() {
        return Some(Path::new("/run/microagent").to_owned());
    }
    variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache"))).map(|c| c.join("microagent"))
}
