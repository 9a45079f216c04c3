//! Whether the loop turns, and whether the folders were seen.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use serde::Serialize;
use tokio::time::Instant;

use crate::source::{DirId, Snapshot};

/// How often the dispatcher shows that it lives: rarely enough that an idle controller stays idle.
const BEAT: Duration = Duration::from_secs(2);
/// How long it may be silent. Long for a program, short for a person: a host that swaps must not look dead.
const SILENCE: Duration = Duration::from_secs(30);

/// The life sign of the dispatcher.
#[derive(Debug)]
pub struct Heartbeat {
    since: Instant,
    /// Of the last beat, in milliseconds after `since`.
    last: AtomicU64,
}

impl Heartbeat {
    /// It beats now.
    #[must_use]
    pub fn new() -> Self {
        Self { since: Instant::now(), last: AtomicU64::new(0) }
    }

    /// Waits, and beats while it does. What is waited for may take as long as it likes: that the one who waits can still turn
    /// round is what counts.
    pub async fn while_waiting<T>(&self, wait: impl Future<Output = T>) -> T {
        tokio::pin!(wait);
        loop {
            self.beat();
            tokio::select! {
                biased;
                done = &mut wait => return done,
                () = tokio::time::sleep(BEAT) => {}
            }
        }
    }

    /// How long ago it beat.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.since.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }

    fn beat(&self) {
        let now = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self::new()
    }
}

/// What is known of one folder.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Folder {
    /// Its path.
    pub dir: PathBuf,
    /// When it was last looked at.
    pub looked_at: Option<Timestamp>,
    /// When it was last listed completely.
    pub listed_at: Option<Timestamp>,
    /// Whether nothing was at its path.
    pub missing: bool,
    /// Why the last look was not complete.
    pub reason: Option<String>,
    /// Which directory it was.
    pub identity: Option<DirId>,
    /// How many manifest files it had.
    pub files: usize,
    /// From how many of them not even a name could be had.
    pub invalid_files: usize,
}

/// Is the controller well? Written by the dispatcher and the source, read by whoever asks.
#[derive(Debug)]
pub struct Health {
    /// Of the dispatcher.
    pub heartbeat: Heartbeat,
    folders: Mutex<Vec<Folder>>,
    /// Why the API server's objects are not known yet.
    awaited: Mutex<Option<String>>,
    source_ended: AtomicBool,
}

impl Health {
    /// Nothing was looked at yet. A folder that is named twice is one folder.
    #[must_use]
    pub fn new(dirs: impl IntoIterator<Item = PathBuf>) -> Self {
        let unseen = |dir| Folder {
            dir,
            looked_at: None,
            listed_at: None,
            missing: false,
            reason: None,
            identity: None,
            files: 0,
            invalid_files: 0,
        };
        Self {
            heartbeat: Heartbeat::new(),
            folders: Mutex::new(dirs.into_iter().collect::<BTreeSet<PathBuf>>().into_iter().map(unseen).collect()),
            awaited: Mutex::new(None),
            source_ended: AtomicBool::new(false),
        }
    }

    /// Of a node's agent: its objects were not listed yet.
    #[must_use]
    pub fn of_node(node: &str) -> Self {
        let health = Self::new([]);
        health.await_objects(format!("the workspaces of node {node} were not listed yet"));
        health
    }

    /// The objects cannot be listed, and why. Once they were, it matters no more: what is known is kept up.
    pub fn awaits(&self, why: String) {
        let mut awaited = self.awaited();
        if awaited.is_some() {
            *awaited = Some(why);
        }
    }

    /// The objects were listed.
    pub fn listed(&self) {
        *self.awaited() = None;
    }

    fn await_objects(&self, why: String) {
        *self.awaited() = Some(why);
    }

    fn awaited(&self) -> MutexGuard<'_, Option<String>> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A folder was looked at.
    pub fn looked(&self, snapshot: &Snapshot) {
        let mut folders = self.lock();
        let Some(folder) = folders.iter_mut().find(|folder| folder.dir == snapshot.dir) else { return };
        let now = Timestamp::now();
        folder.looked_at = Some(now);
        folder.missing = snapshot.missing;
        folder.reason = snapshot.reason.as_ref().map(|problem| problem.message.clone());
        if snapshot.complete {
            folder.listed_at = Some(now);
            folder.identity = snapshot.identity;
            folder.files = snapshot.listing.files.len();
            folder.invalid_files = snapshot.listing.problems.len();
        }
    }

    /// Folders are no longer looked at, and never will be.
    pub fn source_ended(&self) {
        self.source_ended.store(true, Ordering::Relaxed);
    }

    /// All folders, as they were seen last.
    #[must_use]
    pub fn folders(&self) -> Vec<Folder> {
        self.lock().clone()
    }

    /// From how many manifest files not even a name could be had.
    #[must_use]
    pub fn invalid_files(&self) -> usize {
        self.lock().iter().map(|folder| folder.invalid_files).sum()
    }

    /// Why the controller should be started anew; empty while it lives.
    #[must_use]
    pub fn not_alive(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        let age = self.heartbeat.age();
        if age > SILENCE {
            reasons.push(format!(
                "dispatcher: no sign of life for {} s, more than {}",
                age.as_secs(),
                SILENCE.as_secs()
            ));
        }
        if self.source_ended.load(Ordering::Relaxed) {
            reasons.push(
                "source: the folders are no longer looked at, because listing them crashed; see the log".to_owned(),
            );
        }
        reasons
    }

    /// What the controller has not seen yet; empty once every folder was listed, or is known not to be there.
    #[must_use]
    pub fn not_ready(&self) -> Vec<String> {
        let unready = |folder: &Folder| match (&folder.listed_at, &folder.reason) {
            (Some(_), _) => None,
            (None, _) if folder.missing => None,
            (None, Some(reason)) => Some(reason.clone()),
            (None, None) => Some(format!("folder {} was not listed yet", folder.dir.display())),
        };
        self.lock().iter().filter_map(unready).chain(self.awaited().clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Folder>> {
        self.folders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;
    use crate::source::FolderSource;

    #[tokio::test(start_paused = true)]
    async fn a_dispatcher_that_waits_lives_however_long_it_waits() {
        let health = Health::new([]);
        let _ = tokio::time::timeout(100 * SILENCE, health.heartbeat.while_waiting(pending::<()>())).await;
        assert!(health.heartbeat.age() <= BEAT);
        assert!(health.not_alive().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_dispatcher_that_is_stuck_is_dead_after_the_bound_and_alive_again_when_it_turns() {
        let health = Health::new([]);
        health.heartbeat.while_waiting(async {}).await;
        tokio::time::advance(SILENCE).await;
        assert!(health.not_alive().is_empty());
        tokio::time::advance(Duration::from_secs(1)).await;
        let reasons = health.not_alive();
        assert!(reasons.len() == 1 && reasons[0].starts_with("dispatcher: no sign of life for 31 s"), "{reasons:?}");
        health.heartbeat.while_waiting(async {}).await;
        assert!(health.not_alive().is_empty());
    }

    #[test]
    fn a_source_that_crashed_is_death() {
        let health = Health::new([]);
        health.source_ended();
        assert!(health.not_alive()[0].starts_with("source: "));
    }

    #[test]
    fn a_folder_is_ready_once_it_was_listed_or_is_known_to_be_missing() {
        let dir = tempfile::tempdir().unwrap();
        let (there, missing, file) = (dir.path().join("there"), dir.path().join("missing"), dir.path().join("file"));
        std::fs::create_dir(&there).unwrap();
        std::fs::write(&file, "").unwrap();
        let dirs = [there.clone(), missing, file.clone()];
        let health = Health::new(dirs.iter().cloned().chain([there]));
        assert_eq!(health.not_ready().len(), 3, "one is named twice");
        for dir in &dirs {
            health.looked(&FolderSource::new(dir).scan(std::time::Instant::now()));
        }
        let reasons = health.not_ready();
        assert!(reasons.len() == 1 && reasons[0].contains(&file.display().to_string()), "{reasons:?}");
        std::fs::remove_dir(&dirs[0]).unwrap();
        std::fs::remove_file(&file).unwrap();
        for dir in &dirs {
            health.looked(&FolderSource::new(dir).scan(std::time::Instant::now()));
        }
        assert!(health.not_ready().is_empty(), "what was listed once stays ready: its workspaces are known");
        assert!(health.folders().iter().all(|folder| folder.missing));
    }
}
