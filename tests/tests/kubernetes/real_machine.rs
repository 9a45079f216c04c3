//! The whole way once with everything real: `kubectl apply` to a guest under QEMU, its logs and a command in it through the gate,
//! an edit, and `kubectl delete`.

use std::{env, net::TcpListener, os::unix::fs::symlink, process::Output};

use microagent_tests::{
    cluster::{Cluster, until},
    host::{Host, bin_dir, busybox_image, manifest},
    registry::Registry,
};
use serde_json::json;

use crate::agent::{object, wait_for, wait_gone};

/// A guest under emulation on a busy host takes tens of seconds, and a kernel is downloaded once.
const PATIENCE: &str = "300s";

#[test]
fn kubectl_takes_a_workspace_from_apply_to_delete() {
    const TEST: &str = "kubectl_takes_a_workspace_from_apply_to_delete";
    let Some(cluster) = Cluster::shared(TEST) else { return };
    let Some(registry) = Registry::start(TEST) else { return };
    let image = busybox_image().build().push(&registry, "demo/web", "1");
    cluster.install_workspaces();
    cluster.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: microagent-system}\n");
    let node = "real-machine";
    cluster.add_node(node, &json!({ "cpu": "8", "memory": "16Gi", "pods": "110" }), &json!({}), &json!([]));
    let mut host = Host::new();
    // Free a moment ago: two who take the same port in that moment are told so by the agent's log.
    let gate = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port");
    host.start_agent_with(|command| {
        command.args(["--node-name", node, "--gate", &gate.to_string(), "--kubeconfig"]).arg(cluster.kubeconfig());
    });
    let kubectl = cluster.kubectl().in_namespace(&cluster.namespace());
    let spec = |turn: &str| {
        json!({
            "nodeName": node,
            "command": ["/bin/sh", "-c", "echo turn $TURN; exec sleep 100000"],
            "env": [{ "name": "TURN", "value": turn }],
            "user": "app",
            "lifecycle": { "terminationGracePeriodSeconds": 1 },
        })
    };
    kubectl.apply(&manifest("web", &image, &spec("one")));
    wait_for(&kubectl, "web", "Ready", PATIENCE);
    let uid = object(&kubectl, "web")["metadata"]["uid"].as_str().expect("a UID").to_owned();
    assert!(!host.processes(&uid).is_empty(), "a machine runs");

    let programs = host.scratch().join("programs");
    std::fs::create_dir(&programs).expect("a directory");
    symlink(bin_dir().join("microagent"), programs.join("kubectl-microagent")).expect("a link");
    // Only this node can be reached so: the user has a token, as a person has.
    let namespace = kubectl.ok(["get", "workspace", "web", "--output=jsonpath={.metadata.namespace}"]);
    kubectl.ok(["create", "serviceaccount", "dev"]);
    let subject = format!("--serviceaccount={namespace}:dev");
    let binding = format!("dev-{namespace}");
    kubectl.ok(["create", "clusterrolebinding", &binding, "--clusterrole=cluster-admin", &subject]);
    let user = cluster.service_account_kubeconfig(&namespace, "dev");
    let plugin = |args: &[&str]| -> Output {
        let mut path = programs.clone().into_os_string();
        path.push(":");
        path.push(env::var_os("PATH").unwrap_or_default());
        let mut command = cluster.kubectl_as(&user).command();
        command.args(["microagent", "--namespace", &namespace]).args(args).env("PATH", path);
        command.output().expect("kubectl")
    };
    let said = |args: &[&str]| {
        let output = plugin(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    until("the node tells of its gate", || {
        let path = r"jsonpath={.metadata.annotations.microagent\.dev/gate}";
        kubectl.ok(["get", "node", node, "--output", path]).contains(&gate.to_string())
    });
    until("the workload has spoken", || said(&["logs", "web"]) == "turn one\n");
    assert_eq!(said(&["exec", "web", "--", "/bin/sh", "-c", "id -un; hostname"]), "app\nweb\n");
    assert_eq!(plugin(&["exec", "web", "--", "/bin/sh", "-c", "exit 3"]).status.code(), Some(3));
    assert!(said(&["describe", "web"]).contains("Running"));

    kubectl.apply(&manifest("web", &image, &spec("two")));
    wait_for(&kubectl, "web", "RestartRequired", PATIENCE);
    said(&["restart", "web"]);
    until("it runs as edited", || object(&kubectl, "web")["status"]["runningGeneration"] == 2);
    wait_for(&kubectl, "web", "Ready", PATIENCE);
    // It is Ready once its workload runs, and that speaks a moment later.
    until("the workload has spoken again", || said(&["logs", "web"]).ends_with("turn two\n"));

    kubectl.ok(["delete", "workspace", "web", "--wait=false"]);
    wait_gone(&kubectl, "web");
    assert_eq!(host.processes(&uid), Vec::<String>::new());
    assert_eq!(host.machines(), Vec::<String>::new());
}
