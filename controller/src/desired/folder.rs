//! The folders and what each said last.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Instant,
};

use microagent_base::durable::{self, DurableError};

use super::{GRACE_REPLACED, Wanted};
use crate::{
    Key, Paths, Problem, Record,
    source::{DirId, Entry, Snapshot, duplicate},
};

/// All folders that are watched.
#[derive(Debug)]
pub(super) struct Folders {
    by_path: BTreeMap<PathBuf, Folder>,
    /// Where the identities of the folders are kept.
    file: PathBuf,
    trusted: BTreeMap<PathBuf, DirId>,
}

/// One folder.
#[derive(Debug, Default)]
pub(super) struct Folder {
    /// The last complete snapshot.
    pub(super) listed: Option<Snapshot>,
    /// Why the last snapshot was not complete.
    pub(super) incomplete: Option<Problem>,
    /// Whether the path led nowhere.
    pub(super) missing: bool,
    /// When the directory that is there now was listed first.
    same_since: Option<Instant>,
    /// Whether it is another directory than the one that the workspaces came from.
    pub(super) replaced: bool,
}

impl Folders {
    /// No folder has said anything yet. Which directories they were when the controller ran last is read from the disk;
    /// a folder of which that is not known is trusted only when nothing came from it.
    pub(super) fn load(paths: &Paths, dirs: impl IntoIterator<Item = PathBuf>) -> Self {
        let file = paths.state.join("folders.json");
        let trusted = durable::read_json(&file).unwrap_or_else(|error| {
            tracing::warn!(%error, "which directories the folders were is not known; deletions wait a little longer");
            None
        });
        let by_path = dirs.into_iter().map(|dir| (dir, Folder::default())).collect();
        Self { by_path, file, trusted: trusted.unwrap_or_default() }
    }

    /// Takes a snapshot.
    pub(super) fn take(&mut self, snapshot: Snapshot, records: &BTreeMap<Key, Record>) -> Result<(), DurableError> {
        let dir = snapshot.dir.clone();
        let folder = self.by_path.entry(dir.clone()).or_default();
        folder.missing = snapshot.missing;
        folder.incomplete = snapshot.reason.clone();
        let Some(identity) = snapshot.identity.filter(|_| snapshot.complete) else { return Ok(()) };
        let before = folder.listed.as_ref().and_then(|listed| listed.identity);
        if before != Some(identity) {
            folder.same_since = None;
        }
        let since = *folder.same_since.get_or_insert(snapshot.at);
        let steady = snapshot.at.saturating_duration_since(since) >= GRACE_REPLACED;
        folder.listed = Some(snapshot);
        folder.replaced = false;
        if self.trusted.get(&dir) == Some(&identity) {
            return Ok(());
        }
        // A directory that was just mounted or made again may still be filling up.
        if !steady && records.values().any(|record| record.file.parent() == Some(&dir)) {
            folder.replaced = true;
            return Ok(());
        }
        self.trusted.insert(dir, identity);
        durable::write_json(&self.file, &self.trusted)
    }

    /// Every key that a folder declares.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.listings().flat_map(|listed| listed.entries.keys())
    }

    /// What the folders, each by its last complete snapshot, say of a key.
    pub(super) fn wanted(&self, key: &Key) -> Wanted {
        let mut entries = self.listings().filter_map(|listed| listed.entries.get(key));
        let Some(first) = entries.next() else { return Wanted::Absent };
        let others: Vec<&Entry> = entries.collect();
        if !others.is_empty() {
            let files: Vec<PathBuf> = std::iter::once(first).chain(others).flat_map(Entry::files).cloned().collect();
            return Wanted::Invalid { problem: duplicate(key, &files) };
        }
        match first {
            Entry::Valid { workspace, spec_hash, file } => {
                Wanted::Valid { workspace: workspace.clone(), spec_hash: spec_hash.clone(), file: file.clone() }
            }
            Entry::Invalid { problem, .. } => Wanted::Invalid { problem: problem.clone() },
        }
    }

    /// The folder that a file is in, when it is watched, and all others.
    pub(super) fn home(&self, file: &Path) -> Option<(&Folder, impl Iterator<Item = &Folder>)> {
        let dir = file.parent()?;
        let home = self.by_path.get(dir)?;
        let others = self.by_path.iter().filter(move |(path, _)| *path != dir).map(|(_, folder)| folder);
        Some((home, others))
    }

    /// What is wrong with files and folders that no record tells.
    pub(super) fn problems(&self) -> impl Iterator<Item = (PathBuf, Problem)> {
        let folders = self.by_path.iter().filter_map(|(dir, folder)| Some((dir.clone(), folder.incomplete.clone()?)));
        let files = self
            .listings()
            .flat_map(|listed| listed.problems.iter().map(|(file, problem)| (file.clone(), problem.clone())));
        folders.chain(files)
    }

    fn listings(&self) -> impl Iterator<Item = &Snapshot> {
        self.by_path.values().filter_map(|folder| folder.listed.as_ref())
    }
}
