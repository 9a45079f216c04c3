//! The gate, the plugin of kubectl, and the API server that decides between them.

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    os::unix::{
        fs::symlink,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::Output,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use microagent_crds::Phase;
use microagent_gate::{Found, Gate, KubeReviews, Machines, Options};
use microagent_guest_protocol::{CopyReply, ExecReply, Exit, Request, frame};
use microagent_tests::{
    cluster::{Cluster, until},
    host::bin_dir,
};
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// A node that only has a gate, with the machine of the workspace `web` in one namespace.
struct Node {
    cluster: &'static Cluster,
    namespace: String,
    dir: TempDir,
    _runtime: Runtime,
}

struct Only(String, Mutex<Found>);

impl Machines for Only {
    fn find(&self, namespace: &str, name: &str) -> Option<Found> {
        let found = self.1.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (namespace == self.0 && name == "web").then_some(found)
    }
}

impl Node {
    /// `None` where there is no control plane, or the command line was not built.
    fn new(test: &str) -> Option<Self> {
        let cluster = Cluster::shared(test)?;
        let program = bin_dir().join("microagent");
        if !program.exists() {
            println!("SKIP {test}: needs {} (scripts/build)", program.display());
            return None;
        }
        cluster.install_workspaces();
        let namespace = cluster.namespace();
        let dir = tempfile::tempdir().expect("a directory");
        symlink(program, dir.path().join("kubectl-microagent")).expect("a link");

        // The least rights of an agent, as far as the gate goes.
        cluster.apply(&rights_of_the_agent(&namespace));
        let agent = cluster.service_account_kubeconfig(&namespace, "agent");
        let runtime = Runtime::new().expect("a runtime");
        let client = runtime.block_on(cluster.client_as(&agent));
        let path = |name: &str| dir.path().join(name);
        let found = Found {
            uid: "u-1".to_owned(),
            phase: Phase::Running,
            workload_log: path("workload.log"),
            console_log: path("console.log"),
            vsock: path("vsock.sock"),
            user: None,
            working_dir: None,
        };
        let options = Options {
            listen: "127.0.0.1:0".parse().expect("an address"),
            certificate: path("gate.pem"),
            names: Vec::new(),
            machines: Arc::new(Only(namespace.clone(), Mutex::new(found))),
            reviews: Arc::new(runtime.block_on(async { KubeReviews::new(client) })),
        };
        let (gate, digest) = runtime.block_on(Gate::open(options)).expect("a gate");
        let address = format!("https://{}", gate.address());
        runtime.spawn(gate.serve(CancellationToken::new()));

        let annotations =
            json!({"microagent.dev/gate": address, "microagent.dev/gate-certificate": digest.to_string()});
        let node =
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": namespace, "annotations": annotations}});
        cluster.apply(&node.to_string());
        let web = json!({"apiVersion": "microagent.dev/v1alpha1", "kind": "Workspace",
            "metadata": {"name": "web", "namespace": namespace}, "spec": {"image": "alpine:3.22", "nodeName": namespace}});
        cluster.apply(&web.to_string());
        let status = json!({"status": {"phase": "Running", "nodeName": namespace}}).to_string();
        let kubectl = cluster.kubectl().in_namespace(&namespace);
        let _ = kubectl.ok(["patch", "workspace", "web", "--subresource=status", "--type=merge", "--patch", &status]);
        fs::write(path("workload.log"), "2026-11-22T10:00:00.000000000Z stdout F hello\n").expect("a log");
        Some(Self { cluster, namespace, dir, _runtime: runtime })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `kubectl microagent …`, found by kubectl itself.
    fn plugin(&self, kubeconfig: &Path, line: &str) -> Output {
        let mut path = self.dir.path().as_os_str().to_owned();
        path.push(":");
        path.push(env::var_os("PATH").unwrap_or_default());
        let mut command = self.cluster.kubectl_as(kubeconfig).command();
        command.args(["microagent", "-n", &self.namespace]).args(line.split(' ')).env("PATH", path);
        command.output().expect("kubectl")
    }

    /// A user with a service account who may read the workspace and its node, and what `rules` say.
    fn user(&self, name: &str, rules: &serde_json::Value) -> PathBuf {
        let namespace = &self.namespace;
        let account = json!({"kind": "ServiceAccount", "name": name, "namespace": namespace});
        let binding = |kind: &str, role: &str, name: &str, namespace: Option<&str>| {
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": format!("{kind}Binding"),
                "metadata": {"name": name, "namespace": namespace}, "subjects": [account],
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role}})
        };
        let cluster_role = format!("{namespace}-{name}");
        let list = json!({"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}},
            {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": cluster_role},
                "rules": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}]},
            binding("ClusterRole", &cluster_role, &cluster_role, None),
            {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": name, "namespace": namespace},
                "rules": rules},
            binding("Role", name, name, Some(namespace)),
        ]});
        self.cluster.apply(&list.to_string());
        self.cluster.service_account_kubeconfig(namespace, name)
    }

    /// A guest that ends each command with 7, and whose archives are the paths that are asked for.
    fn guest(&self) {
        let listener = UnixListener::bind(self.path("vsock.sock")).expect("a socket");
        thread::spawn(move || listener.incoming().flatten().for_each(|wire| drop(thread::spawn(|| answer(wire)))));
    }
}

fn answer(mut wire: UnixStream) -> std::io::Result<()> {
    let mut line = String::new();
    BufReader::with_capacity(1, wire.try_clone()?).read_line(&mut line)?;
    wire.write_all(b"OK 5\n")?;
    match frame::read_message(&mut wire)? {
        Request::Exec(exec) => {
            frame::write(&mut wire, frame::Kind::Stdout, exec.process.argv.join(" ").as_bytes())?;
            frame::write_message(&mut wire, &ExecReply::Exited(Exit::code(7)))
        }
        Request::CopyOut(copy) => {
            frame::write(&mut wire, frame::Kind::Output, copy.path.as_bytes())?;
            frame::write_message(&mut wire, &CopyReply::Copied { left_out: None })
        }
        _ => Ok(()),
    }
}

fn rights_of_the_agent(namespace: &str) -> String {
    let rule =
        |group: &str, resource: &str| json!({"apiGroups": [group], "resources": [resource], "verbs": ["create"]});
    let account = json!({"kind": "ServiceAccount", "name": "agent", "namespace": namespace});
    let name = format!("{namespace}-agent");
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "agent", "namespace": namespace}},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": [
            rule("authentication.k8s.io", "tokenreviews"), rule("authorization.k8s.io", "subjectaccessreviews")]},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name}, "subjects": [account],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": name, "namespace": "kube-system"},
            "subjects": [account], "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role",
                "name": "extension-apiserver-authentication-reader"}},
    ]})
    .to_string()
}

fn out(output: &Output) -> (Option<i32>, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

/// Rules of RBAC: to read workspaces, and these verbs on their subresources.
fn may(more: &[(&str, &str)]) -> serde_json::Value {
    let rule =
        |resource: &str, verb: &str| json!({"apiGroups": ["microagent.dev"], "resources": [resource], "verbs": [verb]});
    more.iter().chain(&[("workspaces", "get")]).map(|(resource, verb)| rule(resource, verb)).collect()
}

#[test]
fn a_token_opens_what_rbac_grants_and_nothing_else() {
    let Some(node) = Node::new("a_token_opens_what_rbac_grants_and_nothing_else") else { return };
    node.guest();
    let dev = node.user("dev", &may(&[("workspaces/log", "get")]));
    assert_eq!(out(&node.plugin(&dev, "logs web")), (Some(0), "hello\n".to_owned()));
    let (code, told) = out(&node.plugin(&dev, "exec web -- echo hi"));
    assert_eq!(code, Some(1), "{told}");
    let who =
        format!("User \"system:serviceaccount:{}:dev\" cannot create resource \"workspaces/exec\"", node.namespace);
    assert!(told.contains(&who) && told.contains("ask for the right to create workspaces/exec"), "{told}");
    let (code, told) = out(&node.plugin(&dev, "cp web:/etc -"));
    assert!(code == Some(1) && told.contains(&who), "{told}");

    // The verb counts, not only the subresource.
    let reader = node.user("reader", &may(&[("workspaces/log", "create"), ("workspaces/exec", "get")]));
    for line in ["logs web", "exec web -- ls", "cp web:/etc -"] {
        let (code, told) = out(&node.plugin(&reader, line));
        assert!(code == Some(1) && told.contains("forbidden"), "{line}: {told}");
    }

    // A grant counts from the moment that the API server knows it.
    let _ = node.user("dev", &may(&[("workspaces/log", "get"), ("workspaces/exec", "create")]));
    until("the grant counts", || node.plugin(&dev, "exec web -- echo hi").status.code() == Some(7));
    assert_eq!(out(&node.plugin(&dev, "exec web -- echo hi")), (Some(7), "echo hi".to_owned()));
    assert_eq!(out(&node.plugin(&dev, "cp web:/etc -")), (Some(0), "/etc".to_owned()));
}

#[test]
fn a_certificate_of_the_clusters_ca_opens_too() {
    let Some(node) = Node::new("a_certificate_of_the_clusters_ca_opens_too") else { return };
    node.guest();
    let admin = node.cluster.kubeconfig_for("ann", Some("system:masters"));
    assert_eq!(out(&node.plugin(&admin, "logs web")), (Some(0), "hello\n".to_owned()));
    assert_eq!(out(&node.plugin(&admin, "exec web -- echo hi")), (Some(7), "echo hi".to_owned()));

    // By its group alone: what RBAC grants to the group, the certificate opens.
    let group = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": node.namespace}, "rules": [
            {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]},
            {"apiGroups": ["microagent.dev"], "resources": ["workspaces", "workspaces/log"], "verbs": ["get"]}]},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": node.namespace},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": node.namespace}],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": node.namespace}}]});
    node.cluster.apply(&group.to_string());
    let joe = node.cluster.kubeconfig_for("joe", Some(&node.namespace));
    until("the group may", || node.plugin(&joe, "logs web").status.success());
    let (code, told) = out(&node.plugin(&joe, "exec web -- ls"));
    assert!(code == Some(1) && told.contains("User \"joe\" cannot create"), "{told}");
}

#[test]
fn the_verbs_on_objects_work_on_a_real_api_server() {
    let Some(node) = Node::new("the_verbs_on_objects_work_on_a_real_api_server") else { return };
    let admin = node.cluster.kubeconfig();
    let ok = |line: &str| {
        let (code, told) = out(&node.plugin(admin, line));
        assert_eq!(code, Some(0), "{line}: {told}");
        told
    };
    let row = ok("get web");
    assert!(row.contains("Running") && row.contains(&node.namespace), "{row}");
    assert!(ok("describe web").contains("Phase:           Running"));
    assert_eq!(ok("restart web"), "workspace/web restart requested\n");
    let kubectl = node.cluster.kubectl().in_namespace(&node.namespace);
    let word =
        kubectl.ok(["get", "workspace", "web", "--output=jsonpath={.metadata.annotations.microagent\\.dev/restart}"]);
    assert_eq!(word.len(), 36, "{word}");
    let ready =
        json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "Settled", "message": "",
        "observedGeneration": 1, "lastTransitionTime": "2026-11-24T06:00:00Z"}]}})
        .to_string();
    let (waited, ()) = thread::scope(|scope| {
        let wait = scope.spawn(|| ok("wait web --for condition=Ready --timeout 120s"));
        let _ = kubectl.ok(["patch", "workspace", "web", "--subresource=status", "--type=merge", "--patch", &ready]);
        (wait.join().expect("a wait"), ())
    });
    assert_eq!(waited, "workspace/web condition met\n");
    let _ = kubectl.ok(["delete", "workspace", "web"]);
    assert_eq!(ok("wait web --for delete"), "workspace/web deleted\n");
    let (code, told) = out(&node.plugin(admin, "logs web"));
    assert!(code == Some(1) && told.contains("workspace web not found"), "{told}");
}

#[test]
fn an_agent_without_rights_lets_nobody_in_and_says_why() {
    let Some(node) = Node::new("an_agent_without_rights_lets_nobody_in_and_says_why") else { return };
    let name = format!("{}-agent", node.namespace);
    let _ = node.cluster.kubectl().ok(["delete", "clusterrolebinding", &name]);
    let dev = node.user("dev", &may(&[("workspaces/log", "get")]));
    until("the right is gone", || !node.plugin(&dev, "logs web").status.success());
    let (code, told) = out(&node.plugin(&dev, "logs web"));
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("the node agent may not create tokenreviews") && told.contains("service account"), "{told}");
}
