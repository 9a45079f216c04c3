//! What must hold whatever happens: what a record may take from a file, and when a tombstone may be set.
//!
//! The model looks when the controller looks, and reads all files each time. It knows nothing of hints but that a file
//! whose writer is done counts sooner. So it says less than the code does (the code may wait for longer), and what it says
//! is exact once nothing changes any more: see [`Model::compare`].

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use microagent_controller::{
    Key, Record,
    desired::{Desired, GRACE, GRACE_DOCUMENT, GRACE_REPLACED},
    source::{Hint, QUIET, QUIET_UNANNOUNCED},
};
use microagent_crds::canonical_spec_hash;

use crate::{
    files::{Content, Identity, View},
    player::Verdict,
};

/// What was seen of one file over the looks.
#[derive(Debug)]
struct Past {
    content: Option<Arc<Content>>,
    /// The first look of those that saw this content, with no other between.
    since: Instant,
    /// What was there over the quiet time, at any time: these, and no other, may be taken.
    rested: Vec<Arc<Content>>,
    /// Whether its writer is known to be done.
    finished: bool,
    /// Since when the file may declare what cannot be read in it.
    bad_since: Option<Instant>,
}

#[derive(Debug)]
struct Folder {
    view: View,
    /// The first look at this directory, with no other listed between.
    since: Instant,
}

pub(crate) struct Model {
    folders: BTreeMap<PathBuf, Folder>,
    files: HashMap<PathBuf, Past>,
    /// The last look at which any file declared the name.
    declared: HashMap<Key, Instant>,
    /// The directory that the record's own file was in when that was seen last.
    homes: HashMap<Key, Identity>,
    /// The first of the looks at which the name was absent beyond doubt, with none between at which it was not.
    absent: HashMap<Key, Instant>,
    records: BTreeMap<Key, Record>,
}

impl Model {
    pub(crate) fn new() -> Self {
        Self {
            folders: BTreeMap::new(),
            files: HashMap::new(),
            declared: HashMap::new(),
            homes: HashMap::new(),
            absent: HashMap::new(),
            records: BTreeMap::new(),
        }
    }

    /// Takes what a look is about to see.
    pub(crate) fn seen(&mut self, now: Instant, views: BTreeMap<PathBuf, View>, hint: &Hint) {
        for (dir, view) in views {
            if let View::Listed { files, .. } = &view {
                self.files.retain(|path, _| path.parent() != Some(&dir) || files.contains_key(path));
            }
            for (path, file) in view.files() {
                let fresh = || Past {
                    content: file.content.clone(),
                    since: now,
                    rested: Vec::new(),
                    finished: false,
                    bad_since: None,
                };
                let past = self.files.entry(path.clone()).or_insert_with(fresh);
                let bytes = |content: &Option<Arc<Content>>| content.as_ref().map(|content| content.bytes.clone());
                if bytes(&past.content) != bytes(&file.content) {
                    past.content = file.content.clone();
                    past.since = now;
                }
                past.finished = (past.finished && !hint.writing.contains(path)) || hint.finished.contains(path);
                let quiet = if past.finished { QUIET } else { QUIET_UNANNOUNCED };
                let rests = now - past.since >= quiet;
                if file.is_bad() {
                    past.bad_since.get_or_insert(now);
                } else if rests {
                    past.bad_since = None;
                }
                if let Some(content) = file.content.as_ref().filter(|_| rests) {
                    past.rested.push(content.clone());
                }
            }
            let identity = |view: &View| match view {
                View::Listed { identity, .. } => Some(*identity),
                _ => None,
            };
            match self.folders.get_mut(&dir) {
                // A folder that is gone for a moment is the same one afterwards.
                Some(folder) if identity(&view).is_none() || identity(&folder.view) == identity(&view) => {
                    folder.view = view;
                }
                _ => {
                    let since = now;
                    self.folders.insert(dir, Folder { view, since });
                }
            }
        }
        let keys: Vec<Key> = self.records.keys().cloned().collect();
        for key in keys {
            if self.is_declared(&key) {
                self.declared.insert(key.clone(), now);
            }
            if let Some((identity, true)) = self.home(&key) {
                self.homes.insert(key.clone(), identity);
            }
            if self.is_absent(&key) {
                self.absent.entry(key).or_insert(now);
            } else {
                self.absent.remove(&key);
            }
        }
    }

    /// Judges what the look did.
    pub(crate) fn judge(&mut self, now: Instant, desired: &Desired, changed: &[Key]) -> Verdict {
        let records: BTreeMap<Key, Record> =
            desired.records().iter().map(|record| (record.key.clone(), record.clone())).collect();
        for (key, before) in &self.records {
            let Some(record) = records.get(key) else { return Err(format!("{key} is gone without a tombstone")) };
            if (record != before) != changed.contains(key) {
                return Err(format!("{key} told as changed: {}, but it is not so", changed.contains(key)));
            }
            self.judge_change(now, before, record)?;
        }
        for (key, record) in records.iter().filter(|(key, _)| !self.records.contains_key(key)) {
            self.judge_new(record)?;
            if !changed.contains(key) {
                return Err(format!("{key} was made, and nobody told"));
            }
            self.declared.insert(key.clone(), now);
        }
        let before = std::mem::replace(&mut self.records, records);
        let moved = |record: &&Record| before.get(&record.key).is_none_or(|before| before.file != record.file);
        let moved: Vec<Key> = self.records.values().filter(moved).map(|record| record.key.clone()).collect();
        for key in moved {
            if let Some((identity, _)) = self.home(&key) {
                self.homes.insert(key, identity);
            }
        }
        Ok(())
    }

    fn judge_change(&self, now: Instant, before: &Record, record: &Record) -> Verdict {
        let key = &record.key;
        if (&record.uid, record.created_at) != (&before.uid, before.created_at) {
            return Err(format!("{key} is another workspace"));
        }
        let rises = i64::from(record.spec_hash != before.spec_hash);
        if record.generation != before.generation + rises {
            return Err(format!("{key} has generation {} after {}", record.generation, before.generation));
        }
        if rises == 1 {
            self.judge_spec(record)?;
        } else if record.workspace.spec != before.workspace.spec {
            return Err(format!("{key} has another spec and the same hash"));
        }
        match (before.deleted_at, record.deleted_at) {
            (None, Some(_)) => self.judge_tombstone(now, before),
            (Some(_), None) => Err(format!("{key} came back from its tombstone")),
            (Some(_), Some(_)) if before != record => Err(format!("{key} changed after its tombstone")),
            _ => Ok(()),
        }
    }

    fn judge_new(&self, record: &Record) -> Verdict {
        if (record.generation, record.deleted_at) != (1, None) {
            return Err(format!("{} is new, with {record:?}", record.key));
        }
        self.judge_spec(record)
    }

    /// A spec is one that a file had over the quiet time.
    fn judge_spec(&self, record: &Record) -> Verdict {
        let Record { key, spec_hash, workspace, .. } = record;
        if canonical_spec_hash(&workspace.spec) != *spec_hash {
            return Err(format!("{key} has the hash of another spec"));
        }
        let rested = self.files.values().flat_map(|past| &past.rested);
        if !rested.into_iter().any(|content| content.has(key, spec_hash)) {
            return Err(format!("{key} has a spec that no file rested at: {}", workspace.spec.image));
        }
        Ok(())
    }

    fn judge_tombstone(&self, now: Instant, record: &Record) -> Verdict {
        let key = &record.key;
        let Some(since) = self.absent.get(key) else {
            return Err(format!("{key} is deleted, and it is not absent"));
        };
        if let Some(file) = self.hiding(record) {
            return Err(format!("{key} is deleted, and may be in {}", file.display()));
        }
        let present = self.files.contains_key(&record.file);
        let grace = if present { GRACE_DOCUMENT } else { GRACE };
        let other =
            self.home(key).is_some_and(|(identity, _)| self.homes.get(key).is_some_and(|home| *home != identity));
        let listed = record.file.parent().and_then(|dir| self.folders.get(dir)).map(|folder| now - folder.since);
        if now - *since < grace {
            return Err(format!("{key} is deleted after {:?}", now - *since));
        }
        if other && listed.is_none_or(|listed| listed < GRACE_REPLACED) {
            return Err(format!("{key} is deleted, and its folder is another since {listed:?}"));
        }
        Ok(())
    }

    pub(crate) fn deleted(&mut self, key: &Key) {
        if let Some(record) = self.records.get_mut(key)
            && record.deleted_at.is_none()
        {
            record.deleted_at = Some(jiff::Timestamp::UNIX_EPOCH);
            record.problem = None;
        }
    }

    pub(crate) fn forgotten(&mut self, key: &Key, reborn: Option<&Record>) -> Verdict {
        let before = self.records.remove(key);
        for map in [&mut self.declared, &mut self.absent] {
            map.remove(key);
        }
        self.homes.remove(key);
        let Some(record) = reborn else { return Ok(()) };
        if before.is_some_and(|before| before.uid == record.uid) {
            return Err(format!("{key} is another workspace with the same UID"));
        }
        self.judge_new(record)?;
        self.records.insert(key.clone(), record.clone());
        Ok(())
    }

    /// The directory of the record's file, and whether that file declares it there.
    fn home(&self, key: &Key) -> Option<(Identity, bool)> {
        let file = &self.records.get(key)?.file;
        match &self.folders.get(file.parent()?)?.view {
            View::Listed { identity, files } => {
                Some((*identity, files.get(file).is_some_and(|file| file.declares(key))))
            }
            _ => None,
        }
    }

    fn is_declared(&self, key: &Key) -> bool {
        self.folders.values().flat_map(|folder| folder.view.files()).any(|(_, file)| file.declares(key))
    }

    /// Whether the folder of the name's record is listed, and no file names it.
    fn is_absent(&self, key: &Key) -> bool {
        self.home(key).is_some() && !self.is_declared(key)
    }

    /// A file that may declare the name though that cannot be read in it: its own, or one that became such a file since the
    /// name was seen last.
    fn hiding(&self, record: &Record) -> Option<&Path> {
        let seen = self.declared.get(&record.key).copied();
        let bad = |past: &Past| past.content.as_ref().is_none_or(|content| content.nameless);
        let mut files = self.files.iter().filter(|(path, past)| self.is_listed(path) && bad(past));
        files.find(|(path, past)| **path == record.file || past.bad_since > seen).map(|(path, _)| path.as_path())
    }

    fn is_listed(&self, path: &Path) -> bool {
        let folder = path.parent().and_then(|dir| self.folders.get(dir));
        folder.is_some_and(|folder| matches!(folder.view, View::Listed { .. }))
    }

    /// When nothing changes any more and no folder is missing: the store against the files, exactly.
    pub(crate) fn compare(&self, desired: &Desired) -> Verdict {
        let files: Vec<_> = self.folders.values().flat_map(|folder| folder.view.files()).collect();
        let mut wanted: BTreeMap<&Key, Vec<(&PathBuf, Option<&crate::files::Valid>)>> = BTreeMap::new();
        for (path, file) in &files {
            for (key, valid) in file.content.iter().flat_map(|content| &content.declared) {
                wanted.entry(key).or_default().push((path, valid.as_ref()));
            }
        }
        for key in self.records.keys().filter(|key| !wanted.contains_key(*key)) {
            let record = &self.records[key];
            // Deleted, or held by what cannot be read.
            let held =
                files.iter().any(|(path, file)| file.is_bad() && !(**path == record.file && record.problem.is_none()));
            if record.deleted_at.is_none() && !held {
                return Err(format!("{key} is in no file and still there"));
            }
        }
        for (key, places) in wanted {
            let record = self.records.get(key).filter(|record| record.deleted_at.is_none());
            let rejected = desired.rejected().get(key);
            match (&places[..], record) {
                ([(path, Some(valid))], Some(record)) => {
                    let own = files.iter().find(|(path, _)| **path == record.file);
                    let held = record.problem.is_some() && own.is_some_and(|(_, file)| file.is_bad());
                    let same = record.spec_hash == valid.hash
                        && record.workspace.spec == valid.workspace.spec
                        && record.workspace.metadata.labels == valid.workspace.metadata.labels
                        && record.file == **path
                        && record.problem.is_none();
                    if !same && !held {
                        return Err(format!("{key} is not as {} says: {record:#?}", path.display()));
                    }
                }
                ([(path, Some(_))], None) if !self.records.contains_key(key) => {
                    return Err(format!("{key} of {} is not there", path.display()));
                }
                (_, Some(record)) if record.problem.is_none() => {
                    return Err(format!("{key} has no problem: {places:?}"));
                }
                (_, None) if !self.records.contains_key(key) && rejected.is_none() => {
                    return Err(format!("{key} is not rejected: {places:?}"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether every folder can be listed.
    pub(crate) fn all_listed(&self) -> bool {
        self.folders.values().all(|folder| matches!(folder.view, View::Listed { .. }))
    }

    /// The names with a tombstone.
    pub(crate) fn tombstones(&self) -> Vec<Key> {
        self.records.values().filter(|record| record.deleted_at.is_some()).map(|record| record.key.clone()).collect()
    }
}

/// Longer than any wait of the rules.
pub(crate) const LONG: Duration = Duration::from_secs(3600);
