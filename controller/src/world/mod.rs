//! The only door to effects. `plan` decides, a [`World`] does; tests put a world of their own behind the same door.

mod backend;
mod blocking;
mod choice;
mod commit;
mod disks;
mod facts;
mod fault;
mod guest;
mod guest_init;
mod host;
mod jobs;
mod keep;
mod kernel;
mod owners;
mod secrets;
mod sight;
mod watch;

use std::future::Future;

use jiff::Timestamp;

pub use commit::{CommitError, CommitRequest, Committed, commit};
pub use guest_init::{GUEST_INIT_VARIABLE, find_guest_init};
pub use host::Host;
pub use jobs::JobSight;
pub use kernel::{bootable, needs, qemu_options};
pub(crate) use secrets::{Supplies, referenced, unavailable};

use crate::{Record, memory::Fault, observed::Observed, plan::Action};

/// What the admin endpoint asks of a host. Nothing of it changes anything.
pub trait HostView: Send + Sync + 'static {
    /// The pulls, builds and installs that are under way.
    fn jobs(&self) -> Vec<JobSight>;

    /// The backend that a new machine would get. May block for as long as a supervisor takes to say what it can do.
    ///
    /// # Errors
    /// Why no machine could be started.
    fn backend(&self) -> Result<&'static str, Fault>;
}

/// Everything outside the reconciler.
pub trait World: Send + Sync + 'static {
    /// The time.
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    /// A name for a boot, which no boot had before.
    fn fresh_boot_id(&self) -> String {
        uuid::Uuid::new_v4().to_string()
    }

    /// Looks at all that concerns one workspace. Changes nothing.
    fn observe(&self, record: &Record) -> impl Future<Output = Observed> + Send;

    /// Does one action. Each is idempotent: done twice, or begun, interrupted and done again, it ends in the same state. Long
    /// work is only begun; its progress and its end are observed.
    ///
    /// # Errors
    /// Why it could not be done, for the workspace's conditions.
    fn act(&self, record: &Record, action: &Action) -> impl Future<Output = Result<(), Fault>> + Send;

    /// The UIDs of all machines of which something is on the host.
    fn machines(&self) -> impl Future<Output = Vec<String>> + Send;

    /// Ends a machine that belongs to no workspace and removes it; what it wrote is kept apart.
    ///
    /// # Errors
    /// Why it could not be done; call it again then.
    fn sweep(&self, uid: &str) -> impl Future<Output = Result<(), Fault>> + Send;
}
