//! A `Lease` of Kubernetes that one of several programs holds: placement to lead, a node agent to be the only one of its node.
//!
//! [`decide`] is pure; [`Keeper`] does what it says. No clock of another machine is believed: a lease counts as given up when it
//! has not changed for its duration on the clock of the one who looks, and the holder stops a good while before that.

mod decide;
mod keeper;

pub use decide::{Holding, Seen, Step, Terms, decide};
pub use keeper::{Held, Keeper, LeaseError};
