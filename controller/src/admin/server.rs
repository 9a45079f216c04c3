//! HTTP/1.1 for probes, scrapers and `curl`: one request a connection, everything bounded.

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    task::{AbortHandle, JoinSet},
    time::timeout,
};

use super::{
    Admin, Audience,
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

enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// Answers until it is dropped.
pub async fn serve(admin: Arc<Admin>, listener: Listener) {
    let audience = listener.audience();
    // Owns the connections: they end with it.
    let mut connections = JoinSet::new();
    let mut by_age: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = match accept(&listener).await {
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
        let admin = admin.clone();
        by_age.push_back(match stream {
            Stream::Unix(stream) => connections.spawn(talk(admin, stream, audience)),
            Stream::Tcp(stream) => connections.spawn(talk(admin, stream, audience)),
        });
    }
}

async fn accept(listener: &Listener) -> io::Result<Stream> {
    Ok(match &listener.socket {
        Socket::Unix(socket) => Stream::Unix(socket.accept().await?.0),
        Socket::Tcp(socket) => Stream::Tcp(socket.accept().await?.0),
    })
}

async fn talk(admin: Arc<Admin>, stream: impl AsyncRead + AsyncWrite + Unpin, audience: Audience) {
    let service = service_fn(move |request: Request<Incoming>| {
        let admin = admin.clone();
        async move { Ok::<_, std::convert::Infallible>(admin.respond(&request, audience).await) }
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
