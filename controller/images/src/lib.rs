//! OCI images on this host: pulled from a registry, an OCI layout or an archive, verified, kept in a
//! content-addressed [`Store`], and turned into read-only root disks ([`Baseline`]).
//!
//! A registry, an archive and every byte in them are hostile until their digest is checked: bodies are bounded,
//! sizes are those of the descriptors, names of files come from digests only, and credentials go to the registry
//! they are for. Async at the network only; all else blocks, and takes a [`Progress`](microagent_base::Progress).
//!
//! Formats: [OCI image specification](https://github.com/opencontainers/image-spec/blob/v1.1.1/spec.md) and
//! [OCI distribution specification](https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md).

mod archive;
mod arrival;
mod baseline;
mod commit;
mod credentials;
mod docker_archive;
mod error;
mod export;
mod fetch;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod image;
mod import;
mod index;
mod ingest;
mod layout;
mod lock;
mod meter;
mod names;
mod platform;
mod prune;
mod pull;
mod push;
mod reference;
mod registries;
mod registry;
mod resolve;
mod store;
mod trash;
mod uses;
mod wire;

pub use baseline::{Arriving, Baseline};
pub use commit::Commit;
pub use credentials::Credentials;
pub use error::{Error, Result};
pub use image::{Image, ImageConfig, LayerDescriptor};
pub use platform::{Platform, host_platform};
pub use prune::{DiskUsage, Prune, Remove, Share};
pub use pull::{PullOptions, PullPolicy};
pub use push::Pushed;
pub use reference::ImageReference;
pub use registries::Registries;
pub use registry::RegistryReference;
pub use store::{Store, StoredImage};
pub use trash::{Removed, RemovedDisk, RemovedImage, Tally};
pub use uses::{Held, Uses};
