//! Restarts, power states, probes, outputs and ends of workspaces, through the built programs and real machines.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, process::Command};

use microagent_tests::host::{Host, manifest, started};
use serde_json::{Value, json};

/// A workload that says so and then stays, with more of a spec.
fn stays(more: &Value) -> Value {
    let mut spec = json!({
        "command": ["/bin/sh", "-c", "trap 'exit 0' TERM; echo up; while :; do sleep 1; done"],
        "lifecycle": { "terminationGracePeriodSeconds": 5 },
    });
    for (name, value) in more.as_object().unwrap() {
        match spec[name].as_object_mut() {
            Some(known) => known.extend(value.as_object().unwrap().clone()),
            None => spec[name] = value.clone(),
        }
    }
    spec
}

fn boot_id(host: &Host, name: &str) -> String {
    host.object(name)["status"]["bootId"].as_str().unwrap().to_owned()
}

/// The names in a tar archive, sorted.
fn names(archive: &str) -> Vec<String> {
    let listed = Command::new("tar").args(["-tf", archive]).output().unwrap();
    assert!(listed.status.success(), "{archive}: {}", String::from_utf8_lossy(&listed.stderr));
    let mut names: Vec<String> = String::from_utf8(listed.stdout).unwrap().lines().map(str::to_owned).collect();
    names.sort();
    names
}

#[test]
fn a_machine_is_paused_cut_off_resumed_and_restarted_as_wanted() {
    let Some((_registry, image, host)) = started("lifecycle") else { return };
    let put = |power: &str, args: &str| {
        let spec = stays(&json!({ "powerState": power, "env": [{ "name": "ARGS", "value": args }] }));
        host.drop_file("web.yaml", &manifest("web", &image, &spec));
    };
    put("Running", "a");
    host.wait("web", "Ready");
    let first = boot_id(&host, "web");

    put("Paused", "a");
    let _ = host.told("web", "Ready", "Paused", &[]);
    assert_eq!(host.conditions("web")["Running"].1, "Paused");
    put("Quarantined", "a");
    let _ = host.told("web", "Ready", "Quarantined", &[]);
    let (_, said) = host.fails(["exec", "web", "--", "true"]);
    assert!(!said.is_empty(), "nothing reaches a machine that is cut off");
    put("Running", "a");
    let _ = host.told("web", "Ready", "Running", &[]);
    assert_eq!(host.ok(["exec", "web", "--", "echo", "there"]), "there\n");
    assert_eq!(boot_id(&host, "web"), first);

    put("Running", "b");
    host.wait("web", "RestartRequired");
    assert_eq!(host.ok(["exec", "web", "--", "/bin/sh", "-c", "echo $ARGS"]), "a\n");
    let _ = host.ok(["restart", "web", "--wait", "--timeout", "300s"]);
    assert_eq!(host.ok(["exec", "web", "--", "/bin/sh", "-c", "echo $ARGS"]), "b\n");
    assert_ne!(boot_id(&host, "web"), first);
    assert_eq!(host.object("web")["status"].get("restarts"), None, "a restart that was asked for is not counted");
    assert_eq!(fs::read_dir(host.state().join("requests")).unwrap().count(), 0, "the request is done");

    fs::remove_file(host.folder().join("web.yaml")).unwrap();
    host.wait_deleted("web");
}

#[test]
fn a_probe_that_fails_has_the_workload_started_again() {
    let Some((_registry, image, host)) = started("lifecycle") else { return };
    let probe = json!({
        "exec": { "command": ["/bin/test", "!", "-e", "/broken"] },
        "periodSeconds": 1,
        "timeoutSeconds": 30,
        "failureThreshold": 2,
    });
    // The overlay is the same at the next start: the workload mends what was broken.
    let spec = stays(&json!({
        "health": probe,
        "command": ["/bin/sh", "-c", "rm -f /broken; trap 'exit 0' TERM; while :; do sleep 1; done"],
    }));
    host.drop_file("web.yaml", &manifest("web", &image, &spec));
    host.wait("web", "Healthy");
    host.wait("web", "Ready");
    let first = boot_id(&host, "web");
    let _ = host.ok(["exec", "web", "--", "touch", "/broken"]);
    host.wait("web", "Healthy=False");
    host.wait("web", "Healthy");
    host.wait("web", "Ready");
    let object = host.object("web");
    assert_ne!(boot_id(&host, "web"), first);
    assert_eq!(object["status"]["restarts"]["count"], 1);
    assert!(object["status"]["result"]["message"].as_str().unwrap().contains("the health probe failed"), "{object:#}");
    fs::remove_file(host.folder().join("web.yaml")).unwrap();
    host.wait_deleted("web");
}

#[test]
fn outputs_and_retained_disks_outlive_the_workspace() {
    let Some((_registry, image, host)) = started("lifecycle") else { return };
    let spec = stays(&json!({
        "command": ["/bin/sh", "-c", "mkdir /out; echo one > /out/a; trap 'echo two > /out/b; exit 0' TERM; while :; do sleep 1; done"],
        "outputs": [{ "name": "report", "path": "/out" }, { "name": "gone", "path": "/no/such" }],
        "lifecycle": { "terminationGracePeriodSeconds": 10, "onDelete": "Retain" },
    }));
    host.drop_file("web.yaml", &manifest("web", &image, &spec));
    host.wait("web", "Ready");
    let uid = host.object("web")["metadata"]["uid"].as_str().unwrap().to_owned();
    // The file exists once the workload has come so far.
    let _ = host.ok(["exec", "web", "--", "/bin/sh", "-c", "until [ -e /out/a ]; do sleep 0.1; done"]);
    fs::remove_file(host.folder().join("web.yaml")).unwrap();
    host.wait_deleted("web");
    assert_eq!(host.processes(&uid), Vec::<String>::new());
    assert!(!host.state().join("machines").join(&uid).exists());
    let kept = host.state().join("artifacts/default/web").join(&uid);
    let list: Value = serde_json::from_slice(&fs::read(kept.join("kept.json")).unwrap()).unwrap();
    let report = &list["artifacts"][0];
    assert_eq!(names(report["path"].as_str().unwrap()), ["out/", "out/a", "out/b"], "{list:#}");
    assert!(list["artifacts"][1]["error"].as_str().unwrap().contains("/no/such"), "{list:#}");
    let retained = host.state().join("retained/default/web").join(&uid);
    assert_eq!(host.check_disks(&retained), 1);
}

#[test]
fn what_has_finished_goes_after_its_time_to_live_and_a_file_keeps_it_from_coming_again() {
    let Some((_registry, image, host)) = started("lifecycle") else { return };
    let spec = json!({ "runPolicy": "Once", "command": ["/bin/true"], "lifecycle": { "ttlSecondsAfterFinished": 1 } });
    host.drop_file("job.yaml", &manifest("job", &image, &spec));
    let _ = host.told("job", "Ready", "Expired", &[]);
    let object = host.object("job");
    let uid = object["metadata"]["uid"].as_str().unwrap();
    assert_eq!(object["status"]["phase"], "Succeeded");
    assert!(!host.state().join("machines").join(uid).exists());
    fs::remove_file(host.folder().join("job.yaml")).unwrap();
    host.wait_deleted("job");

    // What `apply` declared is ours to take back.
    let path = host.scratch().join("ours.yaml");
    fs::write(&path, manifest("ours", &image, &spec)).unwrap();
    let _ = host.ok(["apply", "-f", path.to_str().unwrap()]);
    host.wait_deleted("ours");
    assert_eq!(fs::read_dir(host.state().join("manifests")).unwrap().count(), 0);
}
