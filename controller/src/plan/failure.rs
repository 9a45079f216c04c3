//! Failures and when they are tried again. They are never final: a person may mend the world without touching the manifest.

use jiff::Timestamp;

use super::{Input, backoff};
use crate::{
    Record,
    memory::{Failure, Fault, Memory, Stage},
    observed::{MachineSight, Work},
};

/// Counts one more failure of a stage. A failure of another stage, or of another generation, starts a new count.
pub fn record_failure(record: &Record, memory: &mut Memory, stage: Stage, fault: Fault, now: Timestamp) {
    let count = match &memory.failure {
        Some(last) if last.stage == stage && last.generation == record.generation => last.count.saturating_add(1),
        _ => 1,
    };
    let next_attempt = backoff::next_attempt(now, count, &record.uid);
    let generation = record.generation;
    memory.failure = Some(Failure { stage, fault, count, generation, next_attempt, retrying: false });
}

/// Takes note of work that failed outside a pass, and forgets failures that are over.
pub(super) fn take_note(input: &Input<'_>, memory: &mut Memory) {
    let observed = input.observed;
    let failed = [
        (Stage::Image, fault(&observed.image)),
        (Stage::Rootfs, fault(&observed.rootfs)),
        (Stage::Kernel, fault(&observed.kernel)),
    ];
    for (stage, fault) in failed {
        let Some(fault) = fault else { continue };
        let known = memory
            .failure
            .as_ref()
            .is_some_and(|last| last.stage == stage && last.generation == input.record.generation && !last.retrying);
        if !known {
            record_failure(input.record, memory, stage, fault.clone(), input.now);
        }
    }
    // What an earlier boot did says nothing of the present one.
    let present = |memory: &Memory| match &observed.machine {
        MachineSight::Seen { machine, .. } if memory.boot.as_ref().is_some_and(|boot| is_boot(machine, &boot.id)) => {
            Some(machine.clone())
        }
        _ => None,
    };
    let over = |failure: &Failure| match failure.stage {
        _ if failure.generation != input.record.generation => true,
        Stage::Image => observed.image.is_ready(),
        Stage::Rootfs => observed.rootfs.is_ready(),
        Stage::Kernel => observed.kernel.is_ready(),
        Stage::Disks => observed.disks.complete,
        Stage::Start => present(memory).is_some_and(|machine| machine.guest.ready),
        Stage::Guest => present(memory).is_some_and(|machine| machine.guest.workload_started_at.is_some()),
        Stage::Halt | Stage::Delete => matches!(observed.machine, MachineSight::None),
    };
    if memory.failure.as_ref().is_some_and(over) {
        memory.failure = None;
    }
}

fn is_boot(machine: &microagent_supervisor_protocol::Machine, id: &str) -> bool {
    machine.identity.as_ref().is_some_and(|identity| identity.boot_id == id)
}

fn fault<T>(work: &Work<T>) -> Option<&Fault> {
    match work {
        Work::Failed(fault) => Some(fault),
        _ => None,
    }
}
