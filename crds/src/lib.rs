//! The `Workspace` resource: its types, defaults and rules, and how a manifest is read. No I/O.
//!
//! The same types make the CRD (`crdgen`), decode objects of the API server, and read files with errors that name the
//! line, the column and the field.

// `KubeSchema` repeats each public struct inside a function, where nothing can be reached.
#![allow(unreachable_pub)]

pub mod canonical;
pub mod condition;
pub mod disks;
pub mod explain;
pub mod files;
pub mod generated;
pub mod health;
mod hint;
pub mod kernel;
pub mod kubernetes;
pub mod lifecycle;
pub mod manifest;
mod manifest_error;
pub mod name;
pub mod network;
mod path;
pub mod placement;
pub mod quantity;
pub mod reason;
pub mod resources;
mod rules;
pub mod schema;
pub mod secrets;
pub mod spec;
pub mod status;
pub mod unsupported;
pub mod validate;
pub mod yaml;

pub use canonical::canonical_spec_hash;
pub use condition::{Condition, ConditionStatus, ConditionType};
pub use disks::{DiskSource, DiskSpec};
pub use explain::{Explained, explain};
pub use files::FileSpec;
pub use health::HealthSpec;
pub use kernel::{KernelSource, KernelSpec};
pub use lifecycle::{Lifecycle, OnDelete};
pub use manifest::{ManifestError, parse};
pub use network::{NetworkMode, NetworkSpec};
pub use placement::{OnNodeLost, Placement};
pub use quantity::{Cpus, Memory};
pub use reason::Reason;
pub use resources::{Resources, RootDisk, RootDiskMode};
pub use secrets::SecretSpec;
pub use spec::{Acceleration, Backend, EnvVar, PowerState, PullPolicy, RunPolicy, SetupStep, Workspace, WorkspaceSpec};
pub use status::{Phase, RunResult, WorkspaceStatus};
pub use unsupported::Origin;

// The root type uses these in its public interface; users need no direct dependency for them.
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
pub use kube::{CustomResourceExt, Resource, ResourceExt};
