//! Secrets of workspaces: read by the agent right before a start, and told to nobody but the machine.

use microagent_base::Digest;
use microagent_guest_protocol::SecretPlace;
use microagent_tests::{
    cluster::{Cluster, Kubectl, until},
    fake::GivenSecret,
    leaks::files_with,
};
use serde_json::{Value, json};

use super::{Node, condition, object, wait};

const FIRST: &str = "correct-horse-battery-staple";
const SECOND: &str = "tr0ub4dor-and-three-more";

/// Makes the Secret `app`, or changes it.
fn secret(kubectl: &Kubectl, data: &Value) {
    let object = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "app" }, "stringData": data });
    let _ = kubectl.apply(&object.to_string());
}

fn spec() -> Value {
    let from = |key: &str| json!({ "secretKeyRef": { "name": "app", "key": key } });
    json!({ "secrets": [
        { "name": "token", "env": "API_TOKEN", "from": from("token") },
        { "name": "key", "path": "/etc/app/key", "from": from("key") },
    ] })
}

fn given(token: &str, key: &str) -> [GivenSecret; 2] {
    let given = |name: &str, place, value: &str| GivenSecret {
        name: name.to_owned(),
        place,
        digest: Digest::of(value.as_bytes()),
    };
    [
        given("token", SecretPlace::Env("API_TOKEN".to_owned()), token),
        given("key", SecretPlace::Path("/etc/app/key".to_owned()), key),
    ]
}

/// Waits until a condition is False for this reason and says these words; gives the object.
pub(crate) fn told(kubectl: &Kubectl, name: &str, kind: &str, reason: &str, words: &[&str]) -> Value {
    let mut last = Value::Null;
    until(&format!("{kind} of {name} is told as {reason} with {words:?}"), || {
        last = object(kubectl, name);
        let told = condition(&last, kind);
        let message = told["message"].as_str().unwrap_or_default();
        told["status"] == "False" && told["reason"] == reason && words.iter().all(|word| message.contains(word))
    });
    last
}

/// Nothing that this host or the API server tells has the value.
pub(crate) fn nowhere(node: &Node, kubectl: &Kubectl, value: &str) {
    let (found, read) = files_with(node.host.scratch(), value);
    assert!(found.is_empty(), "{found:?}");
    assert!(read > 10, "{read} files were read");
    for kind in ["workspaces", "events.events.k8s.io"] {
        let shown = kubectl.ok(["get", kind, "--output=yaml"]);
        assert!(shown.contains("items:") && !shown.contains(value), "{kind}");
    }
}

#[test]
fn a_secret_reaches_the_machine_and_nothing_else_and_a_new_value_comes_with_the_next_start() {
    const TEST: &str = "a_secret_reaches_the_machine_and_nothing_else_and_a_new_value_comes_with_the_next_start";
    let Some(cluster) = Cluster::shared(TEST) else { return };
    let node = Node::start(cluster, "secret-values");
    let kubectl = cluster.kubectl().in_namespace(&cluster.namespace());
    secret(&kubectl, &json!({ "token": FIRST, "key": SECOND, "other": "not asked for" }));
    kubectl.apply(&node.manifest("web", &spec()));
    wait(&kubectl, "web", "Ready");
    let before = object(&kubectl, "web");
    let uid = before["metadata"]["uid"].as_str().expect("a UID").to_owned();
    assert_eq!(node.host.fake().secrets(&uid), given(FIRST, SECOND));

    secret(&kubectl, &json!({ "token": SECOND, "key": FIRST }));
    kubectl.ok(["annotate", "workspace", "web", "microagent.dev/restart=once"]);
    until("the next machine has the new values", || node.host.fake().secrets(&uid) == given(SECOND, FIRST));
    until("it is told as restarted", || object(&kubectl, "web")["status"]["bootId"] != before["status"]["bootId"]);
    wait(&kubectl, "web", "Ready");
    let after = object(&kubectl, "web");
    assert_eq!(after["metadata"]["generation"], before["metadata"]["generation"]);
    assert_eq!(condition(&after, "RestartRequired")["status"], "False");
    assert_eq!(node.host.fake().boots().iter().filter(|boot| boot.uid == uid).count(), 2);
    for value in [FIRST, SECOND] {
        nowhere(&node, &kubectl, value);
    }
}

#[test]
fn a_machine_whose_secret_is_missing_starts_by_itself_once_it_is_there() {
    const TEST: &str = "a_machine_whose_secret_is_missing_starts_by_itself_once_it_is_there";
    let Some(cluster) = Cluster::shared(TEST) else { return };
    let node = Node::start(cluster, "secret-missing");
    let namespace = cluster.namespace();
    let kubectl = cluster.kubectl().in_namespace(&namespace);
    kubectl.apply(&node.manifest("web", &spec()));
    let full = format!("{namespace}/app");
    let shown = told(&kubectl, "web", "MachineStarted", "SecretUnavailable", &[&full, "does not exist"]);
    assert_eq!(condition(&shown, "Stalled")["status"], "False", "it may come");
    let uid = shown["metadata"]["uid"].as_str().expect("a UID").to_owned();
    secret(&kubectl, &json!({ "token": FIRST }));
    told(&kubectl, "web", "MachineStarted", "SecretUnavailable", &[&full, "no key `key`"]);
    assert_eq!(node.host.fake().boots().iter().filter(|boot| boot.uid == uid).count(), 0);
    secret(&kubectl, &json!({ "token": FIRST, "key": "x" }));
    super::wait_for(&kubectl, "web", "Ready", "180s");
    assert_eq!(node.host.fake().secrets(&uid), given(FIRST, "x"));
    nowhere(&node, &kubectl, FIRST);
}
