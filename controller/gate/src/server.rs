//! Connections: TLS, one request each, everything bounded. Strangers cannot keep out those who were let in.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt;
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, rustls::pki_types::CertificateDer};

use crate::gate::Desk;

/// Connections of those who were not let in yet. Beyond, the oldest makes room, so that one who hangs keeps nobody out.
const NEWCOMERS: usize = 64;
/// How long they may take in all to be let in, with the answers of the API server.
const NEWCOMER: Duration = Duration::from_secs(60);
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a client may take to send its request.
const REQUEST: Duration = Duration::from_secs(10);
/// The size of a request in bytes. Tokens of some issuers have ten thousand and more.
const REQUEST_BYTES: usize = 64 * 1024;
/// Header fields of a request.
const REQUEST_FIELDS: usize = 64;
/// How long to wait when no connection can be accepted, for want of file descriptors above all.
const REST: Duration = Duration::from_millis(100);
/// After so much silence the other host is asked whether it still is there, so often, and so many times.
const SILENCE: Duration = Duration::from_secs(30);
const PROBE: Duration = Duration::from_secs(10);
const PROBES: u32 = 3;

/// The other end of a connection.
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// Its own certificate, then those that lead to the CA.
    pub(crate) certificates: Vec<CertificateDer<'static>>,
    admitted: Arc<AtomicBool>,
    after: Mutex<Option<BoxFuture<'static, ()>>>,
}

impl Peer {
    /// It was let in: it may stay.
    pub(crate) fn admit(&self) {
        self.admitted.store(true, Ordering::Relaxed);
    }

    /// What the connection does when HTTP has ended on it.
    pub(crate) fn carry_on(&self, work: impl Future<Output = ()> + Send + 'static) {
        *self.after.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::pin(work));
    }
}

struct Newcomer {
    admitted: Arc<AtomicBool>,
    task: AbortHandle,
}

/// Answers until it is dropped; the connections end with it.
pub(crate) async fn serve(listener: &TcpListener, acceptor: &TlsAcceptor, desk: &Arc<Desk>) {
    let mut connections = JoinSet::new();
    let mut newcomers: VecDeque<Newcomer> = VecDeque::new();
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "no connection to the gate can be accepted");
                sleep(REST).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        newcomers.retain(|newcomer| !newcomer.admitted.load(Ordering::Relaxed) && !newcomer.task.is_finished());
        if newcomers.len() >= NEWCOMERS
            && let Some(oldest) = newcomers.pop_front()
        {
            oldest.task.abort();
        }
        let admitted = Arc::new(AtomicBool::new(false));
        let connection = connect(acceptor.clone(), Arc::clone(desk), stream, address, Arc::clone(&admitted));
        newcomers.push_back(Newcomer { admitted, task: connections.spawn(connection) });
    }
}

async fn connect(
    acceptor: TlsAcceptor,
    desk: Arc<Desk>,
    stream: TcpStream,
    address: SocketAddr,
    admitted: Arc<AtomicBool>,
) {
    if let Err(error) = keep_alive(&stream) {
        tracing::debug!(%error, "a connection cannot be set up");
        return;
    }
    let tls = match timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return tracing::debug!(%error, peer = %address, "no TLS"),
        Err(_) => return,
    };
    let certificates = tls.get_ref().1.peer_certificates().unwrap_or_default();
    let certificates = certificates.iter().map(|certificate| certificate.clone().into_owned()).collect();
    let peer = Arc::new(Peer { address, certificates, admitted: Arc::clone(&admitted), after: Mutex::new(None) });
    let asked = Arc::clone(&peer);
    let service = service_fn(move |request: Request<Incoming>| {
        let (desk, peer) = (Arc::clone(&desk), Arc::clone(&asked));
        async move { Ok::<_, Infallible>(desk.respond(&peer, request).await) }
    });
    let http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST)
        .max_buf_size(REQUEST_BYTES)
        .max_headers(REQUEST_FIELDS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(tls), service)
        .with_upgrades();
    let mut http = pin!(http);
    let ended = match timeout(NEWCOMER, &mut http).await {
        Ok(ended) => ended,
        Err(_) if admitted.load(Ordering::Relaxed) => http.await,
        Err(_) => return,
    };
    if let Err(error) = ended {
        // How a client fails is its own affair.
        return tracing::debug!(%error, peer = %address, "a connection broke off");
    }
    let after = peer.after.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(after) = after {
        after.await;
    }
}

/// Finds out, without anything being sent, that a peer is gone.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, SILENCE)?;
    sockopt::set_tcp_keepintvl(stream, PROBE)?;
    sockopt::set_tcp_keepcnt(stream, PROBES)?;
    Ok(())
}
