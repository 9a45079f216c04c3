//! The programs, each with the account that the manifests give it and nothing more.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use microagent_tests::{
    cluster::until,
    host::{Host, bin_dir},
};
use serde_json::{Value, json};

use super::{SYSTEM, installed};

/// What a program says that is not let do something.
pub(super) const REFUSALS: [&str; 6] =
    ["refuses", "orbidden", "cannot be told", "cannot be watched", "cannot be written", "does not take an event"];

#[test]
fn an_agent_does_its_work_with_the_rights_that_it_has() {
    let Some(cluster) = installed("an_agent_does_its_work_with_the_rights_that_it_has") else { return };
    cluster.add_node("rights", &json!({ "cpu": "4", "memory": "8Gi" }), &json!({}), &json!([]));
    let kubeconfig = cluster.service_account_kubeconfig_on(SYSTEM, "microagent-agent", "rights");
    let mut host = Host::with_fake_machines();
    host.start_agent_with(|command| {
        command.args(["--node-name=rights", "--gate=127.0.0.1:0", "--kubeconfig"]).arg(kubeconfig);
    });
    let kubectl = cluster.kubectl().in_namespace(&cluster.namespace());
    kubectl.apply(&host.fake_manifest("rights", &json!({ "nodeName": "rights" })));
    let _ = kubectl.ok(["wait", "workspace/rights", "--for=condition=Ready", "--timeout=120s"]);
    let shown =
        |kind: &str, name: &str, path: &str| kubectl.ok(["get", kind, name, &format!("--output=jsonpath={{{path}}}")]);
    assert_eq!(shown("workspace", "rights", ".metadata.finalizers"), r#"["microagent.dev/host-state"]"#);
    until("the node is told of", || shown("node", "rights", ".metadata.labels.microagent\\.dev/agent") == "true");
    let gate = ".metadata.annotations.microagent\\.dev/gate";
    until("the gate is told of", || shown("node", "rights", gate).starts_with("https://127.0.0.1:"));
    let lease = ["get", "lease", "agent-rights", "--output=jsonpath={.spec.holderIdentity}"];
    assert_ne!(cluster.kubectl().in_namespace(SYSTEM).ok(lease), "");
    until("it is told what happened", || {
        kubectl.ok(["get", "events.events.k8s.io", "--output=name"]).lines().count() > 0
    });
    let _ = kubectl.ok(["delete", "workspace", "rights", "--timeout=120s"]);
    let log = fs::read_to_string(host.scratch().join("controller.log")).expect("a log");
    for refusal in REFUSALS {
        assert!(!log.contains(refusal), "{log}");
    }
}

/// Ended when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn placement_does_its_work_with_the_rights_that_it_has() {
    let Some(cluster) = installed("placement_does_its_work_with_the_rights_that_it_has") else { return };
    let labels = json!({ "microagent.dev/agent": "true", "zone": "placed" });
    cluster.add_node("placed", &json!({ "cpu": "4", "memory": "8Gi" }), &labels, &json!([]));
    let kubectl = cluster.kubectl().in_namespace(&cluster.namespace());
    let log = tempfile::NamedTempFile::new().expect("a file");
    let mut command = Command::new(bin_dir().join("microagent-placement"));
    command.arg("--kubeconfig").arg(cluster.service_account_kubeconfig(SYSTEM, "microagent-placement"));
    let running = command.stdin(Stdio::null()).stderr(log.reopen().expect("a file")).spawn().expect("placement");
    let running = Running(running);
    let workspace = |name: &str, zone: &str| {
        let spec = json!({
            "image": "busybox:1.37", "placement": { "nodeSelector": { "zone": zone } },
            "resources": { "cpus": 1, "memory": "128Mi", "disk": "1Gi" },
        });
        let object = json!({
            "apiVersion": "microagent.dev/v1alpha1", "kind": "Workspace", "metadata": { "name": name }, "spec": spec,
        });
        kubectl.apply(&object.to_string());
    };
    workspace("fits", "placed");
    workspace("waits", "nowhere");
    let _ = kubectl.ok(["wait", "workspace/fits", "--for=condition=Scheduled", "--timeout=120s"]);
    assert_eq!(kubectl.ok(["get", "workspace", "fits", "--output=jsonpath={.spec.nodeName}"]), "placed");
    let reason = "{.status.conditions[?(@.type=='Scheduled')].reason}";
    until("one waits for room", || {
        kubectl.ok(["get", "workspace", "waits", &format!("--output=jsonpath={reason}")]) == "Unschedulable"
    });
    // A reservation is given back when it is not to run.
    let halted = r#"{"spec":{"runPolicy":"Halted"}}"#;
    let _ = kubectl.ok(["patch", "workspace", "waits", "--type=merge", "--patch", halted]);
    until("no room is asked for", || !kubectl.run(["get", "pod", "waits-microvm"]).status.success());
    until("it is told what happened", || {
        let events = kubectl.ok(["get", "events.events.k8s.io", "--output=json"]);
        let events: Value = serde_json::from_str(&events).expect("JSON");
        let ours = |event: &Value| event["reportingController"] == "microagent.dev/placement";
        events["items"].as_array().is_some_and(|all| all.iter().any(ours))
    });
    drop(running);
    let said = fs::read_to_string(log.path()).expect("a log");
    for refusal in REFUSALS {
        assert!(!said.contains(refusal), "{said}");
    }
}
