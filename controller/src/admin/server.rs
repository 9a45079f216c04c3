//! HTTP/1.1 for probes, scrapers and `curl`: one request a connection, everything bounded.

use std::{collections::VecDeque, convert::Infallible, io, sync::Arc, time::Duration};

use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    task::{AbortHandle, JoinSet},
    time::timeout,
};
use tokio_util::either::Either;

use super::{
    Admin,
    address::{Listener, Socket},
};

/// Connections at once. Beyond, the oldest makes room: an honest client is served long before 32 others come, and one that hangs
/// keeps no prober out.
const CONNECTIONS: usize = 32;
/// How long a client may take to send its request.
const REQUEST: Duration = Duration::from_secs(5);
/// How long a whole connection may last: a client that does not read must go too.
const LIFETIME: Duration = Duration::from_secs(10);
/// The size of a request in bytes, twice what a browser sends.
const REQUEST_BYTES: usize = 16 * 1024;
/// Header fields of a request.
const REQUEST_FIELDS: usize = 64;
/// How long to wait when no connection can be accepted, for want of file descriptors above all.
const REST: Duration = Duration::from_millis(100);

/// Answers until it is dropped.
pub async fn serve(admin: Arc<Admin>, listener: Listener) {
    let (audience, socket) = (listener.audience(), &listener.socket);
    let respond = move |request: Request<Incoming>| {
        let admin = admin.clone();
        async move { admin.respond(&request, audience).await }
    };
    serve_with(|| accept(socket), respond).await;
}

/// Answers by `respond` whoever `accept` lets in, until it is dropped.
pub async fn serve_with<S, A, R>(
    accept: impl Fn() -> A,
    respond: impl Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Future<Output = io::Result<S>>,
    R: Future<Output = Response<String>> + Send + 'static,
{
    // Owns the connections: they end with it.
    let mut connections = JoinSet::new();
    let mut by_age: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = match accept().await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%error, "no connection to the admin endpoint can be accepted");
                tokio::time::sleep(REST).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        by_age.retain(|connection| !connection.is_finished());
        if by_age.len() >= CONNECTIONS
            && let Some(oldest) = by_age.pop_front()
        {
            oldest.abort();
        }
        by_age.push_back(connections.spawn(talk(stream, respond.clone())));
    }
}

async fn accept(socket: &Socket) -> io::Result<Either<UnixStream, TcpStream>> {
    Ok(match socket {
        Socket::Unix(socket) => Either::Left(socket.accept().await?.0),
        Socket::Tcp(socket) => Either::Right(socket.accept().await?.0),
    })
}

async fn talk<R>(stream: impl AsyncRead + AsyncWrite + Unpin, respond: impl Fn(Request<Incoming>) -> R)
where
    R: Future<Output = Response<String>>,
{
    let service = service_fn(move |request| {
        let response = respond(request);
        async move { Ok::<_, Infallible>(response.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST)
        .max_buf_size(REQUEST_BYTES)
        .max_headers(REQUEST_FIELDS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // How a client fails is its own affair.
    let _ = timeout(LIFETIME, connection).await;
}
