//! Nodes that are lost.

use microagent_tests::cluster::until;
use serde_json::{Value, json};

use super::{Corner, agents};

/// A workspace that runs on a node of the corner, as its agent says.
fn runs(corner: &Corner, placement: Value) -> String {
    corner.add_node("n", "16Gi", &json!([]));
    corner.apply("w", json!({ "placement": placement }));
    let node = corner.wait("w", "Scheduled").node().expect("a node").to_owned();
    agents::say(corner, "w", "Running", ("True", "Running"));
    until("the agent tells the status", || corner.workspace("w").held_by("microagent-placement").len() == 1);
    node
}

fn delete_node(corner: &Corner, node: &str) {
    agents::silence(node);
    let _ = corner.kubectl.ok(["delete", "node", node]);
}

#[test]
fn a_node_that_is_deleted_is_told_and_nothing_runs_elsewhere() {
    let Some(corner) = Corner::of("a_node_that_is_deleted_is_told_and_nothing_runs_elsewhere") else { return };
    let node = runs(&corner, json!({}));
    corner.add_node("other", "16Gi", &json!([]));
    delete_node(&corner, &node);
    let lost = corner.wait("w", "NodeLost");
    assert_eq!(lost.condition("Ready")["status"], "Unknown");
    assert_eq!((lost.node(), lost.kstatus()), (Some(&*node), "InProgress"));
    // Another one is placed after it: the loop has had its turn.
    corner.apply("later", json!({}));
    assert_eq!(corner.wait("later", "Scheduled").node(), Some(&*corner.node("other")));
    assert_eq!(corner.workspace("w").node(), Some(&*node));
}

#[test]
fn a_silent_agent_is_a_lost_node_and_one_that_speaks_again_is_believed() {
    let Some(corner) = Corner::of("a_silent_agent_is_a_lost_node_and_one_that_speaks_again_is_believed") else {
        return;
    };
    let node = runs(&corner, json!({}));
    agents::silence(&node);
    let lost = corner.wait("w", "NodeLost");
    assert_eq!(lost.condition("Ready")["status"], "Unknown");
    agents::serve(corner.cluster, &node);
    let back = corner.wait("w", "Scheduled");
    assert_eq!(back.condition("Ready")["status"], "Unknown", "until the agent says more");
    agents::say(&corner, "w", "Running", ("True", "Running"));
    until("the agent is believed", || corner.workspace("w").held_by("microagent-placement").len() == 1);
    assert_eq!(corner.workspace("w").kstatus(), "Current");
}

#[test]
fn a_workspace_that_allows_it_begins_anew_on_another_node() {
    let Some(corner) = Corner::of("a_workspace_that_allows_it_begins_anew_on_another_node") else { return };
    let node = runs(&corner, json!({ "onNodeLost": "Reschedule" }));
    corner.add_node("other", "16Gi", &json!([]));
    delete_node(&corner, &node);
    until("it is on the other node", || {
        let now = corner.workspace("w");
        now.node() == Some(&*corner.node("other")) && now.condition("Scheduled")["status"] == "True"
    });
    assert_eq!(corner.pod("w")["spec"]["nodeName"], corner.node("other").as_str());
    assert_eq!(corner.workspace("w").kstatus(), "InProgress", "its new agent has not spoken");
    let events = corner.kubectl.ok(["get", "events.events.k8s.io", "--output=json"]);
    assert!(events.contains("with an empty disk"), "{events}");
}

#[test]
fn what_a_lost_node_has_is_given_up_by_an_annotation() {
    let Some(corner) = Corner::of("what_a_lost_node_has_is_given_up_by_an_annotation") else { return };
    let node = runs(&corner, json!({}));
    let finalizers = json!({ "metadata": { "finalizers": ["microagent.dev/host-state"] } }).to_string();
    let _ = corner.kubectl.ok(["patch", "ws", "w", "--type=merge", "--patch", &finalizers]);
    let _ = corner.kubectl.ok(["annotate", "ws", "w", "microagent.dev/abandon=true"]);
    let _ = corner.kubectl.ok(["delete", "ws", "w", "--wait=false"]);
    let there = corner.workspace("w");
    assert_eq!(there.kstatus(), "Terminating", "its agent lives and does what is to be done");
    delete_node(&corner, &node);
    until("it is gone", || corner.workspace("w").0.is_null());
    let events = corner.kubectl.ok(["get", "events.events.k8s.io", "--output=json"]);
    assert!(events.contains("is given up"), "{events}");
}
