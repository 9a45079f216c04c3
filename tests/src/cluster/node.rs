//! Nodes that nobody runs Pods on.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::Cluster;

impl Cluster {
    /// Adds a node that is Ready, as a kubelet would: the scheduler binds Pods to it, and there they stay Pending.
    /// Its name and its labels are the test's own: in a shared cluster the Pods of other tests see it too, so each selects its nodes.
    /// `capacity` is an object such as `{"cpu": "4", "memory": "8Gi"}` (110 Pods unless it says), `labels` an object, `taints` a list.
    ///
    /// # Panics
    /// When the API server refuses it.
    pub fn add_node(&self, name: &str, capacity: &Value, labels: &Value, taints: &Value) {
        let mut all_labels = json!({
            "kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        });
        for (label, value) in labels.as_object().expect("labels are an object") {
            all_labels[label] = value.clone();
        }
        let mut all_capacity = json!({ "pods": "110" });
        for (resource, quantity) in capacity.as_object().expect("a capacity is an object") {
            all_capacity[resource] = quantity.clone();
        }
        let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "labels": all_labels } });
        let created = self.admin.run_with(["create", "--filename", "-"], &node.to_string());
        assert!(created.status.success(), "{}", created.stderr);

        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let ready = json!({
            "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "a test says so",
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        });
        let addresses = json!([
            { "type": "InternalIP", "address": "127.0.0.1" },
            { "type": "Hostname", "address": name },
        ]);
        let status = json!({ "status": {
            "capacity": all_capacity, "allocatable": all_capacity, "conditions": [ready], "addresses": addresses,
        } });
        self.patch_node(name, &["--subresource=status"], &status);
        // A new node is tainted as not ready by the API server. The controller that takes the taint away is off as a rule.
        self.patch_node(name, &[], &json!({ "spec": { "taints": taints } }));
    }

    fn patch_node(&self, name: &str, flags: &[&str], patch: &Value) {
        let patch = patch.to_string();
        let args = ["patch", "node", name, "--type=merge", "--patch", &patch];
        let _ = self.admin.ok(args.iter().chain(flags));
    }
}
