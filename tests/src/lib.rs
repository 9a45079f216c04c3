//! What the end-to-end tests share: real servers to test against, images to give them, and hosts to run on.

use std::path::PathBuf;

pub mod cluster;
pub mod fake;
pub mod figures;
pub mod firecracker;
pub mod guest;
pub mod host;
pub mod image_fixture;
pub mod leaks;
pub mod page;
pub mod qemu;
pub mod registry;
pub mod static_program;

/// A program on `PATH`, or where Debian keeps those of the administrator.
#[must_use]
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    places.map(|dir| dir.join(name)).find(|path| path.is_file())
}
