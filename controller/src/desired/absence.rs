//! When a workspace that no folder declares any more is to go.
//!
//! The price of deleting too late is a machine that runs a moment longer; of deleting too early, somebody's disk. So a
//! workspace goes only when its own folder, the same directory both times, was listed twice without it; and not while
//! anything could still declare it: a file that is not read yet, its own file if that cannot be read, another folder that
//! could not be looked into since.

use std::time::{Duration, Instant};

use super::folder::{Folder, Folders};
use crate::{Problem, Record, source::DirId};

/// How far apart the two listings are, for a file that is gone. Far longer than an editor's save by renaming leaves the name
/// absent, short enough for deleting to feel immediate.
pub const GRACE: Duration = Duration::from_millis(200);

/// The same for a workspace that went from a file that is still there: it may be being written in blocks.
pub const GRACE_DOCUMENT: Duration = Duration::from_secs(2);

/// The same for a folder that is another directory than the one the workspaces came from: it was made again and may be
/// filling up, or the file system that was mounted on it is gone.
pub const GRACE_REPLACED: Duration = Duration::from_secs(30);

/// The first of the listings without a workspace.
#[derive(Clone, Copy, Debug)]
pub(super) struct Absence {
    since: Instant,
    identity: DirId,
    grace: Duration,
}

/// What an absence means.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Nothing: the workspace stays, with this problem where one explains it.
    Held(Option<Problem>),
    /// Not enough yet; look again after this time, or when the folder says so.
    Waiting(Absence, Option<Duration>),
    /// The workspace is to go.
    Gone,
}

impl Folders {
    /// What it means that no folder declares the workspace of this record. `before` is the absence as it was noted last.
    pub(super) fn absence(&self, record: &Record, before: Option<&Absence>) -> Verdict {
        let Some((home, others)) = self.home(&record.file) else { return Verdict::Held(None) };
        if home.incomplete.is_some() {
            return Verdict::Held(None);
        }
        let Some(listed) = &home.listed else { return Verdict::Held(None) };
        if let Some(problem) = listed.problems.get(&record.file) {
            return Verdict::Held(Some(problem.clone()));
        }
        let Some(identity) = listed.identity.filter(|_| listed.settled) else {
            // The snapshot itself asks for another look.
            return match before {
                Some(absence) => Verdict::Waiting(*absence, None),
                None => Verdict::Held(None),
            };
        };
        let grace = match () {
            () if home.replaced => GRACE_REPLACED,
            () if listed.files.contains(&record.file) => GRACE_DOCUMENT,
            () => GRACE,
        };
        let absence = match before {
            Some(absence) if absence.identity == identity => Absence { grace: absence.grace.max(grace), ..*absence },
            _ => Absence { since: listed.at, identity, grace },
        };
        let left = absence.grace.saturating_sub(listed.at.saturating_duration_since(absence.since));
        if !left.is_zero() {
            return Verdict::Waiting(absence, Some(left));
        }
        let mut unseen = others.filter(|other| !other.seen_since(absence.since)).peekable();
        if unseen.peek().is_none() {
            return Verdict::Gone;
        }
        // A folder that cannot be looked into is left to the ticker.
        let lookable = unseen.any(|other| other.incomplete.is_none());
        Verdict::Waiting(absence, lookable.then_some(GRACE))
    }
}

impl Folder {
    /// Whether what the folder declares was seen at or after `since`. One that is not there declares nothing.
    fn seen_since(&self, since: Instant) -> bool {
        if self.incomplete.is_some() {
            return self.missing;
        }
        self.listed.as_ref().is_some_and(|listed| listed.settled && listed.at >= since)
    }
}
