//! One pass over one workspace: observe, plan, remember, publish, act.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use microagent_base::durable::DurableError;
use microagent_crds::{ConditionType, Reason};
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::{
    Key, Problem, Record, Records,
    desired::Desired,
    journal::{self, EventType, Tell},
    memory::{Fault, Memory, Stage},
    metrics::{Metrics, Pass, Planned, label::Outcome},
    plan::{self, Action, Event, Input, MachineHashes},
    queue::{Lease, Queue},
    reconcile_id::ReconcileId,
    records::Roster,
    sink::Sink,
    world::World,
};

/// When a pass that could not even write its record is tried again. The disk is full then, or the file system gone.
const BROKEN_STORE_WAIT: Duration = Duration::from_secs(5);

/// The durable records, as a pass needs them.
pub trait Store: Send + Sync {
    /// The record of a workspace.
    fn get(&self, key: &Key) -> Option<Record>;

    /// The record with this memory, durable; nothing when the desired state has moved on since `record` was read.
    ///
    /// # Errors
    /// It cannot be written; nothing has changed then.
    fn remember(&self, record: &Record, memory: Memory) -> Result<Option<Record>, DurableError>;

    /// Forgets a workspace of which nothing is left on the host; gives whether its name was declared again meanwhile.
    ///
    /// # Errors
    /// It cannot be removed; call it again then.
    fn forget(&self, key: &Key, now: Timestamp) -> Result<bool, DurableError>;
}

impl Store for Mutex<Desired> {
    fn get(&self, key: &Key) -> Option<Record> {
        lock(self).records().get(key).cloned()
    }

    fn remember(&self, record: &Record, memory: Memory) -> Result<Option<Record>, DurableError> {
        lock(self).records_mut().remember(record, memory)
    }

    fn forget(&self, key: &Key, now: Timestamp) -> Result<bool, DurableError> {
        lock(self).forget(key, now)
    }
}

impl<S: Store + ?Sized> Store for Arc<S> {
    fn get(&self, key: &Key) -> Option<Record> {
        S::get(self, key)
    }

    fn remember(&self, record: &Record, memory: Memory) -> Result<Option<Record>, DurableError> {
        S::remember(self, record, memory)
    }

    fn forget(&self, key: &Key, now: Timestamp) -> Result<bool, DurableError> {
        S::forget(self, key, now)
    }
}

impl Roster for Mutex<Desired> {
    fn show(&self, see: &mut dyn FnMut(&Records, &BTreeMap<Key, Problem>)) {
        let desired = lock(self);
        see(desired.records(), desired.rejected());
    }
}

fn lock(desired: &Mutex<Desired>) -> MutexGuard<'_, Desired> {
    desired.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The reconciler: everything a pass needs.
pub struct Reconciler<W, S, D, J> {
    /// All effects.
    pub world: W,
    /// Where status goes.
    pub sink: S,
    /// What is desired and remembered.
    pub desired: D,
    /// What happened.
    pub journal: J,
    /// Who is looked at next.
    pub queue: Queue,
    /// What is counted and measured.
    pub metrics: Arc<Metrics>,
    /// The hashes of the specs.
    pub machine_hashes: MachineHashes,
}

/// When a workspace is to be looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Again {
    /// At once: something was done.
    Now,
    /// At this time, if nothing happens before.
    At(Timestamp),
    /// Never: it is gone.
    Never,
}

impl<W: World, S: Sink, D: Store, J: Tell> Reconciler<W, S, D, J> {
    /// One pass. Whatever happens, the workspace is looked at again in time.
    pub async fn pass(&self, lease: Lease) {
        let key = lease.key().clone();
        // On every line of the pass: which workspace, and which pass. At the level that no filter of levels leaves out.
        let span = tracing::error_span!("reconcile", workspace = %key, reconcile_id = %ReconcileId::next());
        let mut pass = self.metrics.begin_pass();
        // Dropped in every case; a pass that panics is one that failed.
        let fallback = Fallback { key: Some(key.clone()), queue: &self.queue };
        let again = self.try_pass(&key, &mut pass).instrument(span.clone()).await;
        fallback.disarm();
        if again.is_err() {
            pass.outcome = Outcome::Failed;
        }
        drop(pass);
        let _entered = span.enter();
        match again {
            Ok(Again::Now) => self.queue.add(key),
            Ok(Again::At(at)) => self.queue.add_in(key, wait_until(self.world.now(), at)),
            Ok(Again::Never) => {}
            Err(error) => {
                tracing::error!("{error}; trying again in {} s", BROKEN_STORE_WAIT.as_secs());
                self.queue.add_at(key, Instant::now() + BROKEN_STORE_WAIT);
            }
        }
        drop(lease);
    }

    pub(crate) async fn try_pass(&self, key: &Key, pass: &mut Pass<'_>) -> Result<Again, DurableError> {
        let Some(record) = self.desired.get(key) else {
            pass.outcome = Outcome::Gone;
            return Ok(Again::Never);
        };
        let observed = self.world.observe(&record).await;
        let previous = self.sink.published(&record);
        let now = self.world.now();
        let plan = plan::plan(&Input {
            record: &record,
            machine_hash: &self.machine_hashes.of(&record),
            observed: &observed,
            previous: &previous,
            now,
            fresh_boot_id: &self.world.fresh_boot_id(),
        });
        // Remembered first: what is done next must not be done twice, should this process end right after it.
        let memory = plan.memory.unwrap_or_else(|| record.memory.clone());
        let Some(fresh) = self.desired.remember(&record, memory)? else {
            pass.outcome = Outcome::Superseded;
            return Ok(Again::Now);
        };
        let status = plan.status.as_ref().unwrap_or(&previous);
        self.metrics.planned(&Planned {
            before: &record,
            after: &fresh,
            observed: &observed,
            previous: &previous,
            status,
            now,
        });
        let record = fresh;
        self.sink.publish(&record, plan.status.as_ref())?;
        self.tell(&record, &plan.events, now);
        let Some(action) = plan.next else {
            let moving = status.is_true(ConditionType::Reconciling);
            pass.outcome = if moving { Outcome::Awaiting } else { Outcome::Settled };
            return Ok(Again::At(plan.wake));
        };
        tracing::debug!(?action, "acting");
        let began = Instant::now();
        if let Err(fault) = self.world.act(&record, &action).await {
            tracing::warn!(stage = ?action.stage(), code = fault.code, "{}", fault.message);
            self.metrics.failed(action.stage());
            self.note_failure(&record, action.stage(), fault)?;
            return Ok(Again::Now);
        }
        self.metrics.acted(&action, began.elapsed());
        pass.outcome = Outcome::Acted;
        if action == Action::Forget {
            self.sink.retract(key)?;
            let reborn = self.desired.forget(key, now)?;
            self.metrics.forget(&record.uid);
            self.machine_hashes.forget(&record.uid);
            pass.outcome = Outcome::Gone;
            let message = "the machine, its disks and its state are removed".to_owned();
            self.tell(&record, &[Event { type_: EventType::Normal, reason: Reason::Deleted, message }], now);
            return Ok(if reborn { Again::Now } else { Again::Never });
        }
        Ok(Again::Now)
    }

    fn note_failure(&self, record: &Record, stage: Stage, fault: Fault) -> Result<(), DurableError> {
        let mut memory = record.memory.clone();
        plan::record_failure(record, &mut memory, stage, fault, self.world.now());
        self.desired.remember(record, memory).map(drop)
    }

    fn tell(&self, record: &Record, events: &[Event], time: Timestamp) {
        for event in events {
            self.metrics.event(event.type_);
            let line = journal::Event {
                time,
                key: record.key.clone(),
                uid: record.uid.clone(),
                type_: event.type_,
                reason: event.reason.as_str().to_owned(),
                message: event.message.clone(),
            };
            match event.type_ {
                EventType::Normal => tracing::info!(reason = %event.reason, "{}", event.message),
                EventType::Warning => tracing::warn!(reason = %event.reason, "{}", event.message),
            }
            // An event that cannot be kept is still in the log and in the status; the pass goes on.
            if let Err(error) = self.journal.tell(&line) {
                tracing::error!("{error}");
            }
        }
    }
}

/// Has a workspace looked at again whose pass did not come to its end.
struct Fallback<'a> {
    key: Option<Key>,
    queue: &'a Queue,
}

impl Fallback<'_> {
    fn disarm(mut self) {
        self.key = None;
    }
}

impl Drop for Fallback<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            tracing::error!("the pass did not come to its end; trying again in {} s", BROKEN_STORE_WAIT.as_secs());
            self.queue.add_at(key, Instant::now() + BROKEN_STORE_WAIT);
        }
    }
}

/// How long it is until then. A wall clock that jumps moves one wait, not more.
fn wait_until(now: Timestamp, at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_workspace_whose_pass_panics_is_looked_at_again() {
        let queue = Queue::new();
        let key = Key::new("default", "a");
        queue.add(key.clone());
        let ended = tokio::spawn({
            let queue = queue.clone();
            async move {
                let lease = queue.next().await;
                let _fallback = Fallback { key: Some(lease.key().clone()), queue: &queue };
                panic!("a bug");
            }
        });
        assert!(ended.await.is_err());
        let began = Instant::now();
        assert_eq!(queue.next().await.key(), &key);
        assert_eq!(began.elapsed(), BROKEN_STORE_WAIT);
    }
}
