//! Readiness and liveness of the real thing, and its state.

use std::fs;

use crate::controller::{Controller, SECRET, failing, halted, until};

#[test]
fn it_is_ready_when_folders_were_seen_and_a_machine_could_start_and_says_what_is_not() {
    let mut controller = Controller::new();
    controller.let_supervisor_wait();
    // A folder that is a file cannot be listed.
    let wrong = controller.dir().join("wrong");
    fs::write(&wrong, "").unwrap();
    let path = wrong.display().to_string();
    controller.start(["--folder", &path]);
    let why = controller.get_until("/readyz", |_, body| body.contains("cannot be listed"));
    let lines: Vec<&str> = why.lines().collect();
    assert!(lines.len() == 2 && lines[0].contains(&path) && lines[1].starts_with("backend: not known yet"), "{why}");
    assert_eq!(controller.get("/readyz").0, 503);
    assert_eq!(controller.get("/livez"), (200, "ok\n".to_owned()), "one that is not ready lives");

    controller.let_supervisor_answer();
    let why = controller.get_until("/readyz", |_, body| !body.contains("backend"));
    assert!(why.contains(&path), "{why}");
    fs::remove_file(&wrong).unwrap();
    let ready = controller.get_until("/readyz", |status, _| status == 200);
    assert_eq!(ready, "ok\n", "a folder that is not there is known");
    controller.stop();
}

#[test]
fn the_state_tells_all_but_what_stands_in_manifests() {
    let mut controller = Controller::new();
    let folder = controller.folder();
    fs::write(folder.join("quiet.yaml"), halted("quiet")).unwrap();
    fs::write(folder.join("failing.yaml"), failing("failing")).unwrap();
    fs::write(folder.join("broken.yaml"), format!("apiVersion: [{SECRET}\n")).unwrap();
    fs::write(folder.join("refused.yaml"), halted("refused").replace("value:", "valeu:")).unwrap();
    controller.start([]);
    let state = until("all was seen", || {
        let state = controller.debug_state();
        let named = |name: &str| state["workspaces"].as_array().unwrap().iter().find(|w| w["key"] == name).cloned();
        let quiet = named("default/quiet")?;
        let failing = named("default/failing")?;
        (quiet["phase"] == "Halted" && failing["failures"].as_array()?.len() == 2).then_some(state)
    });
    let workspaces = state["workspaces"].as_array().unwrap();
    let failing = workspaces.iter().find(|w| w["key"] == "default/failing").unwrap();
    assert_eq!(failing["generation"], 1);
    assert_eq!(failing["uid"].as_str().map(str::len), Some(36), "{failing}");
    let failures = failing["failures"].as_array().unwrap();
    assert_eq!((failures[0]["stage"].as_str(), failures[1]["stage"].as_str()), (Some("image"), Some("kernel")));
    assert!(failures.iter().all(|f| f["code"].is_string() && f["nextAttempt"].is_string()), "{failing}");
    assert_eq!(state["version"], env!("CARGO_PKG_VERSION"));
    assert!(state["uptimeSeconds"].is_u64() && state["jobs"].is_array(), "{state}");
    let folder =
        state["folders"].as_array().unwrap().iter().find(|f| f["dir"] == folder.display().to_string()).unwrap();
    assert!(folder["listedAt"].is_string() && folder["identity"]["ino"].is_u64(), "{folder}");
    assert_eq!((folder["files"].as_u64(), folder["invalidFiles"].as_u64()), (Some(4), Some(1)), "{folder}");
    assert_eq!(state["rejected"][0]["key"], "default/refused");
    let queue = &state["queue"];
    let sum: u64 = ["due", "waiting", "working"].iter().map(|part| queue[part].as_u64().unwrap()).sum();
    assert_eq!(sum, 2, "{queue}");
    let text = state.to_string();
    for private in [SECRET, "TOKEN", "registry.example", "/etc/x"] {
        assert!(!text.contains(private), "{private} is in {text}");
    }
}
