//! The decision: from what is desired, what is observed and what is remembered to the next action and the status. Pure and
//! total: no clock, no file, no process, no randomness of its own.
//!
//! The order of a pass is the order of [`plan()`]: what the world has done is noted, then what is to be done is decided, then both
//! are told. A workspace that is as it should be costs no allocation to speak of: memory and status are built only when they differ.

mod action;
mod attend;
pub mod backoff;
pub mod change;
mod decide;
mod end;
mod event;
mod failure;
mod halt;
mod lifecycle;
mod remove;
mod restart;
mod start;
mod status;

pub use action::Action;
pub use change::{MachineHashes, machine_hash};
pub use event::Event;
pub use failure::record_failure;
pub use restart::RESTART_ANNOTATION;

#[cfg(test)]
pub(crate) use backoff::draw;

use std::borrow::Cow;

use jiff::Timestamp;
use microagent_crds::WorkspaceStatus;

use crate::{Record, memory::Memory, observed::Observed};

/// All that a pass knows.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// What is desired and remembered.
    pub record: &'a Record,
    /// [`machine_hash`] of the record's spec.
    pub machine_hash: &'a str,
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
    /// What to remember, when it differs from what is remembered. Durable before `next` is done.
    pub memory: Option<Memory>,
    /// What to publish, when it differs from what was published last.
    pub status: Option<WorkspaceStatus>,
    /// What to tell.
    pub events: Vec<Event>,
    /// When to look again, if nothing happens before.
    pub wake: Timestamp,
}

/// What a pass remembers: the record's own memory until something is to be remembered otherwise.
type Notes<'a> = Cow<'a, Memory>;

/// Decides one pass.
#[must_use]
pub fn plan(input: &Input<'_>) -> Plan {
    let mut memory = Notes::Borrowed(&input.record.memory);
    end::take_note(input, &mut memory);
    failure::take_note(input, &mut memory);
    lifecycle::take_note(input, &mut memory);
    let mut decision = decide::decide(input, &mut memory);
    lifecycle::watch_progress(input, &mut memory, &mut decision);
    let status = status::status(input, &memory, &decision);
    let events = status.as_ref().map(|status| event::transitions(input.previous, status)).unwrap_or_default();
    let memory = match memory {
        Cow::Owned(memory) if memory != input.record.memory => Some(memory),
        _ => None,
    };
    Plan { next: decision.next, memory, status, events, wake: decision.wake }
}

#[cfg(test)]
mod tests;
