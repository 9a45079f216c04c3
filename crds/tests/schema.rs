//! The schema: what the API server needs of it, and that the types, the defaults and the committed files agree with it.

// The lints spare only the test functions themselves; these are their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, path::Path};

use kube::core::cel::{apply_defaults, compile_schema};
use microagent_crds::{OnNodeLost, Placement, Workspace, WorkspaceSpec, generated::FILES, parse, schema, validate};
use serde_json::{Value, json};

fn walk(at: &str, schema: &Value, visit: &mut dyn FnMut(&str, &Value)) {
    visit(at, schema);
    for (name, inner) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        walk(&format!("{at}.{name}"), inner, visit);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get(key) {
            walk(&format!("{at}.{key}"), inner, visit);
        }
    }
}

#[test]
fn every_property_is_described() {
    walk("", schema::openapi(), &mut |at, node| {
        let is_property = !at.ends_with(".items") && !at.ends_with(".additionalProperties");
        let description = node.get("description").and_then(Value::as_str).unwrap_or_default();
        assert!(!is_property || description.len() > 10, "{at} has no description");
        assert!(!description.contains("Auto-generated") && !description.contains('\n'), "{at}: {description}");
    });
}

#[test]
fn the_schema_is_structural() {
    walk("", schema::openapi(), &mut |at, node| {
        let is_typed = node.get("type").is_some() || node.get("x-kubernetes-int-or-string").is_some();
        assert!(is_typed, "{at} has no type");
        assert!(
            node.get("properties").is_none() || node.get("additionalProperties").is_none(),
            "{at} has both kinds of properties"
        );
        assert!(node.get("nullable").is_none(), "{at} is nullable");
        for keyword in ["oneOf", "anyOf", "allOf", "not", "$ref", "pattern", "uniqueItems"] {
            assert!(node.get(keyword).is_none(), "{at} has {keyword}, which is not checked for files");
        }
    });
}

#[test]
fn what_rules_look_at_is_bounded() {
    walk(".spec", &schema::openapi()["properties"]["spec"], &mut |at, node| match node
        .get("type")
        .and_then(Value::as_str)
    {
        Some("array") => assert!(node.get("maxItems").is_some(), "{at} has no maxItems"),
        Some("string") => {
            let is_bounded =
                node.get("maxLength").is_some() || node.get("enum").is_some() || node.get("format").is_some();
            assert!(is_bounded, "{at} has no maxLength");
        }
        _ => {}
    });
}

#[test]
fn every_rule_compiles_and_points_at_a_field() {
    let mut rules = 0;
    walk("", schema::openapi(), &mut |at, node| {
        assert!(!compile_schema(node).has_errors(), "{at}");
        for rule in node.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
            rules += 1;
            assert!(rule["message"].as_str().is_some_and(|message| !message.contains('\n')), "{at}: {rule}");
            if let Some(field) = rule.get("fieldPath").and_then(Value::as_str) {
                assert!(node["properties"].get(&field[1..]).is_some(), "{at}: {field}");
            }
        }
    });
    assert!(rules > 40, "{rules} rules");
}

#[test]
fn the_types_fill_in_what_the_schema_says() {
    for spec in [
        json!({ "image": "a" }),
        json!({ "image": "a", "kernel": {}, "resources": {}, "rootDisk": {}, "network": {}, "lifecycle": {} }),
        json!({ "image": "a", "files": [{ "path": "/a", "content": "" }], "env": [{ "name": "A" }] }),
        json!({ "image": "a", "disks": [{ "name": "a", "mountPath": "/a", "source": { "empty": { "size": "1Gi" } } }] }),
        json!({ "image": "a", "network": { "mode": "Mediated", "ports": [{ "guestPort": 1 }], "egress": { "allow": [{ "host": "a" }] } } }),
        json!({ "image": "a", "health": { "httpGet": { "port": 1 } } }),
        json!({ "image": "a", "placement": {} }),
        json!({ "image": "a", "placement": { "nodeSelector": { "a": "b" }, "tolerations": [{ "key": "c" }], "affinity": {
            "nodeAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [
                { "weight": 1, "preference": { "matchFields": [{ "key": "metadata.name", "operator": "In", "values": ["n1"] }] } }
            ] },
            "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [
                { "topologyKey": "zone", "labelSelector": { "matchLabels": { "a": "b" } }, "namespaceSelector": {} }
            ] } } } }),
    ] {
        let by_schema = apply_defaults(&schema::openapi()["properties"]["spec"], &spec);
        let by_types: WorkspaceSpec = serde_json::from_value(spec).unwrap();
        assert_eq!(serde_json::to_value(&by_types).unwrap(), by_schema);
    }
    let new = serde_json::to_value(WorkspaceSpec::new("a")).unwrap();
    assert_eq!(new, apply_defaults(&schema::openapi()["properties"]["spec"], &json!({ "image": "a" })));
}

#[test]
fn a_node_once_set_stays() {
    let on = |node: Option<&str>| {
        let mut workspace = Workspace::new("a", WorkspaceSpec::new("b"));
        workspace.spec.node_name = node.map(str::to_owned);
        workspace
    };
    assert!(validate::validate(&on(Some("n1")), None).is_ok());
    assert!(validate::validate(&on(Some("n1")), Some(&on(None))).is_ok());
    for changed in [Some("n2"), None] {
        let broken = validate::validate(&on(changed), Some(&on(Some("n1")))).unwrap_err();
        assert_eq!(broken[0].path, "spec.nodeName");
    }
    for mode in [OnNodeLost::Report, OnNodeLost::Reschedule] {
        let mut moved = on(Some("n2"));
        moved.spec.placement = Some(Placement { on_node_lost: mode, ..Placement::default() });
        let verdict = validate::validate(&moved, Some(&on(Some("n1"))));
        assert_eq!(verdict.is_ok(), mode == OnNodeLost::Reschedule, "{verdict:?}");
    }
    let long = Workspace::new(&"a".repeat(64), WorkspaceSpec::new("b"));
    assert!(validate::validate(&long, None).unwrap_err()[0].message.contains("63"));
}

#[test]
fn a_status_of_a_newer_version_can_be_read() {
    let newer = json!({
        "phase": "Hibernating",
        "conditions": [
            { "type": "Enlightened", "status": "True", "reason": "Zen", "lastTransitionTime": "2026-01-01T00:00:00Z" },
            { "type": "Ready", "status": "True", "reason": "Zen", "lastTransitionTime": "2026-01-01T00:00:00Z" },
        ],
        "mood": 7,
    });
    let status: microagent_crds::WorkspaceStatus = serde_json::from_value(newer).unwrap();
    assert_eq!(status.phase, Some(microagent_crds::Phase::Unknown));
    assert_eq!(status.conditions.len(), 1);
    assert_eq!(status.conditions[0].reason, microagent_crds::Reason::Unknown);
    assert!(status.is_true(microagent_crds::ConditionType::Ready));
}

#[test]
fn the_committed_files_are_those_of_the_types() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for file in FILES {
        let present = fs::read_to_string(root.join(file.path)).unwrap_or_default();
        let wanted = (file.render)(&present).unwrap();
        assert!(present == wanted, "{} is not up to date: run `cargo run -p microagent-crds --bin crdgen`", file.path);
    }
}

#[test]
fn the_status_page_names_everything_that_is_refused() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/status.md")).unwrap();
    for one in microagent_crds::unsupported::UNSUPPORTED {
        assert!(page.contains(&format!("`{}`", one.field)) && page.contains(one.instead), "{}", one.field);
    }
}

#[test]
fn the_crd_is_readable_as_the_manifest_of_kubernetes() {
    let crd = schema::crd();
    assert_eq!(crd.metadata.name.as_deref(), Some("workspaces.microagent.dev"));
    assert_eq!(crd.spec.names.short_names.as_deref(), Some(&["ws".to_owned()][..]));
    assert_eq!(crd.spec.names.categories.as_deref(), Some(&["microvm".to_owned()][..]));
    let version = &crd.spec.versions[0];
    assert!(version.subresources.as_ref().unwrap().status.is_some());
    assert_eq!(version.selectable_fields.as_ref().unwrap().len(), 2);
    assert_eq!(version.additional_printer_columns.as_ref().unwrap().len(), 8);
}

#[test]
fn a_parsed_workspace_survives_a_round_trip() {
    let text =
        "apiVersion: microagent.dev/v1alpha1\nkind: Workspace\nmetadata: {name: a}\nspec: {image: b, args: [c]}\n";
    let workspace = parse(text, "a").pop().unwrap().unwrap();
    let written = microagent_crds::yaml::to_string(&workspace).unwrap();
    assert_eq!(parse(&written, "a").pop().unwrap().unwrap(), workspace);
}
