//! The agent is killed at each request of a life, before it is carried out and after.

use microagent_tests::cluster::{Fault, Rule};

use super::{Behind, undisturbed};

/// A life has about ten requests; one that has so many never ends.
const MOST: usize = 60;

/// Kills the agent at the first request of a life, in the next life at the second, and so on, until one has no more.
fn killed_at_each(test: &str, node: &str, fault: &Fault) {
    let (Some(expected), Some(mut behind)) = (undisturbed(test), Behind::start(test, node)) else { return };
    for nth in 0..MOST {
        let before = behind.killed;
        // But for those that an agent makes with or without workspaces.
        let rule = Rule::on("", "", fault.clone()).except(&["leases", "nodes", "namespaces"]).after(nth).times(1);
        behind.proxy.rule(rule);
        let told = behind.live(&format!("a{nth}"));
        behind.proxy.calm();
        assert_eq!(told, *expected, "killed at request {nth}: {:#?}", behind.said());
        if behind.killed == before {
            // The finalizer on and off, and two statuses, at the very least.
            assert!(nth >= 4, "{nth} requests: {:#?}", behind.said());
            return;
        }
    }
    panic!("a life has no end: {:#?}", behind.said());
}

#[test]
fn an_agent_that_is_killed_before_any_of_its_requests_is_carried_out_loses_nothing() {
    let test = "an_agent_that_is_killed_before_any_of_its_requests_is_carried_out_loses_nothing";
    killed_at_each(test, "k-before", &Fault::Hold);
}

#[test]
fn an_agent_that_is_killed_after_any_of_its_requests_is_carried_out_does_nothing_twice() {
    let test = "an_agent_that_is_killed_after_any_of_its_requests_is_carried_out_does_nothing_twice";
    killed_at_each(test, "k-after", &Fault::HoldReply);
}
