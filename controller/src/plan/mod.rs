//! The decision: from what is desired, what is observed and what is remembered to the next action and the status. Pure and
//! total: no clock, no file, no process, no randomness of its own.

mod action;
mod backoff;
pub mod change;
mod decide;
mod end;
mod event;
mod failure;
mod status;

pub use action::Action;
pub use change::machine_hash;
pub use event::Event;
pub use failure::record_failure;

use jiff::Timestamp;
use microagent_crds::WorkspaceStatus;

use crate::{Record, memory::Memory, observed::Observed};

/// All that a pass knows.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// What is desired and remembered.
    pub record: &'a Record,
    /// What is true.
    pub observed: &'a Observed,
    /// The status as it was published last.
    pub previous: &'a WorkspaceStatus,
    /// The time.
    pub now: Timestamp,
    /// A boot id that was never used: taken when this pass decides to start a machine.
    pub fresh_boot_id: &'a str,
}

/// All that a pass decides.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The next thing to do; nothing when everything is as it should be or something must be waited for.
    pub next: Option<Action>,
    /// What to remember. Durable before `next` is done.
    pub memory: Memory,
    /// What to publish.
    pub status: WorkspaceStatus,
    /// What to tell.
    pub events: Vec<Event>,
    /// When to look again, if nothing happens before.
    pub wake: Timestamp,
}

/// Decides one pass.
#[must_use]
pub fn plan(input: &Input<'_>) -> Plan {
    let mut memory = input.record.memory.clone();
    end::take_note(input, &mut memory);
    failure::take_note(input, &mut memory);
    let decision = decide::decide(input, &mut memory);
    let status = status::status(input, &memory, &decision);
    let events = event::transitions(input.previous, &status);
    Plan { next: decision.next, memory, status, events, wake: decision.wake }
}

#[cfg(test)]
mod tests;
