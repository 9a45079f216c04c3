//! Ending a machine: politely first, by force when that takes too long.

use jiff::{SignedDuration, Timestamp};
use microagent_supervisor_protocol::{Machine, MachineState};

use super::{
    Action, Input, Notes, backoff,
    decide::{AWAITING, Decision, Standing, later},
};
use crate::memory::{HaltAsked, HaltCause, Stage};

/// How long after the grace period a machine that was asked to end is ended by force, should its supervisor not have done so. The
/// guest's outputs are copied out in that time.
const MARGIN: SignedDuration = SignedDuration::from_secs(90);
/// How long a machine may take to say that it is halting, before it is asked again: the controller may have been killed before it
/// came to ask, or the supervisor may not have heard.
const ASK_AGAIN: SignedDuration = SignedDuration::from_secs(5);

/// Asks the machine to end, and sees that it does. A cause that holds by itself is not replaced by one that does not.
pub(super) fn halt(
    input: &Input<'_>,
    memory: &mut Notes<'_>,
    machine: &Machine,
    cause: HaltCause,
    standing: Standing,
) -> Decision {
    let now = input.now;
    let grace_seconds = input.record.workspace.spec.lifecycle.termination_grace_period_seconds;
    let boot_id = machine.identity.as_ref().map_or("", |identity| &identity.boot_id);
    let failed = memory.failures.get(&Stage::Halt);
    let has_failed = failed.is_some();
    if let Some(failure) = failed.filter(|failure| !backoff::is_over(failure.next_attempt, now)) {
        return Decision::waiting(Standing::Retrying(Stage::Halt, failure.fault.clone()), failure.next_attempt);
    }
    // The clock was set back: what is in the future was now.
    if memory.halt.as_ref().is_some_and(|halt| halt.asked_at > now)
        && let Some(halt) = &mut memory.to_mut().halt
    {
        halt.at = halt.at.min(now);
        halt.asked_at = halt.asked_at.min(now);
    }
    let Some(asked) = memory.halt.as_ref().filter(|halt| halt.boot_id == boot_id) else {
        memory.to_mut().halt = Some(HaltAsked { boot_id: boot_id.to_owned(), at: now, asked_at: now, cause });
        return Decision::acting(input, Action::HaltMachine { grace_seconds }, standing);
    };
    let end = later(asked.at, SignedDuration::from_secs(i64::from(grace_seconds)) + MARGIN);
    if now >= end || has_failed {
        // Asked by force once, and then again only in time: a supervisor may say that it did and not have done.
        let due = later(asked.asked_at, ASK_AGAIN);
        if now < due && !has_failed {
            return Decision::waiting(standing, due);
        }
        remember(memory, now, cause);
        return Decision::acting(input, Action::KillMachine, standing);
    }
    if machine.state != MachineState::Halting {
        let due = later(asked.asked_at, ASK_AGAIN);
        if now < due {
            return Decision::waiting(standing, due);
        }
        remember(memory, now, cause);
        return Decision::acting(input, Action::HaltMachine { grace_seconds }, standing);
    }
    Decision::waiting(standing, end.min(later(now, AWAITING)))
}

fn remember(memory: &mut Notes<'_>, asked_at: Timestamp, cause: HaltCause) {
    if let Some(halt) = &mut memory.to_mut().halt {
        halt.asked_at = asked_at;
        if halt.cause == HaltCause::Unwanted {
            halt.cause = cause;
        }
    }
}
