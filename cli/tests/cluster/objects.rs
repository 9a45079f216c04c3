//! The verbs on objects.

use serde_json::{Value, json};

use crate::{Cluster, WORKSPACES, workspace};

fn ready(status: &str, boot: &str) -> Value {
    json!({"phase": "Running", "nodeName": "node-1", "backend": "Qemu", "bootId": boot, "conditions": [
        {"type": "Ready", "status": status, "reason": "Settled", "message": "", "observedGeneration": 1,
            "lastTransitionTime": "2026-11-24T06:00:00Z"},
        {"type": "OfTomorrow", "status": "True", "reason": "X", "message": "", "lastTransitionTime": "2026-11-24T06:00:00Z"}]})
}

#[test]
fn workspaces_are_listed_with_their_nodes() {
    let cluster = Cluster::new();
    cluster.workspace(&ready("True", "b-1"));
    cluster.api.put(&format!("{WORKSPACES}/db"), workspace("db", &json!({})));
    let done = cluster.run("get");
    assert_eq!(done.code, 0, "{}", done.err);
    let lines: Vec<Vec<&str>> = done.out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "READY", "PHASE", "RESTARTS", "BACKEND", "NODE", "AGE"]);
    assert_eq!(lines[1][..6], ["db", "Unknown", "Pending", "0", "<none>", "<none>"]);
    assert_eq!(lines[2][..6], ["web", "True", "Running", "0", "Qemu", "node-1"]);
    assert_eq!(cluster.run("get ws web -o name").out, "workspace/web\n");
    assert_eq!(cluster.run("get none").code, 1);
    assert_eq!(cluster.run("get -n other").err, "No workspaces found in namespace other.\n");
}

#[test]
fn all_that_is_known_is_on_one_page_with_the_clusters_events() {
    let cluster = Cluster::new();
    cluster.workspace(&ready("True", "b-1"));
    cluster.api.put("/api/v1/namespaces/team/events/e1", json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e1", "namespace": "team"}, "involvedObject": {},
        "type": "Normal", "reason": "Started", "message": "the machine runs", "reportingComponent": "microagent.dev/agent",
        "eventTime": "2026-11-24T06:00:00.000000Z"}));
    let done = cluster.run("describe web");
    assert_eq!(done.code, 0, "{}", done.err);
    for part in ["Node:            node-1", "Ready", "the machine runs", "microagent.dev/agent"] {
        assert!(done.out.contains(part), "{part}: {}", done.out);
    }
    assert!(!done.out.contains("On this host"), "{}", done.out);
    let asked = cluster.api.asked.lock().unwrap();
    assert!(asked.iter().any(|(line, _)| line.contains("events?&fieldSelector=involvedObject.uid%3Du-1")), "{asked:?}");
}

#[test]
fn waiting_follows_kubectls_rule() {
    let cluster = Cluster::new();
    cluster.workspace(&ready("True", "b-1"));
    assert_eq!(cluster.run("wait web --for condition=Ready").out, "workspace/web condition met\n");
    cluster.workspace(&ready("False", "b-1"));
    let done = cluster.run("wait web --for condition=Ready --timeout 0");
    assert_eq!(done.code, 75);
    assert!(done.err.contains("see `kubectl microagent describe web`"), "{}", done.err);
    cluster.api.remove(crate::WORKSPACE);
    assert_eq!(cluster.run("wait web --for delete").out, "workspace/web deleted\n");
}

#[test]
fn a_restart_is_another_word_in_the_annotation_of_the_workspace_that_was_meant() {
    let cluster = Cluster::new();
    let done = cluster.run("restart web");
    assert_eq!((done.code, done.out.as_str()), (0, "workspace/web restart requested\n"), "{}", done.err);
    let asked = cluster.api.asked.lock().unwrap();
    let (line, body) = asked.iter().find(|(line, _)| line.starts_with("PATCH")).unwrap();
    assert!(line.contains("fieldManager=microagent"), "{line}");
    let patch: Value = serde_json::from_str(body).unwrap();
    assert_eq!(patch["metadata"]["uid"], "u-1");
    assert_eq!(patch["metadata"]["annotations"]["microagent.dev/restart"].as_str().unwrap().len(), 36);
    assert_eq!(patch.as_object().unwrap().len(), 1, "nothing else is written");
}
