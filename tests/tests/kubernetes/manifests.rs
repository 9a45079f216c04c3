//! `manifests/kubernetes` in a real API server.

mod matrix;
mod policies;
mod rights;
mod roles;
mod secrets;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, OnceLock, PoisonError},
};

use microagent_tests::{
    cluster::{Cluster, until},
    host::bin_dir,
};
use serde_json::{Value, json};

const MANIFESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests");
const SYSTEM: &str = "microagent-system";

fn base() -> PathBuf {
    Path::new(MANIFESTS).join("kubernetes")
}

/// A control plane in which everything is installed. It is not the one that other tests share: agents would come to their nodes.
fn installed(test: &str) -> Option<&'static Cluster> {
    static INSTALLED: OnceLock<Cluster> = OnceLock::new();
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(cluster) = INSTALLED.get() {
        return Some(cluster);
    }
    let cluster = Cluster::start(test)?;
    apply_all(&cluster);
    let crd = "crd/workspaces.microagent.dev";
    let _ = cluster.kubectl().ok(["wait", "--for=condition=Established", crd, "--timeout=120s"]);
    until("workspaces are served", || cluster.kubectl().run(["get", "workspaces"]).status.success());
    Some(INSTALLED.get_or_init(|| cluster))
}

fn apply_all(cluster: &Cluster) -> String {
    let base = base();
    cluster.kubectl().ok([Path::new("apply"), "--server-side".as_ref(), "--kustomize".as_ref(), &base])
}

/// Everything that the manifests declare, as the API server has it.
fn declared(cluster: &Cluster) -> Vec<Value> {
    let base = base();
    let args = [Path::new("get"), "--output=json".as_ref(), "--kustomize".as_ref(), &base];
    let list: Value = serde_json::from_str(&cluster.kubectl().ok(args)).expect("JSON");
    list["items"].as_array().expect("a list").clone()
}

#[test]
fn the_manifests_apply_and_applying_them_again_changes_nothing() {
    let Some(cluster) = installed("the_manifests_apply_and_applying_them_again_changes_nothing") else { return };
    // What others write, such as a status, counts for nothing here.
    let applied = |mut objects: Vec<Value>| -> Vec<Value> {
        for object in &mut objects {
            object["status"] = Value::Null;
            object["metadata"]["resourceVersion"] = Value::Null;
            object["metadata"]["annotations"] = Value::Null;
        }
        objects
    };
    let before = applied(declared(cluster));
    assert!(before.len() > 30, "{}", before.len());
    let said = apply_all(cluster);
    assert_eq!(said.lines().filter(|line| line.ends_with("serverside-applied")).count(), before.len(), "{said}");
    for (after, before) in applied(declared(cluster)).into_iter().zip(before) {
        assert_eq!(after, before);
    }
    let base = base();
    let diff = [Path::new("diff"), "--server-side".as_ref(), "--kustomize".as_ref(), &base];
    let said = cluster.kubectl().run(diff);
    assert_eq!((said.status.code(), said.stdout.as_str()), (Some(0), ""), "{}", said.stderr);
}

#[test]
fn everything_has_the_label_of_the_system_and_lives_where_it_belongs() {
    let Some(cluster) = installed("everything_has_the_label_of_the_system_and_lives_where_it_belongs") else { return };
    for object in declared(cluster) {
        let metadata = &object["metadata"];
        let namespace = metadata["namespace"].as_str();
        assert!(matches!(namespace, None | Some(SYSTEM | "kube-system")), "{object}");
        if object["kind"] != "CustomResourceDefinition" {
            assert_eq!(metadata["labels"]["app.kubernetes.io/name"], "microagent", "{object}");
        }
        if namespace == Some("kube-system") {
            let access = ["Role", "RoleBinding"];
            assert!(access.iter().any(|kind| object["kind"] == *kind), "nothing runs there: {object}");
        }
    }
}

#[test]
fn each_node_gets_an_agent_and_placement_comes_twice() {
    let Some(cluster) = installed("each_node_gets_an_agent_and_placement_comes_twice") else { return };
    let taints = json!([{ "key": "dedicated", "value": "others", "effect": "NoExecute" }]);
    let capacity = json!({ "cpu": "4", "memory": "8Gi" });
    cluster.add_node("agent-home", &capacity, &json!({}), &json!([]));
    cluster.add_node("agent-tainted", &capacity, &json!({}), &taints);
    let kubectl = cluster.kubectl().in_namespace(SYSTEM);
    let pods = |component: &str| -> Vec<Value> {
        let selector = format!("--selector=app.kubernetes.io/component={component}");
        let list: Value = serde_json::from_str(&kubectl.ok(["get", "pods", "--output=json", &selector])).expect("JSON");
        list["items"].as_array().expect("a list").clone()
    };
    let has = |pods: &[Value], node: &str| pods.iter().any(|pod| pod["spec"]["nodeName"] == node);
    until("agents are bound to both nodes", || {
        let pods = pods("agent");
        has(&pods, "agent-home") && has(&pods, "agent-tainted")
    });
    until("placement is there twice", || pods("placement").len() == 2);
    for pod in pods("agent") {
        assert_eq!(pod["spec"]["priorityClassName"], "system-node-critical");
    }
}

#[test]
fn placement_needs_no_privileges_and_the_agent_does() {
    let Some(cluster) = installed("placement_needs_no_privileges_and_the_agent_does") else { return };
    let namespace = cluster.namespace();
    let level = "pod-security.kubernetes.io/enforce=restricted";
    let _ = cluster.kubectl().ok(["label", "namespace", &namespace, level]);
    let kubectl = cluster.kubectl().in_namespace(&namespace);
    for (kind, name) in [("daemonset", "microagent-agent"), ("deployment", "microagent-placement")] {
        let _ = kubectl.ok(["create", "serviceaccount", name]);
        let object = cluster.kubectl().ok(["get", kind, name, "--namespace", SYSTEM, "--output=json"]);
        let object: Value = serde_json::from_str(&object).expect("JSON");
        let mut spec = object["spec"]["template"]["spec"].clone();
        // A namespace of users has a quota of none for it.
        spec["priorityClassName"] = Value::Null;
        spec["priority"] = Value::Null;
        let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": spec });
        let said = kubectl.run_with(["create", "--dry-run=server", "--filename=-"], &pod.to_string());
        let is_placement = name == "microagent-placement";
        assert_eq!(said.status.success(), is_placement, "{name}: {}", said.stderr);
        assert!(is_placement || said.stderr.contains("privileged"), "{}", said.stderr);
    }
}

#[test]
fn the_programs_know_the_arguments_that_the_manifests_give() {
    let Some(cluster) = installed("the_programs_know_the_arguments_that_the_manifests_give") else { return };
    let programs = [
        ("daemonset", "microagent-agent", "microagent-controller"),
        ("deployment", "microagent-placement", "microagent-placement"),
    ];
    for (kind, name, file) in programs {
        let args = "--output=jsonpath={.spec.template.spec.containers[0].args[*]}";
        let args = cluster.kubectl().ok(["get", kind, name, "--namespace", SYSTEM, args]);
        let help = Command::new(bin_dir().join(file)).arg("--help").output().expect("help");
        let help = String::from_utf8_lossy(&help.stdout).into_owned();
        let options: Vec<_> = args.split(' ').filter_map(|arg| arg.split('=').next()).collect();
        assert!(options.len() >= 3, "{args}");
        for option in options {
            assert!(help.contains(&format!("{option} <")), "{file} has no {option}:\n{help}");
        }
    }
}

#[test]
fn the_examples_of_a_cluster_are_taken() {
    let Some(cluster) = installed("the_examples_of_a_cluster_are_taken") else { return };
    let kubectl = cluster.kubectl().in_namespace(&cluster.namespace());
    let mut count = 0;
    for entry in fs::read_dir(base().join("examples")).expect("examples") {
        let path = entry.expect("an example").path();
        let strict = ["apply", "--server-side", "--dry-run=server", "--validate=strict", "--filename=-"];
        let manifest = fs::read_to_string(&path).expect("an example");
        let said = kubectl.run_with(strict, &manifest);
        assert!(said.status.success(), "{}: {}", path.display(), said.stderr);
        let _ = kubectl.apply(&manifest);
        let said = kubectl.run_with(["diff", "--server-side", "--filename=-"], &manifest);
        assert_eq!((said.status.code(), said.stdout.as_str()), (Some(0), ""), "{}: {}", path.display(), said.stderr);
        count += 1;
    }
    assert!(count >= 3, "{count}");
}
