//! One repository of one registry, as the distribution specification has it.
//!
//! A client of its own because every body that a registry or its token server sends is bounded here, manifests and
//! error pages included, and because credentials, redirects and causes of failure need exact rules.

mod auth;
mod body;
mod reference;
mod tls;
mod upload;

use std::{
    net::IpAddr,
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use microagent_base::Digest;
use reqwest::{
    Certificate, Client, ClientBuilder, RequestBuilder, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_RANGE, HeaderMap, HeaderValue, RANGE, RETRY_AFTER},
    redirect::{Attempt, Policy},
};

pub use self::reference::RegistryReference;
pub(crate) use self::upload::{Begun, Chunks, Sent};
use crate::{Error, Result, credentials::Found, wire};

/// Long enough for a slow handshake through a proxy.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Manifests, configs and tokens are small: who sends one so slowly does not mean to send it.
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(120);
/// Registries redirect once to their storage, some twice.
const MAX_REDIRECTS: usize = 5;

/// A repository, with the token for it once the registry has asked for one.
pub(crate) struct Registry {
    http: Client,
    base: Url,
    name: String,
    repository: String,
    found: Found,
    /// For uploads, in a registry to push to: follows no redirect, and waits as long as each request says.
    uploads: Client,
    /// What a token is asked for.
    scopes: Vec<String>,
    /// Trusted beside the certificates of the system.
    roots: Vec<Certificate>,
    patience: Duration,
    authorization: Mutex<Option<HeaderValue>>,
}

/// The answer to a request for a blob.
pub(crate) enum Blob {
    /// From the offset that was asked for.
    From(Response),
    /// The whole, though a part was asked for.
    Whole(Response),
    /// The registry has no such part: the blob is not what the descriptor says, or ranges are broken.
    NoSuchPart,
}

impl Registry {
    /// Prepares the client; asks nothing yet. `plain` is without encryption; `ca_file` holds certificates, in PEM, that are
    /// trusted beside those of the system.
    pub(crate) fn new(
        reference: &RegistryReference,
        plain: bool,
        ca_file: Option<&Path>,
        patience: Duration,
        found: Found,
    ) -> Result<Self> {
        let name = reference.registry().to_owned();
        let plain = plain || is_loopback(&name) && ca_file.is_none();
        // Docker Hub's registry has another name than its images.
        let host = if name == "docker.io" { "registry-1.docker.io" } else { &name };
        let base = format!("{}://{host}/v2/", if plain { "http" } else { "https" });
        let base = Url::parse(&base).map_err(|e| Error::InvalidReference {
            reference: reference.to_string(),
            why: format!("its registry is no host name: {e}"),
        })?;
        let roots = ca_file.map_or(Ok(Vec::new()), |path| tls::roots(&name, path))?;
        let http = client(is_loopback(&name), Policy::custom(follow), &roots, patience)?;
        Ok(Self {
            uploads: http.clone(),
            http,
            scopes: vec![format!("repository:{}:pull", reference.repository())],
            base,
            name,
            repository: reference.repository().to_owned(),
            found,
            roots,
            patience,
            authorization: Mutex::new(None),
        })
    }

    /// As [`Registry::new`], to push to, and to take blobs from these other repositories.
    pub(crate) fn for_push(
        reference: &RegistryReference,
        plain: bool,
        ca_file: Option<&Path>,
        patience: Duration,
        found: Found,
        from: &[&str],
    ) -> Result<Self> {
        let mut this = Self::new(reference, plain, ca_file, patience, found)?;
        this.uploads = built(builder(is_loopback(&this.name), Policy::none(), &this.roots))?;
        this.scopes = vec![format!("repository:{}:pull,push", reference.repository())];
        this.scopes.extend(from.iter().map(|from| format!("repository:{from}:pull")));
        Ok(this)
    }

    /// `host[:port]`, as the user wrote it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The bytes of a manifest or an index, and their media type. `version` is a tag or a digest; the caller
    /// verifies the digest.
    pub(crate) async fn manifest(&self, version: &str) -> Result<(Vec<u8>, Option<String>)> {
        let accept = [wire::OCI_INDEX, wire::DOCKER_INDEX, wire::OCI_MANIFEST, wire::DOCKER_MANIFEST].join(", ");
        let what = format!("the manifest {version} of {}", self.repository);
        let response = self.get(&format!("manifests/{version}"), &accept, 0, &what).await?;
        let response = self.expect_ok(response, &what).await?;
        let media_type = response.headers().get(reqwest::header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
        let media_type = media_type.and_then(|v| v.split(';').next()).map(|v| v.trim().to_owned());
        Ok((self.read(response, wire::MAX_MANIFEST, &what).await?, media_type))
    }

    /// A small blob, whole.
    pub(crate) async fn small_blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        let what = format!("the blob {digest} of {}", self.repository);
        let response = self.get(&format!("blobs/{digest}"), "*/*", 0, &what).await?;
        let response = self.expect_ok(response, &what).await?;
        self.read(response, limit, &what).await
    }

    /// Begins to read a blob at `offset`.
    pub(crate) async fn blob(&self, digest: &Digest, offset: u64) -> Result<Blob> {
        let what = format!("the blob {digest} of {}", self.repository);
        let response = self.get(&format!("blobs/{digest}"), "*/*", offset, &what).await?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE && offset > 0 {
            return Ok(Blob::NoSuchPart);
        }
        let response = self.expect_ok(response, &what).await?;
        match (response.status(), offset) {
            (StatusCode::PARTIAL_CONTENT, 1..) if range_start(response.headers()) == Some(offset) => {
                Ok(Blob::From(response))
            }
            (StatusCode::PARTIAL_CONTENT, _) => Ok(Blob::NoSuchPart),
            (_, 0) => Ok(Blob::From(response)),
            _ => Ok(Blob::Whole(response)),
        }
    }

    /// What went wrong while a body was read.
    pub(crate) fn interrupted(&self, error: reqwest::Error, what: &str) -> Error {
        self.unreachable(what, error)
    }

    async fn get(&self, path: &str, accept: &str, offset: u64, what: &str) -> Result<Response> {
        let url = self.url(path, what)?;
        let make = || {
            let request = self.http.get(url.clone()).header(ACCEPT, accept);
            if offset > 0 { request.header(RANGE, format!("bytes={offset}-")) } else { request }
        };
        self.send(what, make).await
    }

    fn url(&self, path: &str, what: &str) -> Result<Url> {
        self.base
            .join(&format!("{}/{path}", self.repository))
            .map_err(|e| self.invalid(what, &format!("no URL can be made: {e}")))
    }

    /// Adds what the registry is to know us by, where the request goes to the registry itself.
    fn authorized(&self, request: RequestBuilder, url: &Url) -> RequestBuilder {
        let authorization = self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match authorization.filter(|_| url.origin() == self.base.origin()) {
            Some(value) => request.header(AUTHORIZATION, value),
            None => request,
        }
    }

    /// Sends a request that can be made again, answering the registry's challenge once.
    async fn send(&self, what: &str, make: impl Fn() -> RequestBuilder) -> Result<Response> {
        let mut answered = false;
        loop {
            let (client, request) = make().build_split();
            let request = request.map_err(|e| self.unreachable(what, e))?;
            let url = request.url().clone();
            let request = self.authorized(RequestBuilder::from_parts(client, request), &url);
            let response = request.send().await.map_err(|e| self.unreachable(what, e))?;
            // Another host that was redirected to, or uploaded to, gets no say in where credentials go.
            let own = response.url().origin() == self.base.origin();
            if response.status() != StatusCode::UNAUTHORIZED || answered || !own {
                return Ok(response);
            }
            answered = true;
            let Some(value) = auth::answer(self, response.headers(), what).await? else { return Ok(response) };
            *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
        }
    }

    /// Turns every status but success into its cause.
    async fn expect_ok(&self, response: Response, what: &str) -> Result<Response> {
        let status = response.status();
        if status == StatusCode::OK || status == StatusCode::PARTIAL_CONTENT {
            return Ok(response);
        }
        let after = retry_after(response.headers());
        let says = body::message(response).await;
        let why = format!("{status}{says}");
        let registry = self.name.clone();
        Err(match status {
            StatusCode::NOT_FOUND => Error::ImageNotFound {
                reference: format!("{}/{}", self.name, self.repository),
                why: format!("registry {registry} does not have {what} ({why}); check the name and the tag"),
            },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.denied(what, &why),
            StatusCode::TOO_MANY_REQUESTS => Error::RegistryThrottled { registry, why, after },
            StatusCode::REQUEST_TIMEOUT => Error::RegistryUnreachable { registry, what: what.to_owned(), why },
            _ if status.is_server_error() => Error::RegistryUnreachable { registry, what: what.to_owned(), why },
            _ => self.invalid(what, &why),
        })
    }

    async fn read(&self, response: Response, limit: u64, what: &str) -> Result<Vec<u8>> {
        match tokio::time::timeout(DOCUMENT_TIMEOUT, body::read(response, limit)).await {
            Ok(Ok(Some(bytes))) => Ok(bytes),
            Ok(Ok(None)) => {
                Err(Error::TooLarge { what: what.to_owned(), origin: format!("registry {}", self.name), limit })
            }
            Ok(Err(e)) => Err(self.unreachable(what, e)),
            Err(_) => Err(Error::RegistryUnreachable {
                registry: self.name.clone(),
                what: what.to_owned(),
                why: format!("it was not there after {} s", DOCUMENT_TIMEOUT.as_secs()),
            }),
        }
    }

    fn denied(&self, what: &str, why: &str) -> Error {
        Error::RegistryDenied {
            registry: self.name.clone(),
            what: what.to_owned(),
            why: format!("{why} (asked {})", self.found.note),
        }
    }

    fn invalid(&self, what: &str, why: &str) -> Error {
        Error::RegistryInvalid { registry: self.name.clone(), what: what.to_owned(), why: why.to_owned() }
    }

    fn unreachable(&self, what: &str, error: reqwest::Error) -> Error {
        if error.is_redirect() {
            return self.invalid(what, &body::causes(error));
        }
        let hint = if error.is_connect() && self.base.scheme() == "https" {
            " (a registry without TLS must be named as insecure in registries.yaml)"
        } else {
            ""
        };
        Error::RegistryUnreachable {
            registry: self.name.clone(),
            what: what.to_owned(),
            why: body::causes(error) + hint,
        }
    }
}

/// Makes an HTTP client.
fn client(direct: bool, redirects: Policy, roots: &[Certificate], patience: Duration) -> Result<Client> {
    built(builder(direct, redirects, roots).read_timeout(patience))
}

/// Registries on this host are never asked through a proxy.
fn builder(direct: bool, redirects: Policy, roots: &[Certificate]) -> ClientBuilder {
    let builder = Client::builder()
        .user_agent(concat!("microagent/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(redirects);
    let builder = if roots.is_empty() { builder } else { builder.tls_certs_merge(roots.iter().cloned()) };
    if direct { builder.no_proxy() } else { builder }
}

fn built(builder: ClientBuilder) -> Result<Client> {
    builder.build().map_err(|e| Error::Http(body::causes(e)))
}

fn follow(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    match may_follow(attempt.previous(), attempt.url()) {
        Ok(()) => attempt.follow(),
        Err(why) => attempt.error(why),
    }
}

/// A registry is followed to its storage, but never from an encrypted connection to a plain one.
fn may_follow(previous: &[Url], next: &Url) -> Result<(), &'static str> {
    if previous.len() > MAX_REDIRECTS {
        return Err("it redirects too often");
    }
    let encrypted = previous.iter().any(|url| url.scheme() == "https");
    match next.scheme() {
        "https" => Ok(()),
        "http" if !encrypted => Ok(()),
        "http" => Err("it redirects from https to an unencrypted place"),
        _ => Err("it redirects to what is no place on the web"),
    }
}

/// Whether `host[:port]` is this machine by its very name, so that nobody can listen in.
fn is_loopback(registry: &str) -> bool {
    let host = match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => registry,
    };
    host == "localhost"
        || host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The first byte of a partial answer: `bytes 5-9/10` begins at 5.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?;
    range.split('-').next()?.trim().parse().ok()
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_asked_without_encryption() {
        for yes in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.8.9.1", "[::1]:5000"] {
            assert!(is_loopback(yes), "{yes}");
        }
        for no in ["localhost.example", "docker.io", "128.0.0.1:5000", "127.0.0.1.example:80", "10.0.0.1"] {
            assert!(!is_loopback(no), "{no}");
        }
        let scheme = |name: &str, plain: bool| {
            let reference: RegistryReference = format!("{name}/x").parse().unwrap();
            Registry::new(&reference, plain, None, Duration::from_secs(1), Found::default())
                .unwrap()
                .base
                .scheme()
                .to_owned()
        };
        assert_eq!(scheme("r.example:5000", false), "https");
        assert_eq!(scheme("r.example:5000", true), "http");
        assert_eq!(scheme("localhost:5000", false), "http");
    }

    #[test]
    fn redirects_never_lead_from_an_encrypted_place_to_a_plain_one_nor_on_for_ever() {
        let urls = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<Url>>();
        let may = |previous: &[&str], next: &str| may_follow(&urls(previous), &next.parse().unwrap()).is_ok();
        assert!(may(&["https://r.example/v2/"], "https://storage.example/x"));
        assert!(may(&["http://r.example/v2/"], "http://storage.example/x"));
        assert!(may(&["http://r.example/v2/"], "https://storage.example/x"));
        assert!(!may(&["https://r.example/v2/"], "http://r.example/v2/"));
        assert!(!may(&["http://r.example/", "https://r.example/"], "http://r.example/"));
        assert!(!may(&["http://r.example/"], "file:///etc/passwd"));
        assert!(!may(&["https://r.example/"; MAX_REDIRECTS + 1], "https://r.example/"));
    }

    #[test]
    fn the_start_of_a_partial_answer_is_read_and_nonsense_is_not() {
        let start =
            |text: &'static str| range_start(&HeaderMap::from_iter([(CONTENT_RANGE, HeaderValue::from_static(text))]));
        assert_eq!(start("bytes 5-9/10"), Some(5));
        assert_eq!(start("bytes */10"), None);
        assert_eq!(start("items 5-9/10"), None);
    }
}
