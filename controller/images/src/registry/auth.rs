//! Answers to a registry's challenge: Basic, or a Bearer token from the server that the challenge names
//! (distribution `spec/auth/token.md` and `spec/auth/oauth.md`).

use base64::{Engine, engine::general_purpose::STANDARD};
use http_auth::ChallengeParser;
use reqwest::{
    Response, StatusCode, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE},
    redirect::Policy,
};
use serde::Deserialize;

use super::{Registry, body, client, is_loopback};
use crate::{Error, Result, credentials::Login};

/// Tokens have some kilobytes.
const MAX_TOKEN: u64 = 256 << 10;

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

struct Bearer {
    realm: String,
    service: Option<String>,
}

/// The header that satisfies the challenge; none when there is nothing to answer with.
pub(super) async fn answer(registry: &Registry, headers: &HeaderMap, what: &str) -> Result<Option<HeaderValue>> {
    let (bearer, basic) = challenges(headers);
    if let Some(bearer) = bearer {
        return bearer_token(registry, &bearer, what).await.map(Some);
    }
    match &registry.found.login {
        Some(Login::Basic { user, password }) if basic => {
            Ok(secret(&format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))))
        }
        _ => Ok(None),
    }
}

/// The first Bearer challenge, and whether Basic is offered.
fn challenges(headers: &HeaderMap) -> (Option<Bearer>, bool) {
    let (mut bearer, mut basic) = (None, false);
    for value in headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|v| v.to_str().ok()) {
        for challenge in ChallengeParser::new(value).map_while(std::result::Result::ok) {
            let param = |name: &str| {
                challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, v)| v.to_unescaped())
            };
            if challenge.scheme.eq_ignore_ascii_case("basic") {
                basic = true;
            } else if challenge.scheme.eq_ignore_ascii_case("bearer")
                && bearer.is_none()
                && let Some(realm) = param("realm")
            {
                bearer = Some(Bearer { realm, service: param("service") });
            }
        }
    }
    (bearer, basic)
}

async fn bearer_token(registry: &Registry, challenge: &Bearer, what: &str) -> Result<HeaderValue> {
    let what = format!("a token for {what}");
    let mut realm = Url::parse(&challenge.realm)
        .map_err(|e| registry.invalid(&what, &format!("its token server {:?} is no URL: {e}", challenge.realm)))?;
    // A login must not leave in the clear, unless the registry itself is spoken to in the clear.
    if realm.scheme() != "https" && (realm.scheme() != "http" || registry.base.scheme() != "http") {
        return Err(registry.invalid(&what, "its token server does not use https"));
    }
    // What is needed is asked for, whatever scope the challenge names.
    let mut form: Vec<(&str, &str)> = registry.scopes.iter().map(|scope| ("scope", scope.as_str())).collect();
    form.extend(challenge.service.as_deref().map(|service| ("service", service)));
    let sent = match &registry.found.login {
        Some(Login::Identity(token)) => {
            // One field here, with spaces between (`oauth.md`).
            let scopes = registry.scopes.join(" ");
            form.retain(|(name, _)| *name != "scope");
            form.extend([
                ("scope", scopes.as_str()),
                ("grant_type", "refresh_token"),
                ("client_id", "microagent"),
                ("refresh_token", token),
            ]);
            // A redirect would carry the token to another server.
            let http = client(
                is_loopback(realm.host_str().unwrap_or_default()),
                Policy::none(),
                &registry.roots,
                registry.patience,
            )?;
            let mut body = realm.clone();
            body.query_pairs_mut().clear().extend_pairs(&form);
            http.post(realm)
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(body.query().unwrap_or_default().to_owned())
                .send()
                .await
        }
        login => {
            realm.query_pairs_mut().extend_pairs(&form);
            let request = registry.http.get(realm);
            match login {
                Some(Login::Basic { user, password }) => request.basic_auth(user, Some(password)).send().await,
                _ => request.send().await,
            }
        }
    };
    let response = sent.map_err(|e| registry.unreachable(&what, e))?;
    read_token(registry, response, &what).await
}

async fn read_token(registry: &Registry, response: Response, what: &str) -> Result<HeaderValue> {
    // A token server denies with 400 too: an unknown refresh token is a "bad request" to OAuth 2.
    if response.status() == StatusCode::BAD_REQUEST || response.status() == StatusCode::NOT_FOUND {
        let why = format!("{}{}", response.status(), body::message(response).await);
        return Err(registry.denied(what, &why));
    }
    let response = registry.expect_ok(response, what).await?;
    let bytes = registry.read(response, MAX_TOKEN, what).await?;
    let token: Token =
        serde_json::from_slice(&bytes).map_err(|_| registry.invalid(what, "its token server sends no token"))?;
    let token = token.token.or(token.access_token).filter(|t| !t.is_empty());
    let header = token.and_then(|token| secret(&format!("Bearer {token}")));
    header.ok_or_else(|| -> Error { registry.invalid(what, "its token server sends an unusable token") })
}

fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::Found;

    #[tokio::test]
    async fn a_login_leaves_an_encrypted_registry_to_no_token_server_in_the_clear() {
        for login in [
            Login::Basic { user: "me".to_owned(), password: "pw".to_owned() },
            Login::Identity("long lived".to_owned()),
        ] {
            let found = Found { login: Some(login), note: String::new() };
            let reference = "r.example/x".parse().unwrap();
            let patience = std::time::Duration::from_secs(1);
            let registry = Registry::new(&reference, false, None, patience, found).unwrap();
            for realm in ["http://r.example/token", "http://127.0.0.1:1/", "file:///etc/passwd", "token"] {
                let challenge = format!("Bearer realm=\"{realm}\"");
                let headers = HeaderMap::from_iter([(WWW_AUTHENTICATE, HeaderValue::from_str(&challenge).unwrap())]);
                let error = answer(&registry, &headers, "x").await.unwrap_err();
                assert_eq!(error.category(), "RegistryInvalid", "{realm}: {error}");
            }
        }
    }
}
