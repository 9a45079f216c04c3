//! What harm the harness can do to the control plane, and that it comes through.

use std::fs;

use microagent_tests::cluster::{Cluster, Settings, until};
use serde_json::json;

#[test]
fn what_was_written_is_there_when_the_api_server_and_etcd_were_killed() {
    let test = "what_was_written_is_there_when_the_api_server_and_etcd_were_killed";
    let Some(cluster) = Cluster::start(test) else { return };
    let kubectl = cluster.kubectl();
    let _ = kubectl.ok(["create", "configmap", "kept", "--from-literal=key=value"]);
    let url = cluster.url();

    cluster.stop_api_server();
    let said = kubectl.fails(["get", "configmap", "kept"]);
    assert!(said.contains("refused"), "{said}");
    cluster.start_api_server();
    assert_eq!(cluster.url(), url);
    assert_eq!(kubectl.ok(["get", "configmap", "kept", "--output=jsonpath={.data.key}"]), "value");

    cluster.stop_etcd();
    let _ = kubectl.fails(["create", "configmap", "lost", "--request-timeout=2s"]);
    cluster.start_etcd();
    assert_eq!(kubectl.ok(["get", "configmap", "kept", "--output=jsonpath={.data.key}"]), "value");
    // The controllers have come through it too: a new namespace gets what Pods need.
    let _ = cluster.namespace();
}

#[test]
fn nothing_of_a_dropped_cluster_stays() {
    let Some(cluster) = Cluster::start("nothing_of_a_dropped_cluster_stays") else { return };
    let pids = cluster.pids();
    assert_eq!(pids.len(), 4, "{pids:?}");
    let dir = cluster.kubeconfig().parent().expect("a directory").to_owned();
    drop(cluster);
    assert!(!dir.exists(), "{} is left", dir.display());
    for (name, pid) in pids {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        assert!(!line.contains(name), "{name} ({pid}) is left: {line}");
    }
}

#[test]
fn a_node_that_says_nothing_is_marked_where_the_cluster_looks() {
    let test = "a_node_that_says_nothing_is_marked_where_the_cluster_looks";
    let Some(cluster) = Cluster::start_with(test, Settings { node_lifecycle: true }) else { return };
    cluster.add_node("silent", &json!({ "cpu": "1", "memory": "1Gi" }), &json!({}), &json!([]));
    let ready = "--output=jsonpath={.status.conditions[?(@.type=='Ready')].status}";
    until("the node is marked", || cluster.kubectl().ok(["get", "node", "silent", ready]) == "Unknown");
    until("the node is tainted", || {
        cluster.kubectl().ok(["get", "node", "silent", "--output=jsonpath={.spec.taints[*].key}"]).contains("unreachable")
    });
}
