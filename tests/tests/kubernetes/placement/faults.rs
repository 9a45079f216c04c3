//! Placement, with an API server on the way to which things go wrong, and killed at each request that it makes. The agent is a real one.

use std::{process::Child, thread, time::Duration};

use microagent_tests::cluster::{Asked, Cluster, Fault, Kubectl, Proxy, Rule, until};
use serde_json::{Value, json};

use super::programs;
use crate::agent::{Node, condition, object};

/// What placement asks for in a life, but for watches.
const REQUESTS: [(&str, &str); 10] = [
    ("get", "leases"),
    ("create", "leases"),
    ("list", "workspaces"),
    ("list", "pods"),
    ("list", "nodes"),
    ("patch", "workspaces"),
    ("patch", "workspaces/status"),
    ("create", "pods"),
    ("delete", "pods"),
    ("create", "events"),
];

/// Many more than a life with some failures takes, and far fewer than a loop without waits makes in its time.
const ENOUGH: usize = 150;

/// A cluster of one node, whose placement speaks through a proxy.
struct Stage {
    node: Node,
    kubectl: Kubectl,
    placement: Option<Child>,
    /// How many of the requests that were held cost placement its life.
    killed: usize,
    proxy: Proxy,
    cluster: Cluster,
}

impl Stage {
    fn start(test: &str) -> Option<Self> {
        let cluster = Cluster::start(test)?;
        let node = Node::start(&cluster, "stage");
        let label = "--output=jsonpath={.metadata.labels.microagent\\.dev/agent}";
        until("the node has an agent", || cluster.kubectl().ok(["get", "node", "stage", label]) == "true");
        let proxy = cluster.proxy(cluster.kubeconfig());
        Some(Self { node, kubectl: cluster.kubectl().clone(), placement: None, killed: 0, proxy, cluster })
    }

    fn start_placement(&mut self) {
        self.placement = Some(programs::spawn(&self.cluster, self.proxy.kubeconfig(), "stage"));
    }

    fn stop_placement(&mut self) {
        if let Some(mut placement) = self.placement.take() {
            placement.kill().expect("it runs");
            placement.wait().expect("it ends");
        }
    }

    fn until(&mut self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        until(what, || {
            if self.proxy.held() > self.killed {
                self.killed = self.proxy.held();
                self.stop_placement();
                self.proxy.cut();
                self.start_placement();
            }
            is_so(self)
        });
    }

    /// Waits until the workspace is Ready in this phase, and told so by those whose part it is.
    fn settled(&mut self, name: &str, phase: &str, scheduled: &str) {
        self.until(&format!("{name} is {phase}"), |stage| {
            let now = object(&stage.kubectl, name);
            let is = |type_: &str, wanted: &str| {
                let condition = condition(&now, type_);
                condition["status"] == wanted && condition["observedGeneration"] == now["metadata"]["generation"]
            };
            now["status"]["phase"] == phase && is("Ready", "True") && is("Scheduled", scheduled)
        });
    }

    /// Finds a node for a workspace, gives its room back when it is halted, and finds room again.
    fn live(&mut self, name: &str) {
        let manifest = |policy: &str| self.node.host.fake_manifest(name, &json!({ "runPolicy": policy }));
        let (always, halted) = (manifest("Always"), manifest("Halted"));
        let _ = self.kubectl.apply(&always);
        self.settled(name, "Running", "True");
        let placed = object(&self.kubectl, name);
        assert_eq!(placed["spec"]["nodeName"], "stage");
        let uid = placed["metadata"]["uid"].as_str().expect("a UID").to_owned();
        let first = self.pod(name);
        let _ = self.kubectl.apply(&halted);
        self.settled(name, "Halted", "False");
        self.until("its room is given back", |stage| stage.pod(name).is_null());
        let _ = self.kubectl.apply(&always);
        self.settled(name, "Running", "True");
        let second = self.pod(name);
        assert!(first.is_string() && second.is_string() && first != second, "{first} {second}: {:#?}", self.said());
        let _ = self.kubectl.ok(["delete", "workspace", name, "--wait=false"]);
        self.until("it is gone", |stage| !stage.kubectl.run(["get", "workspace", name]).status.success());
        // The garbage collector would, in its time, and a kubelet, which is none here.
        let pod = format!("{name}-microvm");
        let _ = self.kubectl.ok(["delete", "pod", &pod, "--force", "--grace-period=0", "--ignore-not-found"]);
        let boots = self.node.host.fake().boots().iter().filter(|boot| boot.uid == uid).count();
        assert_eq!(boots, 2, "one for each time that it was to run: {:#?}", self.said());
    }

    /// The UID of the reservation.
    fn pod(&self, name: &str) -> Value {
        let uid = "--output=jsonpath={.metadata.uid}";
        let uid = self.kubectl.ok(["get", "pod", &format!("{name}-microvm"), "--ignore-not-found", uid]);
        if uid.is_empty() { Value::Null } else { uid.into() }
    }

    fn said(&self) -> Vec<String> {
        self.proxy.asked().iter().map(Asked::to_string).collect()
    }
}

impl Drop for Stage {
    /// What placement said is of use when the test fails.
    fn drop(&mut self) {
        self.stop_placement();
        if thread::panicking() {
            println!("{:#?}\nplacement said:\n{}", self.said(), programs::said(&self.cluster, "stage"));
        }
    }
}

#[test]
fn placement_does_its_work_whatever_fails() {
    let Some(mut stage) = Stage::start("placement_does_its_work_whatever_fails") else { return };
    let slow = Fault::Delay(Duration::from_secs(1));
    for (name, fault, watch) in [
        ("undisturbed", None, None),
        ("lost", Some(Fault::LostReply), Some(Fault::CutAnswer)),
        ("half", Some(Fault::CutAnswer), Some(Fault::CutAnswer)),
        ("cut", Some(Fault::CutRequest), Some(Fault::CutRequest)),
        ("internal", Some(Fault::Refuse(500, "etcdserver: leader changed", None)), Some(Fault::ErrorEvent(500))),
        ("many", Some(Fault::Refuse(429, "too many requests", Some(1))), Some(Fault::ErrorEvent(410))),
        ("slow", Some(slow.clone()), Some(slow)),
    ] {
        let before = stage.proxy.asked().iter().filter(|asked| asked.resource != "leases").count();
        for (verb, resource) in REQUESTS {
            if let Some(fault) = &fault {
                stage.proxy.rule(Rule::on(verb, resource, fault.clone()).times(2));
            }
        }
        if let Some(watch) = watch {
            stage.proxy.rule(Rule::on("watch", "", watch).times(6));
        }
        stage.start_placement();
        stage.live(name);
        stage.stop_placement();
        stage.proxy.calm();
        let asked = stage.proxy.asked().iter().filter(|asked| asked.resource != "leases").count() - before;
        assert!(asked < ENOUGH, "{name}: {asked} requests: {:#?}", stage.said());
    }
}

#[test]
fn placement_that_is_killed_at_any_of_its_requests_does_its_work() {
    let Some(mut stage) = Stage::start("placement_that_is_killed_at_any_of_its_requests_does_its_work") else { return };
    stage.start_placement();
    stage.live("first");
    let most = 40;
    for nth in 0..most {
        let before = stage.killed;
        let rule = Rule::on("", "", Fault::Hold).except(&["leases", "nodes"]).after(nth).times(1);
        stage.proxy.rule(rule);
        stage.live(&format!("w{nth}"));
        stage.proxy.calm();
        if stage.killed == before {
            assert!(nth >= 5, "{nth} requests: {:#?}", stage.said());
            return;
        }
    }
    panic!("a life has no end: {:#?}", stage.said());
}
