//! Where the status goes: one file for each workspace, the whole object as `kubectl get -o json` would give it.
//!
//! What is published can be computed again, so these files are replaced as a whole but not flushed: a reader never sees a part,
//! and a power cut costs at most the last change.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    sync::{Mutex, PoisonError},
};

use microagent_base::durable::{self, DurableError};
use microagent_crds::{Time, Workspace, WorkspaceStatus};

use crate::{Key, Paths, Record};

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
}

/// The status directory.
pub struct StatusFiles {
    paths: Paths,
    last: Mutex<HashMap<Key, Workspace>>,
}

impl StatusFiles {
    /// The status directory of these paths.
    #[must_use]
    pub fn new(paths: &Paths) -> Self {
        Self { paths: paths.clone(), last: Mutex::default() }
    }

    fn last(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Workspace>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for StatusFiles {
    fn published(&self, record: &Record) -> WorkspaceStatus {
        let mut last = self.last();
        if !last.contains_key(&record.key)
            && let Some(object) = read(&self.paths.object(&record.key))
        {
            last.insert(record.key.clone(), object);
        }
        let same = last.get(&record.key).filter(|object| object.metadata.uid.as_deref() == Some(&record.uid));
        same.and_then(|object| object.status.clone()).unwrap_or_default()
    }

    fn publish(&self, record: &Record, status: &WorkspaceStatus) -> Result<bool, DurableError> {
        let object = object(record, status);
        if self.last().get(&record.key) == Some(&object) {
            return Ok(false);
        }
        let path = self.paths.object(&record.key);
        durable::private_dir(path.parent().unwrap_or(Path::new("/")))?;
        durable::replace_json(&path, &object)?;
        self.last().insert(record.key.clone(), object);
        Ok(true)
    }

    fn retract(&self, key: &Key) -> Result<(), DurableError> {
        self.last().remove(key);
        durable::remove_file(&self.paths.object(key))
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
