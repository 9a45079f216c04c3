//! The agent of a node, with machines that are processes.

mod bad_days;
mod lifecycle;
mod pull_secrets;
mod secrets;

use std::{fs, path::PathBuf, thread, time::Duration};

use microagent_tests::{
    cluster::{Cluster, Kubectl, until},
    host::Host,
};
use serde_json::{Value, json};

/// A node with its agent.
pub(crate) struct Node {
    pub(crate) host: Host,
    pub(crate) name: String,
    kubeconfig: PathBuf,
}

impl Node {
    /// A node of the cluster, whose agent is started.
    pub(crate) fn start(cluster: &Cluster, name: &str) -> Self {
        let mut node = Self::prepare(cluster, name);
        node.start_agent();
        node
    }

    /// A node whose agent is not started yet.
    pub(crate) fn prepare(cluster: &Cluster, name: &str) -> Self {
        cluster.install_workspaces();
        cluster.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: microagent-system}\n");
        let none = json!({});
        cluster.add_node(name, &json!({ "cpu": "8", "memory": "16Gi", "pods": "110" }), &none, &json!([]));
        Self::of(cluster, name)
    }

    /// Another host with the name of a node that is there.
    pub(crate) fn of(cluster: &Cluster, name: &str) -> Self {
        let kubeconfig = cluster.kubeconfig().to_owned();
        Self { host: Host::with_fake_machines(), name: name.to_owned(), kubeconfig }
    }

    /// The agent speaks to the API server by this kubeconfig from its next start on.
    pub(crate) fn use_kubeconfig(&mut self, kubeconfig: PathBuf) {
        self.kubeconfig = kubeconfig;
    }

    pub(crate) fn start_agent(&mut self) {
        let (name, kubeconfig) = (self.name.clone(), self.kubeconfig.clone());
        self.host.start_agent_with(|command| {
            command.arg("--node-name").arg(name).arg("--kubeconfig").arg(kubeconfig);
        });
    }

    /// A workspace of this node; `spec` has what is not as usual.
    pub(crate) fn manifest(&self, name: &str, spec: &Value) -> String {
        let mut all = json!({ "nodeName": self.name });
        for (field, value) in spec.as_object().expect("a spec is an object") {
            all[field] = value.clone();
        }
        self.host.fake_manifest(name, &all)
    }

    /// How many workspaces it has a record of.
    pub(crate) fn records(&self) -> usize {
        let namespaces = fs::read_dir(self.host.state().join("workspaces")).into_iter().flatten();
        namespaces.flatten().map(|namespace| fs::read_dir(namespace.path()).map_or(0, Iterator::count)).sum()
    }

    /// The agent's log.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.host.scratch().join("controller.log")).unwrap_or_default()
    }

    /// Waits until the agent has listed its workspaces.
    pub(crate) fn wait_listed(&self) {
        until("the agent has listed", || self.log().contains("workspaces are of node"));
    }
}

impl Drop for Node {
    /// What the agent said is of use when the test fails, and is removed with the host.
    fn drop(&mut self) {
        if thread::panicking() {
            println!("the agent of {} said:\n{}", self.name, self.log());
        }
    }
}

/// Waits as people do.
pub(crate) fn wait(kubectl: &Kubectl, name: &str, condition: &str) {
    wait_for(kubectl, name, condition, "60s");
}

/// The same, for as long as it may take.
pub(crate) fn wait_for(kubectl: &Kubectl, name: &str, condition: &str, timeout: &str) {
    let object = format!("workspace/{name}");
    kubectl.ok(["wait", &object, &format!("--for=condition={condition}"), &format!("--timeout={timeout}")]);
}

pub(crate) fn object(kubectl: &Kubectl, name: &str) -> Value {
    serde_json::from_str(&kubectl.ok(["get", "workspace", name, "--output=json"])).expect("JSON")
}

pub(crate) fn condition(object: &Value, kind: &str) -> Value {
    let all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|condition| condition["type"] == kind).unwrap_or_default()
}

/// Waits until the object is gone.
pub(crate) fn wait_gone(kubectl: &Kubectl, name: &str) {
    until(&format!("{name} is gone"), || !kubectl.run(["get", "workspace", name]).status.success());
}

/// A time in which nothing is to happen.
pub(crate) const QUIET: Duration = Duration::from_secs(2);
