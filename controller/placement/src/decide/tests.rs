//! A workspace in every stage of its life, and what is done about it.

mod kept;
mod law;
mod lost;
mod placing;

use std::collections::BTreeSet;

use jiff::Timestamp;
use microagent_crds::{
    Condition, ConditionStatus, ConditionType, Phase, Placement, Reason, RunPolicy, Time, Workspace, WorkspaceSpec,
    kubernetes::{ABANDON_ANNOTATION, HOST_STATE_FINALIZER},
};

use super::{Action, Input, NodeState, OnNodeLost, Told, decide};
use crate::facts::{Fields, Owners, PodFacts, Seen};

/// A workspace, its Pod, its node, and an agent that can speak: everything that a decision sees.
#[derive(Clone, Debug)]
struct Case {
    seen: Seen,
    pod: Option<PodFacts>,
    node: NodeState,
    pod_node: NodeState,
    refusal: Option<String>,
    may_reserve: bool,
}

fn case() -> Case {
    let mut workspace = Workspace::new("w", WorkspaceSpec::new("a"));
    workspace.metadata.uid = Some("u1".into());
    workspace.metadata.namespace = Some("ns".into());
    workspace.metadata.generation = Some(1);
    Case {
        seen: Seen { workspace, owners: Owners::default() },
        pod: None,
        node: NodeState::Alive,
        pod_node: NodeState::Alive,
        refusal: None,
        may_reserve: true,
    }
}

fn pod(node: Option<&str>) -> PodFacts {
    PodFacts {
        name: "w-microvm".into(),
        uid: "p1".into(),
        version: "1".into(),
        owner: Some("u1".into()),
        node: node.map(str::to_owned),
        ..PodFacts::default()
    }
}

impl Case {
    fn decide(&self) -> Option<Action> {
        decide(&Input {
            seen: &self.seen,
            pod: self.pod.as_ref(),
            node: self.node,
            pod_node: self.pod_node,
            refusal: self.refusal.as_deref(),
            may_reserve: self.may_reserve,
            now: Timestamp::from_second(1_000_000_000).unwrap(),
        })
    }

    /// What is told now, taken in as the server would.
    fn told(&mut self) -> Told {
        match self.decide() {
            Some(Action::Tell(told)) => {
                self.take_in(&told);
                told
            }
            other => panic!("nothing is told: {other:?}"),
        }
    }

    /// The effect, after all is told that must be.
    fn effect(&mut self) -> Option<Action> {
        for _ in 0..3 {
            match self.decide() {
                Some(Action::Tell(told)) => self.take_in(&told),
                other => return other,
            }
        }
        panic!("it is told again and again: {:?}", self.decide());
    }

    /// Does an apply of placement, with force, as the server does it.
    fn take_in(&mut self, told: &Told) {
        let status = self.seen.workspace.status.get_or_insert_default();
        let owners = &mut self.seen.owners;
        let types = told.conditions.iter().map(|c| c.type_.as_str().to_owned()).collect();
        let agents = owners.agents.clone().unwrap_or_default();
        status.conditions.retain(|c| {
            let name = c.type_.as_str().to_owned();
            let given_up = owners.ours.has(&name) && !<BTreeSet<String>>::contains(&types, &name);
            assert!(!(given_up && agents.parts.contains(&name)), "the server refuses half of {name}");
            !given_up || agents.conditions.contains(&name)
        });
        for condition in &told.conditions {
            match status.conditions.iter_mut().find(|c| c.type_ == condition.type_) {
                Some(known) if known.same_as(condition) => {}
                Some(known) => {
                    *known = condition.clone();
                    // What was another's is taken from it, but for that it is there.
                    if let Some(agents) = &mut owners.agents
                        && let Some(name) = agents.conditions.take(condition.type_.as_str())
                    {
                        agents.parts.insert(name);
                    }
                }
                None => status.conditions.push(condition.clone()),
            }
        }
        if owners.ours.phase && told.phase.is_none() && !agents.phase {
            status.phase = None;
        }
        status.phase = told.phase.or(status.phase);
        if owners.ours.observed_generation && told.observed_generation.is_none() && !agents.observed_generation {
            status.observed_generation = None;
        }
        status.observed_generation = told.observed_generation.or(status.observed_generation);
        owners.ours = Fields {
            conditions: types,
            parts: BTreeSet::new(),
            phase: told.phase.is_some(),
            observed_generation: told.observed_generation.is_some(),
        };
    }

    /// The agent writes a whole status, with force.
    fn agent_says(&mut self, phase: Phase, ready: Reason) -> &mut Self {
        let generation = self.seen.generation();
        let status = self.seen.workspace.status.get_or_insert_default();
        let owners = &mut self.seen.owners;
        // What another said differently is taken from it, and what it said too is both's.
        owners.ours.phase &= status.phase == Some(phase);
        owners.ours.observed_generation &= status.observed_generation == Some(generation);
        status.phase = Some(phase);
        status.observed_generation = Some(generation);
        let agents = owners.agents.get_or_insert_default();
        (agents.phase, agents.observed_generation) = (true, true);
        for type_ in [ConditionType::Running, ConditionType::Reconciling, ConditionType::Ready] {
            let running = phase == Phase::Running;
            let condition = Condition {
                type_,
                status: running.into(),
                reason: ready,
                message: "an agent says so".into(),
                observed_generation: Some(generation),
                last_transition_time: Time(Timestamp::UNIX_EPOCH),
            };
            status.conditions.retain(|c| c.type_ != type_);
            status.conditions.push(condition);
            agents.parts.remove(type_.as_str());
            agents.conditions.insert(type_.as_str().to_owned());
            if let Some(name) = owners.ours.conditions.take(type_.as_str()) {
                owners.ours.parts.insert(name);
            }
        }
        self
    }

    /// Placement binds it, as it wants to.
    fn bind(&mut self) {
        match self.effect() {
            Some(Action::Bind { node }) => {
                self.set_node(Some(&node));
                self.seen.owners.placed_by_us = true;
            }
            other => panic!("it is not bound: {other:?}"),
        }
    }

    fn set_node(&mut self, node: Option<&str>) {
        self.seen.workspace.spec.node_name = node.map(str::to_owned);
        self.edit();
    }

    /// The spec is another one.
    fn edit(&mut self) {
        let generation = self.seen.generation() + 1;
        self.seen.workspace.metadata.generation = Some(generation);
    }

    fn run_policy(&mut self, policy: RunPolicy) {
        self.seen.workspace.spec.run_policy = policy;
        self.edit();
    }

    fn on_node_lost(&mut self, what: OnNodeLost) {
        self.seen.workspace.spec.placement = Some(Placement { on_node_lost: what, ..Placement::default() });
    }

    fn delete(&mut self) {
        self.seen.workspace.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        self.seen.workspace.metadata.finalizers = Some(vec![HOST_STATE_FINALIZER.into()]);
    }

    fn abandon(&mut self) {
        let annotations = self.seen.workspace.metadata.annotations.get_or_insert_default();
        annotations.insert(ABANDON_ANNOTATION.into(), "true".into());
    }

    fn is(&self, type_: ConditionType) -> (ConditionStatus, Reason) {
        self.seen.condition(type_).map(|c| (c.status, c.reason)).unwrap_or_else(|| panic!("no {type_}"))
    }

    fn scheduled(&self) -> (ConditionStatus, Reason) {
        self.is(ConditionType::Scheduled)
    }

    fn message(&self) -> &str {
        &self.seen.condition(ConditionType::Scheduled).unwrap().message
    }
}

/// One that runs on `n1`, as placement has put it there.
fn running() -> Case {
    let mut case = case();
    case.told();
    case.pod = Some(pod(Some("n1")));
    case.bind();
    case.told();
    case.agent_says(Phase::Running, Reason::Running);
    case.told();
    assert_eq!(case.decide(), None);
    case
}
