//! What is wanted: the durable records, and how snapshots of folders change them.
//!
//! A record is on the disk before it counts. The last good manifest stays in force whatever happens to its file, and a
//! workspace goes only when its folder was listed twice without it.

mod absence;
mod file_problems;
mod folder;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use microagent_base::durable::{self, DurableError, TEMPORARY_PREFIX};
use microagent_crds::{Reason, Workspace};
use uuid::Uuid;

use self::{absence::Absence, file_problems::FileProblems, folder::Folders};
use crate::{Key, Paths, Problem, Record, memory::Memory, source::Snapshot};

pub use absence::{GRACE, GRACE_DOCUMENT, GRACE_REPLACED};
pub use file_problems::FileProblem;

/// All workspaces of the host.
#[derive(Debug)]
pub struct Desired {
    paths: Paths,
    /// Boxed: a map that was filled in order is half empty.
    records: BTreeMap<Key, Box<Record>>,
    /// The records that cannot be read. Nothing is made anew under their names: that would lose their disks.
    unreadable: BTreeMap<Key, Problem>,
    folders: Folders,
    absences: BTreeMap<Key, Absence>,
    /// The keys to be settled with the next look, whatever it says of them.
    again: BTreeSet<Key>,
    rejected: BTreeMap<Key, Problem>,
    file_problems: FileProblems,
}

/// What a snapshot changed.
#[derive(Debug, Default)]
pub struct Applied {
    /// The workspaces whose records were made or changed.
    pub changed: Vec<Key>,
    /// When to look at the folders again, so that what is absent can be told from what is being moved.
    pub recheck_in: Option<Duration>,
    /// What could not be written. The next snapshot tries it again; all else was done.
    pub failures: Vec<DurableError>,
}

/// What the folders say of one key.
enum Wanted {
    Valid { workspace: Arc<Workspace>, spec_hash: Arc<str>, file: Arc<Path> },
    Invalid { problem: Problem },
    Absent,
}

impl Desired {
    /// Reads all records. `folders` are all that will be watched; what none of them is the home of is left as it is.
    ///
    /// # Errors
    /// When the directory of the records cannot be listed or made. A record that cannot be read is no error here: see
    /// [`Desired::unreadable`].
    pub fn load(paths: &Paths, folders: impl IntoIterator<Item = PathBuf>) -> Result<Self, DurableError> {
        let dir = paths.workspaces();
        durable::private_dir(&dir)?;
        let mut records = BTreeMap::new();
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
                match read_record(&path, &key) {
                    Ok(record) => {
                        records.insert(key, Box::new(record));
                    }
                    Err(message) => {
                        let code = Reason::HostError.as_str().to_owned();
                        unreadable.insert(key, Problem { code, message });
                    }
                }
            }
        }
        Ok(Self {
            folders: Folders::load(paths, folders),
            file_problems: FileProblems::load(paths),
            paths: paths.clone(),
            again: records.keys().cloned().collect(),
            records,
            unreadable,
            absences: BTreeMap::new(),
            rejected: BTreeMap::new(),
        })
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
        self.records.get(key).map(Box::as_ref)
    }

    /// The names whose manifests were never good: there is no record of them, only why. As of the last snapshot.
    #[must_use]
    pub fn rejected(&self) -> &BTreeMap<Key, Problem> {
        &self.rejected
    }

    /// All records, by key.
    pub fn iter(&self) -> impl Iterator<Item = &Record> {
        self.records.values().map(Box::as_ref)
    }

    /// Takes a snapshot of one folder: see [`Desired::apply_all`].
    #[must_use = "what changed must be reconciled, and what failed told"]
    pub fn apply(&mut self, snapshot: Snapshot, now: Timestamp) -> Applied {
        self.apply_all([snapshot], now)
    }

    /// Takes the snapshots of one look at several folders, all before anything follows from them: what moved from one to
    /// another, or was removed from both, must not be taken from what the one said before. An incomplete one changes nothing.
    #[must_use = "what changed must be reconciled, and what failed told"]
    pub fn apply_all(&mut self, snapshots: impl IntoIterator<Item = Snapshot>, now: Timestamp) -> Applied {
        let mut applied = Applied::default();
        // Only these can differ from what is recorded; there may be many more.
        let mut keys = std::mem::take(&mut self.again);
        let mut at = None;
        for snapshot in snapshots {
            at = at.max(Some(snapshot.at));
            if let Err(e) = self.folders.take(snapshot, &self.records, &mut keys) {
                applied.failures.push(e);
            }
        }
        let Some(at) = at else { return applied };
        keys.extend(self.absences.keys().chain(self.unreadable.keys()).cloned());
        let mut orphans = Vec::new();
        let mut changed = Vec::new();
        for key in keys {
            changed.extend(self.settle(&key, (at, now), &mut applied.recheck_in, &mut orphans));
        }
        self.write(changed, &mut applied);
        orphans.extend(self.folders.problems());
        applied.failures.extend(self.file_problems.publish(orphans));
        applied
    }

    /// Writes records; only then they count.
    fn write(&mut self, records: Vec<Record>, applied: &mut Applied) {
        if let Err(e) = self.make_namespaces(&records) {
            applied.failures.push(e);
            self.again.extend(records.into_iter().map(|record| record.key));
            return;
        }
        let files = records.iter().map(|record| (self.paths.record(&record.key), record));
        let results = durable::write_all_json(files);
        for (record, result) in records.into_iter().zip(results) {
            match result {
                Ok(()) => {
                    applied.changed.push(record.key.clone());
                    self.insert(record);
                }
                Err(e) => {
                    applied.failures.push(e);
                    self.again.insert(record.key);
                }
            }
        }
    }

    /// Makes the directories of new namespaces. One that cannot be made is told by the files that then cannot be written.
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

    /// Takes a record that is on the disk.
    fn insert(&mut self, record: Record) {
        if record.deleted_at.is_some() {
            self.absences.remove(&record.key);
        }
        self.records.insert(record.key.clone(), Box::new(record));
    }

    /// Changes a record; it is written when, and only when, it differs. Gives whether it did. The key and the UID must
    /// stay. A key without a record is no error: its workspace went meanwhile.
    ///
    /// # Errors
    /// Those of the operating system; the record is then as it was.
    pub fn update(&mut self, key: &Key, change: impl FnOnce(&mut Record)) -> Result<bool, DurableError> {
        let Some(next) = self.records.get(key).and_then(|record| changed(record, change)) else { return Ok(false) };
        durable::write_json(&self.paths.record(key), &next)?;
        self.records.insert(key.clone(), Box::new(next));
        Ok(true)
    }

    /// Sets the tombstone of a workspace, whatever its folder says. Gives whether that changed anything. When its file is
    /// still there once it is gone, it is made anew.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn delete(&mut self, key: &Key, now: Timestamp) -> Result<bool, DurableError> {
        self.update(key, |record| tombstone(record, now))
    }

    /// Forgets a workspace of which nothing is left on the host. When its name was declared again meanwhile, it is made
    /// anew with another UID; gives whether it was.
    ///
    /// # Errors
    /// Those of the operating system; call it again then.
    pub fn forget(&mut self, key: &Key, now: Timestamp) -> Result<bool, DurableError> {
        let path = self.paths.record(key);
        durable::remove_file(&path)?;
        if let Some(dir) = path.parent() {
            // Not flushed, the removal could be undone by a power cut, and the workspace be seen as deleted a second
            // time: harmless, but its events would be told twice.
            durable::sync_dir(dir)?;
            // Refused while others of the namespace are there.
            let _ = fs::remove_dir(dir);
        }
        self.records.remove(key);
        self.absences.remove(key);
        // What is said of the name now is told, or tried again, with the next look.
        self.again.insert(key.clone());
        let Wanted::Valid { workspace, spec_hash, file } = self.folders.wanted(key) else { return Ok(false) };
        let mut applied = Applied::default();
        self.write(vec![new_record(key, workspace, &spec_hash, &file, now)], &mut applied);
        applied.failures.pop().map_or(Ok(true), Err)
    }

    /// What the record of one key must become to be in line with the folders; nothing when it is.
    fn settle(
        &mut self,
        key: &Key,
        (at, now): (Instant, Timestamp),
        recheck_in: &mut Option<Duration>,
        orphans: &mut Vec<(PathBuf, Problem)>,
    ) -> Option<Record> {
        self.rejected.remove(key);
        let wanted = self.folders.wanted(key);
        if let Some(problem) = self.unreadable.get(key) {
            if let Wanted::Valid { file, .. } = wanted {
                orphans.push((file.to_path_buf(), problem.clone()));
            }
            return None;
        }
        let Some(record) = self.records.get_mut(key) else {
            match wanted {
                Wanted::Valid { workspace, spec_hash, file } => {
                    return Some(new_record(key, workspace, &spec_hash, &file, now));
                }
                Wanted::Invalid { problem } => drop(self.rejected.insert(key.clone(), problem)),
                Wanted::Absent => {}
            }
            return None;
        };
        if record.deleted_at.is_some() {
            // What is declared under this name now waits until the old workspace is gone: see `forget`.
            self.absences.remove(key);
            return None;
        }
        match wanted {
            Wanted::Valid { workspace, spec_hash, file } => {
                self.absences.remove(key);
                if record.spec_hash != *spec_hash
                    && record.file != *file
                    && let Some(problem) = self.folders.problem(&record.file)
                {
                    let problem = hidden(&file, &record.file, problem);
                    return changed(record, |record| record.problem = Some(problem));
                }
                if record.workspace == workspace {
                    // Read anew, it is still one and the same in memory.
                    record.workspace = workspace.clone();
                }
                changed(record, |record| {
                    if record.spec_hash != *spec_hash {
                        record.generation += 1;
                        record.spec_hash = spec_hash.to_string();
                    }
                    record.workspace = workspace;
                    record.file = file.to_path_buf();
                    record.problem = None;
                })
            }
            Wanted::Invalid { problem } => {
                self.absences.remove(key);
                changed(record, |record| record.problem = Some(problem))
            }
            Wanted::Absent => match self.folders.absence(record, self.absences.get(key), at) {
                absence::Verdict::Held(absence, problem) => {
                    self.absences.insert(key.clone(), absence);
                    problem.and_then(|problem| changed(record, |record| record.problem = Some(problem)))
                }
                absence::Verdict::Waiting(absence, left) => {
                    self.absences.insert(key.clone(), absence);
                    *recheck_in = [*recheck_in, left].into_iter().flatten().min();
                    None
                }
                absence::Verdict::Gone => changed(record, |record| tombstone(record, now)),
            },
        }
    }
}

/// The record with this change; nothing when it changes nothing.
fn changed(record: &Record, change: impl FnOnce(&mut Record)) -> Option<Record> {
    let mut next = record.clone();
    change(&mut next);
    (next != *record).then_some(next)
}

fn tombstone(record: &mut Record, now: Timestamp) {
    if record.deleted_at.is_none() {
        record.deleted_at = Some(now);
        record.problem = None;
    }
}

fn new_record(key: &Key, workspace: Arc<Workspace>, spec_hash: &str, file: &Path, now: Timestamp) -> Record {
    Record {
        key: key.clone(),
        uid: Uuid::now_v7().to_string(),
        generation: 1,
        spec_hash: spec_hash.to_owned(),
        workspace,
        file: file.to_owned(),
        created_at: now,
        deleted_at: None,
        problem: None,
        memory: Memory::default(),
    }
}

/// Why a manifest in another file is not taken while the one that runs is hidden.
fn hidden(file: &Path, own: &Path, problem: &Problem) -> Problem {
    Problem {
        code: problem.code.clone(),
        message: format!(
            "{} declares this workspace otherwise, but what {} says of it cannot be read: what runs stays as it is until that \
             file is repaired or removed\n{}",
            file.display(),
            own.display(),
            problem.message
        ),
    }
}

/// The names in a directory, sorted; none when it is no directory. Names that are not text are none of ours.
fn list(dir: &Path) -> Result<Vec<String>, DurableError> {
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

fn read_record(path: &Path, key: &Key) -> Result<Record, String> {
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

#[cfg(test)]
mod tests;
