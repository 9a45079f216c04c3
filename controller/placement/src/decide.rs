//! What to do about one workspace, from what is known of it, of its reservation Pod and of its node. Pure.
//!
//! A status that does not say what is so is written first, so that nobody is told an old truth; then comes one effect. The next
//! look sees what it did.
//!
//! **Who needs room.** A workspace that is to run does, from before its node is known until its machine has stopped. One with
//! `runPolicy: Halted`, and one whose work has ended (`Once` that is over, idle, expired), needs none: its Pod is removed once no
//! machine runs, and `Scheduled` is False with `Halted` or `NotRunning`. Room is asked for again when `runPolicy` says that it is to
//! run, or when the agent says so by a phase on the way up (`Pending` is the first); the machine is started once `Scheduled` is True.
//!
//! **What a node is to a workspace.** With `nodeName` set by placement the reservation is kept there, and made again there when it
//! is lost; nowhere else, unless the node is lost and `onNodeLost` is `Reschedule`. With `nodeName` set by a user there is no
//! reservation, as a Pod with `nodeName` goes round the scheduler.

mod room;
mod tell;
#[cfg(test)]
mod tests;

use jiff::Timestamp;
use kube::runtime::events::EventType;
use microagent_crds::{Condition, OnNodeLost, Phase, Reason};

use self::room::needs_room;
use crate::facts::{PodFacts, Seen};

/// How the node of a workspace is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NodeState {
    /// It cannot be told yet: nothing was watched for long enough.
    #[default]
    Unknown,
    /// Its agent renews its Lease.
    Alive,
    /// Its agent has not renewed its Lease for longer than it holds.
    Silent,
    /// The same, for so long that a workspace which allows it is given another node.
    LongSilent,
    /// There is no such node.
    Gone,
}

impl NodeState {
    /// Whether nobody keeps the workspaces of this node.
    #[must_use]
    pub fn is_lost(self) -> bool {
        matches!(self, Self::Silent | Self::LongSilent | Self::Gone)
    }

    fn is_given_up(self) -> bool {
        matches!(self, Self::LongSilent | Self::Gone)
    }
}

/// What is known.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The workspace.
    pub seen: &'a Seen,
    /// The Pod of its reservation's name, when it is one of placement's.
    pub pod: Option<&'a PodFacts>,
    /// The node of the workspace.
    pub node: NodeState,
    /// The node that the Pod is on.
    pub pod_node: NodeState,
    /// Why the API server refused the reservation the last time.
    pub refusal: Option<&'a str>,
    /// Whether a reservation may be asked for now; not while the last attempt is too recent.
    pub may_reserve: bool,
    /// The present time.
    pub now: Timestamp,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Apply this status.
    Tell(Told),
    /// Make the reservation Pod, for this node alone when there is one.
    Reserve {
        /// The node that the workspace is on.
        on: Option<String>,
    },
    /// Delete the Pod of this UID, at once.
    Release {
        /// Its UID.
        pod: String,
    },
    /// Set `spec.nodeName`.
    Bind {
        /// The node.
        node: String,
    },
    /// Take `spec.nodeName` away: the node is lost, and the workspace may begin anew on another.
    Unbind {
        /// The node that is lost.
        node: String,
    },
    /// Take the finalizer away: a person gave up what a lost node has of it.
    Abandon {
        /// The node that is lost.
        node: String,
    },
}

impl Action {
    /// The name, for logs and metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Tell(_) => "tell",
            Self::Reserve { .. } => "reserve",
            Self::Release { .. } => "release",
            Self::Bind { .. } => "bind",
            Self::Unbind { .. } => "unbind",
            Self::Abandon { .. } => "abandon",
        }
    }
}

/// What placement applies of a status. All of it each time: what is left out is given up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Told {
    /// The phase, while there is no agent to tell it.
    pub phase: Option<Phase>,
    /// The generation that this is about, while there is no agent to tell it.
    pub observed_generation: Option<i64>,
    /// The conditions, each type once.
    pub conditions: Vec<Condition>,
    /// What has changed, for people.
    pub event: Option<Event>,
}

/// Something that has changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Whether people should look.
    pub type_: EventType,
    /// The reason of `Scheduled`.
    pub reason: Reason,
    /// Its message.
    pub message: String,
}

/// What to do now; nothing when everything is as it should be, or when someone else must act first.
#[must_use]
pub fn decide(input: &Input<'_>) -> Option<Action> {
    tell::tell(input).map(Action::Tell).or_else(|| effect(input))
}

fn effect(input: &Input<'_>) -> Option<Action> {
    let seen = input.seen;
    let own = input.pod.filter(|pod| is_own(seen, pod));
    let release = |pod: &PodFacts| Some(Action::Release { pod: pod.uid.clone() });
    if seen.is_deleting() {
        let node = seen.node().unwrap_or_default().to_owned();
        let is_given_up = seen.is_abandoned() && seen.has_host_state() && input.node.is_lost();
        return is_given_up.then_some(Action::Abandon { node });
    }
    let Some(node) = seen.node() else {
        return match input.pod {
            _ if !needs_room(input) => own.and_then(release),
            None => reserve(input, None),
            // Another's, or on its way out: the name is free when it is gone.
            Some(pod) if own.is_none() || pod.deleting => None,
            Some(pod) if pod.ended || pod.pinned_to.is_some() => release(pod),
            Some(pod) => match &pod.node {
                Some(_) if input.pod_node.is_lost() => release(pod),
                Some(node) => Some(Action::Bind { node: node.clone() }),
                None => None,
            },
        };
    };
    let may_move = seen.workspace.spec.placement.as_ref().is_some_and(|p| p.on_node_lost == OnNodeLost::Reschedule);
    if may_move && input.node.is_given_up() {
        // Deleted even when that is under way: nobody on the lost node will end it.
        return own.and_then(release).or_else(|| Some(Action::Unbind { node: node.to_owned() }));
    }
    if !seen.owners.placed_by_us || !needs_room(input) {
        return own.and_then(release);
    }
    match input.pod {
        _ if input.node.is_lost() => None,
        None => reserve(input, Some(node)),
        Some(pod) if own.is_none() || pod.deleting => None,
        Some(pod) if pod.ended || !keeps(pod, node) => release(pod),
        Some(_) => None,
    }
}

fn reserve(input: &Input<'_>, on: Option<&str>) -> Option<Action> {
    input.may_reserve.then(|| Action::Reserve { on: on.map(str::to_owned) })
}

/// Whether the Pod was made for this very workspace, and not for one of the same name before it.
fn is_own(seen: &Seen, pod: &PodFacts) -> bool {
    pod.owner.as_deref() == Some(seen.uid())
}

/// Whether the Pod keeps room on this node, or will when it gets a node.
fn keeps(pod: &PodFacts, node: &str) -> bool {
    pod.node.as_deref().or(pod.pinned_to.as_deref()) == Some(node)
}
