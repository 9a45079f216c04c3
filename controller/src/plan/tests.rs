//! Whole lives of workspaces against `plan`, with a world of a few lines.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use microagent_crds::{ConditionType, Phase, Reason, RunPolicy, Workspace, WorkspaceSpec, WorkspaceStatus};
use microagent_supervisor_protocol::{ErrorText, Exit, Identity, Machine, MachineState};

use super::{Action, Input, Plan, plan, record_failure};
use crate::{
    Key, Record,
    memory::{Fault, Memory, Stage},
    observed::{Disks, ImageFacts, KernelFacts, MachineSight, Observed, RootfsFacts, Work},
};

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
                memory: Memory::default(),
            },
            observed: Observed {
                image: Work::Absent,
                rootfs: Work::Absent,
                kernel: Work::Absent,
                disks: Disks::default(),
                machine: MachineSight::None,
            },
            status: WorkspaceStatus::default(),
            now: Timestamp::from_second(1_800_000_000).unwrap(),
            boots: 0,
            done: Vec::new(),
        }
    }

    fn look(&self) -> Plan {
        let fresh_boot_id = format!("boot-{}", self.boots + 1);
        plan(&Input {
            record: &self.record,
            observed: &self.observed,
            previous: &self.status,
            now: self.now,
            fresh_boot_id: &fresh_boot_id,
        })
    }

    /// One pass: what was decided is remembered and done at once. Gives whether something was done.
    fn pass(&mut self) -> bool {
        let Plan { next, memory, status, .. } = self.look();
        self.record.memory = memory;
        self.status = status;
        let Some(action) = next else { return false };
        self.act(&action);
        true
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
                self.observed.disks = Disks { complete: true, any: true };
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
            Action::RemoveDisks => {
                self.observed.disks = Disks::default();
                "remove"
            }
            Action::Forget => "forget",
        };
        self.done.push(name);
    }

    fn see(&mut self, machine: Machine) {
        let machine = Box::new(machine);
        self.observed.machine = MachineSight::Seen { backend: "Qemu".to_owned(), machine, timings: BTreeMap::new() };
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

    fn reason(&self, type_: ConditionType) -> Reason {
        self.status.condition(type_).unwrap().reason
    }
}

fn fault(code: &str, retryable: bool) -> Fault {
    Fault { code: code.to_owned(), message: "it broke".to_owned(), retryable }
}

#[test]
fn a_new_workspace_goes_from_nothing_to_running_and_then_nothing_is_done() {
    let mut life = Life::new(RunPolicy::Always);
    life.settle(0);
    assert_eq!(life.done, ["pull", "kernel", "build", "disks", "start"]);
    assert!(life.is(ConditionType::Ready) && life.is(ConditionType::Running));
    assert!(!life.is(ConditionType::Reconciling) && !life.is(ConditionType::Stalled));
    assert_eq!(life.status.phase, Some(Phase::Running));
    assert_eq!(life.status.boot_id.as_deref(), Some("boot-1"));
    let settled = life.status.clone();
    for _ in 0..1000 {
        let plan = life.look();
        assert_eq!((plan.next, plan.events.len()), (None, 0));
        assert_eq!(plan.status, settled);
        life.now = plan.wake;
    }
}

#[test]
fn a_workload_that_fails_is_started_again_later_and_later() {
    let mut life = Life::new(RunPolicy::Always);
    life.settle(0);
    for restarts in 1..5 {
        life.end(Some(Exit::code(7)));
        life.settle(0);
        assert_eq!(life.reason(ConditionType::Running), Reason::BackingOff);
        assert_eq!(life.status.result.as_ref().unwrap().exit_code, Some(7));
        assert_eq!(life.status.restarts.as_ref().unwrap().count, restarts);
        life.settle(1);
        assert_eq!(life.boots, restarts + 1);
        assert!(life.is(ConditionType::Running));
    }
}

#[test]
fn once_means_once_and_the_status_keeps_the_code() {
    let mut life = Life::new(RunPolicy::Once);
    life.settle(0);
    life.end(Some(Exit::code(7)));
    life.settle(20);
    assert_eq!(life.boots, 1);
    assert_eq!(life.status.phase, Some(Phase::Failed));
    assert_eq!(life.status.result.as_ref().unwrap().exit_code, Some(7));
    assert!(!life.is(ConditionType::Ready) && life.is(ConditionType::Stalled) && !life.is(ConditionType::Reconciling));
}

#[test]
fn once_that_ends_well_is_ready() {
    let mut life = Life::new(RunPolicy::Once);
    life.settle(0);
    life.end(Some(Exit::code(0)));
    life.settle(20);
    assert_eq!((life.boots, life.status.phase), (1, Some(Phase::Succeeded)));
    assert!(life.is(ConditionType::Ready) && !life.is(ConditionType::Stalled));
}

#[test]
fn a_changed_machine_of_a_finished_workspace_runs_again_and_a_changed_policy_does_not() {
    let mut life = Life::new(RunPolicy::Once);
    life.settle(0);
    life.end(Some(Exit::code(0)));
    life.settle(0);
    life.record.generation = 2;
    life.record.workspace_mut().spec.lifecycle.termination_grace_period_seconds = 5;
    life.settle(2);
    assert_eq!(life.boots, 1, "the grace period is not part of the machine");
    life.record.generation = 3;
    life.record.workspace_mut().spec.args = vec!["again".to_owned()];
    life.settle(0);
    assert_eq!(life.boots, 2);
}

#[test]
fn on_failure_starts_again_until_it_ends_well() {
    let mut life = Life::new(RunPolicy::OnFailure);
    life.settle(0);
    life.end(Some(Exit::code(1)));
    life.settle(1);
    assert_eq!(life.boots, 2);
    life.end(Some(Exit::code(0)));
    life.settle(20);
    assert_eq!((life.boots, life.status.phase), (2, Some(Phase::Succeeded)));
}

#[test]
fn a_start_whose_reply_was_lost_is_asked_for_again_under_the_same_boot_id() {
    let mut life = Life::new(RunPolicy::Always);
    while !matches!(life.look().next, Some(Action::StartMachine(_))) {
        life.pass();
    }
    let first = life.look();
    life.record.memory = first.memory;
    // The controller is killed before the supervisor was reached, or before it answered: the next pass cannot tell.
    life.boots += 1;
    assert_eq!(life.look().next, first.next);
}

#[test]
fn a_machine_found_running_is_adopted_and_not_started_again() {
    let mut life = Life::new(RunPolicy::Always);
    life.settle(0);
    life.record.memory = Memory { boot: None, ..life.record.memory };
    life.settle(0);
    assert_eq!(life.boots, 1);
    assert_eq!(life.record.memory.boot.as_ref().unwrap().id, "boot-1");
    assert!(life.is(ConditionType::Ready) && !life.is(ConditionType::RestartRequired));
}

#[test]
fn nothing_is_done_to_a_machine_of_which_nobody_knows_what_it_does() {
    let mut life = Life::new(RunPolicy::Always);
    life.settle(0);
    life.observed.machine = MachineSight::Unknown(fault("SupervisorFailed", true));
    for deleted in [None, Some(life.now)] {
        life.record.deleted_at = deleted;
        assert_eq!(life.look().next, None);
    }
}

#[test]
fn a_running_machine_of_an_older_spec_goes_on_and_says_that_it_must_be_restarted() {
    let mut life = Life::new(RunPolicy::Always);
    life.settle(0);
    life.record.generation = 2;
    life.record.workspace_mut().spec.args = vec!["new".to_owned()];
    life.settle(3);
    assert_eq!(life.boots, 1);
    assert!(
        life.is(ConditionType::RestartRequired) && life.is(ConditionType::Running) && !life.is(ConditionType::Ready)
    );
    assert_eq!((life.status.observed_generation, life.status.running_generation), (Some(2), Some(1)));
    life.end(Some(Exit::code(0)));
    life.settle(1);
    assert_eq!(life.boots, 2);
    assert!(life.is(ConditionType::Ready) && !life.is(ConditionType::RestartRequired));
}

#[test]
fn halted_ends_the_machine_keeps_the_disks_and_is_ready() {
    let mut life = Life::new(RunPolicy::Always);
    life.settle(0);
    life.record.generation = 2;
    life.record.workspace_mut().spec.run_policy = RunPolicy::Halted;
    life.settle(3);
    assert_eq!(life.done.last(), Some(&"halt"));
    assert!(life.is(ConditionType::Ready) && life.observed.disks.complete);
    assert_eq!(life.status.phase, Some(Phase::Halted));
    life.record.generation = 3;
    life.record.workspace_mut().spec.run_policy = RunPolicy::Always;
    life.settle(0);
    assert_eq!(life.boots, 2);
    assert_eq!(life.status.restarts, None, "a halt that was asked for is no restart");
}

#[test]
fn a_machine_that_does_not_end_within_its_grace_is_killed() {
    let mut life = Life::new(RunPolicy::Always);
    life.settle(0);
    life.record.workspace_mut().spec.run_policy = RunPolicy::Halted;
    let asked = life.look();
    assert!(matches!(asked.next, Some(Action::HaltMachine { grace_seconds: 30 })));
    life.record.memory = asked.memory;
    life.machine().state = MachineState::Halting;
    assert_eq!(life.look().next, None);
    life.now += SignedDuration::from_secs(51);
    assert_eq!(life.look().next, Some(Action::KillMachine));
}

#[test]
fn deletion_works_from_every_half_made_state() {
    for steps in 0..=5 {
        let mut life = Life::new(RunPolicy::Always);
        (0..steps).for_each(|_| assert!(life.pass()));
        life.record.deleted_at = Some(life.now);
        life.done.clear();
        life.settle(0);
        assert_eq!(life.done.last(), Some(&"forget"), "after {steps} steps");
        assert_eq!(life.observed.machine, MachineSight::None);
        assert_eq!(life.observed.disks, Disks::default());
    }
}

#[test]
fn a_pull_that_fails_is_tried_again_after_a_wait_that_grows_and_is_counted_once_each() {
    let mut life = Life::new(RunPolicy::Always);
    life.observed.kernel = Work::Running { message: "installing".to_owned() };
    for count in 1..6 {
        life.observed.image = Work::Failed(fault("RegistryUnreachable", true));
        for _ in 0..3 {
            assert!(!life.pass(), "not before its time");
        }
        let failure = life.record.memory.failure.clone().unwrap();
        assert_eq!((failure.stage, failure.count), (Stage::Image, count));
        assert_eq!(life.reason(ConditionType::ImageResolved), Reason::RegistryUnreachable);
        assert!(life.is(ConditionType::Reconciling) && !life.is(ConditionType::Stalled));
        life.now = failure.next_attempt;
        assert_eq!(life.look().next, Some(Action::ResolveImage));
        life.record.memory = life.look().memory;
    }
    life.act(&Action::ResolveImage);
    life.pass();
    assert_eq!(life.record.memory.failure, None);
}

#[test]
fn what_only_a_person_can_mend_stalls_and_a_changed_spec_is_tried_at_once() {
    let mut life = Life::new(RunPolicy::Always);
    life.observed.kernel = Work::Running { message: "installing".to_owned() };
    life.observed.image = Work::Failed(fault("ImageNotFound", false));
    life.settle(0);
    assert!(life.is(ConditionType::Stalled) && !life.is(ConditionType::Reconciling) && !life.is(ConditionType::Ready));
    assert_eq!(life.reason(ConditionType::Ready), Reason::ImageNotFound);
    life.record.generation = 2;
    life.record.workspace_mut().spec.image = "registry.example/web:2".to_owned();
    life.observed.image = Work::Absent;
    assert_eq!(life.look().next, Some(Action::ResolveImage));
}

#[test]
fn a_start_that_fails_waits_even_when_an_earlier_boot_was_ready() {
    let mut life = Life::new(RunPolicy::Always);
    life.settle(0);
    life.end(Some(Exit::code(0)));
    life.pass();
    life.now = life.look().wake;
    life.record.memory = life.look().memory;
    let (record, now) = (life.record.clone(), life.now);
    record_failure(&record, &mut life.record.memory, Stage::Start, fault("VmmFailed", true), now);
    let plan = life.look();
    assert_eq!(plan.next, None);
    assert_eq!(plan.wake, life.record.memory.failure.as_ref().unwrap().next_attempt);
}

#[test]
fn a_guest_without_its_program_stalls_with_the_guests_own_reason() {
    let mut life = Life::new(RunPolicy::Always);
    life.settle(0);
    life.end(None);
    life.machine().guest.workload_started_at = None;
    life.machine().guest.failure = Some(microagent_supervisor_protocol::ErrorText {
        code: "WorkloadNotFound".to_owned(),
        message: "no /x".to_owned(),
    });
    life.settle(0);
    assert_eq!(life.reason(ConditionType::Stalled), Reason::WorkloadNotFound);
    assert!(life.is(ConditionType::Stalled));
    assert_eq!(life.reason(ConditionType::MachineStarted), Reason::WorkloadNotFound);
}

#[test]
fn what_only_a_person_can_mend_stays_stalled_while_it_is_tried_again() {
    let mut life = Life::new(RunPolicy::Always);
    life.settle(0);
    for _ in 0..3 {
        life.end(None);
        let text = ErrorText { code: "UserNotFound".to_owned(), message: "no such user".to_owned() };
        life.machine().guest.workload_started_at = None;
        life.machine().guest.failure = Some(text);
        life.settle(0);
        assert_eq!(life.reason(ConditionType::Stalled), Reason::UserNotFound);
        life.now = life.look().wake;
        while life.look().next.is_some() {
            let plan = life.look();
            assert!(plan.status.is_true(ConditionType::Stalled) && !plan.status.is_true(ConditionType::Reconciling));
            assert_eq!(plan.status.phase, Some(Phase::Failed));
            life.pass();
            life.machine().guest.workload_started_at = None;
        }
    }
    let now = life.now;
    life.machine().guest.workload_started_at = Some(now);
    life.settle(0);
    assert!(life.is(ConditionType::Ready) && !life.is(ConditionType::Stalled));
}

#[test]
fn a_manifest_that_no_longer_parses_stalls_while_its_last_good_spec_runs_on() {
    let mut life = Life::new(RunPolicy::Always);
    life.settle(0);
    life.record.problem =
        Some(crate::Problem { code: "InvalidManifest".to_owned(), message: "line 3: no such field".to_owned() });
    life.settle(3);
    assert_eq!(life.boots, 1);
    assert!(life.is(ConditionType::Running) && life.is(ConditionType::Stalled) && !life.is(ConditionType::Ready));
    life.record.problem = None;
    life.settle(0);
    assert!(life.is(ConditionType::Ready) && !life.is(ConditionType::Stalled));
}

#[test]
fn a_condition_keeps_its_time_until_its_status_changes() {
    let mut life = Life::new(RunPolicy::Always);
    life.settle(0);
    let time = life.status.condition(ConditionType::Ready).unwrap().last_transition_time.clone();
    life.now += SignedDuration::from_hours(1);
    life.pass();
    assert_eq!(life.status.condition(ConditionType::Ready).unwrap().last_transition_time, time);
    life.end(Some(Exit::code(1)));
    life.pass();
    assert!(life.status.condition(ConditionType::Ready).unwrap().last_transition_time > time);
}
