//! The first frame of a connection, and what the guest tells of the boot it was configured for.

use serde::{Deserialize, Serialize};

use crate::{Config, CopyIn, CopyOut, Exec};

/// The first frame of every connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "camelCase", deny_unknown_fields)]
pub enum Request {
    /// Become this machine.
    Configure(Box<Config>),
    /// Run a command beside the workload.
    Exec(Exec),
    /// Copy files out of the guest.
    CopyOut(CopyOut),
    /// Copy files into the guest.
    CopyIn(CopyIn),
    /// End the workload, write everything to the disks, and power off.
    Shutdown {
        /// Seconds between SIGTERM and SIGKILL of the workload. Bounded by the guest to one hour.
        #[serde(rename = "graceSeconds")]
        grace_seconds: u32,
    },
    /// The machine went on from a snapshot, or after one was made: time has passed, others may have started from the same memory, and the
    /// connection of [`Request::Configure`] is lost. This one takes its place.
    #[serde(rename_all = "camelCase")]
    Resumed {
        /// The host's clock, in nanoseconds since 1970-01-01 UTC.
        realtime_ns: u64,
        /// Bytes for the guest's random numbers, which nobody else has. In base64 on the wire.
        #[serde(with = "crate::frame::base64_bytes")]
        seed: Vec<u8>,
        /// How many events of this boot the host has heard. The guest tells those that followed again; output on its way is lost.
        seen: u64,
    },
}

/// What happens in the guest, in this order. Times are milliseconds since the guest's kernel started (its monotonic clock).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Event {
    /// The configuration was understood.
    Configured {
        /// When guest-init's first instruction ran.
        init_ms: u64,
        /// When the control port listened.
        listening_ms: u64,
        /// When the configuration had arrived.
        at_ms: u64,
    },
    /// Root, mounts and files are in place. Output frames from here on belong to setup.
    Mounted {
        /// When.
        at_ms: u64,
    },
    /// A setup command begins. Those that an earlier boot finished are not run and not told.
    SetupStarted {
        /// Its place in [`Config::setup`], from 0.
        index: u32,
        /// When.
        at_ms: u64,
    },
    /// A setup command ended. When it failed the guest powers off and nothing further starts; the next boot tries it again.
    SetupFinished {
        /// Its place in [`Config::setup`], from 0.
        index: u32,
        /// How.
        exit: Exit,
        /// When.
        at_ms: u64,
    },
    /// The workload was executed: its first instruction has run. Output frames from here on are its own.
    WorkloadStarted {
        /// Its process id in the guest.
        pid: u32,
        /// When.
        at_ms: u64,
    },
    /// The health probe's verdict changed: told while the workload runs, first when it is known at all. Only with [`Config::health`].
    Health {
        /// Whether as many probes in a row as were asked for succeeded, or failed.
        healthy: bool,
        /// What the last probe found.
        message: String,
        /// When.
        at_ms: u64,
    },
    /// The workload ended and all its output was sent. [`Config::outputs`] follow, in their order; then the guest powers off.
    WorkloadExited {
        /// How.
        exit: Exit,
        /// When.
        at_ms: u64,
    },
    /// An output begins. Frames of [`crate::frame::Kind::Output`] up to its end are a tar archive.
    OutputStarted {
        /// Its name in [`Config::outputs`].
        name: String,
    },
    /// An output ended.
    OutputFinished {
        /// Its name in [`Config::outputs`].
        name: String,
        /// Why there is none, or what of it could not be read; the archive is whole and well formed where there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// [`Request::Resumed`] was carried out: the first word on its connection. It counts for none of the events that are told again.
    Resumed {
        /// When, by the guest's clock, which stood still meanwhile.
        at_ms: u64,
    },
    /// Something that guest-init had to do cannot be done. The guest powers off next.
    Failed {
        /// A stable code in CamelCase: `MountFailed`, `WorkloadNotFound`, `UserNotFound`, `SetupShellNotFound`, `VersionMismatch`, …
        code: String,
        /// What, where and why, for people.
        message: String,
        /// When.
        at_ms: u64,
    },
}

/// How a process ended: by itself with a code, or by a signal. Exactly one of the two is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Exit {
    /// The exit code, 0 to 255.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u8>,
    /// The number of the signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<u8>,
    /// Whether the kernel ended it, or a child of it, for want of memory.
    #[serde(default)]
    pub oom_killed: bool,
}

impl Exit {
    /// Ended by itself with `code`.
    #[must_use]
    pub fn code(code: u8) -> Self {
        Self { code: Some(code), signal: None, oom_killed: false }
    }

    /// Whether it ended by itself with code 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// The code that a shell would give: the exit code, or 128 and the signal's number.
    #[must_use]
    pub fn shell_code(&self) -> u8 {
        self.code.unwrap_or_else(|| 128u8.saturating_add(self.signal.unwrap_or(0)))
    }
}

/// The answer to [`Request::Shutdown`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "camelCase", deny_unknown_fields)]
pub enum ShutdownReply {
    /// The shutdown has begun; asking again changes nothing.
    ShuttingDown,
}
