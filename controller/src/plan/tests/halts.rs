//! Ends that were asked for, and starts after them.

use super::*;

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
fn a_machine_whose_room_is_lost_is_halted_and_starts_again_when_there_is_room() {
    let mut life = Life::new(RunPolicy::Always);
    life.settle(0);
    life.record.unreserved = Some("the Pod was preempted".to_owned());
    life.settle(3);
    assert_eq!(life.done.last(), Some(&"halt"));
    assert!(life.observed.disks.complete);
    let ready = life.status.condition(ConditionType::Ready).unwrap();
    assert_eq!(ready.reason, Reason::ReservationLost);
    assert!(!ready.is_true());
    assert_eq!(ready.message, "the Pod was preempted");
    assert!(life.is(ConditionType::Reconciling), "it is not as it is to be");
    life.record.unreserved = None;
    life.settle(0);
    assert!(life.is(ConditionType::Ready));
    assert_eq!(life.status.restarts, None, "it is no restart");
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
fn a_machine_that_its_supervisor_does_not_know_is_none() {
    let mut life = Life::running(RunPolicy::Always, |_| {});
    let absent = Box::new(Machine::bare(&life.record.uid, MachineState::Absent));
    life.observed.machine =
        MachineSight::Seen { backend: "Qemu".to_owned(), why: None, machine: absent, timings: BTreeMap::new() };
    assert!(matches!(life.look().next, Some(Action::StartMachine(_))));
    life.record.deleted_at = Some(life.now);
    assert_eq!(life.look().next, Some(Action::RemoveDisks));
}

#[test]
fn a_halt_that_failed_waits_and_is_then_done_by_force() {
    let mut life = Life::running(RunPolicy::Always, |_| {});
    life.edit(|spec| spec.run_policy = RunPolicy::Halted);
    life.fails(Stage::Halt, fault("SupervisorFailed", true));
    life.record.memory.halt = life.look().memory.halt;
    let look = life.look();
    assert_eq!((look.next, look.wake), (None, life.record.memory.failures[&Stage::Halt].next_attempt));
    life.now = look.wake;
    life.record.memory = life.look().memory;
    assert_eq!(life.look().next, Some(Action::KillMachine));
}

#[test]
fn a_grace_period_does_not_grow_when_the_clock_is_set_back() {
    let mut life = Life::running(RunPolicy::Always, |_| {});
    life.edit(|spec| spec.run_policy = RunPolicy::Halted);
    life.pass_without_acting();
    life.machine().state = MachineState::Halting;
    life.after(-86_400);
    life.pass_without_acting();
    life.after(119);
    assert_eq!(life.look().next, None);
    life.after(1);
    assert_eq!(life.look().next, Some(Action::KillMachine));
}

#[test]
fn the_cause_of_a_halt_is_not_forgotten_for_a_halt_without_one() {
    use crate::memory::HaltCause;
    let mut life = Life::running(RunPolicy::Always, probed);
    life.health(false);
    life.pass_without_acting();
    let unhealthy = HaltCause::Unhealthy { message: "connection refused".to_owned() };
    assert_eq!(life.record.memory.halt.as_ref().unwrap().cause, unhealthy);
    life.edit(|spec| spec.run_policy = RunPolicy::Halted);
    life.after(5);
    life.pass_without_acting();
    assert_eq!(life.record.memory.halt.as_ref().unwrap().cause, unhealthy);

    let mut life = Life::running(RunPolicy::Always, probed);
    life.edit(|spec| spec.run_policy = RunPolicy::Halted);
    life.pass_without_acting();
    life.edit(|spec| spec.run_policy = RunPolicy::Always);
    life.health(false);
    life.after(5);
    life.pass_without_acting();
    assert_eq!(life.record.memory.halt.as_ref().unwrap().cause, unhealthy);
}

#[test]
fn a_removal_that_fails_waits_whatever_is_left_to_remove() {
    for (expires, last) in [(false, "forget"), (true, "withdraw"), (true, "remove")] {
        let mut life = Life::running(RunPolicy::Always, |spec| {
            spec.lifecycle.on_delete = microagent_crds::OnDelete::Retain;
        });
        life.observed.withdrawable = last == "withdraw";
        if expires {
            let now = life.now;
            life.edit(|spec| spec.lifecycle.expires_at = Some(microagent_crds::Time(now)));
        } else {
            life.record.deleted_at = Some(life.now);
        }
        life.pass();
        let steps = ["delete", "retain", "remove", last];
        for step in if last == "remove" { &steps[..3] } else { &steps } {
            life.fails(Stage::Delete, fault("HostError", true));
            let look = life.look();
            assert_eq!((look.next, look.wake), (None, life.record.memory.failures[&Stage::Delete].next_attempt));
            life.now = look.wake;
            assert!(life.pass() && life.done.last() == Some(step), "it is tried again: {step}");
        }
        assert_eq!(life.look().memory.failures.is_empty(), expires);
    }
}
