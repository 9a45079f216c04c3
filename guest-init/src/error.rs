//! What can go wrong once the host has spoken: told to the host as a stable code and a sentence.

use std::{io, path::PathBuf};

use crate::process::Role;

/// Why a step cannot be done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The host speaks another version.
    #[error(
        "the host speaks version {theirs} of the guest protocol, this guest-init speaks {ours}: rebuild the initramfs with \
         the guest-init of the same release"
    )]
    VersionMismatch { theirs: u32, ours: u32 },
    /// A value that no host should send.
    #[error("the configuration's {field} is {problem}")]
    InvalidConfig { field: String, problem: String },
    /// The clock refused.
    #[error("cannot set the clock: {0}")]
    ClockFailed(io::Error),
    /// A request that no host should send.
    #[error("the request is refused: {0}")]
    InvalidRequest(String),
    /// A disk did not come up.
    #[error(
        "disk {disk} (/dev/{name}) did not appear within {seconds} s: attach it to the machine, and see that the initramfs \
         has the module of its bus (virtio_blk, and virtio_mmio or virtio_pci)"
    )]
    DiskNotFound { disk: u32, name: String, seconds: u64 },
    /// A mount, or a directory for it.
    #[error("cannot mount {what} at {target}: {source}{hint}")]
    MountFailed { what: String, target: PathBuf, hint: &'static str, source: io::Error },
    /// A file of the configuration, or of ours.
    #[error("cannot write the file {path}: {doing}: {source}")]
    FileFailed { path: PathBuf, doing: &'static str, source: io::Error },
    /// A secret that is to be a file. Only its name is told.
    #[error("cannot put the secret {name} at {path}: {doing}: {source}")]
    SecretFailed { name: String, path: PathBuf, doing: &'static str, source: io::Error },
    /// A user that the image does not have.
    #[error("the user {user:?} is not in the image's /etc/passwd: use a name that is, or a number")]
    UserNotFound { user: String },
    /// A group that the image does not have.
    #[error("the group {group:?} is not in the image's /etc/group: use a name that is, or a number")]
    GroupNotFound { group: String },
    /// The working directory.
    #[error("cannot use the working directory {path}: {source}")]
    WorkingDirectoryFailed { path: PathBuf, source: io::Error },
    /// The program is not in the image.
    #[error("{role}: the program {program:?} is not in the image (looked for {looked})")]
    ProgramNotFound { role: Role, program: String, looked: String },
    /// The program is there and cannot be executed.
    #[error("{role}: {} cannot be executed: {problem}", path.display())]
    ProgramNotExecutable { role: Role, path: PathBuf, problem: String },
    /// The kernel did not make the process.
    #[error("{role}: cannot start {program}: {source}")]
    StartFailed { role: Role, program: String, source: io::Error },
    /// Which setup steps have run is not known, or cannot be kept.
    #[error("cannot {doing} the record of finished setup steps on the writable disk: {source}")]
    SetupRecordFailed { doing: &'static str, source: io::Error },
    /// The thread that probes.
    #[error("cannot start the health probe: {0}. Give the machine more memory")]
    ProberFailed(io::Error),
    /// What is to be copied out.
    #[error("cannot copy {path} out: {source}")]
    NotCopied { path: String, source: io::Error },
    /// What is to be copied in.
    #[error(transparent)]
    Archive(#[from] microagent_archive::Error),
    /// Nothing new starts.
    #[error("the machine is shutting down")]
    ShuttingDown,
    /// Too early.
    #[error("the machine has not been configured yet")]
    NotConfigured,
}

impl Error {
    /// The stable code that the host passes on.
    pub(crate) fn category(&self) -> &'static str {
        match self {
            Self::VersionMismatch { .. } => "VersionMismatch",
            Self::InvalidConfig { .. } => "InvalidConfig",
            Self::InvalidRequest(_) => "InvalidRequest",
            Self::ClockFailed(_) => "ClockFailed",
            Self::DiskNotFound { .. } => "DiskNotFound",
            Self::MountFailed { .. } => "MountFailed",
            Self::FileFailed { .. } => "FileFailed",
            Self::SecretFailed { .. } => "SecretFailed",
            Self::UserNotFound { .. } => "UserNotFound",
            Self::GroupNotFound { .. } => "GroupNotFound",
            Self::WorkingDirectoryFailed { .. } => "WorkingDirectoryFailed",
            Self::ProgramNotFound { role: Role::Workload, .. } => "WorkloadNotFound",
            Self::ProgramNotFound { role: Role::Setup, .. } => "SetupShellNotFound",
            Self::ProgramNotFound { role: Role::Exec, .. } => "CommandNotFound",
            Self::ProgramNotExecutable { role: Role::Workload, .. } => "WorkloadNotExecutable",
            Self::ProgramNotExecutable { role: Role::Setup, .. } => "SetupShellNotExecutable",
            Self::ProgramNotExecutable { role: Role::Exec, .. } => "PermissionDenied",
            Self::StartFailed { .. } => "StartFailed",
            Self::SetupRecordFailed { .. } => "SetupRecordFailed",
            Self::ProberFailed(_) => "ProberFailed",
            Self::NotCopied { source, .. } if source.kind() == io::ErrorKind::NotFound => "FileNotFound",
            Self::NotCopied { .. } => "FileNotReadable",
            Self::Archive(error) => error.category(),
            Self::ShuttingDown => "ShuttingDown",
            Self::NotConfigured => "NotConfigured",
        }
    }
}
