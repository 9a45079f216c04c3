//! One watched folder.

use std::{
    collections::{BTreeMap, HashMap, btree_map},
    ffi::{OsStr, OsString},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use microagent_crds::Reason;

use super::{
    Entry, Hint, Listing, Snapshot,
    document::{Document, documents},
    duplicate,
    look::{Identity, OpenDir, dir_identity},
};
use crate::Problem;

/// How far apart the two looks are that must agree before a file counts whose writer is known to have closed it, or to
/// have renamed it into place. Longer than the coarsest common clock tick of file times (10 ms), so that a write behind
/// the second look cannot leave the same times; short, because a user waits for it.
pub const QUIET: Duration = Duration::from_millis(12);

/// The same for a file of which nobody said that it is finished (found at start or by the ticker, or still open): longer
/// than a writer pauses between two blocks.
pub const QUIET_UNANNOUNCED: Duration = Duration::from_millis(200);

/// How long a file may go on changing before that is called a problem of the file, and no longer keeps the whole folder unsettled.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The number of manifest files up to which a folder is listed: ten times what one host is made for.
pub const MAX_FILES: usize = 100_000;

/// A folder and what is known of its files. Only what changed is read again.
#[derive(Debug)]
pub struct FolderSource {
    dir: PathBuf,
    unannounced: Duration,
    files: HashMap<OsString, FileState>,
    /// What the files were found to be, as of the last look that listed them all.
    listing: Arc<Listing>,
    /// Whether some file is not as `listing` says.
    changed: bool,
    looks: u64,
}

#[derive(Debug)]
struct FileState {
    path: Arc<Path>,
    /// The look that found the file last; 0 for one that was only hinted at.
    seen: u64,
    /// The last reading, and the identity it was read at.
    read: Option<(Identity, Box<[Document]>)>,
    /// What is wrong with the file itself, whatever is in it.
    problem: Option<Box<Problem>>,
    /// A state that is not read yet. Boxed, as the problem: few files have either.
    pending: Option<Box<Pending>>,
    /// Whether its writer is known to be done with it.
    finished: bool,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    identity: Identity,
    /// When this state was seen first.
    since: Instant,
    /// When the file was seen to differ from its last reading.
    changing_since: Instant,
}

/// What one look at one file gives.
enum Look {
    Gone,
    Settled,
    /// Look again after this; the last reading, where there is one, counts until then.
    Again(Duration),
    Problem(Problem),
    /// As `Again`, but it has gone on for too long.
    Restless(Problem),
}

impl FolderSource {
    /// A folder that people and programs write into as they like.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            unannounced: QUIET_UNANNOUNCED,
            files: HashMap::new(),
            listing: Arc::default(),
            changed: false,
            looks: 0,
        }
    }

    /// The folder that microagent itself writes, always by renaming whole files into place: nobody need say that they
    /// are finished.
    #[must_use]
    pub fn managed(dir: impl Into<PathBuf>) -> Self {
        Self { unannounced: QUIET, ..Self::new(dir) }
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Takes what the watcher saw of the writers of files. Without it all works, only later.
    pub fn hint(&mut self, hint: &Hint) {
        let own =
            |path: &Path| (path.parent() == Some(&self.dir)).then(|| path.file_name().map(OsStr::to_owned)).flatten();
        for name in hint.writing.iter().filter_map(|path| own(path)) {
            if let Some(file) = self.files.get_mut(&name) {
                file.finished = false;
            }
        }
        for name in hint.finished.iter().filter_map(|path| own(path)) {
            let path = || FileState::new(self.dir.join(&name));
            self.files.entry(name.clone()).or_insert_with(path).finished = true;
        }
    }

    /// Looks at the folder. Blocks on the file system. `now` must not run backwards.
    pub fn scan(&mut self, now: Instant) -> Snapshot {
        let mut snapshot = Snapshot {
            dir: self.dir.clone(),
            at: now,
            complete: false,
            identity: None,
            reason: None,
            missing: false,
            listing: Arc::default(),
            settled: true,
            changing: BTreeMap::new(),
            retry_in: None,
        };
        match self.list(now, &mut snapshot) {
            Ok(()) => snapshot.complete = true,
            Err(problem) => snapshot.reason = Some(problem),
        }
        snapshot
    }

    fn list(&mut self, now: Instant, snapshot: &mut Snapshot) -> Result<(), Problem> {
        let dir = OpenDir::open(&self.dir).map_err(|e| {
            snapshot.missing = e.kind() == io::ErrorKind::NotFound;
            self.refused(&e)
        })?;
        snapshot.identity = Some(dir.identity);
        self.looks += 1;
        let Self { dir: path, unannounced, files, changed, looks, .. } = self;
        let listed = dir.each_manifest(MAX_FILES, |name| {
            // Only a new name needs a text of its own.
            if !files.contains_key(name) {
                files.insert(name.to_owned(), FileState::new(path.join(name)));
            }
            if let Some(state) = files.get_mut(name) {
                *changed |= state.found(&dir, name, now, *unannounced, *looks, snapshot);
            }
        });
        listed.map_err(|e| self.refused(&e))?;
        self.files.retain(|_, state| {
            self.changed |= state.seen != self.looks && state.seen != 0;
            state.seen == self.looks
        });
        if std::mem::take(&mut self.changed) {
            self.listing = Arc::new(Listing::of(&self.files));
        }
        snapshot.listing = self.listing.clone();
        match dir_identity(&self.dir) {
            Ok(identity) if identity == dir.identity => Ok(()),
            Ok(_) => {
                snapshot.retry_in = Some(QUIET);
                Err(self.incomplete("it was replaced by another while it was listed", "it is looked at again at once"))
            }
            Err(e) => Err(self.refused(&e)),
        }
    }

    fn refused(&self, error: &io::Error) -> Problem {
        if error.kind() == io::ErrorKind::QuotaExceeded {
            return self.incomplete(
                &format!("it has more than {MAX_FILES} manifest files"),
                "use fewer files, with several documents each",
            );
        }
        self.incomplete(&error.to_string(), "bring the folder back, or let the user that runs microagent read it")
    }

    fn incomplete(&self, why: &str, help: &str) -> Problem {
        Problem {
            code: Reason::SourceUnavailable.as_str().to_owned(),
            message: format!(
                "folder {} cannot be listed: {why}; its workspaces stay as they are; {help}",
                self.dir.display()
            ),
        }
    }
}

impl FileState {
    fn new(path: PathBuf) -> Self {
        Self { path: path.into(), seen: 0, read: None, problem: None, pending: None, finished: false }
    }

    /// Looks at the file that the folder lists; gives whether what it declares is not what it was.
    fn found(
        &mut self,
        dir: &OpenDir,
        name: &OsStr,
        now: Instant,
        unannounced: Duration,
        look: u64,
        snapshot: &mut Snapshot,
    ) -> bool {
        let reading = |state: &Self| state.read.as_ref().map(|(identity, _)| *identity);
        let before = reading(self);
        let problem = match self.look(dir, name, now, unannounced) {
            // Gone since it was listed: as if it had not been.
            Look::Gone => return false,
            Look::Settled => None,
            Look::Again(after) => {
                snapshot.settled = false;
                snapshot.look_again(after);
                None
            }
            Look::Problem(problem) => Some(problem),
            Look::Restless(problem) => {
                snapshot.look_again(QUIET_UNANNOUNCED);
                Some(problem)
            }
        };
        if let Some(pending) = &self.pending {
            snapshot.changing.insert(self.path.clone(), pending.changing_since);
        }
        let new = std::mem::replace(&mut self.seen, look) == 0;
        let changed = new || reading(self) != before || self.problem.as_deref() != problem.as_ref();
        self.problem = problem.map(Box::new);
        changed
    }

    fn look(&mut self, dir: &OpenDir, name: &OsStr, now: Instant, unannounced: Duration) -> Look {
        let identity = match dir.look(name) {
            Ok(Some(identity)) => identity,
            Ok(None) => return Look::Gone,
            Err(problem) => return self.refuse(problem),
        };
        if self.read.as_ref().is_some_and(|(read, _)| *read == identity) {
            self.pending = None;
            self.finished = false;
            return Look::Settled;
        }
        let pending = match self.pending.as_deref().copied() {
            Some(pending) if pending.identity == identity => pending,
            before => {
                let changing_since = before.map_or(now, |pending| pending.changing_since);
                Pending { identity, since: now, changing_since }
            }
        };
        self.pending = Some(Box::new(pending));
        let quiet = if self.finished { QUIET } else { unannounced };
        let left = quiet.saturating_sub(now.saturating_duration_since(pending.since));
        if !left.is_zero() {
            return pending.again(now, left);
        }
        match dir.read(name, identity) {
            Ok(Some(bytes)) => {
                self.read = Some((identity, documents(&bytes, &self.path).into()));
                self.pending = None;
                self.finished = false;
                Look::Settled
            }
            Ok(None) => pending.again(now, quiet),
            Err(problem) => self.refuse(problem),
        }
    }

    /// A file that cannot be read is tried at every look: what hinders it need not show in its identity.
    fn refuse(&mut self, problem: Problem) -> Look {
        self.read = None;
        self.pending = None;
        Look::Problem(problem)
    }
}

impl Pending {
    fn again(&self, now: Instant, after: Duration) -> Look {
        let age = now.saturating_duration_since(self.changing_since);
        if age <= PATIENCE {
            return Look::Again(after);
        }
        Look::Restless(Problem {
            code: Reason::InvalidManifest.as_str().to_owned(),
            message: format!(
                "the file has been changing for {} s, so it cannot be read whole; stop what writes it, \
                 or let it write another name and rename it to this one",
                age.as_secs()
            ),
        })
    }
}

impl Snapshot {
    fn look_again(&mut self, after: Duration) {
        self.retry_in = Some(self.retry_in.map_or(after, |earlier| earlier.min(after)));
    }
}

impl Listing {
    /// What the files declare, each by its last reading.
    fn of(files: &HashMap<OsString, FileState>) -> Self {
        let mut sorted: Vec<&FileState> = files.values().collect();
        // As text: paths are compared piece by piece, which costs more than all else here.
        sorted.sort_unstable_by_key(|state| state.path.as_os_str());
        let files = sorted.iter().map(|state| state.path.clone()).collect();
        let mut listing = Self { files, ..Self::default() };
        for state in sorted {
            if let Some(problem) = &state.problem {
                listing.problem(&state.path, problem);
            }
            for document in state.read.iter().flat_map(|(_, documents)| documents.iter()) {
                listing.take(document, &state.path);
            }
        }
        listing
    }

    /// Several problems of a file are told together.
    fn problem(&mut self, file: &Path, problem: &Problem) {
        match self.problems.entry(file.to_owned()) {
            btree_map::Entry::Vacant(vacant) => {
                vacant.insert(problem.clone());
            }
            btree_map::Entry::Occupied(mut occupied) => {
                let told = occupied.get_mut();
                told.message = format!("{}\n{}", told.message, problem.message);
            }
        }
    }

    fn take(&mut self, document: &Document, file: &Arc<Path>) {
        let (key, entry) = match document {
            Document::Invalid { key: None, problem } => return self.problem(file, problem),
            Document::Invalid { key: Some(key), problem } => {
                (key, Entry::Invalid { problem: problem.clone(), files: vec![file.clone()] })
            }
            Document::Valid { key, workspace, spec_hash } => {
                let (workspace, spec_hash) = (workspace.clone(), spec_hash.clone());
                (key, Entry::Valid { workspace, spec_hash, file: file.clone() })
            }
        };
        match self.entries.entry(key.clone()) {
            btree_map::Entry::Vacant(vacant) => {
                vacant.insert(entry);
            }
            btree_map::Entry::Occupied(mut occupied) => {
                let files = merged(occupied.get(), file);
                occupied.insert(Entry::Invalid { problem: duplicate(key, &files), files });
            }
        }
    }
}

fn merged(entry: &Entry, file: &Arc<Path>) -> Vec<Arc<Path>> {
    let mut files = entry.files().to_vec();
    files.push(file.clone());
    files
}

#[cfg(test)]
mod tests;
