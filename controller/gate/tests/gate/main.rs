//! The gate over real TLS, with a guest and a cluster that the tests play.
#![expect(clippy::unwrap_used, reason = "in tests")]

mod certificates;
mod client;
mod cluster;
mod connections;
mod copy;
mod exec;
mod guest;
mod logs;
mod who;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use client::Client;
use cluster::Cluster;
use microagent_base::Digest;
use microagent_crds::Phase;
use microagent_gate::{Found, Gate, Machines, Options};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long anything may take on a busy host.
const DEADLINE: Duration = Duration::from_secs(60);

/// The machine of the workspace `web` in the namespace `team`; there is no other.
#[derive(Default)]
struct Node(Mutex<Option<Found>>);

impl Machines for Node {
    fn find(&self, namespace: &str, name: &str) -> Option<Found> {
        let found = self.0.lock().unwrap().clone();
        found.filter(|_| (namespace, name) == ("team", "web"))
    }
}

/// A gate that serves.
struct Host {
    dir: tempfile::TempDir,
    address: std::net::SocketAddr,
    digest: Digest,
    node: Arc<Node>,
    cluster: Arc<Cluster>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Host {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let node = Arc::new(Node::default());
        *node.0.lock().unwrap() = Some(Found {
            uid: "u-1".to_owned(),
            phase: Phase::Running,
            workload_log: dir.path().join("workload.log"),
            console_log: dir.path().join("console.log"),
            vsock: dir.path().join("vsock.sock"),
            user: Some("app:app".to_owned()),
            working_dir: Some("/srv".to_owned()),
        });
        let cluster = Arc::new(Cluster::default());
        let options = Options {
            listen: "127.0.0.1:0".parse().unwrap(),
            certificate: dir.path().join("gate.pem"),
            names: vec!["node-1".to_owned()],
            machines: node.clone(),
            reviews: cluster.clone(),
        };
        let (gate, digest) = Gate::open(options).await.unwrap();
        let (address, shutdown) = (gate.address(), CancellationToken::new());
        let task = tokio::spawn(gate.serve(shutdown.clone()));
        Self { dir, address, digest, node, cluster, shutdown, task }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn set(&self, change: impl FnOnce(&mut Found)) {
        change(self.node.0.lock().unwrap().as_mut().unwrap());
    }

    async fn client(&self) -> Client {
        Client::connect(self.address, None).await.unwrap().0
    }

    /// One request with the token of a user who may do everything.
    async fn ask(&self, line: &str) -> client::Answer {
        self.ask_as(line, "Authorization: Bearer jane-token\r\n").await
    }

    async fn ask_as(&self, line: &str, headers: &str) -> client::Answer {
        let mut client = self.client().await;
        client.send(&format!("{line} HTTP/1.1\r\nHost: gate\r\n{headers}\r\n")).await;
        client.answer().await
    }
}

const LOG: &str = "GET /v1alpha1/namespaces/team/workspaces/web/log";
const EXEC: &str = "POST /v1alpha1/namespaces/team/workspaces/web/exec";

const COPY: &str = "POST /v1alpha1/namespaces/team/workspaces/web/cp";

fn append(path: &Path, text: &str) {
    use std::io::Write;
    let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// A record of the log, `n` seconds after ten.
fn record(n: u32, text: &str) -> String {
    format!("2026-11-22T10:00:{n:02}.000000000Z stdout F {text}\n")
}
