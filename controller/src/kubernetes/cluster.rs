//! What an agent asks of the API server about single objects. Each request ends in time, whatever the server does.

use std::time::Duration;

use k8s_openapi::api::{coordination::v1::Lease, core::v1::Namespace};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use microagent_base::causes;
use microagent_crds::{
    Reason, WorkspaceStatus,
    kubernetes::{AGENT_MANAGER, HOST_STATE_FINALIZER, SYSTEM_NAMESPACE, agent_lease},
};
use serde_json::{Value, json};

use super::{
    object::Object,
    standing::{self, Standing},
};
use crate::{Key, Record, memory::Fault};

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often a change is tried again that somebody else was quicker than.
const TRIES: usize = 4;

/// The API server, for the workspaces of one node.
#[derive(Clone)]
pub(super) struct Cluster {
    client: Client,
    node: String,
    standing: Standing,
}

/// Why a request did not do what it was to do.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// There is no such object, or one of another UID by now.
    #[error("the object is gone")]
    Gone,
    /// Somebody else was quicker.
    #[error("the object was changed meanwhile: {0}")]
    Conflict(String),
    /// The server does not allow it.
    #[error("the API server refuses to {what} ({code}): {message}; {}", advice(*code, message))]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// The HTTP status code.
        code: u16,
        /// What the server says.
        message: String,
    },
    /// The server does not allow it, and may not know yet who may do what.
    #[error("the API server refuses to {what} (403): {message}; it has just come back, so it is asked again")]
    Unsettled {
        /// What was asked for.
        what: &'static str,
        /// What the server says.
        message: String,
    },
    /// No answer.
    #[error("the API server did not {what}: {message}; it is tried again")]
    Unreachable {
        /// What was asked for.
        what: &'static str,
        /// What the client says.
        message: String,
    },
}

fn advice(code: u16, message: &str) -> &'static str {
    match (code, standing::advice(message)) {
        (403 | 422, Some(advice)) => advice,
        (401, _) => "give the agent credentials that are valid",
        (403, None) => "see who of the cluster refuses it: a role, a policy, or a quota",
        (404 | 422, _) => "install the CustomResourceDefinition of this version",
        _ => "see the log of the API server",
    }
}

impl ApiError {
    fn of(what: &'static str, error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => match status.code {
                404 if status.details.as_ref().is_some_and(|details| !details.name.is_empty()) => Self::Gone,
                409 => Self::Conflict(status.message.clone()),
                429 | 500..=599 => Self::Unreachable { what, message: format!("{} ({})", status.message, status.code) },
                code => Self::Refused { what, code, message: status.message.clone() },
            },
            other => Self::Unreachable { what, message: causes(&other) },
        }
    }

    /// Whether it may pass without a person doing something.
    pub(super) fn is_retryable(&self) -> bool {
        !matches!(self, Self::Refused { .. })
    }
}

impl From<ApiError> for Fault {
    fn from(error: ApiError) -> Self {
        Self {
            code: Reason::ApiServerFailed.as_str().to_owned(),
            message: error.to_string(),
            retryable: error.is_retryable(),
        }
    }
}

impl Cluster {
    pub(super) fn new(client: Client, node: String) -> Self {
        Self { client, node, standing: Standing::default() }
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn node(&self) -> &str {
        &self.node
    }

    /// The watch found the API server in trouble.
    pub(super) fn trouble(&self) {
        self.standing.trouble();
    }

    /// The answer to a request, in time.
    pub(super) async fn timely<T>(
        &self,
        what: &'static str,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, ApiError> {
        let error = match tokio::time::timeout(PATIENCE, request).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => ApiError::of(what, error),
            Err(_) => ApiError::Unreachable { what, message: format!("no answer within {} s", PATIENCE.as_secs()) },
        };
        Err(match error {
            ApiError::Refused { code: 403, message, .. }
                if self.standing.is_new() && !standing::is_denied(&message) =>
            {
                ApiError::Unsettled { what, message }
            }
            error => {
                if matches!(error, ApiError::Unreachable { .. }) {
                    self.standing.trouble();
                }
                error
            }
        })
    }

    fn workspaces(&self, key: &Key) -> Api<Object> {
        Api::namespaced(self.client.clone(), &key.namespace)
    }

    /// What tells this cluster from others: the UID of its oldest namespace.
    pub(super) async fn id(&self) -> Result<String, ApiError> {
        let what = "tell its identity (get namespace kube-system)";
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let namespace = self.timely(what, namespaces.get_metadata("kube-system")).await?;
        Ok(namespace.metadata.uid.unwrap_or_default())
    }

    /// Who holds the Lease of this node's agent; nothing when nobody does.
    pub(super) async fn holder(&self) -> Result<Option<String>, ApiError> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), SYSTEM_NAMESPACE);
        let lease = self.timely("show a Lease", leases.get(&agent_lease(&self.node))).await?;
        Ok(lease.spec.and_then(|spec| spec.holder_identity).filter(|holder| !holder.is_empty()))
    }

    /// The object of this UID, if it is still this node's.
    pub(super) async fn find(&self, key: &Key, uid: &str) -> Result<Option<Object>, ApiError> {
        match self.timely("show an object", self.workspaces(key).get(&key.name)).await {
            Ok(object) => Ok((object.uid() == uid && object.node() == Some(&self.node)).then_some(object)),
            Err(ApiError::Gone) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Puts the finalizer on the object of this record. `known` are the finalizers that it had when it was seen last; without them
    /// they are asked for, and an object that is being deleted counts as gone.
    pub(super) async fn hold(&self, record: &Record, known: Option<&[String]>) -> Result<(), ApiError> {
        let known = match known {
            Some(known) => known.to_vec(),
            None => {
                let object = self.find(&record.key, &record.uid).await?.filter(|object| !object.is_deleting());
                object.ok_or(ApiError::Gone)?.finalizers().to_vec()
            }
        };
        let finalizers = |all: &[String]| match all {
            [] => json!([
                { "op": "test", "path": "/metadata/finalizers", "value": null },
                { "op": "add", "path": "/metadata/finalizers", "value": [HOST_STATE_FINALIZER] },
            ]),
            all => json!([
                { "op": "test", "path": "/metadata/finalizers", "value": all },
                { "op": "add", "path": "/metadata/finalizers/-", "value": HOST_STATE_FINALIZER },
            ]),
        };
        self.change_finalizers("add a finalizer", record, Some(&known), |all| {
            (!all.iter().any(|one| one == HOST_STATE_FINALIZER)).then(|| finalizers(all))
        })
        .await
    }

    /// Takes the finalizer from the object of this record, if it is still this node's. An object that is gone has none.
    pub(super) async fn release(&self, record: &Record) -> Result<(), ApiError> {
        let released = self.change_finalizers("remove a finalizer", record, None, |all| {
            let at = all.iter().position(|one| one == HOST_STATE_FINALIZER)?;
            let path = format!("/metadata/finalizers/{at}");
            Some(json!([
                { "op": "test", "path": path, "value": HOST_STATE_FINALIZER },
                { "op": "remove", "path": path },
            ]))
        });
        match released.await {
            Err(ApiError::Gone) => Ok(()),
            done => done,
        }
    }

    /// Changes the finalizers by a patch that holds only for what was read, and for this UID on this node.
    async fn change_finalizers(
        &self,
        what: &'static str,
        record: &Record,
        known: Option<&[String]>,
        change: impl Fn(&[String]) -> Option<Value>,
    ) -> Result<(), ApiError> {
        let api = self.workspaces(&record.key);
        let name = &record.key.name;
        let mut known = known.map(<[String]>::to_vec);
        let mut last = ApiError::Gone;
        for _ in 0..TRIES {
            let all = match known.take() {
                Some(all) => all,
                None => {
                    // One that another node has by now is that node's business.
                    let object = self.find(&record.key, &record.uid).await?.ok_or(ApiError::Gone)?;
                    object.finalizers().to_vec()
                }
            };
            let Some(Value::Array(operations)) = change(&all) else { return Ok(()) };
            let guards = [
                json!({ "op": "test", "path": "/metadata/uid", "value": record.uid }),
                json!({ "op": "test", "path": "/spec/nodeName", "value": self.node }),
            ];
            let operations: Vec<Value> = guards.into_iter().chain(operations).collect();
            let patch = serde_json::from_value(Value::Array(operations))
                .map_err(|error| ApiError::Unreachable { what, message: error.to_string() })?;
            match self.timely(what, api.patch(name, &PatchParams::default(), &Patch::Json::<()>(patch))).await {
                Ok(_) => return Ok(()),
                // What a failed test of a patch is told as.
                Err(ApiError::Refused { code: 422, message, .. }) if !standing::is_denied(&message) => {
                    last = ApiError::Conflict(message)
                }
                Err(error @ ApiError::Conflict(_)) => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// Deletes the object of this UID.
    pub(super) async fn delete(&self, record: &Record) -> Result<(), ApiError> {
        let only = Preconditions { uid: Some(record.uid.clone()), resource_version: None };
        let parameters = DeleteParams { preconditions: Some(only), ..DeleteParams::default() };
        let api = self.workspaces(&record.key);
        match self.timely("delete an object", api.delete(&record.key.name, &parameters)).await {
            // With another UID it is another object.
            Ok(_) | Err(ApiError::Gone | ApiError::Conflict(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Applies the agent's part of the status of the object of this UID, and takes back fields that others wrote to. Gives the
    /// version of the object then.
    pub(super) async fn apply_status(
        &self,
        key: &Key,
        uid: &str,
        status: &WorkspaceStatus,
    ) -> Result<Option<u64>, ApiError> {
        let object = json!({
            "apiVersion": "microagent.dev/v1alpha1",
            "kind": "Workspace",
            // With the UID, so that it is not taken for the status of another object of that name.
            "metadata": { "name": key.name, "namespace": key.namespace, "uid": uid },
            "status": status,
        });
        let api = self.workspaces(key);
        let parameters = PatchParams::apply(AGENT_MANAGER).force();
        let object =
            self.timely("take a status", api.patch_status(&key.name, &parameters, &Patch::Apply(&object))).await?;
        Ok(object.version())
    }
}
