//! A `Workspace` as the API server shows it: read whatever is in it, so that one object that makes no sense stops nobody else's.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use kube::{Resource, api::ObjectMeta};
use microagent_crds::{
    ConditionType, Reason, Workspace, canonical_spec_hash, kubernetes::HOST_STATE_FINALIZER, manifest,
};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::{Key, Problem};

/// Of the annotations, those with this prefix are kept: the others are not for us, and may be large.
const OWN_ANNOTATIONS: &str = "microagent.dev/";

/// An object, its parts not looked into but for the metadata.
#[derive(Clone, Debug)]
pub(super) struct Object {
    metadata: ObjectMeta,
    spec: Value,
    status: Value,
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Raw {
            metadata: ObjectMeta,
            #[serde(default)]
            spec: Value,
            #[serde(default)]
            status: Value,
        }
        let Raw { mut metadata, spec, status } = Raw::deserialize(from)?;
        // Often larger than all the rest.
        metadata.managed_fields = None;
        Ok(Self { metadata, spec, status })
    }
}

impl Resource for Object {
    type DynamicType = ();
    type Scope = <Workspace as Resource>::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        Workspace::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        Workspace::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        Workspace::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        Workspace::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// What counts of an object.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) uid: String,
    /// See [`Object::version`].
    pub(super) version: Option<u64>,
    pub(super) generation: i64,
    pub(super) created_at: Timestamp,
    pub(super) deleted_at: Option<Timestamp>,
    pub(super) finalizers: Vec<String>,
    /// Why placement says that the room for it is lost.
    pub(super) unreserved: Option<String>,
    /// The manifest and the hash of its canonical spec, or what is wrong with it.
    pub(super) wanted: Result<(Arc<Workspace>, Arc<str>), Problem>,
}

impl Seen {
    /// Whether it is the same object at an earlier time.
    pub(super) fn is_older_than(&self, other: &Self) -> bool {
        self.uid == other.uid && self.version.zip(other.version).is_some_and(|(own, other)| own < other)
    }

    /// Whether the finalizer of the agents is on it.
    pub(super) fn is_held(&self) -> bool {
        self.finalizers.iter().any(|one| one == HOST_STATE_FINALIZER)
    }
}

impl Object {
    /// Namespace and name.
    pub(super) fn key(&self) -> Key {
        let metadata = &self.metadata;
        Key::new(metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
    }

    /// Its version among all versions of all objects, where the server gives it as a number.
    pub(super) fn version(&self) -> Option<u64> {
        self.metadata.resource_version.as_deref()?.parse().ok()
    }

    pub(super) fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    /// The node that the object names.
    pub(super) fn node(&self) -> Option<&str> {
        self.spec.get("nodeName")?.as_str()
    }

    pub(super) fn finalizers(&self) -> &[String] {
        self.metadata.finalizers.as_deref().unwrap_or_default()
    }

    pub(super) fn is_deleting(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    pub(super) fn status(&self) -> &Value {
        &self.status
    }

    /// What counts of it. Where `before` is of the same generation, its reading is taken again: most changes are of the status.
    pub(super) fn see(self, before: Option<&Seen>) -> Seen {
        let key = self.key();
        let (unreserved, version) = (unreserved(&self.status), self.version());
        let Self { metadata, spec, .. } = self;
        let annotations: BTreeMap<String, String> = metadata
            .annotations
            .unwrap_or_default()
            .into_iter()
            .filter(|(name, _)| name.starts_with(OWN_ANNOTATIONS))
            .collect();
        let uid = metadata.uid.unwrap_or_default();
        let generation = metadata.generation.unwrap_or_default();
        let same = before.filter(|before| {
            before.uid == uid
                && before.generation == generation
                && before.wanted.as_ref().is_ok_and(|(workspace, _)| is_annotated(workspace, &annotations))
        });
        let wanted = match same {
            Some(before) => before.wanted.clone(),
            None => read(&key, annotations, &spec),
        };
        Seen {
            uid,
            version,
            generation,
            created_at: metadata.creation_timestamp.map_or(Timestamp::UNIX_EPOCH, |time| time.0),
            deleted_at: metadata.deletion_timestamp.map(|time| time.0),
            finalizers: metadata.finalizers.unwrap_or_default(),
            unreserved,
            wanted,
        }
    }
}

/// What placement says of a workspace that has a node, and no room there: it is lost, asked for, or was given back while nothing
/// ran. That the node is lost is not for its agent, which is
/// there to read it.
fn unreserved(status: &Value) -> Option<String> {
    let conditions = status.get("conditions")?.as_array()?;
    let scheduled = conditions.iter().find(|condition| condition["type"] == ConditionType::Scheduled.as_str())?;
    let is_lost = scheduled["status"] == "False" && scheduled["reason"] != Reason::NodeLost.as_str();
    is_lost.then(|| scheduled["message"].as_str().unwrap_or_default().to_owned())
}

fn is_annotated(workspace: &Workspace, annotations: &BTreeMap<String, String>) -> bool {
    match &workspace.metadata.annotations {
        Some(known) => known == annotations,
        None => annotations.is_empty(),
    }
}

fn read(key: &Key, annotations: BTreeMap<String, String>, spec: &Value) -> Result<(Arc<Workspace>, Arc<str>), Problem> {
    let object = format!("workspaces.microagent.dev {key}");
    let spec = manifest::from_object(&object, (&key.namespace, &key.name), spec)
        .map_err(|error| Problem { code: error.reason().as_str().to_owned(), message: error.to_string() })?;
    let hash = canonical_spec_hash(&spec).into();
    let metadata = ObjectMeta {
        name: Some(key.name.clone()),
        namespace: Some(key.namespace.clone()),
        annotations: (!annotations.is_empty()).then_some(annotations),
        ..ObjectMeta::default()
    };
    Ok((Arc::new(Workspace { metadata, spec, status: None }), hash))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(spec: Value) -> Object {
        serde_json::from_value(json!({
            "apiVersion": "microagent.dev/v1alpha1",
            "kind": "Workspace",
            "metadata": {
                "name": "a", "namespace": "team", "uid": "u-1", "generation": 3, "resourceVersion": "17",
                "creationTimestamp": "2026-01-02T03:04:05Z",
                "finalizers": ["example.com/other", HOST_STATE_FINALIZER],
                "annotations": { "microagent.dev/restart": "1", "example.com/large": "x" },
                "managedFields": [{ "manager": "kubectl" }],
            },
            "spec": spec,
            "status": { "phase": "Running" },
        }))
        .unwrap()
    }

    #[test]
    fn an_object_is_read_with_what_is_ours_of_its_metadata() {
        let object = object(json!({ "image": "debian", "nodeName": "n-1" }));
        assert_eq!((object.key(), object.version()), (Key::new("team", "a"), Some(17)));
        let seen = object.see(None);
        assert!(seen.is_held() && seen.deleted_at.is_none());
        assert_eq!((seen.uid.as_str(), seen.generation), ("u-1", 3));
        let (workspace, _) = seen.wanted.unwrap();
        let annotations = workspace.metadata.annotations.clone().unwrap();
        assert_eq!(annotations.into_iter().collect::<Vec<_>>(), [("microagent.dev/restart".into(), "1".into())]);
        assert_eq!(workspace.spec.node_name.as_deref(), Some("n-1"));
    }

    #[test]
    fn what_does_not_decode_or_breaks_a_rule_is_told_with_its_field() {
        let wrong = |spec: Value| object(spec).see(None).wanted.unwrap_err();
        for (spec, says) in [
            (json!({ "image": 7 }), "spec.image"),
            (json!({}), "missing field `image`"),
            (json!(null), "spec"),
            (json!({ "image": "debian", "colour": "red" }), "colour"),
            (json!({ "image": "debian", "workingDir": "../etc" }), "spec.workingDir"),
        ] {
            let problem = wrong(spec.clone());
            assert_eq!(problem.code, "InvalidManifest", "{spec}");
            assert!(problem.message.contains(says) && problem.message.contains("team/a"), "{}", problem.message);
        }
        assert_eq!(wrong(json!({ "image": "debian", "rootDisk": { "mode": "Copy" } })).code, "NotSupported");
    }

    #[test]
    fn room_that_placement_says_is_lost_is_lost_and_a_lost_node_is_not_for_its_agent() {
        let told = |status: &str, reason: &str| {
            let mut object = object(json!({ "image": "debian" }));
            object.status = json!({ "conditions": [
                { "type": "Ready", "status": "False", "reason": "ReservationLost", "message": "m" },
                { "type": "Scheduled", "status": status, "reason": reason, "message": "the Pod was evicted" },
            ] });
            object.see(None).unreserved
        };
        assert_eq!(told("False", "ReservationLost").as_deref(), Some("the Pod was evicted"));
        assert_eq!(told("False", "Unschedulable").as_deref(), Some("the Pod was evicted"));
        assert_eq!(told("False", "Halted").as_deref(), Some("the Pod was evicted"));
        assert_eq!(told("False", "NodeLost"), None);
        assert_eq!(told("True", "Scheduled"), None);
        assert_eq!(object(json!({ "image": "debian" })).see(None).unreserved, None);
    }

    #[test]
    fn a_reading_is_taken_again_for_the_same_generation_alone() {
        let first = object(json!({ "image": "debian" })).see(None);
        let workspace = |seen: &Seen| seen.wanted.as_ref().unwrap().0.clone();
        let again = object(json!({ "image": "debian" })).see(Some(&first));
        assert!(Arc::ptr_eq(&workspace(&first), &workspace(&again)));
        let mut annotated = object(json!({ "image": "debian" }));
        annotated.metadata.annotations = None;
        assert!(workspace(&annotated.see(Some(&first))).metadata.annotations.is_none());
        let mut edited = object(json!({ "image": "alpine" }));
        edited.metadata.generation = Some(4);
        assert_eq!(workspace(&edited.see(Some(&first))).spec.image, "alpine");
        let mut another = object(json!({ "image": "alpine" }));
        another.metadata.uid = Some("u-2".to_owned());
        assert_eq!(workspace(&another.see(Some(&first))).spec.image, "alpine");
    }
}
