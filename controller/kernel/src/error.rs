//! What can go wrong with a kernel, each cause with what to do about it.

use std::{
    io,
    path::{Path, PathBuf},
};

use microagent_base::{durable::DurableError, lock::LockError};

use crate::arch::Arch;

/// The result of everything here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a kernel could not be found, installed, verified or packed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No such file, package or installed kernel.
    #[error("there is no kernel {what}: {why}; {remedy}")]
    KernelNotFound {
        /// What was looked for.
        what: String,
        /// Where it was looked for.
        why: String,
        /// What the user can do.
        remedy: String,
    },
    /// The host has no package manager that is understood.
    #[error(
        "kernel source `package` needs apt-get, which is not on this host{}; \
         set `kernel.source: path` to a kernel image and its modules directory",
        found.map_or(String::new(), |name| format!(" ({name} is there, and not supported yet)"))
    )]
    PackageManagerMissing {
        /// Another package manager that was found.
        found: Option<&'static str>,
    },
    /// The package manager ran and failed.
    #[error(
        "{command} failed ({status}): {}; try the same command by hand, or set `kernel.source: path`",
        lines.join(" / ")
    )]
    PackageManagerFailed {
        /// The command, without its options.
        command: String,
        /// How it ended.
        status: String,
        /// The last lines that it printed.
        lines: Vec<String>,
    },
    /// A package is not what the package manager's record says, or not a package at all.
    #[error("package {path} is damaged: {reason}; run the installation again to download it anew")]
    CorruptedPackage {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file is no kernel that can be booted here.
    #[error("{path} cannot be used as a guest kernel: {reason}")]
    UnsupportedKernel {
        /// The image or module.
        path: PathBuf,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// The kernel lacks what a workspace needs.
    #[error("kernel {version} lacks {}; choose another kernel with `kernel.source` or `kernel.version`", missing.join("; "))]
    MissingDriver {
        /// The kernel's release.
        version: String,
        /// Each driver or option, with what fails without it.
        missing: Vec<String>,
    },
    /// An installed kernel is no longer what was installed.
    #[error(
        "the installed kernel {version} is damaged: {path}: {reason}; \
         `microagent kernel install` puts it right"
    )]
    KernelCorrupted {
        /// The kernel's release, or its id where even that cannot be read.
        version: String,
        /// The first file that differs.
        path: PathBuf,
        /// How it differs.
        reason: String,
    },
    /// The kernel is for another processor.
    #[error("{path} is a kernel for {found}, and this host is {wanted}; choose one that is built for {wanted}")]
    WrongArchitecture {
        /// The image or module.
        path: PathBuf,
        /// What it is for.
        found: String,
        /// The host's architecture.
        wanted: Arch,
    },
    /// The source gave another version than the one that was asked for.
    #[error("{origin} is kernel {found}, and `kernel.version` asks for {wanted}; change one of the two")]
    WrongVersion {
        /// The source.
        origin: String,
        /// What it gave.
        found: String,
        /// What was asked for.
        wanted: String,
    },
    /// A configuration fragment is none.
    #[error("{name}, line {line}: {reason}")]
    FragmentInvalid {
        /// The fragment.
        name: String,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A configuration fragment takes away what guests need.
    #[error("{name} changes CONFIG_{option}, without which {without}; leave that option out of the fragment")]
    FragmentRefused {
        /// The fragment.
        name: String,
        /// The option, without `CONFIG_`.
        option: String,
        /// What fails without it.
        without: String,
    },
    /// The kernel's own rules do not let an option be as it must.
    #[error(
        "the kernel source does not take the configuration: {}; add what an option needs to the fragment, or leave the option out",
        options.join("; ")
    )]
    ConfigRefused {
        /// Each option, with what refused it.
        options: Vec<String>,
    },
    /// The host lacks programs that build a kernel.
    #[error("building a kernel needs {}, which are not on this host; install them with `{command}`", missing.join(", "))]
    ToolsMissing {
        /// The programs and headers.
        missing: Vec<String>,
        /// What installs them on Debian and Ubuntu.
        command: String,
    },
    /// The kernel's build failed.
    #[error(
        "building the kernel failed ({status}): {}; the whole log is {log}; the next attempt goes on from there",
        lines.join(" / ")
    )]
    BuildFailed {
        /// How it ended.
        status: String,
        /// The last lines that it printed.
        lines: Vec<String>,
        /// All that it printed.
        log: PathBuf,
    },
    /// No space is left.
    #[error(
        "the disk is full: cannot {action} {path}; free some space there (a kernel takes up to 300 MiB while it is installed, \
         and 3 GiB while it is built)"
    )]
    DiskFull {
        /// The verb of the failed step.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
    },
    /// Nobody wants the work any longer.
    #[error("installing the kernel was cancelled; nothing was changed")]
    Cancelled,
    /// The operating system refused.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// The verb of the failed step.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The reason the system gave.
        source: io::Error,
    },
    /// The store's own files cannot be read or written.
    #[error(transparent)]
    State(DurableError),
    /// The store's lock cannot be had.
    #[error(transparent)]
    Lock(#[from] LockError),
}

impl Error {
    /// The stable code of the cause: a condition's reason and a metric's label.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::KernelNotFound { .. } => "KernelNotFound",
            Self::PackageManagerMissing { .. } => "PackageManagerMissing",
            Self::PackageManagerFailed { .. } => "PackageManagerFailed",
            Self::CorruptedPackage { .. } => "PackageCorrupted",
            Self::UnsupportedKernel { .. } => "UnsupportedKernel",
            Self::MissingDriver { .. } => "MissingDriver",
            Self::KernelCorrupted { .. } => "KernelCorrupted",
            Self::WrongArchitecture { .. } => "WrongArchitecture",
            Self::WrongVersion { .. } => "WrongVersion",
            Self::FragmentInvalid { .. } => "FragmentInvalid",
            Self::FragmentRefused { .. } => "FragmentRefused",
            Self::ConfigRefused { .. } => "ConfigRefused",
            Self::ToolsMissing { .. } => "BuildToolsMissing",
            Self::BuildFailed { .. } => "KernelBuildFailed",
            Self::DiskFull { .. } => "DiskFull",
            Self::Cancelled => "Cancelled",
            Self::Io { .. } | Self::Lock(_) => "KernelStoreUnavailable",
            Self::State(DurableError::Io { .. }) => "KernelStoreUnavailable",
            Self::State(_) => "KernelStoreCorrupted",
        }
    }

    /// Whether the same call may succeed later with nothing changed by a person.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::PackageManagerFailed { .. }
                | Self::CorruptedPackage { .. }
                | Self::KernelCorrupted { .. }
                | Self::DiskFull { .. }
                | Self::Cancelled
                | Self::Io { .. }
                | Self::State(_)
                | Self::Lock(_)
        )
    }

    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { action, path: path.to_owned() }
            }
            _ => Self::Io { action, path: path.to_owned(), source },
        }
    }

    pub(crate) fn unsupported(path: &Path, reason: impl Into<String>) -> Self {
        Self::UnsupportedKernel { path: path.to_owned(), reason: reason.into() }
    }
}

impl From<DurableError> for Error {
    fn from(error: DurableError) -> Self {
        match error {
            DurableError::Io { action, path, source } => Self::io(action, &path, source),
            other => Self::State(other),
        }
    }
}

/// For `map_err`: names what was being done to what.
pub(crate) fn io_error<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::io(action, path, source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_apart_from_other_refusals_wherever_it_shows() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let path = PathBuf::from("/store/tmp");
        let error = Error::from(DurableError::Io { action: "write", path: path.clone(), source: full() });
        assert_eq!(error.category(), "DiskFull");
        assert!(error.to_string().contains("/store/tmp") && error.is_retryable(), "{error}");
        assert_eq!(io_error("write", &path)(full()).category(), "DiskFull");
        let refused = io::Error::from(io::ErrorKind::PermissionDenied);
        assert_eq!(Error::io("write", &path, refused).category(), "KernelStoreUnavailable");
    }
}
