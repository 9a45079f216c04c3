//! Hints that a folder changed. A hint only hastens the next look: the ticker finds everything that no event tells, as
//! on network file systems.
//!
//! What the kernel's events are like (inotify(7), through `notify`): reading the folder makes events too, so most kinds
//! are ignored; a full event queue is told by one flag; a folder that is deleted falls silent for ever, also when it is
//! made again; one that is renamed goes on under its old path; a missing one cannot be watched, so its nearest parent is.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind, RenameMode},
};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{
    DirId,
    look::{dir_identity, is_manifest_name},
};

/// How long a hint waits for the rest of a change that goes on: a file that was made or written, and not closed yet.
const COALESCE: Duration = Duration::from_millis(50);

/// The same for a change that is complete: a file closed after writing, renamed or removed. Long enough for the events
/// of one save, short because a user waits for it.
const COALESCE_COMPLETE: Duration = Duration::from_millis(2);

/// The number of files whose writers are remembered between two hints; those beyond wait for the longer quiet period.
const MAX_FILES: usize = 4096;

/// Why to look at the folders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum HintReason {
    /// The time has come.
    #[default]
    Ticker,
    /// Something changed.
    Changed,
    /// A watched folder came, went, or was replaced.
    Folder,
    /// Events were lost.
    Overflow,
}

/// Look at the folders now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hint {
    /// The weightiest of the reasons.
    pub reason: HintReason,
    /// Files that were closed after writing, or renamed into place.
    pub finished: BTreeSet<PathBuf>,
    /// Files that were written and are not known to be closed.
    pub writing: BTreeSet<PathBuf>,
}

/// Watches `dirs` and sends a hint at once, on each change (coalesced: see the constants of the module), and every
/// `relist`. Hints that are not taken merge into one. Ends when the receiver is dropped; works, by the ticker alone,
/// where the system gives no watcher.
pub async fn watch(dirs: Vec<PathBuf>, tx: mpsc::Sender<Hint>, relist: Duration) {
    let shared = Arc::new(Shared::default());
    let mut places: Vec<Place> = dirs.into_iter().map(Place::new).collect();
    let mut watcher = start(&shared, &places);
    let mut ticker = interval(relist.max(Duration::from_millis(1)));
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let due = shared.lock().due;
        tokio::select! {
            () = tx.closed() => return,
            _ = ticker.tick() => shared.lock().note(HintReason::Ticker, Duration::ZERO),
            () = shared.changed.notified() => {}
            permit = reserve_at(due, &tx) => {
                let Some(permit) = permit else { return };
                // The folders first: what changes in a folder after it is watched again gives an event of its own.
                if let Some(watcher) = &mut watcher {
                    let moved = places.iter_mut().fold(false, |moved, place| place.follow(watcher) | moved);
                    if moved {
                        shared.lock().note(HintReason::Folder, Duration::ZERO);
                    }
                }
                if let Some(hint) = shared.lock().take() {
                    permit.send(hint);
                }
            }
        }
    }
}

/// A place in the channel, not before `due`; never without one.
async fn reserve_at(due: Option<Instant>, tx: &mpsc::Sender<Hint>) -> Option<mpsc::Permit<'_, Hint>> {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
    tx.reserve().await.ok()
}

fn start(shared: &Arc<Shared>, places: &[Place]) -> Option<RecommendedWatcher> {
    let dirs: Vec<PathBuf> = places.iter().map(|place| place.dir.clone()).collect();
    let handler = {
        let shared = shared.clone();
        move |event: notify::Result<Event>| shared.event(event, &dirs)
    };
    match notify::recommended_watcher(handler) {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            tracing::warn!(%error, "the system gives no file watcher (see fs.inotify.max_user_instances); changes are found by the ticker alone");
            None
        }
    }
}

/// What the watcher's thread leaves for the task.
#[derive(Debug, Default)]
struct Shared {
    pending: Mutex<Pending>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    hint: Hint,
    /// When to send it; none when there is nothing to send.
    due: Option<Instant>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn event(&self, event: notify::Result<Event>, dirs: &[PathBuf]) {
        let noted = match event {
            Ok(event) => self.lock().event(&event, dirs),
            // What went wrong is not known, so anything may have changed.
            Err(error) => {
                tracing::debug!(%error, "the file watcher failed");
                self.lock().note(HintReason::Overflow, COALESCE);
                true
            }
        };
        if noted {
            self.changed.notify_one();
        }
    }
}

impl Pending {
    fn note(&mut self, reason: HintReason, after: Duration) {
        let due = Instant::now() + after;
        self.hint.reason = self.hint.reason.max(reason);
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
    }

    fn take(&mut self) -> Option<Hint> {
        self.due.take()?;
        Some(std::mem::take(&mut self.hint))
    }

    /// Takes an event; gives whether it says anything.
    fn event(&mut self, event: &Event, dirs: &[PathBuf]) -> bool {
        if event.need_rescan() {
            self.note(HintReason::Overflow, COALESCE);
            return true;
        }
        let Some(path) = event.paths.last() else { return false };
        // The folder itself, or a directory that leads to it.
        if dirs.iter().any(|dir| dir.starts_with(path)) {
            let matters = matches!(
                event.kind,
                EventKind::Create(_) | EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))
            );
            if matters {
                self.note(HintReason::Folder, COALESCE_COMPLETE);
            }
            return matters;
        }
        let in_folder = path.parent().is_some_and(|parent| dirs.iter().any(|dir| dir == parent));
        if !in_folder || !event.paths.iter().any(|path| matters(path)) {
            return false;
        }
        let (complete, set) = match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => (true, Some(true)),
            EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both)) => (true, Some(true)),
            EventKind::Modify(ModifyKind::Name(_)) | EventKind::Remove(_) => (true, None),
            EventKind::Create(_) | EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Any) => (false, Some(false)),
            EventKind::Modify(_) | EventKind::Any | EventKind::Other => (false, None),
            // Also our own reading of the folder.
            EventKind::Access(_) => return false,
        };
        if let Some(finished) = set {
            self.writer(path, finished);
        }
        self.note(HintReason::Changed, if complete { COALESCE_COMPLETE } else { COALESCE });
        true
    }

    fn writer(&mut self, path: &Path, finished: bool) {
        let Hint { finished: done, writing, .. } = &mut self.hint;
        let (into, from) = if finished { (done, writing) } else { (writing, done) };
        from.remove(path);
        if into.len() < MAX_FILES {
            into.insert(path.to_owned());
        }
    }
}

/// Whether a change of this file can change what the folder declares. The hidden names of a mounted ConfigMap (`..data`)
/// can: the visible files are links through them.
fn matters(path: &Path) -> bool {
    path.file_name().is_some_and(|name| is_manifest_name(name) || name.as_encoded_bytes().starts_with(b".."))
}

/// What is watched for one folder.
#[derive(Debug)]
struct Place {
    dir: PathBuf,
    /// The directory that is watched, and which one it was.
    watched: Option<(PathBuf, DirId)>,
    told: bool,
}

impl Place {
    fn new(dir: PathBuf) -> Self {
        Self { dir, watched: None, told: false }
    }

    /// Watches the folder, or the nearest directory above it that exists; gives whether that changed.
    fn follow(&mut self, watcher: &mut RecommendedWatcher) -> bool {
        let mut changed = false;
        // What appears between finding the place and watching it gives no event, so it is looked for once more.
        loop {
            let place = self.dir.ancestors().find_map(|path| Some((path.to_owned(), dir_identity(path).ok()?)));
            if place == self.watched {
                return changed;
            }
            changed = true;
            if let Some((old, _)) = self.watched.take() {
                let _ = watcher.unwatch(&old);
            }
            let Some((path, identity)) = place else { return changed };
            match watcher.watch(&path, RecursiveMode::NonRecursive) {
                Ok(()) => self.watched = Some((path, identity)),
                Err(error) => {
                    if !std::mem::replace(&mut self.told, true) {
                        let dir = path.display();
                        tracing::warn!(%error, %dir, "the folder cannot be watched (see fs.inotify.max_user_watches); changes are found by the ticker alone");
                    }
                    return false;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tokio::time::timeout;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    /// Longer than any test: what arrives is no work of the ticker.
    const NO_TICKER: Duration = Duration::from_secs(3600);

    struct Watched {
        dir: PathBuf,
        rx: mpsc::Receiver<Hint>,
        _parent: tempfile::TempDir,
    }

    /// A watched folder whose first hint was taken.
    async fn watched() -> Watched {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("folder");
        fs::create_dir(&dir).unwrap();
        let (tx, rx) = mpsc::channel(1);
        tokio::spawn(watch(vec![dir.clone()], tx, NO_TICKER));
        let mut watched = Watched { dir, rx, _parent: parent };
        watched.until(|_| true).await;
        watched
    }

    impl Watched {
        async fn until(&mut self, wanted: impl Fn(&Hint) -> bool) -> Hint {
            let found = async {
                loop {
                    let hint = self.rx.recv().await.unwrap();
                    if wanted(&hint) {
                        return hint;
                    }
                }
            };
            timeout(DEADLINE, found).await.expect("no such hint came")
        }
    }

    #[tokio::test]
    async fn a_written_file_is_hinted_as_finished() {
        let mut watched = watched().await;
        let path = watched.dir.join("a.yaml");
        fs::write(&path, "x").unwrap();
        let hint = watched.until(|hint| hint.finished.contains(&path)).await;
        assert_eq!(hint.reason, HintReason::Changed);
        assert!(!hint.writing.contains(&path));
    }

    #[tokio::test]
    async fn a_file_renamed_into_place_is_hinted_as_finished() {
        let mut watched = watched().await;
        let path = watched.dir.join("a.yaml");
        fs::write(watched.dir.join("tmp"), "x").unwrap();
        fs::rename(watched.dir.join("tmp"), &path).unwrap();
        watched.until(|hint| hint.finished.contains(&path)).await;
    }

    #[tokio::test]
    async fn a_file_that_is_still_open_is_not_finished() {
        use std::io::Write;
        let mut watched = watched().await;
        let path = watched.dir.join("a.yaml");
        let mut file = fs::File::create(&path).unwrap();
        file.write_all(b"x").unwrap();
        watched.until(|hint| hint.writing.contains(&path)).await;
        drop(file);
        watched.until(|hint| hint.finished.contains(&path)).await;
    }

    #[tokio::test]
    async fn reading_the_folder_and_editor_files_give_no_hint() {
        let mut watched = watched().await;
        fs::write(watched.dir.join("a.yaml"), "x").unwrap();
        watched.until(|hint| !hint.finished.is_empty()).await;
        fs::read(watched.dir.join("a.yaml")).unwrap();
        fs::read_dir(&watched.dir).unwrap().for_each(drop);
        fs::write(watched.dir.join(".a.yaml.swp"), "x").unwrap();
        fs::write(watched.dir.join("a.yaml~"), "x").unwrap();
        fs::write(watched.dir.join("4913"), "x").unwrap();
        // The events before this one were taken already when it is seen.
        fs::write(watched.dir.join("b.yaml"), "x").unwrap();
        let hint = watched.until(|_| true).await;
        let b = BTreeSet::from([watched.dir.join("b.yaml")]);
        assert!(hint.finished == b || hint.writing == b, "{hint:?}");
    }

    #[tokio::test]
    async fn the_swap_of_a_configmap_is_hinted() {
        let mut watched = watched().await;
        fs::create_dir(watched.dir.join("..1")).unwrap();
        std::os::unix::fs::symlink("..1", watched.dir.join("..tmp")).unwrap();
        fs::rename(watched.dir.join("..tmp"), watched.dir.join("..data")).unwrap();
        let data = watched.dir.join("..data");
        watched.until(|hint| hint.finished.contains(&data)).await;
    }

    #[tokio::test]
    async fn a_folder_made_again_is_watched_again() {
        let mut watched = watched().await;
        for round in 0..3 {
            fs::remove_dir_all(&watched.dir).unwrap();
            watched.until(|hint| hint.reason == HintReason::Folder).await;
            fs::create_dir(&watched.dir).unwrap();
            watched.until(|hint| hint.reason == HintReason::Folder).await;
            let path = watched.dir.join(format!("{round}.yaml"));
            fs::write(&path, "x").unwrap();
            watched.until(|hint| hint.finished.contains(&path)).await;
        }
    }

    #[tokio::test]
    async fn a_folder_moved_away_and_back_is_watched() {
        let mut watched = watched().await;
        let away = watched.dir.with_file_name("away");
        fs::rename(&watched.dir, &away).unwrap();
        watched.until(|hint| hint.reason == HintReason::Folder).await;
        fs::rename(&away, &watched.dir).unwrap();
        watched.until(|hint| hint.reason == HintReason::Folder).await;
        let path = watched.dir.join("a.yaml");
        fs::write(&path, "x").unwrap();
        watched.until(|hint| hint.finished.contains(&path)).await;
    }

    #[tokio::test]
    async fn a_folder_that_is_missing_at_start_is_found_when_it_and_its_parents_come() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("a/b");
        let (tx, rx) = mpsc::channel(1);
        tokio::spawn(watch(vec![dir.clone()], tx, NO_TICKER));
        let mut watched = Watched { dir, rx, _parent: parent };
        watched.until(|_| true).await;
        fs::create_dir_all(&watched.dir).unwrap();
        watched.until(|hint| hint.reason == HintReason::Folder).await;
        let path = watched.dir.join("a.yaml");
        fs::write(&path, "x").unwrap();
        // The folder may have been found before or after the file was written; a hint comes either way.
        watched.until(|_| true).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_ticker_hints_with_no_event() {
        let parent = tempfile::tempdir().unwrap();
        let (tx, mut rx) = mpsc::channel(1);
        tokio::spawn(watch(vec![parent.path().to_owned()], tx, Duration::from_secs(15)));
        rx.recv().await.unwrap();
        let start = Instant::now();
        assert_eq!(rx.recv().await.unwrap().reason, HintReason::Ticker);
        assert_eq!(start.elapsed().as_secs(), 15);
    }

    #[tokio::test]
    async fn the_watch_ends_with_its_receiver() {
        let parent = tempfile::tempdir().unwrap();
        let (tx, rx) = mpsc::channel(1);
        let task = tokio::spawn(watch(vec![parent.path().to_owned()], tx, NO_TICKER));
        drop(rx);
        timeout(DEADLINE, task).await.unwrap().unwrap();
    }

    #[test]
    fn lost_events_are_hinted_whatever_else_there_is() {
        let mut pending = Pending::default();
        let event = Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _guard = runtime.enter();
        assert!(pending.event(&event, &[]));
        pending.note(HintReason::Changed, Duration::ZERO);
        assert_eq!(pending.take().unwrap().reason, HintReason::Overflow);
        assert_eq!(pending.take(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_tells_whether_a_file_is_finished_and_how_long_to_wait_for_more() {
        use notify::event::{CreateKind, DataChange, MetadataKind, RemoveKind};
        let dirs = [PathBuf::from("/w/folder")];
        let file = Path::new("/w/folder/a.yaml");
        let (finished, writing, unknown) = ((true, false), (false, true), (false, false));
        for (kind, writer, wait) in [
            (EventKind::Access(AccessKind::Close(AccessMode::Write)), finished, COALESCE_COMPLETE),
            (EventKind::Modify(ModifyKind::Name(RenameMode::To)), finished, COALESCE_COMPLETE),
            (EventKind::Modify(ModifyKind::Name(RenameMode::Both)), finished, COALESCE_COMPLETE),
            (EventKind::Modify(ModifyKind::Name(RenameMode::From)), unknown, COALESCE_COMPLETE),
            (EventKind::Remove(RemoveKind::File), unknown, COALESCE_COMPLETE),
            (EventKind::Create(CreateKind::File), writing, COALESCE),
            (EventKind::Modify(ModifyKind::Data(DataChange::Any)), writing, COALESCE),
            (EventKind::Modify(ModifyKind::Any), writing, COALESCE),
            (EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any)), unknown, COALESCE),
            (EventKind::Any, unknown, COALESCE),
            (EventKind::Other, unknown, COALESCE),
        ] {
            let mut pending = Pending::default();
            assert!(pending.event(&Event::new(kind).add_path(file.into()), &dirs), "{kind:?}");
            assert_eq!(pending.due, Some(Instant::now() + wait), "{kind:?}");
            let hint = pending.take().unwrap();
            assert_eq!(hint.reason, HintReason::Changed, "{kind:?}");
            assert_eq!((hint.finished.contains(file), hint.writing.contains(file)), writer, "{kind:?}");
        }
        for kind in [AccessKind::Any, AccessKind::Read, AccessKind::Close(AccessMode::Read)] {
            let mut pending = Pending::default();
            let event = Event::new(EventKind::Access(kind)).add_path(file.into());
            assert!(!pending.event(&event, &dirs) && pending.take().is_none(), "{kind:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_folder_and_what_leads_to_it_matter_when_they_come_or_go() {
        use notify::event::{CreateKind, MetadataKind, RemoveKind};
        let dirs = [PathBuf::from("/w/other"), PathBuf::from("/w/folder")];
        let gone = EventKind::Remove(RemoveKind::Folder);
        let moved = EventKind::Modify(ModifyKind::Name(RenameMode::From));
        for kind in [EventKind::Create(CreateKind::Folder), gone, moved] {
            for path in ["/w/folder", "/w", "/"] {
                let mut pending = Pending::default();
                assert!(pending.event(&Event::new(kind).add_path(path.into()), &dirs), "{path} {kind:?}");
                assert_eq!(pending.due, Some(Instant::now() + COALESCE_COMPLETE));
                assert_eq!(pending.take().unwrap().reason, HintReason::Folder);
            }
            for path in ["/w/nobodys", "/w/folder/sub/a.yaml", "/w/folder/a.txt", "/w/a.yaml"] {
                let mut pending = Pending::default();
                assert!(!pending.event(&Event::new(kind).add_path(path.into()), &dirs), "{path} {kind:?}");
                assert_eq!(pending.take(), None);
            }
        }
        let touched = EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any));
        assert!(!Pending::default().event(&Event::new(touched).add_path("/w/folder".into()), &dirs));
        assert!(!Pending::default().event(&Event::new(gone), &dirs), "an event of nothing tells nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_due_first_counts() {
        let mut pending = Pending::default();
        for (wait, due) in [(COALESCE, COALESCE), (Duration::ZERO, Duration::ZERO), (COALESCE, Duration::ZERO)] {
            pending.note(HintReason::Changed, wait);
            assert_eq!(pending.due, Some(Instant::now() + due));
        }
    }

    #[test]
    fn no_more_than_so_many_writers_are_remembered() {
        let mut pending = Pending::default();
        for n in 0..=MAX_FILES {
            pending.writer(Path::new(&n.to_string()), true);
        }
        assert_eq!(pending.hint.finished.len(), MAX_FILES);
        pending.writer(Path::new("0"), false);
        assert_eq!((pending.hint.finished.len(), pending.hint.writing.len()), (MAX_FILES - 1, 1));
    }
}
