//! The only door to effects. `plan` decides, a [`World`] does; tests put a world of their own behind the same door.

mod backend;
mod disks;
mod facts;
mod fault;
mod guest;
mod guest_init;
mod host;
mod jobs;
mod kernel;
mod sight;
mod watch;

use std::future::Future;

pub use guest_init::{GUEST_INIT_VARIABLE, find_guest_init};
pub use host::Host;

use crate::{Record, memory::Fault, observed::Observed, plan::Action};

/// Everything outside the reconciler.
pub trait World: Send + Sync + 'static {
    /// Looks at all that concerns one workspace. Changes nothing.
    fn observe(&self, record: &Record) -> impl Future<Output = Observed> + Send;

    /// Does one action. Each is idempotent: done twice, or begun, interrupted and done again, it ends in the same state. Long
    /// work is only begun; its progress and its end are observed.
    ///
    /// # Errors
    /// Why it could not be done, for the workspace's conditions.
    fn act(&self, record: &Record, action: &Action) -> impl Future<Output = Result<(), Fault>> + Send;
}
