//! Which nodes are alive, judged by the Leases that their agents renew.
//!
//! The times that stand in a Lease are those of another machine's clock and are not looked at: what counts is that the Lease
//! changes, and how long ago it last did on this machine's own clock.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use k8s_openapi::api::coordination::v1::Lease;
use microagent_crds::kubernetes::{AGENT_LEASE_PREFIX, AGENT_LEASE_SECONDS};

use crate::decide::NodeState;

/// What was seen of nodes and of the Leases of their agents.
#[derive(Debug)]
pub struct Agents {
    nodes: BTreeSet<String>,
    leases: HashMap<String, Beat>,
    /// Since when Leases are watched: silence before it proves nothing.
    since: Instant,
    /// How long after the first sign of silence a workspace that allows it is moved.
    move_after: Duration,
}

#[derive(Debug)]
struct Beat {
    version: String,
    changed: Instant,
    /// Whether a change was seen, and not only that it is there.
    beats: bool,
    duration: Duration,
}

impl Agents {
    /// Watches from now on. Workspaces may be moved once a node has been silent for `move_after`, and never before its Lease is
    /// overdue.
    #[must_use]
    pub fn new(now: Instant, move_after: Duration) -> Self {
        Self { nodes: BTreeSet::new(), leases: HashMap::new(), since: now, move_after }
    }

    /// These are all nodes.
    pub fn set_nodes(&mut self, nodes: BTreeSet<String>) {
        self.nodes = nodes;
    }

    /// A node is there.
    pub fn add_node(&mut self, node: String) {
        self.nodes.insert(node);
    }

    /// A node is gone.
    pub fn remove_node(&mut self, node: &str) {
        self.nodes.remove(node);
    }

    /// A Lease is there. Leases that are not of agents are passed over.
    pub fn lease(&mut self, lease: &Lease, now: Instant) {
        let Some(node) = lease.metadata.name.as_deref().and_then(|name| name.strip_prefix(AGENT_LEASE_PREFIX)) else {
            return;
        };
        let spec = lease.spec.as_ref();
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        let seconds = spec.and_then(|spec| spec.lease_duration_seconds).and_then(|n| u64::try_from(n).ok());
        let duration = Duration::from_secs(seconds.unwrap_or_else(|| AGENT_LEASE_SECONDS.into()));
        // A Lease that was given back tells that the agent has ended, not that it lives.
        let is_held = spec.and_then(|spec| spec.holder_identity.as_deref()).is_some_and(|holder| !holder.is_empty());
        match self.leases.get_mut(node) {
            Some(beat) if beat.version == version => {}
            Some(beat) if is_held => *beat = Beat { version, changed: now, beats: true, duration },
            Some(beat) => beat.version = version,
            None => {
                self.leases.insert(node.to_owned(), Beat { version, changed: now, beats: false, duration });
            }
        }
    }

    /// How a node is now.
    #[must_use]
    pub fn state(&self, node: &str, now: Instant) -> NodeState {
        if !self.nodes.contains(node) {
            return NodeState::Gone;
        }
        let usual = Duration::from_secs(AGENT_LEASE_SECONDS.into());
        let (changed, beats, duration) = match self.leases.get(node) {
            Some(beat) => (beat.changed, beat.beats, beat.duration),
            None => (self.since, false, usual),
        };
        let silent = now.saturating_duration_since(changed);
        match () {
            () if silent >= duration.max(self.move_after) => NodeState::LongSilent,
            () if silent >= duration => NodeState::Silent,
            () if beats => NodeState::Alive,
            () => NodeState::Unknown,
        }
    }

    /// The nodes that a reservation should not be placed on: they are there, and their agents are silent.
    #[must_use]
    pub fn silent(&self, now: Instant) -> Vec<String> {
        let agents = self.leases.keys().filter(|node| self.nodes.contains(*node));
        let mut silent: Vec<_> = agents.filter(|node| self.state(node, now).is_lost()).cloned().collect();
        silent.sort();
        silent
    }

    /// The state of each node that has an agent, or had one.
    #[must_use]
    pub fn states(&self, now: Instant) -> HashMap<String, NodeState> {
        let all = self.nodes.iter().chain(self.leases.keys());
        all.map(|node| (node.clone(), self.state(node, now))).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn lease(node: &str, version: u32, holder: &str) -> Lease {
        // A clock that is years ahead must change nothing.
        serde_json::from_value(json!({
            "metadata": { "name": format!("agent-{node}"), "resourceVersion": version.to_string() },
            "spec": { "holderIdentity": holder, "leaseDurationSeconds": 60, "renewTime": "2099-01-01T00:00:00.000000Z" },
        }))
        .unwrap()
    }

    fn agents(start: Instant) -> Agents {
        let mut agents = Agents::new(start, 300 * S);
        agents.set_nodes(["n1".to_owned(), "n2".to_owned()].into());
        agents
    }

    #[test]
    fn a_lease_that_changes_is_life_and_one_that_is_only_there_proves_nothing() {
        let start = Instant::now();
        let mut agents = agents(start);
        agents.lease(&lease("n1", 1, "a"), start);
        assert_eq!(agents.state("n1", start + 59 * S), NodeState::Unknown);
        agents.lease(&lease("n1", 1, "a"), start + 10 * S);
        assert_eq!(agents.state("n1", start + 60 * S), NodeState::Silent, "the same version again is no change");
        agents.lease(&lease("n1", 2, "a"), start + 70 * S);
        assert_eq!(agents.state("n1", start + 129 * S), NodeState::Alive);
        assert_eq!(agents.state("n1", start + 130 * S), NodeState::Silent);
        assert_eq!(agents.state("n1", start + 370 * S), NodeState::LongSilent);
    }

    #[test]
    fn a_node_without_an_agent_is_lost_once_one_would_have_been_heard() {
        let start = Instant::now();
        let agents = agents(start);
        assert_eq!(agents.state("n2", start + 59 * S), NodeState::Unknown);
        assert_eq!(agents.state("n2", start + 60 * S), NodeState::Silent);
        assert!(agents.silent(start + 60 * S).is_empty(), "the label keeps reservations from it already");
    }

    #[test]
    fn a_node_that_is_gone_is_lost_at_once_whatever_its_lease_says() {
        let start = Instant::now();
        let mut agents = agents(start);
        agents.lease(&lease("n1", 1, "a"), start);
        agents.lease(&lease("n1", 2, "a"), start);
        agents.remove_node("n1");
        assert_eq!(agents.state("n1", start), NodeState::Gone);
        agents.add_node("n1".to_owned());
        assert_eq!(agents.state("n1", start), NodeState::Alive);
    }

    #[test]
    fn a_lease_that_is_given_back_is_no_sign_of_life() {
        let start = Instant::now();
        let mut agents = agents(start);
        agents.lease(&lease("n1", 1, "a"), start);
        agents.lease(&lease("n1", 2, "a"), start);
        agents.lease(&lease("n1", 3, ""), start + 50 * S);
        assert_eq!(agents.state("n1", start + 60 * S), NodeState::Silent);
        assert_eq!(agents.silent(start + 60 * S), ["n1"]);
    }

    #[test]
    fn a_workspace_is_never_moved_before_the_lease_is_overdue() {
        let start = Instant::now();
        let mut agents = Agents::new(start, Duration::ZERO);
        agents.set_nodes(["n1".to_owned()].into());
        agents.lease(&lease("n1", 1, "a"), start);
        assert_eq!(agents.state("n1", start + 59 * S), NodeState::Unknown);
        assert_eq!(agents.state("n1", start + 60 * S), NodeState::LongSilent);
    }
}
