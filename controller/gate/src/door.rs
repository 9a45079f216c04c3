//! The door: who asks, and whether they may come in. The API server decides both.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use hyper::header::HeaderValue;
use microagent_base::Digest;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};
use tokio_rustls::rustls::{crypto::CryptoProvider, pki_types::CertificateDer};

use crate::{
    answer::Refusal,
    cache::Cache,
    client_certificate::{ClientCa, NoUser},
    review::{Access, Decision, ReviewError, Reviews, User},
};

/// How long an answer of the API server holds: so long a token or a right that was taken away may still open the door.
const HOLDS: Duration = Duration::from_secs(5);
/// How many answers are kept, of each kind.
const KEPT: usize = 1024;
/// How many questions are asked at once: strangers must not make this agent flood the API server.
const ASKED: usize = 16;
/// How long a question may wait for its turn.
const TURN: Duration = Duration::from_secs(10);

pub(crate) struct Door {
    reviews: Arc<dyn Reviews>,
    ca: ClientCa,
    /// By the digest of the token: the token itself is not kept.
    users: Mutex<Cache<Digest, User>>,
    /// Who was let in. Those who were not are asked about each time, so that a right counts as soon as it is granted.
    grants: Mutex<Cache<(User, Access), ()>>,
    turns: Semaphore,
}

impl Door {
    pub(crate) fn new(reviews: Arc<dyn Reviews>, provider: Arc<CryptoProvider>) -> Self {
        Self {
            reviews,
            ca: ClientCa::new(provider),
            users: Mutex::new(Cache::new(HOLDS, KEPT)),
            grants: Mutex::new(Cache::new(HOLDS, KEPT)),
            turns: Semaphore::new(ASKED),
        }
    }

    /// Who asks: by the certificate, else by the token.
    pub(crate) async fn identify(
        &self,
        chain: &[CertificateDer<'_>],
        authorization: Option<&HeaderValue>,
    ) -> Result<User, Refusal> {
        let mut why_not = None;
        if !chain.is_empty() {
            let _turn = self.turn().await?;
            match self.ca.user(&*self.reviews, chain).await {
                Ok(user) => return Ok(user),
                Err(NoUser::Refused(why)) => why_not = Some(format!("the client certificate is not accepted: {why}")),
                Err(NoUser::Unknown(error)) if authorization.is_none() => return Err(no_answer(&error)),
                Err(NoUser::Unknown(error)) => why_not = Some(error.to_string()),
            }
        }
        let Some(authorization) = authorization else {
            let message =
                why_not.unwrap_or_else(|| "show a certificate of the cluster's client CA or a bearer token".to_owned());
            return Err(Refusal::unauthorized(message));
        };
        let Some(token) = bearer(authorization) else {
            return Err(Refusal::unauthorized("the header Authorization has no bearer token"));
        };
        let digest = Digest::of(token.as_bytes());
        if let Some(user) = lock(&self.users).get(&digest, Instant::now()) {
            return Ok(user);
        }
        let _turn = self.turn().await?;
        match self.reviews.authenticate(token).await {
            Ok(Some(user)) => {
                lock(&self.users).put(digest, user.clone(), Instant::now());
                Ok(user)
            }
            Ok(None) => {
                let also = why_not.map(|why| format!("; {why}")).unwrap_or_default();
                Err(Refusal::unauthorized(format!("the bearer token is not valid in this cluster{also}")))
            }
            Err(error) => Err(no_answer(&error)),
        }
    }

    /// Whether they may.
    pub(crate) async fn admit(&self, user: &User, access: &Access) -> Result<(), Refusal> {
        let key = (user.clone(), access.clone());
        if lock(&self.grants).get(&key, Instant::now()).is_some() {
            return Ok(());
        }
        let _turn = self.turn().await?;
        match self.reviews.authorise(user, access).await {
            Ok(Decision::Allowed) => {
                lock(&self.grants).put(key, (), Instant::now());
                Ok(())
            }
            Ok(Decision::Denied(why)) => {
                let Access { verb, subresource, namespace, name } = access;
                let why = if why.is_empty() { why } else { format!(": {why}") };
                Err(Refusal::forbidden(format!(
                    "workspaces.microagent.dev {name:?} is forbidden: User {:?} cannot {verb} resource \"workspaces/{subresource}\" \
                     in API group \"microagent.dev\" in the namespace {namespace:?}{why}",
                    user.name
                )))
            }
            Err(error) => Err(no_answer(&error)),
        }
    }

    async fn turn(&self) -> Result<SemaphorePermit<'_>, Refusal> {
        match timeout(TURN, self.turns.acquire()).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(Refusal::unavailable("too many wait for an answer of the API server; try again")),
        }
    }
}

fn no_answer(error: &ReviewError) -> Refusal {
    tracing::warn!(%error, "a request cannot be judged");
    match error {
        ReviewError::NotPermitted { .. } => Refusal::internal(error.to_string()),
        ReviewError::NoAnswer { .. } => Refusal::unavailable(error.to_string()),
    }
}

/// The token of `Bearer TOKEN` (RFC 6750, section 2.1).
fn bearer(authorization: &HeaderValue) -> Option<&str> {
    let (scheme, token) = authorization.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bearer_token_is_one() {
        let read = |text: &'static str| bearer(&HeaderValue::from_static(text)).map(str::to_owned);
        assert_eq!(read("Bearer abc"), Some("abc".to_owned()));
        assert_eq!(read("bearer  abc "), Some("abc".to_owned()));
        for text in ["", "Bearer", "Bearer ", "Basic abc", "abc"] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }
}
