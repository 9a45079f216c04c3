//! What is scraped after real passes.

use std::{collections::BTreeSet, fs};

use crate::{
    controller::{Controller, SECRET, failing, halted, until},
    openmetrics::{Family, parse, value},
};

/// Every label there may be, with all that it may say. `le` and `version` apart, these are the enums of the code, written out here
/// so that one that grows is looked at.
const LABELS: [(&str, &[&str]); 8] = [
    ("source", &["folder", "kubernetes"]),
    ("result", &["settled", "acted", "awaiting", "failed", "superseded", "gone"]),
    ("stage", &["image", "rootfs", "kernel", "disks", "start", "guest", "power", "halt", "outputs", "delete"]),
    ("reason", &["ticker", "changed", "folder", "overflow"]),
    ("kind", &["pull", "build", "install"]),
    ("what", &["file", "workspace"]),
    ("type", &["normal", "warning"]),
    (
        "phase",
        &[
            "pending",
            "building",
            "starting",
            "running",
            "halting",
            "halted",
            "succeeded",
            "failed",
            "terminating",
            "paused",
            "quarantined",
            "unknown",
        ],
    ),
];
/// `state` has two sets.
const MACHINE_STATES: [&str; 9] =
    ["absent", "prepared", "starting", "running", "paused", "quarantined", "halting", "exited", "unknown"];
const JOB_STATES: [&str; 2] = ["queued", "running"];

fn is_closed(family: &Family, label: &str, value: &str) -> bool {
    match label {
        "le" => family.kind == "histogram",
        "version" => family.kind == "info" && value == env!("CARGO_PKG_VERSION"),
        "state" if family.name == "microagent_jobs" => JOB_STATES.contains(&value),
        "state" => MACHINE_STATES.contains(&value),
        _ => LABELS.iter().any(|(name, values)| *name == label && values.contains(&value)),
    }
}

fn scrape(controller: &Controller) -> (String, Vec<Family>) {
    let (status, text) = controller.get("/metrics");
    assert_eq!(status, 200, "{text}");
    let families = parse(&text);
    for family in &families {
        for sample in &family.samples {
            for (label, value) in &sample.labels {
                assert!(is_closed(family, label, value), "{} {label}={value:?}", sample.name);
            }
        }
    }
    (text, families)
}

#[test]
fn a_scrape_after_real_passes_counts_them_and_names_nothing() {
    let mut controller = Controller::new();
    let folder = controller.folder();
    fs::write(folder.join("quiet.yaml"), halted("quietspace")).unwrap();
    fs::write(folder.join("failing.yaml"), failing("failspace")).unwrap();
    fs::write(folder.join("broken.yaml"), format!("apiVersion: [{SECRET}\n")).unwrap();
    fs::write(folder.join("refused.yaml"), halted("refusedspace").replace("runPolicy", "runPolicies")).unwrap();
    controller.start([]);
    let (text, families) = until("all was seen", || {
        let (text, families) = scrape(&controller);
        let at_least = |name: &str, labels: &[(&str, &str)]| value(&families, name, labels) >= 1.0;
        let seen = at_least("microagent_workspaces", &[("phase", "halted")])
            && at_least("microagent_stage_failures_total", &[("stage", "image")])
            && at_least("microagent_stage_failures_total", &[("stage", "kernel")])
            && at_least("microagent_events_total", &[("type", "warning")])
            && at_least("microagent_source_relist_total", &[("reason", "ticker")])
            && at_least("microagent_source_invalid", &[("what", "file")]);
        seen.then_some((text, families))
    });
    let value = |name: &str, labels: &[(&str, &str)]| value(&families, name, labels);
    assert_eq!(value("microagent_workspaces", &[("phase", "halted")]), 1.0);
    assert_eq!(value("microagent_source_invalid", &[("what", "file")]), 1.0);
    assert_eq!(value("microagent_source_invalid", &[("what", "workspace")]), 1.0);
    assert_eq!(value("microagent_machines", &[("state", "absent")]), 2.0);
    assert_eq!(value("microagent_ready_latency_seconds_count", &[]), 1.0);
    assert!(value("microagent_reconcile_total", &[("source", "folder"), ("result", "settled")]) >= 1.0);
    assert!(value("microagent_reconcile_total", &[("source", "folder"), ("result", "acted")]) >= 1.0);
    assert!(value("microagent_events_total", &[("type", "normal")]) >= 1.0);
    assert!(value("microagent_queue_waiting", &[]) >= 1.0);
    assert!(value("process_start_time_seconds", &[]) > 1_700_000_000.0);

    let state = controller.debug_state();
    let mut private: BTreeSet<String> = ["space", "nowhere", "registry", SECRET, "yaml"].map(str::to_owned).into();
    private.extend(state["workspaces"].as_array().unwrap().iter().map(|w| w["uid"].as_str().unwrap().to_owned()));
    private.insert(controller.dir().display().to_string());
    assert_eq!(private.len(), 8, "two UIDs are among them: {private:?}");
    for word in private.iter().filter(|word| *word != "space") {
        assert!(!text.contains(word.as_str()), "{word} is in {text}");
    }
    for name in ["quietspace", "failspace", "refusedspace"] {
        assert!(!text.contains(name), "{name} is in {text}");
    }

    fs::remove_file(folder.join("quiet.yaml")).unwrap();
    until("the workspace that went is taken off", || {
        let (_, families) = scrape(&controller);
        let left = crate::openmetrics::value(&families, "microagent_workspaces", &[("phase", "halted")]);
        let gone = crate::openmetrics::value(
            &families,
            "microagent_reconcile_total",
            &[("source", "folder"), ("result", "gone")],
        );
        (left == 0.0 && gone >= 1.0).then_some(())
    });
    controller.stop();
}

#[test]
fn a_machine_counts_as_its_supervisor_says() {
    let mut controller = Controller::new();
    fs::write(controller.folder().join("a.yaml"), failing("a")).unwrap();
    controller.start([]);
    let uid =
        until("the workspace is known", || Some(controller.debug_state()["workspaces"][0]["uid"].as_str()?.to_owned()));
    controller.stop();
    // As the machine's supervisor would have left it.
    fs::create_dir_all(controller.state().join("machines").join(uid).join("vm")).unwrap();
    controller.start([]);
    until("the machine is seen", || {
        let (_, families) = scrape(&controller);
        (value(&families, "microagent_machines", &[("state", "running")]) == 1.0).then_some(())
    });
}
