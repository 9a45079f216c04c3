//! From a manifest to a workload, and what follows when it ends.

use super::*;

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
fn what_is_settled_is_looked_at_every_five_minutes_give_or_take_a_tenth() {
    let mut waits = std::collections::BTreeSet::new();
    for n in 0..2000 {
        let mut life = Life::running(RunPolicy::Always, |_| {});
        life.record.uid = format!("uid-{n}");
        waits.insert(life.look().wake.duration_since(life.now).as_secs());
    }
    assert_eq!((waits.first(), waits.last(), waits.len()), (Some(&270), Some(&330), 61), "they do not come together");
}

#[test]
fn setup_is_complete_when_the_guest_says_so_and_stays_so() {
    let step = |run: &str| microagent_crds::SetupStep { run: run.to_owned() };
    let mut life = Life::running(RunPolicy::Always, |spec| spec.setup = vec![step("true")]);
    life.record.memory.setup_complete = false;
    life.machine().guest.setup_complete = false;
    life.settle(0);
    assert!(!life.is(ConditionType::SetupComplete));
    life.machine().guest.setup_complete = true;
    life.settle(0);
    assert!(life.is(ConditionType::SetupComplete));
    life.edit(|spec| spec.run_policy = RunPolicy::Halted);
    life.settle(3);
    assert!(life.is(ConditionType::SetupComplete) && life.is(ConditionType::Ready));
}

#[test]
fn a_machine_that_is_lost_runs_again_unless_its_workload_was_to_run_once_and_had_begun() {
    for (policy, begun, finished) in [
        (RunPolicy::Once, true, true),
        (RunPolicy::Once, false, false),
        (RunPolicy::Always, true, false),
        (RunPolicy::Always, false, false),
    ] {
        let mut life = Life::running(policy, |_| {});
        if !begun {
            life.machine().guest.workload_started_at = None;
        }
        life.end(None);
        life.settle(3);
        assert_eq!(life.record.memory.finished.is_some(), finished, "{policy:?} {begun}");
        assert_eq!(life.boots, if finished { 1 } else { 2 }, "{policy:?} {begun}");
        assert_eq!(life.record.memory.restarts.count, u32::from(begun && !finished), "{policy:?} {begun}");
    }
}

#[test]
fn a_long_run_begins_a_new_row_of_restarts() {
    let mut life = Life::running(RunPolicy::Always, |_| {});
    for (seconds, row) in [(1, 1), (1, 2), (599, 3), (600, 1), (1, 2)] {
        life.after(seconds);
        life.end(Some(Exit::code(1)));
        life.pass();
        assert_eq!(life.record.memory.restarts.in_a_row, row, "after {seconds} s");
        life.settle(1);
    }
    let told = life.status.result.as_ref().unwrap().message.clone().unwrap();
    assert_eq!(told, "the workload exited with code 1");
}

#[test]
fn what_runs_once_and_fails_before_its_workload_has_failed_when_the_guest_says_so() {
    for setup in [true, false] {
        let mut life = Life::running(RunPolicy::Once, |_| {});
        life.end(None);
        let guest = &mut life.machine().guest;
        guest.workload_started_at = None;
        if setup {
            guest.setup_failure = Some(Exit::code(1));
        } else {
            guest.failure = Some(ErrorText { code: "WorkloadNotFound".to_owned(), message: "no /x".to_owned() });
        }
        life.settle(5);
        assert_eq!((life.boots, life.status.phase), (1, Some(Phase::Failed)), "setup {setup}");
    }
}
