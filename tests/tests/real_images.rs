//! Workspaces of a distribution's own images: through the built programs and real machines.

use std::{fs, path::Path, process::Command};

use microagent_tests::host::{Host, manifest};
use serde_json::json;

/// What only a tree that came over whole can do: interpreters with thousands of files, links that are absolute, capabilities of files,
/// owners, devices and sparse files.
const WORK: &str = r#"
python3 -c 'import json, ssl, sqlite3; print(json.dumps({"python": True}))'
getcap /special/capable
stat -c '%u %g %a' /special/setuid
stat -c '%s' /special/sparse
stat -c '%t %T' /special/wide
stat -c '%h' /special/third
dpkg --verify coreutils && echo verified
"#;

#[test]
fn a_distributions_image_with_every_kind_of_file_runs_as_it_was_made() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/real-images");
    let made = Command::new(script).arg("test").output().unwrap();
    if !made.status.success() {
        let why = String::from_utf8_lossy(&made.stderr);
        let why = why.lines().last().unwrap_or_default();
        println!("SKIP a_distributions_image_with_every_kind_of_file_runs_as_it_was_made: no real images: {why}");
        return;
    }
    let images = String::from_utf8_lossy(&made.stdout).trim_end().to_owned();
    let mut host = Host::new();
    host.start_controller();
    let spec = json!({ "runPolicy": "Once", "command": ["/bin/sh", "-c", WORK], "resources": { "memory": "512Mi" } });
    host.drop_file("web.yaml", &manifest("web", &format!("oci-layout:{images}/special:latest"), &spec));
    let _ = host.told("web", "Ready", "Succeeded", &[]);
    let told = host.ok(["logs", "web"]);
    let expected = [
        r#"{"python": true}"#,
        "/special/capable cap_net_admin,cap_net_raw=ep",
        "70000 4294967294 6755",
        "314572800",
        "103 11170",
        "3",
        "verified",
    ];
    assert_eq!(told.lines().collect::<Vec<_>>(), expected);
    fs::remove_file(host.folder().join("web.yaml")).unwrap();
    host.wait_deleted("web");
}
