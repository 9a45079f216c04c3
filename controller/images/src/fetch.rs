//! One layer from a registry into the store, continued after every cut.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use bytes::Bytes;
use microagent_base::Digest;
use reqwest::Response;
use tokio::sync::mpsc;

use crate::{
    Error, Result, Store,
    arrival::Arrival,
    ingest::Ingest,
    lock,
    meter::Meter,
    registries::Sources,
    registry::{Blob, Registry},
    wire::Descriptor,
};

/// Waits between attempts, in milliseconds: a hiccup is over after the first, a restarting registry after the last.
/// Longer outages are the reconciler's to wait for.
const BACKOFF: [u64; 3] = [200, 800, 2000];

/// How long a registry that limits requests may ask to wait within one pull.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(5);

/// Chunks in flight between the network and the disk; some 16 KiB each.
const QUEUE: usize = 64;

/// The attempts that are left for one thing.
#[derive(Default)]
pub(crate) struct Retry {
    failures: usize,
}

impl Retry {
    /// Waits before another attempt, or gives the error back when none is worth it.
    pub(crate) async fn after(&mut self, error: Error) -> Result<()> {
        let Some(wait) = BACKOFF.get(self.failures).filter(|_| error.is_transient()) else { return Err(error) };
        self.failures += 1;
        let wait = match &error {
            Error::RegistryThrottled { after: Some(after), .. } if *after > MAX_RETRY_AFTER => return Err(error),
            Error::RegistryThrottled { after: Some(after), .. } => *after,
            // Half of it at random, so that a registry is not asked by all its clients at once.
            _ => Duration::from_millis(wait / 2 + RandomState::new().hash_one(self.failures) % (wait / 2 + 1)),
        };
        tracing::debug!(%error, ?wait, "trying again");
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

/// Makes sure that a layer is in the store, and tells `arrival` how far it is.
pub(crate) async fn layer(
    store: &Store,
    sources: &Sources,
    layer: &Descriptor,
    meter: &Meter,
    arrival: Arrival,
) -> Result<()> {
    let path = lock::path(&store.locks(), "blob", &layer.digest);
    let held = lock::exclusive(&path, meter.progress(), meter.what()).await?;
    if store.has_blob(&layer.digest, layer.size) {
        meter.add(layer.size);
        arrival.is_whole();
        return Ok(());
    }
    let (dir, target, digest, size) = (store.ingest_dir(), store.blob_path(&layer.digest), layer.digest, layer.size);
    let mut ingest = blocking(move || Ingest::open(&dir, target, digest, size, held, arrival)).await?;
    meter.add(ingest.len());
    let mut at = sources.first();
    loop {
        let Some((mut back, error)) = bring(sources.get(at), ingest, meter).await? else { return Ok(()) };
        // Too many bytes are the wrong ones.
        if matches!(error, Error::TooLarge { .. }) {
            meter.take_back(back.len());
            back.restart()?;
        }
        // A whole one was right but could not be put in its place, and on a full disk a rest that nobody continues is in
        // the way. Of nothing there is nothing to continue.
        let of_no_use = [0, back.size()].contains(&back.len()) || matches!(error, Error::DiskFull { .. });
        match sources.after(at, error) {
            Ok(next) => {
                at = next;
                back.change_source();
                ingest = back;
            }
            Err(error) => {
                if of_no_use {
                    back.discard()?;
                }
                return Err(error);
            }
        }
    }
}

/// Brings a layer from one registry. None when it is in its place; else the ingest, and why not.
async fn bring(registry: &Registry, mut ingest: Ingest, meter: &Meter) -> Result<Option<(Ingest, Error)>> {
    let origin = format!("registry {}", registry.name());
    loop {
        let (back, result) = transfer(registry, ingest, meter, &origin).await?;
        if let Err(error) = result {
            return Ok(Some((back, error)));
        }
        let (again, resumed, whole) = (origin.clone(), back.is_resumed(), back.len());
        match blocking(move || Ok(back.finish(&again))).await? {
            Ok(()) => return Ok(None),
            Err((back, error)) => {
                meter.take_back(whole - back.len());
                // Part of it is from before a crash, which may have damaged it, or from elsewhere: once more, from the start.
                if !(resumed && matches!(error, Error::DigestMismatch { .. })) {
                    return Ok(Some((*back, error)));
                }
                ingest = *back;
            }
        }
    }
}

/// Brings an ingest to its full length. The inner result is that of the transfer; the ingest comes back in both cases.
async fn transfer(
    registry: &Registry,
    mut ingest: Ingest,
    meter: &Meter,
    origin: &str,
) -> Result<(Ingest, Result<()>)> {
    let mut retry = Retry::default();
    // The most there ever was: a blob that is short on the registry starts over and over, and never gets further.
    let mut furthest = ingest.len();
    while ingest.len() < ingest.size() {
        meter.check()?;
        let (back, result) = attempt(registry, ingest, meter, origin).await?;
        ingest = back;
        if let Err(error) = result {
            if ingest.len() > furthest {
                furthest = ingest.len();
                retry = Retry::default();
            }
            if let Err(error) = retry.after(error).await {
                return Ok((ingest, Err(error)));
            }
        }
    }
    Ok((ingest, Ok(())))
}

/// One request. The inner result is that of the transfer; the ingest comes back in both cases.
async fn attempt(registry: &Registry, mut ingest: Ingest, meter: &Meter, origin: &str) -> Result<(Ingest, Result<()>)> {
    let (digest, offset) = (ingest.digest(), ingest.len());
    let response = match registry.blob(&digest, offset).await {
        Ok(Blob::From(response)) => response,
        Ok(Blob::Whole(response)) => {
            meter.take_back(offset);
            ingest.restart()?;
            response
        }
        // What the registry has ends where we are.
        Ok(Blob::NoSuchPart) => {
            meter.take_back(offset);
            ingest.restart()?;
            let size = ingest.size();
            return Ok((ingest, Err(truncated(digest, origin, offset, size))));
        }
        Err(e) => return Ok((ingest, Err(e))),
    };
    stream(registry, response, ingest, meter, origin).await
}

/// Writes a body to the ingest on a thread of its own, so that hashing and the disk hold up no other transfer.
async fn stream(
    registry: &Registry,
    mut response: Response,
    mut ingest: Ingest,
    meter: &Meter,
    origin: &str,
) -> Result<(Ingest, Result<()>)> {
    let (sender, mut receiver) = mpsc::channel::<Bytes>(QUEUE);
    let (counter, from) = (meter.clone(), origin.to_owned());
    let writer = tokio::task::spawn_blocking(move || {
        let mut result = Ok(());
        while let Some(chunk) = receiver.blocking_recv() {
            result = counter.check().and_then(|()| ingest.write(&chunk, &from));
            if result.is_err() {
                break;
            }
            counter.add(chunk.len() as u64);
        }
        (ingest, result)
    });
    let mut cut = None;
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => {
                // The writer has stopped: it says why below.
                if sender.send(chunk).await.is_err() {
                    break;
                }
            }
            Ok(None) => break,
            Err(e) => {
                cut = Some(e);
                break;
            }
        }
    }
    drop(sender);
    let (ingest, written) = writer.await.map_err(|e| lost(&e))?;
    let result = match (written, cut) {
        (Err(e), _) => Err(e),
        (Ok(()), Some(e)) => Err(registry.interrupted(e, &format!("layer {}", ingest.digest()))),
        (Ok(()), None) if ingest.len() < ingest.size() => {
            Err(truncated(ingest.digest(), origin, ingest.len(), ingest.size()))
        }
        (Ok(()), None) => Ok(()),
    };
    Ok((ingest, result))
}

fn truncated(digest: Digest, origin: &str, got: u64, size: u64) -> Error {
    Error::LayerTruncated { digest, origin: origin.to_owned(), got, size }
}

/// Runs blocking work off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| lost(&e))?
}

/// The runtime ended under the work.
pub(crate) fn lost(error: &tokio::task::JoinError) -> Error {
    Error::Cancelled { what: format!("the work of a pull ({error})") }
}
