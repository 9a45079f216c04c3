//! Brings the status of each workspace to the API server: only when it differs from what the server has, the newest only, as long as it
//! takes. A pass never waits for it: a machine must be looked after whether or not the API server can be reached.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use microagent_base::Digest;
use microagent_crds::{ConditionType, WorkspaceStatus};
use serde_json::Value;
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::task::TaskTracker;

use super::cluster::{ApiError, Cluster};
use crate::{Key, plan::backoff::draw, queue::Queue};

/// How many statuses are on their way at once.
const WRITERS: usize = 16;

/// How long a status that will not stay waits for the next one: a start that takes less costs one write.
const LINGER: Duration = Duration::from_millis(200);

/// The waits after failures: twice as long each time, to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// See the module.
pub(super) struct Publisher {
    entries: Mutex<HashMap<Key, Entry>>,
    queue: Queue,
    cluster: Cluster,
}

/// What is known of one object's status.
#[derive(Debug)]
struct Entry {
    uid: String,
    /// Of what is to be there.
    wanted: Option<Digest>,
    /// What is to be there, until it is.
    pending: Option<Arc<WorkspaceStatus>>,
    /// Of what the server has.
    server: Option<Digest>,
    /// The version of the object that `server` is of.
    version: Option<u64>,
    failures: u32,
    /// Not before this: the server refused or was not to be reached.
    not_before: Option<Instant>,
}

impl Entry {
    fn new(uid: &str) -> Self {
        Self {
            uid: uid.to_owned(),
            wanted: None,
            pending: None,
            server: None,
            version: None,
            failures: 0,
            not_before: None,
        }
    }

    fn is_done(&self) -> bool {
        self.wanted.is_some() && self.wanted == self.server
    }
}

impl Publisher {
    pub(super) fn new(cluster: Cluster) -> Self {
        Self { entries: Mutex::default(), queue: Queue::new(), cluster }
    }

    /// This is to be the status of the object of this UID.
    pub(super) fn want(&self, key: &Key, uid: &str, status: &WorkspaceStatus) {
        let digest = digest(status);
        let mut entries = self.lock();
        let entry = entries.entry(key.clone()).or_insert_with(|| Entry::new(uid));
        if entry.uid != uid {
            *entry = Entry::new(uid);
        }
        entry.wanted = Some(digest);
        if entry.is_done() {
            entry.pending = None;
            return;
        }
        entry.pending = Some(Arc::new(status.clone()));
        let moving = status.is_true(ConditionType::Reconciling);
        let at = Instant::now() + if moving { LINGER } else { Duration::ZERO };
        let at = entry.not_before.map_or(at, |not_before| at.max(not_before));
        drop(entries);
        self.queue.add_at(key.clone(), at);
    }

    /// Whether the status must be told again by [`Publisher::want`]: none was told yet of this UID, or the server has another.
    pub(super) fn lacks(&self, key: &Key, uid: &str) -> bool {
        match self.lock().get(key) {
            Some(entry) if entry.uid == uid => !entry.is_done() && entry.pending.is_none(),
            _ => true,
        }
    }

    /// The server showed this status. Gives whether it is another than the one that is to be there and not on its way already.
    pub(super) fn saw(&self, key: &Key, uid: &str, status: &Value, version: Option<u64>) -> bool {
        let mut entries = self.lock();
        let entry = entries.entry(key.clone()).or_insert_with(|| Entry::new(uid));
        if entry.uid != uid {
            *entry = Entry::new(uid);
        }
        // The answer to a later write came before this news.
        if entry.version.zip(version).is_some_and(|(known, seen)| seen < known) {
            return false;
        }
        entry.version = version;
        entry.server = digest_of(status);
        entry.wanted.is_some() && !entry.is_done() && entry.pending.is_none()
    }

    /// The object is gone.
    pub(super) fn forget(&self, key: &Key) {
        self.lock().remove(key);
        self.queue.remove(key);
    }

    /// Writes, until it is dropped.
    pub(super) async fn run(self: Arc<Self>) {
        let writers = Arc::new(Semaphore::new(WRITERS));
        let tasks = TaskTracker::new();
        loop {
            let lease = self.queue.next().await;
            let Ok(permit) = writers.clone().acquire_owned().await else { return };
            let publisher = self.clone();
            tasks.spawn(async move {
                publisher.write(lease.key()).await;
                drop((lease, permit));
            });
        }
    }

    /// Writes once more what is pending, before the agent ends.
    pub(super) async fn flush(&self, patience: Duration) {
        let keys: Vec<Key> = {
            let entries = self.lock();
            entries.iter().filter(|(_, entry)| entry.pending.is_some()).map(|(key, _)| key.clone()).collect()
        };
        let all = futures::future::join_all(keys.iter().map(|key| self.write(key)));
        let _ = tokio::time::timeout(patience, all).await;
    }

    async fn write(&self, key: &Key) {
        let taken = {
            let entries = self.lock();
            let pending = |entry: &Entry| Some((entry.uid.clone(), entry.pending.clone()?, entry.wanted?));
            entries.get(key).and_then(pending)
        };
        let Some((uid, status, wanted)) = taken else { return };
        let written = self.cluster.apply_status(key, &uid, &status).await;
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(key).filter(|entry| entry.uid == uid) else { return };
        match written {
            Ok(version) => {
                // What the server makes of it is what was asked for, whatever form it has there.
                entry.server = Some(wanted);
                entry.version = version.max(entry.version);
                (entry.failures, entry.not_before) = (0, None);
                if entry.wanted == Some(wanted) {
                    entry.pending = None;
                    return;
                }
                // Another came meanwhile.
                drop(entries);
                self.queue.add(key.clone());
            }
            Err(ApiError::Gone | ApiError::Conflict(_)) => {
                // The watch tells what became of it.
                tracing::debug!(workspace = %key, "the status is of an object that is gone");
                entries.remove(key);
            }
            Err(error) => {
                entry.failures = entry.failures.saturating_add(1);
                let wait = wait_after(&uid, entry.failures, error.is_retryable());
                let at = Instant::now() + wait;
                entry.not_before = Some(at);
                let first = entry.failures == 1;
                drop(entries);
                // Told once for each object: a server that is down for an hour is not news each minute.
                if first {
                    tracing::warn!(workspace = %key, "the status cannot be published: {error}");
                }
                self.queue.add_at(key.clone(), at);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        // No code that can panic changes the map, so a poisoned one is whole.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Half of it by chance, so that the agents of a cluster do not all come back at once. What a person must mend is not asked for in a hurry.
pub(super) fn wait_after(uid: &str, failures: u32, is_retryable: bool) -> Duration {
    let longest = FIRST_WAIT.saturating_mul(1 << failures.min(10)).min(LONGEST_WAIT);
    let longest = if is_retryable { longest } else { LONGEST_WAIT };
    let half = longest / 2;
    let millis = u64::try_from(half.as_millis()).unwrap_or(u64::MAX);
    half + Duration::from_millis(draw(uid, failures) % millis.saturating_add(1))
}

/// The agent's part of a status. `Scheduled` is placement's.
fn digest(status: &WorkspaceStatus) -> Digest {
    let mut own = status.clone();
    own.conditions.retain(|condition| condition.type_ != ConditionType::Scheduled);
    // A map of text keys always has a JSON form.
    Digest::of(&serde_json::to_vec(&own).unwrap_or_default())
}

/// The same of a status as the server has it; nothing when there is none, or one that makes no sense.
fn digest_of(status: &Value) -> Option<Digest> {
    serde_json::from_value::<WorkspaceStatus>(status.clone()).ok().map(|status| digest(&status))
}

#[cfg(test)]
mod tests {
    use microagent_crds::Phase;

    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_are_never_nothing() {
        for failures in 1..40 {
            let wait = wait_after("u-1", failures, true);
            assert!(wait >= FIRST_WAIT && wait <= LONGEST_WAIT, "{failures}: {wait:?}");
        }
        assert!(wait_after("u-1", 1, true) <= FIRST_WAIT * 2);
        assert!(wait_after("u-1", 1, false) >= LONGEST_WAIT / 2);
    }

    #[test]
    fn a_status_is_the_same_with_what_placement_tells_and_what_a_newer_version_tells() {
        let status = WorkspaceStatus { phase: Some(Phase::Running), ..WorkspaceStatus::default() };
        let mut shown = serde_json::to_value(&status).unwrap();
        shown["conditions"] = serde_json::json!([{
            "type": "Scheduled", "status": "True", "reason": "Scheduled", "message": "",
            "lastTransitionTime": "2026-01-02T03:04:05Z",
        }]);
        shown["fresh"] = true.into();
        assert_eq!(digest_of(&shown), Some(digest(&status)));
        shown["phase"] = "Halted".into();
        assert_ne!(digest_of(&shown), Some(digest(&status)));
        assert_eq!(digest_of(&Value::Null), None);
    }
}
