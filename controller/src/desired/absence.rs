//! When a workspace that no folder declares any more is to go.
//!
//! The price of deleting too late is a machine that runs a moment longer; of deleting too early, somebody's disk. So a
//! workspace goes only when its own folder, the same directory both times, was listed twice without it; and not while
//! anything could still declare it: a file that is not read yet, its own file if that cannot be read, a file that came or
//! broke when the workspace went (it may have moved there), another folder that could not be looked into since.

use std::{
    path::Path,
    time::{Duration, Instant},
};

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

/// A workspace that no folder declares.
#[derive(Clone, Copy, Debug)]
pub(super) struct Absence {
    /// The first look that missed it, or found its file to be changing before that.
    noticed: Instant,
    counted: Option<Counted>,
}

/// The first of the listings without a workspace that count.
#[derive(Clone, Copy, Debug)]
struct Counted {
    since: Instant,
    identity: DirId,
    grace: Duration,
}

/// What an absence means.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Nothing: the workspace stays, with this problem where one explains it.
    Held(Absence, Option<Problem>),
    /// Not enough yet; look again after this time, or when the folder says so.
    Waiting(Absence, Option<Duration>),
    /// The workspace is to go.
    Gone,
}

impl Folders {
    /// What it means that no folder declares the workspace of this record. `before` is the absence as it was noted last,
    /// `now` the time of the look.
    pub(super) fn absence(&self, record: &Record, before: Option<&Absence>, now: Instant) -> Verdict {
        // Its file may have lost it long before that was read.
        let noticed = || self.changing_since(&record.file).map_or(now, |since| since.min(now));
        let absence = before.copied().unwrap_or_else(|| Absence { noticed: noticed(), counted: None });
        let held = |problem| Verdict::Held(Absence { counted: None, ..absence }, problem);
        let Some((home, others)) = self.home(&record.file) else { return held(None) };
        if home.incomplete.is_some() {
            return held(None);
        }
        let Some(listed) = &home.listed else { return held(None) };
        if let Some(problem) = listed.listing.problems.get(&record.file) {
            return held(Some(problem.clone()));
        }
        let others: Vec<&Folder> = others.collect();
        let settled = listed.settled && others.iter().all(|other| other.is_settled());
        let Some(identity) = listed.identity.filter(|_| settled) else {
            // The snapshot itself asks for another look.
            return Verdict::Waiting(absence, None);
        };
        if let Some((file, problem)) = self.bad_since(absence.noticed) {
            return held(Some(may_be_in(file, problem)));
        }
        let grace = match () {
            () if home.replaced => GRACE_REPLACED,
            () if listed.listing.files.contains(&*record.file) => GRACE_DOCUMENT,
            () => GRACE,
        };
        let counted = match absence.counted {
            Some(counted) if counted.identity == identity => Counted { grace: counted.grace.max(grace), ..counted },
            _ => Counted { since: listed.at, identity, grace },
        };
        let absence = Absence { counted: Some(counted), ..absence };
        let left = counted.grace.saturating_sub(listed.at.saturating_duration_since(counted.since));
        if !left.is_zero() {
            return Verdict::Waiting(absence, Some(left));
        }
        let mut unseen = others.iter().filter(|other| !other.seen_since(counted.since)).peekable();
        if unseen.peek().is_none() {
            return Verdict::Gone;
        }
        // A folder that cannot be looked into is left to the ticker.
        let lookable = unseen.any(|other| other.incomplete.is_none());
        Verdict::Waiting(absence, lookable.then_some(GRACE))
    }
}

fn may_be_in(file: &Path, problem: &Problem) -> Problem {
    Problem {
        code: problem.code.clone(),
        message: format!(
            "no manifest declares this workspace any more, but {} came or changed at that time and may do so: the workspace \
             stays as it is until that file is repaired or removed\n{}",
            file.display(),
            problem.message
        ),
    }
}

impl Folder {
    /// Whether no file of it waits to be read, as far as it can be looked into.
    fn is_settled(&self) -> bool {
        self.incomplete.is_some() || self.listed.as_ref().is_none_or(|listed| listed.settled)
    }

    /// Whether what the folder declares was seen at or after `since`; its files are read. One that is not there declares
    /// nothing.
    fn seen_since(&self, since: Instant) -> bool {
        if self.incomplete.is_some() {
            return self.missing;
        }
        self.listed.as_ref().is_some_and(|listed| listed.at >= since)
    }
}
