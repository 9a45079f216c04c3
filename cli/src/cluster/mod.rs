//! The command line on a cluster, as a plugin of kubectl. What is done with a stream or an object is the same code as on a host.

mod commands;
mod describe;
mod gate;
mod grammar;
mod objects;
mod pin;
mod secret;

use std::path::Path;

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use microagent_controller::Key;

use crate::{
    context,
    failure::{Context as _, Failure, Result},
};

pub(crate) use commands::main;
pub(crate) use grammar::parse;

/// A cluster, and where in it names are looked up.
struct Cluster {
    config: Config,
    client: Client,
    namespace: String,
    /// Where to reach the gate, in place of the address that its node tells.
    gate: Option<String>,
}

impl Cluster {
    /// Reads the kubeconfig. The cluster is not asked for anything yet.
    async fn open(global: grammar::Global) -> Result<Self> {
        let grammar::Global { kubeconfig, context, namespace, gate, verbose: _ } = global;
        let config = read(kubeconfig.as_deref(), context).await?;
        let namespace = namespace.unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config.clone()).context(|| "cannot use the kubeconfig".to_owned())?;
        Ok(Self { config, client, namespace, gate })
    }

    /// The key that a user means by `name`.
    fn key(&self, name: &str) -> Result<Key> {
        context::key(&self.namespace, name)
    }
}

async fn read(file: Option<&Path>, context: Option<String>) -> Result<Config> {
    let in_cluster_too = file.is_none() && context.is_none();
    let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
    let config = match file {
        Some(file) => {
            let kubeconfig = Kubeconfig::read_from(file).map_err(|e| unreadable(&Failure::from(e)))?;
            Config::from_custom_kubeconfig(kubeconfig, &options).await
        }
        None if in_cluster_too => {
            return Config::infer().await.map_err(|e| unreadable(&Failure::from(e)));
        }
        None => Config::from_kubeconfig(&options).await,
    };
    config.map_err(|e| unreadable(&Failure::from(e)))
}

fn unreadable(why: &Failure) -> Failure {
    Failure::new(format!("there is no kubeconfig to use: {why}"))
        .help("see that `kubectl get workspaces` works, or name a file with --kubeconfig and a context with --context")
}

/// What the API server refused, in words, with what to be granted.
fn refused(error: kube::Error, doing: &str, right: &str) -> Failure {
    match error {
        kube::Error::Api(status) if status.code == 403 => {
            Failure::new(format!("cannot {doing}: {}", status.message)).help(format!("ask for the right to {right}"))
        }
        kube::Error::Api(status) if status.code == 401 => Failure::new(format!("cannot {doing}: {}", status.message))
            .help("the API server does not know the user of this kubeconfig: log in anew"),
        kube::Error::Api(status) if status.code == 404 => Failure::new(format!("cannot {doing}: {}", status.message))
            .help("microagent may not be installed in this cluster: see `kubectl get crd workspaces.microagent.dev`"),
        kube::Error::Api(status) => Failure::new(format!("cannot {doing}: {}", status.message)),
        error => {
            let why = Failure::from(error);
            Failure::try_again(format!("cannot {doing}: {why}")).help("see that `kubectl get workspaces` works")
        }
    }
}
