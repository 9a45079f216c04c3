//! The agent of a node, with an API server on the way to which things go wrong. Whatever does: a life ends as the undisturbed one.

mod crash;
mod disturbed;
mod rights;
mod stale;

use std::sync::OnceLock;

use microagent_tests::cluster::{Asked, Cluster, Kubectl, Proxy, until};
use serde_json::{Value, json};

use crate::agent::{Node, object};

/// A node whose agent speaks through a proxy.
struct Behind {
    node: Node,
    proxy: Proxy,
    kubectl: Kubectl,
    /// How many of the requests that were held cost the agent its life.
    killed: usize,
}

impl Behind {
    /// One of the shared control plane, whose agent is not started yet.
    fn prepare(test: &str, node: &str) -> Option<Self> {
        let cluster = Cluster::shared(test)?;
        let mut node = Node::prepare(cluster, node);
        let proxy = cluster.proxy(cluster.kubeconfig());
        node.use_kubeconfig(proxy.kubeconfig().to_owned());
        let kubectl = cluster.kubectl().in_namespace(&cluster.namespace());
        Some(Self { node, proxy, kubectl, killed: 0 })
    }

    /// One whose agent has listed its workspaces.
    fn start(test: &str, node: &str) -> Option<Self> {
        let mut behind = Self::prepare(test, node)?;
        behind.node.start_agent();
        behind.node.wait_listed();
        Some(behind)
    }

    fn apply(&self, name: &str, spec: &Value) {
        let _ = self.kubectl.apply(&self.node.manifest(name, spec));
    }

    /// From `kubectl apply` through an edit to `kubectl delete`. Gives the statuses in between.
    fn live(&mut self, name: &str) -> Told {
        self.apply(name, &json!({}));
        let ready = self.settled(name, 1);
        // In place: the machine stays.
        self.apply(name, &json!({ "lifecycle": { "terminationGracePeriodSeconds": 2 } }));
        let edited = self.settled(name, 2);
        let uid = object(&self.kubectl, name)["metadata"]["uid"].as_str().expect("a UID").to_owned();
        let _ = self.kubectl.ok(["delete", "workspace", name, "--wait=false"]);
        until(&format!("{name} is gone"), || {
            self.kill_at_held();
            !self.kubectl.run(["get", "workspace", name]).status.success()
        });
        let boots = self.node.host.fake().boots().iter().filter(|boot| boot.uid == uid).count();
        assert_eq!(boots, 1, "{name} had one machine, once: {:#?}", self.said());
        until("nothing is left on the host", || {
            self.kill_at_held();
            self.node.host.machines().is_empty() && self.node.records() == 0 && self.node.host.half_made().is_empty()
        });
        assert_eq!(self.node.host.processes(&uid), Vec::<String>::new(), "its machine has ended");
        Told { ready, edited }
    }

    /// Waits until it is told that the workspace is as this generation asks for; gives the status without its times.
    fn settled(&mut self, name: &str, generation: i64) -> Value {
        let mut last = Value::Null;
        until(&format!("{name} is Ready at generation {generation}"), || {
            self.kill_at_held();
            last = shape(&object(&self.kubectl, name)["status"]);
            let is = |type_: &str, wanted: &str| last["conditions"][type_] == json!([wanted, generation]);
            last["observedGeneration"] == generation && is("Ready", "True") && is("Reconciling", "False")
        });
        last
    }

    /// Kills the agent when a request of it is held, and starts the next one.
    fn kill_at_held(&mut self) {
        if self.proxy.held() > self.killed {
            self.killed = self.proxy.held();
            self.node.host.kill_controller();
            self.proxy.cut();
            self.node.start_agent();
        }
    }

    /// The requests so far, for whoever must understand a failed test.
    fn said(&self) -> Vec<String> {
        self.proxy.asked().iter().map(Asked::to_string).collect()
    }

    /// How many requests there were so far, but for the Lease's.
    fn requests(&self) -> usize {
        self.proxy.asked().iter().filter(|asked| asked.resource != "leases").count()
    }
}

/// What is told in a life.
#[derive(Debug, PartialEq)]
struct Told {
    ready: Value,
    edited: Value,
}

/// What of a status is the same each time.
fn shape(status: &Value) -> Value {
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let conditions = conditions.iter().map(|one| {
        let type_ = one["type"].as_str().unwrap_or_default().to_owned();
        (type_, json!([one["status"], one["observedGeneration"]]))
    });
    json!({
        "phase": status["phase"], "observedGeneration": status["observedGeneration"],
        "runningGeneration": status["runningGeneration"], "conditions": conditions.collect::<serde_json::Map<_, _>>(),
        "restarts": status["restarts"]["count"],
    })
}

/// What is told when nothing goes wrong.
fn undisturbed(test: &str) -> Option<&'static Told> {
    static TOLD: OnceLock<Option<Told>> = OnceLock::new();
    TOLD.get_or_init(|| {
        let mut behind = Behind::start(test, "undisturbed")?;
        let told = behind.live("a");
        // What a disturbed one is held against is what is meant, and not only always the same.
        assert_eq!(told.ready["phase"], "Running");
        Some(told)
    })
    .as_ref()
}
