//! What harm the harness can do to the control plane, and that it comes through.

use std::{
    env, fs,
    io::{BufRead, BufReader, stdin},
    path::PathBuf,
    process::{Command, Stdio},
};

use microagent_tests::cluster::{Cluster, Settings, until};
use serde_json::json;

#[test]
fn what_was_written_is_there_when_the_api_server_and_etcd_were_killed() {
    let test = "what_was_written_is_there_when_the_api_server_and_etcd_were_killed";
    let Some(cluster) = Cluster::start(test) else { return };
    let kubectl = cluster.kubectl();
    let _ = kubectl.ok(["create", "configmap", "kept", "--from-literal=key=value"]);
    let url = cluster.url();

    cluster.stop_api_server();
    let said = kubectl.fails(["get", "configmap", "kept"]);
    assert!(said.contains("refused"), "{said}");
    cluster.start_api_server();
    assert_eq!(cluster.url(), url);
    assert_eq!(kubectl.ok(["get", "configmap", "kept", "--output=jsonpath={.data.key}"]), "value");

    cluster.stop_etcd();
    let _ = kubectl.fails(["create", "configmap", "lost", "--request-timeout=2s"]);
    cluster.start_etcd();
    assert_eq!(kubectl.ok(["get", "configmap", "kept", "--output=jsonpath={.data.key}"]), "value");

    cluster.stop_api_server();
    cluster.stop_etcd();
    cluster.start_etcd();
    cluster.start_api_server();
    // The controllers have come through it too: a new namespace gets what Pods need.
    let _ = cluster.namespace();
}

#[test]
fn nothing_of_a_dropped_cluster_stays() {
    let Some(cluster) = Cluster::start("nothing_of_a_dropped_cluster_stays") else { return };
    let pids = cluster.pids();
    assert_eq!(pids.len(), 4, "{pids:?}");
    let dir = cluster.kubeconfig().parent().expect("a directory").to_owned();
    drop(cluster);
    assert!(!dir.exists(), "{} is left", dir.display());
    for (name, pid) in pids {
        assert!(!runs(name, pid), "{name} ({pid}) is left");
    }
}

/// Whether a process id is (still) that of this program.
fn runs(program: &str, pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().contains(program)
}

/// Set in the process that [`nothing_of_a_killed_test_stays`] kills.
const VICTIM: &str = "MICROAGENT_TEST_VICTIM";

#[test]
fn nothing_of_a_killed_test_stays() {
    let test = "nothing_of_a_killed_test_stays";
    if env::var_os(VICTIM).is_some() {
        let cluster = Cluster::shared(test).expect("the programs");
        println!();
        println!("dir {}", cluster.kubeconfig().parent().expect("a directory").display());
        for (name, pid) in cluster.pids() {
            println!("part {name} {pid}");
        }
        println!("end");
        // Until it is killed, or nobody is there to kill it.
        let _ = stdin().lines().count();
        return;
    }
    let Some(_) = Cluster::shared(test) else { return };
    let mut victim = Command::new(env::current_exe().expect("this test"))
        .args([&format!("parts::{test}"), "--exact", "--nocapture"])
        .env(VICTIM, "yes")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this test, again");
    let said = BufReader::new(victim.stdout.take().expect("its output")).lines().map_while(Result::ok);
    let said: Vec<String> = said.take_while(|line| line != "end").collect();
    let dir = said.iter().find_map(|line| line.strip_prefix("dir ")).map(PathBuf::from).expect("its directory");
    let parts = said.iter().filter_map(|line| line.strip_prefix("part ")?.split_once(' '));
    let parts: Vec<(&str, u32)> = parts.map(|(name, pid)| (name, pid.parse().expect("a process id"))).collect();
    assert!(dir.exists() && parts.len() == 4 && parts.iter().all(|(name, pid)| runs(name, *pid)), "{said:?}");

    victim.kill().expect("it runs");
    let _ = victim.wait();
    until("its control plane is gone", || !parts.iter().any(|(name, pid)| runs(name, *pid)));
    until("its directory is gone", || !dir.exists());
}

#[test]
fn a_node_that_says_nothing_is_marked_where_the_cluster_looks() {
    let test = "a_node_that_says_nothing_is_marked_where_the_cluster_looks";
    let Some(cluster) = Cluster::start_with(test, Settings { node_lifecycle: true, ..Settings::default() }) else {
        return;
    };
    cluster.add_node("silent", &json!({ "cpu": "1", "memory": "1Gi" }), &json!({}), &json!([]));
    let ready = "--output=jsonpath={.status.conditions[?(@.type=='Ready')].status}";
    until("the node is marked", || cluster.kubectl().ok(["get", "node", "silent", ready]) == "Unknown");
    until("the node is tainted", || {
        cluster
            .kubectl()
            .ok(["get", "node", "silent", "--output=jsonpath={.spec.taints[*].key}"])
            .contains("unreachable")
    });
}
