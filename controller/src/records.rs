//! The durable records of all workspaces of a host: a file each, on the disk before it counts.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use microagent_base::durable::{self, DurableError, TEMPORARY_PREFIX};
use microagent_crds::Reason;

use crate::{Key, Paths, Problem, Record, memory::Memory};

/// All records.
#[derive(Debug)]
pub struct Records {
    paths: Paths,
    /// Boxed: a map that was filled in order is half empty.
    all: BTreeMap<Key, Box<Record>>,
    /// The records that cannot be read. Nothing is made anew under their names: that would lose their disks.
    unreadable: BTreeMap<Key, Problem>,
}

/// What became of records that were to be written.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// These are on the disk.
    pub(crate) done: Vec<Key>,
    /// These are as they were.
    pub(crate) failed: Vec<Key>,
    /// Why, one for each cause.
    pub(crate) errors: Vec<DurableError>,
}

/// Which records there are, for those who look after all of them.
pub trait Roster: Send + Sync {
    /// Shows the records as they are now, and the names that were never good, each with why. Short: others wait meanwhile.
    fn show(&self, see: &mut dyn FnMut(&Records, &BTreeMap<Key, Problem>));
}

impl<R: Roster + ?Sized> Roster for std::sync::Arc<R> {
    fn show(&self, see: &mut dyn FnMut(&Records, &BTreeMap<Key, Problem>)) {
        R::show(self, see);
    }
}

impl Records {
    /// Reads all records.
    ///
    /// # Errors
    /// When the directory of the records cannot be listed or made. A record that cannot be read is no error here: see
    /// [`Records::unreadable`].
    pub fn load(paths: &Paths) -> Result<Self, DurableError> {
        let dir = paths.workspaces();
        durable::private_dir(&dir)?;
        let mut all = BTreeMap::new();
        let mut unreadable = BTreeMap::new();
        for namespace in list(&dir)? {
            for name in list(&dir.join(&namespace))? {
                let path = dir.join(&namespace).join(&name);
                if name.starts_with(TEMPORARY_PREFIX) {
                    durable::remove_file(&path)?;
                    continue;
                }
                let Some(stem) = name.strip_suffix(".json") else { continue };
                let key = Key::new(&namespace, stem);
                match read(&path, &key) {
                    Ok(record) => {
                        all.insert(key, Box::new(record));
                    }
                    Err(message) => {
                        let code = Reason::HostError.as_str().to_owned();
                        unreadable.insert(key, Problem { code, message });
                    }
                }
            }
        }
        Ok(Self { paths: paths.clone(), all, unreadable })
    }

    /// The workspaces whose records cannot be read, each with why. They are left alone until the file is repaired or
    /// moved away and the controller started again.
    #[must_use]
    pub fn unreadable(&self) -> &BTreeMap<Key, Problem> {
        &self.unreadable
    }

    /// The record of a workspace.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Record> {
        self.all.get(key).map(Box::as_ref)
    }

    /// The record of a workspace, for a change that is not durable and need not be.
    pub(crate) fn get_mut(&mut self, key: &Key) -> Option<&mut Record> {
        self.all.get_mut(key).map(Box::as_mut)
    }

    /// All records, by key.
    pub fn iter(&self) -> impl Iterator<Item = &Record> {
        self.all.values().map(Box::as_ref)
    }

    /// Writes records, one flush for all; only then they count.
    pub(crate) fn write(&mut self, records: Vec<Record>) -> Written {
        let mut written = Written::default();
        // A directory that cannot be made is told by the files that then cannot be written.
        if let Err(error) = self.make_namespaces(&records) {
            written.errors.push(error);
            written.failed.extend(records.into_iter().map(|record| record.key));
            return written;
        }
        let files = records.iter().map(|record| (self.paths.record(&record.key), record));
        let results = durable::write_all_json(files);
        for (record, result) in records.into_iter().zip(results) {
            let key = record.key.clone();
            match result {
                Ok(()) => {
                    self.all.insert(key.clone(), Box::new(record));
                    written.done.push(key);
                }
                Err(error) => {
                    written.errors.push(error);
                    written.failed.push(key);
                }
            }
        }
        written
    }

    /// Makes the directories of new namespaces.
    fn make_namespaces(&self, records: &[Record]) -> Result<(), DurableError> {
        let dir = self.paths.workspaces();
        let namespaces: BTreeSet<&str> = records.iter().map(|record| record.key.namespace.as_str()).collect();
        let dirs = namespaces.into_iter().map(|namespace| dir.join(namespace)).filter(|dir| !dir.exists());
        let made: Vec<PathBuf> = dirs.filter(|dir| durable::private_dir(dir).is_ok()).collect();
        if made.is_empty() {
            return Ok(());
        }
        // Taken back when it fails, so that the next try does not find them and take them for flushed.
        durable::sync_dir(&dir).inspect_err(|_| made.iter().for_each(|dir| drop(fs::remove_dir(dir))))
    }

    /// Changes a record; it is written when, and only when, it differs. Gives whether it did. The key and the UID must
    /// stay. A key without a record is no error: its workspace went meanwhile.
    ///
    /// # Errors
    /// Those of the operating system; the record is then as it was.
    pub fn update(&mut self, key: &Key, change: impl FnOnce(&mut Record)) -> Result<bool, DurableError> {
        let Some(next) = self.all.get(key).and_then(|record| changed(record, change)) else { return Ok(false) };
        durable::write_json(&self.paths.record(key), &next)?;
        self.all.insert(key.clone(), Box::new(next));
        Ok(true)
    }

    /// The record with this memory, durable; nothing when the desired state has moved on since `record` was read.
    ///
    /// # Errors
    /// Those of the operating system; nothing has changed then.
    pub(crate) fn remember(&mut self, record: &Record, memory: Memory) -> Result<Option<Record>, DurableError> {
        let fresh = |now: &&Record| {
            now.uid == record.uid && now.generation == record.generation && now.deleted_at == record.deleted_at
        };
        if self.get(&record.key).filter(fresh).is_none() {
            return Ok(None);
        }
        self.update(&record.key, |record| record.memory = memory)?;
        Ok(self.get(&record.key).cloned())
    }

    /// Removes the record of a workspace of which nothing is left on the host.
    ///
    /// # Errors
    /// Those of the operating system; call it again then.
    pub(crate) fn remove(&mut self, key: &Key) -> Result<(), DurableError> {
        let path = self.paths.record(key);
        durable::remove_file(&path)?;
        if let Some(dir) = path.parent() {
            // Not flushed, the removal could be undone by a power cut, and the workspace be seen as deleted a second
            // time: harmless, but its events would be told twice.
            durable::sync_dir(dir)?;
            // Refused while others of the namespace are there.
            let _ = fs::remove_dir(dir);
        }
        self.all.remove(key);
        Ok(())
    }
}

/// The record with this change; nothing when it changes nothing.
pub(crate) fn changed(record: &Record, change: impl FnOnce(&mut Record)) -> Option<Record> {
    let mut next = record.clone();
    change(&mut next);
    (next != *record).then_some(next)
}

/// Sets the tombstone, if it is not set. What is wrong with the manifest no longer matters then.
pub(crate) fn tombstone(record: &mut Record, at: jiff::Timestamp) {
    if record.deleted_at.is_none() {
        record.deleted_at = Some(at);
        record.problem = None;
    }
}

/// The names in a directory, sorted; none when it is no directory. Names that are not text are none of ours.
pub(crate) fn list(dir: &Path) -> Result<Vec<String>, DurableError> {
    let fail = |source| DurableError::Io { action: "list", path: dir.to_owned(), source };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(Vec::new()),
        Err(e) => return Err(fail(e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.map_err(fail)?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

fn read(path: &Path, key: &Key) -> Result<Record, String> {
    match durable::read_json::<Record>(path) {
        Ok(Some(record)) if record.key == *key => Ok(record),
        Ok(Some(record)) => Err(format!(
            "the record {} is of workspace {}, not of {key}; move the file to where it belongs",
            path.display(),
            record.key
        )),
        Ok(None) => Err(format!("the record {} leads nowhere; move it away", path.display())),
        Err(e) => Err(format!("the record of workspace {key} cannot be read, so the workspace is left alone: {e}")),
    }
}
