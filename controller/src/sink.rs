//! Where the status goes: one file for each workspace, the whole object as `kubectl get -o json` would give it.
//!
//! What is published can be computed again, so these files are replaced as a whole but not flushed: a reader never sees a part,
//! and a power cut costs at most the last change.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
    sync::{Mutex, PoisonError},
};

use jiff::Timestamp;
use microagent_base::durable::{self, DurableError, TEMPORARY_PREFIX};
use microagent_crds::{
    Condition, ConditionStatus, ConditionType, Phase, Reason, Time, Workspace, WorkspaceSpec, WorkspaceStatus,
};

use crate::{Key, Paths, Problem, Record};

/// Takes what passes decided.
pub trait Sink: Send + Sync {
    /// The status that was published last for this workspace; an empty one for another UID of the same name.
    fn published(&self, record: &Record) -> WorkspaceStatus;

    /// Publishes, when something differs from what was published last. Gives whether it did.
    ///
    /// # Errors
    /// It cannot be written; it is then published by a later pass.
    fn publish(&self, record: &Record, status: &WorkspaceStatus) -> Result<bool, DurableError>;

    /// Takes back what was published of a workspace that is gone.
    ///
    /// # Errors
    /// It cannot be removed.
    fn retract(&self, key: &Key) -> Result<(), DurableError>;

    /// Publishes exactly these as the workspaces whose manifests were never good: objects with an empty spec, no UID, and a
    /// status that says why.
    ///
    /// # Errors
    /// One cannot be written or removed; it is tried again with the next call.
    fn publish_rejected(&self, rejected: &BTreeMap<Key, Problem>) -> Result<(), DurableError>;
}

/// The status directory.
pub struct StatusFiles {
    paths: Paths,
    last: Mutex<HashMap<Key, Workspace>>,
}

impl StatusFiles {
    /// The status directory of these paths, with what an earlier controller published there.
    #[must_use]
    pub fn new(paths: &Paths) -> Self {
        let files = Self { paths: paths.clone(), last: Mutex::default() };
        for namespace in fs::read_dir(paths.status()).into_iter().flatten().flatten() {
            for object in fs::read_dir(namespace.path()).into_iter().flatten().flatten() {
                let (namespace, name) = (namespace.file_name(), object.file_name());
                // An earlier controller was killed while it wrote.
                if name.to_string_lossy().starts_with(TEMPORARY_PREFIX) {
                    let _ = durable::remove_file(&object.path());
                }
                if let (Some(namespace), Some(name)) =
                    (namespace.to_str(), name.to_str().and_then(|n| n.strip_suffix(".json")))
                {
                    files.load(&Key::new(namespace, name));
                }
            }
        }
        files
    }

    /// Publishes one object, when it differs from what was published last.
    fn put(&self, key: &Key, object: Workspace) -> Result<bool, DurableError> {
        if self.last().get(key) == Some(&object) {
            return Ok(false);
        }
        let path = self.paths.object(key);
        durable::private_dir(path.parent().unwrap_or(Path::new("/")))?;
        durable::replace_json(&path, &object)?;
        self.last().insert(key.clone(), object);
        Ok(true)
    }

    /// Takes what an earlier controller published as what was published last.
    fn load(&self, key: &Key) {
        let mut last = self.last();
        if !last.contains_key(key)
            && let Some(object) = read(&self.paths.object(key))
        {
            last.insert(key.clone(), object);
        }
    }

    fn last(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Workspace>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for StatusFiles {
    fn published(&self, record: &Record) -> WorkspaceStatus {
        self.load(&record.key);
        let last = self.last();
        let same = last.get(&record.key).filter(|object| object.metadata.uid.as_deref() == Some(&record.uid));
        same.and_then(|object| object.status.clone()).unwrap_or_default()
    }

    fn publish(&self, record: &Record, status: &WorkspaceStatus) -> Result<bool, DurableError> {
        self.put(&record.key, object(record, status))
    }

    fn retract(&self, key: &Key) -> Result<(), DurableError> {
        self.last().remove(key);
        durable::remove_file(&self.paths.object(key))
    }

    fn publish_rejected(&self, rejected: &BTreeMap<Key, Problem>) -> Result<(), DurableError> {
        let is_rejected = |object: &Workspace| object.metadata.uid.is_none();
        let cured: Vec<Key> = self
            .last()
            .iter()
            .filter(|(key, object)| is_rejected(object) && !rejected.contains_key(key))
            .map(|(k, _)| k.clone())
            .collect();
        for key in cured {
            self.retract(&key)?;
        }
        for (key, problem) in rejected {
            self.load(key);
            let previous = self.last().get(key).and_then(|object| object.status.clone()).unwrap_or_default();
            self.put(key, rejected_object(key, problem, &previous))?;
        }
        Ok(())
    }
}

/// A file that does not decode counts as none: it is written anew.
fn read(path: &Path) -> Option<Workspace> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// The object as Kubernetes would show it.
fn object(record: &Record, status: &WorkspaceStatus) -> Workspace {
    let mut object = record.workspace.clone();
    object.metadata.namespace = Some(record.key.namespace.clone());
    object.metadata.uid = Some(record.uid.clone());
    object.metadata.generation = Some(record.generation);
    object.metadata.creation_timestamp = Some(Time(record.created_at));
    object.metadata.deletion_timestamp = record.deleted_at.map(Time);
    object.status = Some(status.clone());
    object
}

/// The object of a manifest that was never good.
fn rejected_object(key: &Key, problem: &Problem, previous: &WorkspaceStatus) -> Workspace {
    let reason = match Reason::from_code(&problem.code) {
        Reason::Unknown => Reason::InvalidManifest,
        known => known,
    };
    let condition = |type_: ConditionType, status: ConditionStatus| {
        let known = previous.condition(type_).filter(|known| known.status == status);
        let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
        Condition {
            type_,
            status,
            reason,
            message: problem.message.clone(),
            observed_generation: None,
            last_transition_time: known.map_or(Time(now), |known| known.last_transition_time.clone()),
        }
    };
    let mut object = Workspace::new(&key.name, WorkspaceSpec::new(String::new()));
    object.metadata.namespace = Some(key.namespace.clone());
    object.status = Some(WorkspaceStatus {
        phase: Some(Phase::Failed),
        conditions: vec![
            condition(ConditionType::Reconciling, ConditionStatus::False),
            condition(ConditionType::Stalled, ConditionStatus::True),
            condition(ConditionType::Ready, ConditionStatus::False),
        ],
        ..WorkspaceStatus::default()
    });
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_that_was_never_good_is_an_object_until_it_is_cured_also_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { state: dir.path().join("state"), cache: dir.path().join("cache") };
        let key = Key::new("default", "bad");
        let problem = Problem { code: "InvalidManifest".to_owned(), message: "line 3".to_owned() };
        StatusFiles::new(&paths).publish_rejected(&BTreeMap::from([(key.clone(), problem)])).unwrap();
        let object = read(&paths.object(&key)).unwrap();
        assert!(object.status.unwrap().is_true(ConditionType::Stalled));
        StatusFiles::new(&paths).publish_rejected(&BTreeMap::new()).unwrap();
        assert!(read(&paths.object(&key)).is_none());
    }
}
