//! Whole lives of workspaces against `plan`, with a world of a few lines.

mod events;
mod failures;
mod halts;
mod lifecycle;
mod power;
mod runs;
mod starts;
mod status;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use microagent_crds::{ConditionType, Phase, PowerState, Reason, RunPolicy, Workspace, WorkspaceSpec, WorkspaceStatus};
use microagent_supervisor_protocol::{ErrorText, Exit, Identity, Machine, MachineState};

use super::{Action, Input, Plan, RESTART_ANNOTATION, machine_hash, plan, record_failure};
use crate::{
    Key, Record,
    memory::{Fault, Memory, Stage},
    observed::{Disks, ImageFacts, KeptOutputs, KernelFacts, MachineSight, Observed, RootfsFacts, Work},
};

/// What a pass would make of things.
struct Look {
    next: Option<Action>,
    memory: Memory,
    status: WorkspaceStatus,
    events: Vec<super::Event>,
    wake: Timestamp,
}

/// A workspace and the little world it lives in.
struct Life {
    record: Record,
    observed: Observed,
    status: WorkspaceStatus,
    now: Timestamp,
    boots: u32,
    done: Vec<&'static str>,
}

impl Life {
    fn new(policy: RunPolicy) -> Self {
        let mut spec = WorkspaceSpec::new("registry.example/web:1");
        spec.run_policy = policy;
        Self {
            record: Record {
                key: Key::new("default", "web"),
                uid: "0190-web".to_owned(),
                generation: 1,
                spec_hash: "1".to_owned(),
                workspace: Workspace::new("web", spec).into(),
                file: "web.yaml".into(),
                created_at: Timestamp::UNIX_EPOCH,
                deleted_at: None,
                problem: None,
                unreserved: None,
                memory: Memory::default(),
            },
            observed: Observed {
                image: Work::Absent,
                rootfs: Work::Absent,
                kernel: Work::Absent,
                disks: Disks::default(),
                machine: MachineSight::None,
                kept_outputs: None,
                restart_request: None,
                withdrawable: false,
            },
            status: WorkspaceStatus::default(),
            now: Timestamp::from_second(1_800_000_000).unwrap(),
            boots: 0,
            done: Vec::new(),
        }
    }

    /// What is decided, with the memory and the status that hold then. Neither is given unless it is another one.
    fn look(&self) -> Look {
        let fresh_boot_id = format!("boot-{}", self.boots + 1);
        let Plan { next, memory, status, events, wake } = plan(&Input {
            record: &self.record,
            machine_hash: &machine_hash(&self.record.workspace.spec),
            observed: &self.observed,
            previous: &self.status,
            now: self.now,
            fresh_boot_id: &fresh_boot_id,
        });
        assert_ne!(memory.as_ref(), Some(&self.record.memory));
        assert_ne!(status.as_ref(), Some(&self.status));
        let (memory, status) =
            (memory.unwrap_or_else(|| self.record.memory.clone()), status.unwrap_or_else(|| self.status.clone()));
        Look { next, memory, status, events, wake }
    }

    /// One pass: what was decided is remembered and done at once. Gives whether something was done.
    fn pass(&mut self) -> bool {
        let Look { next, memory, status, .. } = self.look();
        self.record.memory = memory;
        self.status = status;
        let Some(action) = next else { return false };
        self.act(&action);
        true
    }

    /// A pass after which the controller is killed before it can act.
    fn pass_without_acting(&mut self) {
        let Look { memory, status, .. } = self.look();
        (self.record.memory, self.status) = (memory, status);
    }

    fn act(&mut self, action: &Action) {
        let reference = self.record.workspace.spec.image.clone();
        let name = match action {
            Action::ResolveImage => {
                let digest = format!("sha256:{:064}", reference.len());
                self.observed.image = Work::Ready(ImageFacts { reference, digest, took_ms: Some(5) });
                "pull"
            }
            Action::BuildRootfs => {
                self.observed.rootfs = Work::Ready(RootfsFacts { took_ms: Some(6) });
                "build"
            }
            Action::InstallKernel => {
                let digest = format!("sha256:{:064}", 1);
                self.observed.kernel = Work::Ready(KernelFacts { version: "6.1".to_owned(), digest, took_ms: Some(7) });
                "kernel"
            }
            Action::CreateDisks => {
                self.observed.disks = Disks { complete: true, any: true, written: true };
                "disks"
            }
            Action::StartMachine(boot) => {
                self.boots += 1;
                let identity = Identity {
                    uid: self.record.uid.clone(),
                    name: self.record.key.to_string(),
                    generation: boot.generation,
                    boot_id: boot.id.clone(),
                };
                let mut machine = Machine::bare(&self.record.uid, MachineState::Running);
                machine.identity = Some(identity);
                machine.guest.ready = true;
                machine.guest.setup_complete = true;
                machine.guest.workload_started_at = Some(self.now);
                self.see(machine);
                "start"
            }
            Action::HaltMachine { .. } => {
                self.end(None);
                "halt"
            }
            Action::KillMachine => {
                self.end(None);
                "kill"
            }
            Action::DeleteMachine => {
                self.observed.machine = MachineSight::None;
                "delete"
            }
            Action::RetainDisks => {
                self.observed.disks.written = false;
                self.observed.disks.complete = false;
                "retain"
            }
            Action::RemoveDisks => {
                self.observed.disks = Disks::default();
                "remove"
            }
            Action::PauseMachine => {
                self.machine().state = MachineState::Paused;
                "pause"
            }
            Action::ResumeMachine => {
                self.machine().state = MachineState::Running;
                "resume"
            }
            Action::QuarantineMachine => {
                self.machine().state = MachineState::Quarantined;
                "quarantine"
            }
            Action::KeepOutputs => {
                let machine = self.machine();
                let boot_id = machine.identity.as_ref().unwrap().boot_id.clone();
                let kept = |a: &microagent_supervisor_protocol::Artifact| microagent_crds::status::Artifact {
                    name: a.name.clone(),
                    ..Default::default()
                };
                let artifacts = machine.artifacts.iter().map(kept).collect();
                self.observed.kept_outputs = Some(KeptOutputs { boot_id, artifacts });
                "keep"
            }
            Action::WithdrawManifest => {
                self.observed.withdrawable = false;
                "withdraw"
            }
            Action::Forget => "forget",
        };
        self.done.push(name);
    }

    fn see(&mut self, machine: Machine) {
        let machine = Box::new(machine);
        self.observed.machine =
            MachineSight::Seen { backend: "Qemu".to_owned(), why: None, machine, timings: BTreeMap::new() };
    }

    fn machine(&mut self) -> &mut Machine {
        match &mut self.observed.machine {
            MachineSight::Seen { machine, .. } => machine,
            other => panic!("{other:?}"),
        }
    }

    /// The machine ends; with `exit`, because its workload did.
    fn end(&mut self, exit: Option<Exit>) {
        let now = self.now;
        let machine = self.machine();
        machine.state = MachineState::Exited;
        machine.finished_at = Some(now);
        machine.guest.workload_exit = exit;
        machine.guest.workload_finished_at = exit.map(|_| now);
    }

    /// Passes until nothing is done any more, moving the clock to the plan's wake-ups `wakes` times.
    fn settle(&mut self, wakes: usize) {
        for wake in 0..=wakes {
            for _ in 0..50 {
                if self.done.last() == Some(&"forget") || !self.pass() {
                    break;
                }
            }
            if wake < wakes {
                self.now = self.look().wake;
            }
        }
    }

    fn is(&self, type_: ConditionType) -> bool {
        self.status.is_true(type_)
    }

    /// What a condition would tell now: `False Waiting: the image comes first`.
    fn tells(&self, type_: ConditionType) -> String {
        let status = self.look().status;
        let condition = status.condition(type_).unwrap();
        format!("{:?} {}: {}", condition.status, condition.reason, condition.message)
    }

    fn fails(&mut self, stage: Stage, fault: Fault) {
        let (record, now) = (self.record.clone(), self.now);
        record_failure(&record, &mut self.record.memory, stage, fault, now);
    }

    fn reason(&self, type_: ConditionType) -> Reason {
        self.status.condition(type_).unwrap().reason
    }
}

fn fault(code: &str, retryable: bool) -> Fault {
    Fault { code: code.to_owned(), message: "it broke".to_owned(), retryable }
}

impl Life {
    /// A workspace of this policy that runs, whose spec was changed so before.
    fn running(policy: RunPolicy, change: impl FnOnce(&mut WorkspaceSpec)) -> Self {
        let mut life = Self::new(policy);
        change(&mut life.record.workspace_mut().spec);
        life.settle(0);
        life
    }

    /// A new generation of the spec.
    fn edit(&mut self, change: impl FnOnce(&mut WorkspaceSpec)) {
        self.record.generation += 1;
        change(&mut self.record.workspace_mut().spec);
    }

    fn annotate(&mut self, value: &str) {
        let all = self.record.workspace_mut().metadata.annotations.get_or_insert_default();
        all.insert(RESTART_ANNOTATION.to_owned(), value.to_owned());
    }

    fn after(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    fn has_outputs(&mut self, names: &[&str]) {
        self.machine().artifacts = names
            .iter()
            .map(|name| microagent_supervisor_protocol::Artifact {
                name: (*name).to_owned(),
                path: None,
                bytes: None,
                digest: None,
                error: None,
            })
            .collect();
    }
}

fn probed(spec: &mut WorkspaceSpec) {
    let probe = serde_json::json!({ "tcpSocket": { "port": 80 } });
    spec.health = Some(serde_json::from_value(probe).unwrap());
}

impl Life {
    fn health(&mut self, healthy: bool) {
        let message = "connection refused".to_owned();
        self.machine().guest.health = Some(microagent_supervisor_protocol::Health { healthy, message });
    }
}
