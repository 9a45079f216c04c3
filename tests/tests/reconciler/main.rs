//! The reconciler against a supervisor whose machines are processes: the real controller, killed at any moment, and told lies.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod killed;
mod liars;
mod owners;

use std::{
    thread,
    time::{Duration, Instant},
};

use microagent_tests::host::Host;
use serde_json::json;

/// For everything that must happen; long, as the machines that run tests are busy.
const PATIENCE: Duration = Duration::from_secs(300);

/// Waits until something is so.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "it never comes to that: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_machine_of_the_fake_supervisor_lives_and_goes_as_a_real_one() {
    let mut host = Host::with_fake_machines();
    host.start_controller();
    host.drop_file("web.yaml", &host.fake_manifest("web", &json!({})));
    host.wait("web", "Ready");
    let uid = host.object("web")["metadata"]["uid"].as_str().expect("a uid").to_owned();
    assert_eq!(host.processes(&uid).len(), 1);
    assert_eq!(host.fake().boots().len(), 1);
    std::fs::remove_file(host.folder().join("web.yaml")).expect("its manifest");
    host.wait_deleted("web");
    assert_eq!(host.processes(&uid), Vec::<String>::new());
}
