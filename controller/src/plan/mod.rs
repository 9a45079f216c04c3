//! The decision: from what is desired, what is observed and what is remembered to the next action and the status. Pure and
//! total: no clock, no file, no process, no randomness of its own.

mod action;
mod backoff;
mod decide;
mod end;
mod event;
mod failure;
mod status;

pub use action::Action;
pub use event::Event;
pub use failure::record_failure;

use jiff::Timestamp;
use microagent_base::Digest;
use microagent_crds::{WorkspaceSpec, WorkspaceStatus};

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

/// The hash of the part of a spec that a running machine cannot change. While it stays the same, a changed spec takes effect in
/// place; when it changes, the machine must be started again.
#[must_use]
pub fn machine_hash(spec: &WorkspaceSpec) -> String {
    let mut fixed = spec.clone();
    let none = WorkspaceSpec::new(String::new());
    fixed.image_pull_policy = none.image_pull_policy;
    fixed.image_pull_secrets = none.image_pull_secrets;
    fixed.run_policy = none.run_policy;
    fixed.power_state = none.power_state;
    fixed.health = none.health;
    fixed.outputs = none.outputs;
    fixed.lifecycle = none.lifecycle;
    fixed.node_name = none.node_name;
    // A spec is made of strings, numbers and lists: it always encodes.
    let text = serde_json::to_value(&fixed).map(|value| value.to_string()).unwrap_or_default();
    Digest::of(text.as_bytes()).hex()
}

#[cfg(test)]
mod tests;
