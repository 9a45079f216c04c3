//! The whole controller on one host: folders in, machines out.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use microagent_base::{
    durable::DurableError,
    lock::{FileLock, LockError},
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    Paths,
    admin::{self, Admin, AdminAddress, AdminError, Health},
    desired::Desired,
    drive::{self, Tasks, drive},
    journal::Journal,
    kubernetes::{self, IdentityError},
    memory::Fault,
    metrics::Metrics,
    plan::MachineHashes,
    queue::Queue,
    reconcile::Reconciler,
    request,
    sink::{Sink as _, StatusFiles},
    source::{FolderSource, Hint, Snapshot, watch},
    world::Host,
};

/// The reconciler of one host.
type HostReconciler = Reconciler<Arc<Host>, StatusFiles, Arc<Mutex<Desired>>, Mutex<Journal>>;

/// How the controller runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where everything is kept.
    pub paths: Paths,
    /// The watched folders, beside the managed one.
    pub folders: Vec<PathBuf>,
    /// How often the folders are listed without a hint: network file systems give none.
    pub relist: Duration,
    /// How many pulls, builds and kernel installs run at once.
    pub parallelism: usize,
    /// Where metrics, health and state are told; on a socket in the state directory when none is given.
    pub admin: Vec<AdminAddress>,
}

impl Options {
    /// No folder but the managed one; listed every 15 s; as much long work at once as there are CPUs; the usual admin socket.
    #[must_use]
    pub fn new(paths: Paths) -> Self {
        let parallelism = std::thread::available_parallelism().map_or(1, usize::from);
        Self { paths, folders: Vec::new(), relist: Duration::from_secs(15), parallelism, admin: Vec::new() }
    }
}

/// Why the controller cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// Another controller runs on the state directory.
    #[error("another controller runs on {state}{}; use it, or give this one another --state-dir",
        holder.map(|pid| format!(" (process {pid})")).unwrap_or_default())]
    Locked {
        /// The state directory.
        state: PathBuf,
        /// Its process id, where it is known.
        holder: Option<u32>,
    },
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] DurableError),
    /// The lock cannot be used.
    #[error(transparent)]
    Lock(LockError),
    /// The admin endpoint that was asked for cannot be had.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// Something that every workspace needs is not there.
    #[error("{}", .0.message)]
    Host(Fault),
    /// The state directory belongs elsewhere.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// No API server can be spoken to.
    #[error("{0}")]
    Cluster(String),
    /// The gate cannot be opened.
    #[error("{0}")]
    Gate(String),
    /// Another agent has the node.
    #[error("another agent serves node {node}: {why}; end it, or give this one another --node-name")]
    NodeTaken {
        /// The node.
        node: String,
        /// How that is known.
        why: String,
    },
}

impl ControllerError {
    /// The stable code of the cause.
    #[must_use]
    pub fn category(&self) -> &str {
        match self {
            Self::Locked { .. } => "StateLocked",
            Self::State(_) | Self::Lock(_) => "StateUnusable",
            Self::Admin(_) => "AdminUnusable",
            Self::Host(fault) => &fault.code,
            Self::Identity(_) => "StateOfAnother",
            Self::Cluster(_) => "ApiServerFailed",
            Self::Gate(_) => "GateUnusable",
            Self::NodeTaken { .. } => "NodeTaken",
        }
    }
}

/// The process id of the controller that runs on this state directory; 0 when it runs but its id cannot be read.
#[must_use]
pub fn running(paths: &Paths) -> Option<u32> {
    match FileLock::try_exclusive(&paths.lock()) {
        Err(LockError::Held { holder, .. }) => Some(holder.unwrap_or(0)),
        _ => None,
    }
}

/// Runs until `shutdown` is cancelled. Machines outlive it.
///
/// # Errors
/// What keeps it from starting; what fails later is told in the conditions of the workspaces that it concerns.
pub async fn run(options: Options, shutdown: CancellationToken) -> Result<(), ControllerError> {
    let Options { paths, folders, relist, parallelism, admin } = options;
    paths.create()?;
    let _lock = drive::lock(&paths).await?;
    kubernetes::refuse_for_folders(&paths)?;
    let listeners = admin::open(&admin, &paths).await?;
    let queue = Queue::new();
    let (wake, woken) = mpsc::unbounded_channel();
    let metrics = Arc::new(Metrics::new());
    let host = Arc::new(Host::open(&paths, parallelism, wake, &metrics).map_err(ControllerError::Host)?);
    let dirs = || std::iter::once(paths.manifests()).chain(folders.iter().cloned());
    let watched = dirs().chain([paths.requests()]).collect();
    let desired = Arc::new(Mutex::new(Desired::load(&paths, dirs())?));
    let health = Arc::new(Health::new(dirs()));
    let admin = Arc::new(Admin::new(metrics.clone(), health.clone(), queue.clone(), desired.clone(), host.clone()));
    let reconciler = Arc::new(Reconciler {
        world: host,
        sink: StatusFiles::new(&paths),
        desired,
        journal: Mutex::new(Journal::open(&paths.journal())?),
        queue,
        metrics,
        machine_hashes: MachineHashes::default(),
    });
    let mut sources = vec![FolderSource::managed(paths.manifests())];
    sources.extend(folders.iter().map(FolderSource::new));
    let (hints, hinted) = mpsc::channel(1);
    let tasks = Tasks::new(shutdown);
    tasks.spawn(watch(watched, hints, relist));
    tasks.spawn(follow(sources, hinted, paths, reconciler.clone(), health.clone()));
    drive(reconciler, health, (admin, listeners), woken, tasks).await;
    Ok(())
}

/// Lists the folders when hinted at or when it is time, and queues what changed. The first listing queues everything.
async fn follow(
    sources: Vec<FolderSource>,
    mut hinted: mpsc::Receiver<Hint>,
    paths: Paths,
    reconciler: Arc<HostReconciler>,
    health: Arc<Health>,
) {
    let mut first = true;
    let mut again: Option<Duration> = None;
    let looks = looker(sources, reconciler.clone(), health.clone());
    loop {
        let hint = tokio::select! {
            hint = hinted.recv() => match hint {
                Some(hint) => hint,
                None => return,
            },
            () = sleep(again) => Hint::default(),
        };
        let (answer, answered) = oneshot::channel();
        let sent = looks.as_ref().is_ok_and(|looks| looks.send((hint, answer)).is_ok());
        let looked = if sent { answered.await.ok() } else { None };
        let Some((changed, recheck)) = looked else {
            tracing::error!("listing the folders failed beyond repair; changes are no longer seen");
            health.source_ended();
            return;
        };
        again = recheck;
        let asked = request::keys(&paths).unwrap_or_else(|error| {
            tracing::warn!("{error}");
            Vec::new()
        });
        for key in changed.into_iter().chain(asked) {
            reconciler.queue.add(key);
        }
        if first {
            first = false;
            let desired = reconciler.desired.lock().unwrap_or_else(PoisonError::into_inner);
            desired.records().iter().for_each(|record| reconciler.queue.add(record.key.clone()));
        }
    }
}

/// What a look found: what changed, and how soon to look again.
type Looked = (Vec<crate::Key>, Option<Duration>);

/// The thread that looks at the folders. It is always the same: what manifests are checked by is compiled once for each thread.
fn looker(
    mut sources: Vec<FolderSource>,
    reconciler: Arc<HostReconciler>,
    health: Arc<Health>,
) -> io::Result<std::sync::mpsc::Sender<(Hint, oneshot::Sender<Looked>)>> {
    let (ask, asked) = std::sync::mpsc::channel::<(Hint, oneshot::Sender<Looked>)>();
    thread::Builder::new().name("folders".to_owned()).spawn(move || {
        while let Ok((hint, answer)) = asked.recv() {
            let _ = answer.send(look(&mut sources, &hint, &reconciler, &health));
        }
    })?;
    Ok(ask)
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

/// One listing of all folders.
fn look(sources: &mut [FolderSource], hint: &Hint, reconciler: &HostReconciler, health: &Health) -> Looked {
    let began = Instant::now();
    let snapshots: Vec<Snapshot> = sources
        .iter_mut()
        .map(|source| {
            source.hint(hint);
            source.scan(Instant::now())
        })
        .collect();
    let retry = snapshots.iter().filter_map(|snapshot| snapshot.retry_in).min();
    snapshots.iter().for_each(|snapshot| health.looked(snapshot));
    let mut desired = reconciler.desired.lock().unwrap_or_else(PoisonError::into_inner);
    let applied = desired.apply_all(snapshots, Timestamp::now());
    for failure in &applied.failures {
        tracing::error!("{failure}; it is tried again with the next listing of the folders");
    }
    if let Err(failure) = reconciler.sink.publish_rejected(desired.rejected()) {
        tracing::error!("{failure}");
    }
    let refused = desired.records().iter().filter(|record| record.problem.is_some()).count() + desired.rejected().len();
    drop(desired);
    reconciler.metrics.relisted(hint.reason, began.elapsed(), health.invalid_files(), refused);
    (applied.changed, [retry, applied.recheck_in].into_iter().flatten().min())
}
