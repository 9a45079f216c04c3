//! What is wanted: the durable records, and how snapshots of folders change them.
//!
//! A record is on the disk before it counts. The last good manifest stays in force whatever happens to its file, and a
//! workspace goes only when its folder was listed twice without it.

mod absence;
mod file_problems;
mod folder;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use microagent_base::durable::DurableError;
use microagent_crds::Workspace;
use uuid::Uuid;

use self::{absence::Absence, file_problems::FileProblems, folder::Folders};
use crate::{
    Key, Paths, Problem, Record, Records,
    memory::Memory,
    records::{Written, changed, tombstone},
    source::Snapshot,
};

pub use absence::{GRACE, GRACE_DOCUMENT, GRACE_REPLACED};
pub use file_problems::FileProblem;

/// All workspaces of the host.
#[derive(Debug)]
pub struct Desired {
    records: Records,
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
    /// [`Records::unreadable`].
    pub fn load(paths: &Paths, folders: impl IntoIterator<Item = PathBuf>) -> Result<Self, DurableError> {
        let records = Records::load(paths)?;
        Ok(Self {
            folders: Folders::load(paths, folders),
            file_problems: FileProblems::load(paths),
            again: records.iter().map(|record| record.key.clone()).collect(),
            records,
            absences: BTreeMap::new(),
            rejected: BTreeMap::new(),
        })
    }

    /// The records.
    #[must_use]
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// The records, to remember something of a workspace.
    pub(crate) fn records_mut(&mut self) -> &mut Records {
        &mut self.records
    }

    /// The names whose manifests were never good: there is no record of them, only why. As of the last snapshot.
    #[must_use]
    pub fn rejected(&self) -> &BTreeMap<Key, Problem> {
        &self.rejected
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
        keys.extend(self.absences.keys().chain(self.records.unreadable().keys()).cloned());
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

    fn write(&mut self, records: Vec<Record>, applied: &mut Applied) {
        let Written { done, failed, errors } = self.records.write(records);
        let gone = |key: &&Key| self.records.get(key).is_some_and(|record| record.deleted_at.is_some());
        for key in done.iter().filter(gone) {
            self.absences.remove(key);
        }
        applied.changed.extend(done);
        applied.failures.extend(errors);
        self.again.extend(failed);
    }

    /// Sets the tombstone of a workspace, whatever its folder says. Gives whether that changed anything. When its file is
    /// still there once it is gone, it is made anew.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn delete(&mut self, key: &Key, now: Timestamp) -> Result<bool, DurableError> {
        self.records.update(key, |record| tombstone(record, now))
    }

    /// Forgets a workspace of which nothing is left on the host. When its name was declared again meanwhile, it is made
    /// anew with another UID; gives whether it was.
    ///
    /// # Errors
    /// Those of the operating system; call it again then.
    pub fn forget(&mut self, key: &Key, now: Timestamp) -> Result<bool, DurableError> {
        self.records.remove(key)?;
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
        if let Some(problem) = self.records.unreadable().get(key) {
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
        unreserved: None,
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

#[cfg(test)]
mod tests;
