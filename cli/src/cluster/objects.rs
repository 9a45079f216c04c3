//! Workspaces, as the API server has them.

use std::{pin::pin, str::FromStr};

use futures::StreamExt;
use kube::{
    Api, ResourceExt,
    api::{DynamicObject, ListParams, Patch, PatchParams},
    discovery::ApiResource,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use microagent_controller::{Key, plan::RESTART_ANNOTATION, request::RestartRequest};
use microagent_crds::{ConditionType, Workspace, kubernetes::CLI_MANAGER};
use serde_json::{Value, json};

use super::{Cluster, refused};
use crate::{
    failure::{Failure, Result},
    objects::{self, Object},
};

/// How many are asked for at once, as kubectl does.
const PAGE: u32 = 500;

/// What came of a watched workspace.
pub(super) enum Change {
    /// It is so now.
    Is(Box<Object>),
    /// It is gone, or was not there.
    Gone,
}

impl Cluster {
    fn api(&self, namespace: Option<&str>) -> Api<DynamicObject> {
        let resource = ApiResource::erase::<Workspace>(&());
        match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }

    /// The object as JSON, whatever a later version may have in it.
    pub(super) async fn raw(&self, key: &Key) -> Result<Option<DynamicObject>> {
        let found = self.api(Some(&key.namespace)).get_opt(&key.name).await;
        found.map_err(|e| refused(e, &format!("read workspace {key}"), "get workspaces"))
    }

    pub(super) async fn find(&self, key: &Key) -> Result<Option<Object>> {
        self.raw(key).await?.map(object).transpose()
    }

    pub(super) async fn need(&self, key: &Key) -> Result<Object> {
        self.find(key).await?.ok_or_else(|| objects::not_found(key))
    }

    /// All objects, in the order of their names: of one namespace, or of all. `unreadable` is told of each that cannot be read.
    pub(super) async fn list(
        &self,
        namespace: Option<&str>,
        mut unreadable: impl FnMut(Failure),
    ) -> Result<Vec<Object>> {
        let api = self.api(namespace);
        let mut params = ListParams::default().limit(PAGE);
        let mut objects = Vec::new();
        loop {
            let page = api.list(&params).await.map_err(|e| refused(e, "list workspaces", "list workspaces"))?;
            for item in page.items {
                match object(item) {
                    Ok(object) => objects.push(object),
                    Err(failure) => unreadable(failure),
                }
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => break,
            }
        }
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(objects)
    }

    /// Tells `each` how the workspaces are, first and whenever one changes, until it says that it has seen enough. With a key only of
    /// that one, and also that it is not there.
    pub(super) async fn watch(
        &self,
        namespace: Option<&str>,
        key: Option<&Key>,
        mut each: impl FnMut(Change) -> Result<bool>,
    ) -> Result<()> {
        let config = match key {
            Some(key) => watcher::Config::default().fields(&format!("metadata.name={}", key.name)),
            None => watcher::Config::default(),
        };
        let mut events = pin!(watcher(self.api(namespace), config).default_backoff());
        let mut is_there = false;
        while let Some(event) = events.next().await {
            let change = match event {
                Ok(Event::Init) => {
                    is_there = false;
                    continue;
                }
                Ok(Event::InitApply(now) | Event::Apply(now)) => {
                    is_there = true;
                    Change::Is(Box::new(object(now)?))
                }
                Ok(Event::InitDone) if key.is_some() && !is_there => Change::Gone,
                Ok(Event::InitDone) => continue,
                Ok(Event::Delete(_)) => Change::Gone,
                Err(watcher::Error::InitialListFailed(e) | watcher::Error::WatchStartFailed(e)) if matches!(&e, kube::Error::Api(status) if (400..404).contains(&status.code)) =>
                {
                    return Err(refused(e, "watch workspaces", "list and watch workspaces"));
                }
                // The watch begins anew by itself, after a while.
                Err(_) => continue,
            };
            if each(change)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Asks for a restart of the workspace that has this UID.
    pub(super) async fn restart(&self, key: &Key, request: &RestartRequest) -> Result<()> {
        let patch = json!({"metadata": {"uid": request.uid, "annotations": {RESTART_ANNOTATION: request.token}}});
        let params = PatchParams { field_manager: Some(CLI_MANAGER.to_owned()), ..PatchParams::default() };
        let patched = self.api(Some(&key.namespace)).patch(&key.name, &params, &Patch::Merge(patch)).await;
        patched.map(drop).map_err(|e| refused(e, &format!("restart workspace {key}"), "patch workspaces"))
    }
}

/// Decodes what came. Conditions of types that are not known yet are left out: they must not hide the others.
fn object(dynamic: DynamicObject) -> Result<Object> {
    let key = Key::new(dynamic.namespace().unwrap_or_default(), dynamic.name_any());
    let mut value = serde_json::to_value(dynamic)?;
    if let Some(conditions) = value.pointer_mut("/status/conditions").and_then(Value::as_array_mut) {
        conditions.retain(|c| c["type"].as_str().is_some_and(|kind| ConditionType::from_str(kind).is_ok()));
    }
    let workspace = serde_json::from_value(value).map_err(|e| {
        Failure::new(format!("workspace {key} cannot be read: {e}"))
            .help("the cluster may have a newer version: use its own plugin, or `kubectl get workspace -o yaml`")
    })?;
    Ok(Object { key, workspace })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dynamic(spec: &Value) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "microagent.dev/v1alpha1", "kind": "Workspace", "metadata": {"name": "web", "namespace": "team"}, "spec": spec,
            "status": {"phase": "OfTomorrow", "conditions": [
                {"type": "Ready", "status": "True", "reason": "OfTomorrow", "message": "", "lastTransitionTime": "2026-11-24T06:00:00Z"},
                {"type": "OfTomorrow", "status": "True", "reason": "X", "message": "", "lastTransitionTime": "2026-11-24T06:00:00Z"}]},
        }))
        .unwrap()
    }

    #[test]
    fn what_a_later_agent_tells_hides_nothing_that_is_known() {
        let object = object(dynamic(&json!({"image": "alpine"}))).unwrap();
        assert_eq!(object.key, Key::new("team", "web"));
        assert!(object.condition(ConditionType::Ready).is_some_and(microagent_crds::Condition::is_true));
        assert_eq!(object.status().conditions.len(), 1);
    }

    #[test]
    fn a_spec_of_a_later_version_is_told_as_such() {
        let failure = object(dynamic(&json!({"image": "alpine", "teleport": true}))).unwrap_err().to_string();
        assert!(
            failure.contains("team/web") && failure.contains("teleport") && failure.contains("newer version"),
            "{failure}"
        );
    }
}
