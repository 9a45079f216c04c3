//! Refusals: of those who may not, and of a server that does not know yet who may.

use std::{thread, time::Duration};

use microagent_tests::cluster::{Cluster, Fault, Rule, until};
use serde_json::json;

use super::Behind;
use crate::agent::{Node, condition, object};

/// Long enough for a loop to show.
const LONG: Duration = Duration::from_secs(30);

/// What an API server says to those who may not.
const FORBIDDEN: Fault = Fault::Refuse(
    403,
    r#"workspaces.microagent.dev "a" is forbidden: User "agent" cannot patch resource "workspaces" in API group "microagent.dev""#,
    None,
);

#[test]
fn an_agent_without_rights_says_so_once_and_asks_seldom() {
    let Some(cluster) = Cluster::shared("an_agent_without_rights_says_so_once_and_asks_seldom") else { return };
    let proxy = cluster.proxy(&cluster.kubeconfig_for("nobody", None));
    let mut node = Node::prepare(cluster, "r-none");
    node.use_kubeconfig(proxy.kubeconfig().to_owned());
    node.start_agent();
    let lines = || node.log().lines().filter(|line| line.contains("bind the ClusterRole of the agent")).count();
    until("it says what it may not do, and what to do about it", || lines() == 1);
    let before = proxy.asked().len();
    thread::sleep(LONG);
    let asked = proxy.asked().len() - before;
    // One each five seconds.
    assert!((3..=8).contains(&asked), "{asked} requests: {:#?}", proxy.asked());
    assert_eq!(lines(), 1, "{}", node.log());
}

#[test]
fn an_agent_whose_rights_are_taken_asks_seldom_and_tells_what_is_so_when_it_may() {
    let test = "an_agent_whose_rights_are_taken_asks_seldom_and_tells_what_is_so_when_it_may";
    let Some(mut behind) = Behind::start(test, "r-taken") else { return };
    behind.apply("a", &json!({}));
    behind.settled("a", 1);
    behind.proxy.rule(Rule::on("", "", FORBIDDEN));
    // Seen, and done, and not told. New ones get no machine.
    behind.apply("a", &json!({ "runPolicy": "Halted" }));
    behind.apply("b", &json!({}));
    let before = behind.proxy.asked().len();
    thread::sleep(LONG);
    let asked = behind.proxy.asked().len() - before;
    assert!(asked <= 60, "{asked} requests: {:#?}", behind.said());
    assert_eq!(behind.node.host.fake().boots().len(), 1);
    assert!(behind.node.log().contains("bind the ClusterRole of the agent"), "{}", behind.node.log());
    behind.proxy.calm();
    assert_eq!(behind.settled("a", 2)["phase"], "Halted");
    behind.settled("b", 1);
}

#[test]
fn refusals_of_a_server_that_has_just_come_back_stall_nothing() {
    let test = "refusals_of_a_server_that_has_just_come_back_stall_nothing";
    let Some(behind) = Behind::start(test, "r-new") else { return };
    behind.proxy.rule(Rule::on("watch", "workspaces", Fault::CutRequest).times(1));
    behind.proxy.rule(Rule::on("patch", "workspaces", FORBIDDEN).times(3));
    behind.proxy.cut();
    until("the agent has met trouble", || behind.node.log().contains("cannot be watched"));
    behind.apply("a", &json!({}));
    let mut seen = false;
    until("it is Ready", || {
        let now = object(&behind.kubectl, "a");
        let stalled = condition(&now, "Stalled");
        assert_ne!(stalled["status"], "True", "{stalled}");
        seen |= now["status"].to_string().contains("it has just come back");
        condition(&now, "Ready")["status"] == "True"
    });
    assert!(seen, "it was told why it is waited: {:#?}", behind.said());
}

#[test]
fn the_denial_of_a_policy_is_told_as_one() {
    let test = "the_denial_of_a_policy_is_told_as_one";
    let Some(behind) = Behind::start(test, "r-policy") else { return };
    let denied = r#"workspaces "a" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'p' denied request: no"#;
    behind.proxy.rule(Rule::on("patch", "workspaces", Fault::Refuse(403, denied, None)));
    behind.apply("a", &json!({}));
    until("a person is asked to do something", || {
        condition(&object(&behind.kubectl, "a"), "Stalled")["status"] == "True"
    });
    let told = condition(&object(&behind.kubectl, "a"), "Stalled")["message"].to_string();
    assert!(told.contains("admission policy") && !told.contains("ClusterRole"), "{told}");
    assert_eq!(behind.node.host.machines(), Vec::<String>::new());
}
