//! Bringing up what is not up.

use super::{
    Action, Input, Notes, backoff,
    decide::{Decision, Standing, awaiting},
    failure::{Attempt, attempt},
    restart,
};
use crate::{
    memory::{Boot, PinnedImage, Stage},
    observed::Work,
};

/// Makes what the machine needs, in the order in which it can be made, and then starts it.
pub(super) fn start(input: &Input<'_>, memory: &mut Notes<'_>) -> Decision {
    if let Some(at) = memory.restarts.next_attempt.filter(|at| !backoff::is_over(*at, input.now)) {
        return Decision::waiting(Standing::BackingOff, at);
    }
    pin_image(input, memory);
    if let Some(decision) = make(input, memory) {
        return decision;
    }
    if !input.observed.disks.complete {
        return attempt(input, memory, Stage::Disks, Action::CreateDisks, Standing::Making(Stage::Disks)).decision();
    }
    for stage in [Stage::Start, Stage::Guest] {
        if let Some(failure) = memory.failures.get(&stage)
            && !backoff::is_over(failure.next_attempt, input.now)
        {
            return Decision::waiting(Standing::Retrying(stage, failure.fault.clone()), failure.next_attempt);
        }
    }
    // A start whose outcome is not known is asked for again under the same name.
    let asked = memory.boot.clone().filter(|boot| boot.machine_hash == input.machine_hash);
    let boot = asked.unwrap_or_else(|| Boot {
        id: input.fresh_boot_id.to_owned(),
        generation: input.record.generation,
        machine_hash: input.machine_hash.to_owned(),
    });
    let tokens = restart::asked(input);
    let memory = memory.to_mut();
    memory.boot = Some(boot.clone());
    memory.restarts.next_attempt = None;
    memory.halt = None;
    memory.restarted = tokens;
    Decision::acting(input, Action::StartMachine(boot), Standing::Making(Stage::Start))
}

/// A workspace stays on the digest that its reference had when it was first resolved.
fn pin_image(input: &Input<'_>, memory: &mut Notes<'_>) {
    if memory.image.as_ref().is_some_and(|pinned| pinned.reference != input.record.workspace.spec.image) {
        memory.to_mut().image = None;
    }
    if let Work::Ready(image) = &input.observed.image {
        let pinned = PinnedImage { reference: image.reference.clone(), digest: image.digest.clone() };
        memory.to_mut().image = Some(pinned);
    }
}

/// Image, kernel and root disk. Image and kernel do not depend on each other: both are begun before either is awaited.
fn make(input: &Input<'_>, memory: &mut Notes<'_>) -> Option<Decision> {
    let observed = input.observed;
    let mut awaited = None;
    let stages: [(Stage, bool, bool, Action); 3] = [
        (Stage::Image, observed.image.is_ready(), observed.image.is_under_way(), Action::ResolveImage),
        (Stage::Kernel, observed.kernel.is_ready(), observed.kernel.is_under_way(), Action::InstallKernel),
        (Stage::Rootfs, observed.rootfs.is_ready(), observed.rootfs.is_under_way(), Action::BuildRootfs),
    ];
    for (stage, ready, under_way, action) in stages {
        if ready {
            continue;
        }
        if stage == Stage::Rootfs && !observed.image.is_ready() {
            break;
        }
        let decision = if under_way {
            awaiting(input, Standing::Making(stage))
        } else {
            match attempt(input, memory, stage, action, Standing::Making(stage)) {
                Attempt::Now(decision) => return Some(decision),
                Attempt::Later(decision) => decision,
            }
        };
        // The first that is awaited is told; the earliest to be tried again is looked at.
        awaited = Some(match awaited {
            None => decision,
            Some(first) => Decision::by(first, decision.wake),
        });
    }
    awaited
}
