//! What placement says in a status, and whether that must be written.

use std::collections::BTreeSet;

use jiff::Timestamp;
use kube::runtime::events::EventType;
use microagent_crds::{
    Condition, ConditionStatus, ConditionType, Phase, Reason, Time,
    kubernetes::{ABANDON_ANNOTATION, reservation_pod},
};

use super::{Event, Input, Told, is_own, keeps, room::no_room};
use crate::{
    facts::{PodFacts, Seen},
    reservation::size,
};

/// Stands between why room was lost and why it is not had again.
const NO_ROOM: &str = "; there is no room for it yet: ";
/// What is said while a new node is looked for in the place of a lost one.
const ANEW: &str = "its node was lost; another one is looked for, where it begins with an empty disk";

/// Stands before the size that room is kept for, where the spec asks for another by now.
const OLDER: &str = ", for the size that was asked for before: ";
const RESERVE_ANEW: &str =
    "Set `runPolicy: Halted`, and back when it is halted, so that room for the new size is asked for";

/// Status, reason and message of a condition.
type Said = (ConditionStatus, Reason, String);

/// What to apply, when the status does not say it already.
pub(super) fn tell(input: &Input<'_>) -> Option<Told> {
    let seen = input.seen;
    let scheduled = scheduled(input);
    let mut told = Told::default();
    around(input, scheduled.as_ref(), &mut told);
    if let Some(said) = scheduled {
        told.event = news(seen, &said);
        told.conditions.insert(0, condition(seen, ConditionType::Scheduled, said, input.now));
    }
    // What an agent holds a part of cannot be let go of before it holds all of it.
    for known in seen.workspace.status.iter().flat_map(|status| &status.conditions) {
        let name = known.type_.as_str();
        let is_half = seen.owners.agents.as_ref().is_some_and(|agents| agents.parts.contains(name));
        if is_half && seen.owners.ours.has(name) && told.conditions.iter().all(|c| c.type_ != known.type_) {
            let said = (known.status, known.reason, known.message.clone());
            told.conditions.push(condition(seen, known.type_, said, input.now));
        }
    }
    (!is_told(seen, &told)).then_some(told)
}

/// What to say of `Scheduled`; nothing about a workspace that a user has put on a node.
fn scheduled(input: &Input<'_>) -> Option<Said> {
    let seen = input.seen;
    let before = seen.condition(ConditionType::Scheduled);
    let kept = || before.map(|c| (c.status, c.reason, c.message.clone()));
    let Some(node) = seen.node() else {
        return if seen.is_deleting() { kept() } else { Some(unplaced(input)) };
    };
    if input.node.is_lost() {
        return Some((ConditionStatus::False, Reason::NodeLost, lost(input, node)));
    }
    let was_lost = before.is_some_and(|c| c.reason == Reason::NodeLost);
    if seen.is_deleting() || (input.node == super::NodeState::Unknown && was_lost) {
        return kept();
    }
    if !seen.owners.placed_by_us {
        return None;
    }
    if let Some(reason) = no_room(input) {
        return Some((ConditionStatus::False, reason, idle(reason)));
    }
    Some(placed(input, node))
}

fn unplaced(input: &Input<'_>) -> Said {
    let seen = input.seen;
    let before = seen.condition(ConditionType::Scheduled);
    if let Some(reason) = no_room(input) {
        return (ConditionStatus::False, reason, idle(reason));
    }
    let anew = before.is_some_and(|c| c.reason == Reason::NodeLost || c.message == ANEW);
    let looking =
        || (ConditionStatus::False, Reason::Progressing, if anew { ANEW } else { "a node is looked for" }.to_owned());
    match input.pod {
        None => refused(input).unwrap_or_else(looking),
        Some(pod) if !is_own(seen, pod) => (ConditionStatus::False, Reason::Unschedulable, others(pod)),
        Some(pod) if pod.deleting || pod.ended => looking(),
        Some(PodFacts { node: Some(_), .. }) => {
            // It is bound in a moment; nothing is worth writing before.
            before.map_or_else(looking, |c| (c.status, c.reason, c.message.clone()))
        }
        Some(PodFacts { unschedulable: Some(why), .. }) => (ConditionStatus::False, Reason::Unschedulable, why.clone()),
        Some(_) => looking(),
    }
}

fn placed(input: &Input<'_>, node: &str) -> Said {
    let seen = input.seen;
    let pod_name = reservation_pod(seen.workspace.metadata.name.as_deref().unwrap_or_default());
    let own = input.pod.filter(|pod| is_own(seen, pod));
    if let Some(pod) = own.filter(|pod| !pod.deleting && !pod.ended && pod.node.as_deref() == Some(node)) {
        let now = size(&seen.workspace);
        let older = match pod.size.as_ref().filter(|reserved| **reserved != now) {
            Some(reserved) => format!("{OLDER}{reserved}, where {now} is asked for. {RESERVE_ANEW}"),
            None => String::new(),
        };
        return (ConditionStatus::True, Reason::Scheduled, format!("Pod {pod_name} keeps room on node {node}{older}"));
    }
    let before = seen.condition(ConditionType::Scheduled);
    let no_room = own.filter(|pod| keeps(pod, node)).and_then(|pod| pod.unschedulable.clone());
    let no_room = no_room.or_else(|| refused(input).map(|(.., why)| why));
    let no_room = no_room.or_else(|| input.pod.filter(|pod| !is_own(seen, pod)).map(others));
    let had = before.filter(|c| c.is_true() || matches!(c.reason, Reason::ReservationLost | Reason::NodeLost));
    let Some(had) = had else {
        return match no_room {
            Some(why) => (ConditionStatus::False, Reason::Unschedulable, why),
            None => (ConditionStatus::False, Reason::Progressing, format!("room on node {node} is asked for")),
        };
    };
    let cause = match (had.reason, own.and_then(|pod| pod.disruption.as_ref())) {
        (_, Some(why)) => format!("Pod {pod_name} is taken from node {node}: {why}"),
        (Reason::ReservationLost, None) => had.message.split(NO_ROOM).next().unwrap_or_default().to_owned(),
        (_, None) => format!("Pod {pod_name} on node {node} was deleted"),
    };
    let message = match no_room {
        Some(why) => format!("{cause}{NO_ROOM}{why}"),
        None => cause,
    };
    (ConditionStatus::False, Reason::ReservationLost, message)
}

fn refused(input: &Input<'_>) -> Option<Said> {
    input.refusal.map(|why| (ConditionStatus::False, Reason::Unschedulable, why.to_owned()))
}

fn others(pod: &PodFacts) -> String {
    format!(
        "the reservation needs the name of Pod {}, which belongs to another workspace; it waits until that is gone",
        pod.name
    )
}

fn idle(reason: Reason) -> String {
    match reason {
        Reason::Halted => "it is not to run, so no room is kept for it".to_owned(),
        _ => "its work is over, so no room is kept for it".to_owned(),
    }
}

fn lost(input: &Input<'_>, node: &str) -> String {
    let what = match input.node {
        super::NodeState::Gone => format!("node {node} is not in the cluster"),
        _ => format!("the agent of node {node} does not answer"),
    };
    let seen = input.seen;
    let next = match () {
        () if seen.is_deleting() && seen.has_host_state() => {
            format!(
                "; bring it back, or give up what it has of the workspace with the annotation {ABANDON_ANNOTATION}: \"true\""
            )
        }
        () if seen.is_deleting() => String::new(),
        () => "; nothing is run elsewhere unless `placement.onNodeLost` is `Reschedule`".to_owned(),
    };
    format!("{what}{next}")
}

/// What is said beside `Scheduled`, as long as no agent says it.
fn around(input: &Input<'_>, scheduled: Option<&Said>, told: &mut Told) {
    let seen = input.seen;
    let mut say = |type_: ConditionType, said: Said| told.conditions.push(condition(seen, type_, said, input.now));
    let ready = seen.condition(ConditionType::Ready);
    let never = seen.owners.agents.is_none();
    let ours = seen.owners.ours.has(ConditionType::Ready.as_str());
    let Some((_, reason, message)) = scheduled.cloned() else {
        // Put on a node by a user before one was found: what was said stands until the agent speaks.
        if ours && !seen.is_taken_over() {
            keep(seen, told, input.now);
        }
        return;
    };
    if seen.node().is_none() {
        if seen.is_deleting() {
            return keep(seen, told, input.now);
        }
        let halted = reason == Reason::Halted;
        if !never {
            say(ConditionType::Running, (ConditionStatus::False, Reason::NotRunning, "no machine runs".to_owned()));
        }
        if halted {
            say(ConditionType::Reconciling, (ConditionStatus::False, Reason::Settled, String::new()));
            say(
                ConditionType::Ready,
                (ConditionStatus::True, Reason::Halted, "it is not to run, and does not".to_owned()),
            );
        } else {
            say(ConditionType::Reconciling, (ConditionStatus::True, reason, message.clone()));
            say(ConditionType::Ready, (ConditionStatus::False, reason, message));
        }
        told.phase = Some(if halted { Phase::Halted } else { Phase::Pending });
        told.observed_generation = Some(seen.generation());
        return;
    }
    let told_lost = seen.condition(ConditionType::Scheduled).is_some_and(|c| c.reason == Reason::NodeLost);
    if reason == Reason::NodeLost {
        // An agent that speaks although it does not renew its Lease is not spoken against a second time.
        if !(told_lost && seen.is_taken_over()) {
            say(ConditionType::Ready, (ConditionStatus::Unknown, Reason::NodeLost, message));
            if never {
                told.phase = Some(Phase::Pending);
                told.observed_generation = Some(seen.generation());
            }
        }
        return;
    }
    if seen.is_taken_over() {
        return;
    }
    if ready.is_some_and(|c| c.reason == Reason::NodeLost) {
        return keep(seen, told, input.now);
    }
    let waiting = "the agent of its node has not begun yet".to_owned();
    let (status, reason, message) = match reason {
        Reason::Scheduled => (ConditionStatus::False, Reason::Progressing, waiting),
        Reason::Halted => (ConditionStatus::True, Reason::Halted, "it is not to run, and does not".to_owned()),
        _ => (ConditionStatus::False, reason, message),
    };
    let settled = status == ConditionStatus::True;
    let reconciling = match settled {
        true => (ConditionStatus::False, Reason::Settled, String::new()),
        false => (ConditionStatus::True, reason, message.clone()),
    };
    say(ConditionType::Reconciling, reconciling);
    say(ConditionType::Ready, (status, reason, message));
    told.phase = Some(if settled { Phase::Halted } else { Phase::Pending });
    told.observed_generation = Some(seen.generation());
}

/// Says again what was said before, of all that placement has said but `Scheduled`.
fn keep(seen: &Seen, told: &mut Told, now: Timestamp) {
    let status = seen.workspace.status.as_ref();
    for known in status.into_iter().flat_map(|status| &status.conditions) {
        let ours = seen.owners.ours.has(known.type_.as_str());
        if ours && known.type_ != ConditionType::Scheduled {
            let said = (known.status, known.reason, known.message.clone());
            told.conditions.push(condition(seen, known.type_, said, now));
        }
    }
    if seen.owners.ours.phase {
        told.phase = status.and_then(|status| status.phase);
    }
    if seen.owners.ours.observed_generation {
        told.observed_generation = Some(seen.generation());
    }
}

/// One condition; its time moves only when its status does.
fn condition(seen: &Seen, type_: ConditionType, (status, reason, message): Said, now: Timestamp) -> Condition {
    // Kubernetes keeps times of whole seconds.
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let before = seen.condition(type_).filter(|before| before.status == status);
    let last_transition_time = before.map_or(Time(now), |before| before.last_transition_time.clone());
    Condition { type_, status, reason, message, observed_generation: Some(seen.generation()), last_transition_time }
}

/// Whether the status says this already, and placement holds no more of it than this.
fn is_told(seen: &Seen, told: &Told) -> bool {
    let status = seen.workspace.status.as_ref();
    let ours = &seen.owners.ours;
    let types: BTreeSet<String> = told.conditions.iter().map(|c| c.type_.as_str().to_owned()).collect();
    types == ours.conditions
        && ours.parts.is_empty()
        && told.conditions.iter().all(|c| seen.condition(c.type_).is_some_and(|known| known.same_as(c)))
        && told.phase.is_some() == ours.phase
        && told.observed_generation.is_some() == ours.observed_generation
        && told.phase.is_none_or(|phase| status.and_then(|s| s.phase) == Some(phase))
        && told.observed_generation.is_none_or(|n| status.and_then(|s| s.observed_generation) == Some(n))
}

/// What has become something else, where it is worth telling.
fn news(seen: &Seen, (status, reason, message): &Said) -> Option<Event> {
    let before = seen.condition(ConditionType::Scheduled);
    let is_older = message.contains(OLDER);
    if before.is_some_and(|before| {
        let is_same = before.status == *status && before.reason == *reason;
        is_same && (!is_older || before.message.contains(OLDER))
    }) {
        return None;
    }
    let type_ = match reason {
        Reason::Scheduled if is_older => EventType::Warning,
        Reason::Scheduled => EventType::Normal,
        Reason::Unschedulable | Reason::ReservationLost | Reason::NodeLost => EventType::Warning,
        _ => return None,
    };
    Some(Event { type_, reason: *reason, message: message.clone() })
}
