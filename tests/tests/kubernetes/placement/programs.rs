//! The placements that run beside the control plane.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, Once, PoisonError, mpsc},
    thread,
};

use microagent_tests::{
    cluster::{Cluster, until},
    host::bin_dir,
};
use serde_json::Value;

/// All that run, by identity. They end with the test process.
static RUNNING: Mutex<Vec<(String, Child)>> = Mutex::new(Vec::new());

/// Makes sure that one runs.
pub(super) fn ensure(cluster: &Cluster) {
    static FIRST: Once = Once::new();
    FIRST.call_once(|| {
        cluster.install_workspaces();
        cluster.apply(r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"microagent-system"}}"#);
        start(cluster);
    });
}

/// Starts one more.
pub(super) fn start(cluster: &Cluster) {
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    let identity = format!("placement-{}", running.len());
    let child = spawn(cluster, cluster.kubeconfig(), &identity);
    running.push((identity, child));
}

/// Starts one as the user of this kubeconfig, which is the caller's to end.
pub(crate) fn spawn(cluster: &Cluster, kubeconfig: &Path, identity: &str) -> Child {
    let log = File::create(log(cluster, identity)).expect("a log");
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(bin_dir().join("microagent-placement"));
    command.arg("--kubeconfig").arg(kubeconfig).args(["--identity", identity, "--reschedule-after", "0"]);
    command.env("MICROAGENT_LOG", "info").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    // Killed when the thread that starts it ends: one that never does, as a test's thread ends before other tests.
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let _ = tell.send(command.spawn());
        loop {
            thread::park();
        }
    });
    told.recv().expect("a thread").expect("microagent-placement")
}

/// What one has said.
pub(crate) fn said(cluster: &Cluster, identity: &str) -> String {
    fs::read_to_string(log(cluster, identity)).expect("a log")
}

fn log(cluster: &Cluster, identity: &str) -> PathBuf {
    cluster.kubeconfig().with_file_name(format!("{identity}.log"))
}

/// Who leads.
pub(super) fn leader(cluster: &Cluster) -> Option<String> {
    let args = [
        "get",
        "lease",
        "microagent-placement",
        "--namespace=microagent-system",
        "--ignore-not-found",
        "--output=json",
    ];
    let lease: Value = serde_json::from_str(&cluster.kubectl().ok(args)).unwrap_or_default();
    lease["spec"]["holderIdentity"].as_str().filter(|holder| !holder.is_empty()).map(str::to_owned)
}

/// Kills the one that leads, in the middle of whatever it does. Gives its identity.
pub(super) fn kill_leader(cluster: &Cluster) -> String {
    let mut killed = String::new();
    until("one leads", || leader(cluster).inspect(|leader| killed.clone_from(leader)).is_some());
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    let (_, child) = running.iter_mut().find(|(identity, _)| *identity == killed).expect("the leader is one of these");
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    killed
}
