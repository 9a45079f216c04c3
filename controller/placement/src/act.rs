//! Does to the cluster what was decided. Each write says what it was decided from, so that one which comes late changes nothing.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, Resource as _,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use microagent_controller::Key;
use microagent_crds::{
    Reason, Workspace,
    kubernetes::{HOST_STATE_FINALIZER, PLACEMENT_MANAGER, PLACEMENT_REPORTER, reservation_pod},
};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    decide::{Action, Told},
    facts::PodFacts,
    reservation::Reservation,
    view::{Sight, View},
};

/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(10);
/// The longest note of an Event, in bytes.
const NOTE: usize = 1024;

/// How an action ended that did not fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Done {
    /// It is done, or was done already.
    Done,
    /// The API server will not have the reservation, and says why: quota, policy, or a name that is taken.
    Refused(String),
}

/// Why an action failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ActError {
    /// The API server refuses or cannot be reached.
    #[error("{0}")]
    Api(#[from] kube::Error),
    /// It takes too long.
    #[error("the API server does not answer within {} s", REQUEST.as_secs())]
    Silent,
    /// It cannot be written as JSON; never so for these types.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
}

/// The API server, and who placement is there.
#[derive(Clone)]
pub(crate) struct Effects {
    client: Client,
    recorder: Recorder,
    reservation: Reservation,
}

impl Effects {
    /// Acts through this client; Events say that they are of this instance.
    pub(crate) fn new(client: Client, instance: &str, reservation: Reservation) -> Self {
        let reporter = Reporter { controller: PLACEMENT_REPORTER.to_owned(), instance: Some(instance.to_owned()) };
        Self { recorder: Recorder::new(client.clone(), reporter), client, reservation }
    }

    /// Does it.
    pub(crate) async fn act(&self, key: &Key, sight: &Sight, action: &Action, view: &View) -> Result<Done, ActError> {
        let workspace = &sight.seen.workspace;
        match action {
            Action::Tell(told) => {
                let told_as = self.tell(key, workspace, told).await?;
                if let Some(event) = &told.event {
                    self.publish(workspace, event.type_, event.reason, "Schedule", &event.message).await;
                }
                view.answered(told_as);
            }
            Action::Reserve { on } => {
                let pod = self.reservation.pod(workspace, on.as_deref(), &sight.avoid);
                return self.reserve(key, workspace, &pod).await;
            }
            Action::Release { pod } => self.release(key, pod, view).await?,
            Action::Bind { node } => {
                let mut change = Change::of(workspace);
                change
                    .test("/spec/nodeName", &Value::Null)
                    .push(json!({ "op": "add", "path": "/spec/nodeName", "value": node }));
                view.answered(self.patch(key, change).await?);
            }
            Action::Unbind { node } => {
                let mut change = Change::of(workspace);
                change.test("/spec/nodeName", &json!(node)).push(json!({ "op": "remove", "path": "/spec/nodeName" }));
                // What the lost node has is given up with it; the next agent takes the finalizer when it has something itself.
                change.without_finalizer(workspace);
                let moved = self.patch(key, change).await?;
                let message =
                    format!("node {node} is lost: the workspace begins anew on another one, with an empty disk");
                self.publish(workspace, EventType::Warning, Reason::NodeLost, "Reschedule", &message).await;
                view.answered(moved);
            }
            Action::Abandon { node } => self.abandon(key, workspace, node).await?,
        }
        Ok(Done::Done)
    }

    async fn tell(&self, key: &Key, workspace: &Workspace, told: &Told) -> Result<Workspace, ActError> {
        let mut status = json!({ "conditions": told.conditions });
        if let Some(phase) = told.phase {
            status["phase"] = serde_json::to_value(phase)?;
        }
        if let Some(generation) = told.observed_generation {
            status["observedGeneration"] = generation.into();
        }
        let applied = json!({
            "apiVersion": Workspace::api_version(&()),
            "kind": Workspace::kind(&()),
            // With the UID, an object of the same name that came after it is not written to.
            "metadata": { "name": key.name, "namespace": key.namespace, "uid": workspace.metadata.uid },
            "status": status,
        });
        let params = PatchParams::apply(PLACEMENT_MANAGER).force();
        ask(self.workspaces(key).patch_status(&key.name, &params, &Patch::Apply(applied))).await
    }

    async fn reserve(&self, key: &Key, workspace: &Workspace, pod: &Pod) -> Result<Done, ActError> {
        let params = PostParams { field_manager: Some(PLACEMENT_MANAGER.to_owned()), ..PostParams::default() };
        let refused = match ask(self.pods(key).create(&params, pod)).await {
            Ok(_) => return Ok(Done::Done),
            Err(ActError::Api(kube::Error::Api(status))) => status,
            Err(error) => return Err(error),
        };
        match refused.code {
            // Made by an earlier attempt whose reply was lost, or not seen yet; or it is someone else's.
            409 => {
                let name = reservation_pod(&key.name);
                let there = ask(self.pods(key).get_opt(&name)).await?.map(|pod| PodFacts::new(&pod));
                match there {
                    Some(there) if there.owner == workspace.metadata.uid => Ok(Done::Done),
                    Some(_) => Ok(Done::Refused(format!(
                        "the reservation needs the name of Pod {name}, which belongs to something else; delete or rename that"
                    ))),
                    None => Err(ActError::Api(kube::Error::Api(refused))),
                }
            }
            400 | 403 | 404 | 422 => Ok(Done::Refused(refused.message.clone())),
            _ => Err(ActError::Api(kube::Error::Api(refused))),
        }
    }

    async fn release(&self, key: &Key, uid: &str, view: &View) -> Result<(), ActError> {
        let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        // Nothing is in the Pod that would need time.
        let params = DeleteParams::default().grace_period(0).preconditions(preconditions);
        match ask(self.pods(key).delete(&reservation_pod(&key.name), &params)).await {
            // Gone already, or another one of the same name has taken its place.
            Err(ActError::Api(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => {}
            other => drop(other?),
        }
        view.no_pod(key.clone(), uid);
        Ok(())
    }

    async fn abandon(&self, key: &Key, workspace: &Workspace, node: &str) -> Result<(), ActError> {
        let mut change = Change::of(workspace);
        change.without_finalizer(workspace);
        // Told first: afterwards the workspace is gone.
        let message = format!(
            "what node {node} has of the workspace is given up, as its annotation asks for; if the node comes back, it removes it"
        );
        self.publish(workspace, EventType::Warning, Reason::NodeLost, "Abandon", &message).await;
        self.patch(key, change).await.map(drop)
    }

    async fn patch(&self, key: &Key, change: Change) -> Result<Workspace, ActError> {
        let params = PatchParams { field_manager: Some(PLACEMENT_MANAGER.to_owned()), ..PatchParams::default() };
        let patch = Patch::<()>::Json(serde_json::from_value(change.0.into())?);
        ask(self.workspaces(key).patch(&key.name, &params, &patch)).await
    }

    /// Tells it to people. An Event that cannot be written is only logged: the status says the same.
    async fn publish(&self, workspace: &Workspace, type_: EventType, reason: Reason, action: &str, message: &str) {
        let mut note = message.to_owned();
        note.truncate(note.floor_char_boundary(NOTE));
        let event =
            Event { type_, reason: reason.to_string(), note: Some(note), action: action.to_owned(), secondary: None };
        match timeout(REQUEST, self.recorder.publish(&event, &workspace.object_ref(&()))).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%reason, "an Event cannot be written: {error}"),
            Err(_) => tracing::warn!(%reason, "an Event cannot be written: the API server does not answer"),
        }
    }

    fn workspaces(&self, key: &Key) -> Api<Workspace> {
        Api::namespaced(self.client.clone(), &key.namespace)
    }

    fn pods(&self, key: &Key) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &key.namespace)
    }
}

/// A JSON patch (RFC 6902) of a workspace, which is refused when the workspace is not as it was seen.
struct Change(Vec<Value>);

impl Change {
    /// Of this workspace, and not of one of the same name after it.
    fn of(workspace: &Workspace) -> Self {
        let mut change = Self(Vec::new());
        change.test("/metadata/uid", &json!(workspace.metadata.uid));
        change
    }

    /// Only when this field has this value; `null` stands for one that is not there.
    fn test(&mut self, path: &str, value: &Value) -> &mut Self {
        self.push(json!({ "op": "test", "path": path, "value": value }))
    }

    fn push(&mut self, operation: Value) -> &mut Self {
        self.0.push(operation);
        self
    }

    /// Takes the finalizer of host state away, where it is.
    fn without_finalizer(&mut self, workspace: &Workspace) {
        let mut all = workspace.metadata.finalizers.iter().flatten();
        if let Some(nth) = all.position(|one| one == HOST_STATE_FINALIZER) {
            let path = format!("/metadata/finalizers/{nth}");
            self.test(&path, &json!(HOST_STATE_FINALIZER)).push(json!({ "op": "remove", "path": path }));
        }
    }
}

async fn ask<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, ActError> {
    match timeout(REQUEST, request).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(ActError::Silent),
    }
}
