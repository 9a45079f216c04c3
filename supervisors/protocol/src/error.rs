//! The catalogue of errors.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why a call failed, or why a machine ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ErrorBody {
    /// The cause, from the catalogue.
    pub code: ErrorCode,
    /// What, where and why.
    pub message: String,
    /// Whether the same call may succeed later with nothing changed by a person.
    pub retryable: bool,
    /// What to do.
    pub remediation: String,
    /// Further facts for programs and for bug reports, such as the last lines of the VMM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<String>,
}

/// The causes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ErrorCode {
    /// The request is not JSON of this protocol.
    InvalidRequest,
    /// The request is of another protocol version.
    UnsupportedProtocol,
    /// This supervisor does not have the verb.
    UnsupportedVerb,
    /// This backend cannot give what the configuration asks for.
    UnsupportedConfig,
    /// The VMM is not installed.
    VmmNotFound,
    /// The VMM is too old, or not the right one.
    VmmUnsuitable,
    /// The program that serves vsock is not installed.
    VsockNotFound,
    /// The asked-for accelerator does not work on this host.
    AcceleratorUnavailable,
    /// This user may not use what the machine needs, such as `/dev/kvm`.
    PermissionDenied,
    /// A file that the machine is made of is absent or cannot be read.
    FileUnavailable,
    /// A socket of the machine would have a path longer than the 107 bytes of unix(7).
    PathTooLong,
    /// The kernel is none that this backend boots.
    KernelRefused,
    /// Another machine writes to the disk.
    DiskInUse,
    /// The file system is full.
    DiskFull,
    /// Another start of the same machine runs.
    MachineRunning,
    /// Another call for the same machine is under way.
    MachineBusy,
    /// The machine does not run, or its guest has not taken its configuration yet, or it is about to end.
    MachineNotRunning,
    /// The directory belongs to another UID.
    IdentityMismatch,
    /// The snapshot is not whole, or its directory is not as it should be.
    SnapshotInvalid,
    /// The snapshot is of another CPU, host kernel, VMM or machine, or its disks have changed.
    SnapshotIncompatible,
    /// The VMM ended before the guest was ready.
    VmmFailed,
    /// The guest did not answer in time.
    GuestTimeout,
    /// The guest's kernel panicked.
    GuestPanic,
    /// Guest-init gave up before the host could speak to it; its words are in the message.
    GuestFailed,
    /// The guest answered what the protocol does not allow.
    GuestProtocol,
    /// The shim ended without a record; the machine was ended with it.
    ShimLost,
    /// The operating system refused something else.
    Host,
}

impl ErrorCode {
    /// Every cause, in the order of the catalogue.
    pub const ALL: [Self; 27] = [
        Self::InvalidRequest,
        Self::UnsupportedProtocol,
        Self::UnsupportedVerb,
        Self::UnsupportedConfig,
        Self::VmmNotFound,
        Self::VmmUnsuitable,
        Self::VsockNotFound,
        Self::AcceleratorUnavailable,
        Self::PermissionDenied,
        Self::FileUnavailable,
        Self::PathTooLong,
        Self::KernelRefused,
        Self::DiskInUse,
        Self::DiskFull,
        Self::MachineRunning,
        Self::MachineBusy,
        Self::MachineNotRunning,
        Self::IdentityMismatch,
        Self::SnapshotInvalid,
        Self::SnapshotIncompatible,
        Self::VmmFailed,
        Self::GuestTimeout,
        Self::GuestPanic,
        Self::GuestFailed,
        Self::GuestProtocol,
        Self::ShimLost,
        Self::Host,
    ];

    /// The name, as on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "InvalidRequest",
            Self::UnsupportedProtocol => "UnsupportedProtocol",
            Self::UnsupportedVerb => "UnsupportedVerb",
            Self::UnsupportedConfig => "UnsupportedConfig",
            Self::VmmNotFound => "VmmNotFound",
            Self::VmmUnsuitable => "VmmUnsuitable",
            Self::VsockNotFound => "VsockNotFound",
            Self::AcceleratorUnavailable => "AcceleratorUnavailable",
            Self::PermissionDenied => "PermissionDenied",
            Self::FileUnavailable => "FileUnavailable",
            Self::PathTooLong => "PathTooLong",
            Self::KernelRefused => "KernelRefused",
            Self::DiskInUse => "DiskInUse",
            Self::DiskFull => "DiskFull",
            Self::MachineRunning => "MachineRunning",
            Self::MachineBusy => "MachineBusy",
            Self::MachineNotRunning => "MachineNotRunning",
            Self::IdentityMismatch => "IdentityMismatch",
            Self::SnapshotInvalid => "SnapshotInvalid",
            Self::SnapshotIncompatible => "SnapshotIncompatible",
            Self::VmmFailed => "VmmFailed",
            Self::GuestTimeout => "GuestTimeout",
            Self::GuestPanic => "GuestPanic",
            Self::GuestFailed => "GuestFailed",
            Self::GuestProtocol => "GuestProtocol",
            Self::ShimLost => "ShimLost",
            Self::Host => "Host",
        }
    }

    /// What has happened.
    #[must_use]
    pub fn cause(self) -> &'static str {
        match self {
            Self::InvalidRequest => "the request is not JSON of this protocol",
            Self::UnsupportedProtocol => "the request is of another protocol version",
            Self::UnsupportedVerb => "this supervisor does not have the verb",
            Self::UnsupportedConfig => "this backend cannot give what the configuration asks for",
            Self::VmmNotFound => "the VMM is not installed",
            Self::VmmUnsuitable => "the VMM is too old, or not the right one",
            Self::VsockNotFound => "the program that serves vsock is not installed",
            Self::AcceleratorUnavailable => "the asked-for accelerator does not work on this host",
            Self::PermissionDenied => "this user may not use what the machine needs, such as `/dev/kvm`",
            Self::FileUnavailable => "a file that the machine is made of is absent or cannot be read",
            Self::PathTooLong => "a socket of the machine would have a path longer than the 107 bytes of unix(7)",
            Self::KernelRefused => "the kernel is none that this backend boots",
            Self::DiskInUse => "another machine writes to the disk",
            Self::DiskFull => "the file system is full",
            Self::MachineRunning => "another start of the same machine runs",
            Self::MachineBusy => "another call for the same machine is under way",
            Self::MachineNotRunning => {
                "the machine does not run, or its guest has not taken its configuration yet, or it is about to end"
            }
            Self::IdentityMismatch => "the directory belongs to another UID",
            Self::SnapshotInvalid => "the snapshot is not whole, or its directory is not as it should be",
            Self::SnapshotIncompatible => {
                "the snapshot is of another CPU, host kernel, VMM or machine, or its disks have changed"
            }
            Self::VmmFailed => "the VMM ended before the guest was ready",
            Self::GuestTimeout => "the guest did not answer in time",
            Self::GuestPanic => "the guest's kernel panicked",
            Self::GuestFailed => "guest-init gave up before the host could speak to it; its words are in the message",
            Self::GuestProtocol => "the guest answered what the protocol does not allow",
            Self::ShimLost => "the shim ended without a record; the machine was ended with it",
            Self::Host => "the operating system refused something else",
        }
    }

    /// Whether the same call may succeed later with nothing changed by a person.
    #[must_use]
    pub fn retryable(self) -> bool {
        matches!(
            self,
            Self::DiskFull
                | Self::DiskInUse
                | Self::MachineBusy
                | Self::MachineNotRunning
                | Self::VmmFailed
                | Self::GuestTimeout
                | Self::GuestPanic
                | Self::ShimLost
                | Self::Host
        )
    }

    /// What to do about it.
    #[must_use]
    pub fn remediation(self) -> &'static str {
        match self {
            Self::InvalidRequest => {
                "this is a fault of the caller: compare the request with the protocol's JSON Schema"
            }
            Self::UnsupportedProtocol => "install a supervisor and a controller of the same release",
            Self::UnsupportedVerb => "ask `capabilities` which verbs this supervisor has",
            Self::UnsupportedConfig => "change the named setting, or choose another backend",
            Self::VmmNotFound => "install the VMM; `microagent doctor` names the package",
            Self::VmmUnsuitable => "install a newer VMM; `microagent doctor` names what was found",
            Self::VsockNotFound => "install vhost-device-vsock with `cargo install --locked vhost-device-vsock`",
            Self::AcceleratorUnavailable => {
                "leave the accelerator to the supervisor, or make /dev/kvm usable for this user"
            }
            Self::PermissionDenied => {
                "give this user the rights that the message names; for /dev/kvm, membership of its group"
            }
            Self::FileUnavailable => "see that the file exists and that this user may read it",
            Self::PathTooLong => "choose a shorter state directory",
            Self::KernelRefused => "choose a kernel of a form that `capabilities` name, with what the message asks for",
            Self::DiskInUse => "halt the machine that uses it, or give each its own disk",
            Self::DiskFull => "free space on the file system of the state directory",
            Self::MachineRunning => "halt the running machine first",
            Self::MachineBusy => "call again when the other call has ended",
            Self::MachineNotRunning => "call again when the machine runs",
            Self::IdentityMismatch => "give each machine a directory of its own",
            Self::SnapshotInvalid => "make the snapshot again",
            Self::SnapshotIncompatible => "start the machine without it, or on a host like that of the snapshot",
            Self::VmmFailed => "read the end of the VMM's own words in the details, and the console log",
            Self::GuestTimeout => "read the console log; a busy host may need a longer boot timeout",
            Self::GuestPanic => "read the end of the console log",
            Self::GuestFailed => "do what its words say; the console log has what came before them",
            Self::GuestProtocol => "install a guest-init and a supervisor of the same release",
            Self::ShimLost => "nothing; the machine is started again when its workspace wants it",
            Self::Host => "read the message: it is the operating system's",
        }
    }
}

impl ErrorBody {
    /// An error of this cause, with the remediation of the catalogue.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            retryable: code.retryable(),
            remediation: code.remediation().to_owned(),
            details: None,
        }
    }

    /// The same error with further facts.
    #[must_use]
    pub fn with_details(self, details: impl Into<String>) -> Self {
        Self { details: Some(details.into()), ..self }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for ErrorBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.code, self.message, self.remediation)
    }
}

impl std::error::Error for ErrorBody {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_code_of_the_catalogue_has_its_own_name_which_is_that_on_the_wire_and_says_what_to_do() {
        let names: BTreeSet<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(names.len(), ErrorCode::ALL.len());
        for code in ErrorCode::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
            assert!(!code.remediation().is_empty());
        }
    }

    #[test]
    fn a_machine_that_does_not_run_yet_may_run_later() {
        assert!(ErrorCode::MachineNotRunning.retryable());
        assert!(!ErrorCode::IdentityMismatch.retryable());
    }
}
