//! Waiting for files to change.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};
use tokio::sync::Notify;

/// How long a change can stay unseen when the kernel tells nothing of it: a queue that ran over, a network file system, a
/// directory that was made anew.
const RELOOK: Duration = Duration::from_secs(2);

/// Watches directories, also such as are not there yet.
pub(crate) struct Watch {
    /// Absent when the kernel gives no watch: then every look waits for [`RELOOK`].
    watcher: Option<RecommendedWatcher>,
    changed: Arc<Notify>,
    wanted: BTreeSet<PathBuf>,
    watched: BTreeSet<PathBuf>,
}

impl Watch {
    /// A watch of nothing.
    pub(crate) fn new() -> Self {
        let changed = Arc::new(Notify::new());
        let tell = Arc::clone(&changed);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Our own reading must not wake us.
            let reading = |kind| match kind {
                EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
                EventKind::Access(_) => true,
                _ => false,
            };
            if !event.is_ok_and(|e| reading(e.kind)) {
                tell.notify_one();
            }
        });
        Self { watcher: watcher.ok(), changed, wanted: BTreeSet::new(), watched: BTreeSet::new() }
    }

    /// Watches `dir` from now on; while it is not there, what it will be in.
    pub(crate) fn dir(&mut self, dir: &Path) {
        if self.wanted.insert(dir.to_owned()) {
            self.arm();
        }
    }

    /// Ends when something may have changed since the last look. Changes between two calls are not lost.
    pub(crate) async fn changed(&mut self) {
        self.arm();
        let _ = tokio::time::timeout(RELOOK, self.changed.notified()).await;
    }

    fn arm(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        let there = |dir: &Path| dir.ancestors().find(|d| d.is_dir()).map(Path::to_owned);
        let wanted: BTreeSet<PathBuf> = self.wanted.iter().filter_map(|dir| there(dir)).collect();
        for gone in self.watched.difference(&wanted) {
            let _ = watcher.unwatch(gone);
        }
        for dir in wanted.difference(&self.watched) {
            if watcher.watch(dir, RecursiveMode::NonRecursive).is_ok() {
                // Something may have come into it before it was watched.
                self.changed.notify_one();
            }
        }
        self.watched = wanted;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn change_is_seen(watch: &mut Watch) -> bool {
        let wait = watch.changed.clone();
        tokio::time::timeout(Duration::from_secs(10), wait.notified()).await.is_ok()
    }

    #[tokio::test]
    async fn a_file_that_is_renamed_into_place_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = Watch::new();
        watch.dir(dir.path());
        assert!(change_is_seen(&mut watch).await, "the look that follows arming");
        std::fs::write(dir.path().join(".tmp"), "x").unwrap();
        std::fs::rename(dir.path().join(".tmp"), dir.path().join("x")).unwrap();
        assert!(change_is_seen(&mut watch).await);
    }

    #[tokio::test]
    async fn a_directory_that_comes_later_is_watched_from_then_on() {
        let dir = tempfile::tempdir().unwrap();
        let late = dir.path().join("a/b");
        let mut watch = Watch::new();
        watch.dir(&late);
        std::fs::create_dir_all(&late).unwrap();
        watch.arm();
        assert!(watch.watched.contains(&late));
    }
}
