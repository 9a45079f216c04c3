//! The ends and bounds that `spec.lifecycle` sets: time to live, expiry, idleness, progress.

use jiff::{SignedDuration, Timestamp};
use microagent_supervisor_protocol::Machine;

use super::{
    Input, Notes,
    decide::{Decision, later},
};
use crate::memory::{Expired, Progress};

/// Notes that the end of the workspace has come, and that a new generation lives on.
pub(super) fn take_note(input: &Input<'_>, memory: &mut Notes<'_>) {
    let generation = input.record.generation;
    if memory.expired.as_ref().is_some_and(|expired| expired.generation != generation) {
        memory.to_mut().expired = None;
    }
    if memory.expired.is_some() {
        return;
    }
    if let Some((at, message)) = end(input, memory)
        && at <= input.now
    {
        memory.to_mut().expired = Some(Expired { generation, message });
    }
}

/// When the workspace's end comes, as far as it is known now, and what sets it.
fn end(input: &Input<'_>, memory: &Notes<'_>) -> Option<(Timestamp, String)> {
    let lifecycle = &input.record.workspace.spec.lifecycle;
    let expiry = lifecycle.expires_at.as_ref().map(|at| at.0);
    let ttl = lifecycle.ttl_seconds_after_finished.and_then(|seconds| {
        let finished = memory.finished.as_deref().filter(|hash| hash.is_empty() || *hash == input.machine_hash);
        let at = finished.and(memory.result.as_ref()?.finished_at.as_ref())?;
        Some((later(at.0, SignedDuration::from_secs(i64::from(seconds))), seconds))
    });
    match (expiry, ttl) {
        (Some(expiry), ttl) if ttl.is_none_or(|(at, _)| expiry <= at) => {
            Some((expiry, format!("lifecycle.expiresAt, {expiry}, has come")))
        }
        (_, Some((at, seconds))) => Some((at, format!("the workload ended {seconds} s ago or earlier"))),
        (_, None) => None,
    }
}

/// When a machine counts as idle.
pub(super) enum Idle {
    Now(String),
    At(Timestamp),
    Never,
}

/// Whether nothing has used this machine, whose workload runs, for as long as the spec allows.
pub(super) fn idle(input: &Input<'_>, machine: &Machine) -> Idle {
    let Some(seconds) = input.record.workspace.spec.lifecycle.idle_timeout_seconds else { return Idle::Never };
    let Some(used) = machine.active_at.max(machine.guest.workload_started_at) else { return Idle::Never };
    let at = later(used, SignedDuration::from_secs(i64::from(seconds)));
    if at <= input.now { Idle::Now(format!("nothing has used the machine for {seconds} s")) } else { Idle::At(at) }
}

/// Watches over the deadline of the way to what is wanted, and over the end of the workspace, which must not be slept through.
pub(super) fn watch_progress(input: &Input<'_>, memory: &mut Notes<'_>, decision: &mut Decision) {
    let record = input.record;
    if record.deleted_at.is_none()
        && memory.expired.is_none()
        && let Some((at, _)) = end(input, memory)
    {
        decision.wake = decision.wake.min(at.max(input.now));
    }
    let Some(seconds) = record.workspace.spec.lifecycle.progress_deadline_seconds else {
        if memory.progress.is_some() {
            memory.to_mut().progress = None;
        }
        return;
    };
    if decision.standing.is_settled() || record.deleted_at.is_some() {
        if memory.progress.is_some() {
            memory.to_mut().progress = None;
        }
        return;
    }
    let known = memory.progress.as_ref().filter(|p| p.generation == record.generation && p.since <= input.now);
    let since = match known {
        Some(progress) => progress.since,
        None => {
            memory.to_mut().progress = Some(Progress { generation: record.generation, since: input.now });
            input.now
        }
    };
    let deadline = later(since, SignedDuration::from_secs(i64::from(seconds)));
    if deadline <= input.now {
        decision.overdue = true;
    } else {
        decision.wake = decision.wake.min(deadline);
    }
}
