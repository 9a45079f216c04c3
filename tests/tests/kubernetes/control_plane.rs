//! The control plane does what tests count on: authorisation, admission, scheduling, clean-up.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};
use microagent_tests::cluster::{Cluster, Kubectl, until};
use serde_json::{Value, json};

/// A Pod that wants a core.
fn pod(name: &str, spec: &Value) -> String {
    let resources = json!({ "requests": { "cpu": "1" } });
    let mut all = json!({ "containers": [{ "name": "main", "image": "none", "resources": resources }] });
    for (field, value) in spec.as_object().expect("a spec is an object") {
        all[field] = value.clone();
    }
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": all }).to_string()
}

fn node_of(kubectl: &Kubectl, pod: &str) -> String {
    kubectl.ok(["get", "pod", pod, "--output=jsonpath={.spec.nodeName}"])
}

#[test]
fn client_and_server_know_their_version() {
    let Some(cluster) = Cluster::shared("client_and_server_know_their_version") else { return };
    let said = cluster.kubectl().ok(["version", "--output=json"]);
    let versions: Value = serde_json::from_str(&said).expect("JSON");
    for side in ["clientVersion", "serverVersion"] {
        let version = versions[side]["gitVersion"].as_str().expect("a version");
        assert!(version.starts_with("v1.") && version != "v1.0.0", "{said}");
    }
}

#[test]
fn a_user_without_a_role_is_refused_and_one_with_a_role_is_not() {
    let Some(cluster) = Cluster::shared("a_user_without_a_role_is_refused_and_one_with_a_role_is_not") else { return };
    let namespace = cluster.namespace();
    let user = cluster.kubectl_as(&cluster.kubeconfig_for("jane", Some("readers"))).in_namespace(&namespace);
    let said = user.fails(["get", "configmaps"]);
    assert!(said.contains("forbidden") && said.contains("\"jane\""), "{said}");
    let admin = cluster.kubectl().in_namespace(&namespace);
    let _ = admin.ok(["create", "rolebinding", "readers", "--clusterrole=view", "--group=readers"]);
    until("the role counts", || user.run(["get", "configmaps"]).status.success());
    let said = user.fails(["create", "configmap", "of-jane"]);
    assert!(said.contains("forbidden"), "{said}");
}

#[test]
fn a_service_account_is_who_its_token_says() {
    let Some(cluster) = Cluster::shared("a_service_account_is_who_its_token_says") else { return };
    let namespace = cluster.namespace();
    let _ = cluster.kubectl().in_namespace(&namespace).ok(["create", "serviceaccount", "agent"]);
    let agent = cluster.kubectl_as(&cluster.service_account_kubeconfig(&namespace, "agent"));
    let said = agent.ok(["auth", "whoami", "--output=jsonpath={.status.userInfo.username}"]);
    assert_eq!(said, format!("system:serviceaccount:{namespace}:agent"));
}

#[test]
fn the_scheduler_binds_a_pod_to_a_node_that_fits() {
    let Some(cluster) = Cluster::shared("the_scheduler_binds_a_pod_to_a_node_that_fits") else { return };
    let kubectl = cluster.kubectl().in_namespace(&cluster.namespace());
    let pool = json!({ "pool": "binding" });
    let taint = json!([{ "key": "reserved", "value": "yes", "effect": "NoSchedule" }]);
    cluster.add_node("binding-tainted", &json!({ "cpu": "8", "memory": "8Gi" }), &pool, &taint);
    cluster.add_node("binding-small", &json!({ "cpu": "500m", "memory": "8Gi" }), &pool, &json!([]));
    cluster.add_node("binding-fits", &json!({ "cpu": "2", "memory": "8Gi" }), &pool, &json!([]));
    let _ = kubectl.apply(&pod("web", &json!({ "nodeSelector": pool })));
    let _ = kubectl.ok(["wait", "--for=condition=PodScheduled", "pod/web", "--timeout=120s"]);
    assert_eq!(node_of(&kubectl, "web"), "binding-fits");

    let toleration = json!([{ "key": "reserved", "operator": "Exists" }]);
    let spec = json!({ "nodeSelector": { "kubernetes.io/hostname": "binding-tainted" }, "tolerations": toleration });
    let _ = kubectl.apply(&pod("tolerant", &spec));
    let _ = kubectl.ok(["wait", "--for=condition=PodScheduled", "pod/tolerant", "--timeout=120s"]);
    assert_eq!(node_of(&kubectl, "tolerant"), "binding-tainted");
}

#[test]
fn a_pod_that_fits_nowhere_is_told_so() {
    let Some(cluster) = Cluster::shared("a_pod_that_fits_nowhere_is_told_so") else { return };
    let kubectl = cluster.kubectl().in_namespace(&cluster.namespace());
    let _ = kubectl.apply(&pod("web", &json!({ "nodeSelector": { "pool": "there-is-none" } })));
    let _ = kubectl.ok(["wait", "--for=condition=PodScheduled=False", "pod/web", "--timeout=120s"]);
    let reason = "--output=jsonpath={.status.conditions[?(@.type=='PodScheduled')].reason}";
    assert_eq!(kubectl.ok(["get", "pod", "web", reason]), "Unschedulable");
}

#[test]
fn a_deleted_namespace_goes_with_what_is_in_it() {
    let Some(cluster) = Cluster::shared("a_deleted_namespace_goes_with_what_is_in_it") else { return };
    let namespace = cluster.namespace();
    let _ = cluster.kubectl().in_namespace(&namespace).ok(["create", "configmap", "inside"]);
    let _ = cluster.kubectl().ok(["delete", "namespace", &namespace, "--timeout=120s"]);
    let said = cluster.kubectl().fails(["get", "namespace", &namespace]);
    assert!(said.contains("NotFound"), "{said}");
}

#[tokio::test]
async fn the_garbage_collector_deletes_what_depended_on_a_deleted_object() {
    let test = "the_garbage_collector_deletes_what_depended_on_a_deleted_object";
    let Some(cluster) = Cluster::shared(test) else { return };
    let namespace = cluster.namespace();
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client().await, &namespace);
    let object = |name: &str, owner: Option<&ConfigMap>| ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            owner_references: owner.map(|owner| vec![kube::Resource::owner_ref(owner, &()).expect("a name and a UID")]),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::new()),
        ..ConfigMap::default()
    };
    let owner = maps.create(&PostParams::default(), &object("owner", None)).await.expect("the owner");
    let _ = maps.create(&PostParams::default(), &object("dependent", Some(&owner))).await.expect("the dependent");
    let kubectl = cluster.kubectl().in_namespace(&namespace);
    let _ = kubectl.ok(["delete", "configmap", "owner"]);
    let _ = kubectl.ok(["wait", "--for=delete", "configmap/dependent", "--timeout=120s"]);
}

#[tokio::test]
async fn a_client_of_another_user_is_refused_what_that_user_may_not() {
    let Some(cluster) = Cluster::shared("a_client_of_another_user_is_refused_what_that_user_may_not") else { return };
    let client = cluster.client_as(&cluster.kubeconfig_for("nobody", None)).await;
    let pods: Api<Pod> = Api::namespaced(client, "default");
    let refused = pods.list(&kube::api::ListParams::default()).await.expect_err("nobody may list pods");
    assert!(matches!(&refused, kube::Error::Api(status) if status.code == 403), "{refused}");
}

#[test]
fn an_admission_policy_refuses_what_it_says() {
    let Some(cluster) = Cluster::shared("an_admission_policy_refuses_what_it_says") else { return };
    let namespace = cluster.namespace();
    let rules =
        json!([{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"] }]);
    let selector = json!({ "matchLabels": { "kubernetes.io/metadata.name": namespace } });
    let validation = json!({ "expression": "object.metadata.name != 'forbidden'", "message": "not that name" });
    let of_policy = json!({ "matchConstraints": { "resourceRules": rules }, "validations": [validation] });
    let of_binding = json!({
        "policyName": namespace, "validationActions": ["Deny"], "matchResources": { "namespaceSelector": selector },
    });
    for (kind, spec) in [("ValidatingAdmissionPolicy", of_policy), ("ValidatingAdmissionPolicyBinding", of_binding)] {
        let api = "admissionregistration.k8s.io/v1";
        let object = json!({ "apiVersion": api, "kind": kind, "metadata": { "name": namespace }, "spec": spec });
        cluster.apply(&object.to_string());
    }
    let kubectl = cluster.kubectl().in_namespace(&namespace);
    until("the policy counts", || {
        let said = kubectl.run(["create", "configmap", "forbidden", "--dry-run=server"]);
        said.stderr.contains("not that name")
    });
    let _ = kubectl.ok(["create", "configmap", "allowed"]);
}
