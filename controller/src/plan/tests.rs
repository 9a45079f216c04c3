//! Whole lives of workspaces against `plan`, with a world of a few lines.

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

    /// What is decided, with the memory and the status that hold then.
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
    life.now += SignedDuration::from_secs(121);
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
        let failure = life.record.memory.failures[&Stage::Image].clone();
        assert_eq!(failure.count, count);
        assert_eq!(life.reason(ConditionType::ImageResolved), Reason::RegistryUnreachable);
        assert!(life.is(ConditionType::Reconciling) && !life.is(ConditionType::Stalled));
        life.now = failure.next_attempt;
        assert_eq!(life.look().next, Some(Action::ResolveImage));
        life.record.memory = life.look().memory;
    }
    life.act(&Action::ResolveImage);
    life.pass();
    assert!(life.record.memory.failures.is_empty());
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
    assert_eq!(plan.wake, life.record.memory.failures[&Stage::Start].next_attempt);
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

#[test]
fn two_stages_that_fail_side_by_side_each_wait_and_count_for_themselves() {
    let mut life = Life::new(RunPolicy::Always);
    for count in 1..6 {
        life.observed.image = Work::Failed(fault("RegistryUnreachable", true));
        life.observed.kernel = Work::Failed(fault("KernelNotFound", false));
        for _ in 0..5 {
            assert!(!life.pass(), "neither is tried before its time");
        }
        let failures = life.record.memory.failures.clone();
        assert_eq!((failures[&Stage::Image].count, failures[&Stage::Kernel].count), (count, count));
        assert!(life.is(ConditionType::Stalled), "the one that a person must mend is told");
        assert_eq!(life.look().wake, failures.values().map(|f| f.next_attempt).min().unwrap());
        life.now = failures.values().map(|f| f.next_attempt).max().unwrap();
        for expected in [Action::ResolveImage, Action::InstallKernel] {
            let look = life.look();
            assert_eq!(look.next, Some(expected.clone()));
            life.record.memory = look.memory;
            let running = || "trying".to_owned();
            match expected {
                Action::ResolveImage => life.observed.image = Work::Running { message: running() },
                _ => life.observed.kernel = Work::Running { message: running() },
            }
        }
    }
}

#[test]
fn a_wait_ends_when_the_clock_is_set_back() {
    let mut life = Life::new(RunPolicy::Always);
    life.observed.kernel = Work::Running { message: String::new() };
    life.observed.image = Work::Failed(fault("RegistryUnreachable", true));
    life.pass();
    life.after(-86_400);
    assert_eq!(life.look().next, Some(Action::ResolveImage));

    let mut life = Life::running(RunPolicy::Always, |_| {});
    life.end(Some(Exit::code(1)));
    life.settle(0);
    life.after(-86_400);
    assert!(matches!(life.look().next, Some(Action::StartMachine(_))));
}

#[test]
fn a_halt_that_the_machine_does_not_hear_of_is_asked_for_again() {
    let mut life = Life::running(RunPolicy::Always, |spec| spec.run_policy = RunPolicy::Always);
    life.edit(|spec| spec.run_policy = RunPolicy::Halted);
    for _ in 0..3 {
        let look = life.look();
        assert_eq!(look.next, Some(Action::HaltMachine { grace_seconds: 30 }));
        // The controller is killed between remembering and asking.
        life.record.memory = look.memory;
        let look = life.look();
        assert_eq!(look.next, None);
        life.now = look.wake;
    }
    life.after(121);
    let look = life.look();
    assert_eq!(look.next, Some(Action::KillMachine));
    // A supervisor that says it did and did not is not asked again at once.
    life.record.memory = look.memory;
    let look = life.look();
    assert_eq!(look.next, None);
    life.now = look.wake;
    assert_eq!(life.look().next, Some(Action::KillMachine));
}

#[test]
fn a_halt_may_be_taken_back_before_the_machine_heard_of_it_and_is_seen_to_its_end_after() {
    let mut life = Life::running(RunPolicy::Always, |_| {});
    life.edit(|spec| spec.run_policy = RunPolicy::Halted);
    life.record.memory = life.look().memory;
    life.edit(|spec| spec.run_policy = RunPolicy::Always);
    assert_eq!(life.look().next, None);
    assert!(life.look().status.is_true(ConditionType::Ready), "it was never asked to end");
    life.machine().state = MachineState::Halting;
    life.after(200);
    assert_eq!(life.look().next, Some(Action::KillMachine));
    life.end(None);
    life.settle(0);
    assert_eq!((life.boots, life.record.memory.restarts.count), (2, 0));
}

#[test]
fn the_machine_is_paused_resumed_and_cut_off_as_wanted() {
    let mut life = Life::running(RunPolicy::Always, |_| {});
    for (wanted, action, reason, phase) in [
        (PowerState::Paused, "pause", Reason::Paused, Phase::Paused),
        (PowerState::Quarantined, "quarantine", Reason::Quarantined, Phase::Quarantined),
        (PowerState::Paused, "pause", Reason::Paused, Phase::Paused),
        (PowerState::Running, "resume", Reason::Running, Phase::Running),
        (PowerState::Quarantined, "quarantine", Reason::Quarantined, Phase::Quarantined),
        (PowerState::Running, "resume", Reason::Running, Phase::Running),
    ] {
        life.edit(|spec| spec.power_state = wanted);
        life.settle(3);
        assert_eq!(life.done.last(), Some(&action));
        assert!(life.is(ConditionType::Ready) && !life.is(ConditionType::RestartRequired), "{wanted:?}");
        assert_eq!((life.reason(ConditionType::Ready), life.status.phase), (reason, Some(phase)));
        assert_eq!(life.is(ConditionType::Running), wanted != PowerState::Paused);
    }
    assert_eq!(life.boots, 1);
}

#[test]
fn a_machine_that_is_to_be_paused_boots_first() {
    let mut life = Life::new(RunPolicy::Always);
    life.record.workspace_mut().spec.power_state = PowerState::Paused;
    while !life.done.contains(&"start") {
        life.pass();
    }
    life.machine().state = MachineState::Starting;
    assert_eq!(life.look().next, None);
    life.machine().state = MachineState::Running;
    assert_eq!(life.look().next, Some(Action::PauseMachine));
}

#[test]
fn a_pause_that_the_backend_cannot_do_stalls_and_is_over_when_it_is_no_longer_wanted() {
    let mut life = Life::running(RunPolicy::Always, |_| {});
    life.edit(|spec| spec.power_state = PowerState::Paused);
    life.pass();
    life.machine().state = MachineState::Running;
    let (record, now) = (life.record.clone(), life.now);
    record_failure(&record, &mut life.record.memory, Stage::Power, fault("UnsupportedVerb", false), now);
    life.settle(0);
    assert!(life.is(ConditionType::Stalled) && life.is(ConditionType::Running) && !life.is(ConditionType::Ready));
    assert_eq!(life.reason(ConditionType::Stalled), Reason::PowerFailed);
    life.edit(|spec| spec.power_state = PowerState::Running);
    life.settle(0);
    assert!(life.is(ConditionType::Ready) && life.record.memory.failures.is_empty());
}

#[test]
fn a_workload_is_ready_when_its_probe_says_so() {
    let mut life = Life::running(RunPolicy::Always, probed);
    assert!(life.is(ConditionType::Running) && !life.is(ConditionType::Ready) && life.is(ConditionType::Reconciling));
    assert_eq!(life.reason(ConditionType::Healthy), Reason::HealthUnknown);
    life.health(true);
    life.settle(0);
    assert!(life.is(ConditionType::Ready) && life.is(ConditionType::Healthy));
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

#[test]
fn an_unhealthy_workload_is_ended_and_started_again_like_one_that_failed() {
    for policy in [RunPolicy::Always, RunPolicy::OnFailure] {
        let mut life = Life::running(policy, probed);
        life.health(false);
        let look = life.look();
        assert_eq!(look.next, Some(Action::HaltMachine { grace_seconds: 30 }));
        assert_eq!(look.status.condition(ConditionType::Healthy).unwrap().reason, Reason::Unhealthy);
        life.record.memory = look.memory;
        // It takes the signal well, and the probe's verdict stands all the same.
        life.end(Some(Exit::code(0)));
        life.settle(0);
        assert_eq!(life.reason(ConditionType::Running), Reason::BackingOff);
        let result = life.status.result.clone().unwrap();
        assert!(result.exit_code.is_none() && result.message.unwrap().contains("connection refused"));
        life.settle(1);
        assert_eq!((life.boots, life.record.memory.restarts.count), (2, 1), "{policy:?}");
    }
}

#[test]
fn an_unhealthy_workload_that_runs_once_has_failed() {
    let mut life = Life::running(RunPolicy::Once, probed);
    life.health(false);
    life.record.memory = life.look().memory;
    life.end(Some(Exit::code(0)));
    life.settle(5);
    assert_eq!((life.boots, life.status.phase), (1, Some(Phase::Failed)));
}

#[test]
fn a_machine_that_is_paused_or_kept_as_evidence_is_left_alone_whatever_its_probe_says() {
    for wanted in [PowerState::Paused, PowerState::Quarantined] {
        let mut life = Life::running(RunPolicy::Always, |spec| {
            probed(spec);
            spec.power_state = wanted;
            spec.lifecycle.idle_timeout_seconds = Some(60);
        });
        life.health(false);
        life.after(1000);
        life.settle(3);
        assert_eq!(life.boots, 1);
        assert!(life.is(ConditionType::Ready) && !life.done.contains(&"halt"), "{wanted:?}");
    }
}

#[test]
fn a_new_value_of_the_annotation_is_one_restart() {
    let mut life = Life::running(RunPolicy::Always, |_| {});
    for (value, boots) in [("one", 2), ("one", 2), ("two", 3), ("two", 3)] {
        life.annotate(value);
        life.settle(3);
        assert_eq!(life.boots, boots, "{value}");
        assert!(life.is(ConditionType::Ready));
    }
    life.record.workspace_mut().metadata.annotations = None;
    life.settle(3);
    assert_eq!((life.boots, life.record.memory.restarts.count), (3, 0), "it was taken back, and asks for nothing");
}

#[test]
fn an_annotation_that_is_there_from_the_beginning_restarts_nothing() {
    let mut life = Life::new(RunPolicy::Always);
    life.annotate("one");
    life.settle(3);
    assert_eq!(life.boots, 1);
}

#[test]
fn a_restart_applies_a_changed_spec_and_survives_the_controller() {
    let mut life = Life::running(RunPolicy::Always, |_| {});
    life.edit(|spec| spec.args = vec!["new".to_owned()]);
    life.settle(0);
    assert!(life.is(ConditionType::RestartRequired));
    life.observed.restart_request = Some("token".to_owned());
    let look = life.look();
    assert_eq!(look.next, Some(Action::HaltMachine { grace_seconds: 30 }));
    assert_eq!(look.status.condition(ConditionType::Ready).unwrap().reason, Reason::Restarting);
    // Killed before it could ask; the request was taken away by the one who made it.
    life.record.memory = look.memory;
    life.observed.restart_request = None;
    life.now = life.look().wake;
    life.settle(0);
    assert_eq!(life.boots, 2);
    assert!(life.is(ConditionType::Ready) && !life.is(ConditionType::RestartRequired));
}

#[test]
fn a_restart_runs_again_what_has_finished_and_what_waits() {
    let mut once = Life::running(RunPolicy::Once, |_| {});
    once.end(Some(Exit::code(1)));
    once.settle(3);
    once.observed.restart_request = Some("token".to_owned());
    once.settle(3);
    assert_eq!((once.boots, once.is(ConditionType::Running)), (2, true));

    let mut waiting = Life::running(RunPolicy::Always, |_| {});
    waiting.end(Some(Exit::code(1)));
    waiting.settle(0);
    assert_eq!(waiting.boots, 1);
    waiting.annotate("now");
    waiting.settle(0);
    assert_eq!(waiting.boots, 2);
}

#[test]
fn a_restart_of_what_is_to_be_halted_starts_nothing() {
    let mut life = Life::running(RunPolicy::Always, |spec| spec.run_policy = RunPolicy::Halted);
    life.annotate("one");
    life.settle(3);
    assert_eq!(life.boots, 0);
    life.edit(|spec| spec.run_policy = RunPolicy::Always);
    life.settle(3);
    assert_eq!(life.boots, 1);
}

#[test]
fn a_finished_workspace_goes_after_its_time_to_live_and_stays_away_while_it_is_declared() {
    let mut life = Life::running(RunPolicy::Once, |spec| spec.lifecycle.ttl_seconds_after_finished = Some(60));
    life.end(Some(Exit::code(0)));
    life.settle(0);
    assert_eq!(life.status.phase, Some(Phase::Succeeded));
    let finished = life.now;
    life.settle(1);
    assert_eq!(life.now, finished + SignedDuration::from_secs(60), "it wakes in time");
    life.settle(10);
    assert_eq!(life.observed.disks, Disks::default());
    assert_eq!(life.observed.machine, MachineSight::None);
    assert!(life.is(ConditionType::Ready) && life.boots == 1);
    assert_eq!((life.reason(ConditionType::Ready), life.status.phase), (Reason::Expired, Some(Phase::Succeeded)));
    assert!(!life.done.contains(&"forget"), "it is declared still");
    life.record.deleted_at = Some(life.now);
    life.settle(0);
    assert_eq!(life.done.last(), Some(&"forget"));
}

#[test]
fn a_manifest_of_ours_is_withdrawn_when_the_workspace_has_expired() {
    let mut life = Life::running(RunPolicy::Once, |spec| spec.lifecycle.ttl_seconds_after_finished = Some(0));
    life.observed.withdrawable = true;
    life.end(Some(Exit::code(0)));
    life.settle(2);
    assert_eq!(life.done[life.done.len() - 3..], ["delete", "remove", "withdraw"]);
}

#[test]
fn a_workspace_expires_at_its_time_and_a_later_time_revives_it() {
    let mut life = Life::new(RunPolicy::Always);
    let at = life.now + SignedDuration::from_secs(100);
    life.record.workspace_mut().spec.lifecycle.expires_at = Some(microagent_crds::Time(at));
    life.settle(0);
    assert!(life.is(ConditionType::Running));
    assert_eq!(life.look().wake, at);
    life.settle(3);
    assert!(life.done.contains(&"halt") && life.observed.disks == Disks::default());
    assert_eq!(life.status.phase, Some(Phase::Halted));
    life.edit(|spec| spec.lifecycle.expires_at = None);
    life.settle(0);
    assert_eq!(life.boots, 2);
    assert!(life.is(ConditionType::Ready) && life.is(ConditionType::Running));
}

#[test]
fn what_expired_before_it_began_is_never_started() {
    let mut life = Life::new(RunPolicy::Always);
    life.record.workspace_mut().spec.lifecycle.expires_at = Some(microagent_crds::Time(life.now));
    life.settle(3);
    assert_eq!(life.done, Vec::<&str>::new());
    assert_eq!(life.reason(ConditionType::Ready), Reason::Expired);
}

#[test]
fn a_machine_that_nobody_uses_is_halted_and_stays_so_until_it_is_asked_for() {
    let mut life = Life::running(RunPolicy::Always, |spec| spec.lifecycle.idle_timeout_seconds = Some(60));
    let started = life.now;
    assert_eq!(life.look().wake, started + SignedDuration::from_secs(60));
    life.after(59);
    let used = life.now;
    life.machine().active_at = Some(used);
    life.after(1);
    assert_eq!(life.look().next, None);
    assert_eq!(life.look().wake, used + SignedDuration::from_secs(60));
    life.settle(5);
    assert_eq!((life.boots, life.status.phase), (1, Some(Phase::Halted)));
    assert!(life.is(ConditionType::Ready) && life.observed.disks.complete);
    assert_eq!(life.reason(ConditionType::Ready), Reason::Idle);
    life.annotate("wake");
    life.settle(0);
    assert_eq!((life.boots, life.record.memory.restarts.count), (2, 0));
}

#[test]
fn an_idle_workspace_with_a_changed_machine_starts_again() {
    let mut life = Life::running(RunPolicy::Always, |spec| spec.lifecycle.idle_timeout_seconds = Some(60));
    life.settle(5);
    assert_eq!(life.status.phase, Some(Phase::Halted));
    life.edit(|spec| spec.lifecycle.idle_timeout_seconds = Some(90));
    life.settle(2);
    assert_eq!(life.boots, 1, "the timeout is not part of the machine");
    life.edit(|spec| spec.args = vec!["new".to_owned()]);
    life.settle(0);
    assert_eq!(life.boots, 2);
}

#[test]
fn a_way_that_takes_longer_than_its_deadline_stalls_and_is_gone_on_with() {
    let mut life = Life::new(RunPolicy::Always);
    life.record.workspace_mut().spec.lifecycle.progress_deadline_seconds = Some(60);
    life.observed.kernel = Work::Running { message: String::new() };
    life.settle(0);
    let began = life.now;
    while life.now < began + SignedDuration::from_secs(59) {
        assert!(life.is(ConditionType::Reconciling) && !life.is(ConditionType::Stalled));
        life.settle(1);
    }
    assert_eq!(life.now, began + SignedDuration::from_secs(60), "it wakes in time");
    assert_eq!(life.reason(ConditionType::Stalled), Reason::ProgressDeadlineExceeded);
    assert!(!life.is(ConditionType::Reconciling) && life.status.phase == Some(Phase::Failed));
    life.act(&Action::InstallKernel);
    life.settle(0);
    assert!(life.is(ConditionType::Ready) && !life.is(ConditionType::Stalled));
    assert_eq!(life.record.memory.progress, None);
    life.after(100_000);
    life.settle(3);
    assert!(life.is(ConditionType::Ready), "what is settled has no deadline");
    life.end(Some(Exit::code(1)));
    life.settle(0);
    assert!(!life.is(ConditionType::Stalled), "a new way has a deadline of its own");
}

#[test]
fn a_new_generation_has_its_own_deadline() {
    let mut life = Life::new(RunPolicy::Always);
    life.record.workspace_mut().spec.lifecycle.progress_deadline_seconds = Some(60);
    life.observed.kernel = Work::Running { message: String::new() };
    life.settle(0);
    life.after(50);
    life.edit(|spec| spec.args = vec!["new".to_owned()]);
    life.settle(0);
    life.after(50);
    life.settle(0);
    assert!(!life.is(ConditionType::Stalled));
    life.after(10);
    life.settle(0);
    assert!(life.is(ConditionType::Stalled));
}

#[test]
fn outputs_are_kept_before_the_machine_is_started_again_or_removed() {
    let mut life = Life::running(RunPolicy::Always, |_| {});
    life.end(Some(Exit::code(0)));
    life.has_outputs(&["report"]);
    let look = life.look();
    assert_eq!(look.next, Some(Action::KeepOutputs));
    life.settle(1);
    assert_eq!(life.done[life.done.len() - 2..], ["keep", "start"]);
    assert_eq!(life.status.artifacts[0].name, "report");

    life.end(Some(Exit::code(0)));
    life.has_outputs(&["last"]);
    life.record.deleted_at = Some(life.now);
    life.settle(0);
    assert_eq!(life.done[life.done.len() - 4..], ["keep", "delete", "remove", "forget"]);
    assert_eq!(life.status.artifacts[0].name, "last");
}

#[test]
fn outputs_that_cannot_be_kept_hold_up_the_next_start_and_are_tried_again() {
    let mut life = Life::running(RunPolicy::Always, |_| {});
    life.end(Some(Exit::code(0)));
    life.has_outputs(&["report"]);
    let (record, now) = (life.record.clone(), life.now);
    record_failure(&record, &mut life.record.memory, Stage::Outputs, fault("DiskFull", true), now);
    let look = life.look();
    assert_eq!(look.next, None);
    assert_eq!(look.status.condition(ConditionType::Ready).unwrap().reason, Reason::DiskFull);
    life.settle(2);
    assert_eq!(life.done[life.done.len() - 2..], ["keep", "start"]);
    assert!(life.look().memory.failures.is_empty());
}

#[test]
fn what_is_to_be_retained_is_moved_away_before_the_rest_is_removed() {
    let mut life = Life::running(RunPolicy::Always, |spec| {
        spec.lifecycle.on_delete = microagent_crds::OnDelete::Retain;
    });
    life.record.deleted_at = Some(life.now);
    life.settle(0);
    assert_eq!(life.done[life.done.len() - 5..], ["halt", "delete", "retain", "remove", "forget"]);
}

#[test]
fn a_policy_that_wants_more_runs_what_had_finished() {
    for (exit, before, after, boots) in [
        (0, RunPolicy::Once, RunPolicy::Always, 2),
        (0, RunPolicy::Once, RunPolicy::OnFailure, 1),
        (1, RunPolicy::Once, RunPolicy::OnFailure, 2),
        (0, RunPolicy::OnFailure, RunPolicy::Always, 2),
        (0, RunPolicy::OnFailure, RunPolicy::Once, 1),
    ] {
        let mut life = Life::running(before, |_| {});
        life.end(Some(Exit::code(exit)));
        life.settle(0);
        assert_eq!(life.boots, 1);
        life.edit(|spec| spec.run_policy = after);
        life.settle(0);
        assert_eq!(life.boots, boots, "{exit} {before:?} {after:?}");
    }
}

#[test]
fn the_end_of_an_earlier_boot_says_nothing_of_the_one_that_is_asked_for() {
    let mut life = Life::running(RunPolicy::Once, |_| {});
    life.record.memory.boot.as_mut().unwrap().id = "asked".to_owned();
    life.end(Some(Exit::code(7)));
    life.machine().identity.as_mut().unwrap().boot_id = "earlier".to_owned();
    assert!(matches!(life.look().next, Some(Action::StartMachine(boot)) if boot.id == "asked"));
    assert_eq!(life.look().memory.finished, None);
}

#[test]
fn a_spec_changed_there_and_back_restarts_nothing() {
    let mut life = Life::running(RunPolicy::Always, |_| {});
    life.edit(|spec| spec.args = vec!["b".to_owned()]);
    life.settle(0);
    life.edit(|spec| spec.args.clear());
    life.settle(3);
    assert_eq!((life.boots, life.status.observed_generation, life.status.running_generation), (1, Some(3), Some(1)));
    assert!(life.is(ConditionType::Ready) && !life.is(ConditionType::RestartRequired));
}

#[test]
fn the_clock_of_a_liar_is_not_ahead_of_ours() {
    let mut life = Life::running(RunPolicy::Once, |spec| spec.lifecycle.ttl_seconds_after_finished = Some(60));
    life.after(10);
    life.end(Some(Exit::code(0)));
    life.machine().guest.workload_finished_at = Some(Timestamp::MAX);
    life.settle(0);
    assert_eq!(life.status.result.as_ref().unwrap().finished_at.as_ref().unwrap().0, life.now);
}

#[test]
fn a_pause_that_failed_and_came_about_all_the_same_is_no_failure_any_more() {
    let mut life = Life::running(RunPolicy::Always, |_| {});
    life.edit(|spec| spec.power_state = PowerState::Paused);
    let (record, now) = (life.record.clone(), life.now);
    record_failure(&record, &mut life.record.memory, Stage::Power, fault("SupervisorFailed", true), now);
    assert_eq!(life.look().memory.failures.len(), 1);
    life.machine().state = MachineState::Paused;
    assert!(life.look().memory.failures.is_empty());
}
