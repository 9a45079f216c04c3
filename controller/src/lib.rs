//! The reconciler: makes what is observed match what is desired, and keeps it so.
//!
//! ```text
//! source ─► desired ─► plan (pure) ─► world (effects) ─► sink
//!                        ▲               │
//!                        └── observed ◄──┘
//! ```

pub mod admin;
pub mod desired;
mod drive;
mod image_use;
pub mod journal;
pub mod key;
pub mod kubernetes;
pub mod memory;
pub mod metrics;
pub mod observed;
pub mod paths;
pub mod plan;
pub mod preview;
pub mod queue;
pub mod reconcile;
pub mod reconcile_id;
pub mod record;
pub mod records;
pub mod registries;
pub mod request;
pub mod run;
#[cfg(test)]
mod sim;
pub mod sink;
pub mod source;
pub mod sweep;
pub mod world;

pub use admin::AdminAddress;
pub use image_use::image_uses;
pub use key::Key;
pub use paths::Paths;
pub use record::{Problem, Record};
pub use records::Records;
pub use registries::registries;
pub use run::{ControllerError, Options, run, running};
pub use world::find_guest_init;
