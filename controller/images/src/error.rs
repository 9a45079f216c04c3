//! Why an image was not pulled, read or built.

use std::{io, path::PathBuf, time::Duration};

use microagent_base::{Digest, durable::DurableError, lock::LockError};
use microagent_rootfs as rootfs;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an image was not pulled, read or built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text names no image.
    #[error("image reference {reference:?} is not valid: {why}")]
    InvalidReference {
        /// What was given.
        reference: String,
        /// What is wrong with it, and what to write instead.
        why: String,
    },
    /// There is no such image where it was looked for.
    #[error("image {reference} was not found: {why}")]
    ImageNotFound {
        /// The image.
        reference: String,
        /// Where it was looked for, and what to do.
        why: String,
    },
    /// The registry does not answer, or not in a usable way, at the moment.
    #[error("cannot reach registry {registry} for {what}: {why}; see that its name is right and that it is up")]
    RegistryUnreachable {
        /// `host[:port]`.
        registry: String,
        /// What was asked for.
        what: String,
        /// The cause.
        why: String,
    },
    /// The registry asks for fewer requests.
    #[error("registry {registry} limits requests ({why}); log in to it to be let make more")]
    RegistryThrottled {
        /// `host[:port]`.
        registry: String,
        /// What the registry said.
        why: String,
        /// When it wants to be asked again, where it says so.
        after: Option<Duration>,
    },
    /// The registry does not let this user have the image.
    #[error(
        "registry {registry} denies {what}: {why}; check that the image exists and that the Docker config file or the pull secret has a login for this registry"
    )]
    RegistryDenied {
        /// `host[:port]`.
        registry: String,
        /// What was asked for.
        what: String,
        /// What the registry said, and which credentials were used.
        why: String,
    },
    /// The registry does not follow the distribution specification.
    #[error("registry {registry} answers {what} wrongly: {why}; this is a fault of the registry")]
    RegistryInvalid {
        /// `host[:port]`.
        registry: String,
        /// What was asked for.
        what: String,
        /// The violation.
        why: String,
    },
    /// Mirrors failed, and then the registry itself.
    #[error("{source} (mirrors that were asked before: {mirrors})")]
    AfterMirrors {
        /// Why the registry did not serve.
        source: Box<Error>,
        /// The mirrors, and why each did not serve.
        mirrors: String,
    },
    /// A file that says how a registry is reached cannot be used.
    #[error("cannot use {path} for registry {registry}: {why}; correct the file or its place in registries.yaml")]
    RegistrySettings {
        /// `host[:port]`.
        registry: String,
        /// The file.
        path: PathBuf,
        /// The cause.
        why: String,
    },
    /// The user's own credentials cannot be read.
    #[error("cannot read the credentials for registry {registry} from {origin}: {why}")]
    CredentialsUnreadable {
        /// `host[:port]`.
        registry: String,
        /// The file or helper.
        origin: String,
        /// The cause.
        why: String,
    },
    /// The bytes are not those that were asked for.
    #[error(
        "{what} from {origin} has digest {actual}, not {expected}: it is damaged or was tampered with and is not used"
    )]
    DigestMismatch {
        /// What was read.
        what: String,
        /// Where it came from.
        origin: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// Fewer bytes came than the image says there are.
    #[error("layer {digest} from {origin} ended after {got} of {size} bytes; if it stays so, push the image again")]
    LayerTruncated {
        /// The layer.
        digest: Digest,
        /// Where it came from.
        origin: String,
        /// The bytes that came.
        got: u64,
        /// The bytes that should have come.
        size: u64,
    },
    /// More bytes came than the image says there are, or than is accepted.
    #[error("{what} from {origin} is larger than the {limit} bytes it may have; it is not used")]
    TooLarge {
        /// What was read.
        what: String,
        /// Where it came from.
        origin: String,
        /// The bound, in bytes.
        limit: u64,
    },
    /// A kind of image that microagent does not run.
    #[error("image {reference} is not supported: {why}")]
    UnsupportedImage {
        /// The image.
        reference: String,
        /// What about it, and what to do.
        why: String,
    },
    /// The image contradicts itself or does not decode.
    #[error("image {reference} is broken: {why}; build or push it again")]
    InvalidImage {
        /// The image.
        reference: String,
        /// What is wrong.
        why: String,
    },
    /// The image is not made for this platform.
    #[error("image {reference} has no variant for {platform}; it has {available}")]
    PlatformNotFound {
        /// The image.
        reference: String,
        /// What was wanted.
        platform: String,
        /// What there is.
        available: String,
    },
    /// No space is left for the image.
    #[error("no space left at {path}: {why}; free some space or move the state directory")]
    DiskFull {
        /// Where.
        path: PathBuf,
        /// How much is needed, where it is known.
        why: String,
    },
    /// Nobody wants the result any longer.
    #[error("{what} was cancelled")]
    Cancelled {
        /// The work.
        what: String,
    },
    /// Something of the image is gone from the store.
    #[error("image {reference} is no longer complete in the store: {why}; pull it again")]
    ImageIncomplete {
        /// The image.
        reference: String,
        /// What is gone.
        why: String,
    },
    /// Somebody on this host needs the image.
    #[error("image {reference} is in use by {by}; delete that first, or take only the image's name away by force")]
    ImageInUse {
        /// The image.
        reference: String,
        /// Who uses it.
        by: String,
    },
    /// What is in use cannot be told, so nothing is removed.
    #[error("nothing is removed, for it cannot be told which images are in use: {why}")]
    UsesUnknown {
        /// The cause, and what to do.
        why: String,
    },
    /// Pulls, builds or pushes are under way.
    #[error("images are being pulled, pushed or built on this host, and nothing is removed meanwhile; try again later")]
    Busy,
    /// The registry does not let this user push.
    #[error("registry {registry} does not let {what} be pushed: {why}; log in to it as a user who may push there")]
    PushDenied {
        /// `host[:port]`.
        registry: String,
        /// What was to be pushed.
        what: String,
        /// What the registry said, and which credentials were used.
        why: String,
    },
    /// The registry does not take the image.
    #[error(
        "registry {registry} refuses {what}: {why}; see that it takes pushes, that the repository may be made, and that it takes images of this kind and size"
    )]
    PushRefused {
        /// `host[:port]`.
        registry: String,
        /// What was to be pushed.
        what: String,
        /// What the registry said.
        why: String,
    },
    /// The root disk could not be made of the layers.
    #[error("cannot build the root disk of image {reference}: {source}")]
    Build {
        /// The image.
        reference: String,
        /// The reason.
        source: Box<rootfs::Error>,
    },
    /// A workspace's disk does not become a layer.
    #[error("cannot make the image {reference}: {source}")]
    Commit {
        /// The image.
        reference: String,
        /// The reason.
        source: Box<rootfs::OverlayError>,
    },
    /// The operating system refused.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// The verb of the failed step.
        action: &'static str,
        /// The file or directory that was in use.
        path: PathBuf,
        /// The reason the system gave.
        source: io::Error,
    },
    /// A file of the store cannot be read or written.
    #[error(transparent)]
    Durable(#[from] DurableError),
    /// A lock of the store cannot be used.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The HTTP client cannot be made.
    #[error("cannot set up HTTPS: {0}; check the system's certificate store and proxy variables")]
    Http(String),
}

impl Error {
    /// The stable code of the cause: a condition reason and a metric label.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::InvalidReference { .. } => "InvalidReference",
            Self::ImageNotFound { .. } => "ImageNotFound",
            Self::RegistryUnreachable { .. } => "RegistryUnreachable",
            Self::RegistryThrottled { .. } => "RegistryThrottled",
            Self::RegistryDenied { .. } => "RegistryDenied",
            Self::RegistryInvalid { .. } => "RegistryInvalid",
            Self::AfterMirrors { source, .. } => source.category(),
            Self::RegistrySettings { .. } => "RegistrySettingsInvalid",
            Self::CredentialsUnreadable { .. } => "CredentialsUnreadable",
            Self::DigestMismatch { .. } => "DigestMismatch",
            Self::LayerTruncated { .. } => "LayerTruncated",
            Self::TooLarge { .. } => "ImageTooLarge",
            Self::UnsupportedImage { .. } => "UnsupportedImage",
            Self::InvalidImage { .. } => "InvalidImage",
            Self::PlatformNotFound { .. } => "PlatformNotFound",
            Self::DiskFull { .. } => "DiskFull",
            Self::Cancelled { .. } => "Cancelled",
            Self::ImageIncomplete { .. } => "ImageIncomplete",
            Self::ImageInUse { .. } => "ImageInUse",
            Self::UsesUnknown { .. } => "UsesUnknown",
            Self::Busy => "StoreBusy",
            Self::PushDenied { .. } => "RegistryDenied",
            Self::PushRefused { .. } => "PushRefused",
            Self::Build { source, .. } => source.category(),
            Self::Commit { source, .. } => source.category(),
            Self::Io { .. } | Self::Durable(_) | Self::Lock(_) => "StoreUnusable",
            Self::Http(_) => "HttpUnusable",
        }
    }

    /// Whether the same call may succeed later though nobody changed the request: the network, the registry, the
    /// disk or a login outside the request may change.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::InvalidReference { .. }
            | Self::TooLarge { .. }
            | Self::UnsupportedImage { .. }
            | Self::InvalidImage { .. }
            | Self::PlatformNotFound { .. }
            | Self::ImageInUse { .. }
            | Self::PushRefused { .. }
            | Self::Commit { .. } => false,
            Self::AfterMirrors { source, .. } => source.is_retryable(),
            Self::Build { source, .. } => match source.as_ref() {
                rootfs::Error::Disk { .. } | rootfs::Error::Thread(_) | rootfs::Error::Cancelled => true,
                rootfs::Error::Layer { cause, .. } => {
                    use rootfs::LayerError::{Read, Stopped, Thread, Write};
                    matches!(cause, Read(_) | Stopped | Thread(_) | Write(_))
                }
                _ => false,
            },
            _ => true,
        }
    }

    /// Whether a person must act before it can succeed; the condition is then `Stalled`.
    #[must_use]
    pub fn needs_person(&self) -> bool {
        if let Self::AfterMirrors { source, .. } = self {
            return source.needs_person();
        }
        !self.is_retryable()
            || self.category() == "DiskFull"
            || matches!(
                self,
                Self::ImageNotFound { .. }
                    | Self::RegistryDenied { .. }
                    | Self::PushDenied { .. }
                    | Self::UsesUnknown { .. }
                    | Self::CredentialsUnreadable { .. }
                    | Self::RegistrySettings { .. }
                    | Self::Http(_)
            )
    }

    /// Whether another attempt a moment later, with the same connection settings, is worth it.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, Self::RegistryUnreachable { .. } | Self::RegistryThrottled { .. } | Self::LayerTruncated { .. })
    }

    /// Whether it is the place that was asked that is at fault, so that another may serve.
    pub(crate) fn is_of_registry(&self) -> bool {
        matches!(
            self,
            Self::ImageNotFound { .. }
                | Self::RegistryUnreachable { .. }
                | Self::RegistryThrottled { .. }
                | Self::RegistryDenied { .. }
                | Self::RegistryInvalid { .. }
                | Self::DigestMismatch { .. }
                | Self::LayerTruncated { .. }
                | Self::TooLarge { .. }
        )
    }

    /// An error of the operating system, told apart when it is that the disk is full.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { path, why: format!("cannot {action}: {source}") }
            }
            _ => Self::Io { action, path, source },
        }
    }
}
