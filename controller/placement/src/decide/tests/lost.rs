//! The node of a workspace is lost.

use super::*;
use ConditionStatus::{False, True, Unknown};

const LOST: [NodeState; 3] = [NodeState::Silent, NodeState::LongSilent, NodeState::Gone];

#[test]
fn a_lost_node_is_told_and_nothing_is_run_elsewhere() {
    for state in LOST {
        for pod_is_left in [true, false] {
            let mut case = running();
            case.node = state;
            if !pod_is_left {
                case.pod = None;
            }
            let told = case.told();
            assert_eq!(case.scheduled(), (False, Reason::NodeLost));
            assert_eq!(case.is(ConditionType::Ready), (Unknown, Reason::NodeLost));
            assert_eq!(told.event.unwrap().reason, Reason::NodeLost);
            assert_eq!(case.decide(), None, "{state:?}");
        }
    }
}

#[test]
fn a_node_that_comes_back_is_believed_when_its_agent_is_heard() {
    let mut case = running();
    case.node = NodeState::Silent;
    case.told();
    case.node = NodeState::Unknown;
    assert_eq!(case.decide(), None, "a placement that has just begun knows no better");
    case.node = NodeState::Alive;
    case.told();
    assert_eq!(case.scheduled(), (True, Reason::Scheduled));
    assert_eq!(case.is(ConditionType::Ready), (Unknown, Reason::NodeLost), "that is for the agent to say");
    case.agent_says(Phase::Running, Reason::Running);
    let told = case.told();
    assert_eq!(told.conditions.len(), 1);
    assert_eq!(case.is(ConditionType::Ready).0, True);
    assert_eq!(case.decide(), None);
}

#[test]
fn an_agent_that_speaks_without_renewing_its_lease_is_not_spoken_against_for_ever() {
    let mut case = running();
    case.node = NodeState::Silent;
    case.told();
    case.agent_says(Phase::Running, Reason::Running);
    case.effect();
    assert_eq!(case.is(ConditionType::Ready).0, True);
    assert_eq!(case.scheduled(), (False, Reason::NodeLost));
    assert_eq!(case.decide(), None);
}

#[test]
fn a_reservation_that_went_with_the_node_is_made_again_on_it() {
    let mut case = running();
    (case.node, case.pod) = (NodeState::Gone, None);
    case.told();
    case.node = NodeState::Alive;
    assert_eq!(case.effect(), Some(Action::Reserve { on: Some("n1".into()) }));
    assert_eq!(case.scheduled(), (False, Reason::ReservationLost));
}

#[test]
fn a_workspace_that_allows_it_is_moved_once_its_node_is_given_up() {
    let mut case = running();
    case.on_node_lost(OnNodeLost::Reschedule);
    case.node = NodeState::Silent;
    assert_eq!(case.effect(), None, "not yet");
    for state in [NodeState::LongSilent, NodeState::Gone] {
        let mut case = case.clone();
        case.node = state;
        assert_eq!(case.effect(), Some(Action::Release { pod: "p1".into() }));
        case.pod = Some(PodFacts { deleting: true, ..pod(Some("n1")) });
        assert_eq!(case.effect(), Some(Action::Release { pod: "p1".into() }), "nobody on the node ends it");
        case.pod = None;
        assert_eq!(case.effect(), Some(Action::Unbind { node: "n1".into() }));
        case.set_node(None);
        case.seen.owners.placed_by_us = false;
        case.node = NodeState::Unknown;
        let told = case.told();
        assert_eq!(case.scheduled(), (False, Reason::Progressing));
        assert!(case.message().contains("empty disk"));
        assert_eq!(told.phase, Some(Phase::Pending));
        assert_eq!(
            case.is(ConditionType::Running),
            (False, Reason::NotRunning),
            "what the lost agent said is corrected"
        );
        assert_eq!(case.is(ConditionType::Ready).0, False);
        assert_eq!(case.decide(), Some(Action::Reserve { on: None }));
        case.pod = Some(pod(Some("n2")));
        case.bind();
        case.node = NodeState::Alive;
        case.told();
        assert_eq!(case.scheduled(), (True, Reason::Scheduled));
        case.agent_says(Phase::Running, Reason::Running);
        case.told();
        assert_eq!(case.decide(), None);
    }
}

#[test]
fn the_node_that_a_user_chose_is_told_of_too_when_it_is_lost() {
    let mut case = case();
    case.set_node(Some("n9"));
    case.node = NodeState::Gone;
    let told = case.told();
    assert_eq!(told.phase, Some(Phase::Pending), "no agent ever spoke");
    assert_eq!(case.scheduled(), (False, Reason::NodeLost));
    assert!(case.message().contains("n9 is not in the cluster"));
    assert_eq!(case.decide(), None);
    case.node = NodeState::Alive;
    case.agent_says(Phase::Running, Reason::Running);
    case.told();
    assert_eq!(case.seen.condition(ConditionType::Scheduled), None, "it never was scheduled");
    assert_eq!(case.decide(), None);
}

#[test]
fn what_a_lost_node_has_is_given_up_only_by_the_annotation_and_a_deletion() {
    let mut case = running();
    case.node = NodeState::Silent;
    case.abandon();
    assert_eq!(case.effect(), None, "it is not being deleted");
    case.delete();
    assert_eq!(case.effect(), Some(Action::Abandon { node: "n1".into() }));
    assert!(case.message().contains(ABANDON_ANNOTATION));
    case.seen.workspace.metadata.finalizers = None;
    assert_eq!(case.effect(), None);

    let mut plain = running();
    plain.node = NodeState::Gone;
    plain.delete();
    assert_eq!(plain.effect(), None, "without the annotation");
    for state in [NodeState::Alive, NodeState::Unknown] {
        let mut alive = running();
        alive.node = state;
        alive.delete();
        alive.abandon();
        assert_eq!(alive.effect(), None, "its agent does it");
    }
}

#[test]
fn a_workspace_that_is_deleted_is_not_moved() {
    let mut case = running();
    case.on_node_lost(OnNodeLost::Reschedule);
    case.delete();
    case.node = NodeState::Gone;
    assert_eq!(case.effect(), None);
}
