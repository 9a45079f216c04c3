//! The main job through the built programs, a real registry and real machines.

use std::fs;

use microagent_tests::{
    host::{Host, busybox_image, manifest, started},
    registry::Registry,
};
use serde_json::{Value, json};

/// A workload that says so and then stays.
fn stays() -> Value {
    json!({ "command": ["/bin/sh", "-c", "echo up; exec sleep 100000"], "lifecycle": { "terminationGracePeriodSeconds": 1 } })
}

#[test]
fn a_manifest_in_the_folder_becomes_a_machine_and_goes_with_its_file() {
    let Some((_registry, image, host)) = started("main_job") else { return };
    let spec = json!({
        "setup": [{ "run": "echo first > /order" }, { "run": "echo second >> /order" }],
        "command": ["/bin/sh", "-c", "cat /order /etc/greeting /data/kept; id -un; pwd; echo $FROM_IMAGE $OWN; echo loud >&2; exec sleep 100000"],
        "env": [{ "name": "OWN", "value": "also" }],
        "user": "app",
        "workingDir": "/tmp",
        "files": [{ "path": "/etc/greeting", "content": "hello\n", "mode": "0640", "owner": "app:app" }],
        "disks": [{ "name": "data", "mountPath": "/data", "source": { "empty": { "size": "64Mi" } } }],
        "lifecycle": { "terminationGracePeriodSeconds": 1 },
    });
    let mut spec = spec;
    spec["setup"].as_array_mut().unwrap().push(json!({ "run": "echo kept > /data/kept" }));
    host.drop_file("web.yaml", &manifest("web", &image, &spec));
    host.wait("web", "Ready");

    let conditions = host.conditions("web");
    for name in [
        "ImageResolved",
        "RootfsBuilt",
        "KernelInstalled",
        "MachineStarted",
        "GuestReady",
        "SetupComplete",
        "Running",
        "Ready",
    ] {
        assert_eq!(conditions[name].0, "True", "{name}: {:?}", conditions[name]);
    }
    for name in ["Reconciling", "Stalled", "RestartRequired"] {
        assert_eq!(conditions[name].0, "False", "{name}: {:?}", conditions[name]);
    }
    let object = host.object("web");
    assert_eq!(object["status"]["phase"], "Running");
    assert_eq!(object["status"]["observedGeneration"], 1);
    assert!(object["status"]["timings"]["guest.workload"].as_u64().is_some(), "{object:#}");

    let said = host.ok(["exec", "web", "--", "/bin/sh", "-c", "cat /order; stat -c '%a %u' /etc/greeting; hostname"]);
    assert_eq!(said, "first\nsecond\n640 1000\nweb\n");
    assert_eq!(host.microagent(["exec", "web", "--", "/bin/sh", "-c", "exit 3"]).status.code(), Some(3));
    assert_eq!(host.first_lines("web", 7), "first\nsecond\nhello\nkept\napp\n/tmp\nyes also\n");

    let uid = object["metadata"]["uid"].as_str().unwrap().to_owned();
    assert!(!host.processes(&uid).is_empty(), "the machine's processes name its UID");
    assert_eq!(host.check_disks(&host.cache().join("images")), 1);
    assert!(host.ok(["describe", "web"]).contains("Running"));

    fs::remove_file(host.folder().join("web.yaml")).unwrap();
    host.wait_deleted("web");
    assert_eq!(host.processes(&uid), Vec::<String>::new());
    assert!(!host.state().join("machines").join(&uid).exists());
    assert!(!host.state().join("workspaces/default/web.json").exists());
    assert!(!host.state().join("status/default/web.json").exists());
}

#[test]
fn a_stopped_machine_keeps_its_disks_clean_and_its_setup_done() {
    let Some((_registry, image, host)) = started("disks") else { return };
    let spec = |policy: &str| {
        json!({
            "runPolicy": policy,
            "setup": [{ "run": "echo once >> /count" }],
            "command": ["/bin/sh", "-c", "cat /count; exec sleep 100000"],
            "lifecycle": { "terminationGracePeriodSeconds": 1 },
        })
    };
    host.drop_file("web.yaml", &manifest("web", &image, &spec("Always")));
    host.wait("web", "Running");
    let first = host.object("web")["status"]["bootId"].clone();
    host.drop_file("web.yaml", &manifest("web", &image, &spec("Halted")));
    host.wait("web", "Running=False");
    host.wait("web", "Ready");
    assert_eq!(host.object("web")["status"]["phase"], "Halted");
    assert_eq!(host.check_disks(&host.state().join("machines")), 1);
    host.drop_file("web.yaml", &manifest("web", &image, &spec("Always")));
    host.wait("web", "Running");
    assert_ne!(host.object("web")["status"]["bootId"], first);
    assert_eq!(host.ok(["exec", "web", "--", "cat", "/count"]), "once\n");
}

#[test]
fn two_workspaces_of_one_image_share_one_pull_and_one_baseline() {
    let Some(registry) = Registry::start("shared") else { return };
    let image = busybox_image().build().push(&registry, "demo/web", "1");
    let mut host = Host::new();
    let both = format!("{}\n---\n{}\n", manifest("one", &image, &stays()), manifest("two", &image, &stays()));
    host.drop_file("both.yaml", &both);
    host.start_controller();
    host.wait("one", "Ready");
    host.wait("two", "Ready");
    assert_eq!(host.check_disks(&host.cache().join("images")), 1, "one baseline");
    assert_eq!(registry.blob_downloads(), 2, "one layer and one config, each fetched once");
    assert_ne!(host.object("one")["status"]["bootId"], host.object("two")["status"]["bootId"]);
}

#[test]
fn a_workload_that_fails_with_7_leaves_7_in_the_status() {
    let Some((_registry, image, host)) = started("seven") else { return };
    let spec = json!({ "runPolicy": "Once", "command": ["/bin/sh", "-c", "echo before the end; exit 7"] });
    host.drop_file("seven.yaml", &manifest("seven", &image, &spec));
    host.wait("seven", "Stalled");
    let status = &host.object("seven")["status"];
    assert_eq!((&status["result"]["exitCode"], &status["phase"]), (&json!(7), &json!("Failed")));
    let conditions = host.conditions("seven");
    assert_eq!(conditions["Ready"].1, "WorkloadFailed");
    assert_eq!(host.ok(["logs", "seven"]), "before the end\n");
}

#[test]
fn run_passes_output_and_exit_code_through_and_leaves_nothing() {
    let Some(registry) = Registry::start("run") else { return };
    let image = busybox_image().build().push(&registry, "demo/web", "1");
    let host = Host::new();
    let output =
        host.microagent(["run", "--memory", "128Mi", &image, "--", "/bin/sh", "-c", "echo out; echo err >&2; exit 5"]);
    assert_eq!(output.status.code(), Some(5), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "out\n");
    assert!(String::from_utf8_lossy(&output.stderr).lines().any(|line| line == "err"));
    let machines = fs::read_dir(host.state().join("machines")).unwrap().count();
    assert_eq!(machines, 0);
}

#[test]
fn a_controller_that_is_killed_finds_the_same_machine_again() {
    let Some((_registry, image, mut host)) = started("killed") else { return };
    host.drop_file("web.yaml", &manifest("web", &image, &stays()));
    // The first time the guest is on its way up; then it runs.
    host.wait("web", "MachineStarted");
    let before = host.object("web");
    let processes = host.processes(before["metadata"]["uid"].as_str().unwrap());
    for kill in 0..3 {
        host.kill_controller();
        if kill > 0 {
            let said = host.ok(["exec", "web", "--", "echo", "alive"]);
            assert_eq!(said, "alive\n", "a machine outlives its controller");
        }
        host.start_controller();
        // Something that only the new controller can do tells that it has taken up its work.
        let probe = format!("probe-{kill}");
        host.drop_file(&format!("{probe}.yaml"), &manifest(&probe, &image, &json!({ "runPolicy": "Halted" })));
        host.wait(&probe, "Ready");
        host.wait("web", "Ready");
        let after = host.object("web");
        assert_eq!(before["status"]["bootId"], after["status"]["bootId"]);
        assert_eq!(before["metadata"]["uid"], after["metadata"]["uid"]);
        assert_eq!(processes, host.processes(after["metadata"]["uid"].as_str().unwrap()), "the very same processes");
    }
}

#[test]
fn a_folder_that_disappears_deletes_nothing() {
    let Some((_registry, image, host)) = started("folder") else { return };
    host.drop_file("web.yaml", &manifest("web", &image, &stays()));
    host.wait("web", "Ready");
    let before = host.object("web");
    fs::remove_dir_all(host.folder()).unwrap();
    // The managed folder is listed together with the one that is gone: each of these takes a listing of both.
    for name in ["a", "b", "c"] {
        let path = host.scratch().join(format!("{name}.yaml"));
        fs::write(&path, manifest(name, &image, &json!({ "runPolicy": "Halted" }))).unwrap();
        let _ = host.ok(["apply", "-f", path.to_str().unwrap()]);
        host.wait(name, "Ready");
        let _ = host.ok(["delete", name]);
    }
    let after = host.object("web");
    assert_eq!(before["status"]["bootId"], after["status"]["bootId"]);
    assert_eq!(after["metadata"]["deletionTimestamp"], Value::Null);
    assert_eq!(host.ok(["exec", "web", "--", "echo", "alive"]), "alive\n");
}

#[test]
fn what_is_wrong_with_one_workspace_is_told_there_and_harms_no_other() {
    let Some((registry, image, host)) = started("wrong") else { return };
    host.drop_file("good.yaml", &manifest("good", &image, &stays()));
    let missing = format!("{}/demo/absent:1", registry.addr());
    host.drop_file("no-image.yaml", &manifest("no-image", &missing, &json!({})));
    let unreachable = "127.0.0.1:1/demo/web:1";
    host.drop_file("no-registry.yaml", &manifest("no-registry", unreachable, &json!({})));
    host.drop_file("no-program.yaml", &manifest("no-program", &image, &json!({ "command": ["/no/such/program"] })));
    host.drop_file(
        "no-kernel.yaml",
        &manifest("no-kernel", &image, &json!({ "kernel": { "source": "path", "path": "/no/vmlinux" } })),
    );
    host.drop_file("unknown-key.yaml", &manifest("unknown-key", &image, &json!({ "imagee": "x" })));
    host.drop_file("network.yaml", &manifest("network", &image, &json!({ "network": { "mode": "User" } })));
    host.drop_file("broken.yaml", "apiVersion: microagent.dev/v1alpha1\nkind: [\n");

    host.wait("no-image", "Stalled");
    assert_eq!(host.conditions("no-image")["ImageResolved"].1, "ImageNotFound");
    host.wait("no-registry", "ImageResolved=False");
    host.wait("no-kernel", "Stalled");
    host.wait("no-program", "Stalled");
    let told = &host.conditions("no-program")["Stalled"];
    assert_eq!(told.1, "WorkloadNotFound");
    assert!(told.2.contains("/no/such/program"), "{told:?}");
    host.wait("unknown-key", "Stalled");
    let told = &host.conditions("unknown-key")["Stalled"];
    assert!(told.2.contains("imagee") && told.2.contains("unknown-key.yaml"), "{told:?}");
    host.wait("network", "Stalled");
    assert!(host.conditions("network")["Stalled"].2.contains("not supported yet"));
    let listed = host.microagent(["get"]);
    assert!(String::from_utf8_lossy(&listed.stderr).contains("broken.yaml"), "a file that cannot be read is told of");
    host.wait("good", "Ready");
    assert_eq!(host.first_lines("good", 1), "up\n");
}
