//! The agent of a node, as a whole.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use microagent_base::causes;
use microagent_crds::kubernetes::{AGENT_LEASE_SECONDS, AGENT_RENEW_SECONDS, SYSTEM_NAMESPACE, agent_lease};
use microagent_gate::{Gate, KubeReviews, Options as GateOptions};
use microagent_lease::{Keeper, LeaseError, Terms};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    claims::Claims,
    client::paced_client,
    cluster::Cluster,
    doubt::{self, Doubts},
    events::{self, NodeJournal},
    follow::Follower,
    gate::NodeMachines,
    identity::Identity,
    node::{self, GateAddress},
    publisher::Publisher,
    status::NodeStatus,
    world::Node,
};
use crate::{
    Paths,
    admin::{self, Admin, AdminAddress, Health},
    drive::{self, Tasks, drive},
    journal::Journal,
    metrics::{Metrics, label::SourceKind},
    plan::MachineHashes,
    queue::Queue,
    reconcile::Reconciler,
    request,
    run::ControllerError,
    sink::StatusFiles,
    source::watch,
    world::Host,
};

/// How long the last statuses may take to leave when the agent ends.
const FAREWELL: Duration = Duration::from_secs(3);
/// How soon an API server is asked again that could not be reached.
const RETRY: Duration = Duration::from_secs(5);

/// How the agent of a node runs.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Where everything is kept.
    pub paths: Paths,
    /// The node: workspaces whose `spec.nodeName` is this are its.
    pub node: String,
    /// The kubeconfig file. Without it: `KUBECONFIG`, the user's own, or the service account of the Pod.
    pub kubeconfig: Option<PathBuf>,
    /// How many pulls, builds and kernel installs run at once.
    pub parallelism: usize,
    /// Where metrics, health and state are told; on a socket in the state directory when none is given.
    pub admin: Vec<AdminAddress>,
    /// Where logs and commands are asked for, by those whom the API server lets in: an address of the node. Nowhere when not given.
    pub gate: Option<SocketAddr>,
}

/// Runs until `shutdown` is cancelled. Machines outlive it.
///
/// # Errors
/// What keeps it from starting; that another agent has the node; that the state directory is of another cluster. What else fails
/// later is told in the conditions of the workspaces that it concerns.
pub async fn run(options: NodeOptions, shutdown: CancellationToken) -> Result<(), ControllerError> {
    let NodeOptions { paths, node, kubeconfig, parallelism, admin, gate } = options;
    paths.create()?;
    let _lock = drive::lock(&paths).await?;
    let (doubts, doubted) = Doubts::new();
    let claims = Claims::load(&paths, doubts)?;
    let identity = Identity::take(&paths, claims.records(), &node)?;
    let client = client(kubeconfig).await.map_err(ControllerError::Cluster)?;
    let listeners = admin::open(&admin, &paths).await?;
    let queue = Queue::new();
    let (wake, woken) = mpsc::unbounded_channel();
    let metrics = Arc::new(Metrics::of(SourceKind::Kubernetes));
    let host = Arc::new(Host::open(&paths, parallelism, wake, &metrics).map_err(ControllerError::Host)?);
    let health = Arc::new(Health::of_node(&node));
    // The machines of the last agent are looked after from the start, whether or not the API server can be reached.
    claims.records().iter().for_each(|record| queue.add(record.key.clone()));
    let claims = Arc::new(Mutex::new(claims));
    let cluster = Cluster::new(client.clone(), node.clone());
    let publisher = Arc::new(Publisher::new(cluster.clone()));
    let machines =
        NodeMachines { claims: claims.clone(), host: host.clone(), metrics: metrics.clone(), paths: paths.clone() };
    let gate = match gate {
        Some(listen) => Some(open_gate(listen, &paths, client.clone(), machines).await?),
        None => None,
    };
    let (journal, outbox) = NodeJournal::new(Journal::open(&paths.journal())?);
    let admin = Arc::new(Admin::new(metrics.clone(), health.clone(), queue.clone(), claims.clone(), host.clone()));
    let reconciler = Arc::new(Reconciler {
        world: Node { host: host.clone(), claims: claims.clone(), cluster: cluster.clone(), paths: paths.clone() },
        sink: NodeStatus { files: StatusFiles::new(&paths), publisher: publisher.clone() },
        desired: claims.clone(),
        journal,
        queue: queue.clone(),
        metrics: metrics.clone(),
        machine_hashes: MachineHashes::default(),
    });

    let stop = shutdown.child_token();
    let tasks = Tasks::new(stop.clone());
    tasks.spawn(requests(paths.clone(), queue.clone()));
    let (gate, gate_address) = gate.unzip();
    if let Some(gate) = gate {
        tasks.spawn_whole(gate.serve(stop.clone()));
    }
    let follower = Follower {
        cluster: cluster.clone(),
        claims,
        publisher: publisher.clone(),
        queue,
        health: health.clone(),
        metrics,
    };
    // What ends the agent from within.
    let failed = Arc::new(Mutex::new(None));
    let (end, joining, writing) = (failed.clone(), tasks.clone(), publisher.clone());
    tasks.spawn(async move {
        let served = async {
            let holder = identity.holder.clone();
            let keeper = join(&cluster, identity, &paths).await?;
            let taken = taken(&cluster, &keeper, holder);
            joining.spawn_whole(keeper.run(stop.clone()));
            joining.spawn(writing.run());
            joining.spawn(events::tell(client.clone(), node.clone(), outbox));
            joining.spawn(node::tell(client, node, host, paths, gate_address));
            let (verdicts, answered) = mpsc::unbounded_channel();
            joining.spawn(doubt::ask(cluster.clone(), doubted, verdicts));
            joining.spawn(follower.run(answered));
            Err::<(), _>(taken.await)
        };
        if let Err(error) = served.await {
            *end.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            stop.cancel();
        }
    });
    drive(reconciler, health, (admin, listeners), woken, tasks).await;
    publisher.flush(FAREWELL).await;
    failed.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
}

/// Opens the gate, and tells where it is found.
async fn open_gate(
    listen: SocketAddr,
    paths: &Paths,
    client: Client,
    machines: NodeMachines,
) -> Result<(Gate, GateAddress), ControllerError> {
    if listen.ip().is_unspecified() {
        let why = format!(
            "{listen} is no address that others can be told: give the node's own, as in --gate 192.0.2.7:10270"
        );
        return Err(ControllerError::Gate(why));
    }
    let options = GateOptions {
        listen,
        certificate: paths.state.join("gate.pem"),
        names: vec![listen.ip().to_string()],
        machines: Arc::new(machines),
        reviews: Arc::new(KubeReviews::new(client)),
    };
    let (gate, digest) = Gate::open(options).await.map_err(|error| ControllerError::Gate(error.to_string()))?;
    let address = GateAddress { url: format!("https://{}", gate.address()), certificate: digest.to_string() };
    Ok((gate, address))
}

/// Ends when another agent has this one's node.
fn taken(cluster: &Cluster, keeper: &Keeper, own: String) -> impl Future<Output = ControllerError> + use<> {
    let (mut held, cluster) = (keeper.held(), cluster.clone());
    async move {
        loop {
            if !held.changed().await {
                std::future::pending::<()>().await;
            }
            // An API server that could not be reached takes it too; then nobody else has it, and it is taken again.
            if !held.now()
                && let Ok(Some(holder)) = cluster.holder().await
                && holder != own
            {
                let why = format!("its Lease went to {holder:?}");
                return ControllerError::NodeTaken { node: cluster.node().to_owned(), why };
            }
        }
    }
}

/// The client of the API server. Its configuration is looked for as `kubectl` does, and then as a Pod's.
async fn client(kubeconfig: Option<PathBuf>) -> Result<Client, String> {
    let config = match kubeconfig {
        Some(file) => {
            let say = |error: &kube::config::KubeconfigError| {
                format!("the kubeconfig {} cannot be used: {}", file.display(), causes(error))
            };
            let read = Kubeconfig::read_from(&file).map_err(|error| say(&error))?;
            let options = KubeConfigOptions::default();
            Config::from_custom_kubeconfig(read, &options).await.map_err(|error| say(&error))?
        }
        None => Config::infer().await.map_err(|error| {
            format!(
                "no API server is known: give --kubeconfig or KUBECONFIG, or run the agent in a Pod with a service account ({})",
                causes(&error)
            )
        })?,
    };
    paced_client(config).map_err(|error| format!("the API server cannot be spoken to: {}", causes(&error)))
}

/// Waits until this agent is the one of its node in the cluster of its state directory.
async fn join(cluster: &Cluster, mut identity: Identity, paths: &Paths) -> Result<Keeper, ControllerError> {
    let mut told = false;
    let mut wait = async |error: String| {
        if !std::mem::replace(&mut told, true) {
            tracing::warn!("{error}; until then the machines that are here are kept as they were wanted last");
        }
        tokio::time::sleep(RETRY).await;
    };
    loop {
        match cluster.id().await {
            Ok(id) => {
                let state = paths.clone();
                identity = tokio::task::spawn_blocking(move || identity.meet(&state, &id).map(|()| identity))
                    .await
                    .map_err(|error| ControllerError::Cluster(error.to_string()))??;
                break;
            }
            Err(error) => wait(error.to_string()).await,
        }
    }
    let terms = Terms {
        name: agent_lease(cluster.node()),
        holder: identity.holder,
        duration: Duration::from_secs(AGENT_LEASE_SECONDS.into()),
        renew: Duration::from_secs(AGENT_RENEW_SECONDS.into()),
    };
    let mut keeper = Keeper::new(cluster.client().clone(), SYSTEM_NAMESPACE, terms);
    loop {
        match keeper.take().await {
            Ok(()) => return Ok(keeper),
            Err(error @ LeaseError::HeldByOther { .. }) => {
                return Err(ControllerError::NodeTaken { node: cluster.node().to_owned(), why: error.to_string() });
            }
            Err(error) => wait(error.to_string()).await,
        }
    }
}

/// Queues the workspaces of which `microagent restart` on this host asked something.
async fn requests(paths: Paths, queue: Queue) {
    let (hints, mut hinted) = mpsc::channel(1);
    let watching = watch(vec![paths.requests()], hints, Duration::from_secs(60));
    let asking = async move {
        while hinted.recv().await.is_some() {
            match request::keys(&paths) {
                Ok(keys) => keys.into_iter().for_each(|key| queue.add(key)),
                Err(error) => tracing::warn!("{error}"),
            }
        }
    };
    tokio::join!(watching, asking);
}
