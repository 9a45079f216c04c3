//! What two worlds are compared by: everything that users and the next pass can tell apart, without times and made-up names.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use microagent_crds::{ConditionStatus, ConditionType, Phase, Reason};
use microagent_supervisor_protocol::MachineState;

use super::{State, host::is_alive};
use crate::{Key, observed::Disks};

/// A world, as it looks when nothing moves any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    workspaces: BTreeMap<Key, Looks>,
    /// What is on the host and belongs to no workspace.
    left_behind: Vec<String>,
    /// How many workspaces kept their outputs, and their disks, also of those that are gone.
    kept: usize,
    retained: usize,
    /// The names under which something is published.
    published: BTreeSet<Key>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Looks {
    generation: i64,
    deleted: bool,
    finished: bool,
    expired: bool,
    restarts: u32,
    machine: Option<MachineState>,
    machine_generation: Option<i64>,
    disks: Disks,
    phase: Option<Phase>,
    conditions: Vec<(ConditionType, ConditionStatus, Reason)>,
}

impl Shape {
    /// This shape, with what outlives workspaces as in the other.
    pub(crate) fn keeping_of(self, other: &Self) -> Self {
        Self { kept: other.kept, retained: other.retained, ..self }
    }
}

impl State {
    pub(crate) fn shape(&self) -> Shape {
        let uids: BTreeSet<String> = self.records.keys().map(|key| self.records.uid(&key)).collect();
        let machines = self.host.machines.keys().map(|uid| ("machine", uid));
        let disks = self.host.disks.keys().map(|uid| ("disks", uid));
        let left_behind = machines.chain(disks).filter(|(_, uid)| !uids.contains(*uid));
        Shape {
            workspaces: self.records.keys().map(|key| (key.clone(), self.looks(&key))).collect(),
            left_behind: left_behind.map(|(what, uid)| format!("{what} of {uid}")).collect(),
            kept: self.host.kept.len(),
            retained: self.host.retained.len(),
            published: self.records.published.keys().cloned().collect(),
        }
    }

    fn looks(&self, key: &Key) -> Looks {
        let record = self.records.get(key).unwrap();
        let machine = self.host.machines.get(&record.uid).map(|vm| &vm.machine);
        let status = self.records.status(key).cloned().unwrap_or_default();
        Looks {
            generation: record.generation,
            deleted: record.deleted_at.is_some(),
            finished: record.memory.finished.is_some(),
            expired: record.memory.expired.is_some(),
            restarts: record.memory.restarts.count,
            machine: machine.map(|machine| machine.state),
            machine_generation: machine
                .filter(|machine| is_alive(machine))
                .and_then(|machine| Some(machine.identity.as_ref()?.generation)),
            disks: self.host.disks.get(&record.uid).copied().unwrap_or_default(),
            phase: status.phase,
            conditions: status.conditions.iter().map(|c| (c.type_, c.status, c.reason)).collect(),
        }
    }

    /// All that decides what happens next, with times told from now on: two states of one nature go one way.
    pub(crate) fn nature(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::new();
        for key in self.records.keys() {
            let record = self.records.get(&key).unwrap();
            let memory = &record.memory;
            let spec = &record.workspace.spec;
            let vm = self.host.machines.get(&record.uid);
            let boot = memory.boot.as_ref();
            let boot_id = vm.and_then(|vm| vm.machine.identity.as_ref()).map(|identity| &identity.boot_id);
            let _ = write!(
                text,
                "{key} {:?} {:?} {} {:?} {:?} {:?} {:?} {:?} boot {:?} {} ",
                spec.run_policy,
                spec.power_state,
                record.workspace.spec.args.len(),
                spec.lifecycle.ttl_seconds_after_finished,
                spec.lifecycle.idle_timeout_seconds,
                spec.health.is_some(),
                record.deleted_at.is_some(),
                record.problem.is_some(),
                boot.map(|boot| (boot.generation == record.generation, boot.machine_hash.len())),
                boot.map(|boot| &boot.id) == boot_id,
            );
            let _ = write!(
                text,
                "counted {} finished {:?} idle {:?} expired {} image {} setup {} done {:?} result {:?} ",
                memory.counted_boot.as_ref() == boot_id,
                memory.finished,
                memory.idle,
                memory.expired.is_some(),
                memory.image.is_some(),
                memory.setup_complete,
                memory.restarted,
                memory.result.as_ref().map(|r| (r.exit_code, r.finished_at.as_ref().map(|at| self.in_time(at.0)))),
            );
            let _ = write!(
                text,
                "row {} next {:?} halt {:?} ",
                memory.restarts.in_a_row.min(3),
                memory.restarts.next_attempt.map(|at| self.in_time(at)),
                memory.halt.as_ref().map(|halt| {
                    (Some(&halt.boot_id) == boot_id, &halt.cause, self.in_time(halt.at), self.in_time(halt.asked_at))
                }),
            );
            for (stage, failure) in &memory.failures {
                let _ = write!(
                    text,
                    "{stage:?} {} {} {} {} {} ",
                    failure.fault.code,
                    failure.fault.retryable,
                    failure.count.min(3),
                    failure.retrying,
                    self.in_time(failure.next_attempt)
                );
            }
            if let Some(vm) = vm {
                let machine = &vm.machine;
                let _ = write!(
                    text,
                    "vm {:?} {:?} {:?} {:?} {:?} {} {:?} ",
                    machine.state,
                    vm.at.map(|at| self.in_time(at)),
                    machine.guest.workload_exit,
                    machine.guest.workload_started_at.map(|at| self.in_time(at)),
                    machine.guest.health.as_ref().map(|health| health.healthy),
                    machine.artifacts.len(),
                    machine.failure.is_some(),
                );
            }
            let _ = write!(
                text,
                "disks {:?} kept {} asked {:?} wake {:?} heir {} ",
                self.host.disks.get(&record.uid),
                self.host.kept.contains_key(&record.uid),
                self.host.requests.get(&record.uid),
                self.wakes.get(&key).map(|again| match again {
                    crate::reconcile::Again::At(at) => self.in_time(*at),
                    _ => -1,
                }),
                self.records.is_declared(&key),
            );
            let status = self.records.status(&key);
            let told = status.iter().flat_map(|s| &s.conditions).map(|c| (c.status as u8, c.reason as u8));
            let _ = write!(text, "told {:?} ", told.collect::<Vec<_>>());
        }
        for (name, job) in &self.host.jobs {
            let _ = match job {
                super::host::Job::Runs { until, wanted_by } => {
                    write!(text, "{name} {} {} ", self.in_time(*until), wanted_by.len())
                }
                super::host::Job::Failed(fault) => write!(text, "{name} {} ", fault.code),
            };
        }
        let _ = write!(
            text,
            "made {:?} broken {:?} {} {} {} crashed {}",
            self.host.made,
            self.host.broken.keys().collect::<Vec<_>>(),
            self.host.blind,
            self.host.stubborn,
            self.host.outputs,
            self.crashed
        );
        text
    }

    /// Milliseconds from now, as far as they can matter.
    fn in_time(&self, at: Timestamp) -> i128 {
        at.duration_since(self.now).as_millis().clamp(-200_000, 400_000)
    }
}
