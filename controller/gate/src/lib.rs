//! The gate: the node agent's HTTPS endpoint, for what the API server of a cluster cannot serve itself. People read the logs of
//! the node's machines through it, run commands in them, and copy files.
//!
//! | request | needs of the cluster | answer |
//! |---|---|---|
//! | `GET /v1alpha1/namespaces/NS/workspaces/NAME/log` | `get` of `workspaces/log` | the log as it stands on the host, and as it grows with `follow=true` |
//! | `POST /v1alpha1/namespaces/NS/workspaces/NAME/exec` | `create` of `workspaces/exec` | 101, then the guest's protocol, of which only [`Exec`](microagent_guest_protocol::Exec) passes |
//! | `POST /v1alpha1/namespaces/NS/workspaces/NAME/cp` | `create` of `workspaces/exec` | the same, of which only [`CopyOut`](microagent_guest_protocol::CopyOut) and [`CopyIn`](microagent_guest_protocol::CopyIn) pass |
//!
//! The query of a log: `follow=true`, `tail=N` (lines of what is there), `since=TIME` (RFC 3339), `console=true` (the serial console
//! in place of the workload's output). Whatever is not known is refused. An error is a `Status` of Kubernetes, as JSON.
//!
//! Who asks shows a certificate of the cluster's client CA or a bearer token. The API server then says whether they may
//! ([`Reviews`]). A stream that was begun goes on when the right to it is taken away, as a kubelet has it.
//!
//! The gate serves a certificate that it made itself. Clients know it by its digest, which the agent publishes on its Node.

mod answer;
mod cache;
mod certificate;
mod client_certificate;
mod door;
mod first;
mod gate;
mod kubernetes;
mod logs;
mod machines;
mod review;
mod route;
mod server;
mod session;

pub use certificate::CertificateError;
pub use gate::{Gate, GateError, Options};
pub use kubernetes::KubeReviews;
pub use machines::{Found, Machines};
pub use review::{Access, Decision, ReviewError, Reviews, User};
pub use route::{UPGRADE, VERSION};
