//! Where the scheduler puts workspaces, and why it cannot.

use microagent_tests::cluster::until;
use serde_json::json;

use super::{Corner, agents, programs};

#[test]
fn the_scheduler_finds_a_node_with_an_agent() {
    let Some(corner) = Corner::of("the_scheduler_finds_a_node_with_an_agent") else { return };
    let labels = json!({ "corner": corner.name });
    corner.cluster.add_node(&corner.node("bare"), &json!({ "cpu": "64", "memory": "64Gi" }), &labels, &json!([]));
    corner.apply("w", json!({ "resources": { "cpus": 2, "memory": "1Gi" } }));
    let waiting = corner.wait("w", "Unschedulable");
    assert_eq!((waiting.node(), waiting.kstatus()), (None, "InProgress"));
    assert_eq!(waiting.0["status"]["phase"], "Pending");
    assert_eq!(waiting.condition("Ready")["status"], "False");
    let generation = &waiting.0["metadata"]["generation"];
    for condition in waiting.0["status"]["conditions"].as_array().expect("conditions") {
        assert_eq!(&condition["observedGeneration"], generation, "{condition}");
    }
    let said = corner.kubectl.run(["wait", "ws/w", "--for=condition=Ready", "--timeout=1s"]);
    assert!(!said.status.success(), "it is not ready: {}", said.stdout);

    corner.add_node("good", "16Gi", &json!([]));
    let placed = corner.wait("w", "Scheduled");
    assert_eq!(placed.node(), Some(&*corner.node("good")));
    let pod = corner.pod("w");
    assert_eq!(pod["spec"]["nodeName"], corner.node("good").as_str());
    assert_eq!(pod["metadata"]["ownerReferences"][0]["uid"], placed.0["metadata"]["uid"]);
    let requests = &pod["spec"]["containers"][0]["resources"]["requests"];
    assert_eq!((&requests["cpu"], &requests["memory"]), (&json!("2050m"), &json!("1207959552")));
    assert_eq!(placed.kstatus(), "InProgress", "its agent has not spoken");
    let events = corner.kubectl.ok(["get", "events.events.k8s.io", "--output=json"]);
    assert!(events.contains("microagent.dev/placement") && events.contains("\"Scheduled\""), "{events}");
}

#[test]
fn the_agent_takes_the_status_over_and_placement_keeps_one_condition() {
    let Some(corner) = Corner::of("the_agent_takes_the_status_over_and_placement_keeps_one_condition") else { return };
    corner.add_node("n", "16Gi", &json!([]));
    corner.apply("w", json!({}));
    corner.wait("w", "Scheduled");
    agents::say(&corner, "w", "Running", ("True", "Running"));
    let mine = vec![r#"k:{"type":"Scheduled"}"#.to_owned()];
    until("placement lets go of the rest", || corner.workspace("w").held_by("microagent-placement") == mine);
    let now = corner.workspace("w");
    assert_eq!((now.kstatus(), &now.0["status"]["phase"]), ("Current", &json!("Running")));
    assert_eq!(now.condition("Scheduled")["status"], "True");
    assert_eq!(
        corner.kubectl.ok(["wait", "ws/w", "--for=condition=Ready", "--timeout=60s"]),
        "workspace.microagent.dev/w condition met\n"
    );
}

#[test]
fn taints_and_tolerations_count() {
    let Some(corner) = Corner::of("taints_and_tolerations_count") else { return };
    corner.add_node("n", "16Gi", &json!([{ "key": "only", "value": "us", "effect": "NoSchedule" }]));
    corner.apply("stays-out", json!({}));
    corner.apply("gets-in", json!({ "placement": { "tolerations": [{ "key": "only", "value": "us" }] } }));
    assert_eq!(corner.wait("gets-in", "Scheduled").node(), Some(&*corner.node("n")));
    let out = corner.wait("stays-out", "Unschedulable");
    assert!(out.message().contains("taint"), "{}", out.message());
}

#[test]
fn quota_refuses_and_is_told_in_the_servers_words() {
    let Some(corner) = Corner::of("quota_refuses_and_is_told_in_the_servers_words") else { return };
    corner.add_node("n", "16Gi", &json!([]));
    let quota = |memory: &str| {
        json!({ "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": "tight" },
            "spec": { "hard": { "requests.memory": memory } } })
        .to_string()
    };
    let _ = corner.kubectl.apply(&quota("1Gi"));
    until("the quota counts", || !corner.get("resourcequota", "tight")["status"]["used"].is_null());
    corner.apply("w", json!({ "resources": { "memory": "2Gi" } }));
    let refused = corner.wait("w", "Unschedulable");
    assert!(refused.message().contains("exceeded quota: tight"), "{}", refused.message());
    assert!(corner.pod("w").is_null());
    let _ = corner.kubectl.apply(&quota("4Gi"));
    assert_eq!(corner.wait("w", "Scheduled").node(), Some(&*corner.node("n")));
}

#[test]
fn preemption_takes_the_room_and_it_comes_back_on_the_same_node() {
    let Some(corner) = Corner::of("preemption_takes_the_room_and_it_comes_back_on_the_same_node") else { return };
    corner.add_node("n", "4Gi", &json!([]));
    corner.apply("w", json!({ "resources": { "memory": "3Gi" } }));
    corner.wait("w", "Scheduled");
    agents::say(&corner, "w", "Running", ("True", "Running"));
    // It would have room here, and must not move: its disk is on the other node.
    corner.add_node("spare", "16Gi", &json!([]));
    let priority = format!("high-{}", corner.name);
    let _ = corner.kubectl.apply(
        &json!({ "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": { "name": priority }, "value": 1000 }).to_string(),
    );
    let intruder = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "intruder" }, "spec": {
        "priorityClassName": priority, "nodeSelector": { "kubernetes.io/hostname": corner.node("n") }, "terminationGracePeriodSeconds": 0,
        "containers": [{ "name": "c", "image": "i", "resources": { "requests": { "memory": "3Gi" } } }] } });
    let _ = corner.kubectl.apply(&intruder.to_string());
    let lost = corner.wait("w", "ReservationLost");
    assert!(lost.message().contains("Preempted") || lost.message().contains("preempt"), "{}", lost.message());
    assert_eq!((lost.node(), &lost.condition("Scheduled")["status"]), (Some(&*corner.node("n")), &json!("False")));
    let first = corner.pod("w")["metadata"]["uid"].clone();
    corner.end_pod("w-microvm");
    until("room is asked for again", || {
        let pod = corner.pod("w");
        !pod.is_null() && pod["metadata"]["uid"] != first
    });
    until("it waits for room on its node", || corner.workspace("w").message().contains("there is no room for it yet"));
    assert_eq!(corner.workspace("w").condition("Scheduled")["reason"], "ReservationLost");
    corner.end_pod("intruder");
    let back = corner.wait("w", "Scheduled");
    assert_eq!(back.node(), Some(&*corner.node("n")));
    assert_eq!(corner.pod("w")["spec"]["nodeName"], corner.node("n").as_str());
}

#[test]
fn a_halted_workspace_is_ready_and_has_no_pod_until_it_is_to_run() {
    let Some(corner) = Corner::of("a_halted_workspace_is_ready_and_has_no_pod_until_it_is_to_run") else { return };
    corner.add_node("n", "16Gi", &json!([]));
    corner.apply("w", json!({ "runPolicy": "Halted" }));
    let halted = corner.wait("w", "Halted");
    assert_eq!((halted.kstatus(), halted.node()), ("Current", None));
    assert!(corner.pod("w").is_null());
    corner.apply("w", json!({ "runPolicy": "Always" }));
    corner.wait("w", "Scheduled");
    agents::say(&corner, "w", "Running", ("True", "Running"));
    corner.apply("w", json!({ "runPolicy": "Halted" }));
    agents::say(&corner, "w", "Halted", ("True", "Halted"));
    corner.wait("w", "Halted");
    until("its room is given back", || corner.pod("w").is_null());
    assert_eq!(corner.workspace("w").node(), Some(&*corner.node("n")), "its disk is there");
}

#[test]
fn what_a_user_puts_on_a_node_is_not_reserved_for() {
    let Some(corner) = Corner::of("what_a_user_puts_on_a_node_is_not_reserved_for") else { return };
    corner.add_node("n", "16Gi", &json!([]));
    corner.apply("pinned", json!({ "nodeName": corner.node("n") }));
    corner.apply("placed", json!({}));
    corner.wait("placed", "Scheduled");
    assert!(corner.pod("pinned").is_null());
    assert!(corner.workspace("pinned").0["status"]["conditions"].is_null(), "its agent tells everything");
}

#[test]
fn another_placement_takes_over_when_the_leader_is_killed() {
    let Some(corner) = Corner::of("another_placement_takes_over_when_the_leader_is_killed") else { return };
    programs::start(corner.cluster);
    corner.apply("w", json!({}));
    corner.wait("w", "Unschedulable");
    let killed = programs::kill_leader(corner.cluster);
    corner.add_node("n", "16Gi", &json!([]));
    assert_eq!(corner.wait("w", "Scheduled").node(), Some(&*corner.node("n")));
    let leader = programs::leader(corner.cluster);
    assert!(leader.is_some() && leader.as_deref() != Some(&*killed), "{leader:?}");
}

#[test]
fn a_placement_without_rights_says_so_and_works_once_it_has_them() {
    let Some(corner) = Corner::of("a_placement_without_rights_says_so_and_works_once_it_has_them") else { return };
    let user = format!("nobody-{}", corner.name);
    let kubeconfig = corner.cluster.kubeconfig_for(&user, None);
    let mut child = programs::spawn(corner.cluster, &kubeconfig, &user);
    let said = || programs::said(corner.cluster, &user);
    for kind in ["workspaces", "pods", "nodes", "leases"] {
        until("it says what it may not", || said().contains(&format!("the {kind} cannot be watched")));
    }
    until("it says that it cannot lead", || said().contains("the Lease microagent-placement cannot be read"));
    let _ = corner.kubectl.ok(["create", "clusterrolebinding", &user, "--clusterrole=cluster-admin", "--user", &user]);
    for kind in ["workspaces", "pods", "nodes", "leases"] {
        until("it sees", || said().contains(&format!("the {kind} are seen again")));
    }
    // Each complaint stood there once, however often it was tried.
    for kind in ["workspaces", "pods", "nodes", "leases"] {
        assert_eq!(said().matches(&format!("the {kind} cannot be watched")).count(), 1, "{}", said());
    }
    assert!(child.try_wait().expect("a process").is_none(), "{}", said());
    child.kill().expect("it runs");
    child.wait().expect("it ends");
}
