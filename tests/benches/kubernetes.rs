//! Ten thousand workspaces in a real API server, four agents: `figure NAME VALUE UNIT` on standard output, remarks on standard error.
//!
//! The supervisor answers at once and starts nothing. `K8S_BENCH_SIZE` (10000) and `K8S_BENCH_AGENTS` (4) have other sizes for a quick
//! look; only figures of the usual ones are to be compared. Everything shares the CPUs of one machine: API server, etcd, agents, this.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_precision_loss,
    reason = "a bench ends when something is not as it should be, and counts below 2^52"
)]

use std::{
    env, fs,
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant, SystemTime},
};

use futures::{StreamExt as _, stream};
use kube::{
    Api, Client,
    api::{DynamicObject, ListParams, PostParams},
    core::{ApiResource, GroupVersionKind},
};
use microagent_base::process::ProcessId;
use microagent_supervisor_protocol::Verb;
use microagent_tests::{cluster::Cluster, fake, figures::figure, host::Host};
use serde_json::{Value, json};

/// How many workspaces are applied one after another, to see how soon each is started.
const PACED: usize = 1000;
/// How many of them a second.
const PACE: u32 = 50;
/// How many objects are made at once in the bulk.
const MAKERS: usize = 32;
/// How long everything is left alone, and how long it is watched then.
const REST: Duration = Duration::from_secs(20);
const WATCHED: Duration = Duration::from_secs(60);
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(1800);

fn main() -> ExitCode {
    // `cargo test --benches` only wants to know that it starts; it does not say `--bench`.
    if !env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    let number = |name: &str, usual: usize| env::var(name).map_or(usual, |text| text.parse().expect("a number"));
    let (size, agents) = (number("K8S_BENCH_SIZE", 10_000), number("K8S_BENCH_AGENTS", 4));
    let Some(cluster) = Cluster::start("bench") else { return ExitCode::FAILURE };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(Bench::new(&cluster, agents).run(size));
    ExitCode::SUCCESS
}

struct Bench<'a> {
    cluster: &'a Cluster,
    hosts: Vec<Host>,
    /// The process that all machines name as theirs.
    owner: Child,
}

impl<'a> Bench<'a> {
    fn new(cluster: &'a Cluster, agents: usize) -> Self {
        cluster.install_workspaces();
        cluster.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: microagent-system}\n");
        // Ends with its pipe; hosts end it too, as they end all that runs on them.
        let owner = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let owned = ProcessId::of(owner.id()).unwrap();
        let hosts = (0..agents).map(|index| {
            let mut host = Host::with_fake_machines();
            let capacity = json!({ "cpu": "64", "memory": "256Gi", "pods": "110" });
            cluster.add_node(&node(index), &capacity, &json!({}), &json!([]));
            host.start_agent_with(|command| {
                command.arg("--node-name").arg(node(index)).arg("--kubeconfig").arg(cluster.kubeconfig());
                command.env(fake::INSTANT_VARIABLE, format!("{} {}", owned.pid, owned.start_time));
                command.env("MICROAGENT_LOG", "info");
            });
            host
        });
        Self { cluster, hosts: hosts.collect(), owner }
    }

    async fn run(mut self, size: usize) {
        let client = self.cluster.client().await;
        // The first of each node pulls the image and reads the kernel.
        for index in 0..self.hosts.len() {
            self.make(&client, index).await;
        }
        settled(&client).await;
        self.paced(&client).await;
        settled(&client).await;
        let first = self.hosts.len() + PACED;
        let (before, began) = (writes(self.cluster), Instant::now());
        stream::iter(first..size)
            .for_each_concurrent(MAKERS, |index| {
                let made = self.make(&client, index);
                async move { drop(made.await) }
            })
            .await;
        eprintln!("{} objects are made after {:.1} s", size - first, began.elapsed().as_secs_f64());
        settled(&client).await;
        let took = began.elapsed().as_secs_f64();
        let count = (size - first) as f64;
        // Those that came before were as quick: the whole is in proportion.
        figure(&format!("k8s_settle_seconds_{size}"), took * size as f64 / count, "s");
        tokio::time::sleep(REST).await;
        figure("k8s_writes_per_workspace", (writes(self.cluster) - before - count) / count, "writes");
        let rss = self.hosts.iter().map(|host| peak_rss_mib(host.controller_pid())).fold(0.0, f64::max);
        figure(&format!("k8s_agent_rss_mib_{}", size / self.hosts.len()), rss, "MiB");
        let before = writes(self.cluster);
        tokio::time::sleep(WATCHED).await;
        let requests = writes(self.cluster) - before;
        figure("k8s_steady_requests_per_minute", requests * 60.0 / WATCHED.as_secs_f64(), "1/min");
        eprintln!("beside them each agent renews its Lease three times a minute");
        self.hosts.clear();
        let _ = self.owner.kill();
        let _ = self.owner.wait();
    }

    /// Applies workspaces at an even pace; tells how soon the supervisor was asked to start each.
    async fn paced(&self, client: &Client) {
        let mut ticker = tokio::time::interval(Duration::from_secs(1) / PACE);
        let mut made = Vec::new();
        for index in self.hosts.len()..self.hosts.len() + PACED {
            ticker.tick().await;
            let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
            made.push((at, index, self.make(client, index).await));
        }
        settled(client).await;
        let started = |(at, index, uid): &(u128, usize, String)| {
            let calls = self.hosts[index % self.hosts.len()].fake().calls(Verb::Start, uid);
            (calls.first().expect("it was started") - at) as f64 / 1e6
        };
        let mut all: Vec<f64> = made.iter().map(started).collect();
        all.sort_by(f64::total_cmp);
        figure("k8s_apply_to_start_p50_ms", all[all.len() / 2], "ms");
        figure("k8s_apply_to_start_p99_ms", all[all.len() * 99 / 100], "ms");
    }

    /// Makes one workspace; gives its UID.
    async fn make(&self, client: &Client, index: usize) -> String {
        let at = index % self.hosts.len();
        let manifest = self.hosts[at].fake_manifest(&format!("w-{index:05}"), &json!({ "nodeName": node(at) }));
        let manifest: Value = serde_json::from_str(&manifest).expect("JSON is YAML too");
        let object: DynamicObject = serde_json::from_value(manifest).unwrap();
        let made = workspaces(client).create(&PostParams::default(), &object).await.unwrap();
        made.metadata.uid.unwrap()
    }
}

fn node(index: usize) -> String {
    format!("bench-{index}")
}

fn workspaces(client: &Client) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("microagent.dev", "v1alpha1", "Workspace");
    Api::namespaced_with(client.clone(), "default", &ApiResource::from_gvk_with_plural(&kind, "workspaces"))
}

/// Waits until every workspace runs.
async fn settled(client: &Client) {
    let deadline = Instant::now() + PATIENCE;
    let others = ListParams::default().fields("status.phase!=Running").limit(1);
    while !workspaces(client).list_metadata(&others).await.unwrap().items.is_empty() {
        assert!(Instant::now() < deadline, "not every workspace runs");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// How many writes of workspaces, events and nodes the API server has served.
fn writes(cluster: &Cluster) -> f64 {
    let metrics = cluster.kubectl().ok(["get", "--raw=/metrics"]);
    let is_write = |line: &&str| {
        let says = |label: &str, any: &[&str]| any.iter().any(|value| line.contains(&format!("{label}=\"{value}\"")));
        line.starts_with("apiserver_request_total{")
            && says("resource", &["workspaces", "events", "nodes"])
            && says("verb", &["POST", "PUT", "PATCH", "APPLY", "DELETE"])
    };
    let value = |line: &str| line.rsplit(' ').next().and_then(|text| text.parse::<f64>().ok()).expect("a number");
    metrics.lines().filter(is_write).map(value).sum()
}

fn peak_rss_mib(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the agent runs");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("VmHWM");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).expect("a number of KiB") / 1024.0
}
