//! What decisions are made from: a workspace with who wrote which part of its status, and a reservation Pod.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::core::v1::{Affinity, Pod, PodCondition},
    apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry,
};
use microagent_crds::{
    Condition, ConditionType, Workspace,
    kubernetes::{ABANDON_ANNOTATION, AGENT_MANAGER, HOST_STATE_FINALIZER, PLACEMENT_MANAGER},
};
use serde_json::Value;

use crate::reservation::SIZE_ANNOTATION;

/// A workspace as it was last seen.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The object, without its `managedFields`.
    pub workspace: Workspace,
    /// Who wrote what of it.
    pub owners: Owners,
}

/// Who wrote what, read from `managedFields`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owners {
    /// Whether placement set `spec.nodeName`. What a user set is the user's choice and goes round the scheduler, as for a Pod.
    pub placed_by_us: bool,
    /// What placement has applied of the status.
    pub ours: Fields,
    /// What an agent has applied of the status; absent when none ever has.
    pub agents: Option<Fields>,
}

/// The parts of a status that one manager holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    /// The types of the conditions that it holds whole.
    pub conditions: BTreeSet<String>,
    /// The types of those that another has overwritten: it still holds that they are there. When the other one lets go of such a
    /// condition, half of it stays, which the server refuses.
    pub parts: BTreeSet<String>,
    /// `phase`.
    pub phase: bool,
    /// `observedGeneration`.
    pub observed_generation: bool,
}

impl Seen {
    /// Takes what matters from an object.
    #[must_use]
    pub fn new(mut workspace: Workspace) -> Self {
        let owners = Owners::read(&workspace.metadata.managed_fields.take().unwrap_or_default());
        Self { workspace, owners }
    }

    /// The UID; empty for an object that never was in a server.
    #[must_use]
    pub fn uid(&self) -> &str {
        self.workspace.metadata.uid.as_deref().unwrap_or_default()
    }

    /// The generation.
    #[must_use]
    pub fn generation(&self) -> i64 {
        self.workspace.metadata.generation.unwrap_or_default()
    }

    /// The node that it is on.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        self.workspace.spec.node_name.as_deref()
    }

    /// A condition of its status.
    #[must_use]
    pub fn condition(&self, wanted: ConditionType) -> Option<&Condition> {
        self.workspace.status.as_ref()?.condition(wanted)
    }

    /// Whether it is being deleted.
    #[must_use]
    pub fn is_deleting(&self) -> bool {
        self.workspace.metadata.deletion_timestamp.is_some()
    }

    /// Whether a host is said to have state of it.
    #[must_use]
    pub fn has_host_state(&self) -> bool {
        self.workspace.metadata.finalizers.iter().flatten().any(|one| one == HOST_STATE_FINALIZER)
    }

    /// Whether what a lost node has of it is given up.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        let annotations = self.workspace.metadata.annotations.as_ref();
        annotations.and_then(|all| all.get(ABANDON_ANNOTATION)).is_some_and(|text| text == "true")
    }

    /// Whether the agent tells `Ready`, and placement need not any more.
    #[must_use]
    pub fn is_taken_over(&self) -> bool {
        self.owners.agents.as_ref().is_some_and(|fields| fields.conditions.contains(ConditionType::Ready.as_str()))
    }
}

impl Owners {
    fn read(entries: &[ManagedFieldsEntry]) -> Self {
        let mut owners = Self::default();
        for entry in entries {
            let Some(fields) = entry.fields_v1.as_ref().map(|fields| &fields.0) else { continue };
            match (entry.manager.as_deref(), entry.subresource.as_deref()) {
                (Some(PLACEMENT_MANAGER), Some("status")) => owners.ours.add(fields),
                (Some(AGENT_MANAGER), Some("status")) => owners.agents.get_or_insert_default().add(fields),
                (Some(PLACEMENT_MANAGER), None | Some("")) => {
                    owners.placed_by_us |= fields.pointer("/f:spec/f:nodeName").is_some();
                }
                _ => {}
            }
        }
        owners
    }
}

impl Fields {
    fn add(&mut self, fields: &Value) {
        let status = fields.get("f:status");
        let has = |name: &str| status.is_some_and(|status| status.get(name).is_some());
        self.phase |= has("f:phase");
        self.observed_generation |= has("f:observedGeneration");
        let conditions = status.and_then(|status| status.get("f:conditions")).and_then(Value::as_object);
        for (key, leaves) in conditions.into_iter().flatten() {
            // A key of a list-map: `k:{"type":"Ready"}`.
            let type_ = key.strip_prefix("k:").and_then(|json| serde_json::from_str::<Value>(json).ok());
            let type_ = type_.as_ref().and_then(|key| key.get("type")).and_then(Value::as_str);
            let whole = leaves.get("f:reason").is_some();
            let of = if whole { &mut self.conditions } else { &mut self.parts };
            of.extend(type_.map(str::to_owned));
        }
    }

    /// Whether it holds any of a condition.
    #[must_use]
    pub fn has(&self, type_: &str) -> bool {
        self.conditions.contains(type_) || self.parts.contains(type_)
    }
}

/// A reservation Pod as it was last seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFacts {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its `resourceVersion`.
    pub version: String,
    /// The UID of the workspace that it belongs to.
    pub owner: Option<String>,
    /// The node that the scheduler picked.
    pub node: Option<String>,
    /// The only node that it may go to.
    pub pinned_to: Option<String>,
    /// What the machine was to have that it keeps room for; absent on Pods that do not say it.
    pub size: Option<String>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether its container has ended for good: such a Pod keeps no room.
    pub ended: bool,
    /// Why the scheduler found no node.
    pub unschedulable: Option<String>,
    /// Why the Pod is taken from its node.
    pub disruption: Option<String>,
}

impl PodFacts {
    /// Takes what matters from a Pod.
    #[must_use]
    pub fn new(pod: &Pod) -> Self {
        let (metadata, spec, status) = (&pod.metadata, pod.spec.as_ref(), pod.status.as_ref());
        let condition = |type_: &str| {
            let all = status.and_then(|status| status.conditions.as_ref());
            all.into_iter().flatten().find(|one| one.type_ == type_)
        };
        let words = |one: &PodCondition| one.message.clone().or_else(|| one.reason.clone()).unwrap_or_default();
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let phase = status.and_then(|status| status.phase.as_deref());
        Self {
            name: text(&metadata.name),
            uid: text(&metadata.uid),
            version: text(&metadata.resource_version),
            owner: metadata
                .owner_references
                .iter()
                .flatten()
                .find(|one| one.controller == Some(true))
                .map(|one| one.uid.clone()),
            node: spec.and_then(|spec| spec.node_name.clone()).filter(|node| !node.is_empty()),
            pinned_to: spec.and_then(|spec| spec.affinity.as_ref()).and_then(pinned_to),
            size: metadata.annotations.as_ref().and_then(|all| all.get(SIZE_ANNOTATION)).cloned(),
            deleting: metadata.deletion_timestamp.is_some(),
            ended: matches!(phase, Some("Failed" | "Succeeded")),
            unschedulable: condition("PodScheduled").filter(|one| one.status == "False").map(words),
            disruption: condition("DisruptionTarget")
                .filter(|one| one.status == "True")
                .map(words)
                .or_else(|| status.filter(|_| phase == Some("Failed")).and_then(|status| status.message.clone())),
        }
    }
}

/// The node that every term asks for by name.
fn pinned_to(affinity: &Affinity) -> Option<String> {
    let required = affinity.node_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref()?;
    let mut fields = required.node_selector_terms.first()?.match_fields.iter().flatten();
    let name = fields.find(|one| one.key == "metadata.name" && one.operator == "In")?;
    name.values.as_ref()?.first().cloned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_wrote_what_is_read_from_the_managed_fields() {
        let workspace: Workspace = serde_json::from_value(json!({
            "apiVersion": "microagent.dev/v1alpha1", "kind": "Workspace", "spec": { "image": "a", "nodeName": "n1" },
            "metadata": { "name": "w", "managedFields": [
                { "manager": "kubectl", "operation": "Update", "fieldsV1": { "f:spec": { "f:image": {} } } },
                { "manager": "microagent-placement", "operation": "Update", "fieldsV1": { "f:spec": { "f:nodeName": {} } } },
                { "manager": "microagent-placement", "operation": "Apply", "subresource": "status", "fieldsV1": { "f:status": {
                    "f:phase": {}, "f:conditions": { "k:{\"type\":\"Scheduled\"}": { ".": {}, "f:reason": {} },
                        "k:{\"type\":\"Ready\"}": { ".": {}, "f:type": {} } } } } },
                { "manager": "microagent-agent", "operation": "Apply", "subresource": "status", "fieldsV1": { "f:status": {
                    "f:observedGeneration": {}, "f:conditions": { "k:{\"type\":\"Ready\"}": { ".": {}, "f:reason": {} } } } } },
            ] },
        }))
        .unwrap();
        let seen = Seen::new(workspace);
        let conditions = |one: &str| BTreeSet::from([one.to_owned()]);
        let ours = Fields {
            conditions: conditions("Scheduled"),
            parts: conditions("Ready"),
            phase: true,
            ..Fields::default()
        };
        let agents = Fields { conditions: conditions("Ready"), observed_generation: true, ..Fields::default() };
        assert_eq!(seen.owners, Owners { placed_by_us: true, ours, agents: Some(agents) });
        assert!(seen.is_taken_over() && seen.workspace.metadata.managed_fields.is_none());
    }

    #[test]
    fn a_pod_tells_where_it_is_and_why_it_is_not() {
        let pod = |value: Value| PodFacts::new(&serde_json::from_value(value).unwrap());
        let waiting = pod(json!({
            "metadata": { "name": "w-microvm", "uid": "p1", "ownerReferences": [
                { "apiVersion": "a", "kind": "b", "name": "w", "uid": "u1", "controller": true }] },
            "spec": { "containers": [], "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": ["n1"] }] }] } } } },
            "status": { "conditions": [{ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no room" }] },
        }));
        assert_eq!((waiting.owner.as_deref(), waiting.node.as_deref()), (Some("u1"), None));
        assert_eq!((waiting.pinned_to.as_deref(), waiting.unschedulable.as_deref()), (Some("n1"), Some("no room")));
        let evicted = pod(json!({
            "metadata": { "name": "w-microvm", "deletionTimestamp": "2026-01-01T00:00:00Z" },
            "spec": { "containers": [], "nodeName": "n1" },
            "status": { "phase": "Running", "conditions": [
                { "type": "PodScheduled", "status": "True" },
                { "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "preempted" }] },
        }));
        assert!(evicted.deleting && !evicted.ended && evicted.unschedulable.is_none() && evicted.owner.is_none());
        assert_eq!((evicted.node.as_deref(), evicted.disruption.as_deref()), (Some("n1"), Some("preempted")));
        let refused = pod(json!({ "metadata": {}, "status": { "phase": "Failed", "message": "OutOfmemory" } }));
        assert!(refused.ended && refused.disruption.as_deref() == Some("OutOfmemory"));
    }
}
