//! What holds of every decision, over all that can be seen at once.

use super::*;

/// Every combination of what a workspace, its Pod and its nodes can be.
fn every_case() -> Vec<Case> {
    let mut all = Vec::new();
    let pods: Vec<Option<PodFacts>> = {
        let mut pods = vec![None];
        for node in [None, Some("n1"), Some("n2")] {
            for (deleting, ended) in [(false, false), (true, false), (false, true)] {
                for owner in ["u1", "u0"] {
                    pods.push(Some(PodFacts { deleting, ended, owner: Some(owner.into()), ..pod(node) }));
                }
            }
        }
        pods.push(Some(PodFacts { pinned_to: Some("n1".into()), unschedulable: Some("full".into()), ..pod(None) }));
        pods
    };
    let states = [NodeState::Unknown, NodeState::Alive, NodeState::Silent, NodeState::LongSilent, NodeState::Gone];
    let mut fresh = case();
    fresh.set_node(Some("n1"));
    let mut waiting = case();
    waiting.told();
    for base in [case(), waiting, fresh, running()] {
        for pod in &pods {
            for node in states {
                for policy in [RunPolicy::Always, RunPolicy::Once, RunPolicy::Halted] {
                    for said in
                        [None, Some((Phase::Succeeded, Reason::Succeeded)), Some((Phase::Halted, Reason::Halted))]
                    {
                        for (deleting, abandoned, moves) in
                            [(false, false, false), (false, false, true), (true, false, false), (true, true, true)]
                        {
                            let mut case = base.clone();
                            (case.pod, case.node, case.pod_node) = (pod.clone(), node, node);
                            case.seen.workspace.spec.run_policy = policy;
                            if let Some((phase, reason)) = said {
                                case.agent_says(phase, reason);
                            }
                            if moves {
                                case.on_node_lost(OnNodeLost::Reschedule);
                            }
                            if deleting {
                                case.delete();
                            }
                            if abandoned {
                                case.abandon();
                            }
                            all.push(case);
                        }
                    }
                }
            }
        }
    }
    all
}

#[test]
fn what_was_told_is_not_told_again() {
    for mut case in every_case() {
        let before = format!("{case:?}");
        if let Some(Action::Tell(told)) = case.decide() {
            case.take_in(&told);
            let again = case.decide();
            assert!(!matches!(again, Some(Action::Tell(_))), "{before}\n{told:?}\n{again:?}");
        }
    }
}

#[test]
fn no_condition_is_older_than_the_generation_and_none_stands_twice() {
    for mut case in every_case() {
        if let Some(Action::Tell(told)) = case.decide() {
            let types: std::collections::BTreeSet<_> = told.conditions.iter().map(|c| c.type_).collect();
            assert_eq!(types.len(), told.conditions.len(), "{told:?}");
            assert!(told.conditions.iter().all(|c| c.observed_generation == Some(case.seen.generation())), "{told:?}");
            case.take_in(&told);
        }
        // Without a node there is no agent to say anything.
        if case.seen.node().is_none() && !case.seen.is_deleting() {
            let status = case.seen.workspace.status.as_ref().unwrap();
            assert_eq!(status.observed_generation, Some(case.seen.generation()));
            let ready = case.seen.condition(ConditionType::Ready).unwrap();
            assert_eq!(ready.is_true(), case.seen.workspace.spec.run_policy == RunPolicy::Halted);
            assert_eq!(status.is_true(ConditionType::Reconciling), !ready.is_true());
        }
    }
}

#[test]
fn a_pod_is_deleted_only_when_it_is_ones_own_and_a_name_is_used_only_when_it_is_free() {
    for mut case in every_case() {
        match case.effect() {
            Some(Action::Release { pod }) => {
                let there = case.pod.as_ref().unwrap();
                assert_eq!((there.owner.as_deref(), &there.uid), (Some("u1"), &pod));
            }
            Some(Action::Reserve { on }) => {
                assert_eq!((case.pod.as_ref(), on.as_deref()), (None, case.seen.node()));
                assert!(!case.seen.is_deleting());
                // A machine that runs still needs the room that it has.
                let phase = case.seen.workspace.status.as_ref().unwrap().phase;
                assert!(case.seen.workspace.spec.run_policy != RunPolicy::Halted || phase == Some(Phase::Running));
            }
            _ => {}
        }
    }
}

#[test]
fn a_node_is_set_only_where_there_is_none_and_taken_only_when_it_is_lost_and_may_be() {
    for mut case in every_case() {
        match case.effect() {
            Some(Action::Bind { node }) => {
                assert_eq!(case.seen.node(), None);
                assert_eq!(case.pod.as_ref().unwrap().node.as_ref(), Some(&node));
                assert!(!case.pod_node.is_lost());
            }
            Some(Action::Unbind { .. }) => {
                let placement = case.seen.workspace.spec.placement.as_ref().unwrap();
                assert_eq!(placement.on_node_lost, OnNodeLost::Reschedule);
                assert!(matches!(case.node, NodeState::LongSilent | NodeState::Gone));
            }
            Some(Action::Abandon { .. }) => {
                assert!(case.seen.is_deleting() && case.seen.is_abandoned() && case.node.is_lost());
            }
            _ => {}
        }
    }
}

#[test]
fn room_is_said_to_be_kept_only_when_it_is() {
    for mut case in every_case() {
        if let Some(Action::Tell(told)) = case.decide() {
            let keeps = told.conditions.iter().any(|c| c.type_ == ConditionType::Scheduled && c.is_true());
            if keeps && !case.seen.is_deleting() {
                let pod = case.pod.as_ref().unwrap();
                assert!(!pod.deleting && !pod.ended && pod.node.as_deref() == case.seen.node(), "{case:?}");
            }
            case.take_in(&told);
        }
    }
}
