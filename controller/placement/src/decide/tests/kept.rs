//! A workspace that was placed: its room is kept, lost, given back and had again.

use kube::runtime::events::EventType;

use super::*;
use crate::reservation::size;
use ConditionStatus::{False, True};

#[test]
fn a_workspace_that_runs_is_left_alone_whatever_its_agent_says() {
    let mut case = running();
    for phase in [Phase::Building, Phase::Starting, Phase::Paused, Phase::Quarantined, Phase::Halting, Phase::Unknown] {
        case.agent_says(phase, Reason::Progressing);
        assert_eq!(case.decide(), None, "{phase:?}");
    }
}

#[test]
fn another_spec_costs_one_write() {
    let mut case = running();
    case.edit();
    let told = case.told();
    assert_eq!((told.conditions[0].observed_generation, told.event), (Some(3), None));
    assert_eq!(case.scheduled(), (True, Reason::Scheduled));
    assert_eq!(case.decide(), None);
}

#[test]
fn room_of_an_older_size_is_told_once_and_goes_with_the_reservation() {
    let mut case = running();
    let reserved = size(&case.seen.workspace);
    case.pod.as_mut().unwrap().size = Some(reserved.clone());
    assert_eq!(case.decide(), None, "it is as large as asked for");
    case.seen.workspace.spec.resources.memory = "3Gi".parse().unwrap();
    case.edit();
    let event = case.told().event.unwrap();
    assert_eq!((event.type_, event.reason), (EventType::Warning, Reason::Scheduled));
    assert_eq!(case.scheduled(), (True, Reason::Scheduled), "the machine that runs has its room");
    assert!(case.message().contains(&reserved) && case.message().contains("runPolicy: Halted"), "{}", case.message());
    case.edit();
    assert_eq!(case.told().event, None, "it is no news any more");
    // A Pod of a version that did not say it.
    case.pod.as_mut().unwrap().size = None;
    assert_eq!(case.told().event, None);
    assert!(!case.message().contains(&reserved));
}

#[test]
fn room_that_is_taken_is_told_with_the_cause_and_asked_for_again_on_the_same_node() {
    let mut case = running();
    case.pod = Some(PodFacts { deleting: true, disruption: Some("preempted by x".into()), ..pod(Some("n1")) });
    let told = case.told();
    assert_eq!(case.scheduled(), (False, Reason::ReservationLost));
    assert_eq!(told.event.unwrap().reason, Reason::ReservationLost);
    assert!(case.message().contains("preempted by x"));
    assert_eq!(case.decide(), None, "until the Pod is gone");

    case.pod = None;
    assert_eq!(case.decide(), Some(Action::Reserve { on: Some("n1".into()) }), "and the cause is not forgotten");
    case.pod = Some(PodFacts { uid: "p2".into(), pinned_to: Some("n1".into()), ..pod(None) });
    assert_eq!(case.decide(), None);
    case.pod.as_mut().unwrap().unschedulable = Some("0/1 nodes".into());
    case.told();
    assert_eq!(case.scheduled(), (False, Reason::ReservationLost));
    assert!(case.message().contains("preempted by x") && case.message().ends_with("0/1 nodes"), "{}", case.message());
    case.pod.as_mut().unwrap().unschedulable = Some("0/2 nodes".into());
    case.told();
    assert!(!case.message().contains("0/1"), "{}", case.message());

    case.pod = Some(PodFacts { uid: "p2".into(), ..pod(Some("n1")) });
    case.told();
    assert_eq!(case.scheduled(), (True, Reason::Scheduled));
    assert_eq!(case.decide(), None);
}

#[test]
fn a_pod_that_is_deleted_without_a_word_is_a_lost_reservation_too() {
    let mut case = running();
    case.pod = None;
    case.told();
    assert_eq!(case.scheduled(), (False, Reason::ReservationLost));
    assert_eq!(case.effect(), Some(Action::Reserve { on: Some("n1".into()) }));
    case.may_reserve = false;
    assert_eq!(case.decide(), None);
}

#[test]
fn a_pod_that_its_node_refuses_is_removed_and_made_anew() {
    let mut case = running();
    case.pod = Some(PodFacts { ended: true, disruption: Some("OutOfmemory".into()), ..pod(Some("n1")) });
    assert_eq!(case.effect(), Some(Action::Release { pod: "p1".into() }));
    assert_eq!(case.scheduled(), (False, Reason::ReservationLost));
    assert!(case.message().contains("OutOfmemory"));
}

#[test]
fn a_pod_that_could_go_elsewhere_is_removed() {
    let mut case = running();
    for other in [pod(None), pod(Some("n2")), PodFacts { pinned_to: Some("n2".into()), ..pod(None) }] {
        case.pod = Some(other);
        assert_eq!(case.effect(), Some(Action::Release { pod: "p1".into() }));
    }
}

#[test]
fn a_halted_workspace_gives_its_room_back_once_its_machine_has_stopped() {
    let mut case = running();
    case.run_policy(RunPolicy::Halted);
    assert_eq!(case.effect(), None, "the agent has not seen it");
    assert_eq!(case.scheduled(), (True, Reason::Scheduled));
    case.agent_says(Phase::Halting, Reason::Halting);
    assert_eq!(case.effect(), None, "the machine stops");
    case.agent_says(Phase::Halted, Reason::Halted);
    assert_eq!(case.effect(), Some(Action::Release { pod: "p1".into() }));
    assert_eq!(case.scheduled(), (False, Reason::Halted));
    case.pod = None;
    assert_eq!(case.decide(), None);

    case.run_policy(RunPolicy::Always);
    assert_eq!(case.effect(), Some(Action::Reserve { on: Some("n1".into()) }), "before the agent has seen it");
    assert_eq!(case.scheduled(), (False, Reason::Progressing), "asked for, and not lost");
    case.pod = Some(PodFacts { unschedulable: Some("full".into()), pinned_to: Some("n1".into()), ..pod(None) });
    case.effect();
    assert_eq!((case.scheduled(), case.message()), ((False, Reason::Unschedulable), "full"));
}

#[test]
fn a_workspace_that_is_over_keeps_no_room_until_it_is_on_its_way_up_again() {
    let over = [
        (RunPolicy::Once, Phase::Succeeded, Reason::Succeeded),
        (RunPolicy::Once, Phase::Failed, Reason::WorkloadFailed),
        (RunPolicy::OnFailure, Phase::Succeeded, Reason::Succeeded),
        (RunPolicy::Always, Phase::Halted, Reason::Idle),
        (RunPolicy::Always, Phase::Halted, Reason::Expired),
        (RunPolicy::Always, Phase::Succeeded, Reason::Expired),
        (RunPolicy::Always, Phase::Failed, Reason::Expired),
    ];
    for (policy, phase, reason) in over {
        let mut case = running();
        case.run_policy(policy);
        case.agent_says(phase, reason);
        assert_eq!(case.effect(), Some(Action::Release { pod: "p1".into() }), "{policy:?} {phase:?}");
        assert_eq!(case.scheduled(), (False, Reason::NotRunning));
        case.pod = None;
        case.edit();
        assert_eq!(case.effect(), None, "an edit that the agent has not seen changes nothing");
        // However the agent shows that nothing runs.
        case.agent_says(Phase::Halted, Reason::Halted);
        assert_eq!(case.effect(), None, "{policy:?} {phase:?}");
        case.agent_says(Phase::Pending, Reason::Waiting);
        assert_eq!(case.effect(), Some(Action::Reserve { on: Some("n1".into()) }), "{policy:?} {phase:?}");
    }
}

#[test]
fn a_workload_that_failed_and_is_tried_again_keeps_its_room() {
    for policy in [RunPolicy::Always, RunPolicy::OnFailure] {
        let mut case = running();
        case.run_policy(policy);
        case.agent_says(Phase::Failed, Reason::WorkloadFailed);
        assert_eq!(case.effect(), None);
        assert_eq!(case.scheduled(), (True, Reason::Scheduled));
    }
}

#[test]
fn a_machine_that_was_halted_for_want_of_room_gets_it_back() {
    let mut case = running();
    case.pod = None;
    case.told();
    case.agent_says(Phase::Halted, Reason::ReservationLost);
    assert_eq!(case.effect(), Some(Action::Reserve { on: Some("n1".into()) }));
    assert_eq!(case.scheduled(), (False, Reason::ReservationLost));
}

#[test]
fn a_workspace_that_is_deleted_keeps_its_room_until_it_is_gone() {
    let mut case = running();
    case.delete();
    for phase in [Phase::Terminating, Phase::Halting] {
        case.agent_says(phase, Reason::Terminating);
        assert_eq!(case.decide(), None);
    }
    case.pod = None;
    assert_eq!(case.decide(), None, "what the garbage collector took is not made again");
}
