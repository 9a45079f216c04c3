//! What was found in files, for as long as the files are the same.
//!
//! Images, root disks and kernels are shared by many workspaces and change rarely, and reading them (manifests, digests, kernel
//! configurations) is most of what a look at a settled workspace would cost. A fact is kept with the device, inode, size and
//! times of every file that it was found in, taken *before* they were read, and every look holds these against the files as they
//! are: it is the same look, made by `stat` alone, and within [`COMPARED_FOR`] one serves all. A change of file that this cannot see
//! (a disk that loses bits) shows after [`GOOD_FOR`], when they are read again.

use std::{
    collections::HashMap,
    fs,
    hash::Hash,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use super::sight::is_young;

/// How long a fact is taken without its files being read again.
const GOOD_FOR: Duration = Duration::from_secs(60);

/// How long a comparison of the files with the fact serves all who look.
const COMPARED_FOR: Duration = Duration::from_millis(250);

/// What changes when a file is written or replaced by whatever means; the change time cannot be set by a program. `None`: no file.
type Stamp = Option<(u64, u64, u64, (i64, i64), (i64, i64))>;

/// Facts of one kind.
pub(super) struct Facts<K, T> {
    known: Mutex<HashMap<K, Fact<T>>>,
    compared_for: Duration,
}

struct Fact<T> {
    value: T,
    files: Vec<(PathBuf, Stamp)>,
    found: Instant,
    compared: Instant,
}

impl<K, T> Default for Facts<K, T> {
    fn default() -> Self {
        Self { known: Mutex::default(), compared_for: COMPARED_FOR }
    }
}

impl<K: Hash + Eq, T: Clone> Facts<K, T> {
    /// The fact, when its files are as they were.
    pub(super) fn recall(&self, key: &K) -> Option<T> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let fact = known.get_mut(key)?;
        let now = Instant::now();
        if now.duration_since(fact.found) >= GOOD_FOR {
            return None;
        }
        if now.duration_since(fact.compared) >= self.compared_for {
            if fact.files.iter().any(|(path, then)| stamp(path).0 != *then) {
                return None;
            }
            fact.compared = now;
        }
        Some(fact.value.clone())
    }

    /// Finds a fact by `read`, and keeps it with the files that `files` names for it. Nothing that is absent, and no error, is
    /// kept: whoever waits for something must see it at once.
    ///
    /// # Errors
    /// Those of `read`.
    pub(super) fn find<E>(
        &self,
        key: K,
        read: impl Fn() -> Result<Option<T>, E>,
        files: impl Fn(&T) -> Vec<PathBuf>,
    ) -> Result<Option<T>, E> {
        if let Some(value) = self.recall(&key) {
            return Ok(Some(value));
        }
        let Some(first) = read()? else { return Ok(None) };
        // Which files it is found in is known only now: they are looked at, and then read once more.
        let paths = files(&first);
        let stamps: Vec<(Stamp, bool)> = paths.iter().map(|path| stamp(path)).collect();
        let Some(value) = read()? else { return Ok(None) };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, fact| fact.found.elapsed() < GOOD_FOR);
        if files(&value) == paths && !stamps.iter().any(|(_, young)| *young) {
            let files = paths.into_iter().zip(stamps.into_iter().map(|(stamp, _)| stamp)).collect();
            known.insert(key, Fact { value: value.clone(), files, found: Instant::now(), compared: Instant::now() });
        }
        Ok(Some(value))
    }
}

/// The stamp of a file, and whether it is too young to tell a change.
fn stamp(path: &Path) -> (Stamp, bool) {
    let Ok(meta) = fs::metadata(path) else { return (None, false) };
    let time = |seconds, nanos| (seconds, nanos);
    let stamp = (
        meta.dev(),
        meta.ino(),
        meta.size(),
        time(meta.mtime(), meta.mtime_nsec()),
        time(meta.ctime(), meta.ctime_nsec()),
    );
    let changed = u64::try_from(meta.ctime()).map(Duration::from_secs).unwrap_or_default()
        + Duration::from_nanos(u64::try_from(meta.ctime_nsec()).unwrap_or(0));
    (Some(stamp), is_young(SystemTime::UNIX_EPOCH + changed))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// A file, and a count of how often it was read.
    struct Counted {
        path: PathBuf,
        reads: Cell<usize>,
    }

    impl Counted {
        fn find(&self, facts: &Facts<u8, String>) -> Option<String> {
            let read = || {
                self.reads.set(self.reads.get() + 1);
                Ok::<_, ()>(fs::read_to_string(&self.path).ok())
            };
            facts.find(1, read, |_| vec![self.path.clone()]).unwrap()
        }

        /// Looks until the file is old enough for its fact to be kept.
        fn settle(&self, facts: &Facts<u8, String>) {
            let deadline = Instant::now() + Duration::from_secs(60);
            while facts.recall(&1).is_none() {
                self.find(facts);
                assert!(Instant::now() < deadline, "nothing is kept");
            }
            self.reads.set(0);
        }
    }

    #[test]
    fn files_are_read_once_and_again_when_one_is_replaced_rewritten_or_gone() {
        let dir = tempfile::tempdir().unwrap();
        let file = Counted { path: dir.path().join("fact"), reads: Cell::new(0) };
        let facts = Facts { compared_for: Duration::ZERO, ..Facts::default() };
        assert_eq!(file.find(&facts), None);
        fs::write(&file.path, "one").unwrap();
        assert_eq!(file.find(&facts).as_deref(), Some("one"), "what appears is seen at once");
        file.settle(&facts);
        assert_eq!(file.find(&facts).as_deref(), Some("one"));
        assert_eq!(file.reads.get(), 0);
        microagent_base::durable::write(&file.path, b"two").unwrap();
        assert_eq!(file.find(&facts).as_deref(), Some("two"), "replaced");
        file.settle(&facts);
        fs::write(&file.path, "six").unwrap();
        assert_eq!(file.find(&facts).as_deref(), Some("six"), "rewritten");
        file.settle(&facts);
        fs::remove_file(&file.path).unwrap();
        assert_eq!(file.find(&facts), None, "gone");
    }

    #[test]
    fn one_comparison_serves_all_who_look_for_a_moment() {
        let dir = tempfile::tempdir().unwrap();
        let file = Counted { path: dir.path().join("fact"), reads: Cell::new(0) };
        fs::write(&file.path, "one").unwrap();
        let facts = Facts { compared_for: Duration::from_secs(3600), ..Facts::default() };
        file.settle(&facts);
        fs::remove_file(&file.path).unwrap();
        assert_eq!(file.find(&facts).as_deref(), Some("one"));
    }
}
