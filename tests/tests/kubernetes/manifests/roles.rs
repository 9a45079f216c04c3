//! What users and the programs may do.

use microagent_tests::cluster::{Kubectl, until};

use super::{SYSTEM, installed};

/// `resource` is `RESOURCE` or `RESOURCE:SUBRESOURCE`; to kubectl a slash stands before an object's name.
fn may(kubectl: &Kubectl, verb: &str, resource: &str) -> bool {
    let (resource, subresource) = resource.split_once(':').unwrap_or((resource, ""));
    let subresource = format!("--subresource={subresource}");
    kubectl.run(["auth", "can-i", verb, resource, &subresource]).status.success()
}

#[test]
fn users_see_change_and_enter_workspaces_as_they_do_pods() {
    let Some(cluster) = installed("users_see_change_and_enter_workspaces_as_they_do_pods") else { return };
    let namespace = cluster.namespace();
    let kubectl = cluster.kubectl().in_namespace(&namespace);
    let rights = [
        ("get", "workspaces.microagent.dev"),
        ("list", "workspaces.microagent.dev"),
        ("watch", "workspaces.microagent.dev"),
        ("get", "workspaces.microagent.dev:status"),
        ("get", "workspaces.microagent.dev:log"),
        ("create", "workspaces.microagent.dev"),
        ("update", "workspaces.microagent.dev"),
        ("patch", "workspaces.microagent.dev"),
        ("delete", "workspaces.microagent.dev"),
        ("deletecollection", "workspaces.microagent.dev"),
        ("create", "workspaces.microagent.dev:exec"),
        // Nobody's: the status is the programs'.
        ("patch", "workspaces.microagent.dev:status"),
        ("update", "workspaces.microagent.dev:status"),
        ("use-host-files", "workspaces.microagent.dev"),
    ];
    for (role, count) in [("view", 5), ("edit", 11), ("admin", 11)] {
        let _ = kubectl.ok(["create", "rolebinding", role, "--clusterrole", role, &format!("--user={role}-user")]);
        let user = cluster.kubectl_as(&cluster.kubeconfig_for(&format!("{role}-user"), None)).in_namespace(&namespace);
        until("the roles are aggregated", || may(&user, "get", "workspaces.microagent.dev:log"));
        if role != "view" {
            until("the roles are aggregated", || may(&user, "create", "workspaces.microagent.dev:exec"));
        }
        for (nth, (verb, resource)) in rights.iter().enumerate() {
            assert_eq!(may(&user, verb, resource), nth < count, "{role}: {verb} {resource}");
        }
        assert!(!user.in_namespace("default").run(["get", "workspaces"]).status.success(), "elsewhere");
    }
}

#[test]
fn the_programs_may_what_they_do_and_read_no_secrets() {
    let Some(cluster) = installed("the_programs_may_what_they_do_and_read_no_secrets") else { return };
    let namespace = cluster.namespace();
    for (account, may_do, may_not) in [
        (
            "microagent-agent",
            &[
                ("list", "workspaces.microagent.dev"),
                ("watch", "workspaces.microagent.dev"),
                ("patch", "workspaces.microagent.dev:status"),
                ("create", "events.events.k8s.io"),
                ("patch", "nodes"),
                ("create", "tokenreviews.authentication.k8s.io"),
                ("create", "subjectaccessreviews.authorization.k8s.io"),
            ][..],
            &[
                ("create", "workspaces.microagent.dev"),
                ("update", "workspaces.microagent.dev"),
                ("get", "nodes"),
                ("list", "nodes"),
                ("create", "nodes"),
                ("create", "pods"),
                ("get", "namespaces"),
                ("create", "serviceaccounts:token"),
                ("impersonate", "users"),
            ][..],
        ),
        (
            "microagent-placement",
            &[
                ("list", "workspaces.microagent.dev"),
                ("patch", "workspaces.microagent.dev"),
                ("patch", "workspaces.microagent.dev:status"),
                ("create", "pods"),
                ("delete", "pods"),
                ("watch", "nodes"),
            ][..],
            &[
                ("get", "workspaces.microagent.dev"),
                ("create", "workspaces.microagent.dev"),
                ("delete", "workspaces.microagent.dev"),
                ("patch", "nodes"),
                ("patch", "pods"),
                ("create", "pods:exec"),
                ("create", "serviceaccounts:token"),
                ("impersonate", "users"),
            ][..],
        ),
    ] {
        let program = cluster.kubectl_as(&cluster.service_account_kubeconfig(SYSTEM, account));
        for (verb, resource) in may_do {
            assert!(may(&program.in_namespace(&namespace), verb, resource), "{account} may not {verb} {resource}");
        }
        for (verb, resource) in may_not {
            for at in [namespace.as_str(), SYSTEM] {
                assert!(!may(&program.in_namespace(at), verb, resource), "{account} may {verb} {resource} in {at}");
            }
        }
        for at in [namespace.as_str(), SYSTEM, "kube-system"] {
            for resource in ["secrets", "configmaps"] {
                let program = program.in_namespace(at);
                assert!(
                    !may(&program, "get", resource) && !may(&program, "list", resource),
                    "{account}: {resource} in {at}"
                );
            }
        }
    }
    let agent = cluster.kubectl_as(&cluster.service_account_kubeconfig(SYSTEM, "microagent-agent"));
    let _ = agent.in_namespace("kube-system").ok(["get", "configmap", "extension-apiserver-authentication"]);
    let _ = agent.ok(["get", "namespace", "kube-system"]);
    let placement = cluster.kubectl_as(&cluster.service_account_kubeconfig(SYSTEM, "microagent-placement"));
    let placement = placement.in_namespace(SYSTEM);
    assert!(may(&placement, "update", "leases.coordination.k8s.io/microagent-placement"));
    assert!(!may(&placement, "update", "leases.coordination.k8s.io/agent-node"), "the Lease of an agent");
}
