//! What is wanted of a node: the durable records, and how the objects of the API server change them.
//!
//! A record is on the disk before it counts. It outlives the connection to the API server: what was wanted last is kept so, whoever
//! cannot be reached meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use microagent_base::durable::DurableError;
use microagent_crds::{OnDelete, Workspace, kubernetes::HOST_STATE_FINALIZER};

use super::{
    doubt::{Doubt, Doubts},
    object::Seen,
};
use crate::{
    Key, Paths, Problem, Record, Records,
    memory::Memory,
    reconcile::Store,
    records::{Roster, Written, changed, tombstone},
};

/// All workspaces of a node.
#[derive(Debug)]
pub(super) struct Claims {
    records: Records,
    /// The objects as they were seen last.
    objects: BTreeMap<Key, Seen>,
    /// The UIDs whose finalizer this agent has taken away. What is still seen of such an object is late.
    released: BTreeSet<String>,
    /// Objects that were never good, and of which nothing is on the host.
    rejected: BTreeMap<Key, Problem>,
    /// The keys to be settled with the next change, whatever it is.
    again: BTreeSet<Key>,
    /// The workspaces that are not seen any more, as far as it is not known that they are gone.
    doubts: Doubts,
}

/// What changes of objects changed here.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// The workspaces whose records were made or changed.
    pub(super) changed: Vec<Key>,
    /// Objects that were never good, and of which nothing is here.
    pub(super) rejected: Vec<Rejected>,
    /// What could not be written. The next change tries it again; all else was done.
    pub(super) failures: Vec<DurableError>,
}

/// See [`Settled::rejected`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rejected {
    pub(super) key: Key,
    pub(super) uid: String,
    pub(super) generation: i64,
    pub(super) problem: Problem,
}

impl Claims {
    /// Reads all records. Nothing is known of the objects yet. `doubts` is where to ask about those that are not seen any more.
    ///
    /// # Errors
    /// See [`Records::load`].
    pub(super) fn load(paths: &Paths, doubts: Doubts) -> Result<Self, DurableError> {
        let records = Records::load(paths)?;
        Ok(Self {
            records,
            objects: BTreeMap::new(),
            released: BTreeSet::new(),
            rejected: BTreeMap::new(),
            again: BTreeSet::new(),
            doubts,
        })
    }

    pub(super) fn records(&self) -> &Records {
        &self.records
    }

    /// The objects that were never good, each with why.
    pub(super) fn rejected(&self) -> &BTreeMap<Key, Problem> {
        &self.rejected
    }

    /// The object as it was seen last.
    pub(super) fn seen(&self, key: &Key) -> Option<&Seen> {
        self.objects.get(key)
    }

    /// The finalizer was put on the object, or taken from it.
    pub(super) fn mark_held(&mut self, record: &Record, held: bool) {
        if held {
            self.released.remove(&record.uid);
        } else {
            self.released.insert(record.uid.clone());
        }
        if let Some(seen) = self.objects.get_mut(&record.key).filter(|seen| seen.uid == record.uid)
            && seen.is_held() != held
        {
            seen.finalizers.retain(|one| one != HOST_STATE_FINALIZER);
            seen.finalizers.extend(held.then(|| HOST_STATE_FINALIZER.to_owned()));
        }
    }

    /// Objects came, changed or went.
    #[must_use = "what changed must be reconciled, and what failed told"]
    pub(super) fn apply(&mut self, changes: impl IntoIterator<Item = (Key, Option<Seen>)>) -> Settled {
        let mut keys = std::mem::take(&mut self.again);
        for (key, seen) in changes {
            let known = self.objects.get(&key);
            if known.zip(seen.as_ref()).is_some_and(|(known, seen)| seen.is_older_than(known)) {
                // Told again by whatever repeats old news: what it says is not wanted any more.
                continue;
            }
            let before = match seen {
                Some(seen) => self.objects.insert(key.clone(), seen),
                None => self.objects.remove(&key),
            };
            // No more is heard of an object that is gone.
            if let Some(before) = before
                && self.objects.get(&key).is_none_or(|seen| seen.uid != before.uid)
            {
                self.released.remove(&before.uid);
            }
            keys.insert(key);
        }
        self.settle_all(keys)
    }

    /// These are all the objects that there are.
    #[must_use = "what changed must be reconciled, and what failed told"]
    pub(super) fn replace(&mut self, objects: BTreeMap<Key, Seen>) -> Settled {
        let mut keys = std::mem::take(&mut self.again);
        keys.extend(self.records.iter().map(|record| record.key.clone()));
        keys.extend(self.objects.keys().chain(objects.keys()).cloned());
        self.objects = objects;
        let there: BTreeSet<&str> = self.objects.values().map(|seen| seen.uid.as_str()).collect();
        self.released.retain(|uid| there.contains(uid.as_str()));
        self.settle_all(keys)
    }

    /// The API server itself says that it has this one no more for this node.
    #[must_use = "what changed must be reconciled, and what failed told"]
    pub(super) fn gone(&mut self, doubt: &Doubt, now: Timestamp) -> Settled {
        let Doubt { key, uid } = doubt;
        if !self.doubts.take(doubt) {
            return Settled::default();
        }
        if self.objects.get(key).is_some_and(|seen| seen.uid == *uid) {
            self.objects.remove(key);
        }
        let record = self.records.get_mut(key).filter(|record| record.uid == *uid);
        let next = record.and_then(|record| changed(record, |record| vanish(record, now)));
        self.write(next.into_iter().collect(), Settled::default())
    }

    /// The API server says that it does not have the object of this record, which was seen before.
    pub(super) fn doubt(&mut self, record: &Record) {
        self.doubts.raise(&record.key, &record.uid);
    }

    fn settle_all(&mut self, keys: BTreeSet<Key>) -> Settled {
        let mut settled = Settled::default();
        let mut records = Vec::new();
        for key in keys {
            match self.settle(&key) {
                Step::Nothing => {}
                Step::Write(record) => records.push(*record),
                Step::Reject(rejected) => settled.rejected.push(rejected),
            }
        }
        self.write(records, settled)
    }

    fn write(&mut self, records: Vec<Record>, mut settled: Settled) -> Settled {
        let Written { done, failed, errors } = self.records.write(records);
        settled.changed = done;
        settled.failures = errors;
        self.again.extend(failed);
        settled
    }

    /// What must become of the record of one name.
    fn settle(&mut self, key: &Key) -> Step {
        self.rejected.remove(key);
        let seen = self.objects.get(key).filter(|seen| !self.released.contains(&seen.uid));
        if let Some(problem) = self.records.unreadable().get(key) {
            return match seen {
                Some(seen) => Step::Reject(Rejected {
                    key: key.clone(),
                    uid: seen.uid.clone(),
                    generation: seen.generation,
                    problem: problem.clone(),
                }),
                None => Step::Nothing,
            };
        }
        let Some(record) = self.records.get_mut(key) else {
            let Some(seen) = seen else { return Step::Nothing };
            let step = begin(key, seen);
            if let Step::Reject(rejected) = &step {
                self.rejected.insert(key.clone(), rejected.problem.clone());
            }
            return step;
        };
        if let Some(Ok((workspace, _))) = seen.map(|seen| &seen.wanted)
            && record.workspace == *workspace
        {
            // Read anew, it is still one and the same in memory.
            record.workspace = workspace.clone();
        }
        match seen {
            Some(seen) if seen.uid == record.uid => {
                self.doubts.lay(key);
                changed(record, |record| follow(record, seen))
                    .map_or(Step::Nothing, |record| Step::Write(Box::new(record)))
            }
            // One of the same name waits until it is gone: see `forget`.
            _ if record.deleted_at.is_some() => Step::Nothing,
            // Its object went without the agent, or is only not seen.
            _ => {
                self.doubts.raise(key, &record.uid);
                Step::Nothing
            }
        }
    }

    /// See [`Store::forget`].
    fn forget(&mut self, key: &Key) -> Result<bool, DurableError> {
        self.records.remove(key)?;
        let Settled { changed, mut failures, .. } = self.settle_all(BTreeSet::from([key.clone()]));
        match failures.pop() {
            Some(error) => Err(error),
            None => Ok(!changed.is_empty()),
        }
    }
}

/// What is to be written for one name.
enum Step {
    Nothing,
    Write(Box<Record>),
    Reject(Rejected),
}

/// The first that is heard of an object.
fn begin(key: &Key, seen: &Seen) -> Step {
    let record = |workspace: Arc<Workspace>, hash: &str| {
        Step::Write(Box::new(Record {
            key: key.clone(),
            uid: seen.uid.clone(),
            generation: seen.generation,
            spec_hash: hash.to_owned(),
            workspace,
            file: std::path::PathBuf::new(),
            created_at: seen.created_at,
            deleted_at: seen.deleted_at,
            problem: None,
            unreserved: seen.unreserved.clone(),
            memory: Memory::default(),
        }))
    };
    match (&seen.wanted, seen.deleted_at) {
        // Nothing of it was ever here, or all of it is gone.
        (_, Some(_)) if !seen.is_held() => Step::Nothing,
        (Ok((workspace, hash)), _) => record(workspace.clone(), hash),
        // A finalizer without a record: the state directory was lost. It must not hold the object for ever, whatever is in it.
        (Err(_), Some(_)) => record(Arc::new(Workspace::new(&key.name, microagent_crds::WorkspaceSpec::new(""))), ""),
        (Err(problem), None) => Step::Reject(Rejected {
            key: key.clone(),
            uid: seen.uid.clone(),
            generation: seen.generation,
            problem: problem.clone(),
        }),
    }
}

/// Brings a record in line with its object.
fn follow(record: &mut Record, seen: &Seen) {
    // Also one that makes no sense is seen, and told with its number.
    record.generation = seen.generation;
    match &seen.wanted {
        Ok((workspace, hash)) => {
            record.spec_hash = hash.to_string();
            record.workspace = workspace.clone();
            record.problem = None;
        }
        Err(problem) => record.problem = Some(problem.clone()),
    }
    record.unreserved.clone_from(&seen.unreserved);
    if let Some(at) = seen.deleted_at {
        tombstone(record, at);
    }
}

/// The object is no longer this node's: somebody took the finalizer away, gave the workspace to another node, or put an older state of
/// the cluster back. The machine ends, for it is nobody's; what it wrote is kept whatever the spec said, for nobody said to delete it.
fn vanish(record: &mut Record, now: Timestamp) {
    if record.deleted_at.is_none() {
        tombstone(record, now);
        record.workspace_mut().spec.lifecycle.on_delete = OnDelete::Retain;
    }
}

impl Store for Mutex<Claims> {
    fn get(&self, key: &Key) -> Option<Record> {
        lock(self).records.get(key).cloned()
    }

    fn remember(&self, record: &Record, memory: Memory) -> Result<Option<Record>, DurableError> {
        lock(self).records.remember(record, memory)
    }

    fn forget(&self, key: &Key, _now: Timestamp) -> Result<bool, DurableError> {
        lock(self).forget(key)
    }
}

impl Roster for Mutex<Claims> {
    fn show(&self, see: &mut dyn FnMut(&Records, &BTreeMap<Key, Problem>)) {
        let claims = lock(self);
        see(&claims.records, &claims.rejected);
    }
}

/// Nothing that can panic leaves it half changed.
pub(super) fn lock(claims: &Mutex<Claims>) -> MutexGuard<'_, Claims> {
    claims.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use microagent_crds::{WorkspaceSpec, canonical_spec_hash};
    use tempfile::TempDir;
    use tokio::sync::mpsc;

    use super::*;

    struct Rig {
        claims: Claims,
        doubts: mpsc::UnboundedReceiver<Doubt>,
        paths: Paths,
        _dir: TempDir,
    }

    fn key() -> Key {
        Key::new("team", "a")
    }

    /// A good object of the name `a`.
    fn seen(uid: &str, generation: i64, image: &str) -> Seen {
        let spec = WorkspaceSpec::new(image);
        let hash = canonical_spec_hash(&spec).into();
        Seen {
            uid: uid.to_owned(),
            version: None,
            generation,
            created_at: Timestamp::UNIX_EPOCH,
            deleted_at: None,
            finalizers: Vec::new(),
            unreserved: None,
            wanted: Ok((Arc::new(Workspace::new("a", spec)), hash)),
        }
    }

    fn nonsense(uid: &str, generation: i64) -> Seen {
        let problem = Problem { code: "InvalidManifest".to_owned(), message: "no sense".to_owned() };
        Seen { wanted: Err(problem), ..seen(uid, generation, "x") }
    }

    fn deleted(seen: Seen) -> Seen {
        Seen { deleted_at: Some(now()), finalizers: vec![HOST_STATE_FINALIZER.to_owned()], ..seen }
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    impl Rig {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let paths = Paths { state: dir.path().join("state"), cache: dir.path().join("cache") };
            let (doubts, asked) = Doubts::new();
            Self { claims: Claims::load(&paths, doubts).unwrap(), doubts: asked, paths, _dir: dir }
        }

        fn with(object: Seen) -> Self {
            let mut rig = Self::new();
            rig.apply(Some(object));
            rig
        }

        fn apply(&mut self, object: Option<Seen>) -> Settled {
            let settled = self.claims.apply([(key(), object)]);
            assert!(settled.failures.is_empty(), "{:?}", settled.failures);
            settled
        }

        /// The API server says of each that is not seen that it is gone.
        fn all_gone(&mut self) -> Vec<Key> {
            let mut changed = Vec::new();
            while let Ok(doubt) = self.doubts.try_recv() {
                changed.extend(self.claims.gone(&doubt, now()).changed);
            }
            changed
        }

        fn record(&self) -> &Record {
            self.claims.records().get(&key()).unwrap()
        }
    }

    #[test]
    fn an_object_is_a_record_with_its_uid_and_generation_and_on_the_disk() {
        let mut rig = Rig::with(seen("u-1", 1, "debian"));
        assert_eq!(rig.apply(Some(seen("u-1", 1, "debian"))).changed, [], "nothing is new");
        assert_eq!(rig.apply(Some(seen("u-1", 2, "alpine"))).changed, [key()]);
        let record = rig.record().clone();
        assert_eq!((record.uid.as_str(), record.generation), ("u-1", 2));
        assert_eq!(record.workspace.spec.image, "alpine");
        assert_eq!(Claims::load(&rig.paths, Doubts::new().0).unwrap().records().get(&key()), Some(&record));
    }

    #[test]
    fn a_deleted_object_goes_as_its_spec_says_and_one_that_vanished_keeps_what_it_wrote() {
        let mut rig = Rig::with(seen("u-1", 1, "debian"));
        rig.apply(Some(deleted(seen("u-1", 1, "debian"))));
        assert!(rig.record().deleted_at.is_some());
        rig.apply(None);
        assert_eq!(rig.record().workspace.spec.lifecycle.on_delete, OnDelete::Delete, "it was told to go before");

        let mut rig = Rig::with(seen("u-1", 1, "debian"));
        rig.apply(None);
        assert_eq!(rig.record().deleted_at, None, "it is only not seen");
        assert_eq!(rig.all_gone(), [key()]);
        assert!(rig.record().deleted_at.is_some());
        assert_eq!(rig.record().workspace.spec.lifecycle.on_delete, OnDelete::Retain);

        let mut rig = Rig::with(seen("u-1", 1, "debian"));
        assert_eq!(rig.claims.replace(BTreeMap::new()).changed, []);
        assert_eq!(rig.all_gone(), [key()], "a listing without it says the same");
        assert!(rig.record().deleted_at.is_some());
    }

    #[test]
    fn another_object_of_the_name_waits_until_the_first_is_gone() {
        let mut rig = Rig::with(seen("u-1", 1, "debian"));
        rig.apply(Some(seen("u-2", 1, "alpine")));
        assert_eq!(rig.all_gone(), [key()]);
        assert_eq!((rig.record().uid.as_str(), rig.record().deleted_at), ("u-1", Some(now())));
        let reborn = rig.claims.forget(&key()).unwrap();
        assert!(reborn);
        assert_eq!((rig.record().uid.as_str(), rig.record().deleted_at), ("u-2", None));
    }

    #[test]
    fn one_that_is_seen_again_was_never_gone() {
        let mut rig = Rig::with(seen("u-1", 1, "debian"));
        let _ = rig.claims.replace(BTreeMap::new());
        rig.apply(Some(seen("u-1", 1, "debian")));
        assert_eq!(rig.all_gone(), [], "the answer is of the time before");
        assert_eq!(rig.record().deleted_at, None);
        // One of its name that came before it, in news of old.
        rig.apply(Some(seen("u-0", 1, "debian")));
        rig.apply(Some(seen("u-1", 1, "debian")));
        assert_eq!((rig.all_gone(), rig.record().deleted_at), (Vec::new(), None));
    }

    #[test]
    fn news_that_is_older_than_what_was_seen_is_no_news_and_a_listing_is() {
        let at = |version: u64, generation, image| Seen { version: Some(version), ..seen("u-1", generation, image) };
        let mut rig = Rig::with(at(9, 2, "alpine"));
        assert_eq!(rig.apply(Some(at(7, 1, "debian"))).changed, []);
        assert_eq!(rig.record().workspace.spec.image, "alpine");
        // An older state of the cluster was put back.
        let listed = BTreeMap::from([(key(), at(7, 1, "debian"))]);
        assert_eq!(rig.claims.replace(listed).changed, [key()]);
        assert_eq!((rig.record().generation, rig.record().workspace.spec.image.as_str()), (1, "debian"));
    }

    #[test]
    fn a_finalizer_without_a_record_is_seen_to_whatever_is_in_the_object() {
        for object in [seen("u-1", 1, "debian"), nonsense("u-1", 1)] {
            let rig = Rig::with(deleted(object));
            assert!(rig.record().deleted_at.is_some());
        }
        // Without it nothing was ever here.
        let mut rig = Rig::new();
        let gone = Seen { finalizers: Vec::new(), ..deleted(seen("u-1", 1, "debian")) };
        assert_eq!(rig.apply(Some(gone)).changed, []);
    }

    #[test]
    fn what_is_still_seen_of_an_object_that_was_let_go_is_late() {
        let mut rig = Rig::with(deleted(seen("u-1", 1, "debian")));
        let record = rig.record().clone();
        rig.claims.mark_held(&record, false);
        assert!(!rig.claims.forget(&key()).unwrap());
        assert_eq!(rig.apply(Some(deleted(seen("u-1", 1, "debian")))).changed, [], "news from before");
        assert!(rig.claims.records().get(&key()).is_none());
        rig.apply(None);
        assert_eq!(rig.apply(Some(seen("u-2", 1, "debian"))).changed, [key()]);
    }

    #[test]
    fn a_spec_that_makes_no_sense_is_rejected_or_keeps_what_was_good() {
        let mut rig = Rig::new();
        let settled = rig.apply(Some(nonsense("u-1", 1)));
        assert_eq!((settled.changed.len(), settled.rejected.len(), rig.claims.rejected().len()), (0, 1, 1));
        assert_eq!(rig.apply(Some(seen("u-1", 2, "debian"))).changed, [key()]);
        assert!(rig.claims.rejected().is_empty());
        rig.apply(Some(nonsense("u-1", 3)));
        let record = rig.record();
        assert_eq!((record.generation, record.workspace.spec.image.as_str()), (3, "debian"));
        assert!(record.problem.is_some());
        rig.apply(Some(seen("u-1", 4, "alpine")));
        assert!(rig.record().problem.is_none());
    }

    #[test]
    fn room_that_is_lost_and_found_is_in_the_record() {
        let mut rig = Rig::with(seen("u-1", 1, "debian"));
        rig.apply(Some(Seen { unreserved: Some("preempted".to_owned()), ..seen("u-1", 1, "debian") }));
        assert_eq!(rig.record().unreserved.as_deref(), Some("preempted"));
        rig.apply(Some(seen("u-1", 1, "debian")));
        assert_eq!(rig.record().unreserved, None);
    }
}
