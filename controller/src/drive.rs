//! The parts that every controller has, whatever its source: passes, the admin endpoint, the sweep of orphans.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use microagent_base::lock::{FileLock, LockError};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Key, Paths,
    admin::{self, Admin, Health, Listener},
    journal::Tell,
    reconcile::{Reconciler, Store},
    records::Roster,
    run::ControllerError,
    sink::Sink,
    sweep::{self, Sweep},
    world::World,
};

/// How many passes run at once. A pass waits for a supervisor now and then; few run for long.
const PASSES: usize = 8;

/// How long the lock of the state directory is tried for: `running` takes it for an instant to see whether it is free.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);

/// Takes the lock of the state directory: there is one controller on it.
pub(crate) async fn lock(paths: &Paths) -> Result<FileLock, ControllerError> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match FileLock::try_exclusive(&paths.lock()) {
            Ok(lock) => return Ok(lock),
            Err(LockError::Held { .. }) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(LockError::Held { holder, .. }) => {
                return Err(ControllerError::Locked { state: paths.state.clone(), holder });
            }
            Err(e) => return Err(ControllerError::Lock(e)),
        }
    }
}

/// Tasks that end when the controller does.
#[derive(Clone)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    shutdown: CancellationToken,
}

impl Tasks {
    pub(crate) fn new(shutdown: CancellationToken) -> Self {
        Self { tracker: TaskTracker::new(), shutdown }
    }

    /// Does the work until it ends or the controller does.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        self.tracker.spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = work => {}
            }
        });
    }
}

impl Tasks {
    /// Does work that sees by itself when it is to end, and is waited for.
    pub(crate) fn spawn_whole(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(work);
    }
}

/// Answers on the listeners, sweeps, and passes over what is due, until it is to end. Passes that are under way then come to
/// their end: their effects are short or can be taken up again.
pub(crate) async fn drive<W: World, S: Sink + 'static, D: Store + Roster + 'static, J: Tell + 'static>(
    reconciler: Arc<Reconciler<W, S, D, J>>,
    health: Arc<Health>,
    (admin, listeners): (Arc<Admin>, Vec<Listener>),
    mut woken: mpsc::UnboundedReceiver<Key>,
    tasks: Tasks,
) {
    for listener in listeners {
        tasks.spawn(admin::serve(admin.clone(), listener));
    }
    let swept = reconciler.clone();
    tasks.spawn(async move {
        let mut sweep = Sweep::default();
        loop {
            tokio::time::sleep(sweep::INTERVAL).await;
            sweep.look(&swept.world, &swept.desired).await;
        }
    });
    let waker = reconciler.queue.clone();
    tasks.spawn(async move {
        while let Some(key) = woken.recv().await {
            waker.add(key);
        }
    });
    let slots = Arc::new(Semaphore::new(PASSES));
    loop {
        let lease = tokio::select! {
            () = tasks.shutdown.cancelled() => break,
            lease = health.heartbeat.while_waiting(reconciler.queue.next()) => lease,
        };
        let Ok(slot) = health.heartbeat.while_waiting(slots.clone().acquire_owned()).await else { break };
        let reconciler = reconciler.clone();
        tasks.tracker.spawn(async move {
            reconciler.pass(lease).await;
            drop(slot);
        });
    }
    tasks.tracker.close();
    tasks.tracker.wait().await;
}
