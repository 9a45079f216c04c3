//! Turns the layers of an OCI image into one `ext4` disk, and makes empty disks, inside this process: no root,
//! no mount, no unpack folder, no external tool.
//!
//! [`build`] reads every layer once. While a layer streams in, its blob digest is verified, it is decompressed, its
//! diff id is verified, its archive is parsed, and file contents go straight to their final blocks. Only names and
//! attributes are kept in memory; when all layers are in they are merged and the file system's own structures are
//! written, the superblock last, so that a build cut short leaves no file system behind.
//!
//! [`build_arriving`] begins before the layers are there and reads each as it comes.
//!
//! The bytes depend on the layers and the [`Options`] alone: not on the clock, the number of threads or the order in
//! which layers arrive.
//!
//! Sources of the formats: OCI image specification (`layer.md`), POSIX.1-2017 `pax`, GNU tar manual ("Basic Tar
//! Format", "Storing Sparse Files"), and the kernel's `Documentation/filesystems/ext4`.

mod arrivals;
mod blocks;
mod build;
mod compress;
mod error;
mod ext4;
mod flush;
mod format;
mod image;
mod layer;
mod layout;
mod limits;
mod merge;
mod numbering;
mod overlay;
mod path;
mod reader;
mod stream;
mod stripes;
mod tar;
mod tree;

pub use arrivals::Arrivals;
pub use build::{Layer, Options, Report, build, build_arriving};
pub use error::{Error, LayerError, LayerName, Problem};
pub use format::{EmptyOptions, MAX_SIZE, MIN_SIZE, format};
pub use limits::Limits;
pub use overlay::{LayerContents, LayerOptions, Misfit, OverlayError, write_layer};
pub use reader::ReadError;

/// Changes whenever the same layers and options would give other bytes. Part of every baseline's cache key.
pub const FORMAT_VERSION: u32 = 2;
