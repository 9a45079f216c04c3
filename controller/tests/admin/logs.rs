//! The log of a pass can be followed by its id.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use serde_json::Value;

use crate::controller::{Controller, failing, halted, until};

fn start(controller: &mut Controller, format: &str) {
    fs::write(controller.folder().join("a.yaml"), failing("a")).unwrap();
    fs::write(controller.folder().join("b.yaml"), halted("b")).unwrap();
    controller.start(["--log-format", format]);
    until("both workspaces were gone over", || {
        let state = controller.debug_state();
        let workspaces = state["workspaces"].as_array()?;
        let failed = workspaces.iter().any(|w| w["failures"].as_array().is_some_and(|failures| failures.len() == 2));
        let halted = workspaces.iter().any(|w| w["phase"] == "Halted");
        (failed && halted).then_some(())
    });
    controller.stop();
}

#[test]
fn every_json_line_of_a_pass_carries_its_id_and_its_workspace() {
    let mut controller = Controller::new();
    start(&mut controller, "json");
    let log = controller.log();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let mut passes: BTreeMap<String, (BTreeSet<String>, Vec<String>)> = BTreeMap::new();
    for line in &lines {
        let fields = &line["fields"];
        // An action, an event, a failure: what only passes log.
        if fields["action"].is_null() && fields["reason"].is_null() && fields["stage"].is_null() {
            continue;
        }
        let id = line["span"]["reconcile_id"].as_str().unwrap_or_else(|| panic!("no id: {line}"));
        let (workspaces, messages) = passes.entry(id.to_owned()).or_default();
        workspaces.insert(line["span"]["workspace"].as_str().unwrap().to_owned());
        messages.push(fields["message"].as_str().unwrap().to_owned());
    }
    assert!(passes.len() >= 3, "{passes:?}");
    assert!(passes.values().all(|(workspaces, _)| workspaces.len() == 1), "an id is of one pass: {passes:?}");
    let whole = passes.values().any(|(_, messages)| messages.len() >= 2 && messages.iter().any(|m| m == "acting"));
    assert!(whole, "the events and the action of one pass share its id: {passes:?}");
    let prefixes: BTreeSet<&str> = passes.keys().filter_map(|id| Some(id.split_once('-')?.0)).collect();
    assert_eq!(prefixes.len(), 1, "one controller, one prefix: {prefixes:?}");
}

#[test]
fn the_text_log_carries_the_id_too_and_at_every_level() {
    let mut controller = Controller::new();
    controller.filter = "warn";
    start(&mut controller, "text");
    let log = controller.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(" reason=")).collect();
    assert!(!lines.is_empty(), "{log}");
    assert!(lines.iter().all(|line| line.contains(" WARN reconcile{workspace=default/a reconcile_id=")), "{log}");
}
