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
    time::Duration,
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
    records: BTreeMap<Key, Record>,
    /// The records that cannot be read. Nothing is made anew under their names: that would lose their disks.
    unreadable: BTreeMap<Key, Problem>,
    folders: Folders,
    absences: BTreeMap<Key, Absence>,
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
    Valid { workspace: Arc<Workspace>, spec_hash: Arc<str>, file: PathBuf },
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
                        records.insert(key, record);
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
        self.records.get(key)
    }

    /// The names whose manifests were never good: there is no record of them, only why. As of the last snapshot.
    #[must_use]
    pub fn rejected(&self) -> &BTreeMap<Key, Problem> {
        &self.rejected
    }

    /// All records, by key.
    pub fn iter(&self) -> impl Iterator<Item = &Record> {
        self.records.values()
    }

    /// Takes a snapshot of one folder. An incomplete one changes nothing.
    #[must_use = "what changed must be reconciled, and what failed told"]
    pub fn apply(&mut self, snapshot: Snapshot, now: Timestamp) -> Applied {
        let mut applied = Applied::default();
        if let Err(e) = self.folders.take(snapshot, &self.records) {
            applied.failures.push(e);
        }
        let mut keys: BTreeSet<Key> = self.records.keys().cloned().collect();
        keys.extend(self.folders.keys().cloned());
        self.absences.retain(|key, _| keys.contains(key));
        let mut orphans = Vec::new();
        self.rejected.clear();
        for key in keys {
            match self.settle(&key, now, &mut applied.recheck_in, &mut orphans) {
                Ok(true) => applied.changed.push(key),
                Ok(false) => {}
                Err(e) => applied.failures.push(e),
            }
        }
        orphans.extend(self.folders.problems());
        applied.failures.extend(self.file_problems.publish(orphans));
        applied
    }

    /// Changes a record; it is written when, and only when, it differs. Gives whether it did. The key and the UID must
    /// stay. A key without a record is no error: its workspace went meanwhile.
    ///
    /// # Errors
    /// Those of the operating system; the record is then as it was.
    pub fn update(&mut self, key: &Key, change: impl FnOnce(&mut Record)) -> Result<bool, DurableError> {
        let Some(record) = self.records.get_mut(key) else { return Ok(false) };
        let mut next = record.clone();
        change(&mut next);
        if next == *record {
            return Ok(false);
        }
        durable::write_json(&self.paths.record(key), &next)?;
        *record = next;
        Ok(true)
    }

    /// Sets the tombstone of a workspace, whatever its folder says. Gives whether that changed anything. When its file is
    /// still there once it is gone, it is made anew.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn delete(&mut self, key: &Key, now: Timestamp) -> Result<bool, DurableError> {
        self.update(key, |record| {
            if record.deleted_at.is_none() {
                record.deleted_at = Some(now);
                record.problem = None;
            }
        })
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
        match self.folders.wanted(key) {
            Wanted::Valid { workspace, spec_hash, file } => {
                self.create(key, &workspace, &spec_hash, file, now).map(|()| true)
            }
            Wanted::Invalid { .. } | Wanted::Absent => Ok(false),
        }
    }

    /// Brings the record of one key in line with the folders; gives whether it changed.
    fn settle(
        &mut self,
        key: &Key,
        now: Timestamp,
        recheck_in: &mut Option<Duration>,
        orphans: &mut Vec<(PathBuf, Problem)>,
    ) -> Result<bool, DurableError> {
        let wanted = self.folders.wanted(key);
        if let Some(problem) = self.unreadable.get(key) {
            if let Wanted::Valid { file, .. } = wanted {
                orphans.push((file, problem.clone()));
            }
            return Ok(false);
        }
        let Some(record) = self.records.get(key) else {
            return match wanted {
                Wanted::Valid { workspace, spec_hash, file } => {
                    self.create(key, &workspace, &spec_hash, file, now).map(|()| true)
                }
                Wanted::Invalid { problem } => {
                    self.rejected.insert(key.clone(), problem);
                    Ok(false)
                }
                Wanted::Absent => Ok(false),
            };
        };
        if record.deleted_at.is_some() {
            // What is declared under this name now waits until the old workspace is gone: see `forget`.
            self.absences.remove(key);
            return Ok(false);
        }
        match wanted {
            Wanted::Valid { workspace, spec_hash, file } => {
                self.absences.remove(key);
                let same = record.spec_hash == *spec_hash
                    && record.file == file
                    && record.problem.is_none()
                    && record.workspace == *workspace;
                if same {
                    return Ok(false);
                }
                self.update(key, |record| {
                    if record.spec_hash != *spec_hash {
                        record.generation += 1;
                        record.spec_hash = spec_hash.to_string();
                    }
                    record.workspace = (*workspace).clone();
                    record.file = file;
                    record.problem = None;
                })
            }
            Wanted::Invalid { problem } => {
                self.absences.remove(key);
                self.set_problem(key, problem)
            }
            Wanted::Absent => match self.folders.absence(record, self.absences.get(key)) {
                absence::Verdict::Held(problem) => {
                    self.absences.remove(key);
                    problem.map_or(Ok(false), |problem| self.set_problem(key, problem))
                }
                absence::Verdict::Waiting(absence, left) => {
                    self.absences.insert(key.clone(), absence);
                    if let Some(left) = left {
                        *recheck_in = Some(recheck_in.map_or(left, |earlier| earlier.min(left)));
                    }
                    Ok(false)
                }
                absence::Verdict::Gone => {
                    let changed = self.delete(key, now)?;
                    self.absences.remove(key);
                    Ok(changed)
                }
            },
        }
    }

    fn set_problem(&mut self, key: &Key, problem: Problem) -> Result<bool, DurableError> {
        if self.records.get(key).is_some_and(|record| record.problem.as_ref() == Some(&problem)) {
            return Ok(false);
        }
        self.update(key, |record| record.problem = Some(problem))
    }

    fn create(
        &mut self,
        key: &Key,
        workspace: &Workspace,
        spec_hash: &str,
        file: PathBuf,
        now: Timestamp,
    ) -> Result<(), DurableError> {
        let record = Record {
            key: key.clone(),
            uid: Uuid::now_v7().to_string(),
            generation: 1,
            spec_hash: spec_hash.to_owned(),
            workspace: workspace.clone(),
            file,
            created_at: now,
            deleted_at: None,
            problem: None,
            memory: Memory::default(),
        };
        let path = self.paths.record(key);
        if let Some(dir) = path.parent()
            && !dir.exists()
        {
            durable::private_dir(dir)?;
            durable::sync_dir(&self.paths.workspaces())?;
        }
        durable::write_json(&path, &record)?;
        self.records.insert(key.clone(), record);
        Ok(())
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
