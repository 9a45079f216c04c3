//! Failures and when they are tried again. They are never final: a person may mend the world without touching the manifest.

use jiff::Timestamp;

use super::{
    Action, Input, Notes, backoff,
    decide::{Decision, Standing},
};
use crate::{
    Record,
    memory::{Failure, Fault, Memory, Stage},
    observed::{MachineSight, Work},
};

/// Counts one more failure of a stage. A failure of another generation starts a new count.
pub fn record_failure(record: &Record, memory: &mut Memory, stage: Stage, fault: Fault, now: Timestamp) {
    let generation = record.generation;
    let last = memory.failures.get(&stage).filter(|last| last.generation == generation);
    let count = last.map_or(1, |last| last.count.saturating_add(1));
    let next_attempt = backoff::next_attempt(now, count, &record.uid);
    memory.failures.insert(stage, Failure { fault, count, generation, next_attempt, retrying: false });
}

/// Takes note of work that failed outside a pass, and forgets failures that are over.
pub(super) fn take_note(input: &Input<'_>, memory: &mut Notes<'_>) {
    let observed = input.observed;
    let generation = input.record.generation;
    let failed = [
        (Stage::Image, fault(&observed.image)),
        (Stage::Rootfs, fault(&observed.rootfs)),
        (Stage::Kernel, fault(&observed.kernel)),
    ];
    for (stage, fault) in failed {
        let Some(fault) = fault else { continue };
        let known = memory.failures.get(&stage);
        if !known.is_some_and(|last| last.generation == generation && !last.retrying) {
            record_failure(input.record, memory.to_mut(), stage, fault.clone(), input.now);
        }
    }
    if memory.failures.is_empty() {
        return;
    }
    // What an earlier boot did says nothing of the present one.
    let boot = memory.boot.as_ref().map(|boot| boot.id.clone());
    let seen = match &observed.machine {
        MachineSight::Seen { machine, .. } => Some(&**machine),
        _ => None,
    };
    let present = seen.filter(|machine| machine.identity.as_ref().map(|identity| &identity.boot_id) == boot.as_ref());
    let alive = seen.filter(|machine| super::decide::is_alive(machine));
    let is_over = |stage: Stage, failure: &Failure| match stage {
        _ if failure.generation != generation => true,
        Stage::Image => observed.image.is_ready(),
        Stage::Rootfs => observed.rootfs.is_ready(),
        Stage::Kernel => observed.kernel.is_ready(),
        Stage::Disks => observed.disks.complete,
        Stage::Start => present.is_some_and(|machine| machine.guest.ready),
        Stage::Guest => present.is_some_and(|machine| machine.guest.workload_started_at.is_some()),
        Stage::Power => alive.is_none_or(|machine| super::attend::is_switched(input, machine)),
        Stage::Halt => alive.is_none(),
        // Each is over with what it holds up: the next start, or the removal, whose last step is to forget what was deleted.
        Stage::Outputs => {
            let kept = observed.kept_outputs.as_ref().map(|kept| &kept.boot_id);
            seen.is_none_or(|machine| machine.identity.as_ref().map(|identity| &identity.boot_id) == kept)
        }
        Stage::Delete => {
            let is_left = seen.is_some() || observed.disks.any || observed.withdrawable;
            input.record.deleted_at.is_none() && !is_left
        }
    };
    let over: Vec<Stage> =
        memory.failures.iter().filter(|(stage, f)| is_over(**stage, f)).map(|(stage, _)| *stage).collect();
    if !over.is_empty() {
        memory.to_mut().failures.retain(|stage, _| !over.contains(stage));
    }
}

/// What became of an attempt to act.
pub(super) enum Attempt {
    Now(Decision),
    Later(Decision),
}

impl Attempt {
    pub(super) fn decision(self) -> Decision {
        match self {
            Self::Now(decision) | Self::Later(decision) => decision,
        }
    }
}

/// The action, unless its stage failed too recently.
pub(super) fn attempt(
    input: &Input<'_>,
    memory: &mut Notes<'_>,
    stage: Stage,
    action: Action,
    standing: Standing,
) -> Attempt {
    if let Some(failure) = memory.failures.get(&stage) {
        if !backoff::is_over(failure.next_attempt, input.now) {
            let standing = Standing::Retrying(stage, failure.fault.clone());
            return Attempt::Later(Decision::waiting(standing, failure.next_attempt));
        }
        if !failure.retrying
            && let Some(failure) = memory.to_mut().failures.get_mut(&stage)
        {
            failure.retrying = true;
        }
    }
    Attempt::Now(Decision::acting(input, action, standing))
}

fn fault<T>(work: &Work<T>) -> Option<&Fault> {
    match work {
        Work::Failed(fault) => Some(fault),
        _ => None,
    }
}
