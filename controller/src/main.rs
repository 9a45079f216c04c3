//! `microagent-controller`: the reconciler as a service.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use microagent_controller::{
    AdminAddress, Options, Paths,
    kubernetes::{self, NodeOptions},
    run,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// One heap for all threads. glibc has one for each, and keeps some MiB of freed memory in every one of them: 4.5 MiB more in all.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// Keeps the workspaces of one host as their manifests say.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// A folder with Workspace manifests; may be given several times. The managed folder of `microagent apply` is always watched.
    #[arg(long = "folder", value_name = "DIR")]
    folders: Vec<PathBuf>,
    /// Serve this node of a cluster: the workspaces whose `spec.nodeName` it is, instead of those of folders.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["folders", "relist"])]
    node_name: Option<String>,
    /// The kubeconfig that leads to the API server. Without it: KUBECONFIG, the user's own, or the service account of the Pod.
    #[arg(long, value_name = "FILE", requires = "node_name")]
    kubeconfig: Option<PathBuf>,
    /// Where logs and commands are asked for by those whom the API server lets in (`kubectl microagent logs`, `exec`): an address of
    /// the node that they reach.
    #[arg(long, value_name = "ADDRESS:PORT", requires = "node_name")]
    gate: Option<SocketAddr>,
    /// Where state is kept.
    #[arg(long, env = microagent_controller::paths::STATE_DIR_VARIABLE, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Where images and kernels are kept.
    #[arg(long, env = microagent_controller::paths::CACHE_DIR_VARIABLE, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Seconds between two listings of the folders without a hint.
    #[arg(long, default_value_t = 15, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    relist: u64,
    /// How many pulls, builds and kernel installs run at once; as many as there are CPUs when not given.
    #[arg(long, value_name = "N")]
    parallelism: Option<usize>,
    /// Where metrics, health and state are told: `unix:PATH`, `127.0.0.1:PORT`, `[::1]:PORT` or `none`; may be given several times.
    /// The socket `admin.sock` in the state directory when not given.
    #[arg(long, value_name = "ADDR")]
    admin: Vec<AdminAddress>,
    /// How log lines are written to standard error. MICROAGENT_LOG filters them, as in `info,microagent_controller=debug`.
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn main() -> anyhow::Result<()> {
    let Args { folders, node_name, kubeconfig, gate, state_dir, cache_dir, relist, parallelism, admin, log_format } =
        Args::parse();
    log(log_format);
    let mut options = Options::new(Paths::resolve(state_dir, cache_dir));
    options.folders = folders;
    options.relist = Duration::from_secs(relist);
    options.parallelism = parallelism.unwrap_or(options.parallelism);
    options.admin = admin;
    let node = node_name.map(|node| {
        let Options { paths, parallelism, admin, .. } = options.clone();
        NodeOptions { paths, node, kubeconfig, parallelism, admin, gate }
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(async {
        let shutdown = CancellationToken::new();
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let stop = shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            stop.cancel();
        });
        let ended = match node {
            Some(node) => kubernetes::run(node, shutdown).await,
            None => run(options, shutdown).await,
        };
        ended.map_err(anyhow::Error::from)
    })
}

fn log(format: LogFormat) {
    let filter = EnvFilter::try_from_env("MICROAGENT_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(false).with_target(false).init(),
        LogFormat::Json => builder.json().init(),
    }
}
