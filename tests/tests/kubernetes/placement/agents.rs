//! Agents, played: their Leases are renewed, and their statuses are written, by the tests.

use std::{
    collections::BTreeSet,
    sync::{Mutex, Once, PoisonError},
    thread,
    time::Duration,
};

use jiff::Timestamp;
use microagent_tests::cluster::Cluster;
use serde_json::{Value, json};

use super::Corner;

/// Seconds that the Leases hold here: tests must not wait for a minute, and a busy machine must not lose an agent that lives.
const DURATION: u32 = 20;

/// The nodes whose agents live.
static ALIVE: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// An agent serves on this node from now on.
pub(super) fn serve(cluster: &'static Cluster, node: &str) {
    ALIVE.lock().unwrap_or_else(PoisonError::into_inner).insert(node.to_owned());
    renew(cluster, &[node.to_owned()]);
    static RENEWING: Once = Once::new();
    RENEWING.call_once(|| {
        thread::spawn(|| {
            loop {
                let all: Vec<_> = ALIVE.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect();
                renew(cluster, &all);
                thread::sleep(Duration::from_secs(2));
            }
        });
    });
}

/// The agent of this node falls silent.
pub(super) fn silence(node: &str) {
    ALIVE.lock().unwrap_or_else(PoisonError::into_inner).remove(node);
}

fn renew(cluster: &Cluster, nodes: &[String]) {
    let lease = |node: &String| {
        json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": { "name": format!("agent-{node}"), "namespace": "microagent-system" },
            "spec": { "holderIdentity": format!("agent of {node}"), "leaseDurationSeconds": DURATION,
                "renewTime": Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string() } })
    };
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": nodes.iter().map(lease).collect::<Vec<_>>() });
    let args = ["apply", "--server-side", "--force-conflicts", "--field-manager=microagent-agent", "--filename", "-"];
    // A control plane that a test stops is not the agents' affair.
    let _ = cluster.kubectl().run_with(args, &list.to_string());
}

/// Writes the status of a workspace as its agent does.
pub(super) fn say(corner: &Corner, name: &str, phase: &str, ready: (&str, &str)) {
    let workspace = corner.workspace(name);
    let generation = &workspace.0["metadata"]["generation"];
    let condition = |type_: &str, status: &str, reason: &str| {
        json!({ "type": type_, "status": status, "reason": reason, "message": "an agent says so",
            "observedGeneration": generation, "lastTransitionTime": "2026-01-01T00:00:00Z" })
    };
    let conditions: Value = json!([
        condition("Running", "False", ready.1),
        condition("Reconciling", "False", "Settled"),
        condition("Ready", ready.0, ready.1),
    ]);
    let applied = json!({ "apiVersion": "microagent.dev/v1alpha1", "kind": "Workspace", "metadata": { "name": name },
        "status": { "phase": phase, "observedGeneration": generation, "conditions": conditions } });
    let mut args = vec!["apply", "--server-side", "--force-conflicts", "--field-manager=microagent-agent"];
    args.extend(["--subresource=status", "--filename", "-"]);
    let said = corner.kubectl.run_with(args, &applied.to_string());
    assert!(said.status.success(), "{}", said.stderr);
}
