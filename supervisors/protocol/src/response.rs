//! What a supervisor answers.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Accelerator, ErrorBody, KernelFormat, Machine, PROTOCOL, SnapshotKind, Verb};

/// The answer to one request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Response {
    /// [`PROTOCOL`].
    pub protocol: String,
    /// Whether what was asked for is so now.
    pub ok: bool,
    /// Why not. There if and only if `ok` is false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
    /// The machine after the call; for every verb that has a target, where it could be observed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<Machine>,
    /// For `capabilities`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Capabilities>,
    /// For `check`: each thing that was looked at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Check>,
    /// For `console`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub console: Option<Console>,
    /// For `gc`: the UIDs of the machines that were removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<String>,
    /// Milliseconds that the parts of the call took.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub timings: BTreeMap<String, u64>,
}

impl Response {
    /// It is so.
    #[must_use]
    pub fn ok() -> Self {
        Self {
            protocol: PROTOCOL.to_owned(),
            ok: true,
            error: None,
            machine: None,
            capabilities: None,
            checks: Vec::new(),
            console: None,
            removed: Vec::new(),
            timings: BTreeMap::new(),
        }
    }

    /// It is so, and this is the machine.
    #[must_use]
    pub fn machine(machine: Machine) -> Self {
        Self { machine: Some(machine), ..Self::ok() }
    }

    /// It is not so.
    #[must_use]
    pub fn error(error: ErrorBody) -> Self {
        Self { ok: false, error: Some(error), ..Self::ok() }
    }
}

/// What a supervisor and its host can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Capabilities {
    /// The backend's name: `Qemu`, `Firecracker`, `AppleVf`.
    pub backend: String,
    /// The version of the supervisor.
    pub version: String,
    /// The VMM that was found, with its version; absent when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmm: Option<String>,
    /// The verbs that work.
    pub verbs: Vec<Verb>,
    /// Accelerators that work on this host now, best first. Empty: no machine can be started.
    pub accelerators: Vec<Accelerator>,
    /// Why a better accelerator is not among them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator_reason: Option<String>,
    /// The form of kernel that boots fastest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_format: Option<KernelFormat>,
    /// The most virtual CPUs of one machine.
    pub max_vcpus: u32,
    /// What machines of this backend can have and can do, beyond the verbs.
    #[serde(default)]
    pub features: Features,
}

/// What machines of a backend can have and can do. What is not named here they cannot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Features {
    /// The forms of kernels that boot.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kernel_formats: Vec<KernelFormat>,
    /// Who serves the guest's vsock ports on this host; nothing speaks to the guest when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vsock: Option<VsockProvider>,
    /// The kinds of snapshots that can be made and started from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<SnapshotKind>,
    /// The guest can be given more memory, or asked to give some back, while it runs.
    #[serde(default)]
    pub memory_hotplug: bool,
    /// The ways to a network that a machine can have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub network_modes: Vec<NetworkMode>,
}

/// Who serves a guest's vsock ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum VsockProvider {
    /// The host's kernel, through `/dev/vhost-vsock`.
    Kernel,
    /// A program beside the VMM.
    Program,
    /// The VMM itself.
    Vmm,
}

/// A way to a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum NetworkMode {
    /// A network of the user's own programs, without rights on the host.
    User,
    /// Through a proxy that knows what is allowed.
    Mediated,
}

/// The end of a console log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Console {
    /// The text: the guest's own, with what is not UTF-8 and all control characters but tab and line feed replaced by U+FFFD.
    pub text: String,
    /// Whether there is more before it.
    pub truncated: bool,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Check {
    /// What, in CamelCase: `QemuBinary`, `Kvm`, `VsockDevice`, …
    pub name: String,
    /// Whether it is as it should be.
    pub status: CheckStatus,
    /// What was found.
    pub message: String,
    /// What to do, where something should be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remediation: Option<String>,
}

/// The outcome of a [`Check`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum CheckStatus {
    /// As it should be.
    Ok,
    /// Machines start, but less well than they could.
    Warning,
    /// No machine can start.
    Failed,
}
