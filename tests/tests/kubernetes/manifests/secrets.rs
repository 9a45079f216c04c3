//! Secrets and the rights of agents: none without a RoleBinding, and the environment of an agent never.

use microagent_tests::{
    cluster::{Cluster, until},
    host::Host,
};
use serde_json::{Value, json};

use super::{SYSTEM, installed};

const ROLE: &str = "microagent-agent-secrets";

fn condition(shown: &Value, kind: &str) -> Value {
    let all = shown["status"]["conditions"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|condition| condition["type"] == kind).unwrap_or_default()
}

/// An agent with the account that the manifests give it.
fn agent(cluster: &Cluster, node: &str) -> Host {
    cluster.add_node(node, &json!({ "cpu": "4", "memory": "8Gi" }), &json!({}), &json!([]));
    let kubeconfig = cluster.service_account_kubeconfig_on(SYSTEM, "microagent-agent", node);
    let mut host = Host::with_fake_machines();
    host.start_agent_with(|command| {
        command.args(["--node-name", node, "--kubeconfig"]).arg(kubeconfig);
    });
    host
}

#[test]
fn an_agent_reads_secrets_where_it_is_let_and_says_how_to_let_it() {
    let Some(cluster) = installed("an_agent_reads_secrets_where_it_is_let_and_says_how_to_let_it") else { return };
    let bindings =
        cluster.kubectl().ok(["get", "rolebindings,clusterrolebindings", "--all-namespaces", "--output=json"]);
    let bindings: Value = serde_json::from_str(&bindings).expect("JSON");
    let bound = |one: &Value| one["roleRef"]["name"] == ROLE && one["roleRef"]["kind"] == "ClusterRole";
    assert_eq!(bindings["items"].as_array().expect("a list").iter().filter(|one| bound(one)).count(), 0);
    let role = cluster.kubectl().ok(["get", "clusterrole", ROLE, "--output=jsonpath={.rules}"]);
    assert_eq!(role, r#"[{"apiGroups":[""],"resources":["secrets"],"verbs":["get"]}]"#);

    let host = agent(cluster, "secret-rights");
    let namespace = cluster.namespace();
    let kubectl = cluster.kubectl().in_namespace(&namespace);
    let _ = kubectl.ok(["create", "secret", "generic", "app", "--from-literal=token=correct-horse"]);
    let spec = json!({
        "nodeName": "secret-rights",
        "secrets": [{ "name": "token", "env": "TOKEN", "from": { "secretKeyRef": { "name": "app", "key": "token" } } }],
    });
    let _ = kubectl.apply(&host.fake_manifest("web", &spec));
    let shown =
        || -> Value { serde_json::from_str(&kubectl.ok(["get", "workspace", "web", "--output=json"])).expect("JSON") };
    until("a person is told", || condition(&shown(), "Stalled")["reason"] == "SecretUnavailable");
    let stalled = condition(&shown(), "Stalled");
    let message = stalled["message"].as_str().expect("a message");
    assert!(message.contains(&format!("{namespace}/app")), "{message}");
    // What it says is what helps.
    let (_, command) = message.split_once("kubectl ").expect("a command");
    let _ = cluster.kubectl().ok(command.split(' '));
    let _ = kubectl.ok(["wait", "workspace/web", "--for=condition=Ready", "--timeout=180s"]);
    let uid = shown()["metadata"]["uid"].as_str().expect("a UID").to_owned();
    assert_eq!(host.fake().secrets(&uid).len(), 1);

    let agent = cluster.kubectl_as(&cluster.service_account_kubeconfig(SYSTEM, "microagent-agent"));
    let may = |verb: &str, at: &str| agent.in_namespace(at).run(["auth", "can-i", verb, "secrets"]).status.success();
    assert!(may("get", &namespace));
    for (verb, at) in [("list", namespace.as_str()), ("watch", &namespace), ("get", SYSTEM), ("get", "default")] {
        assert!(!may(verb, at), "{verb} in {at}");
    }
}

#[test]
fn the_environment_of_an_agent_is_for_no_workspace() {
    let Some(cluster) = installed("the_environment_of_an_agent_is_for_no_workspace") else { return };
    let kubectl = cluster.kubectl().in_namespace(&cluster.namespace());
    let manifest = |from: Value| {
        json!({
            "apiVersion": "microagent.dev/v1alpha1", "kind": "Workspace", "metadata": { "name": "web" },
            "spec": { "image": "busybox:1.37", "secrets": [{ "name": "a", "env": "A", "from": from }] },
        })
        .to_string()
    };
    let dry = ["create", "--dry-run=server", "--filename=-"];
    let wrong = manifest(json!({ "env": "KUBERNETES_SERVICE_HOST" }));
    until("the policy is in force", || !kubectl.run_with(dry, &wrong).status.success());
    let said = kubectl.run_with(dry, &wrong).stderr;
    assert!(said.contains("KUBERNETES_SERVICE_HOST") && said.contains("secretKeyRef"), "{said}");
    let right = manifest(json!({ "secretKeyRef": { "name": "a", "key": "b" } }));
    let said = kubectl.run_with(dry, &right);
    assert!(said.status.success(), "{}", said.stderr);
}
