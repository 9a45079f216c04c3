//! What the service accounts of the system may change, beyond what roles can say.

use std::path::PathBuf;

use kube::{
    Api,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams},
};
use microagent_tests::cluster::{Cluster, until};
use serde_json::{Value, json};

use super::{SYSTEM, installed};

/// Asks the API server as one account, without changing anything.
struct Account<'a> {
    cluster: &'a Cluster,
    kubeconfig: PathBuf,
    namespace: String,
}

/// An answer: nothing, or the code and the message of a refusal; 0 when there is no answer.
type Answer = Result<(), (u16, String)>;

impl<'a> Account<'a> {
    fn new(cluster: &'a Cluster, name: &str, namespace: &str) -> Self {
        let kubeconfig = cluster.service_account_kubeconfig(SYSTEM, name);
        Self { cluster, kubeconfig, namespace: namespace.to_owned() }
    }

    /// The agent, as its Pod on this node would be.
    fn agent_on(cluster: &'a Cluster, node: &str, namespace: &str) -> Self {
        let kubeconfig = cluster.service_account_kubeconfig_on(SYSTEM, "microagent-agent", node);
        Self { cluster, kubeconfig, namespace: namespace.to_owned() }
    }

    fn ask(&self, kind: &str, ask: impl AsyncFnOnce(Api<DynamicObject>) -> kube::Result<()>) -> Answer {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let answer = runtime.block_on(async {
            let client = self.cluster.client_as(&self.kubeconfig).await;
            let (group, version) = match kind {
                "Workspace" => ("microagent.dev", "v1alpha1"),
                "Lease" => ("coordination.k8s.io", "v1"),
                _ => ("", "v1"),
            };
            let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
            let api = match kind {
                "Node" => Api::all_with(client, &resource),
                "Lease" => Api::namespaced_with(client, SYSTEM, &resource),
                _ => Api::namespaced_with(client, &self.namespace, &resource),
            };
            ask(api).await
        });
        answer.map_err(|error| match error {
            kube::Error::Api(status) => (status.code, status.message.clone()),
            other => (0, other.to_string()),
        })
    }

    fn patch(&self, kind: &str, name: &str, patch: &Value) -> Answer {
        let parameters = PatchParams { dry_run: true, ..PatchParams::default() };
        self.ask(kind, async |api| api.patch(name, &parameters, &Patch::Merge(patch)).await.map(drop))
    }

    fn patch_status(&self, name: &str) -> Answer {
        let parameters = PatchParams { dry_run: true, ..PatchParams::default() };
        let patch = Patch::Merge(json!({ "status": { "phase": "Running" } }));
        self.ask("Workspace", async |api| api.patch_status(name, &parameters, &patch).await.map(drop))
    }

    fn create(&self, object: &Value) -> Answer {
        let parameters = PostParams { dry_run: true, ..PostParams::default() };
        let kind = object["kind"].as_str().expect("a kind");
        let object: DynamicObject = serde_json::from_value(object.clone()).expect("an object");
        self.ask(kind, async |api| api.create(&parameters, &object).await.map(drop))
    }

    fn delete(&self, kind: &str, name: &str) -> Answer {
        let parameters = DeleteParams { dry_run: true, ..DeleteParams::default() };
        self.ask(kind, async |api| api.delete(name, &parameters).await.map(drop))
    }
}

/// A policy must refuse it, not a role: that it is in force takes a moment.
fn refused(policy: &str, says: &str, ask: impl Fn() -> Answer) {
    let mut last = Ok(());
    until(&format!("{policy} is in force"), || {
        last = ask();
        last.is_err()
    });
    let (code, message) = last.expect_err("a refusal");
    assert_eq!(code, 403, "{message}");
    assert!(message.contains(policy) && message.contains(says), "{message}");
}

fn workspace(name: &str, spec: &Value) -> String {
    let mut all = json!({ "image": "busybox:1.37" });
    for (field, value) in spec.as_object().expect("an object") {
        all[field] = value.clone();
    }
    let metadata = json!({ "name": name, "labels": { "team": "a" }, "finalizers": ["example.com/other"] });
    json!({ "apiVersion": "microagent.dev/v1alpha1", "kind": "Workspace", "metadata": metadata, "spec": all })
        .to_string()
}

#[test]
fn the_expressions_of_the_policies_have_the_right_types() {
    let Some(cluster) = installed("the_expressions_of_the_policies_have_the_right_types") else { return };
    let list = || -> Vec<Value> {
        let list = cluster.kubectl().ok(["get", "validatingadmissionpolicies", "--output=json"]);
        let list: Value = serde_json::from_str(&list).expect("JSON");
        list["items"].as_array().expect("a list").clone()
    };
    // A controller checks them, some time after they are there.
    until("the policies are checked", || {
        list().iter().all(|one| one["status"]["observedGeneration"] == one["metadata"]["generation"])
    });
    let all = list();
    assert_eq!(all.len(), 6);
    for policy in all {
        let warnings = &policy["status"]["typeChecking"]["expressionWarnings"];
        assert!(warnings.is_null(), "{}: {warnings:#}", policy["metadata"]["name"]);
    }
}

#[test]
fn an_agent_changes_status_and_its_finalizer_and_nothing_else() {
    let Some(cluster) = installed("an_agent_changes_status_and_its_finalizer_and_nothing_else") else { return };
    let namespace = cluster.namespace();
    let kubectl = cluster.kubectl().in_namespace(&namespace);
    kubectl.apply(&workspace("own", &json!({ "nodeName": "policy-1" })));
    let agent = Account::new(cluster, "microagent-agent", &namespace);
    let policy = "microagent-agent-workspaces";
    refused(policy, "never changes the spec", || {
        agent.patch("Workspace", "own", &json!({ "spec": { "image": "debian:12" } }))
    });
    for change in [
        json!({ "labels": { "team": "b" } }),
        json!({ "annotations": { "microagent.dev/restart": "now" } }),
        json!({ "finalizers": [] }),
        json!({ "finalizers": ["example.com/other", "example.com/another"] }),
        json!({ "ownerReferences": [{ "apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "x" }] }),
    ] {
        refused(policy, "its own finalizer only", || {
            agent.patch("Workspace", "own", &json!({ "metadata": change.clone() }))
        });
    }
    let finalizers = json!({ "metadata": { "finalizers": ["example.com/other", "microagent.dev/host-state"] } });
    assert_eq!(agent.patch("Workspace", "own", &finalizers), Ok(()));
    assert_eq!(agent.patch_status("own"), Ok(()));
    assert_eq!(agent.delete("Workspace", "own"), Ok(()));
}

#[test]
fn an_agent_with_the_token_of_a_pod_changes_the_workspaces_of_its_node_alone() {
    let Some(cluster) = installed("an_agent_with_the_token_of_a_pod_changes_the_workspaces_of_its_node_alone") else {
        return;
    };
    let namespace = cluster.namespace();
    let kubectl = cluster.kubectl().in_namespace(&namespace);
    cluster.add_node("policy-own", &json!({}), &json!({}), &json!([]));
    kubectl.apply(&workspace("own", &json!({ "nodeName": "policy-own" })));
    kubectl.apply(&workspace("other", &json!({ "nodeName": "policy-other" })));
    kubectl.apply(&workspace("nobodys", &json!({})));
    let agent = Account::agent_on(cluster, "policy-own", &namespace);
    let finalizers = json!({ "metadata": { "finalizers": ["example.com/other", "microagent.dev/host-state"] } });
    let (policy, says) = ("microagent-agent-workspaces", "its own node only");
    for name in ["other", "nobodys"] {
        refused(policy, says, || agent.patch("Workspace", name, &finalizers));
        refused(policy, says, || agent.patch_status(name));
        refused(policy, says, || agent.delete("Workspace", name));
    }
    assert_eq!(agent.patch("Workspace", "own", &finalizers), Ok(()));
    assert_eq!(agent.patch_status("own"), Ok(()));
    assert_eq!(agent.delete("Workspace", "own"), Ok(()));
}

#[test]
fn an_agent_tells_of_its_own_node_under_names_of_ours() {
    let Some(cluster) = installed("an_agent_tells_of_its_own_node_under_names_of_ours") else { return };
    let labels = json!({ "zone": "a" });
    cluster.add_node("telling", &json!({}), &labels, &json!([]));
    cluster.add_node("telling-other", &json!({}), &labels, &json!([]));
    let agent = Account::agent_on(cluster, "telling", "default");
    let policy = "microagent-agent-nodes";
    let told = json!({ "metadata": {
        "labels": { "microagent.dev/agent": "true" },
        "annotations": { "microagent.dev/gate": "https://127.0.0.1:10270" },
    } });
    refused(policy, "its own node only", || agent.patch("Node", "telling-other", &told));
    for (change, says) in [
        (json!({ "metadata": { "labels": { "zone": "b" } } }), "labels"),
        (json!({ "metadata": { "labels": { "zone": null } } }), "labels"),
        (json!({ "metadata": { "labels": { "node-role.kubernetes.io/control-plane": "" } } }), "labels"),
        (json!({ "metadata": { "annotations": { "example.com/a": "b" } } }), "annotations"),
        (json!({ "spec": { "unschedulable": true } }), "nothing of a node but labels and annotations"),
        (json!({ "spec": { "taints": [{ "key": "a", "effect": "NoExecute" }] } }), "nothing of a node but"),
        (json!({ "metadata": { "finalizers": ["microagent.dev/host-state"] } }), "nothing of a node but"),
    ] {
        refused(policy, says, || agent.patch("Node", "telling", &change));
    }
    assert_eq!(agent.patch("Node", "telling", &told), Ok(()));
}

#[test]
fn an_agent_holds_the_lease_of_its_node_alone() {
    let Some(cluster) = installed("an_agent_holds_the_lease_of_its_node_alone") else { return };
    cluster.add_node("leasing", &json!({}), &json!({}), &json!([]));
    let agent = Account::agent_on(cluster, "leasing", "default");
    let lease =
        |name: &str| json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": name } });
    for other in ["agent-leasing-2", "microagent-placement"] {
        refused("microagent-agent-leases", "its own node only", || agent.create(&lease(other)));
    }
    assert_eq!(agent.create(&lease("agent-leasing")), Ok(()));
    let outside = Account::new(cluster, "microagent-agent", "default");
    refused("microagent-agent-leases", "its own node only", || outside.create(&lease("microagent-placement")));
    assert_eq!(outside.create(&lease("agent-leasing-2")), Ok(()));
}

#[test]
fn placement_binds_workspaces_and_changes_nothing_else() {
    let Some(cluster) = installed("placement_binds_workspaces_and_changes_nothing_else") else { return };
    let namespace = cluster.namespace();
    let kubectl = cluster.kubectl().in_namespace(&namespace);
    kubectl.apply(&workspace("free", &json!({ "placement": { "nodeSelector": { "zone": "a" } } })));
    let held = ["example.com/other", "microagent.dev/host-state"];
    kubectl.apply(&workspace("going", &json!({ "nodeName": "lost" })));
    let patch = json!({ "metadata": { "finalizers": held } }).to_string();
    let _ = kubectl.ok(["patch", "workspace", "going", "--type=merge", "--patch", &patch]);
    let placement = Account::new(cluster, "microagent-placement", &namespace);
    let policy = "microagent-placement-workspaces";
    for spec in [
        json!({ "image": "debian:12" }),
        json!({ "runPolicy": "Halted" }),
        json!({ "command": ["sh"] }),
        json!({ "placement": null }),
        json!({ "nodeName": "node", "placement": { "onNodeLost": "Reschedule" } }),
    ] {
        refused(policy, "changes nodeName only", || {
            placement.patch("Workspace", "free", &json!({ "spec": spec.clone() }))
        });
    }
    refused(policy, "labels, annotations and owners", || {
        placement.patch("Workspace", "free", &json!({ "metadata": { "labels": { "team": "b" } } }))
    });
    let without = json!({ "metadata": { "finalizers": ["example.com/other"] } });
    refused(policy, "being deleted", || placement.patch("Workspace", "going", &without));
    let _ = kubectl.ok(["delete", "workspace", "going", "--wait=false"]);
    let none = json!({ "metadata": { "finalizers": [] } });
    refused(policy, "nothing but the finalizer", || placement.patch("Workspace", "going", &none));
    assert_eq!(placement.patch("Workspace", "going", &without), Ok(()));
    assert_eq!(placement.patch("Workspace", "free", &json!({ "spec": { "nodeName": "node" } })), Ok(()));
    assert_eq!(placement.patch_status("free"), Ok(()));
}

#[test]
fn placement_gives_up_what_a_lost_node_has_where_the_workspace_may_move() {
    let test = "placement_gives_up_what_a_lost_node_has_where_the_workspace_may_move";
    let Some(cluster) = installed(test) else { return };
    let namespace = cluster.namespace();
    let kubectl = cluster.kubectl().in_namespace(&namespace);
    let held = json!({ "metadata": { "finalizers": ["example.com/other", "microagent.dev/host-state"] } }).to_string();
    for (name, lost) in [("moves", "Reschedule"), ("stays", "Report")] {
        kubectl.apply(&workspace(name, &json!({ "nodeName": "lost", "placement": { "onNodeLost": lost } })));
        let _ = kubectl.ok(["patch", "workspace", name, "--type=merge", "--patch", &held]);
    }
    let placement = Account::new(cluster, "microagent-placement", &namespace);
    let policy = "microagent-placement-workspaces";
    let change =
        |finalizers: &[&str]| json!({ "metadata": { "finalizers": finalizers }, "spec": { "nodeName": null } });
    let without = json!({ "metadata": { "finalizers": ["example.com/other"] } });
    refused(policy, "taken from a lost node", || placement.patch("Workspace", "moves", &without));
    refused(policy, "nothing but the finalizer", || placement.patch("Workspace", "moves", &change(&[])));
    assert_eq!(placement.patch("Workspace", "moves", &change(&["example.com/other"])), Ok(()));
    // The rules of the type hold it to its node before any policy is asked.
    assert!(placement.patch("Workspace", "stays", &change(&["example.com/other"])).is_err());
}

#[test]
fn placement_makes_pods_that_do_nothing() {
    let Some(cluster) = installed("placement_makes_pods_that_do_nothing") else { return };
    let namespace = cluster.namespace();
    let placement = Account::new(cluster, "microagent-placement", &namespace);
    let good = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "hello-microvm",
            "labels": { "app.kubernetes.io/managed-by": "microagent-placement" },
            "ownerReferences": [{
                "apiVersion": "microagent.dev/v1alpha1", "kind": "Workspace", "name": "hello", "uid": "1", "controller": true,
            }],
        },
        "spec": {
            "automountServiceAccountToken": false,
            "securityContext": { "runAsNonRoot": true, "runAsUser": 65535 },
            "containers": [{
                "name": "reservation", "image": "pause",
                "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
            }],
        },
    });
    let policy = "microagent-placement-pods";
    for (at, value, says) in [
        ("/metadata/name", json!("hello"), "reservation Pods of workspaces only"),
        ("/metadata/labels", json!({}), "reservation Pods of workspaces only"),
        ("/metadata/ownerReferences", json!([]), "reservation Pods of workspaces only"),
        ("/spec/automountServiceAccountToken", json!(true), "no token"),
        ("/spec/volumes", json!([{ "name": "host", "hostPath": { "path": "/" } }]), "no volumes"),
        ("/spec/initContainers", json!([{ "name": "first", "image": "pause" }]), "one container"),
        ("/spec/hostPID", json!(true), "no privileges"),
        ("/spec/hostNetwork", json!(true), "no privileges"),
        ("/spec/securityContext", json!({}), "no privileges"),
        ("/spec/containers/0/securityContext", json!({ "privileged": true }), "no privileges"),
    ] {
        let mut pod = good.clone();
        let (parent, key) = at.rsplit_once('/').expect("a path");
        pod.pointer_mut(parent).expect("a parent")[key] = value;
        refused(policy, says, || placement.create(&pod));
    }
    assert_eq!(placement.create(&good), Ok(()));
    let mut user = good;
    user["metadata"]["labels"] = json!({});
    let kubectl = cluster.kubectl().in_namespace(&namespace);
    kubectl.apply(&user.to_string());
    refused(policy, "reservation Pods of workspaces only", || placement.delete("Pod", "hello-microvm"));
}

#[test]
fn files_of_a_node_are_named_by_those_who_may() {
    let Some(cluster) = installed("files_of_a_node_are_named_by_those_who_may") else { return };
    let namespace = cluster.namespace();
    let admin = cluster.kubectl().in_namespace(&namespace);
    let _ = admin.ok(["create", "rolebinding", "jane", "--clusterrole=admin", "--user=jane"]);
    let jane = cluster.kubectl_as(&cluster.kubeconfig_for("jane", None)).in_namespace(&namespace);
    // Roles are aggregated by a controller.
    until("jane may make workspaces", || jane.run(["auth", "can-i", "create", "workspaces"]).status.success());
    let specs = [
        json!({ "kernel": { "source": "path", "path": "/boot/vmlinuz" } }),
        json!({ "image": "oci-layout:/srv/image" }),
        json!({ "image": "oci-archive:/srv/image.tar" }),
        json!({ "disks": [{ "name": "a", "mountPath": "/a", "source": { "image": { "path": "/dev/sda" } } }] }),
        json!({ "secrets": [{ "name": "a", "env": "A", "from": { "file": "/etc/shadow" } }] }),
    ];
    let dry = ["create", "--dry-run=server", "--filename=-"];
    for (nth, spec) in specs.iter().enumerate() {
        let manifest = workspace(&format!("files-{nth}"), spec);
        until("the policy is in force", || !jane.run_with(dry, &manifest).status.success());
        let said = jane.run_with(dry, &manifest).stderr;
        assert!(said.contains("microagent-host-files") && said.contains("use-host-files"), "{said}");
        let said = admin.run_with(dry, &manifest);
        assert!(said.status.success(), "{}", said.stderr);
    }
    assert!(jane.run_with(dry, &workspace("none", &json!({}))).status.success());
    // Who may not name one may still change the rest of a workspace that has one.
    admin.apply(&workspace("kept", &specs[0]));
    let patch = |patch: Value| jane.run(["patch", "workspace", "kept", "--type=merge", "--patch", &patch.to_string()]);
    assert!(patch(json!({ "spec": { "resources": { "cpus": 2 } } })).status.success());
    let said = patch(json!({ "spec": { "kernel": { "path": "/etc/shadow" } } }));
    assert!(said.stderr.contains("/etc/shadow"), "{}", said.stderr);
    // The verb is granted like any other.
    let _ = admin.ok(["create", "role", "files", "--verb=use-host-files", "--resource=workspaces.microagent.dev"]);
    let _ = admin.ok(["create", "rolebinding", "files", "--role=files", "--user=jane"]);
    until("jane may name files", || jane.run_with(dry, &workspace("files", &specs[0])).status.success());
}
