//! `/livez`, `/readyz` and `/metrics` for the kubelet and for scrapers. They tell numbers only, and change nothing.

use std::{collections::VecDeque, convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use microagent_controller::{admin::Heartbeat, queue::Queue};
use microagent_lease::Held;
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time::timeout,
};

use crate::{metrics::Metrics, view::View};

/// Connections at once. Beyond, the oldest makes room, so that one that hangs keeps no probe out.
const CONNECTIONS: usize = 32;
/// How long a client may take to send its request.
const REQUEST: Duration = Duration::from_secs(5);
/// How long a whole connection may last.
const LIFETIME: Duration = Duration::from_secs(10);
/// The size of a request in bytes.
const REQUEST_BYTES: usize = 16 * 1024;
/// How long the loop may be silent: long for a program, short for a person.
const SILENCE: Duration = Duration::from_secs(30);

/// What the endpoints read.
#[derive(Debug)]
pub(crate) struct Admin {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) heartbeat: Arc<Heartbeat>,
    pub(crate) view: View,
    pub(crate) queue: Queue,
    pub(crate) held: Held,
}

impl Admin {
    fn answer(&self, method: &Method, path: &str) -> (StatusCode, String) {
        if method != Method::GET {
            return (StatusCode::METHOD_NOT_ALLOWED, "only GET is answered\n".to_owned());
        }
        match path {
            "/livez" if self.heartbeat.age() > SILENCE => {
                let why = format!("loop: no sign of life for {} s\n", self.heartbeat.age().as_secs());
                (StatusCode::SERVICE_UNAVAILABLE, why)
            }
            "/livez" => (StatusCode::OK, "ok\n".to_owned()),
            "/readyz" => match self.view.missing() {
                missing if missing.is_empty() => (StatusCode::OK, "ok\n".to_owned()),
                missing => {
                    let lines = missing.iter().map(|kind| format!("{}: not listed yet\n", kind.name())).collect();
                    (StatusCode::SERVICE_UNAVAILABLE, lines)
                }
            },
            "/metrics" => {
                let counts = self.queue.counts();
                (StatusCode::OK, self.metrics.render(self.held.now(), self.view.counts(), counts.due))
            }
            _ => (StatusCode::NOT_FOUND, "not found; there are /livez, /readyz and /metrics\n".to_owned()),
        }
    }

    fn respond(&self, request: &Request<Incoming>) -> Response<String> {
        let path = request.uri().path();
        let (status, body) = self.answer(request.method(), path);
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let kind = match path {
            "/metrics" => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            _ => "text/plain; charset=utf-8",
        };
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        if status == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        }
        response
    }
}

/// Answers until it is dropped.
pub(crate) async fn serve(admin: Arc<Admin>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    let mut by_age: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // For want of file descriptors above all: they come back.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        by_age.retain(|connection| !connection.is_finished());
        if by_age.len() >= CONNECTIONS
            && let Some(oldest) = by_age.pop_front()
        {
            oldest.abort();
        }
        by_age.push_back(connections.spawn(talk(admin.clone(), stream)));
    }
}

async fn talk(admin: Arc<Admin>, stream: TcpStream) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = admin.respond(&request);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST)
        .max_buf_size(REQUEST_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // How a client fails is its own affair.
    let _ = timeout(LIFETIME, connection).await;
}

/// Listens there.
pub(crate) async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(address).await?;
    tracing::info!(address = %listener.local_addr()?, "health and metrics are told");
    Ok(listener)
}
