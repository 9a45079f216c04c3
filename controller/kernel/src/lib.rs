//! Guest kernels: found, built, installed without installing anything on the host, verified, inspected, and
//! given the initramfs that brings guest-init and the modules that a workspace needs.
//!
//! All calls block and none needs root. [`KernelStore`] is the way in.

mod arch;
mod build;
mod compression;
mod config;
mod deb;
mod elf;
mod error;
mod image;
mod initramfs;
mod kernel;
mod modules;
mod need;
mod package;
mod process;
mod source;
mod stage;
mod store;
mod verify;
mod version;

pub use arch::Arch;
pub use build::{BuildRecord, Fragment, Recipe, Untaken};
pub use config::{Config, Setting};
pub use error::{Error, Result};
pub use initramfs::Initramfs;
pub use kernel::{Kernel, Module, PackageId};
pub use need::{Need, Purpose};
pub use source::KernelSource;
pub use store::KernelStore;
pub use verify::{Corruption, DriverCheck, OptionCheck, Presence, Verification};
pub use version::compare as compare_versions;
