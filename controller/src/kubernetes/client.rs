//! The client of the API server, for programs that watch.
//!
//! A watch that ends is begun anew from where it was, and a library that does so takes the end for an ordinary one: it does not wait.
//! Something between that ends each at once would be asked as fast as it can answer. So the beginnings of watches have a pace here.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder},
};
use tokio::time::Instant;
use tower::{Layer, Service};

/// So many watches of one kind may be begun in a row: those of a server that is started again, say.
const BURST: u32 = 4;
/// One more for each time as long as this, in which a server may be asked for many kinds by many programs.
const STEP: Duration = Duration::from_secs(2);

/// A client of this configuration, that begins watches at a pace.
///
/// # Errors
/// The configuration is no good, the certificates in it, say.
pub fn paced_client(config: Config) -> Result<Client, kube::Error> {
    Ok(ClientBuilder::try_from(config)?.with_layer(&Paced).build())
}

struct Paced;

impl<S> Layer<S> for Paced {
    type Service = PacedWatches<S>;

    fn layer(&self, inner: S) -> Self::Service {
        PacedWatches { inner, paces: Mutex::default() }
    }
}

struct PacedWatches<S> {
    inner: S,
    /// By path: as many as there are kinds that the program watches.
    paces: Mutex<HashMap<String, Pace>>,
}

impl<S> Service<hyper::Request<Body>> for PacedWatches<S>
where
    S: Service<hyper::Request<Body>>,
    S::Future: Send + 'static,
    S::Response: 'static,
    S::Error: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: hyper::Request<Body>) -> Self::Future {
        let is_watch = request.uri().query().is_some_and(|query| query.split('&').any(|one| one == "watch=true"));
        let wait = is_watch.then(|| {
            let mut paces = self.paces.lock().unwrap_or_else(PoisonError::into_inner);
            paces.entry(request.uri().path().to_owned()).or_default().begin(Instant::now())
        });
        // Nothing is sent before it is polled.
        let answer = self.inner.call(request);
        match wait.filter(|wait| !wait.is_zero()) {
            Some(wait) => async move {
                tokio::time::sleep(wait).await;
                answer.await
            }
            .boxed(),
            None => answer.boxed(),
        }
    }
}

/// When watches of one kind are begun.
#[derive(Debug, Default)]
struct Pace {
    /// When all that were begun are made up for.
    even: Option<Instant>,
}

impl Pace {
    /// One is to be begun: gives how long it has to wait.
    fn begin(&mut self, now: Instant) -> Duration {
        let even = self.even.map_or(now, |even| even.max(now)) + STEP;
        self.even = Some(even);
        even.saturating_duration_since(now + STEP * BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_watches_are_begun_at_once_and_more_at_a_pace() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        for _ in 0..BURST {
            assert_eq!(pace.begin(now), Duration::ZERO);
        }
        assert_eq!(pace.begin(now), STEP);
        assert_eq!(pace.begin(now), STEP * 2);
        let later = now + STEP * 100;
        assert_eq!(pace.begin(later), Duration::ZERO, "what was in a hurry once is forgiven");
    }

    #[tokio::test(start_paused = true)]
    async fn only_watches_of_one_kind_wait_for_each_other() {
        let mut client = Paced.layer(tower::service_fn(|_: hyper::Request<Body>| async { Ok::<_, ()>(()) }));
        let start = Instant::now();
        let mut ask = async |uri: &str| {
            client.call(hyper::Request::builder().uri(uri).body(Body::empty()).unwrap()).await.unwrap();
            start.elapsed()
        };
        for _ in 0..BURST {
            assert_eq!(ask("/apis/a?&watch=true&resourceVersion=7").await, Duration::ZERO);
        }
        assert_eq!(ask("/apis/a?limit=500").await, Duration::ZERO);
        assert_eq!(ask("/apis/b?watch=true").await, Duration::ZERO);
        assert_eq!(ask("/apis/a?&watch=true&resourceVersion=7").await, STEP);
    }
}
