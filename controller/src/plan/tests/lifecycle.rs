//! The ends and bounds of `spec.lifecycle`, and what outlives a machine.

use super::*;

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
fn of_a_time_to_live_and_an_expiry_the_one_that_comes_first_counts() {
    for (expiry, wake, told) in [(50, 50, "lifecycle.expiresAt"), (60, 60, "lifecycle.expiresAt"), (70, 60, "60 s ago")]
    {
        let mut life = Life::running(RunPolicy::Once, |spec| spec.lifecycle.ttl_seconds_after_finished = Some(60));
        let now = life.now;
        let at = |seconds| now + SignedDuration::from_secs(seconds);
        life.record.workspace_mut().spec.lifecycle.expires_at = Some(microagent_crds::Time(at(expiry)));
        life.end(Some(Exit::code(0)));
        life.settle(0);
        assert_eq!(life.look().wake, at(wake), "{expiry}");
        life.settle(1);
        let message = &life.record.memory.expired.as_ref().unwrap().message;
        assert!(message.contains(told), "{expiry}: {message}");
    }
}
