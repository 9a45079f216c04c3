//! An older state of the world, seen again.

use microagent_tests::cluster::{Fault, Rule, until};
use serde_json::{Value, json};

use super::Behind;
use crate::agent::object;

/// What the API server lists for this agent now.
fn listing(behind: &Behind) -> String {
    let path = format!(
        "/apis/microagent.dev/v1alpha1/workspaces?fieldSelector=spec.nodeName%3D{}&limit=500",
        behind.node.name
    );
    behind.kubectl.ok(["get", "--raw", &path])
}

/// Has the agent list its workspaces anew, and be given this.
fn list_again(behind: &Behind, listing: String) {
    behind.proxy.rule(Rule::on("list", "workspaces", Fault::Say(listing)).times(1));
    behind.proxy.rule(Rule::on("watch", "workspaces", Fault::ErrorEvent(410)).until("list", "workspaces"));
    let listed = behind.proxy.count("list", "workspaces");
    behind.proxy.cut();
    until("it is listed anew", || behind.proxy.count("list", "workspaces") > listed);
    until("and watched", || {
        behind.proxy.asked().iter().rev().take_while(|asked| asked.verb != "list").any(|asked| asked.verb == "watch")
    });
}

fn boots(behind: &Behind, uid: &str) -> usize {
    behind.node.host.fake().boots().iter().filter(|boot| boot.uid == uid).count()
}

fn uid(behind: &Behind, name: &str) -> String {
    object(&behind.kubectl, name)["metadata"]["uid"].as_str().expect("a UID").to_owned()
}

/// Makes something new and waits for it: all that was seen before has had its turn.
fn later(behind: &mut Behind, name: &str) {
    behind.apply(name, &json!({}));
    behind.settled(name, 1);
}

#[test]
fn a_deleted_workspace_that_is_listed_again_gets_no_second_machine() {
    let test = "a_deleted_workspace_that_is_listed_again_gets_no_second_machine";
    let Some(mut behind) = Behind::start(test, "s-listed") else { return };
    behind.apply("a", &json!({}));
    behind.settled("a", 1);
    let (old, first) = (listing(&behind), uid(&behind, "a"));
    let _ = behind.kubectl.ok(["delete", "workspace", "a", "--timeout=60s"]);
    list_again(&behind, old.clone());
    later(&mut behind, "b");
    assert_eq!(boots(&behind, &first), 1);
    // An agent that remembers nothing of it is shown the same.
    behind.node.host.kill_controller();
    behind.proxy.rule(Rule::on("list", "workspaces", Fault::Say(old)).times(1));
    behind.node.start_agent();
    later(&mut behind, "c");
    assert_eq!(boots(&behind, &first), 1);
    until("nothing of it is left", || behind.node.records() == 2 && behind.node.host.machines().len() == 2);
}

#[test]
fn a_deleted_workspace_in_old_events_gets_no_second_machine() {
    let test = "a_deleted_workspace_in_old_events_gets_no_second_machine";
    let Some(mut behind) = Behind::start(test, "s-events") else { return };
    behind.apply("a", &json!({}));
    behind.settled("a", 1);
    let first = uid(&behind, "a");
    let old = object(&behind.kubectl, "a");
    let _ = behind.kubectl.ok(["delete", "workspace", "a", "--timeout=60s"]);
    let event = json!({ "type": "MODIFIED", "object": old });
    behind.proxy.rule(Rule::on("watch", "workspaces", Fault::Say(format!("{event}\n"))).times(1));
    behind.proxy.cut();
    later(&mut behind, "b");
    assert_eq!(boots(&behind, &first), 1);
    until("nothing of it is left", || behind.node.records() == 1 && behind.node.host.machines().len() == 1);
}

#[test]
fn a_workspace_that_an_old_listing_does_not_have_yet_keeps_its_machine() {
    let test = "a_workspace_that_an_old_listing_does_not_have_yet_keeps_its_machine";
    let Some(mut behind) = Behind::start(test, "s-missing") else { return };
    let old = listing(&behind);
    behind.apply("a", &json!({}));
    behind.settled("a", 1);
    let first = uid(&behind, "a");
    list_again(&behind, old);
    later(&mut behind, "b");
    assert_eq!((uid(&behind, "a"), boots(&behind, &first)), (first.clone(), 1));
    assert_eq!(behind.node.host.processes(&first).len(), 1, "it runs");
    let _ = behind.kubectl.ok(["delete", "workspace", "a", "--timeout=60s"]);
    assert_eq!(boots(&behind, &first), 1);
}

#[test]
fn an_old_spec_in_old_events_is_not_followed() {
    let test = "an_old_spec_in_old_events_is_not_followed";
    let Some(mut behind) = Behind::start(test, "s-spec") else { return };
    behind.apply("a", &json!({}));
    behind.settled("a", 1);
    let old = object(&behind.kubectl, "a");
    behind.apply("a", &json!({ "runPolicy": "Halted" }));
    behind.settled("a", 2);
    let first = uid(&behind, "a");
    assert_eq!(old["metadata"]["generation"], 1);
    let event = json!({ "type": "MODIFIED", "object": old });
    behind.proxy.rule(Rule::on("watch", "workspaces", Fault::Say(format!("{event}\n"))).times(1));
    behind.proxy.cut();
    later(&mut behind, "b");
    assert_eq!(boots(&behind, &first), 1, "it is halted still");
    assert_eq!(behind.settled("a", 2)["phase"], Value::from("Halted"));
}
