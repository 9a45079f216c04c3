//! One set of rules: the API server and the reader of files give every manifest the same verdict and the same defaults.

use hyper::{Method, Request};
use kube::{Client, core::cel::apply_defaults};
use microagent_crds::{
    ResourceExt as _, Workspace, WorkspaceSpec, manifest::ManifestErrorKind, parse, schema, validate::validate,
};
use microagent_tests::cluster::Cluster;
use serde_json::{Value, json};

use crate::{example, placement::Corner};

#[path = "../../../crds/tests/cases/mod.rs"]
mod cases;

/// What the server says to a manifest as it stands in the file, without keeping it: unknown fields are errors, as for `kubectl`.
async fn verdict(client: &Client, text: &str) -> Result<Value, String> {
    let url = "/apis/microagent.dev/v1alpha1/namespaces/default/workspaces?dryRun=All&fieldValidation=Strict";
    let request = Request::builder().method(Method::POST).uri(url).header("Content-Type", "application/yaml");
    let request = request.body(text.as_bytes().to_vec()).expect("a request");
    client.request::<Value>(request).await.map_err(|error| error.to_string())
}

/// The defects that only one side knows of, each with its reason.
const ONE_SIDED: &[(&str, &str)] = &[("in metadata", "files have no generated names, and the server makes them")];

#[tokio::test]
async fn the_server_and_the_reader_of_files_give_one_verdict() {
    let Some(cluster) = Cluster::shared("the_server_and_the_reader_of_files_give_one_verdict") else { return };
    cluster.install_workspaces();
    let client = cluster.client().await;
    let mut differ = Vec::new();
    let mut seen = [0, 0];
    let wrong = [cases::not_a_workspace(), cases::fields(), cases::values(), cases::rules(), cases::unsupported()];
    let right = [("full", cases::full()), ("plain", cases::with_spec(""))];
    let examples = ["hello.yaml", "once.yaml", "secrets.yaml"].map(|name| (name, example(name)));
    for (title, text) in wrong.into_iter().flatten().chain(right).chain(examples) {
        if ONE_SIDED.iter().any(|(known, _)| *known == title) {
            continue;
        }
        let server = verdict(&client, &text).await;
        // What cannot be done yet breaks no rule.
        let reader = parse(&text, title).pop().expect("a document");
        let reader = match reader {
            Err(error) if error.kind != ManifestErrorKind::NotSupported => Err(error.to_string()),
            _ => Ok(()),
        };
        seen[usize::from(reader.is_ok())] += 1;
        if server.is_ok() != reader.is_ok() {
            differ.push(format!("{title}: the server {server:?}, the reader {reader:?}"));
        }
    }
    assert!(differ.is_empty(), "{differ:#?}");
    assert!(seen[0] > 70 && seen[1] > 15, "{seen:?} refused and accepted");
}

/// The defaulted objects that both sides make of one manifest.
#[tokio::test]
async fn the_server_fills_in_what_the_types_fill_in() {
    let Some(cluster) = Cluster::shared("the_server_fills_in_what_the_types_fill_in") else { return };
    cluster.install_workspaces();
    let client = cluster.client().await;
    let placed = json!({ "nodeSelector": { "zone": "a" }, "tolerations": [{ "key": "a", "operator": "Exists" }], "affinity": {
        "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [
            { "topologyKey": "zone", "labelSelector": { "matchLabels": { "a": "b" } } }] } } });
    let egress = json!({ "mode": "Mediated", "ports": [{ "guestPort": 1 }], "egress": { "allow": [{ "host": "a" }] } });
    for written in [
        json!({ "image": "a" }),
        json!({ "image": "a", "kernel": {}, "resources": {}, "rootDisk": {}, "network": {}, "lifecycle": {}, "placement": {} }),
        json!({ "image": "a", "placement": placed, "network": egress, "health": { "httpGet": { "port": 1 } } }),
        json!({ "image": "a", "files": [{ "path": "/a", "content": "" }], "env": [{ "name": "A" }] }),
    ] {
        let object = json!({ "apiVersion": "microagent.dev/v1alpha1", "kind": "Workspace", "metadata": { "name": "a" }, "spec": written });
        let stored = verdict(&client, &object.to_string()).await.expect("a workspace");
        assert_eq!(stored["spec"], apply_defaults(&schema::openapi()["properties"]["spec"], &written));
        let by_types: WorkspaceSpec = serde_json::from_value(written).expect("a spec");
        assert_eq!(stored["spec"], serde_json::to_value(by_types).expect("JSON"));
    }
    for text in [cases::full(), cases::with_spec(""), example("hello.yaml"), example("once.yaml")] {
        let stored = verdict(&client, &text).await.expect("a workspace");
        let read: WorkspaceSpec = serde_json::from_value(stored["spec"].clone()).expect("a spec");
        let reader = parse(&text, "a").pop().expect("a document").expect("a workspace").spec;
        assert_eq!(read, reader, "{text}");
        assert_eq!(names(&stored["spec"]), names(&serde_json::to_value(reader).expect("JSON")), "{text}");
    }
}

/// The paths of all fields: a number may be spelled in many ways, but what is filled in is there or is not.
fn names(value: &Value) -> Vec<String> {
    let inner = |name: String, value: &Value| {
        let below = names(value).into_iter().map(|below| format!("{name}.{below}")).collect::<Vec<_>>();
        [vec![name], below].concat()
    };
    match value {
        Value::Object(members) => members.iter().flat_map(|(name, value)| inner(name.clone(), value)).collect(),
        Value::Array(items) => items.iter().enumerate().flat_map(|(nth, item)| inner(nth.to_string(), item)).collect(),
        _ => Vec::new(),
    }
}

#[tokio::test]
async fn a_change_has_one_verdict_too() {
    // Nodes with agents, so that placement leaves the workspaces on them.
    let Some(corner) = Corner::of("a_change_has_one_verdict_too") else { return };
    let nodes = ["n1", "n2"].map(|name| corner.node(name));
    corner.add_node("n1", "1Gi", &json!([]));
    corner.add_node("n2", "1Gi", &json!([]));
    let api: kube::Api<Workspace> = kube::Api::namespaced(corner.cluster.client().await, &corner.name);
    let on = |node: Option<&str>, lost: Option<&str>| {
        // Not to run, so that no node is looked for.
        let mut spec = json!({ "image": "a", "runPolicy": "Halted" });
        if let Some(node) = node {
            spec["nodeName"] = node.into();
        }
        if let Some(lost) = lost {
            spec["placement"] = json!({ "onNodeLost": lost });
        }
        spec
    };
    let states = [None, Some(&*nodes[0]), Some(&*nodes[1])];
    let modes = [None, Some("Report"), Some("Reschedule")];
    let all = states.iter().flat_map(|node| modes.iter().map(move |mode| on(*node, *mode)));
    let mut refused = 0;
    for (nth, old) in all.clone().enumerate() {
        let name = format!("w{nth}");
        let object = |spec: &Value| -> Workspace {
            let metadata = json!({ "name": name, "namespace": corner.name });
            serde_json::from_value(json!({ "apiVersion": "microagent.dev/v1alpha1", "kind": "Workspace",
                "metadata": metadata, "spec": spec }))
            .expect("a workspace")
        };
        let _ = api.create(&kube::api::PostParams::default(), &object(&old)).await.expect("a workspace");
        for new in all.clone() {
            let dry = kube::api::PostParams { dry_run: true, ..kube::api::PostParams::default() };
            // Others write its status meanwhile: then it is tried with what is so now.
            let (server, local) = loop {
                let stored = api.get(&name).await.expect("a workspace");
                let mut changed = object(&new);
                changed.metadata.resource_version = stored.resource_version();
                let server = api.replace(&name, &dry, &changed).await.map(drop).map_err(|error| error.to_string());
                if !server.as_ref().is_err_and(|said| said.contains("has been modified")) {
                    break (server, validate(&changed, Some(&stored)));
                }
            };
            assert_eq!(server.is_ok(), local.is_ok(), "{old} to {new}: {server:?} {local:?}");
            if let Err(said) = server {
                refused += 1;
                assert!(said.contains("spec.nodeName") && said.contains("cannot be changed"), "{said}");
            }
        }
    }
    assert_eq!(refused, 24, "six old ones have a node; of nine new ones four have another or none, and no leave to");
}

#[test]
fn get_shows_the_columns_and_selects_by_node_and_phase() {
    // Nodes with agents, so that placement leaves the workspaces to them.
    let Some(corner) = Corner::of("get_shows_the_columns_and_selects_by_node_and_phase") else { return };
    for name in ["a", "b"] {
        corner.add_node(name, "1Gi", &json!([]));
        corner.apply(name, json!({ "nodeName": corner.node(name) }));
    }
    let (kubectl, node) = (&corner.kubectl, corner.node("a"));
    let time = "2026-01-01T00:00:00Z";
    let status = json!({ "status": { "phase": "Running", "observedGeneration": 1, "backend": "Qemu", "nodeName": node,
        "kernel": { "version": "6.1.0", "digest": "sha256:0" },
        "conditions": [{ "type": "Ready", "status": "True", "reason": "Running", "message": "", "lastTransitionTime": time }] } });
    let _ = kubectl.ok(["patch", "ws", "a", "--subresource=status", "--type=merge", "--patch", &status.to_string()]);
    let table = kubectl.ok(["get", "ws"]);
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let lines: Vec<_> = table.lines().map(words).collect();
    assert_eq!(lines[0], ["NAME", "READY", "PHASE", "BACKEND", "NODE", "AGE"]);
    assert_eq!(lines[1][..5], ["a", "True", "Running", "Qemu", &*node]);
    let wide = kubectl.ok(["get", "ws", "--output=wide"]);
    let lines: Vec<_> = wide.lines().map(words).collect();
    assert_eq!(lines[0], ["NAME", "READY", "PHASE", "BACKEND", "NODE", "AGE", "IMAGE", "KERNEL", "REASON"]);
    assert_eq!(lines[1][6..], ["busybox:1.37", "6.1.0", "Running"]);
    for (selector, wanted) in [
        (format!("spec.nodeName={}", corner.node("b")), "workspace.microagent.dev/b\n"),
        ("status.phase=Running".to_owned(), "workspace.microagent.dev/a\n"),
        (format!("spec.nodeName={node},status.phase=Running"), "workspace.microagent.dev/a\n"),
        ("spec.nodeName=none".to_owned(), ""),
    ] {
        assert_eq!(kubectl.ok(["get", "ws", "--output=name", "--field-selector", &selector]), wanted, "{selector}");
    }
}
