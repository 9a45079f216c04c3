//! `spec.health`: when the workload counts as healthy. The field names are those of a Pod's probe.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rules;

/// When the workload counts as healthy: exactly one of `exec`, `httpGet` and `tcpSocket`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = ("[has(self.exec), has(self.httpGet), has(self.tcpSocket)].exists_one(given, given)",
    "give exactly one of `exec`, `httpGet` and `tcpSocket`"))]
pub struct HealthSpec {
    /// A command run in the guest; healthy when it exits with 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec: Option<ExecProbe>,
    /// An HTTP request made in the guest; healthy when the status is 200 to 399.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_get: Option<HttpProbe>,
    /// A TCP connection made in the guest; healthy when it opens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_socket: Option<TcpProbe>,
    /// Seconds from the workload's start to the first probe, 0 to 86400. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 86_400))]
    pub initial_delay_seconds: u32,
    /// Seconds between probes, 1 to 3600. Default: 10.
    #[serde(default = "default_period")]
    #[schemars(range(min = 1, max = 3600))]
    pub period_seconds: u32,
    /// Seconds after which a probe without an answer has failed, 1 to 3600. Default: 1.
    #[serde(default = "default_timeout")]
    #[schemars(range(min = 1, max = 3600))]
    pub timeout_seconds: u32,
    /// Successes in a row that make it healthy after a failure, 1 to 100. Default: 1.
    #[serde(default = "default_success")]
    #[schemars(range(min = 1, max = 100))]
    pub success_threshold: u32,
    /// Failures in a row that make it unhealthy, 1 to 100. Default: 3.
    #[serde(default = "default_failure")]
    #[schemars(range(min = 1, max = 100))]
    pub failure_threshold: u32,
}

fn default_period() -> u32 {
    10
}

fn default_timeout() -> u32 {
    1
}

fn default_success() -> u32 {
    1
}

fn default_failure() -> u32 {
    3
}

/// A command run in the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExecProbe {
    /// Program and arguments, run without a shell.
    #[schemars(length(min = 1, max = 64), inner(length(max = 4096)))]
    #[x_kube(validation = rules::NO_NULS)]
    pub command: Vec<String>,
}

/// An HTTP request made in the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpProbe {
    /// The path asked for. Default: `/`.
    #[serde(default = "default_http_path")]
    #[schemars(length(min = 1, max = 2048))]
    #[x_kube(validation = ("self.matches('^/[!-~]*$')", "must start with `/` and have no blanks"))]
    pub path: String,
    /// The TCP port in the guest, 1 to 65535.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// The host name or address that is asked. Default: the guest's 127.0.0.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub host: Option<String>,
    /// `HTTP` (default) or `HTTPS`, whose certificate is not verified.
    #[serde(default)]
    pub scheme: HttpScheme,
    /// Headers added to the request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub http_headers: Vec<HttpHeader>,
}

fn default_http_path() -> String {
    "/".to_owned()
}

/// The protocol of an HTTP probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum HttpScheme {
    /// Plain HTTP.
    #[default]
    Http,
    /// HTTP over TLS.
    Https,
}

/// A header of an HTTP probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpHeader {
    /// The header's name.
    #[schemars(length(min = 1, max = 256))]
    #[x_kube(validation = ("self.matches('^[A-Za-z0-9-]+$')", "must be letters, digits and `-`"))]
    pub name: String,
    /// The header's value.
    #[schemars(length(max = 4096))]
    #[x_kube(validation = (r"!self.matches('[\\x00-\\x1f\\x7f]')", "must not contain control characters"))]
    pub value: String,
}

/// A TCP connection made in the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpProbe {
    /// The TCP port in the guest, 1 to 65535.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// The host name or address that is asked. Default: the guest's 127.0.0.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub host: Option<String>,
}
