//! What does not make sense, is not allowed, is cut off or killed.

use std::fs;

use microagent_tests::cluster::{Cluster, until};
use serde_json::json;

use super::{Node, condition, object, wait, wait_gone};

/// The CRD as an older or a broken version might have it: everything goes.
fn crd_without_rules(cluster: &Cluster) {
    let patch = json!([{
        "op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec",
        "value": {
            "type": "object", "x-kubernetes-preserve-unknown-fields": true,
            "properties": { "nodeName": { "type": "string" } },
        },
    }]);
    cluster.kubectl().ok(["patch", "crd", "workspaces.microagent.dev", "--type=json", "--patch", &patch.to_string()]);
}

#[test]
fn an_object_that_makes_no_sense_stalls_alone() {
    let Some(cluster) = Cluster::start("an_object_that_makes_no_sense_stalls_alone") else { return };
    let node = Node::start(&cluster, "sense");
    let kubectl = cluster.kubectl();
    crd_without_rules(&cluster);
    let wrong = |name: &str, spec: &serde_json::Value| {
        json!({
            "apiVersion": "microagent.dev/v1alpha1", "kind": "Workspace",
            "metadata": { "name": name }, "spec": spec,
        })
        .to_string()
    };
    until("the rules are gone", || {
        let spec = json!({ "nodeName": "sense", "image": { "not": "text" } });
        kubectl.run_with(["apply", "--filename=-"], &wrong("wrong", &spec)).status.success()
    });
    kubectl.apply(&node.manifest("good", &json!({})));
    wait(kubectl, "good", "Ready");
    wait(kubectl, "wrong", "Stalled");
    let stalled = condition(&object(kubectl, "wrong"), "Stalled");
    assert_eq!(stalled["reason"], "InvalidManifest");
    assert!(stalled["message"].as_str().is_some_and(|message| message.contains("spec.image")), "{stalled}");
    assert_eq!(stalled["observedGeneration"], 1);
    assert_eq!(object(kubectl, "wrong")["metadata"]["finalizers"], json!(null), "nothing holds it");
    // One that runs stays as it was when its spec becomes nonsense, and is deleted as ever.
    kubectl.ok(["patch", "workspace", "good", "--type=merge", "--patch", r#"{"spec": {"image": 7}}"#]);
    wait(kubectl, "good", "Stalled");
    assert_eq!(node.host.machines().len(), 1);
    // One that is put right is taken.
    kubectl.ok(["delete", "workspace", "wrong", "good", "--timeout=60s"]);
    kubectl.apply(&node.manifest("wrong", &json!({})));
    wait(kubectl, "wrong", "Ready");
}

#[test]
fn machines_are_kept_up_while_the_api_server_is_away() {
    let Some(cluster) = Cluster::start("machines_are_kept_up_while_the_api_server_is_away") else { return };
    let mut node = Node::start(&cluster, "away");
    let kubectl = cluster.kubectl();
    kubectl.apply(&node.manifest("falls", &json!({ "command": ["exit", "1", "1500"] })));
    kubectl.apply(&node.manifest("stays", &json!({})));
    kubectl.apply(&node.manifest("goes", &json!({})));
    for name in ["stays", "goes"] {
        wait(kubectl, name, "Ready");
    }
    let boots = || node.host.fake().boots().len();
    until("all were booted", || boots() >= 3);
    cluster.stop_api_server();
    let before = boots();
    until("one that fails is started again without anybody's leave", || boots() > before);
    // Also by an agent that starts meanwhile.
    node.host.kill_controller();
    node.start_agent();
    let before = node.host.fake().boots().len();
    until("and by the next agent too", || node.host.fake().boots().len() > before);
    assert_eq!(node.host.machines().len(), 3);
    cluster.start_api_server();
    node.wait_listed();
    kubectl.ok(["delete", "workspace", "goes", "falls", "--timeout=120s"]);
    wait(kubectl, "stays", "Ready");
    kubectl.apply(&node.manifest("new", &json!({})));
    wait(kubectl, "new", "Ready");
    let stays = object(kubectl, "stays");
    let uid = stays["metadata"]["uid"].as_str().expect("a UID");
    let all = node.host.fake().boots();
    assert_eq!(all.iter().filter(|boot| boot.uid == uid).count(), 1, "what ran was never touched");
}

#[test]
fn a_second_agent_of_a_node_refuses_and_touches_nothing() {
    let Some(cluster) = Cluster::start("a_second_agent_of_a_node_refuses_and_touches_nothing") else { return };
    let first = Node::start(&cluster, "twice");
    first.wait_listed();
    cluster.kubectl().apply(&first.manifest("a", &json!({})));
    wait(cluster.kubectl(), "a", "Ready");
    let mut second = Node::of(&cluster, "twice");
    second.start_agent();
    until("the second one says why it ends", || second.log().contains("another agent serves node twice"));
    assert!(!second.log().contains("workspaces are of node"), "it saw nothing");
    assert_eq!(second.host.machines(), Vec::<String>::new());
    assert_eq!(first.host.machines().len(), 1);
}

#[test]
fn a_state_directory_of_another_cluster_is_left_alone() {
    let Some(cluster) = Cluster::start("a_state_directory_of_another_cluster_is_left_alone") else { return };
    let mut node = Node::start(&cluster, "moved");
    cluster.kubectl().apply(&node.manifest("a", &json!({})));
    wait(cluster.kubectl(), "a", "Ready");
    node.host.kill_controller();
    let Some(other) = Cluster::start("a_state_directory_of_another_cluster_is_left_alone") else { return };
    let empty = Node::prepare(&other, "moved");
    node.use_kubeconfig(other.kubeconfig().to_owned());
    node.start_agent();
    until("the agent says why it ends", || node.log().contains("is of another cluster"));
    assert_eq!(node.host.machines().len(), 1, "an empty cluster deletes nothing of another");
    drop(empty);
}

#[test]
fn an_object_that_vanishes_ends_its_machine_and_what_it_wrote_is_kept() {
    let Some(cluster) = Cluster::shared("an_object_that_vanishes_ends_its_machine_and_what_it_wrote_is_kept") else {
        return;
    };
    let node = Node::start(cluster, "vanish");
    let namespace = cluster.namespace();
    let kubectl = cluster.kubectl().in_namespace(&namespace);
    kubectl.apply(&node.manifest("a", &json!({})));
    wait(&kubectl, "a", "Ready");
    let uid = object(&kubectl, "a")["metadata"]["uid"].as_str().expect("a UID").to_owned();
    // Somebody takes the finalizer away, and the object with it.
    kubectl.ok(["delete", "workspace", "a", "--wait=false"]);
    let patch = r#"{"metadata": {"finalizers": null}}"#;
    let _ = kubectl.run(["patch", "workspace", "a", "--type=merge", "--patch", patch]);
    wait_gone(&kubectl, "a");
    until("its machine has ended", || node.host.machines().is_empty());
    let retained = node.host.state().join("retained").join(&namespace).join("a").join(&uid);
    let deleted_first = !retained.exists();
    // Either the agent was quicker, and deleted what it was told to delete, or the object was gone first.
    assert!(deleted_first || fs::read_dir(&retained).expect("what is kept").count() > 0);
}

#[test]
fn a_namespace_that_is_deleted_takes_its_workspaces_along() {
    let Some(cluster) = Cluster::shared("a_namespace_that_is_deleted_takes_its_workspaces_along") else { return };
    let node = Node::start(cluster, "spaces");
    let namespace = cluster.namespace();
    let kubectl = cluster.kubectl().in_namespace(&namespace);
    for name in ["a", "b"] {
        kubectl.apply(&node.manifest(name, &json!({})));
    }
    for name in ["a", "b"] {
        wait(&kubectl, name, "Ready");
    }
    kubectl.ok(["delete", "namespace", &namespace, "--timeout=120s"]);
    until("nothing is left on the host", || node.host.machines().is_empty());
}
