//! One kind of fault after another, at every kind of request that an agent makes.

use std::{thread, time::Duration};

use microagent_tests::cluster::{Fault, Rule, until};
use serde_json::json;

use super::{Behind, undisturbed};
use crate::agent::{QUIET, object};

/// Everything that an agent asks for but the watch.
const REQUESTS: [(&str, &str); 9] = [
    ("get", "namespaces"),
    ("get", "leases"),
    ("create", "leases"),
    ("list", "workspaces"),
    ("patch", "nodes"),
    ("patch", "workspaces"),
    ("patch", "workspaces/status"),
    ("get", "workspaces"),
    ("create", "events"),
];

/// Many more than a life with some failures takes, and far fewer than a loop without waits makes in its time.
const ENOUGH: usize = 120;

/// A life in which each kind of request fails so, twice in its course from the start of the agent on.
fn survives(test: &str, node: &str, fault: &Fault, watch: Fault) {
    let (Some(expected), Some(mut behind)) = (undisturbed(test), Behind::prepare(test, node)) else { return };
    for (verb, resource) in REQUESTS {
        behind.proxy.rule(Rule::on(verb, resource, fault.clone()).times(2));
    }
    behind.proxy.rule(Rule::on("watch", "workspaces", watch).times(2));
    behind.node.start_agent();
    assert_eq!(behind.live("a"), *expected, "{:#?}", behind.said());
    assert!(behind.requests() < ENOUGH, "{:#?}", behind.said());
    let met = behind.proxy.asked().iter().filter(|asked| asked.code.is_none_or(|code| code >= 400)).count();
    let is_told = !matches!(fault, Fault::CutAnswer);
    assert!(!is_told || met >= REQUESTS.len(), "the faults were met: {:#?}", behind.said());
}

#[test]
fn requests_that_are_cut_are_made_again() {
    survives("requests_that_are_cut_are_made_again", "f-cut", &Fault::CutRequest, Fault::CutRequest);
}

#[test]
fn writes_whose_replies_are_lost_are_done_once() {
    survives("writes_whose_replies_are_lost_are_done_once", "f-lost", &Fault::LostReply, Fault::CutAnswer);
}

#[test]
fn answers_that_break_off_are_not_believed() {
    survives("answers_that_break_off_are_not_believed", "f-half", &Fault::CutAnswer, Fault::CutAnswer);
}

#[test]
fn an_api_server_that_fails_inside_is_asked_again() {
    let fault = Fault::Refuse(500, "etcdserver: leader changed", None);
    survives("an_api_server_that_fails_inside_is_asked_again", "f-500", &fault, fault.clone());
}

#[test]
fn an_api_server_that_is_not_ready_is_asked_again() {
    let fault = Fault::Refuse(503, "apiserver not ready", None);
    survives("an_api_server_that_is_not_ready_is_asked_again", "f-503", &fault, fault.clone());
}

#[test]
fn an_api_server_with_too_much_to_do_is_given_the_time_that_it_asks_for() {
    let test = "an_api_server_with_too_much_to_do_is_given_the_time_that_it_asks_for";
    let fault = Fault::Refuse(429, "too many requests", Some(1));
    survives(test, "f-429", &fault, fault.clone());
}

#[test]
fn a_watch_that_is_too_old_becomes_a_listing() {
    let test = "a_watch_that_is_too_old_becomes_a_listing";
    let (Some(expected), Some(mut behind)) = (undisturbed(test), Behind::start(test, "f-410")) else { return };
    for (name, fault) in [("event", Fault::ErrorEvent(410)), ("answer", Fault::Refuse(410, "too old", None))] {
        let before = behind.proxy.count("list", "workspaces");
        // As a server does: what was asked for is too old however often it is asked for.
        behind.proxy.rule(Rule::on("watch", "workspaces", fault).until("list", "workspaces"));
        behind.proxy.cut();
        behind.apply(name, &json!({}));
        until("it is listed anew", || behind.proxy.count("list", "workspaces") > before);
        behind.settled(name, 1);
        behind.proxy.calm();
        let _ = behind.kubectl.ok(["delete", "workspace", name, "--timeout=60s"]);
    }
    assert_eq!(behind.live("a"), *expected, "{:#?}", behind.said());
    assert!(behind.requests() < ENOUGH, "{:#?}", behind.said());
}

#[test]
fn a_silent_watch_holds_nothing_else_up() {
    let test = "a_silent_watch_holds_nothing_else_up";
    let (Some(expected), Some(mut behind)) = (undisturbed(test), Behind::start(test, "f-silent")) else { return };
    behind.apply("falls", &json!({ "command": ["exit", "1", "1500"] }));
    until("it was booted", || !behind.node.host.fake().boots().is_empty());
    // Each of them, as the agent may begin one of its own accord just before the cut.
    behind.proxy.rule(Rule::on("watch", "workspaces", Fault::Silent));
    let before = behind.proxy.count("watch", "workspaces");
    behind.proxy.cut();
    until("it is watched anew", || behind.proxy.count("watch", "workspaces") > before);
    behind.apply("unseen", &json!({}));
    // What is here is kept up, and told, while nothing is heard.
    let restarts = || object(&behind.kubectl, "falls")["status"]["restarts"]["count"].as_u64().unwrap_or_default();
    let before = restarts();
    until("what fails is started again, and that is told", || restarts() > before);
    assert!(object(&behind.kubectl, "unseen")["status"]["conditions"].is_null(), "nobody told the agent");
    behind.proxy.calm();
    behind.proxy.cut();
    behind.settled("unseen", 1);
    let _ = behind.kubectl.ok(["delete", "workspace", "unseen", "falls", "--timeout=60s"]);
    assert_eq!(behind.live("a"), *expected);
}

#[test]
fn a_slow_api_server_makes_nothing_wrong() {
    let test = "a_slow_api_server_makes_nothing_wrong";
    let (Some(expected), Some(mut behind)) = (undisturbed(test), Behind::prepare(test, "f-slow")) else { return };
    behind.proxy.rule(Rule::on("", "", Fault::Delay(Duration::from_secs(2))));
    behind.node.start_agent();
    assert_eq!(behind.live("a"), *expected, "{:#?}", behind.said());
    assert!(behind.requests() < ENOUGH, "{:#?}", behind.said());
}

#[test]
fn answers_that_come_too_late_are_as_good_as_lost() {
    let test = "answers_that_come_too_late_are_as_good_as_lost";
    let (Some(expected), Some(mut behind)) = (undisturbed(test), Behind::start(test, "f-late")) else { return };
    let late = Fault::Delay(Duration::from_secs(15));
    for (verb, resource) in [("patch", "workspaces"), ("patch", "workspaces/status")] {
        behind.proxy.rule(Rule::on(verb, resource, late.clone()).times(1));
    }
    assert_eq!(behind.live("a"), *expected, "{:#?}", behind.said());
}

#[test]
fn a_watch_that_is_ended_at_once_is_not_begun_in_a_hurry() {
    let test = "a_watch_that_is_ended_at_once_is_not_begun_in_a_hurry";
    let Some(mut behind) = Behind::start(test, "f-ended") else { return };
    behind.proxy.rule(Rule::on("watch", "workspaces", Fault::Say(String::new())));
    behind.proxy.cut();
    let before = behind.proxy.count("watch", "workspaces");
    thread::sleep(QUIET * 3);
    let watches = behind.proxy.count("watch", "workspaces") - before;
    assert!(watches < 30, "{watches} watches in {} s", (QUIET * 3).as_secs());
    behind.proxy.calm();
    behind.apply("a", &json!({}));
    behind.settled("a", 1);
}
