//! The four servers of a control plane, with the arguments that each gets.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    Settings, audit,
    authority::{Authority, token_key},
    kubeconfig,
    kubectl::Kubectl,
    port::Port,
    process::Process,
    programs::Programs,
    wait::until,
};

/// What runs.
#[derive(Debug)]
pub(super) struct Parts {
    // Dropped in this order: each ends before what it asks.
    pub(super) scheduler: Process,
    pub(super) controller_manager: Process,
    pub(super) api_server: Process,
    pub(super) etcd: Process,
    ports: Ports,
}

#[derive(Debug)]
struct Ports {
    etcd: Port,
    etcd_peers: Port,
    api_server: Port,
    controller_manager: Port,
    scheduler: Port,
}

/// The files that the servers are given.
struct Files {
    authority: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
    token_key: PathBuf,
    token_public_key: PathBuf,
    controller_manager: PathBuf,
    scheduler: PathBuf,
    scheduler_configuration: PathBuf,
}

impl Parts {
    pub(super) fn new(programs: &Programs, dir: &Path, authority: &Authority, settings: Settings) -> Self {
        let ports = Ports {
            etcd: Port::reserve(),
            etcd_peers: Port::reserve(),
            api_server: Port::reserve(),
            controller_manager: Port::reserve(),
            scheduler: Port::reserve(),
        };
        let files = Files::write(dir, authority, &url(&ports.api_server));
        let process = |name, args| Process::new(name, programs.path(name), args, dir);
        Self {
            scheduler: process("kube-scheduler", scheduler_args(&ports, &files)),
            controller_manager: process("kube-controller-manager", controller_manager_args(&ports, &files, settings)),
            api_server: process("kube-apiserver", api_server_args(&ports, &files, settings, dir)),
            etcd: process("etcd", etcd_args(&ports, dir)),
            ports,
        }
    }

    /// Starts all and waits until they say that they are ready.
    pub(super) fn start(&self, admin: &Kubectl) {
        self.etcd.start();
        // It waits for etcd itself.
        self.api_server.start();
        self.wait_for_api_server(admin);
        self.controller_manager.start();
        self.scheduler.start();
        self.wait_for_controllers(admin);
    }

    /// For when the API server or etcd was started again. Starts again too what ended meanwhile, as a kubelet would: for a moment
    /// after its start the API server refuses even those who may, and programs that just start end when they are refused.
    pub(super) fn come_back(&self, admin: &Kubectl) {
        self.wait_for_api_server(admin);
        for part in [&self.controller_manager, &self.scheduler] {
            part.start_if_ended();
        }
        self.wait_for_controllers(admin);
    }

    fn wait_for_api_server(&self, admin: &Kubectl) {
        until("the API server is ready", || {
            [&self.etcd, &self.api_server].into_iter().for_each(Process::assert_runs);
            admin.run(["get", "--raw=/readyz"]).status.success()
        });
    }

    fn wait_for_controllers(&self, admin: &Kubectl) {
        let health = |port: &Port| admin.run(["get", "--raw=/healthz?verbose", "--server", &url(port)]);
        until("the controllers and the scheduler are healthy", || {
            self.all().into_iter().for_each(Process::assert_runs);
            // It says that it is healthy before it has any controller.
            health(&self.ports.controller_manager).stdout.contains("namespace-controller ok")
                && health(&self.ports.scheduler).status.success()
        });
    }

    pub(super) fn url(&self) -> String {
        url(&self.ports.api_server)
    }

    pub(super) fn all(&self) -> [&Process; 4] {
        [&self.etcd, &self.api_server, &self.controller_manager, &self.scheduler]
    }
}

impl Files {
    fn write(dir: &Path, authority: &Authority, api_server: &str) -> Self {
        let write = |name: &str, text: &str| {
            let path = dir.join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let kubeconfig = |user: &str| {
            let path = dir.join(format!("{user}.kubeconfig").replace(':', "-"));
            kubeconfig::write(&path, api_server, authority.certificate(), &authority.client(user, None));
            path
        };
        let (certificate, key) = authority.server();
        let (token_key, token_public_key) = token_key();
        let scheduler = kubeconfig("system:kube-scheduler");
        Self {
            authority: write("ca.crt", authority.certificate()),
            certificate: write("server.crt", &certificate),
            key: write("server.key", &key),
            token_key: write("token.key", &token_key),
            token_public_key: write("token.pub", &token_public_key),
            controller_manager: kubeconfig("system:kube-controller-manager"),
            scheduler_configuration: write("scheduler.yaml", &scheduler_configuration(&scheduler)),
            scheduler,
        }
    }
}

fn url(port: &Port) -> String {
    format!("https://127.0.0.1:{}", port.number())
}

fn etcd_args(ports: &Ports, dir: &Path) -> Vec<String> {
    let clients = format!("http://127.0.0.1:{}", ports.etcd.number());
    let peers = format!("http://127.0.0.1:{}", ports.etcd_peers.number());
    vec![
        format!("--data-dir={}", dir.join("etcd").display()),
        format!("--listen-client-urls={clients}"),
        format!("--advertise-client-urls={clients}"),
        format!("--listen-peer-urls={peers}"),
        format!("--initial-advertise-peer-urls={peers}"),
        format!("--initial-cluster=default={peers}"),
        "--socket-reuse-port".to_owned(),
        // A power cut loses the data; a killed etcd does not.
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ]
}

/// What the three Kubernetes servers have in common.
fn serving_args(port: &Port, files: &Files) -> Vec<String> {
    vec![
        "--bind-address=127.0.0.1".to_owned(),
        format!("--secure-port={}", port.number()),
        "--permit-port-sharing".to_owned(),
        format!("--tls-cert-file={}", files.certificate.display()),
        format!("--tls-private-key-file={}", files.key.display()),
        "--profiling=false".to_owned(),
    ]
}

fn api_server_args(ports: &Ports, files: &Files, settings: Settings, dir: &Path) -> Vec<String> {
    let mut args = serving_args(&ports.api_server, files);
    args.extend([
        format!("--etcd-servers=http://127.0.0.1:{}", ports.etcd.number()),
        format!("--client-ca-file={}", files.authority.display()),
        "--authorization-mode=Node,RBAC".to_owned(),
        // Besides those that are on by default.
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        // Privileged Pods are admitted, as everywhere; Pod Security is what refuses them.
        "--allow-privileged=true".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-signing-key-file={}", files.token_key.display()),
        format!("--service-account-key-file={}", files.token_public_key.display()),
        "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
        // The Service `kubernetes` cannot have endpoints on the loopback address.
        "--advertise-address=127.0.0.1".to_owned(),
        "--endpoint-reconciler-type=none".to_owned(),
    ]);
    if settings.audit {
        args.extend(audit::args(dir));
    }
    args
}

fn controller_manager_args(ports: &Ports, files: &Files, settings: Settings) -> Vec<String> {
    let mut args = serving_args(&ports.controller_manager, files);
    let kubeconfig = files.controller_manager.display();
    args.extend([
        format!("--kubeconfig={kubeconfig}"),
        format!("--authentication-kubeconfig={kubeconfig}"),
        format!("--authorization-kubeconfig={kubeconfig}"),
        format!("--service-account-private-key-file={}", files.token_key.display()),
        format!("--root-ca-file={}", files.authority.display()),
        "--use-service-account-credentials".to_owned(),
        "--leader-elect=false".to_owned(),
        // Tests wait for it; the defaults spare a cluster of thousands.
        "--kube-api-qps=200".to_owned(),
        "--kube-api-burst=400".to_owned(),
    ]);
    if settings.node_lifecycle {
        args.extend(["--node-monitor-period=1s".to_owned(), "--node-monitor-grace-period=5s".to_owned()]);
    } else {
        args.push("--controllers=*,-node-lifecycle-controller".to_owned());
    }
    args
}

fn scheduler_args(ports: &Ports, files: &Files) -> Vec<String> {
    let mut args = serving_args(&ports.scheduler, files);
    let kubeconfig = files.scheduler.display();
    args.extend([
        format!("--config={}", files.scheduler_configuration.display()),
        format!("--authentication-kubeconfig={kubeconfig}"),
        format!("--authorization-kubeconfig={kubeconfig}"),
    ]);
    args
}

/// As by default, but for the pace.
fn scheduler_configuration(kubeconfig: &Path) -> String {
    format!(
        "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nenableProfiling: false\n\
         clientConnection: {{ kubeconfig: {kubeconfig:?}, qps: 200, burst: 400 }}\nleaderElection: {{ leaderElect: false }}\n\
         podInitialBackoffSeconds: 1\npodMaxBackoffSeconds: 2\n"
    )
}
