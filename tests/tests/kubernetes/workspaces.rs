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
