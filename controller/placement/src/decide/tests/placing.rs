//! From a new workspace to one that runs.

use super::*;
use ConditionStatus::{False, True, Unknown};

#[test]
fn a_new_workspace_is_told_of_before_anything_is_done_for_it() {
    let mut case = case();
    let told = case.told();
    assert_eq!((told.phase, told.observed_generation), (Some(Phase::Pending), Some(1)));
    assert_eq!(case.scheduled(), (False, Reason::Progressing));
    assert_eq!(case.is(ConditionType::Ready), (False, Reason::Progressing));
    assert_eq!(case.is(ConditionType::Reconciling), (True, Reason::Progressing));
    assert!(told.conditions.iter().all(|c| c.observed_generation == Some(1)) && told.event.is_none());
    assert_eq!(case.decide(), Some(Action::Reserve { on: None }));
}

#[test]
fn nothing_more_is_written_while_the_scheduler_thinks() {
    let mut case = case();
    case.told();
    case.pod = Some(pod(None));
    assert_eq!(case.decide(), None);
}

#[test]
fn what_the_scheduler_says_is_told_once_and_as_it_changes() {
    let mut case = case();
    case.told();
    case.pod = Some(PodFacts { unschedulable: Some("no room".into()), ..pod(None) });
    let told = case.told();
    assert_eq!((case.scheduled(), case.message()), ((False, Reason::Unschedulable), "no room"));
    assert_eq!(case.is(ConditionType::Ready), (False, Reason::Unschedulable));
    assert_eq!(told.event.unwrap().reason, Reason::Unschedulable);
    assert_eq!(case.decide(), None);
    case.pod.as_mut().unwrap().unschedulable = Some("no CPU".into());
    assert_eq!(case.told().event, None, "other words are no other state");
    assert_eq!(case.message(), "no CPU");
}

#[test]
fn a_refused_reservation_is_told_with_the_servers_words_and_tried_again_later() {
    let mut case = case();
    case.told();
    (case.refusal, case.may_reserve) = (Some("exceeded quota".into()), false);
    case.told();
    assert_eq!((case.scheduled(), case.message()), ((False, Reason::Unschedulable), "exceeded quota"));
    assert_eq!(case.decide(), None);
    case.may_reserve = true;
    assert_eq!(case.decide(), Some(Action::Reserve { on: None }));
}

#[test]
fn the_node_that_the_scheduler_picked_becomes_the_workspaces() {
    let mut case = case();
    case.told();
    case.pod = Some(pod(Some("n1")));
    assert_eq!(case.decide(), Some(Action::Bind { node: "n1".into() }), "with no write before it");
    case.bind();
    let told = case.told();
    assert_eq!(case.scheduled(), (True, Reason::Scheduled));
    assert_eq!(told.event.unwrap().reason, Reason::Scheduled);
    assert_eq!((told.phase, told.observed_generation), (Some(Phase::Pending), Some(2)));
    assert_eq!(case.is(ConditionType::Ready), (False, Reason::Progressing), "until the agent speaks");
    assert_eq!(case.decide(), None);
}

#[test]
fn the_agent_takes_over_all_but_scheduled() {
    let mut case = case();
    case.told();
    case.pod = Some(pod(Some("n1")));
    case.bind();
    case.told();
    case.agent_says(Phase::Building, Reason::Progressing);
    let told = case.told();
    let types: Vec<_> = told.conditions.iter().map(|c| c.type_).collect();
    assert_eq!((types, told.phase, told.observed_generation), (vec![ConditionType::Scheduled], None, None));
    assert_eq!(case.seen.workspace.status.as_ref().unwrap().phase, Some(Phase::Building));
    assert_eq!(case.decide(), None);
}

#[test]
fn a_pod_on_a_lost_node_is_made_anew_elsewhere() {
    let mut case = case();
    case.told();
    case.pod = Some(pod(Some("n1")));
    for state in [NodeState::Silent, NodeState::LongSilent, NodeState::Gone] {
        case.pod_node = state;
        assert_eq!(case.decide(), Some(Action::Release { pod: "p1".into() }));
    }
    case.pod_node = NodeState::Unknown;
    assert_eq!(case.decide(), Some(Action::Bind { node: "n1".into() }), "nothing speaks against it");
}

#[test]
fn the_pod_of_an_earlier_workspace_of_the_name_is_waited_for() {
    let mut case = case();
    case.told();
    case.pod = Some(PodFacts { owner: Some("u0".into()), ..pod(Some("n1")) });
    case.told();
    assert_eq!(case.scheduled(), (False, Reason::Unschedulable));
    assert_eq!(case.decide(), None);
    case.pod = None;
    assert_eq!(case.effect(), Some(Action::Reserve { on: None }));
}

#[test]
fn a_pod_that_goes_or_has_ended_before_it_was_used_is_made_anew() {
    let mut case = case();
    case.told();
    case.pod = Some(PodFacts { deleting: true, ..pod(Some("n1")) });
    assert_eq!(case.effect(), None);
    case.pod = Some(PodFacts { ended: true, ..pod(Some("n1")) });
    assert_eq!(case.effect(), Some(Action::Release { pod: "p1".into() }));
    case.pod = Some(PodFacts { pinned_to: Some("n0".into()), ..pod(None) });
    assert_eq!(case.effect(), Some(Action::Release { pod: "p1".into() }));
}

#[test]
fn a_halted_workspace_is_as_it_should_be_without_a_node() {
    let mut case = case();
    case.run_policy(RunPolicy::Halted);
    let told = case.told();
    assert_eq!(told.phase, Some(Phase::Halted));
    assert_eq!(case.is(ConditionType::Ready), (True, Reason::Halted));
    assert_eq!(case.is(ConditionType::Reconciling), (False, Reason::Settled));
    assert_eq!(case.scheduled(), (False, Reason::Halted));
    assert_eq!(case.decide(), None, "no Pod is made");
    case.run_policy(RunPolicy::Always);
    assert_eq!(case.effect(), Some(Action::Reserve { on: None }));
    assert_eq!(case.is(ConditionType::Ready), (False, Reason::Progressing));
}

#[test]
fn a_workspace_that_is_halted_while_a_node_is_looked_for_gives_its_pod_back() {
    let mut case = case();
    case.told();
    case.pod = Some(pod(None));
    case.run_policy(RunPolicy::Halted);
    assert_eq!(case.effect(), Some(Action::Release { pod: "p1".into() }));
}

#[test]
fn a_node_that_a_user_sets_goes_round_the_scheduler() {
    let mut fresh = case();
    fresh.set_node(Some("n1"));
    assert_eq!(fresh.decide(), None);
    fresh.agent_says(Phase::Running, Reason::Running);
    assert_eq!(fresh.decide(), None);

    let mut late = case();
    late.told();
    late.pod = Some(pod(None));
    late.set_node(Some("n1"));
    let told = late.told();
    assert!(told.conditions.iter().all(|c| c.type_ != ConditionType::Scheduled), "{told:?}");
    assert_eq!(late.is(ConditionType::Ready).0, False, "what was told stands until the agent speaks");
    assert_eq!(late.decide(), Some(Action::Release { pod: "p1".into() }));
    late.pod = None;
    late.agent_says(Phase::Running, Reason::Running);
    late.effect();
    assert_eq!(late.seen.owners.ours, Fields::default());
}

#[test]
fn a_workspace_without_a_node_that_is_deleted_is_left_alone() {
    let mut case = case();
    case.told();
    case.pod = Some(pod(None));
    case.delete();
    assert_eq!(case.decide(), None);
    assert_ne!(case.is(ConditionType::Ready).0, Unknown);
}
