//! `kubectl microagent` against a real gate, with an API server and a guest that the tests play.
#![expect(clippy::unwrap_used, reason = "in tests")]

mod api;
mod copy;
mod exec;
mod failures;
mod guest;
mod logs;
mod objects;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use api::Api;
use futures::future::{BoxFuture, ready};
use microagent_crds::Phase;
use microagent_gate::{Access, Decision, Found, Gate, Machines, Options, ReviewError, Reviews, User};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// A node with an agent's gate, and the API server that leads to it.
struct Cluster {
    dir: tempfile::TempDir,
    api: Arc<Api>,
    node: Arc<Node>,
    gate: String,
    digest: String,
    _runtime: Runtime,
}

/// The one machine.
struct Node(Mutex<Found>);

impl Machines for Node {
    fn find(&self, namespace: &str, name: &str) -> Option<Found> {
        ((namespace, name) == ("team", "web")).then(|| self.0.lock().unwrap().clone())
    }
}

/// Knows the tokens `jane` and `joe`; only Jane may do anything.
struct Rights;

impl Reviews for Rights {
    fn authenticate<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<User>, ReviewError>> {
        let user = User { name: token.to_owned(), uid: None, groups: Vec::new(), extra: BTreeMap::new() };
        Box::pin(ready(Ok(["jane", "joe"].contains(&token).then_some(user))))
    }

    fn authorise<'a>(&'a self, user: &'a User, _: &'a Access) -> BoxFuture<'a, Result<Decision, ReviewError>> {
        let denied = || Decision::Denied(String::new());
        Box::pin(ready(Ok(if user.name == "jane" { Decision::Allowed } else { denied() })))
    }

    fn client_ca(&self) -> BoxFuture<'_, Result<Option<String>, ReviewError>> {
        Box::pin(ready(Ok(None)))
    }
}

/// What a command did.
struct Done {
    code: i32,
    out: String,
    err: String,
}

impl Cluster {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        symlink(env!("CARGO_BIN_EXE_microagent"), dir.path().join("kubectl-microagent")).unwrap();
        let node = Arc::new(Node(Mutex::new(Found {
            uid: "u-1".to_owned(),
            phase: Phase::Running,
            workload_log: dir.path().join("workload.log"),
            console_log: dir.path().join("console.log"),
            vsock: dir.path().join("vsock.sock"),
            user: Some("app".to_owned()),
            working_dir: None,
        })));
        let runtime = Runtime::new().unwrap();
        let options = Options {
            listen: "127.0.0.1:0".parse().unwrap(),
            certificate: dir.path().join("gate.pem"),
            names: Vec::new(),
            machines: node.clone(),
            reviews: Arc::new(Rights),
        };
        let (gate, digest) = runtime.block_on(Gate::open(options)).unwrap();
        let address = format!("https://{}", gate.address());
        runtime.spawn(gate.serve(CancellationToken::new()));
        let cluster =
            Self { api: Api::start(), dir, node, gate: address, digest: digest.to_string(), _runtime: runtime };
        cluster.kubeconfig(&json!({"token": "jane"}));
        cluster.workspace(&json!({"phase": "Running", "nodeName": "node-1"}));
        cluster.tell_gate(&cluster.gate, &cluster.digest);
        cluster
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The kubeconfig of a user; its namespace is `team`.
    fn kubeconfig(&self, user: &Value) {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "here",
            "clusters": [{"name": "c", "cluster": {"server": self.api.url()}}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "team"}}],
        });
        fs::write(self.path("config"), config.to_string()).unwrap();
    }

    fn workspace(&self, status: &Value) {
        self.api.put(WORKSPACE, workspace("web", status));
    }

    fn tell_gate(&self, address: &str, digest: &str) {
        self.node(&json!({"microagent.dev/gate": address, "microagent.dev/gate-certificate": digest}));
    }

    fn node(&self, annotations: &Value) {
        let metadata = json!({"name": "node-1", "annotations": annotations});
        self.api.put("/api/v1/nodes/node-1", json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata}));
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(self.path("kubectl-microagent"));
        command.args(line.split_whitespace()).stdin(Stdio::null());
        command.env("KUBECONFIG", self.path("config")).env_remove("MICROAGENT_LOG");
        command
    }

    fn run(&self, line: &str) -> Done {
        done(&self.command(line).output().unwrap())
    }

    /// What is told on standard error, without what differs from run to run.
    fn told(&self, text: &str) -> String {
        let address = self.gate.trim_start_matches("https://");
        text.replace(address, "GATE").replace(&self.api.url(), "http://API")
    }
}

fn done(output: &std::process::Output) -> Done {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Done { code: output.status.code().unwrap(), out: text(&output.stdout), err: text(&output.stderr) }
}

const WORKSPACES: &str = "/apis/microagent.dev/v1alpha1/namespaces/team/workspaces";
const WORKSPACE: &str = "/apis/microagent.dev/v1alpha1/namespaces/team/workspaces/web";

fn workspace(name: &str, status: &Value) -> Value {
    json!({
        "apiVersion": "microagent.dev/v1alpha1", "kind": "Workspace", "spec": {"image": "alpine:3.22"}, "status": status,
        "metadata": {"name": name, "namespace": "team", "uid": "u-1", "generation": 1, "resourceVersion": "7",
            "creationTimestamp": "2026-11-24T06:00:00Z"},
    })
}

fn append(path: &Path, text: &str) {
    use std::io::Write;
    let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}
