//! The watches that fill the view. Each object is decoded by itself: one that cannot be read stops nothing.

use std::{
    collections::{BTreeSet, HashSet},
    hash::Hash,
    pin::pin,
    time::{Duration, Instant},
};

use futures::{Stream, StreamExt as _};
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Node, Pod},
};
use kube::{
    Api, Client, Resource as _, ResourceExt as _,
    core::{DeserializeGuard, PartialObjectMeta},
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use microagent_controller::Key;
use microagent_crds::{
    Workspace,
    kubernetes::{MANAGED_BY_LABEL, MANAGED_BY_PLACEMENT},
};

use crate::view::{Kind, View, key_of, workspace_of};

/// How often a watch that goes on failing is complained of.
const COMPLAIN: Duration = Duration::from_secs(300);

/// Follows all workspaces, until it is dropped.
pub(crate) async fn workspaces(client: Client, view: View) {
    let api: Api<DeserializeGuard<Workspace>> = Api::all(client);
    let key = |guard: &DeserializeGuard<Workspace>| {
        let metadata = guard.meta();
        key_of(&metadata.namespace, &metadata.name)
    };
    let there = |guard: DeserializeGuard<Workspace>| {
        let key = key(&guard)?;
        match guard.0 {
            Ok(workspace) => view.workspace(workspace),
            Err(error) => {
                tracing::warn!(%key, "the workspace cannot be read, and is left as it is: {error}");
                view.unreadable(key.clone());
            }
        }
        Some(key)
    };
    let gone = |guard: DeserializeGuard<Workspace>| key(&guard).iter().for_each(|key| view.no_workspace(key));
    let stream = watcher(api, watcher::Config::default()).default_backoff();
    follow(stream, Kind::Workspaces, &view, there, gone, |keys| view.only_workspaces(&keys)).await;
}

/// Follows all reservation Pods.
pub(crate) async fn pods(client: Client, view: View) {
    let api: Api<DeserializeGuard<Pod>> = Api::all(client);
    let there = |guard: DeserializeGuard<Pod>| match guard.0 {
        Ok(pod) => {
            view.pod(&pod);
            workspace_of(&pod)
        }
        Err(error) => {
            tracing::warn!("a reservation Pod cannot be read and is passed over: {error}");
            None
        }
    };
    let gone = |guard: DeserializeGuard<Pod>| {
        if let Ok(pod) = guard.0
            && let Some(key) = workspace_of(&pod)
        {
            view.no_pod(key, pod.metadata.uid.as_deref().unwrap_or_default());
        }
    };
    let config = watcher::Config::default().labels(&format!("{MANAGED_BY_LABEL}={MANAGED_BY_PLACEMENT}"));
    follow(watcher(api, config).default_backoff(), Kind::Pods, &view, there, gone, |keys: HashSet<Key>| {
        view.only_pods(&keys);
    })
    .await;
}

/// Follows the names of all nodes.
pub(crate) async fn nodes(client: Client, view: View) {
    let api: Api<PartialObjectMeta<Node>> = Api::all(client);
    let there = |node: PartialObjectMeta<Node>| {
        let name = node.name_any();
        view.nodes(|agents| agents.add_node(name.clone()));
        Some(name)
    };
    let gone = |node: PartialObjectMeta<Node>| view.nodes(|agents| agents.remove_node(&node.name_any()));
    let stream = watcher(api, watcher::Config::default()).default_backoff();
    follow(stream, Kind::Nodes, &view, there, gone, |names: HashSet<String>| {
        view.only_nodes(names.into_iter().collect::<BTreeSet<_>>());
    })
    .await;
}

/// Follows the Leases of agents.
pub(crate) async fn leases(client: Client, view: View, namespace: &str) {
    let api: Api<DeserializeGuard<Lease>> = Api::namespaced(client, namespace);
    let there = |guard: DeserializeGuard<Lease>| {
        let lease = guard.0.ok()?;
        view.lease(&lease);
        Some(lease.name_any())
    };
    // A Lease that is deleted is a silent one: what counts is when it last changed.
    let stream = watcher(api, watcher::Config::default()).default_backoff();
    follow(stream, Kind::Leases, &view, there, |_| {}, |_: HashSet<String>| {}).await;
}

/// Takes in what a watch tells. `there` gives the key of what is there, `only` gets all keys of a complete list.
async fn follow<K, I: Eq + Hash>(
    stream: impl Stream<Item = watcher::Result<Event<K>>>,
    kind: Kind,
    view: &View,
    there: impl Fn(K) -> Option<I>,
    gone: impl Fn(K),
    only: impl Fn(HashSet<I>),
) {
    let mut stream = pin!(stream);
    let mut listing = HashSet::new();
    let mut complained: Option<Instant> = None;
    while let Some(event) = stream.next().await {
        match event {
            Ok(Event::Init) => listing.clear(),
            Ok(Event::InitApply(object)) => listing.extend(there(object)),
            Ok(Event::InitDone) => {
                only(std::mem::take(&mut listing));
                if complained.take().is_some() {
                    tracing::info!("the {} are seen again", kind.name());
                }
                view.listed(kind);
            }
            Ok(Event::Apply(object)) => drop(there(object)),
            Ok(Event::Delete(object)) => gone(object),
            Err(error) if complained.is_none_or(|at| at.elapsed() >= COMPLAIN) => {
                complained = Some(Instant::now());
                tracing::warn!(
                    "the {} cannot be watched, which is tried again: {error}; see that the API server is there, the CRD \
                     installed, and that the account may list and watch them",
                    kind.name()
                );
            }
            Err(error) => tracing::debug!("the {} cannot be watched: {error}", kind.name()),
        }
    }
}
