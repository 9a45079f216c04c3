//! Placement: finds nodes for workspaces that name none, through kube-scheduler.
//!
//! ```text
//! Workspace without nodeName ─► reservation Pod ─► kube-scheduler ─► Pod's node ─► Workspace's nodeName
//! ```
//!
//! Quota, taints, preemption and the cluster autoscaler see a Pod of the machine's size, and so just work. What is to be done is
//! decided by [`decide()`], a pure function; the rest of the crate sees and acts. Several may run: the one that holds the Lease acts.

mod act;
mod admin;
pub mod agents;
pub mod decide;
pub mod facts;
mod metrics;
mod pace;
pub mod reservation;
mod run;
pub mod view;
mod watch;

pub use decide::decide;
pub use reservation::Reservation;
pub use run::{Options, PlacementError, run};
