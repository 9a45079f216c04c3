//! The gate as a whole: what it is made of, and how a request goes through it.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc};

use hyper::{
    Request, Response, StatusCode,
    body::{Body as _, Incoming},
    header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HeaderValue, UPGRADE as UPGRADE_HEADER},
};
use microagent_base::Digest;
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{self, ServerConfig, crypto::aws_lc_rs},
};
use tokio_util::sync::CancellationToken;

use crate::{
    answer::{Answer, Refusal},
    certificate::{self, CertificateError},
    client_certificate::AnyCertificate,
    door::Door,
    logs,
    machines::{Found, Machines},
    review::Reviews,
    route::{Ask, Route, Session, UPGRADE},
    server::{self, Peer},
    session,
};

/// How many logs are read at once, and how many commands and copies there are at once. A log that its client does not take holds a thread.
const STREAMS: usize = 128;

/// What a gate is made of.
pub struct Options {
    /// Where it listens: an address of the node, or a loopback address. Port 0 is any free one.
    pub listen: SocketAddr,
    /// The file that keeps its certificate and key.
    pub certificate: PathBuf,
    /// The host names and addresses in a certificate that is made anew. Clients do not look at them.
    pub names: Vec<String>,
    /// The machines of this node.
    pub machines: Arc<dyn Machines>,
    /// Who decides.
    pub reviews: Arc<dyn Reviews>,
}

/// Why there is no gate.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// It has no certificate to serve.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// What is kept cannot be served.
    #[error("the gate's certificate {path} cannot be served: {source}; move the file away to let it be made anew")]
    Tls {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: rustls::Error,
    },
    /// It cannot listen.
    #[error("the gate cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The reason that the system gave.
        source: io::Error,
    },
}

/// The endpoint. It accepts nobody before [`Self::serve`].
pub struct Gate {
    listener: TcpListener,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    desk: Arc<Desk>,
}

impl Gate {
    /// Opens the port. The digest is that of the certificate, for clients to know it by.
    ///
    /// # Errors
    /// When the certificate can be neither read nor made, or the address is not to be had.
    pub async fn open(options: Options) -> Result<(Self, Digest), GateError> {
        let Options { listen, certificate: path, names, machines, reviews } = options;
        let serving = certificate::keep(&path, &names)?;
        let digest = serving.digest();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .and_then(|builder| {
                builder
                    .with_client_cert_verifier(Arc::new(AnyCertificate(Arc::clone(&provider))))
                    .with_single_cert(vec![serving.certificate], serving.key)
            });
        let mut config = config.map_err(|source| GateError::Tls { path, source })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let refused = |source| GateError::Listen { address: listen, source };
        let listener = TcpListener::bind(listen).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let desk = Arc::new(Desk {
            machines,
            door: Door::new(reviews, provider),
            logs: Arc::new(Semaphore::new(STREAMS)),
            sessions: Arc::new(Semaphore::new(STREAMS)),
        });
        Ok((Self { listener, address, acceptor: TlsAcceptor::from(Arc::new(config)), desk }, digest))
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`. Logs and commands that are on their way then break off.
    pub async fn serve(self, shutdown: CancellationToken) {
        let Self { listener, address, acceptor, desk } = self;
        tracing::info!(%address, "the gate is open");
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = server::serve(&listener, &acceptor, &desk) => {}
        }
    }
}

/// What all connections share.
pub(crate) struct Desk {
    machines: Arc<dyn Machines>,
    door: Door,
    logs: Arc<Semaphore>,
    sessions: Arc<Semaphore>,
}

impl Desk {
    /// Answers one request.
    pub(crate) async fn respond(&self, peer: &Peer, request: Request<Incoming>) -> Response<Answer> {
        self.serve(peer, request).await.unwrap_or_else(|refusal| refusal.response())
    }

    async fn serve(&self, peer: &Peer, mut request: Request<Incoming>) -> Result<Response<Answer>, Refusal> {
        let route = Route::read(request.method(), request.uri())?;
        if !request.body().is_end_stream() {
            return Err(Refusal::bad_request("the request has a body: none is expected"));
        }
        // Served as the one who shows the token, it would be another user's deed than the client says.
        if request.headers().keys().any(|name| name.as_str().starts_with("impersonate-")) {
            return Err(Refusal::bad_request("the gate knows no impersonation: ask as the user who is to be let in"));
        }
        self.judge(peer, &request, &route).await?;
        peer.admit();
        let found = self.machines.find(&route.namespace, &route.name);
        let found = found.ok_or_else(|| Refusal::not_found(format!("{route} has no machine on this node")))?;
        match &route.ask {
            Ask::Log(options) => {
                let (options, slot) = (options.clone(), slot(&self.logs)?);
                let pieces = logs::stream(Arc::clone(&self.machines), route, options, found, slot);
                let mut response = Response::new(Answer::Pieces(pieces));
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
                Ok(response)
            }
            Ask::Session(session) => self.session(peer, &mut request, &route, *session, found).await,
        }
    }

    /// Who asks and whether they may, with a line for those who watch over it.
    async fn judge(&self, peer: &Peer, request: &Request<Incoming>, route: &Route) -> Result<(), Refusal> {
        let access = route.access();
        let told = |user: &str, decision: &'static str, why: &str| {
            tracing::info!(
                target: "microagent_gate::audit", peer = %peer.address, user = ?user, verb = access.verb,
                resource = format_args!("workspaces/{}", access.subresource), namespace = access.namespace,
                workspace = access.name, decision, why = ?why, "access"
            );
        };
        let user = match self.door.identify(&peer.certificates, request.headers().get(AUTHORIZATION)).await {
            Ok(user) => user,
            Err(refusal) => {
                told("", refusal.reason, &refusal.message);
                return Err(refusal);
            }
        };
        let admitted = self.door.admit(&user, &access).await;
        match &admitted {
            Ok(()) => told(&user.name, "Allowed", ""),
            Err(refusal) => told(&user.name, refusal.reason, &refusal.message),
        }
        admitted
    }

    async fn session(
        &self,
        peer: &Peer,
        request: &mut Request<Incoming>,
        route: &Route,
        session: Session,
        found: Found,
    ) -> Result<Response<Answer>, Refusal> {
        let has = |name, word: &str| {
            let values = request.headers().get_all(name).iter().filter_map(|value| value.to_str().ok());
            values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(word))
        };
        if !has(CONNECTION, "upgrade") || !has(UPGRADE_HEADER, UPGRADE) {
            return Err(Refusal::bad_request(format!(
                "this needs the headers Connection: Upgrade and Upgrade: {UPGRADE}"
            )));
        }
        let slot = slot(&self.sessions)?;
        let guest = session::connect(&found, route).await?;
        let upgrade = hyper::upgrade::on(request);
        let route = route.clone();
        peer.carry_on(async move {
            let _slot = slot;
            if let Err(error) = session::carry(upgrade, guest, session, found).await {
                tracing::debug!(%error, namespace = route.namespace, workspace = route.name, "a session broke off");
            }
        });
        let mut response = Response::new(Answer::Whole(bytes::Bytes::new()));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        response.headers_mut().insert(UPGRADE_HEADER, HeaderValue::from_static(UPGRADE));
        Ok(response)
    }
}

fn slot(of: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Refusal> {
    let taken = Arc::clone(of).try_acquire_owned();
    taken.map_err(|_| {
        Refusal::too_many(format!("this node serves {STREAMS} of these already; try again when one has ended"))
    })
}
