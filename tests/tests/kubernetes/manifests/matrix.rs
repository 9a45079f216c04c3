//! What the service accounts of the system are granted, held against what they do in whole lives, by the audit log of the API server:
//! nothing is granted that is not used, and nothing is done that is not granted.

use std::{collections::BTreeSet, fs, os::unix::fs::symlink, path::Path, process::Child};

use microagent_tests::{
    cluster::{Cluster, Kubectl, Settings, Use, until},
    host::{Host, bin_dir},
};
use serde_json::{Value, json};

use super::{SYSTEM, apply_all, declared, rights::REFUSALS};
use crate::placement::programs;

/// One verb of one resource, as a role grants it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Grant {
    verb: String,
    group: String,
    resource: String,
    /// Empty: in all of them.
    namespace: String,
    /// Empty: of any.
    name: String,
}

impl Grant {
    fn covers(&self, one: &Use) -> bool {
        (&self.verb, &self.group, &self.resource) == (&one.verb, &one.group, &one.resource)
            && (self.namespace.is_empty() || self.namespace == one.namespace)
            && (self.name.is_empty() || self.name == one.name)
    }
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// What the manifests grant to an account of the system.
fn granted(objects: &[Value], account: &str) -> BTreeSet<Grant> {
    let mut all = BTreeSet::new();
    let is_of = |binding: &Value| {
        let subjects = binding["subjects"].as_array().cloned().unwrap_or_default();
        subjects
            .iter()
            .any(|one| one["kind"] == "ServiceAccount" && one["name"] == account && one["namespace"] == SYSTEM)
    };
    for binding in objects.iter().filter(|one| one["roleRef"].is_object() && is_of(one)) {
        let namespace = binding["metadata"]["namespace"].as_str().unwrap_or_default();
        let role = objects.iter().find(|one| {
            let is_here = one["kind"] == "ClusterRole" || one["metadata"]["namespace"] == namespace;
            is_here
                && one["kind"] == binding["roleRef"]["kind"]
                && one["metadata"]["name"] == binding["roleRef"]["name"]
        });
        for rule in role.expect("the role of a binding")["rules"].as_array().expect("rules") {
            let names = Some(texts(&rule["resourceNames"])).filter(|all| !all.is_empty());
            for group in texts(&rule["apiGroups"]) {
                for resource in texts(&rule["resources"]) {
                    for verb in texts(&rule["verbs"]) {
                        for name in names.clone().unwrap_or_else(|| vec![String::new()]) {
                            all.insert(Grant {
                                verb: verb.clone(),
                                group: group.clone(),
                                resource: resource.clone(),
                                namespace: namespace.to_owned(),
                                name,
                            });
                        }
                    }
                }
            }
        }
    }
    all
}

/// A cluster with everything installed, two nodes, and the programs on their own accounts.
struct Lives {
    cluster: Cluster,
    kubectl: Kubectl,
    host: Host,
    placement: Child,
}

const NODE: &str = "matrix-1";
const OTHER: &str = "matrix-2";

impl Lives {
    fn start(test: &str) -> Option<Self> {
        let cluster = Cluster::start_with(test, Settings { audit: true, ..Settings::default() })?;
        apply_all(&cluster);
        let crd = "crd/workspaces.microagent.dev";
        let _ = cluster.kubectl().ok(["wait", "--for=condition=Established", crd, "--timeout=120s"]);
        until("workspaces are served", || cluster.kubectl().run(["get", "workspaces"]).status.success());
        let labels = json!({ "microagent.dev/agent": "true", "zone": "matrix" });
        for node in [NODE, OTHER] {
            cluster.add_node(node, &json!({ "cpu": "8", "memory": "16Gi" }), &labels, &json!([]));
        }
        // The first is the one that things are placed on, until it is lost.
        let _ = cluster.kubectl().ok(["cordon", OTHER]);
        let account = cluster.service_account_kubeconfig(SYSTEM, "microagent-placement");
        let placement = programs::spawn(&cluster, &account, "matrix");
        let kubectl = cluster.kubectl().in_namespace(&cluster.namespace());
        let mut lives = Self { kubectl, host: Host::with_fake_machines(), placement, cluster };
        lives.start_agent();
        Some(lives)
    }

    fn start_agent(&mut self) {
        let kubeconfig = self.cluster.service_account_kubeconfig_on(SYSTEM, "microagent-agent", NODE);
        self.host.start_agent_with(|command| {
            command.args(["--node-name", NODE, "--gate=127.0.0.1:0", "--kubeconfig"]).arg(kubeconfig);
        });
    }

    fn apply(&self, name: &str, spec: &Value) {
        let _ = self.kubectl.apply(&self.host.fake_manifest(name, spec));
    }

    fn patch(&self, name: &str, patch: &Value) {
        let _ = self.kubectl.ok(["patch", "workspace", name, "--type=merge", "--patch", &patch.to_string()]);
    }

    fn wait(&self, name: &str, condition: &str) {
        let object = format!("workspace/{name}");
        let _ = self.kubectl.ok(["wait", &object, &format!("--for=condition={condition}"), "--timeout=180s"]);
    }

    fn shown(&self, name: &str, path: &str) -> String {
        self.kubectl.ok(["get", "workspace", name, "--ignore-not-found", &format!("--output=jsonpath={{{path}}}")])
    }

    fn wait_reason(&self, name: &str, reason: &str) {
        let path = ".status.conditions[?(@.type=='Scheduled')].reason";
        until(&format!("{name} is {reason}"), || self.shown(name, path) == reason);
    }

    fn wait_gone(&self, name: &str) {
        until(&format!("{name} is gone"), || self.shown(name, ".metadata.name").is_empty());
    }

    fn did(&self, account: &str, verb: &str, resource: &str) -> bool {
        let all = self.cluster.audit(SYSTEM, account);
        all.iter().any(|one| one.verb == verb && one.resource == resource)
    }

    /// From the start of a machine to its end, and what an agent does besides.
    fn agent(&mut self) {
        let on_node = |spec: Value| {
            let mut all = json!({ "nodeName": NODE });
            all.as_object_mut().expect("an object").extend(spec.as_object().expect("an object").clone());
            all
        };
        self.apply("a", &on_node(json!({})));
        self.apply(
            "job",
            &on_node(json!({
                "runPolicy": "Once", "command": ["exit", "0", "200"], "lifecycle": { "ttlSecondsAfterFinished": 1 },
            })),
        );
        self.apply("falls", &on_node(json!({ "command": ["exit", "1", "200"] })));
        self.wait("a", "Ready");
        until("the same again is told as an Event", || self.did("microagent-agent", "patch", "events"));
        self.wait_gone("job");
        // The next agent takes the Lease over.
        self.host.kill_controller();
        self.start_agent();
        until("its Lease is renewed", || self.did("microagent-agent", "update", "leases"));
        let _ = self.kubectl.ok(["delete", "workspace", "a", "falls", "--timeout=120s"]);
    }

    /// A log is asked for with a token, and with a certificate.
    fn gate(&self) {
        self.apply("seen", &json!({ "nodeName": NODE }));
        self.wait("seen", "Ready");
        let gate = "--output=jsonpath={.metadata.annotations.microagent\\.dev/gate}";
        until("the gate is told of", || self.cluster.kubectl().ok(["get", "node", NODE, gate]).starts_with("https://"));
        let dir = tempfile::tempdir().expect("a directory");
        symlink(bin_dir().join("microagent"), dir.path().join("kubectl-microagent")).expect("a link");
        let _ = self.kubectl.ok(["create", "serviceaccount", "reader"]);
        let namespace = self.shown("seen", ".metadata.namespace");
        let subject = format!("--serviceaccount={namespace}:reader");
        let _ = self.kubectl.ok(["create", "clusterrolebinding", "reader", "--clusterrole=cluster-admin", &subject]);
        let token = self.cluster.service_account_kubeconfig(&namespace, "reader");
        let admin = self.cluster.kubeconfig().to_owned();
        for kubeconfig in [&token, &admin] {
            until("the log is shown", || {
                let mut command = self.cluster.kubectl_as(kubeconfig).command();
                let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap_or_default());
                command.args(["microagent", "-n", &namespace, "logs", "seen"]).env("PATH", path);
                command.output().expect("kubectl").status.success()
            });
        }
        let _ = self.kubectl.ok(["delete", "workspace", "seen", "--timeout=120s"]);
    }

    /// Room that is had, that there is none of, that is in another's name, and that is given back.
    fn placement(&self) {
        let placed = |zone: &str| json!({ "placement": { "nodeSelector": { "zone": zone } } });
        self.apply("fits", &placed("matrix"));
        self.apply("waits", &placed("nowhere"));
        let image = "--image=registry.k8s.io/pause:3.10";
        let _ = self.kubectl.ok(["run", "taken-microvm", image, "--restart=Never"]);
        self.apply("taken", &placed("matrix"));
        self.wait("fits", "Ready");
        self.wait_reason("waits", "Unschedulable");
        until("it is asked whose the Pod is", || self.did("microagent-placement", "get", "pods"));
        for policy in ["Halted", "Always"] {
            self.patch("waits", &json!({ "spec": { "runPolicy": policy } }));
            self.wait_reason("waits", if policy == "Halted" { "Halted" } else { "Unschedulable" });
        }
        until("the same again is told as an Event", || self.did("microagent-placement", "patch", "events"));
        let _ = self.kubectl.ok(["delete", "workspace", "waits", "taken", "--timeout=60s"]);
        let _ = self.kubectl.ok(["delete", "workspace", "fits", "--timeout=120s"]);
        until("its Lease is renewed", || self.did("microagent-placement", "update", "leases"));
    }

    /// What a node that is lost has is given up, and what may begins anew on another.
    fn lost(&mut self) {
        let moves = json!({ "placement": { "nodeSelector": { "zone": "matrix" }, "onNodeLost": "Reschedule" } });
        self.apply("moves", &moves);
        self.apply("stays", &json!({ "placement": { "nodeSelector": { "zone": "matrix" } } }));
        for name in ["moves", "stays"] {
            self.wait(name, "Ready");
            assert_eq!(self.shown(name, ".spec.nodeName"), NODE);
            assert_ne!(self.shown(name, ".metadata.finalizers"), "");
        }
        self.host.kill_controller();
        let _ = self.cluster.kubectl().ok(["uncordon", OTHER]);
        let _ = self.cluster.kubectl().ok(["delete", "node", NODE]);
        until("it begins anew elsewhere", || self.shown("moves", ".spec.nodeName") == OTHER);
        assert_eq!(self.shown("moves", ".metadata.finalizers"), "", "nothing of it is there yet");
        let _ = self.kubectl.ok(["delete", "workspace", "stays", "--wait=false"]);
        let _ = self.kubectl.ok(["annotate", "workspace", "stays", "microagent.dev/abandon=true"]);
        self.wait_gone("stays");
    }

    fn said(&self) -> String {
        let log = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        log(&self.host.scratch().join("controller.log")) + &programs::said(&self.cluster, "matrix")
    }
}

impl Drop for Lives {
    fn drop(&mut self) {
        let _ = self.placement.kill();
        let _ = self.placement.wait();
        if std::thread::panicking() {
            println!("{}", self.said());
        }
    }
}

#[test]
fn each_verb_that_is_granted_is_used_and_each_that_is_used_is_granted() {
    let test = "each_verb_that_is_granted_is_used_and_each_that_is_used_is_granted";
    let Some(mut lives) = Lives::start(test) else { return };
    lives.agent();
    lives.gate();
    lives.placement();
    lives.lost();
    let objects = declared(&lives.cluster);
    let mut wrong = Vec::new();
    for account in ["microagent-agent", "microagent-placement"] {
        let (granted, used) = (granted(&objects, account), lives.cluster.audit(SYSTEM, account));
        assert!(granted.len() > 10 && used.len() > 10, "{account}: {granted:#?} {used:#?}");
        let unused = granted.iter().filter(|grant| !used.iter().any(|one| grant.covers(one)));
        wrong.extend(unused.map(|grant| format!("{account} never does {grant:?}")));
        let beyond = used.iter().filter(|one| !one.allowed || !granted.iter().any(|grant| grant.covers(one)));
        wrong.extend(beyond.map(|one| format!("{account} is not granted {one:?}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let said = lives.said();
    for refusal in REFUSALS {
        assert!(!said.contains(refusal), "{refusal}: {said}");
    }
}
