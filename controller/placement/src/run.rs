//! The loop: watches fill the view, the queue says what to look at, and the one that holds the Lease acts.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use kube::{
    Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use microagent_controller::{Key, admin::Heartbeat, kubernetes::paced_client, queue::Queue};
use microagent_crds::kubernetes::{
    PLACEMENT_LEASE, PLACEMENT_LEASE_SECONDS, PLACEMENT_RENEW_SECONDS, SYSTEM_NAMESPACE,
};
use microagent_lease::{Held, Keeper, Terms};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    act::{Done, Effects},
    admin::{self, Admin},
    decide::{Action, Input, decide},
    metrics::Metrics,
    pace::Pace,
    reservation::Reservation,
    view::View,
    watch,
};

/// Workspaces that are worked on at once: each is a request or two, and the API server has others to serve.
const WORKERS: usize = 8;
/// How often it is looked whether an agent has fallen silent.
const TICK: Duration = Duration::from_secs(1);

/// What placement is told at its start.
#[derive(Clone, Debug)]
pub struct Options {
    /// The kubeconfig; `$KUBECONFIG`, the service account of the Pod, or the user's own when absent.
    pub kubeconfig: Option<PathBuf>,
    /// Who this one is among several.
    pub identity: String,
    /// How reservation Pods are made.
    pub reservation: Reservation,
    /// How long a node must have been silent before a workspace that allows it is moved.
    pub move_after: Duration,
    /// Where health and metrics are told; nowhere when absent.
    pub admin: Option<SocketAddr>,
}

/// Why placement cannot run.
#[derive(Debug, thiserror::Error)]
pub enum PlacementError {
    /// No cluster is known.
    #[error("no cluster can be found: {0}; give a kubeconfig with --kubeconfig or KUBECONFIG")]
    Config(String),
    /// What is known of the cluster cannot be used.
    #[error("the cluster cannot be spoken to: {0}; see the kubeconfig")]
    Client(#[source] Box<kube::Error>),
    /// The address is taken or not one of this host.
    #[error("health and metrics cannot be told on {address}: {source}; name another address with --admin")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A part has crashed.
    #[error("a part of placement has ended: {0}; see the log")]
    Ended(String),
}

/// Finds nodes for workspaces until it is told to stop.
///
/// # Errors
/// There is no cluster to speak to, or a part crashed. What an API server refuses or does not answer is tried again for ever.
pub async fn run(options: Options, shutdown: CancellationToken) -> Result<(), PlacementError> {
    let Options { kubeconfig, identity, reservation, move_after, admin: address } = options;
    let client = paced_client(config(kubeconfig).await?).map_err(|e| PlacementError::Client(Box::new(e)))?;
    let queue = Queue::new();
    let view = View::new(queue.clone(), move_after);
    let terms = Terms {
        name: PLACEMENT_LEASE.to_owned(),
        holder: identity.clone(),
        duration: Duration::from_secs(PLACEMENT_LEASE_SECONDS.into()),
        renew: Duration::from_secs(PLACEMENT_RENEW_SECONDS.into()),
    };
    let keeper = Keeper::new(client.clone(), SYSTEM_NAMESPACE, terms);
    let (metrics, heartbeat) = (Arc::new(Metrics::new()), Arc::new(Heartbeat::new()));
    let worker = Worker {
        effects: Effects::new(client.clone(), &identity, reservation),
        view: view.clone(),
        queue: queue.clone(),
        held: keeper.held(),
        metrics: metrics.clone(),
        paces: Arc::default(),
    };
    let mut parts = JoinSet::new();
    if let Some(address) = address {
        let listener = admin::listen(address).await.map_err(|source| PlacementError::Listen { address, source })?;
        let (view, queue, heartbeat) = (view.clone(), queue.clone(), heartbeat.clone());
        let admin = Admin { metrics, heartbeat, view, queue, held: keeper.held() };
        parts.spawn(admin::serve(Arc::new(admin), listener));
    }
    parts.spawn(watch::workspaces(client.clone(), view.clone()));
    parts.spawn(watch::pods(client.clone(), view.clone()));
    parts.spawn(watch::nodes(client.clone(), view.clone()));
    let leases = view.clone();
    parts.spawn(async move { watch::leases(client, leases, SYSTEM_NAMESPACE).await });
    parts.spawn(lead(keeper.held(), view.clone()));
    parts.spawn(tick(view, heartbeat));
    for _ in 0..WORKERS {
        parts.spawn(worker.clone().work());
    }
    // Ended last and by itself, so that the next one need not wait for the Lease to run out.
    let keeping = CancellationToken::new();
    let keeper = tokio::spawn(keeper.run(keeping.clone()));
    let ended = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        part = parts.join_next() => Err(PlacementError::Ended(format!("{part:?}"))),
    };
    parts.shutdown().await;
    keeping.cancel();
    let _ = keeper.await;
    ended
}

async fn config(kubeconfig: Option<PathBuf>) -> Result<Config, PlacementError> {
    let wrong = |error: &dyn std::fmt::Display| PlacementError::Config(error.to_string());
    match kubeconfig {
        Some(file) => {
            let read = Kubeconfig::read_from(file).map_err(|error| wrong(&error))?;
            Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.map_err(|error| wrong(&error))
        }
        None => Config::infer().await.map_err(|error| wrong(&error)),
    }
}

/// Looks at everything when the lead is taken: what happened while another had it was not acted on here.
async fn lead(mut held: Held, view: View) {
    let mut led = false;
    while held.changed().await {
        let leads = held.now();
        if leads && !led {
            view.ask_for_all();
        }
        led = leads;
    }
}

/// Tells when a node falls silent: no event does. Shows that the loop turns, too.
async fn tick(view: View, heartbeat: Arc<Heartbeat>) {
    loop {
        heartbeat.while_waiting(tokio::time::sleep(TICK)).await;
        view.look_at_nodes();
    }
}

/// Looks at one workspace after another.
#[derive(Clone)]
struct Worker {
    effects: Effects,
    view: View,
    queue: Queue,
    held: Held,
    metrics: Arc<Metrics>,
    paces: Arc<Mutex<HashMap<Key, Pace>>>,
}

impl Worker {
    async fn work(self) {
        loop {
            let lease = self.queue.next().await;
            // Whoever takes the lead looks at everything.
            if self.held.now() && self.view.is_complete() {
                self.pass(lease.key()).await;
            }
        }
    }

    /// One look, and at most one action.
    async fn pass(&self, key: &Key) {
        let Some(sight) = self.view.sight(key) else {
            self.paces().remove(key);
            return;
        };
        let now = Instant::now();
        let (refusal, may_reserve) = {
            let mut paces = self.paces();
            let pace = paces.entry(key.clone()).or_default();
            pace.at(sight.seen.generation());
            (pace.refusal.clone(), pace.may_reserve(now))
        };
        let action = decide(&Input {
            seen: &sight.seen,
            pod: sight.pod.as_deref(),
            node: sight.node,
            pod_node: sight.pod_node,
            refusal: refusal.as_deref(),
            may_reserve,
            now: Timestamp::now(),
        });
        let Some(action) = action else {
            let again = self.paces().get(key).and_then(|pace| pace.not_before(now)).filter(|_| sight.pod.is_none());
            again.into_iter().for_each(|at| self.queue.add_at(key.clone(), at.into()));
            return;
        };
        let outcome = self.effects.act(key, &sight, &action, &self.view).await;
        let uid = sight.seen.uid();
        let name = action.name();
        let mut paces = self.paces();
        let pace = paces.entry(key.clone()).or_default();
        match outcome {
            Ok(Done::Done) => {
                tracing::info!(%key, action = name, "done");
                self.metrics.acted(name, "done");
                pace.done();
                if matches!(action, Action::Reserve { .. }) {
                    pace.made(Instant::now(), uid);
                }
                self.queue.add(key.clone());
            }
            Ok(Done::Refused(why)) => {
                tracing::info!(%key, action = name, "refused: {why}");
                self.metrics.acted(name, "refused");
                pace.refused(Instant::now(), uid, why);
                self.queue.add(key.clone());
            }
            Err(error) => {
                let wait = pace.failed(uid);
                tracing::warn!(%key, action = name, "failed, and is tried again in {} ms: {error}", wait.as_millis());
                self.metrics.acted(name, "failed");
                self.queue.add_at(key.clone(), (Instant::now() + wait).into());
            }
        }
    }

    fn paces(&self) -> MutexGuard<'_, HashMap<Key, Pace>> {
        self.paces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
