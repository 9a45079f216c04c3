//! When the machine was last used: the time of a file's last change, which a reader sees without asking the shim and which no
//! watcher of renames hears of.

use std::{
    fs::{self, File},
    io,
    path::Path,
    sync::{Arc, Mutex, TryLockError},
    time::{Duration, Instant, SystemTime},
};

use jiff::Timestamp;

use crate::dir::ACTIVITY;

/// Between two notes: who asks whether a machine is idle counts in seconds.
const STEP: Duration = Duration::from_secs(1);

/// Notes the use of a machine. All copies share one clock.
#[derive(Clone, Debug)]
pub(crate) struct Activity(Arc<Note>);

#[derive(Debug)]
struct Note {
    file: Option<File>,
    last: Mutex<Instant>,
}

impl Activity {
    /// The file in the working directory, made anew: the machine counts as used now.
    pub(crate) fn begin() -> io::Result<Self> {
        Self::begin_at(Path::new(ACTIVITY))
    }

    fn begin_at(path: &Path) -> io::Result<Self> {
        let file = File::create(path)?;
        file.set_modified(SystemTime::now())?;
        Ok(Self(Arc::new(Note { file: Some(file), last: Mutex::new(Instant::now()) })))
    }

    /// Something was heard or said. Cheap: written at most once a second.
    pub(crate) fn note(&self) {
        self.note_at(Instant::now());
    }

    fn note_at(&self, now: Instant) {
        let mut last = match self.0.last.try_lock() {
            Ok(last) => last,
            Err(TryLockError::Poisoned(last)) => last.into_inner(),
            // Another thread notes it in this very moment.
            Err(TryLockError::WouldBlock) => return,
        };
        if now.saturating_duration_since(*last) >= STEP {
            *last = now;
            // That the time of use is not known must not end the use.
            let _ = self.0.file.as_ref().map(|file| file.set_modified(SystemTime::now()));
        }
    }

    /// One that notes nothing.
    #[cfg(test)]
    pub(crate) fn nowhere() -> Self {
        Self(Arc::new(Note { file: None, last: Mutex::new(Instant::now()) }))
    }
}

/// When a machine that was started then was last used: never later than now and never before its start, whatever the host's clock
/// did.
pub(crate) fn last(file: &Path, started_at: Timestamp, now: Timestamp) -> Option<Timestamp> {
    let modified = fs::metadata(file).and_then(|m| m.modified()).ok()?;
    Some(Timestamp::try_from(modified).ok()?.min(now).max(started_at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_use_lies_between_the_start_and_now() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("activity");
        let second = |s| Timestamp::from_second(s).unwrap();
        assert_eq!(last(&path, second(10), second(20)), None);
        let file = File::create(&path).unwrap();
        for (modified, expected) in [(5, 10), (15, 15), (25, 20)] {
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(modified)).unwrap();
            assert_eq!(last(&path, second(10), second(20)), Some(second(expected)));
        }
    }

    #[test]
    fn a_busy_machine_is_noted_once_a_second() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("activity");
        let activity = Activity::begin_at(&path).unwrap();
        let begun = *activity.0.last.lock().unwrap();
        let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        let modified = || fs::metadata(&path).unwrap().modified().unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
        activity.note_at(begun + STEP - Duration::from_millis(1));
        assert_eq!(modified(), old);
        activity.note_at(begun + STEP);
        assert!(modified() > old);
    }
}
