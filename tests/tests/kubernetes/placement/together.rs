//! Placement with a real agent: from a workspace without a node to a machine, and what becomes of it.

use microagent_tests::cluster::until;
use serde_json::{Value, json};

use super::Corner;
use crate::agent::{Node, wait};

#[test]
fn a_machine_runs_where_there_is_room_and_only_while_there_is() {
    let Some(corner) = Corner::of("a_machine_runs_where_there_is_room_and_only_while_there_is") else { return };
    let name = corner.node("real");
    let node = Node::start(corner.cluster, &name);
    let _ = corner.kubectl.ok(["label", "node", &name, &format!("corner={}", corner.name)]);
    let manifest = |policy: &str| {
        let spec = json!({ "runPolicy": policy, "placement": { "nodeSelector": { "corner": corner.name } } });
        node.host.fake_manifest("w", &spec)
    };
    let _ = corner.kubectl.apply(&manifest("Always"));
    wait(&corner.kubectl, "w", "Ready");
    let ready = corner.workspace("w");
    assert_eq!((ready.node(), ready.kstatus()), (Some(&*name), "Current"));
    assert_eq!(ready.condition("Scheduled")["status"], "True");
    let boot = ready.0["status"]["bootId"].clone();

    // The room is taken, and the node takes no new Pods: the machine is halted, and waits.
    let _ = corner.kubectl.ok(["cordon", &name]);
    corner.end_pod("w-microvm");
    until("the machine is halted for want of room", || {
        let now = corner.workspace("w");
        now.condition("Ready")["reason"] == "ReservationLost" && now.0["status"]["bootId"] == Value::Null
    });
    let _ = corner.kubectl.ok(["uncordon", &name]);
    wait(&corner.kubectl, "w", "Ready");
    let again = corner.workspace("w");
    assert_eq!((again.node(), again.condition("Scheduled")["status"].as_str()), (Some(&*name), Some("True")));
    assert_ne!(again.0["status"]["bootId"], boot, "it was started anew");

    // One that is not to run needs no room, and has it again before it runs.
    let _ = corner.kubectl.apply(&manifest("Halted"));
    until("its room is given back", || corner.pod("w").is_null());
    assert_eq!(corner.wait("w", "Halted").kstatus(), "Current");
    let _ = corner.kubectl.apply(&manifest("Always"));
    until("it runs again", || {
        let now = corner.workspace("w");
        now.kstatus() == "Current" && now.condition("Running")["status"] == "True"
    });
    assert_eq!(corner.pod("w")["spec"]["nodeName"], name.as_str());

    let _ = corner.kubectl.ok(["delete", "ws", "w", "--timeout=120s"]);
    assert!(corner.workspace("w").0.is_null());
}
