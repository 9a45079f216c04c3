//! The writing half of a repository (distribution specification, "Pushing blobs" and "Pushing manifests").
//!
//! An upload goes where the registry says, which may be another host: our credentials go to the registry alone.

use std::{
    pin::Pin,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use microagent_base::Digest;
use reqwest::{
    Body, Response, StatusCode, Url,
    header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE},
};
use tokio::sync::mpsc;

use super::{Registry, auth, body, retry_after};
use crate::{Error, Result, meter::Meter};

/// What registries answer with the digest that they have stored something under.
const CONTENT_DIGEST: &str = "docker-content-digest";
/// How long a request without a body, or with a small one, may take.
const SMALL: Duration = Duration::from_secs(60);
/// A registry that takes no byte of an upload for so long is given up.
const STALLED: Duration = Duration::from_secs(60);
/// How long a registry may take to keep what has all come: some copy gigabytes in their storage first.
const KEEPING: Duration = Duration::from_secs(300);

/// How an upload began.
pub(crate) enum Begun {
    /// It was not needed: the registry has the blob from another repository.
    Mounted,
    /// Here the blob is to go.
    At(Url),
}

/// How an upload ended.
pub(crate) enum Sent {
    /// The registry has the blob.
    Kept,
    /// The registry wants another token, which is there now: the upload is to begin anew.
    Again,
}

/// The bytes of an upload, as they come from a reader.
pub(crate) struct Chunks {
    pub(crate) receiver: mpsc::Receiver<std::io::Result<Bytes>>,
    pub(crate) left: u64,
    pub(crate) taken: Arc<AtomicU64>,
    pub(crate) meter: Meter,
}

impl http_body::Body for Chunks {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.receiver.poll_recv(context).map(|chunk| {
            chunk.map(|chunk| {
                let chunk = chunk?;
                let length = chunk.len() as u64;
                self.left = self.left.saturating_sub(length);
                self.taken.fetch_add(length, Ordering::Relaxed);
                self.meter.add(length);
                Ok(Frame::data(chunk))
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

impl Registry {
    /// Whether the repository has a blob.
    pub(crate) async fn has(&self, digest: &Digest) -> Result<bool> {
        let what = format!("the blob {digest} of {}", self.repository);
        let url = self.url(&format!("blobs/{digest}"), &what)?;
        let response = self.send(&what, || self.http.head(url.clone())).await?;
        match response.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(self.refusal(response, &what).await),
        }
    }

    /// Begins an upload, or has the registry take the blob from another of its repositories.
    pub(crate) async fn begin(&self, digest: &Digest, mount: Option<&str>) -> Result<Begun> {
        let what = format!("the blob {digest} to {}", self.repository);
        let mut url = self.url("blobs/uploads/", &what)?;
        if let Some(from) = mount {
            url.query_pairs_mut().append_pair("mount", &digest.to_string()).append_pair("from", from);
        }
        let post = || self.uploads.post(url.clone()).header(CONTENT_LENGTH, 0).timeout(SMALL);
        let response = self.send(&what, post).await?;
        match response.status() {
            StatusCode::CREATED if mount.is_some() => Ok(Begun::Mounted),
            StatusCode::ACCEPTED => self.place(&response, &what).map(Begun::At),
            _ => Err(self.refusal(response, &what).await),
        }
    }

    /// How much of an interrupted upload the registry has, and where the rest is to go; none when it no longer knows.
    pub(crate) async fn progress(&self, at: &Url) -> Result<Option<(u64, Url)>> {
        let what = format!("an upload to {}", self.repository);
        let response = self.send(&what, || self.uploads.get(at.clone()).timeout(SMALL)).await?;
        let range = response.headers().get(RANGE).and_then(|v| v.to_str().ok());
        let last = range.and_then(|r| r.trim_start_matches("bytes=").strip_prefix("0-")?.parse::<u64>().ok());
        match (response.status(), last) {
            // `0-0` is what some say of nothing, and one byte is no loss.
            (StatusCode::NO_CONTENT, Some(last @ 1..)) => Ok(Some((last + 1, self.place(&response, &what)?))),
            _ => Ok(None),
        }
    }

    /// Sends a blob, or its rest from `offset`, and ends the upload.
    pub(crate) async fn put_blob(&self, at: &Url, digest: &Digest, offset: u64, chunks: Chunks) -> Result<Sent> {
        let what = format!("the blob {digest} to {}", self.repository);
        let mut url = at.clone();
        // What stands in the query is the registry's to know, and is kept as it is.
        url.query_pairs_mut().append_pair("digest", &digest.to_string());
        let (left, taken) = (chunks.left, chunks.taken.clone());
        let mut request = self.uploads.put(url.clone()).header(CONTENT_TYPE, "application/octet-stream");
        if offset > 0 {
            request = request.header(CONTENT_RANGE, format!("{offset}-{}", offset + left - 1));
        }
        let sending = self.authorized(request.body(Body::wrap(chunks)), &url).send();
        let response = tokio::select! {
            response = sending => response.map_err(|e| self.unreachable(&what, e))?,
            () = stalled(&taken, left) => {
                let why = format!("it took {} of {left} bytes and then nothing", taken.load(Ordering::Relaxed));
                return Err(Error::RegistryUnreachable { registry: self.name.clone(), what, why });
            }
        };
        match response.status() {
            StatusCode::CREATED => self.check_stored(&response, digest, &what).map(|_| Sent::Kept),
            StatusCode::UNAUTHORIZED if url.origin() == self.base.origin() => {
                match auth::answer(self, response.headers(), &what).await? {
                    Some(value) => {
                        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
                        Ok(Sent::Again)
                    }
                    None => Err(self.refusal(response, &what).await),
                }
            }
            _ => Err(self.refusal(response, &what).await),
        }
    }

    /// Puts a manifest under a tag or its digest.
    pub(crate) async fn put_manifest(&self, version: &str, media_type: &str, bytes: &[u8]) -> Result<()> {
        let digest = Digest::of(bytes);
        let what = format!("the manifest {version} to {}", self.repository);
        let url = self.url(&format!("manifests/{version}"), &what)?;
        let put = || {
            let request = self.uploads.put(url.clone()).header(CONTENT_TYPE, media_type);
            request.body(bytes.to_vec()).timeout(KEEPING)
        };
        let response = self.send(&what, put).await?;
        if response.status() != StatusCode::CREATED {
            return Err(self.refusal(response, &what).await);
        }
        if self.check_stored(&response, &digest, &what)? {
            return Ok(());
        }
        // It does not say under which digest: what it gives now is what it has.
        let (stored, _) = self.manifest(version).await?;
        let stored = Digest::of(&stored);
        if stored == digest { Ok(()) } else { Err(self.stored_as(&stored.to_string(), &digest, &what)) }
    }

    /// Whether the registry says under which digest it has stored something; that it is another is an error.
    fn check_stored(&self, response: &Response, digest: &Digest, what: &str) -> Result<bool> {
        let Some(stored) = response.headers().get(CONTENT_DIGEST) else { return Ok(false) };
        let stored = String::from_utf8_lossy(stored.as_bytes());
        match stored.parse::<Digest>() {
            Ok(stored) if stored == *digest => Ok(true),
            _ => Err(self.stored_as(&stored, digest, what)),
        }
    }

    fn stored_as(&self, stored: &str, digest: &Digest, what: &str) -> Error {
        let stored: String = stored.chars().filter(|c| !c.is_control()).take(100).collect();
        self.invalid(what, &format!("it has stored it as {stored}, not as {digest}"))
    }

    /// The place that an answer names.
    fn place(&self, response: &Response, what: &str) -> Result<Url> {
        let location = response.headers().get(LOCATION).and_then(|v| v.to_str().ok());
        let location = location.ok_or_else(|| self.invalid(what, "it does not say where the upload is to go"))?;
        let url = response
            .url()
            .join(location)
            .map_err(|e| self.invalid(what, &format!("the place it names for the upload is no URL: {e}")))?;
        match url.scheme() {
            "https" => Ok(url),
            "http" if self.base.scheme() == "http" => Ok(url),
            scheme => Err(self.invalid(what, &format!("it sends the upload to an unencrypted place ({scheme})"))),
        }
    }

    /// Why something was not taken.
    async fn refusal(&self, response: Response, what: &str) -> Error {
        let (status, after) = (response.status(), retry_after(response.headers()));
        let why = format!("{status}{}", body::message(response).await);
        let (registry, what) = (self.name.clone(), what.to_owned());
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Error::PushDenied { registry, what, why: format!("{why} (asked {})", self.found.note) }
            }
            StatusCode::TOO_MANY_REQUESTS => Error::RegistryThrottled { registry, why, after },
            StatusCode::REQUEST_TIMEOUT => Error::RegistryUnreachable { registry, what, why },
            _ if status.is_server_error() => Error::RegistryUnreachable { registry, what, why },
            _ if status.is_redirection() || status.is_success() => self.invalid(&what, &why),
            _ => Error::PushRefused { registry, what, why },
        }
    }
}

/// Returns when nothing more is taken.
async fn stalled(taken: &AtomicU64, all: u64) {
    let mut before = taken.load(Ordering::Relaxed);
    loop {
        tokio::time::sleep(if before < all { STALLED } else { KEEPING }).await;
        let now = taken.load(Ordering::Relaxed);
        if now == before {
            return;
        }
        before = now;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_upload_that_moves_goes_on_and_one_that_stands_is_given_up() {
        let taken = Arc::new(AtomicU64::new(0));
        let slow = taken.clone();
        // A byte now and then, for an hour.
        let moving = tokio::spawn(async move {
            for _ in 0..80 {
                sleep(STALLED * 3 / 4).await;
                slow.fetch_add(1, Ordering::Relaxed);
            }
        });
        let all = 1000;
        assert!(timeout(STALLED * 50, stalled(&taken, all)).await.is_err(), "it moves");
        moving.await.unwrap();
        let stands = Instant::now();
        stalled(&taken, all).await;
        assert!(stands.elapsed() <= STALLED * 2);
        // All has come: the registry may take its time to keep it.
        taken.store(all, Ordering::Relaxed);
        assert!(timeout(STALLED * 4, stalled(&taken, all)).await.is_err());
    }
}
