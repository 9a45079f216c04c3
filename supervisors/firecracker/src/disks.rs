//! The choices for disks that only Firecracker can make.

use std::collections::BTreeSet;

use microagent_supervisor_protocol::{Disk, DiskCache, ErrorBody, ErrorCode, FirecrackerDisk, IoEngine, MachineConfig};

use crate::request::{CacheType, FileEngine, RateLimiter, TokenBucket};

/// The time that a rate is given for, in milliseconds. What is not used in one is there in the next as a burst.
const SECOND: u64 = 1000;

/// What Firecracker is told of a disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice {
    pub(crate) cache: CacheType,
    pub(crate) engine: FileEngine,
    pub(crate) rate: Option<RateLimiter>,
}

/// Checks that each choice is about a disk, that no disk has two, and that each rate lets something through.
///
/// # Errors
/// `UnsupportedConfig`.
pub(crate) fn check(config: &MachineConfig) -> Result<(), ErrorBody> {
    let unsupported = |message: String| Err(ErrorBody::new(ErrorCode::UnsupportedConfig, message));
    let mut seen = BTreeSet::new();
    for choice in choices(config) {
        let id = &choice.id;
        if !config.disks.iter().any(|disk| disk.id == *id) {
            return unsupported(format!("options for the disk {id:?}, which the machine does not have"));
        }
        if !seen.insert(id) {
            return unsupported(format!("options for the disk {id} twice"));
        }
        if choice.bytes_per_second == Some(0) || choice.operations_per_second == Some(0) {
            return unsupported(format!(
                "a rate of 0 for the disk {id}, which would never be read; leave it out for no limit"
            ));
        }
    }
    Ok(())
}

/// What was chosen for the disk, or is usual.
pub(crate) fn choice(config: &MachineConfig, disk: &Disk) -> Choice {
    let asked = choices(config).iter().find(|choice| choice.id == disk.id);
    let cache = match asked.and_then(|asked| asked.cache) {
        Some(DiskCache::Unsafe) => CacheType::Unsafe,
        Some(DiskCache::Writeback) => CacheType::Writeback,
        // A guest that was told that something is on the disk has to find it there after a power cut. One that cannot write has
        // nothing to flush.
        None if disk.read_only => CacheType::Unsafe,
        None => CacheType::Writeback,
    };
    let engine = match asked.and_then(|asked| asked.io_engine) {
        Some(IoEngine::Async) => FileEngine::Async,
        Some(IoEngine::Sync) | None => FileEngine::Sync,
    };
    let bucket = |size| TokenBucket { size, refill_time: SECOND };
    let rate = asked.map(|asked| RateLimiter {
        bandwidth: asked.bytes_per_second.map(bucket),
        ops: asked.operations_per_second.map(bucket),
    });
    Choice { cache, engine, rate: rate.filter(|rate| *rate != RateLimiter::default()) }
}

fn choices(config: &MachineConfig) -> &[FirecrackerDisk] {
    config.firecracker.as_ref().map_or(&[], |options| &options.disks)
}
