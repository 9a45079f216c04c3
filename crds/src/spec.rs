//! `Workspace` and its `spec`: what the user asks for.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    disks::DiskSpec,
    files::FileSpec,
    health::HealthSpec,
    kernel::KernelSpec,
    lifecycle::Lifecycle,
    network::NetworkSpec,
    placement::Placement,
    resources::{Resources, RootDisk},
    rules,
    secrets::{LocalObject, SecretSpec},
    status::WorkspaceStatus,
};

/// What the user asks for: an image run in a microVM.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "microagent.dev",
    version = "v1alpha1",
    kind = "Workspace",
    namespaced,
    status = "WorkspaceStatus",
    derive = "PartialEq",
    shortname = "ws",
    category = "microvm",
    doc = "A workspace: an OCI image that runs in a microVM of its own, kept as its spec says.",
    selectable = ".spec.nodeName",
    selectable = ".status.phase",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status",
        description = "Whether the workspace is in the state that was asked for."),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase",
        description = "Where the workspace is in its life."),
    printcolumn(name = "Backend", type_ = "string", json_path = ".status.backend",
        description = "The backend that runs the machine."),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.nodeName",
        description = "The node that the machine is on."),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp",
        description = "Time since the workspace was created."),
    printcolumn(name = "Image", type_ = "string", json_path = ".spec.image", priority = 1,
        description = "The image asked for."),
    printcolumn(name = "Kernel", type_ = "string", json_path = ".status.kernel.version",
        description = "The version of the kernel that the machine runs.", priority = 1),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason",
        description = "Why the workspace is or is not ready.", priority = 1),
    validation = Rule::new("self.metadata.name.size() <= 63")
        .message("a workspace's name has at most 63 characters: it is the guest's host name")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("!has(oldSelf.nodeName) || (has(self.nodeName) && self.nodeName == oldSelf.nodeName) \
    || (has(self.placement) && self.placement.onNodeLost == 'Reschedule')")
    .message("`nodeName` cannot be changed once it is set: the machine and its disks are on that node; \
    with `placement.onNodeLost: Reschedule` it can, and the workspace begins anew").field_path(".nodeName"))]
#[x_kube(validation = Rule::new("!has(self.secrets) || !has(self.env) \
    || self.secrets.all(s, !has(s.env) || !self.env.exists(v, v.name == s.env))")
    .message("a variable is either in `env` or in `secrets`").field_path(".secrets"))]
#[x_kube(validation = Rule::new("!has(self.secrets) || !has(self.files) \
    || self.secrets.all(s, !has(s.path) || !self.files.exists(f, f.path == s.path))")
    .message("a path is either in `files` or in `secrets`").field_path(".secrets"))]
pub struct WorkspaceSpec {
    /// The OCI image whose tree becomes the root disk: a reference (`registry/repository:tag`, `…@sha256:…`), or on the
    /// host `oci-layout:DIR[:tag]`, `oci-archive:FILE`, `docker-archive:FILE`.
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = ("self.matches('^[!-~]+$')", "must be printable ASCII without blanks"))]
    pub image: String,
    /// When the registry is asked: `IfNotPresent` (default), `Always` (each start), `Never`.
    #[serde(default)]
    pub image_pull_policy: PullPolicy,
    /// Secrets of type `kubernetes.io/dockerconfigjson` or `kubernetes.io/dockercfg` in the workspace's namespace with logins to
    /// registries; the first that has the image's is used (Kubernetes only).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<LocalObject>,
    /// What follows when the workload ends: `Always` (default) starts it again, `OnFailure` only after a failure, `Once`
    /// never. `Halted`: it is not started, and stopped when it runs.
    #[serde(default)]
    pub run_policy: RunPolicy,
    /// What the machine is to be doing now: `Running` (default), `Paused` (its CPUs stand still) or `Quarantined`
    /// (it runs, cut off from everything).
    #[serde(default)]
    pub power_state: PowerState,
    /// What runs the machine: `Auto` (default, the best that works on the host), `Firecracker`, `Qemu` or `AppleVf`.
    #[serde(default)]
    pub backend: Backend,
    /// Whether the CPU itself must run the machine's instructions: `Preferred` (default) falls back to translation (TCG), which is
    /// many times slower and whose isolation QEMU does not vouch for; `Required` never does.
    #[serde(default, skip_serializing_if = "Acceleration::is_preferred")]
    pub acceleration: Acceleration,
    /// The kernel that boots the machine.
    #[serde(default)]
    pub kernel: KernelSpec,
    /// How large the machine is.
    #[serde(default)]
    pub resources: Resources,
    /// How the root disk is made from the image.
    #[serde(default)]
    pub root_disk: RootDisk,
    /// Commands that each run once in the life of the workspace, in order, before the workload's first start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub setup: Vec<SetupStep>,
    /// The program to run and its first arguments; takes the place of the image's Entrypoint, and of its Cmd too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 16_384)))]
    #[x_kube(validation = rules::NO_NULS)]
    pub command: Vec<String>,
    /// Arguments of the program; take the place of the image's Cmd.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 16_384)))]
    #[x_kube(validation = rules::NO_NULS)]
    pub args: Vec<String>,
    /// Environment variables, added to the image's Env; the same name takes its place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(validation = rules::UNIQUE_NAMES)]
    pub env: Vec<EnvVar>,
    /// The workload's working directory; made when absent. Default: the image's WorkingDir, else `/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = rules::ABSOLUTE_PATH)]
    pub working_dir: Option<String>,
    /// The workload's user as `user` or `user:group`, by name or number, looked up in the image. Default: the image's
    /// User, else root.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(validation = rules::OWNER)]
    pub user: Option<String>,
    /// Files placed in the guest at every start, before setup.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = ("self.all(a, self.exists_one(b, b.path == a.path))", "every file must have a path of its own"))]
    pub files: Vec<FileSpec>,
    /// Disks mounted into the guest beside the root disk.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = rules::UNIQUE_NAMES)]
    #[x_kube(validation = ("self.all(a, self.exists_one(b, b.mountPath == a.mountPath))",
        "every disk must have a mountPath of its own"))]
    pub disks: Vec<DiskSpec>,
    /// Values that reach the guest's memory only: never a disk of the guest, never a log.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = rules::UNIQUE_NAMES)]
    #[x_kube(validation = ("self.all(a, !has(a.env) || self.exists_one(b, has(b.env) && b.env == a.env))",
        "every secret must have a variable of its own"))]
    #[x_kube(validation = ("self.all(a, !has(a.path) || self.exists_one(b, has(b.path) && b.path == a.path))",
        "every secret must have a path of its own"))]
    pub secrets: Vec<SecretSpec>,
    /// What the machine can reach, and what can reach it. Default: nothing.
    #[serde(default)]
    pub network: NetworkSpec,
    /// When the workload counts as healthy. Without it: while it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthSpec>,
    /// Files and directories of the guest copied out as artifacts when the workload ends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = rules::UNIQUE_NAMES)]
    pub outputs: Vec<OutputSpec>,
    /// When the workspace ends, and how.
    #[serde(default)]
    pub lifecycle: Lifecycle,
    /// Which nodes may take the workspace, and what follows when its node is lost (Kubernetes only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// The node that owns the workspace (Kubernetes only). Without it one is picked by the scheduler, as for a Pod. Cannot
    /// be changed once it is set, unless `placement.onNodeLost` is `Reschedule`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub node_name: Option<String>,
}

impl WorkspaceSpec {
    /// A spec that runs `image` as it says itself, everything else at its default.
    #[must_use]
    pub fn new(image: impl Into<String>) -> Self {
        Self {
            image: image.into(),
            image_pull_policy: PullPolicy::default(),
            image_pull_secrets: Vec::new(),
            run_policy: RunPolicy::default(),
            power_state: PowerState::default(),
            backend: Backend::default(),
            acceleration: Acceleration::default(),
            kernel: KernelSpec::default(),
            resources: Resources::default(),
            root_disk: RootDisk::default(),
            setup: Vec::new(),
            command: Vec::new(),
            args: Vec::new(),
            env: Vec::new(),
            working_dir: None,
            user: None,
            files: Vec::new(),
            disks: Vec::new(),
            secrets: Vec::new(),
            network: NetworkSpec::default(),
            health: None,
            outputs: Vec::new(),
            lifecycle: Lifecycle::default(),
            placement: None,
            node_name: None,
        }
    }
}

/// When the registry is asked for the image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum PullPolicy {
    /// Each time the machine is started.
    Always,
    /// When the host does not have the image.
    #[default]
    IfNotPresent,
    /// Never: the host must have the image.
    Never,
}

/// What follows when the workload ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum RunPolicy {
    /// It is started again.
    #[default]
    Always,
    /// It is started again when it failed.
    OnFailure,
    /// Nothing: it ran once.
    Once,
    /// It is not to run.
    Halted,
}

/// What the machine is to be doing now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum PowerState {
    /// It runs.
    #[default]
    Running,
    /// Its CPUs stand still.
    Paused,
    /// It runs, cut off from everything.
    Quarantined,
}

/// What runs the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Backend {
    /// The best that works on the host.
    #[default]
    Auto,
    /// Firecracker, on Linux with KVM.
    Firecracker,
    /// QEMU, with KVM when it works and without it otherwise.
    Qemu,
    /// Apple's Virtualization.framework, on macOS.
    AppleVf,
}

/// Whether a machine may run translated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Acceleration {
    /// Where the host's CPU cannot run the machine, a translator does.
    #[default]
    Preferred,
    /// The machine is not started where only a translator could run it.
    Required,
}

impl Acceleration {
    /// What is so is not written, so that specs are the same text as before there was the field.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    fn is_preferred(&self) -> bool {
        *self == Self::Preferred
    }
}

/// A command of the setup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SetupStep {
    /// Given to the image's `/bin/sh -c`, as root.
    #[schemars(length(min = 1, max = 65_536))]
    #[x_kube(validation = rules::NO_NUL)]
    pub run: String,
}

/// An environment variable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnvVar {
    /// The name: 1 to 128 characters, without `=`.
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(validation = rules::ENV_NAME)]
    pub name: String,
    /// The value, taken as it stands. Default: empty.
    #[serde(default)]
    #[schemars(length(max = 32_768))]
    #[x_kube(validation = rules::NO_NUL)]
    pub value: String,
}

/// A file or directory of the guest that is copied out as an artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OutputSpec {
    /// The artifact's name, an RFC 1123 label, each once.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rules::LABEL)]
    pub name: String,
    /// What is copied out. Absolute, without `..`.
    #[schemars(length(min = 2, max = 1024))]
    #[x_kube(validation = rules::ABSOLUTE_PATH)]
    pub path: String,
}
