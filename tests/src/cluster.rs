//! A real Kubernetes control plane for tests: etcd, kube-apiserver, kube-controller-manager and kube-scheduler on loopback
//! ports, all below one temporary directory. Nodes are objects only; no kubelet runs.
//!
//! The parts die with the test process, however it ends, and the directory is removed after them.
//!
//! What to know when writing tests: the garbage collector and a namespace's deletion look for new kinds every 30 seconds, so
//! what depends on a custom resource whose CRD is new may stay that long.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a harness fails its test by panicking")]

mod audit;
mod authority;
mod directory;
mod kubeconfig;
mod kubectl;
mod node;
mod parts;
mod port;
mod process;
mod programs;
mod proxy;
mod wait;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Once, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use kube::config::{KubeConfigOptions, Kubeconfig};

pub use self::{
    audit::Use,
    kubectl::{Kubectl, Said},
    proxy::{Asked, Fault, Proxy, Rule},
    wait::until,
};
use self::{
    authority::{Authority, Identity},
    directory::Directory,
    parts::Parts,
    programs::Programs,
};

/// The file of the generated CRD.
const WORKSPACES_CRD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/crds/workspaces.microagent.dev.yaml");

/// What a control plane may do that the usual one does not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settings {
    /// Whether nodes that say nothing for some seconds are marked so and tainted. Off as a rule, as nodes here never say anything.
    pub node_lifecycle: bool,
    /// Whether each request of a service account is noted, for [`Cluster::audit`].
    pub audit: bool,
}

/// A running control plane, ended when dropped.
#[derive(Debug)]
pub struct Cluster {
    parts: Parts,
    admin: Kubectl,
    authority: Authority,
    namespaces: AtomicUsize,
    kubeconfigs: AtomicUsize,
    workspaces: Once,
    // Last: it is removed when the parts have ended.
    dir: Directory,
}

impl Cluster {
    /// The control plane that the tests of one program share, started by the first that asks. Each test works in a namespace of
    /// its own and harms no part. Prints `SKIP test: …` where the programs are missing.
    ///
    /// # Panics
    /// When the programs are there and do not start.
    #[must_use]
    pub fn shared(test: &str) -> Option<&'static Self> {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        let programs = Programs::of_test(test)?;
        Some(SHARED.get_or_init(|| Self::start_parts(programs, Settings::default())))
    }

    /// A control plane for one test, which may stop its parts. Prints `SKIP test: …` where the programs are missing.
    ///
    /// # Panics
    /// When the programs are there and do not start.
    #[must_use]
    pub fn start(test: &str) -> Option<Self> {
        Self::start_with(test, Settings::default())
    }

    /// As [`Cluster::start`], with other settings.
    ///
    /// # Panics
    /// When the programs are there and do not start.
    #[must_use]
    pub fn start_with(test: &str, settings: Settings) -> Option<Self> {
        Some(Self::start_parts(Programs::of_test(test)?, settings))
    }

    fn start_parts(programs: &Programs, settings: Settings) -> Self {
        let dir = Directory::create();
        let authority = Authority::new();
        let parts = Parts::new(programs, dir.path(), &authority, settings);
        let kubeconfig = dir.path().join("admin.kubeconfig");
        let admin = authority.client("admin", Some("system:masters"));
        kubeconfig::write(&kubeconfig, &parts.url(), authority.certificate(), &admin);
        let admin = Kubectl::new(programs.path("kubectl"), kubeconfig, dir.path());
        parts.start(&admin);
        Self {
            parts,
            admin,
            authority,
            namespaces: AtomicUsize::new(0),
            kubeconfigs: AtomicUsize::new(0),
            workspaces: Once::new(),
            dir,
        }
    }

    /// The address of the API server, `https://127.0.0.1:port`. It stays the same when the server is started again.
    #[must_use]
    pub fn url(&self) -> String {
        self.parts.url()
    }

    /// The certificate, in PEM, of the authority that signed the API server's.
    #[must_use]
    pub fn authority_certificate(&self) -> &str {
        self.authority.certificate()
    }

    /// The kubeconfig of a user who may do everything.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        self.admin.kubeconfig()
    }

    /// The kubeconfig of a user with a client certificate; of `group` too, besides `system:authenticated`.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn kubeconfig_for(&self, user: &str, group: Option<&str>) -> PathBuf {
        self.write_kubeconfig(&self.authority.client(user, group))
    }

    /// The kubeconfig of a service account that is there, with a token that is good for an hour.
    ///
    /// # Panics
    /// When the API server makes no token.
    #[must_use]
    pub fn service_account_kubeconfig(&self, namespace: &str, name: &str) -> PathBuf {
        let token = self.admin.ok(["create", "token", name, "--namespace", namespace, "--duration", "1h"]);
        self.write_kubeconfig(&Identity::Token(token.trim().to_owned()))
    }

    /// As [`Cluster::service_account_kubeconfig`], with a token that names a node, as the kubelet gives it to a Pod there.
    ///
    /// # Panics
    /// When the API server makes no token, for want of the node, say.
    #[must_use]
    pub fn service_account_kubeconfig_on(&self, namespace: &str, name: &str, node: &str) -> PathBuf {
        let uid = self.admin.ok(["get", "node", node, "--output=jsonpath={.metadata.uid}"]);
        let bound = ["--bound-object-kind=Node", "--bound-object-name", node, "--bound-object-uid", &uid];
        let create = ["create", "token", name, "--namespace", namespace, "--duration", "1h"];
        let token = self.admin.ok(create.iter().chain(&bound));
        self.write_kubeconfig(&Identity::Token(token.trim().to_owned()))
    }

    fn write_kubeconfig(&self, identity: &Identity) -> PathBuf {
        let number = self.kubeconfigs.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.path().join(format!("user-{number}.kubeconfig"));
        kubeconfig::write(&path, &self.url(), self.authority.certificate(), identity);
        path
    }

    /// `kubectl` as the user who may do everything.
    #[must_use]
    pub fn kubectl(&self) -> &Kubectl {
        &self.admin
    }

    /// `kubectl` with another kubeconfig.
    #[must_use]
    pub fn kubectl_as(&self, kubeconfig: &Path) -> Kubectl {
        self.admin.with_kubeconfig(kubeconfig)
    }

    /// A client of the user who may do everything. It belongs to the runtime that it is made in.
    ///
    /// # Panics
    /// When the kubeconfig is no good.
    pub async fn client(&self) -> kube::Client {
        self.client_as(self.kubeconfig()).await
    }

    /// As [`Cluster::client`], with another kubeconfig.
    ///
    /// # Panics
    /// When the kubeconfig is no good.
    pub async fn client_as(&self, kubeconfig: &Path) -> kube::Client {
        let kubeconfig = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
        kube::Client::try_from(config.expect("a kubeconfig for a client")).expect("a client")
    }

    /// Applies manifests.
    ///
    /// # Panics
    /// When the API server refuses one.
    pub fn apply(&self, manifests: &str) {
        let _ = self.admin.apply(manifests);
    }

    /// A new namespace, ready for Pods. It is not deleted: the whole cluster goes.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn namespace(&self) -> String {
        let name = format!("test-{}", self.namespaces.fetch_add(1, Ordering::Relaxed));
        let _ = self.admin.ok(["create", "namespace", &name]);
        // Pods are refused before their namespace has this service account.
        let _ =
            self.admin.ok(["wait", "--for=create", "serviceaccount/default", "--namespace", &name, "--timeout=120s"]);
        name
    }

    /// Installs the CRD of workspaces, if nobody did yet, and waits until they are served.
    ///
    /// # Panics
    /// When the API server refuses it.
    pub fn install_workspaces(&self) {
        self.workspaces.call_once(|| {
            let crd = fs::read_to_string(WORKSPACES_CRD).unwrap();
            self.apply(&crd);
            let crd = "crd/workspaces.microagent.dev";
            // It ends at once where the CRD has no conditions yet.
            let wait = ["wait", "--for=condition=Established", crd, "--timeout=120s"];
            until("the CRD is established", || self.admin.run(wait).status.success());
            until("workspaces are served", || self.admin.run(["get", "workspaces"]).status.success());
        });
    }

    /// Kills the API server: connections are cut, and refused from now on.
    ///
    /// # Panics
    /// When it does not run.
    pub fn stop_api_server(&self) {
        self.parts.api_server.stop();
    }

    /// Starts the API server again, at the same address, and waits until it and all controllers are ready. Others may be served,
    /// and wrongly refused with 403, a moment earlier.
    ///
    /// # Panics
    /// When it runs, or does not start, for instance because etcd is stopped.
    pub fn start_api_server(&self) {
        self.parts.api_server.start();
        self.parts.come_back(&self.admin);
    }

    /// Kills etcd. Requests to the API server fail or wait.
    ///
    /// # Panics
    /// When it does not run.
    pub fn stop_etcd(&self) {
        self.parts.etcd.stop();
    }

    /// Starts etcd again, with the data that it had, and waits until the API server, if it was not stopped, and all controllers are ready.
    ///
    /// # Panics
    /// When it runs, or does not start.
    pub fn start_etcd(&self) {
        self.parts.etcd.start();
        if self.parts.api_server.pid().is_some() {
            self.parts.come_back(&self.admin);
        }
    }

    /// The process ids of the parts that run, by program.
    #[must_use]
    pub fn pids(&self) -> Vec<(&'static str, u32)> {
        self.parts.all().into_iter().filter_map(|part| Some((part.name(), part.pid()?))).collect()
    }

    /// The last lines of the log of each part, for whoever must understand a failed test.
    #[must_use]
    pub fn report(&self) -> String {
        self.parts.all().map(|part| format!("--- {}\n{}\n", part.name(), part.last_lines())).concat()
    }
}
