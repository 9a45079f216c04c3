//! One watched folder.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, btree_map},
    ffi::{OsStr, OsString},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use microagent_crds::Reason;

use super::{
    Entry, Hint, Snapshot,
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
}

#[derive(Debug, Default)]
struct FileState {
    /// The last reading, and the identity it was read at.
    read: Option<(Identity, Arc<[Document]>)>,
    /// A state that is not read yet.
    pending: Option<Pending>,
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
        Self { dir: dir.into(), unannounced: QUIET_UNANNOUNCED, files: HashMap::new() }
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
            self.files.entry(name).or_default().finished = true;
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
            entries: BTreeMap::new(),
            problems: BTreeMap::new(),
            files: BTreeSet::new(),
            settled: true,
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
        let names = dir.manifest_names(MAX_FILES).map_err(|e| self.refused(&e))?;
        let mut known = std::mem::take(&mut self.files);
        for name in names {
            let mut state = known.remove(&name).unwrap_or_default();
            let look = state.look(&dir, &self.dir, &name, now, self.unannounced);
            let path = self.dir.join(&name);
            let problem = match look {
                Look::Gone => continue,
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
            if let Some(problem) = problem {
                snapshot.problem(&path, &problem);
            }
            for document in state.read.iter().flat_map(|(_, documents)| documents.iter()) {
                snapshot.take(document, &path);
            }
            snapshot.files.insert(path);
            self.files.insert(name, state);
        }
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
    fn look(&mut self, dir: &OpenDir, path: &Path, name: &OsStr, now: Instant, unannounced: Duration) -> Look {
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
        let pending = match self.pending {
            Some(pending) if pending.identity == identity => pending,
            before => {
                let changing_since = before.map_or(now, |pending| pending.changing_since);
                Pending { identity, since: now, changing_since }
            }
        };
        self.pending = Some(pending);
        let quiet = if self.finished { QUIET } else { unannounced };
        let left = quiet.saturating_sub(now.saturating_duration_since(pending.since));
        if !left.is_zero() {
            return pending.again(now, left);
        }
        match dir.read(name, identity) {
            Ok(Some(bytes)) => {
                let file = path.join(name);
                *self =
                    Self { read: Some((identity, documents(&bytes, &file).into())), pending: None, finished: false };
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

    fn take(&mut self, document: &Document, file: &Path) {
        let (key, entry) = match document {
            Document::Invalid { key: None, problem } => return self.problem(file, problem),
            Document::Invalid { key: Some(key), problem } => {
                (key, Entry::Invalid { problem: problem.clone(), files: vec![file.to_owned()] })
            }
            Document::Valid { key, workspace, spec_hash } => {
                let (workspace, spec_hash) = (workspace.clone(), spec_hash.clone());
                (key, Entry::Valid { workspace, spec_hash, file: file.to_owned() })
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

fn merged(entry: &Entry, file: &Path) -> Vec<PathBuf> {
    let mut files = entry.files().to_vec();
    files.push(file.to_owned());
    files
}

#[cfg(test)]
mod tests;
