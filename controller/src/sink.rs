//! Where the status goes: one file for each workspace, the whole object as `kubectl get -o json` would give it.
//!
//! What is published can be computed again, so these files are replaced as a whole but not flushed: a reader never sees a part,
//! and a power cut costs at most the last change.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use jiff::Timestamp;
use microagent_base::{
    Digest,
    durable::{self, DurableError, TEMPORARY_PREFIX},
};
use microagent_crds::{
    Condition, ConditionStatus, ConditionType, Phase, Reason, Time, Workspace, WorkspaceSpec, WorkspaceStatus,
};

use serde::Deserialize;

use crate::{Key, Paths, Problem, Record};

/// Takes what passes decided.
pub trait Sink: Send + Sync {
    /// The status that was published last for this workspace; an empty one for another UID of the same name.
    fn published(&self, record: &Record) -> WorkspaceStatus;

    /// Publishes, when something differs from what was published last. Gives whether it did. Without a status the one that
    /// [`Sink::published`] gave stays: a record that has not changed either then costs nothing.
    ///
    /// # Errors
    /// It cannot be written; it is then published by a later pass.
    fn publish(&self, record: &Record, status: Option<&WorkspaceStatus>) -> Result<bool, DurableError>;

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
///
/// What was published is kept as a digest alone, so that many workspaces are little memory, and read again when it is asked
/// for. A file that somebody changed or removed is then found, and published anew.
pub struct StatusFiles {
    paths: Paths,
    last: Mutex<HashMap<Key, Told>>,
}

/// What was published of one name.
#[derive(Clone, Debug)]
struct Told {
    /// Of the file.
    digest: Digest,
    /// Whether it is of a manifest that was never good.
    rejected: bool,
    /// The record that it was made from, where this controller made it.
    made_from: Option<MadeFrom>,
}

/// What of a record is in the object.
#[derive(Clone, Debug)]
struct MadeFrom {
    uid: String,
    generation: i64,
    deleted: bool,
    /// Kept weakly: its place is not given to another one.
    workspace: Weak<Workspace>,
}

impl MadeFrom {
    fn of(record: &Record) -> Self {
        Self {
            uid: record.uid.clone(),
            generation: record.generation,
            deleted: record.deleted_at.is_some(),
            workspace: Arc::downgrade(&record.workspace),
        }
    }

    fn is(&self, record: &Record) -> bool {
        self.uid == record.uid
            && self.generation == record.generation
            && self.deleted == record.deleted_at.is_some()
            && std::ptr::eq(self.workspace.as_ptr(), Arc::as_ptr(&record.workspace))
    }
}

/// What a pass needs of an object that was published.
#[derive(Deserialize)]
struct Published {
    metadata: Metadata,
    #[serde(default)]
    status: Option<WorkspaceStatus>,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    uid: Option<String>,
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
                    files.read(&Key::new(namespace, name));
                }
            }
        }
        files
    }

    /// Publishes one object, when it differs from what was published last.
    fn put(&self, key: &Key, object: &Workspace, made_from: Option<MadeFrom>) -> Result<bool, DurableError> {
        let path = self.paths.object(key);
        let bytes = durable::encode(&path, object)?;
        let told = Told { digest: Digest::of(&bytes), rejected: object.metadata.uid.is_none(), made_from };
        if let Some(known) = self.last().get_mut(key)
            && known.digest == told.digest
        {
            *known = told;
            return Ok(false);
        }
        durable::private_dir(path.parent().unwrap_or(Path::new("/")))?;
        durable::replace(&path, &bytes)?;
        self.last().insert(key.clone(), told);
        Ok(true)
    }

    /// The object that is there, and takes it as what was published last. One that does not decode counts as none: it is
    /// written anew.
    fn read(&self, key: &Key) -> Option<Published> {
        let read = || {
            let bytes = fs::read(self.paths.object(key)).ok()?;
            let object: Published = serde_json::from_slice(&bytes).ok()?;
            Some((Digest::of(&bytes), object))
        };
        let Some((digest, object)) = read() else {
            self.last().remove(key);
            return None;
        };
        let mut last = self.last();
        if last.get(key).is_none_or(|told| told.digest != digest) {
            last.insert(key.clone(), Told { digest, rejected: object.metadata.uid.is_none(), made_from: None });
        }
        Some(object)
    }

    fn last(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Told>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for StatusFiles {
    fn published(&self, record: &Record) -> WorkspaceStatus {
        let object = self.read(&record.key).filter(|object| object.metadata.uid.as_deref() == Some(&record.uid));
        object.and_then(|object| object.status).unwrap_or_default()
    }

    fn publish(&self, record: &Record, status: Option<&WorkspaceStatus>) -> Result<bool, DurableError> {
        let is_made_from = |told: &Told| told.made_from.as_ref().is_some_and(|made_from| made_from.is(record));
        let put = |status: &WorkspaceStatus| self.put(&record.key, &object(record, status), Some(MadeFrom::of(record)));
        match status {
            Some(status) => put(status),
            None if self.last().get(&record.key).is_some_and(is_made_from) => Ok(false),
            None => put(&self.published(record)),
        }
    }

    fn retract(&self, key: &Key) -> Result<(), DurableError> {
        self.last().remove(key);
        durable::remove_file(&self.paths.object(key))
    }

    fn publish_rejected(&self, rejected: &BTreeMap<Key, Problem>) -> Result<(), DurableError> {
        let cured: Vec<Key> = self
            .last()
            .iter()
            .filter(|(key, told)| told.rejected && !rejected.contains_key(key))
            .map(|(key, _)| key.clone())
            .collect();
        for key in cured {
            self.retract(&key)?;
        }
        for (key, problem) in rejected {
            let previous = self.read(key).and_then(|object| object.status).unwrap_or_default();
            self.put(key, &rejected_object(key, problem, &previous), None)?;
        }
        Ok(())
    }
}

/// The object as Kubernetes would show it.
fn object(record: &Record, status: &WorkspaceStatus) -> Workspace {
    let mut object = Workspace::clone(&record.workspace);
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
    let mut object = Workspace::new(&key.name, WorkspaceSpec::new(String::new()));
    object.metadata.namespace = Some(key.namespace.clone());
    object.status = Some(rejected_status(problem, None, previous));
    object
}

/// The status of a manifest that was never good.
pub(crate) fn rejected_status(
    problem: &Problem,
    generation: Option<i64>,
    previous: &WorkspaceStatus,
) -> WorkspaceStatus {
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
            observed_generation: generation,
            last_transition_time: known.map_or(Time(now), |known| known.last_transition_time.clone()),
        }
    };
    WorkspaceStatus {
        phase: Some(Phase::Failed),
        observed_generation: generation,
        conditions: vec![
            condition(ConditionType::Reconciling, ConditionStatus::False),
            condition(ConditionType::Stalled, ConditionStatus::True),
            condition(ConditionType::Ready, ConditionStatus::False),
        ],
        ..WorkspaceStatus::default()
    }
}

#[cfg(test)]
mod tests {
    use microagent_crds::canonical_spec_hash;

    use super::*;
    use crate::memory::Memory;

    struct Fixture {
        _root: tempfile::TempDir,
        paths: Paths,
        files: StatusFiles,
        record: Record,
    }

    impl Fixture {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let paths = Paths { state: root.path().join("state"), cache: root.path().join("cache") };
            let workspace = Workspace::new("a", WorkspaceSpec::new("one"));
            let record = Record {
                key: Key::new("default", "a"),
                uid: "uid-1".to_owned(),
                generation: 1,
                spec_hash: canonical_spec_hash(&workspace.spec),
                workspace: workspace.into(),
                file: "/folder/a.yaml".into(),
                created_at: Timestamp::UNIX_EPOCH,
                deleted_at: None,
                problem: None,
                unreserved: None,
                memory: Memory::default(),
            };
            Self { files: StatusFiles::new(&paths), _root: root, paths, record }
        }

        fn publish(&self, phase: Phase) -> bool {
            self.files.publish(&self.record, Some(&status(phase))).unwrap()
        }
    }

    fn status(phase: Phase) -> WorkspaceStatus {
        WorkspaceStatus { phase: Some(phase), ..WorkspaceStatus::default() }
    }

    #[test]
    fn what_is_published_is_written_when_it_differs_also_over_a_restart() {
        let mut t = Fixture::new();
        assert_eq!(t.files.published(&t.record), WorkspaceStatus::default());
        assert!(t.publish(Phase::Pending) && t.publish(Phase::Running) && !t.publish(Phase::Running));
        t.files = StatusFiles::new(&t.paths);
        assert!(!t.publish(Phase::Running));
        assert_eq!(t.files.published(&t.record), status(Phase::Running));
        t.record.generation = 2;
        assert!(t.publish(Phase::Running));
        let object: Workspace = durable::read_json(&t.paths.object(&t.record.key)).unwrap().unwrap();
        assert_eq!((object.metadata.generation, object.metadata.uid.as_deref()), (Some(2), Some("uid-1")));
    }

    #[test]
    fn an_object_that_somebody_changed_or_removed_is_published_again() {
        let t = Fixture::new();
        let path = t.paths.object(&t.record.key);
        for wrong in [Some("{"), Some("{}"), None] {
            t.publish(Phase::Running);
            match wrong {
                Some(text) => fs::write(&path, text).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
            assert_eq!(t.files.published(&t.record), WorkspaceStatus::default());
            assert!(t.publish(Phase::Running));
            assert_eq!(t.files.published(&t.record), status(Phase::Running));
        }
    }

    #[test]
    fn a_status_that_stays_is_written_again_only_for_a_changed_record_or_file() {
        let mut t = Fixture::new();
        t.publish(Phase::Running);
        let stays = |t: &Fixture| {
            let _ = t.files.published(&t.record);
            t.files.publish(&t.record, None).unwrap()
        };
        assert!(!stays(&t));
        t.record.workspace_mut().metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
        assert!(stays(&t) && !stays(&t), "another label is another object");
        t.record.deleted_at = Some(Timestamp::UNIX_EPOCH);
        assert!(stays(&t) && !stays(&t));
        let path = t.paths.object(&t.record.key);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("\"one\"", "\"two\"")).unwrap();
        assert!(stays(&t) && !stays(&t), "what somebody changed is set right");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        t.files = StatusFiles::new(&t.paths);
        assert!(!stays(&t), "it is the same after a restart");
    }

    #[test]
    fn another_workspace_of_the_same_name_starts_with_nothing() {
        let mut t = Fixture::new();
        t.publish(Phase::Running);
        t.record.uid = "uid-2".to_owned();
        assert_eq!(t.files.published(&t.record), WorkspaceStatus::default());
        assert!(t.publish(Phase::Running));
        t.files.retract(&t.record.key).unwrap();
        assert!(!t.paths.object(&t.record.key).exists());
        assert!(t.publish(Phase::Running));
    }

    #[test]
    fn a_manifest_that_was_never_good_is_an_object_until_it_is_cured_also_over_a_restart() {
        let t = Fixture::new();
        let bad = Key::new("default", "bad");
        let problem = |line: u32| Problem { code: "InvalidManifest".to_owned(), message: format!("line {line}") };
        t.publish(Phase::Running);
        t.files.publish_rejected(&BTreeMap::from([(bad.clone(), problem(3))])).unwrap();
        let read = || durable::read_json::<Workspace>(&t.paths.object(&bad)).unwrap();
        let first = read().unwrap().status.unwrap();
        assert!(first.is_true(ConditionType::Stalled) && first.phase == Some(Phase::Failed));
        let since = "2026-01-02T03:04:05Z";
        let path = t.paths.object(&bad);
        let time = first.condition(ConditionType::Stalled).unwrap().last_transition_time.0.to_string();
        fs::write(&path, fs::read_to_string(&path).unwrap().replace(&time, since)).unwrap();
        let files = StatusFiles::new(&t.paths);
        files.publish_rejected(&BTreeMap::from([(bad.clone(), problem(4))])).unwrap();
        let second = read().unwrap().status.unwrap();
        let stalled = second.condition(ConditionType::Stalled).unwrap();
        assert_eq!(stalled.message, "line 4");
        assert_eq!(stalled.last_transition_time.0.to_string(), since, "it stalls since then");
        StatusFiles::new(&t.paths).publish_rejected(&BTreeMap::new()).unwrap();
        assert!(read().is_none());
        assert!(t.paths.object(&t.record.key).exists(), "what is no rejection stays");
    }

    #[test]
    fn an_object_is_of_its_record_until_the_record_changes() {
        let t = Fixture::new();
        let made_from = MadeFrom::of(&t.record);
        assert!(made_from.is(&t.record.clone()));
        let changes: [fn(&mut Record); 4] = [
            |record| record.uid.push('2'),
            |record| record.generation += 1,
            |record| record.deleted_at = Some(Timestamp::UNIX_EPOCH),
            |record| record.workspace = Workspace::clone(&record.workspace).into(),
        ];
        for change in changes {
            let mut record = t.record.clone();
            change(&mut record);
            assert!(!made_from.is(&record));
        }
    }
}
