//! The folders and what each said last.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use microagent_base::durable::{self, DurableError};

use super::{GRACE_REPLACED, Wanted};
use crate::{
    Key, Paths, Problem, Records,
    source::{DirId, Entry, Listing, Snapshot, duplicate},
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
    /// The files that were not as they were read at the last complete look or the one before, each since when.
    changing: BTreeMap<Arc<Path>, Instant>,
    /// Since when each file is listed with a problem.
    pub(super) bad_since: BTreeMap<PathBuf, Instant>,
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

    /// Takes a snapshot; adds to `touched` the keys of which it says something else than the one before.
    pub(super) fn take(
        &mut self,
        snapshot: Snapshot,
        records: &Records,
        touched: &mut BTreeSet<Key>,
    ) -> Result<(), DurableError> {
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
        folder.compare(&snapshot, records, touched);
        folder.changing = folder.listed.as_ref().map(|before| before.changing.clone()).unwrap_or_default();
        for (file, since) in &snapshot.changing {
            folder.changing.entry(file.clone()).or_insert(*since);
        }
        folder.listed = Some(snapshot);
        folder.replaced = false;
        if self.trusted.get(&dir) == Some(&identity) {
            return Ok(());
        }
        // A directory that was just mounted or made again may still be filling up.
        if !steady && records.iter().any(|record| record.file.parent() == Some(&dir)) {
            folder.replaced = true;
            return Ok(());
        }
        self.trusted.insert(dir, identity);
        durable::write_json(&self.file, &self.trusted)
    }

    /// What the folders, each by its last complete snapshot, say of a key.
    pub(super) fn wanted(&self, key: &Key) -> Wanted {
        let mut entries = self.listings().filter_map(|listed| listed.listing.entries.get(key));
        let Some(first) = entries.next() else { return Wanted::Absent };
        let others: Vec<&Entry> = entries.collect();
        if !others.is_empty() {
            let files: Vec<Arc<Path>> = std::iter::once(first).chain(others).flat_map(Entry::files).cloned().collect();
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

    /// What is wrong with a file of a folder.
    pub(super) fn problem(&self, file: &Path) -> Option<&Problem> {
        self.home(file)?.0.listed.as_ref()?.listing.problems.get(file)
    }

    /// Since when a file is, or was until now, not as it was read.
    pub(super) fn changing_since(&self, file: &Path) -> Option<Instant> {
        self.home(file)?.0.changing.get(file).copied()
    }

    /// A file that came, or became one that cannot be read, at or after `since`, with why.
    pub(super) fn bad_since(&self, since: Instant) -> Option<(&Path, &Problem)> {
        self.by_path.values().find_map(|folder| {
            let (file, _) = folder.bad_since.iter().find(|(_, bad)| **bad >= since)?;
            Some((file.as_path(), folder.listed.as_ref()?.listing.problems.get(file)?))
        })
    }

    /// What is wrong with files and folders that no record tells.
    pub(super) fn problems(&self) -> impl Iterator<Item = (PathBuf, Problem)> {
        let folders = self.by_path.iter().filter_map(|(dir, folder)| Some((dir.clone(), folder.incomplete.clone()?)));
        let files = self
            .listings()
            .flat_map(|listed| listed.listing.problems.iter().map(|(file, problem)| (file.clone(), problem.clone())));
        folders.chain(files)
    }

    fn listings(&self) -> impl Iterator<Item = &Snapshot> {
        self.by_path.values().filter_map(|folder| folder.listed.as_ref())
    }
}

impl Folder {
    fn compare(&mut self, snapshot: &Snapshot, records: &Records, touched: &mut BTreeSet<Key>) {
        let (old, new) = (self.listed.as_ref().map(|listed| &*listed.listing), &*snapshot.listing);
        if old.is_some_and(|old| std::ptr::eq(old, new)) {
            return;
        }
        let empty = Listing::default();
        let old = old.unwrap_or(&empty);
        compare(&old.entries, &new.entries, touched);
        if old.problems == new.problems {
            return;
        }
        // What is wrong with a file matters to all that come from it.
        let told = |file: &Path| old.problems.get(file) != new.problems.get(file);
        touched.extend(records.iter().filter(|record| told(&record.file)).map(|record| record.key.clone()));
        let since = |file: &PathBuf| self.bad_since.get(file).copied().unwrap_or(snapshot.at);
        self.bad_since = new.problems.keys().map(|file| (file.clone(), since(file))).collect();
    }
}

/// Adds the keys whose entries differ. Both maps are walked once, side by side.
fn compare(old: &BTreeMap<Key, Entry>, new: &BTreeMap<Key, Entry>, touched: &mut BTreeSet<Key>) {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (Some((a, _)), Some((b, _))) => a.cmp(b),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return,
        };
        let a = old.next_if(|_| order.is_le());
        let b = new.next_if(|_| order.is_ge());
        match (a, b) {
            (Some((_, a)), Some((_, b))) if a.is(b) => {}
            (Some((key, _)), _) | (None, Some((key, _))) => drop(touched.insert(key.clone())),
            (None, None) => {}
        }
    }
}
