//! What the last pass over each workspace saw: a few bytes each, kept by a hash so that nothing of its name is.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher as _,
    sync::{Mutex, MutexGuard, PoisonError},
};

use microagent_crds::Phase;

use super::label::Sight;

/// One workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Its machine.
    pub(super) machine: Sight,
    /// Its phase.
    pub(super) phase: Phase,
    /// Whether it ever was ready, as far as this controller knows.
    pub(super) was_ready: bool,
}

/// All workspaces that passes went over and that are not gone.
#[derive(Debug, Default)]
pub(super) struct Table {
    hasher: RandomState,
    seen: Mutex<HashMap<u64, Seen>>,
}

impl Table {
    pub(super) fn note(&self, uid: &str, seen: Seen) {
        let hash = self.hasher.hash_one(uid);
        self.lock().insert(hash, seen);
    }

    pub(super) fn get(&self, uid: &str) -> Option<Seen> {
        let hash = self.hasher.hash_one(uid);
        self.lock().get(&hash).copied()
    }

    pub(super) fn forget(&self, uid: &str) {
        let hash = self.hasher.hash_one(uid);
        self.lock().remove(&hash);
    }

    pub(super) fn each(&self, mut take: impl FnMut(&Seen)) {
        self.lock().values().for_each(&mut take);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
