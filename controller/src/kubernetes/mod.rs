//! The agent of a node: the reconciler of a host, fed by the `Workspace` objects of an API server that name the node.
//!
//! ```text
//! API server ─► follow ─► claims ─► plan (pure) ─► node (host, finalizer) ─► status file ─► publisher ─► API server
//! ```
//!
//! What the agent does for its machines never waits for the API server: what was wanted last is in the records of the host, and is
//! kept up while nobody can be asked. Only what is new needs it: before the first disk of a workspace is made, the finalizer
//! must be on its object.

mod claims;
mod client;
mod cluster;
mod doubt;
mod events;
mod follow;
mod gate;
mod identity;
mod node;
mod object;
mod publisher;
mod run;
mod secrets;
mod standing;
mod status;
mod world;

pub use client::paced_client;
pub use identity::IdentityError;
pub(crate) use identity::refuse_for_folders;
pub use run::{NodeOptions, run};
