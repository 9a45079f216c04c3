//! `kubectl microagent logs`

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use microagent_crds::Phase;
use serde_json::json;

use crate::{Cluster, append, done};

fn record(stream: &str, tags: &str, text: &str) -> String {
    format!("2026-11-22T10:00:00.000000000Z {stream} {tags} {text}\n")
}

#[test]
fn a_log_is_shown_as_on_the_node_itself() {
    let cluster = Cluster::new();
    assert_eq!(cluster.run("logs web").err, "workspace web has written nothing yet\n");
    append(&cluster.path("workload.log.1"), &record("stdout", "F:setup", "set up"));
    for (stream, tags, text) in
        [("stdout", "F", "one"), ("stderr", "F", "oops"), ("stdout", "P", "tw"), ("stdout", "F", "o")]
    {
        append(&cluster.path("workload.log"), &record(stream, tags, text));
    }
    append(&cluster.path("console.log"), "boot\nrest");
    let shown = |line: &str| {
        let done = cluster.run(line);
        assert_eq!(done.code, 0, "{}", done.err);
        (done.out, done.err)
    };
    let pair = |out: &str, err: &str| (out.to_owned(), err.to_owned());
    assert_eq!(shown("logs web"), pair("set up\none\ntwo\n", "oops\n"));
    assert_eq!(shown("logs workspace/web --no-setup -n team"), pair("one\ntwo\n", "oops\n"));
    assert_eq!(shown("logs web --tail 2"), pair("two\n", ""));
    assert_eq!(shown("logs web --since 1s --tail 0"), pair("", ""));
    assert_eq!(shown("logs web --console"), pair("boot\nrest\n", ""));
    let timed = shown("logs web --tail 2 --timestamps").0;
    assert_eq!(timed, "2026-11-22T10:00:00.000000000Z two\n");
}

#[test]
fn following_ends_with_the_workload() {
    let cluster = Cluster::new();
    append(&cluster.path("workload.log"), &record("stdout", "F", "one"));
    let mut child = cluster.command("logs -f web").stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    append(&cluster.path("workload.log"), &record("stdout", "F", "two"));
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "one\ntwo\n");
    cluster.node.0.lock().unwrap().phase = Phase::Succeeded;
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_gate_that_goes_is_not_taken_for_the_end() {
    let cluster = Cluster::new();
    append(&cluster.path("workload.log"), &record("stdout", "F", "one"));
    let mut child = cluster.command("logs -f web").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    // With its runtime the gate ends.
    drop(cluster);
    let done = done(&child.wait_with_output().unwrap());
    assert_eq!(done.code, 75);
    assert!(done.err.contains("the connection to the agent of node node-1 broke"), "{}", done.err);
}

#[test]
fn a_tunnel_stands_for_the_address_and_the_certificate_still_counts() {
    let cluster = Cluster::new();
    append(&cluster.path("workload.log"), &record("stdout", "F", "one"));
    let near = cluster.gate.trim_start_matches("https://").to_owned();
    cluster.tell_gate("https://192.0.2.1:9443", &cluster.digest);
    assert_eq!(cluster.run(&format!("logs web --gate {near}")).out, "one\n");
}

#[test]
fn a_token_may_be_in_a_file_or_come_from_a_program() {
    let cluster = Cluster::new();
    append(&cluster.path("workload.log"), &record("stdout", "F", "one"));
    std::fs::write(cluster.path("token"), "jane").unwrap();
    let credential =
        json!({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "jane"}});
    std::fs::write(cluster.path("credential"), credential.to_string()).unwrap();
    let cat = json!({"apiVersion": "client.authentication.k8s.io/v1", "command": "cat", "args": [cluster.path("credential")],
        "interactiveMode": "Never"});
    for user in [json!({"tokenFile": cluster.path("token")}), json!({"exec": cat})] {
        cluster.kubeconfig(&user);
        let done = cluster.run("logs web");
        assert_eq!((done.code, done.out.as_str()), (0, "one\n"), "{user}: {}", done.err);
    }
}
