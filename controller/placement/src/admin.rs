//! `/livez`, `/readyz` and `/metrics` for the kubelet and for scrapers. They tell numbers only, and change nothing.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
};
use microagent_controller::{
    admin::{Heartbeat, serve_with},
    queue::Queue,
};
use microagent_lease::Held;
use tokio::net::TcpListener;

use crate::{metrics::Metrics, view::View};

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
    let respond = move |request: Request<Incoming>| std::future::ready(admin.respond(&request));
    let accept = || async { listener.accept().await.map(|(stream, _)| stream) };
    serve_with(accept, respond).await;
}

/// Listens there.
pub(crate) async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(address).await?;
    tracing::info!(address = %listener.local_addr()?, "health and metrics are told");
    Ok(listener)
}
