//! `spec.network`: what the machine can reach, and what can reach it.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the machine can reach, and what can reach it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("!has(self.egress) || self.mode == 'Mediated'")
    .message("`egress` goes with `mode: Mediated`").field_path(".egress"))]
pub struct NetworkSpec {
    /// `None` (default): no network. `Mediated`: only what `egress.allow` names, through a proxy on the host. `User`:
    /// the host's own network, through user-mode translation.
    #[serde(default)]
    pub mode: NetworkMode,
    /// Guest ports that the host listens for. They work in every mode.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = ("self.all(a, !has(a.hostPort) || \
        self.exists_one(b, has(b.hostPort) && b.hostPort == a.hostPort && b.hostIP == a.hostIP))",
        "each pair of `hostIP` and `hostPort` can be used once"))]
    pub ports: Vec<PortSpec>,
    /// What the guest may reach, with `mode: Mediated`. Without it: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<EgressSpec>,
}

/// The kinds of network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum NetworkMode {
    /// No network.
    #[default]
    None,
    /// Through a proxy on the host that allows what is named.
    Mediated,
    /// Through user-mode translation on the host.
    User,
}

/// A TCP port of the guest that the host listens for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PortSpec {
    /// The TCP port in the guest, 1 to 65535.
    #[schemars(range(min = 1, max = 65535))]
    pub guest_port: u16,
    /// The TCP port on the host, 1 to 65535. Without it: one that is free, reported in `status.ports`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub host_port: Option<u16>,
    /// The address on the host, IPv4 or IPv6. Default: 127.0.0.1, reachable from the host only.
    #[serde(rename = "hostIP", default = "default_host_ip")]
    #[schemars(length(min = 2, max = 45))]
    #[x_kube(validation = ("isIP(self)", "must be an IPv4 or IPv6 address"))]
    pub host_ip: String,
}

fn default_host_ip() -> String {
    "127.0.0.1".to_owned()
}

/// What the guest may reach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EgressSpec {
    /// The destinations that are allowed. Empty: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub allow: Vec<EgressRule>,
}

/// A destination that is allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EgressRule {
    /// A host name, `*.` and a domain for all names below it, or an IP address.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = ("isIP(self) || self.matches('^([*][.])?[a-z0-9]([a-z0-9-]*[a-z0-9])?([.][a-z0-9]([a-z0-9-]*[a-z0-9])?)*$')",
        "must be a lower-case host name, `*.` and a domain, or an IP address"))]
    pub host: String,
    /// The TCP ports allowed, each 1 to 65535. Default: 443.
    #[serde(default = "default_egress_ports")]
    #[schemars(length(min = 1, max = 16), inner(range(min = 1, max = 65535)))]
    pub ports: Vec<u16>,
}

fn default_egress_ports() -> Vec<u16> {
    vec![443]
}
