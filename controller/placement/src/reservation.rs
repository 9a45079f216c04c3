//! The Pod that keeps room on a node for a machine. It does nothing; that it is there is all.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        Affinity, Capabilities, Container, Lifecycle, LifecycleHandler, NodeAffinity, NodeSelector,
        NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSecurityContext, PodSpec, ResourceRequirements,
        SeccompProfile, SecurityContext, SleepAction,
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{ObjectMeta, OwnerReference},
    },
};
use kube::Resource as _;
use microagent_crds::{
    Cpus, Memory, Workspace,
    kubernetes::{
        AGENT_LABEL, MANAGED_BY_LABEL, MANAGED_BY_PLACEMENT, RESERVATION_CONTAINER, WORKSPACE_LABEL,
        WORKSPACE_UID_LABEL, reservation_pod,
    },
};

/// Lost nodes that a new reservation keeps away from, at most: each is a requirement of its own.
const MAX_AVOIDED: usize = 64;
/// Tells the cluster autoscaler to leave the node: the machine's disk is there, and nothing but its own Pod would show it.
const SAFE_TO_EVICT: &str = "cluster-autoscaler.kubernetes.io/safe-to-evict";
/// What the machine that room is kept for was to have, as [`size`] gives it.
pub const SIZE_ANNOTATION: &str = "microagent.dev/reserved";
/// A user that no image has; the pause image runs as it.
const NOBODY: i64 = 65_535;

/// What a machine of this workspace is to have, for people too.
#[must_use]
pub fn size(workspace: &Workspace) -> String {
    let resources = &workspace.spec.resources;
    format!("cpus {}m, memory {} bytes", resources.cpus.millis(), resources.memory.bytes())
}

/// How reservation Pods are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The image of the container that only waits.
    pub image: String,
    /// Memory that a machine needs beyond that of its guest.
    pub overhead_memory: Memory,
    /// CPU that a machine needs beyond that of its guest.
    pub overhead_cpu: Cpus,
}

impl Reservation {
    /// The Pod for a workspace, on the node `on` alone when it is given, else on any that the workspace may have but those to
    /// `avoid`.
    #[must_use]
    pub fn pod(&self, workspace: &Workspace, on: Option<&str>, avoid: &[String]) -> Pod {
        let spec = &workspace.spec;
        let placement = spec.placement.clone().unwrap_or_default();
        let name = workspace.metadata.name.clone().unwrap_or_default();
        let uid = workspace.metadata.uid.clone().unwrap_or_default();
        let mut node_selector = placement.node_selector;
        node_selector.insert(AGENT_LABEL.to_owned(), "true".to_owned());
        let names = match on {
            Some(node) => vec![by_name("In", node)],
            None => avoid.iter().take(MAX_AVOIDED).map(|node| by_name("NotIn", node)).collect(),
        };
        let grace = i64::from(spec.lifecycle.termination_grace_period_seconds);
        let labels = [
            (MANAGED_BY_LABEL, MANAGED_BY_PLACEMENT.to_owned()),
            (WORKSPACE_LABEL, name.clone()),
            (WORKSPACE_UID_LABEL, uid.clone()),
        ];
        Pod {
            metadata: ObjectMeta {
                name: Some(reservation_pod(&name)),
                namespace: workspace.metadata.namespace.clone(),
                labels: Some(labels.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
                annotations: Some(BTreeMap::from([
                    (SAFE_TO_EVICT.to_owned(), "false".to_owned()),
                    (SIZE_ANNOTATION.to_owned(), size(workspace)),
                ])),
                owner_references: Some(vec![OwnerReference {
                    api_version: Workspace::api_version(&()).into_owned(),
                    kind: Workspace::kind(&()).into_owned(),
                    name,
                    uid,
                    controller: Some(true),
                    // A deletion in the foreground must not take the room from a machine that is still being stopped.
                    block_owner_deletion: None,
                }]),
                ..ObjectMeta::default()
            },
            spec: Some(PodSpec {
                containers: vec![self.container(workspace, grace)],
                node_selector: Some(node_selector),
                affinity: with_names(placement.affinity, names),
                tolerations: (!placement.tolerations.is_empty()).then_some(placement.tolerations),
                priority_class_name: placement.priority_class_name,
                scheduler_name: placement.scheduler_name,
                termination_grace_period_seconds: Some(grace),
                automount_service_account_token: Some(false),
                enable_service_links: Some(false),
                security_context: Some(PodSecurityContext {
                    run_as_non_root: Some(true),
                    run_as_user: Some(NOBODY),
                    run_as_group: Some(NOBODY),
                    seccomp_profile: Some(SeccompProfile {
                        type_: "RuntimeDefault".to_owned(),
                        localhost_profile: None,
                    }),
                    ..PodSecurityContext::default()
                }),
                ..PodSpec::default()
            }),
            status: None,
        }
    }

    fn container(&self, workspace: &Workspace, grace: i64) -> Container {
        let resources = &workspace.spec.resources;
        let memory = resources.memory.bytes().saturating_add(self.overhead_memory.bytes());
        let cpu = resources.cpus.millis().saturating_add(self.overhead_cpu.millis());
        let memory = ("memory".to_owned(), Quantity(memory.to_string()));
        let cpu = ("cpu".to_owned(), Quantity(format!("{cpu}m")));
        Container {
            name: RESERVATION_CONTAINER.to_owned(),
            image: Some(self.image.clone()),
            resources: Some(ResourceRequirements {
                requests: Some([memory.clone(), cpu].into()),
                limits: Some([memory].into()),
                claims: None,
            }),
            // When the room is wanted for something else, the machine has this long to stop before it is given away.
            lifecycle: (grace > 0).then(|| Lifecycle {
                pre_stop: Some(LifecycleHandler {
                    sleep: Some(SleepAction { seconds: grace }),
                    ..LifecycleHandler::default()
                }),
                ..Lifecycle::default()
            }),
            security_context: Some(SecurityContext {
                allow_privilege_escalation: Some(false),
                read_only_root_filesystem: Some(true),
                capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
                ..SecurityContext::default()
            }),
            ..Container::default()
        }
    }
}

fn by_name(operator: &str, node: &str) -> NodeSelectorRequirement {
    NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: operator.to_owned(),
        values: Some(vec![node.to_owned()]),
    }
}

/// The affinity with these requirements added to each of its terms: one of the terms must hold, each with all that is in it.
fn with_names(affinity: Option<Affinity>, names: Vec<NodeSelectorRequirement>) -> Option<Affinity> {
    if names.is_empty() {
        return affinity;
    }
    let mut affinity = affinity.unwrap_or_default();
    let required = &mut affinity
        .node_affinity
        .get_or_insert_with(NodeAffinity::default)
        .required_during_scheduling_ignored_during_execution
        .get_or_insert_with(NodeSelector::default)
        .node_selector_terms;
    if required.is_empty() {
        required.push(NodeSelectorTerm { match_fields: Some(names), match_expressions: None });
        return Some(affinity);
    }
    // A term without a requirement matches no node, and must go on doing so.
    for term in required.iter_mut().filter(|term| !is_empty(term)) {
        let mut fields = names.clone();
        fields.extend(term.match_fields.take().unwrap_or_default());
        term.match_fields = Some(fields);
    }
    Some(affinity)
}

fn is_empty(term: &NodeSelectorTerm) -> bool {
    let count = |all: &Option<Vec<NodeSelectorRequirement>>| all.as_ref().map_or(0, Vec::len);
    count(&term.match_fields) + count(&term.match_expressions) == 0
}

#[cfg(test)]
mod tests {
    use microagent_crds::{Placement, WorkspaceSpec};
    use serde_json::{Value, json};

    use super::*;

    fn reservation() -> Reservation {
        Reservation {
            image: "pause".into(),
            overhead_memory: Memory::from_mebibytes(64),
            overhead_cpu: "250m".parse().unwrap(),
        }
    }

    fn pod(placement: Value, on: Option<&str>, avoid: &[String]) -> Value {
        let mut workspace = Workspace::new("w", WorkspaceSpec::new("a"));
        workspace.metadata.uid = Some("u1".into());
        workspace.metadata.namespace = Some("ns".into());
        workspace.spec.placement = serde_json::from_value::<Option<Placement>>(placement).unwrap();
        serde_json::to_value(reservation().pod(&workspace, on, avoid)).unwrap()
    }

    fn terms(pod: &Value) -> Value {
        let path = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
        pod.pointer(path).cloned().unwrap_or_default()
    }

    #[test]
    fn it_asks_for_the_machine_and_what_it_costs_the_host_beside() {
        let pod = pod(json!(null), None, &[]);
        assert_eq!(pod["metadata"]["name"], "w-microvm");
        assert_eq!(pod["metadata"]["ownerReferences"][0]["uid"], "u1");
        let resources = &pod["spec"]["containers"][0]["resources"];
        let bytes = ((512 + 64) << 20).to_string();
        assert_eq!(resources["requests"], json!({ "memory": bytes, "cpu": "1250m" }));
        assert_eq!(resources["limits"], json!({ "memory": bytes }));
        assert_eq!(pod["spec"]["nodeSelector"], json!({ "microagent.dev/agent": "true" }));
        assert_eq!(pod["spec"].get("affinity"), None);
    }

    #[test]
    fn it_carries_what_the_workspace_says_of_nodes() {
        let pod = pod(
            json!({ "nodeSelector": { "zone": "a" }, "tolerations": [{ "key": "t" }], "priorityClassName": "high", "schedulerName": "s",
                "affinity": { "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [{ "topologyKey": "k" }] } } }),
            None,
            &[],
        );
        assert_eq!(pod["spec"]["nodeSelector"], json!({ "microagent.dev/agent": "true", "zone": "a" }));
        assert_eq!(pod["spec"]["tolerations"], json!([{ "key": "t" }]));
        assert_eq!((&pod["spec"]["priorityClassName"], &pod["spec"]["schedulerName"]), (&json!("high"), &json!("s")));
        assert!(pod["spec"]["affinity"].get("podAntiAffinity").is_some());
    }

    #[test]
    fn a_node_is_asked_for_by_its_name_in_every_term() {
        let fields = json!([{ "key": "metadata.name", "operator": "In", "values": ["n1"] }]);
        assert_eq!(terms(&pod(json!(null), Some("n1"), &["n2".into()])), json!([{ "matchFields": fields }]));
        let wanted = json!([{ "key": "zone", "operator": "Exists" }]);
        let placement = json!({ "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{ "matchExpressions": wanted }, { "matchExpressions": wanted }] } } } });
        let term = json!({ "matchExpressions": wanted, "matchFields": fields });
        assert_eq!(terms(&pod(placement, Some("n1"), &[])), json!([term, term]));
        let nowhere = json!({ "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{}] } } } });
        assert_eq!(terms(&pod(nowhere, Some("n1"), &[])), json!([{}]), "a term without a requirement matches no node");
    }

    #[test]
    fn lost_nodes_are_kept_away_from_each_by_itself() {
        let avoided = terms(&pod(json!(null), None, &["n1".into(), "n2".into()]));
        let not = |node: &str| json!({ "key": "metadata.name", "operator": "NotIn", "values": [node] });
        assert_eq!(avoided, json!([{ "matchFields": [not("n1"), not("n2")] }]));
    }

    #[test]
    fn room_is_kept_for_as_long_as_the_machine_may_take_to_stop() {
        let pod = pod(json!(null), None, &[]);
        assert_eq!(pod["spec"]["terminationGracePeriodSeconds"], 30);
        assert_eq!(pod["spec"]["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"], 30);
    }
}
