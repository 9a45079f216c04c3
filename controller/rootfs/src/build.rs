//! Layers to disk: the whole of it.

use std::{
    fs::File,
    io::Read,
    os::unix::fs::MetadataExt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, Scope, ScopedJoinHandle},
};

use microagent_base::{Digest, Progress, progress::Step};
use rustix::{
    fs::{FallocateFlags, fallocate},
    io::Errno,
};

use crate::{
    arrivals::{AllThere, Arrivals},
    compress::Meter,
    error::{Error, LayerError, LayerName},
    ext4::BLOCK,
    flush::{self, Disk},
    image::{self, Identity},
    layer::{Index, Meta, Time, unpack},
    layout::FIRST_DATA_BLOCK,
    limits::{Budget, Limits},
    merge,
    stripes::Stripes,
    tree::{NodeKind, Tree},
};

/// One layer of an image.
pub struct Layer {
    /// The blob as the registry stores it: a plain, gzip or zstd archive. Read once, to its end.
    pub blob: Box<dyn Read + Send>,
    /// The digest of the blob, by the manifest.
    pub digest: Digest,
    /// Bytes of the blob, by the manifest. No byte more is read.
    pub size: u64,
    /// The digest of the decompressed archive, by the image configuration.
    pub diff_id: Digest,
}

/// What a disk depends on besides the layers.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The file system's UUID. Directory hashes follow from it too.
    pub uuid: [u8; 16],
    /// The volume label, of 16 bytes at most.
    pub label: String,
    /// The time of what no layer gives a time for, in seconds since 1970: the file system itself and directories that
    /// only exist because of what is in them. Later than 2106 or before 1970 is moved to the nearest.
    pub created: i64,
    /// What the image may cost.
    pub limits: Limits,
    /// How many layers are read at once; 0 is one for each processor. The disk does not depend on it.
    pub threads: usize,
}

/// What was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Bytes of the disk, holes included.
    pub size: u64,
    /// Bytes of the disk that take space on the host.
    pub allocated: u64,
    /// Inodes in use: files, directories and the rest, each once however many names it has.
    pub inodes: u64,
    /// Archive entries read, over all layers.
    pub entries: u64,
    /// Bytes of files over all layers, holes and files that a higher layer replaced included.
    pub content_bytes: u64,
}

/// Makes an empty file the read-only `ext4` of an image, from its lowest layer to its highest. Durable on return.
///
/// Up to [`Options::threads`] blobs are read at the same time, the largest first, each by a thread of its own.
/// A reader that waits for a download only holds up its own layer.
///
/// # Errors
/// [`Error`] says which layer and which entry is at fault. After an error the file holds no file system.
pub fn build(layers: Vec<Layer>, out: &File, options: &Options, progress: &dyn Progress) -> Result<Report, Error> {
    build_arriving(layers, out, options, &AllThere, progress)
}

/// [`build`] from layers that are still coming: `arrivals` tells which to read first and which are verified elsewhere.
///
/// A layer that has begun to come is never held up by one that has not. It may be held up by others that have begun
/// and do not get on: give [`Options::threads`] one for each that may be in that state at once, and one more.
///
/// # Errors
/// Those of [`build`].
pub fn build_arriving(
    layers: Vec<Layer>,
    out: &File,
    options: &Options,
    arrivals: &dyn Arrivals,
    progress: &dyn Progress,
) -> Result<Report, Error> {
    let Options { uuid, label, created, limits, threads } = options;
    let identity = identity(*uuid, label, *created)?;
    let length = out.metadata().map_err(Error::disk("look at"))?.len();
    if length != 0 {
        return Err(Error::NotEmpty { length });
    }
    let names: Vec<LayerName> =
        layers.iter().enumerate().map(|(index, layer)| LayerName { index, digest: layer.digest }).collect();
    let budget = Budget::new(*limits);
    let indexes = unpack_all(layers, out, &budget, *threads, arrivals, progress)?;
    let content_bytes = indexes.iter().map(|index| index.content_bytes).fold(0, u64::saturating_add);

    progress.step(Step { what: "writing the file system".to_owned(), done: 0, total: None });
    let time = Time { seconds: identity.created.into(), nanos: 0 };
    let mut tree = Tree::new(Meta { mode: 0o755, mtime: time, ..Meta::default() });
    for (index, &layer) in indexes.into_iter().zip(&names) {
        merge::apply(&mut tree, index).map_err(|cause| Error::Layer { layer, cause })?;
        if progress.cancelled() {
            return Err(Error::Cancelled);
        }
    }
    discard_replaced(&tree, out)?;
    let written = image::write(&tree, out, &identity)?;
    let allocated = out.metadata().map_err(Error::disk("look at"))?.blocks() * 512;
    Ok(Report { size: written.size, allocated, inodes: written.inodes, entries: budget.used_entries(), content_bytes })
}

/// The parts of an identity that follow from others, with bounds checked.
pub(crate) fn identity(uuid: [u8; 16], label: &str, created: i64) -> Result<Identity, Error> {
    let mut padded = [0; 16];
    padded
        .get_mut(..label.len())
        .ok_or_else(|| Error::Label { label: label.to_owned() })?
        .copy_from_slice(label.as_bytes());
    let mut hash_seed = [0; 16];
    let digest = Digest::of(&[b"microagent ext4 hash seed ", &uuid[..]].concat());
    hash_seed.copy_from_slice(&digest.bytes()[..16]);
    // The superblock has 32 bits for these.
    let created = u32::try_from(created.max(0)).unwrap_or(u32::MAX);
    Ok(Identity { uuid, hash_seed, label: padded, created })
}

/// Reads all layers, several at once.
fn unpack_all(
    layers: Vec<Layer>,
    out: &File,
    budget: &Budget,
    threads: usize,
    arrivals: &dyn Arrivals,
    progress: &dyn Progress,
) -> Result<Vec<Index>, Error> {
    let count = layers.len();
    let names: Vec<LayerName> =
        layers.iter().enumerate().map(|(index, layer)| LayerName { index, digest: layer.digest }).collect();
    let stripes = Stripes::new(FIRST_DATA_BLOCK.into(), layers.iter().map(|layer| layer.size));
    let meter = Meter {
        progress,
        total: layers.iter().map(|layer| layer.size).fold(0, u64::saturating_add),
        done: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    };
    let mut waiting: Vec<(usize, Layer)> = layers.into_iter().enumerate().collect();
    // Taken from the end where all are there: the largest first, so that no long one is left over for a single thread.
    waiting.sort_by_key(|(_, layer)| layer.size);
    let waiting = Mutex::new(waiting);
    let (disk, flusher) = flush::pair(out);
    let results = Mutex::new((0..count).map(|_| None).collect::<Vec<Option<Result<Index, LayerError>>>>());

    let work = |disk: &Disk<'_>| {
        while let Some((number, layer)) = take(&waiting, arrivals, &meter) {
            let result = if meter.stopped() {
                Err(LayerError::Stopped)
            } else {
                unpack(number, layer, arrivals.verifies(number), disk, &stripes, budget, &meter)
            };
            if result.is_err() {
                meter.stop.store(true, Ordering::Relaxed);
            }
            if let Some(slot) = lock(&results).get_mut(number) {
                *slot = Some(result);
            }
        }
    };
    let parallel = match threads {
        0 => thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let flushed = thread::scope(|scope| {
        let flushing = start(scope, "flush", || flusher.run())?;
        let worked = side_by_side(parallel.min(count), || work(&disk));
        // The flusher has no more to wait for.
        drop(disk);
        let flushed = flushing.join().map_err(|_| ended())?;
        worked.map(|()| flushed)
    })?;

    let mut indexes = Vec::with_capacity(count);
    let mut failure = None;
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    for (result, layer) in results.into_iter().zip(names) {
        match result {
            Some(Ok(index)) => indexes.push(index),
            // Others stopped because of a real failure, or nobody wants the disk.
            Some(Err(LayerError::Stopped)) | None => failure = failure.or(Some(Error::Cancelled)),
            Some(Err(cause)) => match failure {
                Some(Error::Layer { .. }) => {}
                _ => failure = Some(Error::Layer { layer, cause }),
            },
        }
    }
    match (failure, flushed) {
        (Some(failure), _) => Err(failure),
        (None, Err(e)) => Err(Error::disk("flush")(e)),
        (None, Ok(())) => Ok(indexes),
    }
}

/// Does the same on several threads at once.
fn side_by_side(threads: usize, work: impl Fn() + Sync) -> Result<(), Error> {
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| start(scope, "layer", &work)).collect::<Result<_, _>>()?;
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| ended()))
    })
}

fn start<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>, Error> {
    thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, work).map_err(|e| Error::Thread(e.to_string()))
}

fn ended() -> Error {
    Error::Thread("it ended without a result".to_owned())
}

/// Takes the layer that is to be read next; none when all are taken. Who waits for a layer to come waits for any of them,
/// so the others may wait for their turn to do the same.
fn take(waiting: &Mutex<Vec<(usize, Layer)>>, arrivals: &dyn Arrivals, meter: &Meter<'_>) -> Option<(usize, Layer)> {
    let mut waiting = lock(waiting);
    let places: Vec<usize> = waiting.iter().rev().map(|(place, _)| *place).collect();
    if places.is_empty() {
        return None;
    }
    let next = arrivals.next(&places, &|| meter.stopped());
    let at = waiting.iter().position(|(place, _)| *place == next).unwrap_or(waiting.len() - 1);
    Some(waiting.remove(at))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives back the blocks of files that higher layers replaced or deleted: they would waste space, and what an image
/// deleted, such as a secret, must not be found in the free blocks of a disk.
fn discard_replaced(tree: &Tree, out: &File) -> Result<(), Error> {
    let end = out.metadata().map_err(Error::disk("look at"))?.len();
    for node in tree.nodes.iter().filter(|node| node.links == 0) {
        let NodeKind::File(content) = &node.kind else { continue };
        for run in &content.runs {
            let offset = u64::from(run.physical) * BLOCK as u64;
            let length = (u64::from(run.count) * BLOCK as u64).min(end.saturating_sub(offset));
            if length > 0 {
                punch(out, offset, length).map_err(Error::disk("punch holes into"))?;
            }
        }
    }
    Ok(())
}

fn punch(out: &File, offset: u64, length: u64) -> std::io::Result<()> {
    match fallocate(out, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length) {
        // Where the host's file system has no holes, zeros serve as well.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            use std::os::unix::fs::FileExt;
            let zeros = vec![0; 1 << 20];
            let mut done = 0;
            while done < length {
                let count = (length - done).min(zeros.len() as u64);
                out.write_all_at(&zeros[..count as usize], offset + done)?;
                done += count;
            }
            Ok(())
        }
        other => Ok(other?),
    }
}
