//! `spec.placement`: which nodes may take the workspace, and what follows when its node is lost. Kubernetes only.
//!
//! The words are those of a Pod, because a Pod carries them: the workspace's reservation, which kube-scheduler places.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, Toleration};
use kube::KubeSchema;
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The most entries of a list or map within `affinity`, whose own schema sets no bounds.
const MAX_ENTRIES: u64 = 64;
/// The most characters of a text within `affinity` and `tolerations`: the longest label key, a prefix of 253 and a name of 63.
const MAX_TEXT: u64 = 317;

/// Which nodes may take the workspace, and what follows when its node is lost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Placement {
    /// Labels that the node must have, each with this value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32), transform = bound)]
    pub node_selector: BTreeMap<String, String>,
    /// Taints of nodes that the workspace puts up with, as in a Pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), transform = bound)]
    pub tolerations: Vec<Toleration>,
    /// Which nodes, or the nodes of which other Pods, are to be had or avoided, as in a Pod. The reservation Pods of
    /// workspaces have the label `microagent.dev/workspace`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(transform = bound)]
    pub affinity: Option<Affinity>,
    /// The PriorityClass of the reservation: what it may push from a node, and what may push it. Default: the cluster's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
    /// The scheduler that picks the node. Default: the cluster's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub scheduler_name: Option<String>,
    /// What follows when the node is lost: `Report` (default) tells it and waits for the node or for a person;
    /// `Reschedule` has another node picked, where the workspace begins with an empty disk.
    #[serde(default)]
    pub on_node_lost: OnNodeLost,
}

// What the types of Pods lack is only the word: they hold texts, whole numbers, lists and maps.
impl Eq for Placement {}

/// What follows when the node of a workspace is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum OnNodeLost {
    /// It is told, and nothing is run elsewhere: the disk is on that node.
    #[default]
    Report,
    /// Another node is picked; the workspace begins there with an empty disk.
    Reschedule,
}

/// Gives every list, map and text that has no bound one, so that no rule over a spec can become costly.
fn bound(schema: &mut Schema) {
    bound_object(schema.ensure_object());
}

fn bound_object(schema: &mut Map<String, Value>) {
    let bound = match schema.get("type").and_then(Value::as_str) {
        Some("array") => Some(("maxItems", MAX_ENTRIES)),
        Some("string") if !schema.contains_key("format") => Some(("maxLength", MAX_TEXT)),
        Some("object") if schema.contains_key("additionalProperties") => Some(("maxProperties", MAX_ENTRIES)),
        _ => None,
    };
    if let Some((name, most)) = bound {
        schema.entry(name).or_insert_with(|| most.into());
    }
    let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
    for inner in properties.into_iter().flat_map(Map::values_mut) {
        inner.as_object_mut().into_iter().for_each(bound_object);
    }
    for key in ["items", "additionalProperties"] {
        schema.get_mut(key).and_then(Value::as_object_mut).into_iter().for_each(bound_object);
    }
}
