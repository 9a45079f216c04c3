//! What is wrong, end to end: it is told in the conditions of its own workspace and in `describe`, with what, where, why and
//! what to do; the controller goes on, another workspace is untouched, and nothing half-made stays.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod full_disk;
mod guest;
mod host;
mod image;
mod kernel;
mod manifest;

use std::fs;

use microagent_tests::host::{Host, manifest};
use serde_json::{Value, json};

/// A workload that says so and then stays.
fn stays() -> Value {
    json!({ "command": ["/bin/sh", "-c", "echo up; exec sleep 100000"], "lifecycle": { "terminationGracePeriodSeconds": 1 } })
}

/// A workspace that is to be made and not to run.
fn halted() -> Value {
    json!({ "runPolicy": "Halted" })
}

/// Waits until the condition is so for this reason, and holds that it and `describe` say each of these words.
fn assert_told(host: &Host, name: &str, condition: &str, reason: &str, words: &[&str]) {
    let _ = host.told(name, condition, reason, words);
    let page = host.ok(["describe", name]);
    assert!(page.contains(reason), "describe does not name {reason}:\n{page}");
    for word in words {
        assert!(page.contains(word), "describe does not say {word:?}:\n{page}");
    }
}

/// A workspace that must come through what happens to others.
struct Bystander {
    name: &'static str,
    boot: Value,
}

impl Bystander {
    /// Starts it.
    fn start(host: &Host, image: &str) -> Self {
        let name = "bystander";
        host.drop_file("bystander.yaml", &manifest(name, image, &stays()));
        host.wait(name, "Ready");
        Self { name, boot: host.object(name)["status"]["bootId"].clone() }
    }

    /// Holds that it runs on in the same machine.
    fn assert_untouched(&self, host: &Host) {
        assert_eq!(host.ok(["exec", self.name, "--", "echo", "alive"]), "alive\n");
        let object = host.object(self.name);
        assert_eq!(object["status"]["bootId"], self.boot);
        assert_eq!(host.conditions(self.name)["Ready"].0, "True");
    }
}

/// Removes the workspaces' files and holds that nothing of them stays.
fn assert_leave_nothing(host: &Host, names: &[&str]) {
    let uids: Vec<Value> = names.iter().map(|name| host.object(name)["metadata"]["uid"].clone()).collect();
    for name in names {
        fs::remove_file(host.folder().join(format!("{name}.yaml"))).expect("its manifest");
    }
    for name in names {
        host.wait_deleted(name);
    }
    let left = host.machines();
    for uid in uids {
        assert!(!left.iter().any(|machine| *machine == uid), "{uid} is left");
        assert_eq!(host.processes(uid.as_str().unwrap_or("no uid")), Vec::<String>::new());
    }
    assert_eq!(host.half_made(), Vec::<std::path::PathBuf>::new());
}
