//! How the controller is: metrics, health and its state, over HTTP on a socket of this host.
//!
//! | path | answer |
//! |---|---|
//! | `/metrics` | OpenMetrics text |
//! | `/livez` | 200 while the loop turns, else 503 with why |
//! | `/readyz` | 200 when the folders were listed and a machine could be started, else 503 with a line for each reason |
//! | `/debug/state` | the whole controller as JSON, for bug reports; on the Unix socket only |
//!
//! Nothing here changes anything, and nothing here is waited for by the loop.

mod address;
mod backend;
mod health;
mod server;
mod state;

use std::{sync::Arc, time::Instant};

use hyper::{
    Method, Request, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue},
};
use jiff::Timestamp;

pub use address::{AdminAddress, AdminError, Listener, open};
pub use health::{Folder, Health, Heartbeat};
pub use server::{serve, serve_with};

use self::backend::BackendProbe;
use crate::{
    metrics::{Metrics, Sample},
    queue::Queue,
    records::Roster,
    world::HostView,
};

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the endpoints read.
pub struct Admin {
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    queue: Queue,
    roster: Arc<dyn Roster>,
    host: Arc<dyn HostView>,
    backend: BackendProbe,
    started: (Timestamp, Instant),
}

/// Who may read what a listener gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// The user that the controller runs as: a socket with mode 0600.
    Owner,
    /// Every user of this host: a loopback address.
    Host,
}

impl Admin {
    /// Reads from these from now on.
    #[must_use]
    pub fn new(
        metrics: Arc<Metrics>,
        health: Arc<Health>,
        queue: Queue,
        roster: Arc<dyn Roster>,
        host: Arc<dyn HostView>,
    ) -> Self {
        let backend = BackendProbe::new(host.clone());
        Self { metrics, health, queue, roster, host, backend, started: (Timestamp::now(), Instant::now()) }
    }

    /// The answer to one request.
    pub async fn respond<B>(self: &Arc<Self>, request: &Request<B>, audience: Audience) -> Response<String> {
        let (status, kind, body) = self.answer(request, audience).await;
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, HeaderValue::from_static("GET"));
        }
        response
    }

    async fn answer<B>(
        self: &Arc<Self>,
        request: &Request<B>,
        audience: Audience,
    ) -> (StatusCode, &'static str, String) {
        if audience == Audience::Host && !names_this_host(request) {
            let why = "the Host header names another host: only localhost and loopback addresses are answered\n";
            return (StatusCode::MISDIRECTED_REQUEST, TEXT, why.to_owned());
        }
        let path = request.uri().path();
        if !matches!(path, "/metrics" | "/livez" | "/readyz" | "/debug/state") {
            let known = "not found; there are /metrics, /livez, /readyz and /debug/state\n";
            return (StatusCode::NOT_FOUND, TEXT, known.to_owned());
        }
        if request.method() != Method::GET {
            return (StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET is answered\n".to_owned());
        }
        match path {
            "/metrics" => {
                let sample = Sample { queue: self.queue.counts(), jobs: self.host.jobs() };
                (StatusCode::OK, OPEN_METRICS, self.metrics.render(&sample))
            }
            "/livez" => verdict(self.health.not_alive()),
            "/readyz" => {
                let mut reasons = self.health.not_ready();
                reasons.extend(self.backend.ask().await.err().map(|why| format!("backend: {why}")));
                verdict(reasons)
            }
            _ if audience != Audience::Owner => {
                let why = "the state has the names of workspaces, which other users of this host must not see: \
                           ask on the Unix socket (--admin unix:PATH; it may be given beside this one)\n";
                (StatusCode::FORBIDDEN, TEXT, why.to_owned())
            }
            _ => {
                // Records are written under the lock that this waits for.
                let admin = self.clone();
                match tokio::task::spawn_blocking(move || state::render(&admin)).await {
                    Ok(Ok(text)) => (StatusCode::OK, JSON, text),
                    failed => {
                        let why = format!("the state cannot be told: {failed:?}\n");
                        (StatusCode::INTERNAL_SERVER_ERROR, TEXT, why)
                    }
                }
            }
        }
    }
}

/// 503 with a line for each reason, where there are any.
fn verdict(reasons: Vec<String>) -> (StatusCode, &'static str, String) {
    if reasons.is_empty() {
        return (StatusCode::OK, TEXT, "ok\n".to_owned());
    }
    let lines = reasons.iter().map(|reason| reason.replace('\n', " ") + "\n").collect();
    (StatusCode::SERVICE_UNAVAILABLE, TEXT, lines)
}

/// Whether a request was meant for this host: a page in a browser can make a name of its own lead to a loopback address, and
/// would read the answer.
fn names_this_host<B>(request: &Request<B>) -> bool {
    let Some(host) = request.headers().get(HOST) else { return true };
    let Ok(authority) = host.to_str().unwrap_or_default().parse::<hyper::http::uri::Authority>() else { return false };
    let host = authority.host();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || address.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests;
