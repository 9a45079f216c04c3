//! What happens in the guest, and to it.

use std::fs;

use microagent_tests::{
    host::{Host, busybox_image, manifest},
    registry::Registry,
};
use serde_json::{Value, json};

use crate::{assert_leave_nothing, assert_told, halted, stays};

#[test]
fn a_setup_command_that_fails_and_a_user_that_is_not_there_are_told_with_their_names() {
    let Some(registry) = Registry::start("bad_guest") else { return };
    let image = busybox_image().build().push(&registry, "demo/web", "1");
    let mut host = Host::new();
    host.start_controller();
    let setup = json!({ "setup": [{ "run": "true" }, { "run": "echo trying; exit 3" }], "command": ["/bin/true"] });
    host.drop_file("setup.yaml", &manifest("setup", &image, &setup));
    host.drop_file("user.yaml", &manifest("user", &image, &json!({ "user": "nobody-here", "command": ["/bin/true"] })));
    assert_told(&host, "user", "Stalled", "UserNotFound", &["nobody-here", "/etc/passwd", "use a name that is"]);
    host.drop_file("user.yaml", &manifest("user", &image, &halted()));
    let words = ["setup command 2", "echo trying; exit 3", "exited with code 3", "microagent logs setup", "spec.setup"];
    assert_told(&host, "setup", "SetupComplete=False", "SetupFailed", &words);
    assert!(host.ok(["logs", "setup"]).contains("trying"));
    host.drop_file("setup.yaml", &manifest("setup", &image, &halted()));
    host.wait("setup", "Ready");
    assert_leave_nothing(&host, &["setup", "user"]);
}

#[test]
fn a_machine_that_is_killed_is_told_as_that_and_started_again_with_its_disk() {
    let Some(registry) = Registry::start("killed_guest") else { return };
    let image = busybox_image().build().push(&registry, "demo/web", "1");
    let mut host = Host::new();
    host.start_controller();
    let mut spec = stays();
    spec["setup"] = json!([{ "run": "echo once >> /count" }]);
    host.drop_file("web.yaml", &manifest("web", &image, &spec));
    host.wait("web", "Ready");
    let before = host.object("web");
    let uid = before["metadata"]["uid"].as_str().expect("a UID");
    let record =
        fs::read(host.state().join("machines").join(uid).join("vm/machine.json")).expect("the machine's record");
    let record: Value = serde_json::from_slice(&record).expect("JSON");
    let vmm = record["vmm"]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("the VMM's process id");
    let killed = std::process::Command::new("sh").args(["-c", &format!("kill -KILL {vmm}")]).status().expect("kill");
    assert!(killed.success());

    assert_told(&host, "web", "Ready=False", "BackingOff", &["SIGKILL", "started again"]);
    host.wait("web", "Ready");
    let after = host.object("web");
    assert_ne!(before["status"]["bootId"], after["status"]["bootId"]);
    assert_eq!(before["metadata"]["uid"], after["metadata"]["uid"]);
    assert_eq!(after["status"]["restarts"]["count"], 1);
    let message = after["status"]["result"]["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.contains("SIGKILL"), "the status tells how the last run ended: {message}");
    assert_eq!(host.ok(["exec", "web", "--", "cat", "/count"]), "once\n", "setup is not run a second time");
    assert_leave_nothing(&host, &["web"]);
}
