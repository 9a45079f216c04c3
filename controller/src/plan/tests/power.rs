//! Machines that are paused or cut off, and workloads that are probed.

use super::*;

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
fn a_pause_that_failed_and_came_about_all_the_same_is_no_failure_any_more() {
    let mut life = Life::running(RunPolicy::Always, |_| {});
    life.edit(|spec| spec.power_state = PowerState::Paused);
    let (record, now) = (life.record.clone(), life.now);
    record_failure(&record, &mut life.record.memory, Stage::Power, fault("SupervisorFailed", true), now);
    assert_eq!(life.look().memory.failures.len(), 1);
    life.machine().state = MachineState::Paused;
    assert!(life.look().memory.failures.is_empty());
}
