//! What goes wrong on the way, and what is said about it.

use serde_json::json;

use crate::{Cluster, WORKSPACE, api::refusal};

/// The exit code and all that is told.
fn failure(cluster: &Cluster, line: &str) -> String {
    let done = cluster.run(line);
    assert_eq!(done.out, "");
    format!("{}\nexit {}", cluster.told(done.err.trim_end()), done.code)
}

#[test]
fn a_workspace_that_is_not_there() {
    let cluster = Cluster::new();
    insta::assert_snapshot!(failure(&cluster, "logs none"));
}

#[test]
fn a_workspace_that_no_node_has() {
    let cluster = Cluster::new();
    cluster.workspace(
        &json!({"phase": "Pending", "conditions": [{"type": "Scheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/3 nodes are available: 3 Insufficient memory.", "lastTransitionTime": "2026-11-24T06:00:00Z"}]}),
    );
    insta::assert_snapshot!(failure(&cluster, "exec web -- ls"));
}

#[test]
fn a_node_whose_agent_tells_no_gate() {
    let cluster = Cluster::new();
    cluster.node(&json!({}));
    insta::assert_snapshot!(failure(&cluster, "logs web"));
}

#[test]
fn a_node_that_one_may_not_read() {
    let cluster = Cluster::new();
    let message = "nodes \"node-1\" is forbidden: User \"jane\" cannot get resource \"nodes\" in API group \"\" at the cluster scope";
    cluster.api.put("/api/v1/nodes/node-1", refusal(403, "Forbidden", message));
    insta::assert_snapshot!(failure(&cluster, "logs web"));
}

#[test]
fn a_gate_with_another_certificate() {
    let cluster = Cluster::new();
    cluster.tell_gate(&cluster.gate, &format!("sha256:{}", "0".repeat(64)));
    insta::assert_snapshot!(failure(&cluster, "logs web"));
}

#[test]
fn a_gate_that_cannot_be_reached() {
    let cluster = Cluster::new();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    cluster.tell_gate(&format!("https://{free}"), &cluster.digest);
    let told = failure(&cluster, "logs web").replace(&free.to_string(), "NOBODY");
    insta::assert_snapshot!(told);
}

#[test]
fn a_user_who_may_not() {
    let cluster = Cluster::new();
    cluster.kubeconfig(&json!({"token": "joe"}));
    insta::assert_snapshot!(failure(&cluster, "exec web -- ls"));
    assert!(failure(&cluster, "logs web").contains("get workspaces/log"));
}

#[test]
fn a_token_that_the_cluster_does_not_know() {
    let cluster = Cluster::new();
    cluster.kubeconfig(&json!({"token": "nobody"}));
    insta::assert_snapshot!(failure(&cluster, "logs web"));
}

#[test]
fn a_kubeconfig_with_nothing_to_show() {
    let cluster = Cluster::new();
    for user in [json!({}), json!({"username": "jane", "password": "x"})] {
        cluster.kubeconfig(&user);
        insta::allow_duplicates! {
            insta::assert_snapshot!(failure(&cluster, "logs web"));
        }
    }
    cluster.kubeconfig(&json!({"token": "jane", "as": "joe"}));
    assert!(failure(&cluster, "logs web").contains("acts as another user"));
}

#[test]
fn a_plugin_that_cannot_log_in() {
    let cluster = Cluster::new();
    cluster.kubeconfig(&json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "no-such-program",
        "interactiveMode": "Never"}}));
    let done = cluster.run("logs web");
    assert_eq!(done.code, 1);
    assert!(done.err.contains("unable to run auth exec"), "{}", done.err);
}

#[test]
fn a_machine_that_does_not_run() {
    let cluster = Cluster::new();
    insta::assert_snapshot!(failure(&cluster, "exec web -- ls"));
}

#[test]
fn a_kubeconfig_that_is_not_there() {
    let cluster = Cluster::new();
    let done = cluster.run("--kubeconfig /no/such/file get");
    assert_eq!(done.code, 1);
    assert!(done.err.contains("/no/such/file") && done.err.contains("--kubeconfig"), "{}", done.err);
    let done = cluster.run("--context nowhere get");
    assert!(done.code == 1 && done.err.contains("nowhere"), "{}", done.err);
}

#[test]
fn an_api_server_that_refuses() {
    let cluster = Cluster::new();
    cluster.api.put(WORKSPACE, refusal(403, "Forbidden", "workspaces.microagent.dev \"web\" is forbidden"));
    insta::assert_snapshot!(failure(&cluster, "describe web"));
}

#[test]
fn what_is_kubectls_own_is_told_in_one_line() {
    let cluster = Cluster::new();
    let done = cluster.run("apply -f x.yaml");
    assert_eq!(
        (done.code, done.err.as_str()),
        (2, "error: \"apply\" is no command for a cluster: use `kubectl apply -f FILE`\n")
    );
    let help = cluster.run("--help");
    assert!(help.code == 0 && help.out.contains("Usage: kubectl microagent"), "{}", help.out);
    assert_eq!(cluster.run("version").code, 0);
}
