//! The cache of images beside a controller that is up and a machine that runs.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use microagent_tests::host::{Host, manifest, started};
use serde_json::{Value, json};

fn json_of<const N: usize>(host: &Host, args: [&str; N]) -> Value {
    serde_json::from_str(&host.ok(args)).unwrap()
}

#[test]
fn what_a_running_workspace_needs_is_never_removed_and_goes_after_it() {
    let Some((_registry, image, host)) = started("images") else { return };
    let spec = json!({
        "command": ["/bin/sh", "-c", "echo up; exec sleep 100000"],
        "lifecycle": { "terminationGracePeriodSeconds": 1 },
    });
    host.drop_file("web.yaml", &manifest("web", &image, &spec));
    host.wait("web", "Ready");
    let listed = json_of(&host, ["image", "list", "-o", "json"]);
    assert_eq!(listed[0]["usedBy"], json!(["workspace default/web"]), "{listed}");
    assert!(listed[0]["rootDisk"].as_u64().unwrap() > 0, "{listed}");

    let pruned = json_of(&host, ["image", "prune", "--all", "-o", "json"]);
    assert_eq!((&pruned["images"], &pruned["rootDisks"], &pruned["bytes"]), (&json!([]), &json!([]), &json!(0)));
    let refused = host.command("microagent").args(["image", "remove", &image]).output().unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.status.code() == Some(1) && said.contains("in use by workspace default/web"), "{said}");
    // Its name may go: the workspace keeps what it has, and starts from it again.
    let _ = host.ok(["image", "remove", "--force", &image]);
    let pruned = json_of(&host, ["image", "prune", "--all", "-o", "json"]);
    assert_eq!(pruned["bytes"], json!(0), "{pruned}");
    let _ = host.ok(["restart", "web", "--wait"]);
    assert_eq!(host.ok(["exec", "web", "--", "echo", "here"]), "here\n");

    fs::remove_file(host.folder().join("web.yaml")).unwrap();
    host.wait_deleted("web");
    let pruned = json_of(&host, ["image", "prune", "-o", "json"]);
    assert_eq!((pruned["images"].as_array().unwrap().len(), pruned["rootDisks"].as_array().unwrap().len()), (1, 1));
    assert_eq!(json_of(&host, ["image", "list", "-o", "json"]), json!([]));
    // Another one pulls it anew.
    host.drop_file("again.yaml", &manifest("again", &image, &spec));
    host.wait("again", "Ready");
    fs::remove_file(host.folder().join("again.yaml")).unwrap();
    host.wait_deleted("again");
}
