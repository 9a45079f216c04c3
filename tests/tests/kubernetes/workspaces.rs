//! The CRD of workspaces in a real API server.

use microagent_tests::cluster::{Cluster, until};
use serde_json::Value;

use crate::example;

#[test]
fn the_crd_is_established_under_all_its_names() {
    let Some(cluster) = Cluster::shared("the_crd_is_established_under_all_its_names") else { return };
    cluster.install_workspaces();
    let kubectl = cluster.kubectl();
    for name in ["workspaces", "workspace", "ws", "workspaces.microagent.dev", "microvm"] {
        let _ = kubectl.ok(["get", name]);
    }
    let crd = kubectl.ok(["get", "crd", "workspaces.microagent.dev", "--output=json"]);
    let crd: Value = serde_json::from_str(&crd).expect("JSON");
    let conditions = crd["status"]["conditions"].as_array().expect("conditions");
    let status = |kind: &str| conditions.iter().find(|c| c["type"] == kind).map(|c| c["status"].clone());
    assert_eq!(status("Established"), Some("True".into()));
    assert_eq!(status("NamesAccepted"), Some("True".into()));
    // The server tells here what is not structural, and only then.
    assert_eq!(status("NonStructuralSchema"), None, "{conditions:#?}");
}

#[test]
fn every_field_is_explained() {
    let Some(cluster) = Cluster::shared("every_field_is_explained") else { return };
    cluster.install_workspaces();
    // The description of a new kind comes a moment after the kind.
    until("workspaces are explained", || cluster.kubectl().run(["explain", "workspace"]).status.success());
    let document = cluster.kubectl().ok(["get", "--raw=/openapi/v3/apis/microagent.dev/v1alpha1"]);
    let document: Value = serde_json::from_str(&document).expect("JSON");
    let schema = &document["components"]["schemas"]["dev.microagent.v1alpha1.Workspace"];
    let mut bare = Vec::new();
    let mut count = 0;
    fields_without_description(schema, "workspace", &mut bare, &mut count);
    assert!(count > 50, "only {count} fields were seen");
    assert_eq!(bare, Vec::<String>::new());

    let tree = cluster.kubectl().ok(["explain", "workspace.spec", "--recursive"]);
    for field in ["image", "terminationGracePeriodSeconds", "nodeName"] {
        assert!(tree.contains(field), "{tree}");
    }
}

/// Lists the fields of an OpenAPI schema that say nothing of themselves.
fn fields_without_description(schema: &Value, path: &str, bare: &mut Vec<String>, count: &mut usize) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        *count += 1;
        if field["description"].as_str().is_none_or(str::is_empty) {
            bare.push(path.clone());
        }
        fields_without_description(field, &path, bare, count);
    }
    for part in ["items", "additionalProperties"] {
        if schema[part].is_object() {
            fields_without_description(&schema[part], path, bare, count);
        }
    }
}

#[test]
fn the_examples_apply_and_are_given_their_defaults() {
    let Some(cluster) = Cluster::shared("the_examples_apply_and_are_given_their_defaults") else { return };
    cluster.install_workspaces();
    let kubectl = cluster.kubectl().in_namespace(&cluster.namespace());
    for name in ["hello", "once"] {
        let said = kubectl.apply(&example(&format!("{name}.yaml")));
        assert!(said.contains(&format!("workspace.microagent.dev/{name}")), "{said}");
    }
    assert_eq!(kubectl.ok(["get", "workspace", "hello", "--output=jsonpath={.spec.backend}"]), "Auto");
    assert_eq!(kubectl.ok(["get", "workspace", "once", "--output=jsonpath={.spec.runPolicy}"]), "Once");
}

#[test]
fn an_invalid_workspace_is_refused_with_its_field() {
    let Some(cluster) = Cluster::shared("an_invalid_workspace_is_refused_with_its_field") else { return };
    cluster.install_workspaces();
    let kubectl = cluster.kubectl().in_namespace(&cluster.namespace());
    let changes = [
        ("cpus: 1", "cpus: none", "spec.resources.cpus"),
        ("image: busybox:1.37", "backend: Qemu", "spec.image"),
        ("image: busybox:1.37", "image: busybox:1.37\n  runPolicy: Sometimes", "spec.runPolicy"),
        ("image: busybox:1.37", "image: busybox:1.37\n  colour: blue", "colour"),
    ];
    for (from, to, field) in changes {
        let manifest = example("hello.yaml").replacen(from, to, 1);
        let said = kubectl.run_with(["create", "--validate=strict", "--filename", "-"], &manifest);
        assert!(!said.status.success(), "{to} was taken: {}", said.stdout);
        assert!(said.stderr.contains(field), "{to}: {}", said.stderr);
    }
    assert_eq!(kubectl.ok(["get", "workspaces", "--output=name"]), "");
}

#[test]
fn the_status_is_written_apart_and_shown_in_the_columns() {
    // Of its own: where placement runs, workspaces get a status and a node.
    let Some(cluster) = Cluster::start("the_status_is_written_apart_and_shown_in_the_columns") else { return };
    cluster.install_workspaces();
    let kubectl = cluster.kubectl().in_namespace(&cluster.namespace());
    let _ = kubectl.apply(&example("hello.yaml"));
    let _ = kubectl.apply(&example("once.yaml"));
    let status = r#"{"status":{"phase":"Running","backend":"Qemu","nodeName":"node-a"}}"#;
    // Not through the object itself, which a user may write.
    let _ = kubectl.ok(["patch", "workspace", "hello", "--type=merge", "--patch", status]);
    assert_eq!(kubectl.ok(["get", "workspace", "hello", "--output=jsonpath={.status.phase}"]), "");
    let _ = kubectl.ok(["patch", "workspace", "hello", "--type=merge", "--subresource=status", "--patch", status]);

    let table = kubectl.ok(["get", "workspaces", "--output=wide"]);
    let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let head = ["NAME", "READY", "PHASE", "BACKEND", "NODE", "AGE", "IMAGE", "KERNEL", "REASON"];
    assert_eq!(lines.next().expect("a head"), head);
    let hello = lines.next().expect("a row");
    for value in ["hello", "Running", "Qemu", "node-a", "busybox:1.37"] {
        assert!(hello.contains(&value), "{table}");
    }
    let selected = kubectl.ok(["get", "workspaces", "--field-selector=status.phase=Running", "--output=name"]);
    assert_eq!(selected, "workspace.microagent.dev/hello\n");
}

#[test]
fn a_dry_run_and_a_diff_see_what_would_change_and_change_nothing() {
    let Some(cluster) = Cluster::shared("a_dry_run_and_a_diff_see_what_would_change_and_change_nothing") else {
        return;
    };
    cluster.install_workspaces();
    let kubectl = cluster.kubectl().in_namespace(&cluster.namespace());
    let manifest = example("hello.yaml");
    let dry_run = ["apply", "--server-side", "--dry-run=server", "--filename", "-"];
    let said = kubectl.run_with(dry_run, &manifest);
    assert!(said.status.success(), "{}", said.stderr);
    assert_eq!(kubectl.ok(["get", "workspaces", "--output=name"]), "");

    let _ = kubectl.apply(&manifest);
    let diff = ["diff", "--server-side", "--filename", "-"];
    let said = kubectl.run_with(diff, &manifest);
    assert_eq!((said.status.code(), said.stdout.as_str()), (Some(0), ""), "{}", said.stderr);
    let changed = manifest.replacen("cpus: 1", "cpus: 2", 1);
    let said = kubectl.run_with(diff, &changed);
    assert_eq!(said.status.code(), Some(1), "{}", said.stderr);
    assert!(said.stdout.contains("+    cpus: 2"), "{}", said.stdout);
    assert_eq!(kubectl.ok(["get", "workspace", "hello", "--output=jsonpath={.spec.resources.cpus}"]), "1");
}

#[test]
fn the_node_of_a_workspace_is_named_once() {
    // Of its own: where placement runs, workspaces get a node.
    let Some(cluster) = Cluster::start("the_node_of_a_workspace_is_named_once") else { return };
    cluster.install_workspaces();
    let kubectl = cluster.kubectl().in_namespace(&cluster.namespace());
    let _ = kubectl.apply(&example("hello.yaml"));
    let patch = |node: &str| {
        let patch = format!(r#"{{"spec":{{"nodeName":"{node}"}}}}"#);
        kubectl.run(["patch", "workspace", "hello", "--type=merge", "--patch", &patch])
    };
    let first = patch("node-a");
    assert!(first.status.success(), "{}", first.stderr);
    let second = patch("node-b");
    assert!(!second.status.success() && second.stderr.contains("nodeName"), "{}", second.stderr);
    let selected = kubectl.ok(["get", "workspaces", "--field-selector=spec.nodeName=node-a", "--output=name"]);
    assert_eq!(selected, "workspace.microagent.dev/hello\n");
}
