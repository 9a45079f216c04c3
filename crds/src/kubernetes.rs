//! The names that the programs of a cluster agree on: what one writes, another reads.

/// The namespace of the system: agents, placement, and their Leases.
pub const SYSTEM_NAMESPACE: &str = "microagent-system";

/// The service account of the node agents.
pub const AGENT_ACCOUNT: &str = "microagent-agent";
/// The service account of placement.
pub const PLACEMENT_ACCOUNT: &str = "microagent-placement";

/// The ClusterRole that lets the node agents read Secrets: bound to nobody but by a RoleBinding in each namespace whose workspaces
/// use some.
pub const AGENT_SECRETS_ROLE: &str = "microagent-agent-secrets";

/// The field manager of what a node agent applies: the status of its workspaces, labels and annotations of its node.
pub const AGENT_MANAGER: &str = "microagent-agent";
/// The field manager of what placement applies: the condition `Scheduled`, and reservation Pods.
pub const PLACEMENT_MANAGER: &str = "microagent-placement";
/// The field manager of what the command line applies: whole workspaces.
pub const CLI_MANAGER: &str = "microagent";

/// The `reportingController` of the Events of node agents.
pub const AGENT_REPORTER: &str = "microagent.dev/agent";
/// The `reportingController` of the Events of placement.
pub const PLACEMENT_REPORTER: &str = "microagent.dev/placement";

/// The finalizer on a Workspace that the agent holds only while its host has state of it.
pub const HOST_STATE_FINALIZER: &str = "microagent.dev/host-state";
/// The annotation that gives up what a lost node has of a Workspace which is being deleted: with the text `true`,
/// placement takes [`HOST_STATE_FINALIZER`] away.
pub const ABANDON_ANNOTATION: &str = "microagent.dev/abandon";

/// The Lease of the placement that leads, in [`SYSTEM_NAMESPACE`].
pub const PLACEMENT_LEASE: &str = "microagent-placement";
/// How long the Lease of placement holds without being renewed, in seconds.
pub const PLACEMENT_LEASE_SECONDS: u16 = 15;
/// How often the Lease of placement is renewed, in seconds.
pub const PLACEMENT_RENEW_SECONDS: u16 = 5;

/// The start of the name of an agent's Lease; the node's name follows.
pub const AGENT_LEASE_PREFIX: &str = "agent-";
/// How long the Lease of an agent holds without being renewed, in seconds. After that its node counts as lost.
pub const AGENT_LEASE_SECONDS: u16 = 60;
/// How often the Lease of an agent is renewed, in seconds.
pub const AGENT_RENEW_SECONDS: u16 = 20;

/// The label of a node on which an agent has served, with the text `true`.
pub const AGENT_LABEL: &str = "microagent.dev/agent";
/// The label of a node with the backend that its agent would pick, such as `Qemu`.
pub const BACKEND_LABEL: &str = "microagent.dev/backend";
/// The label of a node that tells whether KVM works there: `true` or `false`.
pub const KVM_LABEL: &str = "microagent.dev/kvm";
/// The annotation of a node with the address of its agent's gate: `https://ADDRESS:PORT`.
pub const GATE_ANNOTATION: &str = "microagent.dev/gate";
/// The annotation of a node with the SHA-256 of the DER of the certificate that its gate serves: `sha256:HEX`.
pub const GATE_CERTIFICATE_ANNOTATION: &str = "microagent.dev/gate-certificate";
/// The annotation of a node with what its agent tells of the host, as JSON.
pub const FACTS_ANNOTATION: &str = "microagent.dev/facts";

/// The end of the name of a reservation Pod; the workspace's name stands before it.
pub const RESERVATION_SUFFIX: &str = "-microvm";
/// The only container of a reservation Pod.
pub const RESERVATION_CONTAINER: &str = "reservation";
/// The label of what a program manages, as Kubernetes recommends it.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// The text of [`MANAGED_BY_LABEL`] on reservation Pods.
pub const MANAGED_BY_PLACEMENT: &str = "microagent-placement";
/// The label of a reservation Pod with the name of its workspace.
pub const WORKSPACE_LABEL: &str = "microagent.dev/workspace";
/// The label of a reservation Pod with the UID of its workspace.
pub const WORKSPACE_UID_LABEL: &str = "microagent.dev/workspace-uid";

/// The name of the Lease of a node's agent.
#[must_use]
pub fn agent_lease(node: &str) -> String {
    format!("{AGENT_LEASE_PREFIX}{node}")
}

/// The name of a workspace's reservation Pod: at most 71 characters.
#[must_use]
pub fn reservation_pod(workspace: &str) -> String {
    format!("{workspace}{RESERVATION_SUFFIX}")
}
