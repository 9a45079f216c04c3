//! From `kubectl apply` to `kubectl delete`.

use std::thread;

use microagent_tests::cluster::{Cluster, until};
use serde_json::json;

use super::{Node, QUIET, condition, object, wait, wait_gone};

#[test]
fn a_workspace_is_applied_edited_halted_and_deleted() {
    let Some(cluster) = Cluster::shared("a_workspace_is_applied_edited_halted_and_deleted") else { return };
    let node = Node::start(cluster, "life");
    let kubectl = cluster.kubectl().in_namespace(&cluster.namespace());
    kubectl.apply(&node.manifest("a", &json!({})));
    wait(&kubectl, "a", "Ready");
    let made = object(&kubectl, "a");
    assert_eq!(made["status"]["nodeName"], "life");
    assert_eq!(made["status"]["observedGeneration"], made["metadata"]["generation"]);
    assert_eq!(made["metadata"]["finalizers"], json!(["microagent.dev/host-state"]));
    let uid = made["metadata"]["uid"].as_str().expect("a UID").to_owned();
    assert_eq!(node.host.machines(), std::slice::from_ref(&uid), "the machine is named by the object's UID");
    for condition in made["status"]["conditions"].as_array().expect("conditions") {
        assert_eq!(condition["observedGeneration"], made["metadata"]["generation"], "{condition}");
    }
    let wide = kubectl.ok(["get", "ws", "a", "--output=wide"]);
    for word in
        ["READY", "PHASE", "BACKEND", "NODE", "AGE", "IMAGE", "KERNEL", "REASON", "life", "Running", "6.1.0-fixture"]
    {
        assert!(wide.contains(word), "{word}:\n{wide}");
    }
    let selected =
        kubectl.ok(["get", "ws", "--field-selector=spec.nodeName=life,status.phase=Running", "--output=name"]);
    assert_eq!(selected.trim(), "workspace.microagent.dev/a");
    // What is applied again changes nothing, and the file is what is there.
    assert!(kubectl.run_with(["diff", "--filename=-"], &node.manifest("a", &json!({}))).status.success());
    let version = |object: &serde_json::Value| object["metadata"]["resourceVersion"].clone();
    let before = version(&object(&kubectl, "a"));
    kubectl.apply(&node.manifest("a", &json!({})));
    assert_eq!(version(&object(&kubectl, "a")), before);

    kubectl.apply(&node.manifest("a", &json!({ "env": [{ "name": "A", "value": "1" }] })));
    wait(&kubectl, "a", "RestartRequired");
    let edited = object(&kubectl, "a");
    assert_eq!(edited["status"]["runningGeneration"], 1);
    kubectl.ok(["annotate", "workspace", "a", "microagent.dev/restart=1"]);
    until("it runs as edited", || object(&kubectl, "a")["status"]["runningGeneration"] == 2);
    wait(&kubectl, "a", "Ready");
    assert_eq!(node.host.fake().boots().len(), 2);

    kubectl.apply(&node.manifest("a", &json!({ "runPolicy": "Halted", "env": [{ "name": "A", "value": "1" }] })));
    until("it is halted", || object(&kubectl, "a")["status"]["phase"] == "Halted");
    wait(&kubectl, "a", "Ready");

    kubectl.ok(["delete", "workspace", "a", "--timeout=60s"]);
    assert_eq!(node.host.machines(), Vec::<String>::new(), "nothing is left on the host");
    until("its record is gone", || node.host.half_made().is_empty() && node.records() == 0);
    let told = kubectl.ok(["get", "events.events.k8s.io", "--output=json"]);
    assert!(told.contains("microagent.dev/agent") && told.contains("Running"), "{told}");
}

#[test]
fn what_is_settled_writes_nothing() {
    let Some(cluster) = Cluster::start("what_is_settled_writes_nothing") else { return };
    let node = Node::start(&cluster, "still");
    let kubectl = cluster.kubectl();
    for name in ["a", "b", "c"] {
        kubectl.apply(&node.manifest(name, &json!({})));
    }
    for name in ["a", "b", "c"] {
        wait(kubectl, name, "Ready");
    }
    let versions = || kubectl.ok(["get", "ws", "--output=jsonpath={.items[*].metadata.resourceVersion}"]);
    until("their statuses stay", || {
        let before = versions();
        thread::sleep(QUIET);
        before == versions()
    });
    // An agent that starts anew finds everything as it left it.
    let mut node = node;
    let before = versions();
    node.host.kill_controller();
    node.start_agent();
    until("the next agent has listed", || node.log().matches("workspaces are of node").count() == 2);
    thread::sleep(QUIET);
    assert_eq!(versions(), before);
    assert_eq!(node.host.fake().boots().len(), 3, "each was booted once");
}

#[test]
fn a_status_that_somebody_writes_to_is_put_right() {
    let Some(cluster) = Cluster::shared("a_status_that_somebody_writes_to_is_put_right") else { return };
    let node = Node::start(cluster, "right");
    let kubectl = cluster.kubectl().in_namespace(&cluster.namespace());
    kubectl.apply(&node.manifest("a", &json!({})));
    wait(&kubectl, "a", "Ready");
    let patch = r#"{"status": {"phase": "Failed", "nodeName": "elsewhere"}}"#;
    kubectl.ok(["patch", "workspace", "a", "--subresource=status", "--type=merge", "--patch", patch]);
    until("the status is true again", || {
        let status = &object(&kubectl, "a")["status"];
        status["phase"] == "Running" && status["nodeName"] == "right"
    });
}

#[test]
fn a_workspace_whose_end_has_come_is_deleted() {
    let Some(cluster) = Cluster::shared("a_workspace_whose_end_has_come_is_deleted") else { return };
    let node = Node::start(cluster, "ends");
    let kubectl = cluster.kubectl().in_namespace(&cluster.namespace());
    let spec = json!({
        "runPolicy": "Once",
        "command": ["exit", "0", "200"],
        "lifecycle": { "ttlSecondsAfterFinished": 1, "terminationGracePeriodSeconds": 1 },
    });
    kubectl.apply(&node.manifest("job", &spec));
    until("it came up", || kubectl.run(["get", "workspace", "job"]).status.success());
    wait_gone(&kubectl, "job");
    assert_eq!(node.host.machines(), Vec::<String>::new());
}

#[test]
fn another_workspace_of_the_same_name_waits_until_the_first_is_gone() {
    let Some(cluster) = Cluster::shared("another_workspace_of_the_same_name_waits_until_the_first_is_gone") else {
        return;
    };
    let node = Node::start(cluster, "again");
    let kubectl = cluster.kubectl().in_namespace(&cluster.namespace());
    kubectl.apply(&node.manifest("a", &json!({})));
    wait(&kubectl, "a", "Ready");
    let first = object(&kubectl, "a")["metadata"]["uid"].clone();
    kubectl.ok(["delete", "workspace", "a", "--wait=false"]);
    until("the second is taken", || {
        kubectl.run_with(["apply", "--filename=-"], &node.manifest("a", &json!({}))).status.success()
            && object(&kubectl, "a")["metadata"]["deletionTimestamp"].is_null()
            && object(&kubectl, "a")["metadata"]["uid"] != first
    });
    wait(&kubectl, "a", "Ready");
    let second = object(&kubectl, "a");
    let uid = second["metadata"]["uid"].as_str().expect("a UID");
    assert_eq!(node.host.machines(), [uid]);
    assert_eq!(condition(&second, "Stalled")["status"], "False");
}
