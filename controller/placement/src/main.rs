//! `microagent-placement`: finds nodes for workspaces, as a service of a cluster.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use microagent_crds::{Cpus, Memory};
use microagent_placement::{Options, Reservation, run};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Finds nodes for the workspaces of a cluster that name none, through kube-scheduler.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// The kubeconfig. Without it: KUBECONFIG, the service account of the Pod, or the user's own.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Who this one is among several; unique. Without it: the host's name and something random.
    #[arg(long, value_name = "TEXT")]
    identity: Option<String>,
    /// The image of reservation Pods: its program only has to wait.
    #[arg(long, default_value = "registry.k8s.io/pause:3.10", value_name = "IMAGE")]
    reservation_image: String,
    /// Memory that each machine needs on its node beyond its guest's, as a quantity of bytes.
    #[arg(long, default_value = "128Mi", value_name = "QUANTITY")]
    overhead_memory: Memory,
    /// CPU that each machine needs on its node beyond its guest's, as a quantity.
    #[arg(long, default_value = "50m", value_name = "QUANTITY")]
    overhead_cpu: Cpus,
    /// Seconds for which a node must have been silent before workspaces with `onNodeLost: Reschedule` are moved from it. Never
    /// sooner than the Lease of its agent is overdue.
    #[arg(long, default_value_t = 300, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(..=86_400))]
    reschedule_after: u64,
    /// Where /livez, /readyz and /metrics are told, as in `0.0.0.0:8080`; nowhere when not given.
    #[arg(long, value_name = "ADDRESS:PORT")]
    admin: Option<SocketAddr>,
    /// How log lines are written to standard error. MICROAGENT_LOG filters them, as in `info,microagent_placement=debug`.
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn main() -> anyhow::Result<()> {
    let Args {
        kubeconfig,
        identity,
        reservation_image,
        overhead_memory,
        overhead_cpu,
        reschedule_after,
        admin,
        log_format,
    } = Args::parse();
    log(log_format);
    let options = Options {
        kubeconfig,
        identity: identity.unwrap_or_else(unique),
        reservation: Reservation { image: reservation_image, overhead_memory, overhead_cpu },
        move_after: Duration::from_secs(reschedule_after),
        admin,
    };
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
        run(options, shutdown).await.map_err(anyhow::Error::from)
    })
}

fn unique() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}_{}", host.trim(), uuid::Uuid::new_v4())
}

fn log(format: LogFormat) {
    let filter = EnvFilter::try_from_env("MICROAGENT_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(false).with_target(false).init(),
        LogFormat::Json => builder.json().init(),
    }
}
