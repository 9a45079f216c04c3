//! The simulated records, status and journal.

use std::{collections::BTreeMap, io, path::PathBuf};

use jiff::Timestamp;
use microagent_base::durable::DurableError;
use microagent_crds::{Workspace, WorkspaceStatus, canonical_spec_hash};

use super::{World, fault::Disturbance};
use crate::{
    Key, Problem, Record,
    journal::{Event, Tell},
    memory::Memory,
    reconcile::Store,
    sink::Sink,
};

/// What is declared and remembered. The rules of the folder and of its store have tests of their own, on real files; these are
/// their outcome.
#[derive(Clone, Default)]
pub(crate) struct Records {
    records: BTreeMap<Key, Record>,
    /// What is declared under the name of a workspace that is on its way out.
    heirs: BTreeMap<Key, Workspace>,
    /// Counts the UIDs that were given out.
    uids: u32,
    pub(crate) published: BTreeMap<Key, (String, WorkspaceStatus)>,
    /// How often a record, a status and an event were written.
    pub(crate) writes: usize,
}

impl Records {
    pub(crate) fn keys(&self) -> impl Iterator<Item = Key> + use<> {
        self.records.keys().cloned().collect::<Vec<_>>().into_iter()
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Record> {
        self.records.get(key)
    }

    pub(crate) fn get_mut(&mut self, key: &Key) -> Option<&mut Record> {
        self.records.get_mut(key)
    }

    /// The UID of a workspace; empty when there is none.
    pub(crate) fn uid(&self, key: &Key) -> String {
        self.records.get(key).map(|record| record.uid.clone()).unwrap_or_default()
    }

    pub(crate) fn status(&self, key: &Key) -> Option<&WorkspaceStatus> {
        self.published.get(key).map(|(_, status)| status)
    }

    pub(crate) fn declare(&mut self, key: &Key, workspace: Workspace, now: Timestamp) {
        let spec_hash = canonical_spec_hash(&workspace.spec);
        match self.records.get_mut(key) {
            Some(record) if record.deleted_at.is_some() => drop(self.heirs.insert(key.clone(), workspace)),
            Some(record) => {
                record.generation += i64::from(record.spec_hash != spec_hash);
                record.spec_hash = spec_hash;
                record.workspace = workspace.into();
                record.problem = None;
            }
            None => {
                self.uids += 1;
                let record = Record {
                    key: key.clone(),
                    uid: format!("uid-{}", self.uids),
                    generation: 1,
                    spec_hash,
                    workspace: workspace.into(),
                    file: PathBuf::from(format!("{}.yaml", key.name)),
                    created_at: now,
                    deleted_at: None,
                    problem: None,
                    unreserved: None,
                    memory: Memory::default(),
                };
                self.records.insert(key.clone(), record);
            }
        }
    }

    pub(crate) fn withdraw(&mut self, key: &Key, now: Timestamp) {
        self.heirs.remove(key);
        if let Some(record) = self.records.get_mut(key) {
            record.deleted_at.get_or_insert(now);
            record.problem = None;
        }
    }

    pub(crate) fn is_declared(&self, key: &Key) -> bool {
        self.heirs.contains_key(key) || self.records.get(key).is_some_and(|record| record.deleted_at.is_none())
    }
}

fn refused() -> DurableError {
    DurableError::Io { action: "write", path: PathBuf::new(), source: io::ErrorKind::StorageFull.into() }
}

impl World {
    /// A write that is whole or not there at all.
    fn write<T>(&self, what: &str, write: impl FnOnce(&mut Records) -> T) -> Result<T, DurableError> {
        let mut state = self.state();
        match state.effect(|| what.to_owned()) {
            Some(Disturbance::CrashBefore | Disturbance::CrashPartly) => {
                state.crashed = true;
                Err(refused())
            }
            Some(Disturbance::Refused | Disturbance::RefusedForGood | Disturbance::Partly) => Err(refused()),
            Some(Disturbance::CrashAfter) => {
                write(&mut state.records);
                state.records.writes += 1;
                state.crashed = true;
                Err(refused())
            }
            Some(Disturbance::ReplyLost) => {
                write(&mut state.records);
                state.records.writes += 1;
                Err(refused())
            }
            _ => {
                state.records.writes += 1;
                Ok(write(&mut state.records))
            }
        }
    }
}

impl Store for World {
    fn get(&self, key: &Key) -> Option<Record> {
        self.state().records.get(key).cloned()
    }

    fn remember(&self, record: &Record, memory: Memory) -> Result<Option<Record>, DurableError> {
        {
            let state = self.state();
            let fresh = |now: &&Record| {
                now.uid == record.uid && now.generation == record.generation && now.deleted_at == record.deleted_at
            };
            match state.records.get(&record.key).filter(fresh) {
                None => return Ok(None),
                Some(now) if now.memory == memory => return Ok(Some(now.clone())),
                Some(_) => {}
            }
        }
        self.write("remember", |records| {
            let record = records.get_mut(&record.key)?;
            record.memory = memory;
            Some(record.clone())
        })
    }

    fn forget(&self, key: &Key, now: Timestamp) -> Result<bool, DurableError> {
        self.write("forget the record", |records| {
            records.records.remove(key);
            match records.heirs.remove(key) {
                Some(heir) => {
                    records.declare(key, heir, now);
                    true
                }
                None => false,
            }
        })
    }
}

impl Sink for World {
    fn published(&self, record: &Record) -> WorkspaceStatus {
        let state = self.state();
        let known = state.records.published.get(&record.key).filter(|(uid, _)| *uid == record.uid);
        known.map(|(_, status)| status.clone()).unwrap_or_default()
    }

    fn publish(&self, record: &Record, status: Option<&WorkspaceStatus>) -> Result<bool, DurableError> {
        let Some(status) = status else { return Ok(false) };
        let object = (record.uid.clone(), status.clone());
        if self.state().records.published.get(&record.key) == Some(&object) {
            return Ok(false);
        }
        self.write("publish", |records| records.published.insert(record.key.clone(), object)).map(|_| true)
    }

    fn retract(&self, key: &Key) -> Result<(), DurableError> {
        self.write("retract", |records| records.published.remove(key)).map(drop)
    }

    fn publish_rejected(&self, _: &BTreeMap<Key, Problem>) -> Result<(), DurableError> {
        Ok(())
    }
}

impl Tell for World {
    fn tell(&self, event: &Event) -> Result<(), DurableError> {
        let mut state = self.state();
        state.records.writes += 1;
        let line = format!("  event {} {}", event.key.name, event.reason);
        state.trace.push(line);
        Ok(())
    }
}
