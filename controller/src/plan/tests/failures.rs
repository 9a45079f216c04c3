//! What failed, and when it is tried again.

use super::*;

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
fn a_setup_command_that_failed_is_told_by_its_place_and_its_first_line() {
    let long = "é".repeat(61);
    for (run, told) in [("\n  install tool \nuse tool", "install tool"), (&long, &"é".repeat(60)), ("", "")] {
        let step = |run: &str| microagent_crds::SetupStep { run: run.to_owned() };
        let mut life = Life::running(RunPolicy::Always, |spec| spec.setup = vec![step("true"), step(run)]);
        life.end(None);
        let guest = &mut life.machine().guest;
        guest.workload_started_at = None;
        (guest.setup_failure, guest.setup_index) = (Some(Exit::code(2)), Some(1));
        let setup = life.tells(ConditionType::SetupComplete);
        let wanted = format!("False SetupFailed: setup command 2 (`{told}`) exited with code 2; read its output");
        assert!(setup.starts_with(&wanted), "{setup}");
    }
}
