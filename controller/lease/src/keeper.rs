//! Takes a lease, renews it and gives it back, through the API server.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::decide::{Holding, Seen, Step, Terms, decide};

/// How long one request may take: a third of the duration is left for it after the holder has stopped.
const REQUEST: Duration = Duration::from_secs(4);
/// How long to wait after a request that failed; twice as long after each one more.
const RETRY: Duration = Duration::from_secs(1);

/// Why a lease cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// A live other one has it.
    #[error("the Lease {name} is held by {holder:?}, which renews it; end that one first")]
    HeldByOther {
        /// The Lease.
        name: String,
        /// The other's holder text.
        holder: String,
    },
    /// The API server refuses or does not answer.
    #[error(
        "the Lease {name} cannot be read or written: {source}; see that the API server is there and that the account may get, create and update leases"
    )]
    Api {
        /// The Lease.
        name: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// The API server takes too long.
    #[error("the API server does not answer about the Lease {0} within {seconds} s", seconds = REQUEST.as_secs())]
    Silent(String),
}

/// The wait after so many failures in a row. A holder is not to lose the lease for the sake of it: there are several tries in the time
/// between two renewals.
fn retry(failures: u32, renew: Duration) -> Duration {
    RETRY.saturating_mul(1 << (failures - 1).min(10)).min((renew / 4).max(RETRY))
}

/// Whether a lease is held, for those who act in its name. Clones share it.
#[derive(Clone, Debug)]
pub struct Held(watch::Receiver<Option<Instant>>);

impl Held {
    /// Whether one may act now. It turns false by itself in time, however stuck the keeper is.
    #[must_use]
    pub fn now(&self) -> bool {
        self.0.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Waits until it is taken, renewed or lost. False when the keeper has ended.
    pub async fn changed(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }
}

/// Holds one Lease for one program.
#[derive(Debug)]
pub struct Keeper {
    api: Api<Lease>,
    terms: Terms,
    lease: Option<Lease>,
    seen: Option<Seen>,
    holding: Option<Holding>,
    until: watch::Sender<Option<Instant>>,
}

impl Keeper {
    /// Will hold the Lease of this namespace on these terms; holds nothing yet.
    #[must_use]
    pub fn new(client: Client, namespace: &str, terms: Terms) -> Self {
        let api = Api::namespaced(client, namespace);
        Self { api, terms, lease: None, seen: None, holding: None, until: watch::Sender::new(None) }
    }

    /// Whether it is held.
    #[must_use]
    pub fn held(&self) -> Held {
        Held(self.until.subscribe())
    }

    /// Takes the lease, or refuses when another one is seen to renew it. Waits for at most the duration of a silent holder.
    ///
    /// # Errors
    /// A live other holder, or an API server that refuses.
    pub async fn take(&mut self) -> Result<(), LeaseError> {
        let mut first: Option<Seen> = None;
        loop {
            let next = self.step().await?;
            if self.holding.is_some() {
                return Ok(());
            }
            if let Some(Seen { holder: Some(holder), version, .. }) = &self.seen {
                match &first {
                    Some(known) if known.holder.as_deref() == Some(holder) && known.version != *version => {
                        return Err(LeaseError::HeldByOther { name: self.terms.name.clone(), holder: holder.clone() });
                    }
                    _ => first = self.seen.clone(),
                }
            }
            sleep(next).await;
        }
    }

    /// Takes the lease whenever it can be had and renews it, until it is told to stop; then gives it back. Failures are logged
    /// and tried again.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut failures = 0;
        loop {
            let wait = match self.step().await {
                Ok(wait) => {
                    failures = 0;
                    wait
                }
                Err(error) => {
                    if failures == 0 {
                        tracing::warn!("{error}");
                    }
                    failures += 1;
                    retry(failures, self.terms.renew)
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = sleep(wait) => {}
            }
        }
        if let Err(error) = self.release().await {
            tracing::warn!("the Lease is not given back, so that the next one has to wait for it: {error}");
        }
    }

    /// Looks, does what is to be done, and gives the time until the next look.
    async fn step(&mut self) -> Result<Duration, LeaseError> {
        // What a failed request leaves unknown, time decides.
        if let Some(holding) = self.holding
            && Instant::now() >= holding.until(&self.terms)
        {
            self.lose();
        }
        self.look().await?;
        match decide(&self.terms, self.seen.as_ref(), self.holding, Instant::now()) {
            Step::Wait(wait) => Ok(wait),
            Step::Lost => {
                self.lose();
                Ok(Duration::ZERO)
            }
            Step::Acquire | Step::Renew => {
                let sent = Instant::now();
                let holder = self.terms.holder.clone();
                if self.write(Some(holder)).await? {
                    let holding = Holding { renewed: sent };
                    let until = holding.until(&self.terms);
                    if self.holding.replace(holding).is_none() {
                        tracing::info!(lease = self.terms.name, holder = self.terms.holder, "the Lease is taken");
                    }
                    self.until.send_replace(Some(until));
                    return Ok(self.terms.renew.saturating_sub(sent.elapsed()));
                }
                // Someone else was faster; what is so now is looked at first.
                Ok(RETRY)
            }
        }
    }

    fn lose(&mut self) {
        if self.holding.take().is_some() {
            tracing::warn!(lease = self.terms.name, "the Lease is lost; nothing is done until it is taken again");
        }
        self.until.send_replace(None);
    }

    async fn look(&mut self) -> Result<(), LeaseError> {
        let found = self.ask(self.api.get_opt(&self.terms.name)).await?;
        let at = Instant::now();
        self.take_in(found, at);
        Ok(())
    }

    fn take_in(&mut self, found: Option<Lease>, at: Instant) {
        let version = |lease: &Lease| lease.metadata.resource_version.clone().unwrap_or_default();
        match &found {
            Some(lease) if self.seen.as_ref().is_some_and(|seen| seen.version == version(lease)) => {}
            Some(lease) => {
                let spec = lease.spec.as_ref();
                let holder = spec.and_then(|spec| spec.holder_identity.clone()).filter(|holder| !holder.is_empty());
                let seconds = spec.and_then(|spec| spec.lease_duration_seconds).and_then(|n| u64::try_from(n).ok());
                let duration = seconds.map_or(self.terms.duration, Duration::from_secs);
                self.seen = Some(Seen { version: version(lease), holder, duration, at });
            }
            None => self.seen = None,
        }
        self.lease = found;
    }

    /// Writes the lease over what was seen. False when it has changed meanwhile.
    async fn write(&mut self, holder: Option<String>) -> Result<bool, LeaseError> {
        let params = PostParams { field_manager: Some(self.terms.name.clone()), ..PostParams::default() };
        let now = MicroTime(Timestamp::now());
        let mut lease = self.lease.clone().unwrap_or_else(|| Lease {
            metadata: ObjectMeta { name: Some(self.terms.name.clone()), ..ObjectMeta::default() },
            spec: None,
        });
        lease.metadata.managed_fields = None;
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        if spec.holder_identity != holder && holder.is_some() {
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.map_or(0, |n| n.saturating_add(1)));
        }
        spec.holder_identity = holder;
        spec.lease_duration_seconds = Some(i32::try_from(self.terms.duration.as_secs()).unwrap_or(i32::MAX));
        // For people only: nobody here reads it.
        spec.renew_time = Some(now);
        let is_new = lease.metadata.resource_version.is_none();
        let written = match is_new {
            true => self.ask(self.api.create(&params, &lease)).await,
            false => self.ask(self.api.replace(&self.terms.name, &params, &lease)).await,
        };
        match written {
            Ok(lease) => {
                self.take_in(Some(lease), Instant::now());
                Ok(true)
            }
            Err(LeaseError::Api { source, .. }) if matches!(&*source, kube::Error::Api(status) if matches!(status.code, 404 | 409)) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Gives the lease back, so that the next one need not wait.
    ///
    /// # Errors
    /// The API server refuses or does not answer.
    pub async fn release(mut self) -> Result<(), LeaseError> {
        self.until.send_replace(None);
        if self.holding.take().is_some() {
            self.write(None).await?;
        }
        Ok(())
    }

    async fn ask<T>(&self, request: impl Future<Output = kube::Result<T>>) -> Result<T, LeaseError> {
        let name = self.terms.name.clone();
        match timeout(REQUEST, request).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(source)) => Err(LeaseError::Api { name, source: Box::new(source) }),
            Err(_) => Err(LeaseError::Silent(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_stay_below_the_pace_of_renewals() {
        let waits = |renew| [1, 2, 3, 4, 4_000_000].map(|nth| retry(nth, Duration::from_secs(renew)).as_millis());
        assert_eq!(waits(20), [1000, 2000, 4000, 5000, 5000]);
        assert_eq!(waits(5), [1000, 1250, 1250, 1250, 1250]);
        assert_eq!(waits(0), [1000; 5]);
    }
}
