//! What was last seen of the cluster: filled by the watches and by the answers to placement's own writes, read by every pass.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use microagent_controller::{Key, queue::Queue};
use microagent_crds::{Workspace, kubernetes::WORKSPACE_LABEL};

use crate::{
    agents::Agents,
    decide::NodeState,
    facts::{PodFacts, Seen},
};

/// The kinds that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Workspaces of all namespaces.
    Workspaces,
    /// Reservation Pods of all namespaces.
    Pods,
    /// Nodes.
    Nodes,
    /// Leases of agents.
    Leases,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Workspaces, Self::Pods, Self::Nodes, Self::Leases];

    /// The name, for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Workspaces => "workspaces",
            Self::Pods => "pods",
            Self::Nodes => "nodes",
            Self::Leases => "leases",
        }
    }
}

/// What was last seen. Clones share it.
#[derive(Clone, Debug)]
pub struct View {
    state: Arc<Mutex<State>>,
    queue: Queue,
}

#[derive(Debug)]
struct State {
    workspaces: HashMap<Key, Arc<Seen>>,
    pods: HashMap<Key, Arc<PodFacts>>,
    agents: Agents,
    states: HashMap<String, NodeState>,
    unreadable: HashSet<Key>,
    listed: HashSet<Kind>,
}

/// What a pass over one workspace sees.
#[derive(Clone, Debug)]
pub struct Sight {
    /// The workspace.
    pub seen: Arc<Seen>,
    /// Its reservation Pod.
    pub pod: Option<Arc<PodFacts>>,
    /// Its node.
    pub node: NodeState,
    /// The Pod's node.
    pub pod_node: NodeState,
    /// The nodes that a reservation should not be placed on.
    pub avoid: Vec<String>,
}

impl View {
    /// Nothing was seen yet. Changes are asked for in `queue`.
    #[must_use]
    pub fn new(queue: Queue, move_after: Duration) -> Self {
        let state = State {
            workspaces: HashMap::new(),
            pods: HashMap::new(),
            agents: Agents::new(Instant::now(), move_after),
            states: HashMap::new(),
            unreadable: HashSet::new(),
            listed: HashSet::new(),
        };
        Self { state: Arc::new(Mutex::new(state)), queue }
    }

    /// A workspace is there. One that is older than what was seen already is passed over.
    pub fn workspace(&self, workspace: Workspace) {
        let Some(key) = key_of(&workspace.metadata.namespace, &workspace.metadata.name) else { return };
        let mut state = self.lock();
        state.unreadable.remove(&key);
        let is_older = state.workspaces.get(&key).is_some_and(|known| {
            let known = &known.workspace.metadata;
            known.uid == workspace.metadata.uid
                && is_older(&workspace.metadata.resource_version, &known.resource_version)
        });
        if !is_older {
            state.workspaces.insert(key.clone(), Arc::new(Seen::new(workspace)));
            drop(state);
            self.queue.add(key);
        }
    }

    /// The answer to a write of placement's own. Passed over when the workspace has gone meanwhile.
    pub fn answered(&self, workspace: Workspace) {
        let Some(key) = key_of(&workspace.metadata.namespace, &workspace.metadata.name) else { return };
        let known =
            self.lock().workspaces.get(&key).is_some_and(|seen| seen.workspace.metadata.uid == workspace.metadata.uid);
        if known {
            self.workspace(workspace);
        }
    }

    /// A workspace is there that cannot be read: nothing is decided about it until it can.
    pub fn unreadable(&self, key: Key) {
        let mut state = self.lock();
        state.workspaces.remove(&key);
        state.unreadable.insert(key);
    }

    /// A workspace is gone.
    pub fn no_workspace(&self, key: &Key) {
        let mut state = self.lock();
        state.workspaces.remove(key);
        state.unreadable.remove(key);
        self.queue.remove(key);
    }

    /// These are all workspaces.
    pub fn only_workspaces(&self, keys: &HashSet<Key>) {
        let mut state = self.lock();
        state.workspaces.retain(|key, _| keys.contains(key));
        state.unreadable.retain(|key| keys.contains(key));
    }

    /// A reservation Pod is there.
    pub fn pod(&self, pod: &Pod) {
        let Some(key) = workspace_of(pod) else { return };
        let facts = PodFacts::new(pod);
        let mut state = self.lock();
        let is_older = state.pods.get(&key).is_some_and(|known| {
            known.uid == facts.uid && is_older(&Some(facts.version.clone()), &Some(known.version.clone()))
        });
        if !is_older && state.pods.get(&key).is_none_or(|known| **known != facts) {
            state.pods.insert(key.clone(), Arc::new(facts));
            drop(state);
            self.queue.add(key);
        }
    }

    /// A reservation Pod is gone: this one, and not one of the same name after it.
    pub fn no_pod(&self, key: Key, uid: &str) {
        let mut state = self.lock();
        if state.pods.get(&key).is_some_and(|known| known.uid == uid) {
            state.pods.remove(&key);
            drop(state);
            self.queue.add(key);
        }
    }

    /// These are all reservation Pods.
    pub fn only_pods(&self, keys: &HashSet<Key>) {
        let mut state = self.lock();
        let gone: Vec<Key> = state.pods.keys().filter(|key| !keys.contains(*key)).cloned().collect();
        for key in gone {
            state.pods.remove(&key);
            self.queue.add(key);
        }
    }

    /// A Lease is there.
    pub fn lease(&self, lease: &Lease) {
        self.lock().agents.lease(lease, Instant::now());
    }

    /// Changes what is known of nodes.
    pub fn nodes(&self, change: impl FnOnce(&mut Agents)) {
        change(&mut self.lock().agents);
        self.look_at_nodes();
    }

    /// These are all nodes.
    pub fn only_nodes(&self, nodes: BTreeSet<String>) {
        self.nodes(|agents| agents.set_nodes(nodes));
    }

    /// All of this kind were listed.
    pub fn listed(&self, kind: Kind) {
        let was_complete = self.is_complete();
        self.lock().listed.insert(kind);
        if !was_complete && self.is_complete() {
            self.ask_for_all();
        }
    }

    /// The kinds that were not listed yet.
    #[must_use]
    pub fn missing(&self) -> Vec<Kind> {
        let state = self.lock();
        Kind::ALL.into_iter().filter(|kind| !state.listed.contains(kind)).collect()
    }

    /// Whether everything was listed once: nothing can be decided before.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.missing().is_empty()
    }

    /// Asks for a look at every workspace.
    pub fn ask_for_all(&self) {
        let keys: Vec<Key> = self.lock().workspaces.keys().cloned().collect();
        keys.into_iter().for_each(|key| self.queue.add(key));
    }

    /// Looks whether a node has become alive or lost, and asks for a look at its workspaces.
    pub fn look_at_nodes(&self) {
        let mut state = self.lock();
        let now = state.agents.states(Instant::now());
        let before = std::mem::replace(&mut state.states, now);
        if before == state.states {
            return;
        }
        let differs = |node: &String| before.get(node) != state.states.get(node);
        let touched = |key: &Key, seen: &Seen| {
            let pod = state.pods.get(key).and_then(|pod| pod.node.as_ref());
            seen.workspace.spec.node_name.as_ref().is_some_and(differs) || pod.is_some_and(differs)
        };
        let keys: Vec<Key> =
            state.workspaces.iter().filter(|(key, seen)| touched(key, seen)).map(|(key, _)| key.clone()).collect();
        drop(state);
        keys.into_iter().for_each(|key| self.queue.add(key));
    }

    /// What there is to see of one workspace; nothing when there is none.
    #[must_use]
    pub fn sight(&self, key: &Key) -> Option<Sight> {
        let state = self.lock();
        let now = Instant::now();
        let seen = state.workspaces.get(key)?.clone();
        let pod = state.pods.get(key).cloned();
        let of = |node: Option<&str>| node.map_or(NodeState::Unknown, |node| state.agents.state(node, now));
        let (node, pod_node) = (of(seen.node()), of(pod.as_ref().and_then(|pod| pod.node.as_deref())));
        Some(Sight { seen, pod, node, pod_node, avoid: state.agents.silent(now) })
    }

    /// How many workspaces there are, how many of them have no node, and how many cannot be read.
    #[must_use]
    pub fn counts(&self) -> (usize, usize, usize) {
        let state = self.lock();
        let unplaced = state.workspaces.values().filter(|seen| seen.node().is_none()).count();
        (state.workspaces.len(), unplaced, state.unreadable.len())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under the lock, so a poisoned state is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The workspace that a reservation Pod is of, by its label.
#[must_use]
pub fn workspace_of(pod: &Pod) -> Option<Key> {
    let name = pod.metadata.labels.as_ref()?.get(WORKSPACE_LABEL)?;
    Some(Key::new(pod.metadata.namespace.as_deref()?, name))
}

/// The key of an object of a namespace.
#[must_use]
pub fn key_of(namespace: &Option<String>, name: &Option<String>) -> Option<Key> {
    Some(Key::new(namespace.as_deref()?, name.as_deref()?))
}

/// Whether one version of an object is older than another. Kubernetes counts them; where they are no numbers nothing is known.
fn is_older(version: &Option<String>, than: &Option<String>) -> bool {
    let number = |text: &Option<String>| text.as_deref().and_then(|text| text.parse::<u64>().ok());
    matches!((number(version), number(than)), (Some(version), Some(than)) if version < than)
}
