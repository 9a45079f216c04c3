//! What fuzzers and `tests/fuzz.rs` run: each function takes any bytes, and panics when the builder is wrong. It tells
//! whether a disk was built.

#![allow(dead_code, reason = "the archive writer is that of the tests, which use more of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a target tells of a mistake by panicking")]
#![allow(unreachable_pub, reason = "a library for the fuzzers, a module for the tests")]

#[path = "../../tests/support/archive.rs"]
pub(crate) mod archive;
mod model;
mod readback;
mod stack;
mod tree;

use std::fs::File;

use arbitrary::Unstructured;
use microagent_base::{Digest, Silent};
use microagent_rootfs::{Error, Layer, Limits, Options, Report, build};
use rustix::fs::{MemfdFlags, memfd_create};

pub use stack::stack;
pub use tree::tree;

/// The time of what no layer gives a time for.
const CREATED: i64 = 1_700_000_000;

/// Any bytes as a layer: as they are, compressed, or as a blob that may pass for a compressed one.
pub fn tar(data: &[u8]) -> bool {
    let Some((&how, bytes)) = data.split_first() else { return false };
    let layer = match how % 4 {
        0 => archive::layer(bytes.to_vec(), bytes),
        1 => archive::layer(archive::gzip(bytes), bytes),
        2 => archive::layer(archive::zstd(bytes), bytes),
        _ => Layer { diff_id: Digest::of(b"none"), ..archive::layer(bytes.to_vec(), bytes) },
    };
    let disk = disk(vec![layer]);
    if let Ok(disk) = &disk {
        readback::verify(disk);
    }
    disk.is_ok()
}

/// Builds a disk in memory. One that is refused must not be mountable.
fn disk(layers: Vec<Layer>) -> Result<File, Error> {
    let disk = File::from(memfd_create("disk", MemfdFlags::empty()).unwrap());
    let limits = Limits { max_content_bytes: 64 << 20, max_entries: 50_000, max_metadata_bytes: 64 << 20 };
    let options = Options { uuid: [3; 16], label: "fuzz".to_owned(), created: CREATED, limits, threads: 2 };
    match build(layers, &disk, &options, &Silent) {
        Ok(Report { size, .. }) => {
            assert_eq!(size, disk.metadata().unwrap().len());
            Ok(disk)
        }
        Err(error) => {
            assert!(!readback::is_file_system(&disk), "a file system is left after: {error}");
            assert!(!error.to_string().is_empty() && error.category() != "ThreadFailed", "{error}");
            Err(error)
        }
    }
}

/// A layer of these entries, compressed one way or the other.
fn layer(u: &mut Unstructured<'_>, entries: &[archive::Spec]) -> Layer {
    let bytes = archive::archive(entries);
    let blob = match u.int_in_range(0..=2).unwrap_or(0) {
        0 => bytes.clone(),
        1 => archive::gzip(&bytes),
        _ => archive::zstd(&bytes),
    };
    archive::layer(blob, &bytes)
}
