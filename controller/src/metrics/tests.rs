//! What passes leave in the metrics, read as a scrape gives it.

use jiff::SignedDuration;
use microagent_crds::{Condition, ConditionStatus, Reason, RunPolicy, Time, Workspace, WorkspaceSpec};
use microagent_supervisor_protocol::{Machine, MachineState};

use super::*;
use crate::{
    Key,
    memory::{Fault, HaltAsked, HaltCause, Memory},
    observed::{Disks, Work},
    plan::record_failure,
};

fn record(name: &str) -> Record {
    let mut spec = WorkspaceSpec::new("registry.example/web:1");
    spec.run_policy = RunPolicy::Halted;
    Record {
        key: Key::new("default", name),
        uid: format!("uid-of-{name}"),
        generation: 1,
        spec_hash: "1".to_owned(),
        workspace: Workspace::new(name, spec).into(),
        file: "web.yaml".into(),
        created_at: Timestamp::UNIX_EPOCH,
        deleted_at: None,
        problem: None,
        unreserved: None,
        memory: Memory::default(),
    }
}

fn observed(machine: MachineSight) -> Observed {
    Observed {
        image: Work::Absent,
        rootfs: Work::Absent,
        kernel: Work::Absent,
        disks: Disks::default(),
        machine,
        kept_outputs: None,
        restart_request: None,
        withdrawable: false,
    }
}

fn status(phase: Phase, is: &[ConditionType]) -> WorkspaceStatus {
    let condition = |type_: &ConditionType| Condition {
        type_: *type_,
        status: ConditionStatus::True,
        reason: Reason::Unknown,
        message: String::new(),
        observed_generation: None,
        last_transition_time: Time(Timestamp::UNIX_EPOCH),
    };
    WorkspaceStatus { phase: Some(phase), conditions: is.iter().map(condition).collect(), ..WorkspaceStatus::default() }
}

fn machine(state: MachineState) -> MachineSight {
    let machine = Machine::bare("uid", state);
    MachineSight::Seen {
        backend: "Qemu".to_owned(),
        why: None,
        machine: Box::new(machine),
        timings: Default::default(),
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

/// A pass that changes nothing of the record.
fn pass(metrics: &Metrics, record: &Record, sight: MachineSight, previous: &WorkspaceStatus, status: &WorkspaceStatus) {
    let observed = observed(sight);
    metrics.planned(&Planned { before: record, after: record, observed: &observed, previous, status, now: at(40) });
}

/// The value of one sample.
fn value(metrics: &Metrics, sample: &str) -> f64 {
    let text = metrics.render(&Sample { queue: queue::Counts::default(), jobs: Vec::new() });
    let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {sample} in {text}")).parse().unwrap()
}

#[test]
fn a_workspace_counts_where_it_was_seen_last_and_is_taken_off_when_it_goes() {
    let metrics = Metrics::new();
    let (web, none) = (record("web"), WorkspaceStatus::default());
    pass(&metrics, &web, machine(MachineState::Starting), &none, &status(Phase::Starting, &[]));
    pass(&metrics, &record("other"), MachineSight::None, &none, &status(Phase::Halted, &[]));
    assert_eq!(value(&metrics, r#"microagent_machines{state="starting"}"#), 1.0);
    pass(&metrics, &web, machine(MachineState::Running), &none, &status(Phase::Running, &[]));
    assert_eq!(value(&metrics, r#"microagent_machines{state="starting"}"#), 0.0);
    assert_eq!(value(&metrics, r#"microagent_machines{state="running"}"#), 1.0);
    assert_eq!(value(&metrics, r#"microagent_machines{state="absent"}"#), 1.0);
    assert_eq!(value(&metrics, r#"microagent_workspaces{phase="running"}"#), 1.0);
    metrics.forget(&web.uid);
    assert_eq!(value(&metrics, r#"microagent_machines{state="running"}"#), 0.0);
    assert_eq!(value(&metrics, r#"microagent_workspaces{phase="running"}"#), 0.0);
    assert_eq!(value(&metrics, r#"microagent_workspaces{phase="halted"}"#), 1.0);
}

#[test]
fn the_first_ready_is_measured_once() {
    let metrics = Metrics::new();
    let (web, none) = (record("web"), WorkspaceStatus::default());
    let ready = status(Phase::Halted, &[ConditionType::Ready]);
    pass(&metrics, &web, MachineSight::None, &none, &none);
    assert_eq!(value(&metrics, "microagent_ready_latency_seconds_count"), 0.0);
    pass(&metrics, &web, MachineSight::None, &none, &ready);
    assert_eq!(value(&metrics, "microagent_ready_latency_seconds_sum"), 40.0);
    // It was unwell meanwhile, or an earlier controller saw it ready, or it is another generation.
    pass(&metrics, &web, MachineSight::None, &ready, &none);
    pass(&metrics, &web, MachineSight::None, &none, &ready);
    pass(&metrics, &record("older"), MachineSight::None, &ready, &ready);
    pass(&metrics, &Record { generation: 2, ..record("changed") }, MachineSight::None, &none, &ready);
    assert_eq!(value(&metrics, "microagent_ready_latency_seconds_count"), 1.0);
}

#[test]
fn a_failed_guest_counts_once_however_often_it_is_seen() {
    let metrics = Metrics::new();
    let fault = Fault { code: "SetupFailed".to_owned(), message: String::new(), retryable: true };
    let observed = observed(MachineSight::None);
    let status = WorkspaceStatus::default();
    let seen = |before: &Record, after: &Record| {
        metrics.planned(&Planned {
            before,
            after,
            observed: &observed,
            previous: &status,
            status: &status,
            now: at(40),
        });
        value(&metrics, r#"microagent_stage_failures_total{stage="guest"}"#)
    };
    let failed = |before: &Record, stage: Stage, when: i64| {
        let mut after = before.clone();
        record_failure(before, &mut after.memory, stage, fault.clone(), at(when));
        after
    };
    let well = record("web");
    let first = failed(&well, Stage::Guest, 1);
    assert_eq!(seen(&well, &first), 1.0);
    assert_eq!(seen(&first, &first), 1.0);
    let mut retrying = first.clone();
    retrying.memory.failures.get_mut(&Stage::Guest).unwrap().retrying = true;
    assert_eq!(seen(&first, &retrying), 1.0);
    let second = failed(&retrying, Stage::Guest, 60);
    assert_eq!(seen(&retrying, &second), 2.0);
    assert_eq!(seen(&second, &well), 2.0);
    assert_eq!(seen(&well, &failed(&well, Stage::Disks, 90)), 2.0, "that is counted where it failed");
}

#[test]
fn a_halt_takes_from_its_request_until_the_end_of_its_boot_is_seen() {
    let metrics = Metrics::new();
    let mut before = record("web");
    before.memory.halt =
        Some(HaltAsked { boot_id: "b".to_owned(), at: at(30), asked_at: at(30), cause: HaltCause::Unwanted });
    let mut after = before.clone();
    (after.memory.halt, after.memory.counted_boot) = (None, Some("b".to_owned()));
    let (observed, status) = (observed(machine(MachineState::Exited)), WorkspaceStatus::default());
    let planned = Planned {
        before: &before,
        after: &after,
        observed: &observed,
        previous: &status,
        status: &status,
        now: at(40),
    };
    metrics.planned(&planned);
    metrics.planned(&Planned { before: &after, ..planned });
    assert_eq!(value(&metrics, r#"microagent_stage_duration_seconds_sum{stage="halt"}"#), 10.0);
    assert_eq!(value(&metrics, r#"microagent_stage_duration_seconds_count{stage="halt"}"#), 1.0);
}

#[test]
fn a_guest_takes_from_the_start_of_its_machine_until_its_workload_runs() {
    let metrics = Metrics::new();
    let mut sight = machine(MachineState::Running);
    if let MachineSight::Seen { machine, .. } = &mut sight {
        machine.started_at = Some(at(30));
        machine.guest.workload_started_at = Some(at(30) + SignedDuration::from_millis(1500));
    }
    let (none, running) = (WorkspaceStatus::default(), status(Phase::Running, &[ConditionType::Running]));
    pass(&metrics, &record("web"), sight.clone(), &none, &running);
    pass(&metrics, &record("web"), sight, &running, &running);
    assert_eq!(value(&metrics, r#"microagent_stage_duration_seconds_sum{stage="guest"}"#), 1.5);
    assert_eq!(value(&metrics, r#"microagent_stage_duration_seconds_count{stage="guest"}"#), 1.0);
}

#[test]
fn a_pass_counts_while_it_runs_and_has_failed_when_it_never_says_how_it_ended() {
    let metrics = Metrics::new();
    let lost = metrics.begin_pass();
    let mut settled = metrics.begin_pass();
    assert_eq!(value(&metrics, "microagent_reconcile_active"), 2.0);
    settled.outcome = Outcome::Settled;
    drop((lost, settled));
    assert_eq!(value(&metrics, "microagent_reconcile_active"), 0.0);
    assert_eq!(value(&metrics, r#"microagent_reconcile_total{source="folder",result="failed"}"#), 1.0);
    assert_eq!(value(&metrics, r#"microagent_reconcile_total{source="folder",result="settled"}"#), 1.0);
    assert_eq!(value(&metrics, "microagent_reconcile_duration_seconds_count"), 2.0);
}

#[test]
fn ten_thousand_workspaces_make_no_scrape_longer() {
    let metrics = Metrics::new();
    let sample = Sample { queue: queue::Counts::default(), jobs: Vec::new() };
    let lines = metrics.render(&sample).lines().count();
    let (none, halted) = (WorkspaceStatus::default(), status(Phase::Halted, &[]));
    for n in 0..10_000 {
        pass(&metrics, &record(&n.to_string()), MachineSight::None, &none, &halted);
    }
    assert_eq!(value(&metrics, r#"microagent_workspaces{phase="halted"}"#), 10_000.0);
    assert_eq!(metrics.render(&sample).lines().count(), lines);
}
