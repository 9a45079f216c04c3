//! Placement with the real scheduler. Agents are played by whoever writes their Leases; nobody runs Pods.

mod agents;
mod faults;
mod lost;
pub(crate) mod programs;
mod scheduling;
mod together;

use microagent_tests::cluster::{Cluster, Kubectl, until};
use serde_json::{Value, json};

/// A corner of the shared cluster: a namespace, and nodes that only its workspaces may have.
pub(crate) struct Corner {
    pub(crate) cluster: &'static Cluster,
    pub(crate) kubectl: Kubectl,
    pub(crate) name: String,
}

impl Corner {
    /// One for the test of this name, with a placement that runs.
    pub(crate) fn of(test: &str) -> Option<Self> {
        let cluster = Cluster::shared(test)?;
        programs::ensure(cluster);
        let namespace = cluster.namespace();
        Some(Self { cluster, kubectl: cluster.kubectl().in_namespace(&namespace), name: namespace })
    }

    /// The name of a node of this corner.
    pub(crate) fn node(&self, name: &str) -> String {
        format!("{}-{name}", self.name)
    }

    /// Adds a node on which an agent serves.
    pub(crate) fn add_node(&self, name: &str, memory: &str, taints: &Value) {
        let labels = json!({ "corner": self.name, "microagent.dev/agent": "true" });
        let capacity = json!({ "cpu": "8", "memory": memory });
        agents::serve(self.cluster, &self.node(name));
        self.cluster.add_node(&self.node(name), &capacity, &labels, taints);
    }

    /// Makes a workspace with these fields of its spec beside the image, which may have the nodes of this corner.
    pub(crate) fn apply(&self, name: &str, spec: Value) {
        let mut spec = spec;
        spec["image"] = "busybox:1.37".into();
        spec["placement"]["nodeSelector"]["corner"] = self.name.as_str().into();
        let workspace = json!({ "apiVersion": "microagent.dev/v1alpha1", "kind": "Workspace",
            "metadata": { "name": name }, "spec": spec });
        let _ = self.kubectl.apply(&workspace.to_string());
    }

    fn get(&self, kind: &str, name: &str) -> Value {
        let text = self.kubectl.ok(["get", kind, name, "--ignore-not-found", "--show-managed-fields", "--output=json"]);
        serde_json::from_str(&text).unwrap_or_default()
    }

    fn workspace(&self, name: &str) -> Workspace {
        Workspace(self.get("workspace", name))
    }

    fn pod(&self, workspace: &str) -> Value {
        self.get("pod", &format!("{workspace}-microvm"))
    }

    /// Waits until `Scheduled` has this reason, and gives the workspace as it is then.
    fn wait(&self, name: &str, reason: &str) -> Workspace {
        let mut last = Workspace(Value::Null);
        until(&format!("{name} is {reason}"), || {
            last = self.workspace(name);
            last.condition("Scheduled")["reason"] == reason
        });
        last
    }

    /// Does what a kubelet does once a Pod's time to end is over.
    fn end_pod(&self, name: &str) {
        let _ = self.kubectl.ok(["delete", "pod", name, "--force", "--grace-period=0", "--ignore-not-found"]);
    }
}

/// A workspace as the server has it.
#[derive(Debug)]
struct Workspace(Value);

impl Workspace {
    fn condition(&self, type_: &str) -> &Value {
        let all = self.0["status"]["conditions"].as_array();
        all.into_iter().flatten().find(|one| one["type"] == type_).unwrap_or(&Value::Null)
    }

    fn node(&self) -> Option<&str> {
        self.0["spec"]["nodeName"].as_str()
    }

    fn message(&self) -> &str {
        self.condition("Scheduled")["message"].as_str().unwrap_or_default()
    }

    /// What tools that know nothing of workspaces make of the status, by the rules of kstatus.
    fn kstatus(&self) -> &'static str {
        let status = &self.0["status"];
        let is = |type_: &str, wanted: &str| self.condition(type_)["status"] == wanted;
        match () {
            () if !self.0["metadata"]["deletionTimestamp"].is_null() => "Terminating",
            () if status["observedGeneration"] != self.0["metadata"]["generation"] => "InProgress",
            () if is("Reconciling", "True") => "InProgress",
            () if is("Stalled", "True") => "Failed",
            () if is("Ready", "True") => "Current",
            () => "InProgress",
        }
    }

    /// The conditions that a manager holds.
    fn held_by(&self, manager: &str) -> Vec<String> {
        let entries = self.0["metadata"]["managedFields"].as_array();
        let own =
            entries.into_iter().flatten().filter(|one| one["manager"] == manager && one["subresource"] == "status");
        own.filter_map(|one| one["fieldsV1"]["f:status"]["f:conditions"].as_object())
            .flat_map(|all| all.keys().filter(|key| key.starts_with("k:")).cloned())
            .collect()
    }
}
