//! The reviews of a real API server.

use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
    core::v1::ConfigMap,
};
use kube::{Api, Client, api::PostParams};
use microagent_base::causes;
use tokio::time::timeout;

use crate::review::{Access, Decision, ReviewError, Reviews, User};

/// How long the API server may take for one answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Where a cluster tells its servers whom to trust.
const AUTHENTICATION_NAMESPACE: &str = "kube-system";
const AUTHENTICATION_CONFIG: &str = "extension-apiserver-authentication";
/// The CA of users' certificates in it.
const CLIENT_CA_KEY: &str = "client-ca-file";

/// What the agent needs to be granted.
const REVIEW_TOKENS: &str = "create tokenreviews";
const REVIEW_ACCESS: &str = "create subjectaccessreviews";
const READ_CLIENT_CA: &str = "get the ConfigMap kube-system/extension-apiserver-authentication";

/// Reviews by the API server that `client` speaks to.
#[derive(Clone)]
pub struct KubeReviews {
    client: Client,
}

impl KubeReviews {
    /// Nothing is asked yet.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }
}

impl Reviews for KubeReviews {
    fn authenticate<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<User>, ReviewError>> {
        Box::pin(async move {
            let spec = TokenReviewSpec { token: token.to_owned(), audiences: None };
            let review = TokenReview { spec, ..TokenReview::default() };
            let api: Api<TokenReview> = Api::all(self.client.clone());
            let answer = asked(REVIEW_TOKENS, api.create(&PostParams::default(), &review)).await?;
            let status = answer.status.unwrap_or_default();
            let user = status.user.filter(|_| status.authenticated == Some(true));
            Ok(user.and_then(|user| {
                Some(User {
                    name: user.username.filter(|name| !name.is_empty())?,
                    uid: user.uid.filter(|uid| !uid.is_empty()),
                    groups: user.groups.unwrap_or_default(),
                    extra: user.extra.unwrap_or_default(),
                })
            }))
        })
    }

    fn authorise<'a>(&'a self, user: &'a User, access: &'a Access) -> BoxFuture<'a, Result<Decision, ReviewError>> {
        Box::pin(async move {
            let attributes = ResourceAttributes {
                group: Some("microagent.dev".to_owned()),
                resource: Some("workspaces".to_owned()),
                subresource: Some(access.subresource.to_owned()),
                verb: Some(access.verb.to_owned()),
                namespace: Some(access.namespace.clone()),
                name: Some(access.name.clone()),
                ..ResourceAttributes::default()
            };
            let spec = SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                uid: user.uid.clone(),
                groups: Some(user.groups.clone()),
                extra: Some(user.extra.clone()),
                resource_attributes: Some(attributes),
                ..SubjectAccessReviewSpec::default()
            };
            let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
            let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
            let answer = asked(REVIEW_ACCESS, api.create(&PostParams::default(), &review)).await?;
            let Some(status) = answer.status else {
                return Err(ReviewError::NoAnswer { what: REVIEW_ACCESS, why: "it has no status".to_owned() });
            };
            if status.allowed && status.denied != Some(true) {
                return Ok(Decision::Allowed);
            }
            let said = [status.reason, status.evaluation_error].into_iter().flatten().filter(|text| !text.is_empty());
            Ok(Decision::Denied(said.collect::<Vec<_>>().join("; ")))
        })
    }

    fn client_ca(&self) -> BoxFuture<'_, Result<Option<String>, ReviewError>> {
        Box::pin(async move {
            let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), AUTHENTICATION_NAMESPACE);
            let map = asked(READ_CLIENT_CA, api.get_opt(AUTHENTICATION_CONFIG)).await?;
            Ok(map.and_then(|map| map.data?.remove(CLIENT_CA_KEY)))
        })
    }
}

async fn asked<T>(what: &'static str, answer: impl Future<Output = kube::Result<T>>) -> Result<T, ReviewError> {
    match timeout(PATIENCE, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
            Err(ReviewError::NotPermitted { what, why: status.message })
        }
        Ok(Err(error)) => Err(ReviewError::NoAnswer { what, why: causes(&error) }),
        Err(_) => Err(ReviewError::NoAnswer { what, why: format!("nothing came for {} s", PATIENCE.as_secs()) }),
    }
}
