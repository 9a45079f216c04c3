//! What a machine is to become: pushed by the host once after boot, kept in the guest's memory only.

use serde::{Deserialize, Serialize};

use crate::Secret;

/// Everything guest-init needs to know. Nothing of it is on a disk or on the kernel command line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// [`crate::VERSION`] of the sender.
    pub version: u32,
    /// The host's name for this boot; comes back in no message, but is in `/run/microagent/boot-id` for people.
    pub boot_id: String,
    /// The guest's host name, at most 63 bytes.
    pub hostname: String,
    /// The host's clock, in nanoseconds since 1970-01-01 UTC, when the configuration was sent.
    pub realtime_ns: u64,
    /// How the root file system is made.
    pub root: Root,
    /// Further disks.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// Files written before setup, at every boot.
    #[serde(default)]
    pub files: Vec<File>,
    /// Values that are in memory only, placed before setup, at every boot.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<Secret>,
    /// Commands that run once in the life of the writable disk, in order, as root. Which ones have run is kept on that
    /// disk, outside the root file system that the workload sees.
    #[serde(default)]
    pub setup: Vec<SetupStep>,
    /// What the machine is for.
    pub workload: Process,
    /// How long the workload gets between SIGTERM and SIGKILL when the machine is shut down, in seconds.
    pub grace_seconds: u32,
    /// When the workload counts as healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// What is copied out when the workload has ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<Output>,
}

impl Config {
    /// A machine that is for this and has nothing else: its first disk is its root, and writable.
    #[must_use]
    pub fn new(boot_id: &str, workload: Process) -> Self {
        Self {
            version: crate::VERSION,
            boot_id: boot_id.to_owned(),
            hostname: "microagent".to_owned(),
            realtime_ns: 0,
            root: Root { baseline: 0, overlay: None },
            mounts: Vec::new(),
            files: Vec::new(),
            secrets: Vec::new(),
            setup: Vec::new(),
            workload,
            grace_seconds: 1,
            health: None,
            outputs: Vec::new(),
        }
    }
}

impl Process {
    /// Root runs this in `/`, with the least environment.
    #[must_use]
    pub fn new(argv: Vec<String>) -> Self {
        Self { argv, env: Vec::new(), working_dir: None, user: None }
    }
}

/// A probe that the guest makes of its workload, as a Pod's probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Health {
    /// What is tried.
    pub probe: Probe,
    /// Seconds from the workload's start to the first probe.
    pub initial_delay_seconds: u32,
    /// Seconds between probes.
    pub period_seconds: u32,
    /// Seconds after which a probe without an answer has failed.
    pub timeout_seconds: u32,
    /// Successes in a row that make it healthy after a failure.
    pub success_threshold: u32,
    /// Failures in a row that make it unhealthy.
    pub failure_threshold: u32,
}

/// What a probe tries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Probe {
    /// A command, run as the workload's user in its environment and directory; healthy when it exits with 0.
    Exec {
        /// Program and arguments.
        command: Vec<String>,
    },
    /// A plain HTTP/1.1 GET; healthy when the status is 200 to 399.
    HttpGet {
        /// The host name or address; 127.0.0.1 when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// The TCP port.
        port: u16,
        /// The path, beginning with `/`.
        path: String,
        /// Further headers: name and value.
        #[serde(default)]
        headers: Vec<(String, String)>,
    },
    /// A TCP connection; healthy when it opens.
    TcpSocket {
        /// The host name or address; 127.0.0.1 when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// The TCP port.
        port: u16,
    },
}

/// A file or directory that is copied out as a tar archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Output {
    /// The artifact's name: an RFC 1123 label.
    pub name: String,
    /// Absolute path in the guest. Symbolic links in it are resolved inside the guest's root; those below it are archived as links.
    /// Sockets, pipes, devices and what the kernel makes up (`/proc`) are left out. Owners, modes and times are kept; extended
    /// attributes are not, and a file with several names is there once for each.
    pub path: String,
}

/// The root file system. Disks are counted from 0 in the order of the machine's configuration: `/dev/vda` is 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Root {
    /// The disk with the image's tree.
    pub baseline: u32,
    /// The writable disk that is laid over it. Without one the baseline itself is mounted writable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay: Option<u32>,
}

/// A disk mounted into the root file system; the directory is made when it is absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mount {
    /// The disk, counted from 0.
    pub disk: u32,
    /// Absolute path in the guest.
    pub path: String,
    /// Mounted without the right to write.
    #[serde(default)]
    pub read_only: bool,
}

/// A file that the host places in the guest. Missing parents are made with mode 0755.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct File {
    /// Absolute path in the guest. Symbolic links in it are resolved inside the guest's root.
    pub path: String,
    /// The content, in base64 on the wire.
    #[serde(with = "crate::frame::base64_bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub content: Vec<u8>,
    /// Permission bits, such as 0o644.
    pub mode: u32,
    /// `user`, `user:group` or `:group`, by name or number as in chown(1). Root's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

/// One command of the setup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SetupStep {
    /// Given to `/bin/sh -c` of the image.
    pub run: String,
}

/// A program to run in the guest's root file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Process {
    /// Program and arguments. The program is looked up in the `PATH` of `env` when it has no slash. Never empty.
    pub argv: Vec<String>,
    /// The whole environment. `HOME` and `PATH` get their usual values when absent.
    #[serde(default)]
    pub env: Vec<EnvVar>,
    /// The working directory; made when absent. `/` when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<Directory>,
    /// `user[:group]` by name or number, looked up in the image's own `/etc/passwd` and `/etc/group`. Root when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// An absolute path in the guest.
pub type Directory = String;

/// One variable of an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnvVar {
    /// The name: not empty, without `=` and NUL.
    pub name: String,
    /// The value: without NUL.
    pub value: String,
}
