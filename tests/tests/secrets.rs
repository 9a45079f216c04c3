//! Secrets of a folder's workspaces, in a real machine: what the workload has, and that no file of the host has it.

use std::{fs, os::unix::fs::PermissionsExt};

use microagent_tests::{
    host::{Host, busybox_image, manifest},
    leaks::files_with,
    registry::Registry,
};
use serde_json::json;

const IN_ENV: &str = "correct-horse-battery-staple";
const IN_FILE: &str = "tr0ub4dor-and-three-more";

#[test]
fn a_workload_has_its_secrets_and_no_file_of_the_host_does() {
    let Some(registry) = Registry::start("secrets") else { return };
    let image = busybox_image().build().push(&registry, "demo/web", "1");
    let mut host = Host::new();
    host.start_controller_with(|command| {
        command.env("API_TOKEN", IN_ENV);
    });
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("key");
    let spec = json!({
        "user": "app",
        "setup": [{ "run": "[ ${#TOKEN} = 28 ] && [ -s /etc/app/key ]" }],
        "command": ["/bin/sh", "-c", "echo ${#TOKEN} $(wc -c < /etc/app/key); stat -c '%U %a' /etc/app/key; exec sleep 100000"],
        "secrets": [
            { "name": "token", "env": "TOKEN", "from": { "env": "API_TOKEN" } },
            { "name": "key", "path": "/etc/app/key", "from": { "file": file } },
        ],
        "outputs": [{ "name": "etc", "path": "/etc" }],
        "lifecycle": { "terminationGracePeriodSeconds": 1 },
    });
    host.drop_file("web.yaml", &manifest("web", &image, &spec));
    let message =
        host.told("web", "MachineStarted=False", "SecretUnavailable", &["`key`", file.to_str().unwrap(), "not exist"]);
    assert!(!message.contains(IN_ENV));
    fs::write(&file, IN_FILE).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    host.wait("web", "Ready");
    let lengths = format!("{} {}\napp 400\n", IN_ENV.len(), IN_FILE.len());
    assert_eq!(host.first_lines("web", 2), lengths);
    assert_eq!(
        host.ok(["exec", "web", "--", "/bin/sh", "-c", "echo $TOKEN; cat /etc/app/key"]),
        format!("{IN_ENV}\n{IN_FILE}")
    );
    for shown in [host.ok(["describe", "web"]), host.ok(["get", "web", "-o", "yaml"]), host.ok(["events"])] {
        assert!(!shown.contains(IN_ENV) && !shown.contains(IN_FILE), "{shown}");
    }

    let object = host.object("web");
    let uid = object["metadata"]["uid"].as_str().unwrap();
    for line in host.processes(uid) {
        assert!(!line.contains(IN_ENV) && !line.contains(IN_FILE), "{line}");
    }
    // Once while it runs, and once when all was written that ever is.
    let none = |when: &str| {
        for value in [IN_ENV, IN_FILE] {
            let (found, _) = files_with(host.scratch(), value);
            assert!(found.is_empty(), "{when}: {found:?}");
        }
        let (_, read) = files_with(&host.state(), IN_ENV);
        assert!(read > 10, "{when}: {read} files were read");
    };
    none("while it runs");
    host.drop_file(
        "web.yaml",
        &manifest("web", &image, &{
            let mut halted = spec.clone();
            halted["runPolicy"] = json!("Halted");
            halted
        }),
    );
    host.wait("web", "Running=False");
    host.wait("web", "Ready");
    assert_eq!(host.object("web")["status"]["artifacts"][0]["name"], "etc");
    none("when it is halted");
}
