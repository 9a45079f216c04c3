//! What the kubeconfig has to show who asks: a token, or a client certificate. Files, plugins and expiry are the client library's
//! affair.

use std::sync::Arc;

use hyper::{
    Request, Response,
    header::{AUTHORIZATION, HeaderValue},
};
use kube::{Config, client::ConfigExt};
use microagent_base::Digest;
use tokio_rustls::rustls::{ClientConfig, crypto::aws_lc_rs};
use tower::{BoxError, Layer, ServiceExt, service_fn};

use super::pin::Pin;
use crate::failure::{Context, Failure, Result};

/// What is shown to a gate.
pub(super) struct Secret {
    /// TLS to the one gate, with the client certificate if there is one.
    pub(super) tls: ClientConfig,
    /// The bearer token, if there is one.
    pub(super) authorization: Option<HeaderValue>,
}

impl Secret {
    /// For the gate whose certificate has this digest.
    pub(super) async fn of(config: &Config, digest: Digest) -> Result<Self> {
        let auth = &config.auth_info;
        if auth.impersonate.is_some() || auth.impersonate_groups.is_some() || auth.impersonate_uid.is_some() {
            return Err(Failure::new("the kubeconfig acts as another user, and a node agent knows only real ones")
                .help("use a context whose user has no `as`"));
        }
        let mut tls = config.rustls_client_config().context(|| "cannot use the kubeconfig".to_owned())?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        tls.dangerous().set_certificate_verifier(Arc::new(Pin { digest, provider }));
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let authorization = authorization(config).await?.filter(|value| {
            // A gate cannot check a password, and must not get it.
            value.as_bytes().len() > 7 && value.as_bytes()[..7].eq_ignore_ascii_case(b"bearer ")
        });
        if authorization.is_none() && !tls.client_auth_cert_resolver.has_certs() {
            return Err(Failure::new("the user of the kubeconfig has neither a token nor a client certificate")
                .help("a node agent can check only these: use a context whose user has one"));
        }
        Ok(Self { tls, authorization })
    }
}

/// The header that the client library would send to the API server.
async fn authorization(config: &Config) -> Result<Option<HeaderValue>> {
    let doing = || "cannot log in as the kubeconfig says".to_owned();
    let Some(layer) = config.auth_layer().context(doing)? else { return Ok(None) };
    let shown = layer.layer(service_fn(async |request: Request<String>| {
        Ok::<_, BoxError>(Response::new(request.headers().get(AUTHORIZATION).cloned()))
    }));
    match shown.oneshot(Request::new(String::new())).await {
        Ok(response) => Ok(response.into_body()),
        Err(error) => Err(Failure::new(format!("{}: {error}", doing()))),
    }
}
