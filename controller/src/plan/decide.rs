//! The next action, and where the workspace stands.

use jiff::{SignedDuration, Timestamp};
use microagent_crds::{RunPolicy, WorkspaceSpec};
use microagent_supervisor_protocol::{Machine, MachineState};

use super::{Action, Input, backoff, machine_hash};
use crate::{
    memory::{Boot, Fault, HaltAsked, Memory, Stage},
    observed::{MachineSight, Work},
};

/// How often a settled workspace is looked at: five minutes, give or take a tenth.
const SETTLED: SignedDuration = SignedDuration::from_secs(270);
const SETTLED_SPREAD_SECONDS: u64 = 60;
/// How often one that something is awaited for is looked at, should its change hint be lost.
const AWAITING: SignedDuration = SignedDuration::from_secs(10);
/// How long after the grace period a machine that was asked to end is ended by force, should its supervisor not have done so.
const HALT_MARGIN: SignedDuration = SignedDuration::from_secs(20);

/// What was decided.
pub(super) struct Decision {
    pub(super) next: Option<Action>,
    pub(super) standing: Standing,
    pub(super) wake: Timestamp,
}

/// Where the workspace stands on its way to what is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is being removed.
    Terminating,
    /// Something must be made first.
    Making(Stage),
    /// The machine is up, the workload not yet.
    Starting,
    /// The workload has ended, the machine not yet.
    Ending,
    /// The workload runs in a machine that is as the spec wants it.
    Running,
    /// The workload runs in a machine of an older spec.
    Outdated,
    /// The workload ended and is started again later.
    BackingOff,
    /// The machine is asked to end.
    Halting,
    /// No machine runs, as wanted.
    Halted,
    /// The workload ended well and is not to run again.
    Succeeded,
    /// The workload ended badly and is not to run again.
    Failed,
    /// Something failed and is tried again.
    Retrying(Fault),
    /// Nobody knows what the machine does.
    Blind(Fault),
}

/// Decides. Changes `memory` only by what the action needs to be remembered.
pub(super) fn decide(input: &Input<'_>, memory: &mut Memory) -> Decision {
    let record = input.record;
    let spec = &record.workspace.spec;
    let machine = match &input.observed.machine {
        MachineSight::Seen { machine, .. } if machine.state != MachineState::Absent => Some(&**machine),
        MachineSight::Seen { .. } | MachineSight::None => None,
        MachineSight::Unknown(fault) => return blind(input, fault),
    };
    let running = machine.filter(|m| is_alive(m));
    if record.deleted_at.is_some() {
        return remove(input, memory, machine, running);
    }
    if spec.run_policy == RunPolicy::Halted {
        return match running {
            Some(machine) => halt(input, memory, machine, Standing::Halting),
            None => settled(input, Standing::Halted),
        };
    }
    if let Some(machine) = running {
        return attend(input, memory, machine);
    }
    let hash = machine_hash(spec);
    if let Some(finished) = &memory.finished {
        // An adopted boot has no hash; it counts as the present one.
        if *finished == hash || finished.is_empty() {
            let well = memory.result.as_ref().is_some_and(microagent_crds::RunResult::succeeded);
            return settled(input, if well { Standing::Succeeded } else { Standing::Failed });
        }
        memory.finished = None;
        memory.restarts = crate::memory::Restarts::default();
    }
    start(input, memory, spec, hash)
}

pub(super) fn is_alive(machine: &Machine) -> bool {
    matches!(machine.state, MachineState::Starting | MachineState::Running | MachineState::Halting)
}

/// Brings up what is not up.
fn start(input: &Input<'_>, memory: &mut Memory, spec: &WorkspaceSpec, hash: String) -> Decision {
    if let Some(at) = memory.restarts.next_attempt.filter(|at| *at > input.now) {
        return Decision { next: None, standing: Standing::BackingOff, wake: at };
    }
    let observed = input.observed;
    if memory.image.as_ref().is_some_and(|pinned| pinned.reference != spec.image) {
        memory.image = None;
    }
    if let Work::Ready(image) = &observed.image {
        let pinned = crate::memory::PinnedImage { reference: image.reference.clone(), digest: image.digest.clone() };
        memory.image = Some(pinned);
    }
    // Image and kernel do not depend on each other: both are begun before either is awaited.
    let mut awaited = None;
    let stages: [(Stage, bool, bool, Action); 3] = [
        (Stage::Image, observed.image.is_ready(), observed.image.is_under_way(), Action::ResolveImage),
        (Stage::Kernel, observed.kernel.is_ready(), observed.kernel.is_under_way(), Action::InstallKernel),
        (Stage::Rootfs, observed.rootfs.is_ready(), observed.rootfs.is_under_way(), Action::BuildRootfs),
    ];
    for (stage, ready, running, action) in stages {
        if ready {
            continue;
        }
        if stage == Stage::Rootfs && !observed.image.is_ready() {
            break;
        }
        if !running {
            match attempt(input, memory, stage, action) {
                Attempt::Now(decision) => return decision,
                Attempt::Later(decision) => awaited = awaited.or(Some(decision)),
            }
        } else if awaited.is_none() {
            awaited = Some(awaiting(input, Standing::Making(stage)));
        }
    }
    if let Some(decision) = awaited {
        return decision;
    }
    if !observed.disks.complete {
        return attempt(input, memory, Stage::Disks, Action::CreateDisks).decision();
    }
    for stage in [Stage::Start, Stage::Guest] {
        if let Some(failure) = memory.failure.as_ref().filter(|f| f.stage == stage && f.next_attempt > input.now) {
            let standing = Standing::Retrying(failure.fault.clone());
            return Decision { next: None, standing, wake: failure.next_attempt };
        }
    }
    // A start whose outcome is not known is asked for again under the same name.
    let boot = memory.boot.clone().filter(|boot| boot.machine_hash == hash).unwrap_or_else(|| Boot {
        id: input.fresh_boot_id.to_owned(),
        generation: input.record.generation,
        machine_hash: hash,
    });
    memory.boot = Some(boot.clone());
    memory.restarts.next_attempt = None;
    memory.halt = None;
    Decision { next: Some(Action::StartMachine(boot)), standing: Standing::Making(Stage::Start), wake: input.now }
}

enum Attempt {
    Now(Decision),
    Later(Decision),
}

impl Attempt {
    fn decision(self) -> Decision {
        match self {
            Self::Now(decision) | Self::Later(decision) => decision,
        }
    }
}

/// The action, unless it failed too recently.
fn attempt(input: &Input<'_>, memory: &mut Memory, stage: Stage, action: Action) -> Attempt {
    if let Some(failure) = memory.failure.as_mut().filter(|failure| failure.stage == stage) {
        if failure.next_attempt > input.now {
            let standing = Standing::Retrying(failure.fault.clone());
            return Attempt::Later(Decision { next: None, standing, wake: failure.next_attempt });
        }
        failure.retrying = true;
    }
    Attempt::Now(Decision { next: Some(action), standing: Standing::Making(stage), wake: input.now })
}

/// A machine runs, and one should.
fn attend(input: &Input<'_>, memory: &mut Memory, machine: &Machine) -> Decision {
    if machine.state == MachineState::Halting {
        return awaiting(input, Standing::Halting);
    }
    let outdated =
        memory.boot.as_ref().is_none_or(|boot| boot.machine_hash != machine_hash(&input.record.workspace.spec));
    let standing = match (machine.guest.workload_started_at, machine.guest.workload_finished_at) {
        (Some(_), None) if outdated => Standing::Outdated,
        (Some(_), None) => Standing::Running,
        (_, Some(_)) => return awaiting(input, Standing::Ending),
        _ => return awaiting(input, Standing::Starting),
    };
    settled(input, standing)
}

/// Ends a machine: politely first, by force when that takes too long.
fn halt(input: &Input<'_>, memory: &mut Memory, machine: &Machine, standing: Standing) -> Decision {
    let grace_seconds = input.record.workspace.spec.lifecycle.termination_grace_period_seconds;
    let boot_id = machine.identity.as_ref().map_or("", |identity| &identity.boot_id);
    if let Some(failure) = memory.failure.as_ref().filter(|f| f.stage == Stage::Halt && f.next_attempt > input.now) {
        return Decision {
            next: None,
            standing: Standing::Retrying(failure.fault.clone()),
            wake: failure.next_attempt,
        };
    }
    match memory.halt.as_ref().filter(|halt| halt.boot_id == boot_id) {
        Some(halt) => {
            let end = later(halt.at, SignedDuration::from_secs(i64::from(grace_seconds)) + HALT_MARGIN);
            let failed = memory.failure.as_ref().is_some_and(|f| f.stage == Stage::Halt);
            if input.now >= end || failed {
                return Decision { next: Some(Action::KillMachine), standing, wake: input.now };
            }
            Decision { next: None, standing, wake: end.min(later(input.now, AWAITING)) }
        }
        None => {
            memory.halt = Some(HaltAsked { boot_id: boot_id.to_owned(), at: input.now });
            Decision { next: Some(Action::HaltMachine { grace_seconds }), standing, wake: input.now }
        }
    }
}

/// Removes what is left, from the machine outwards.
fn remove(input: &Input<'_>, memory: &mut Memory, machine: Option<&Machine>, running: Option<&Machine>) -> Decision {
    if let Some(machine) = running {
        return halt(input, memory, machine, Standing::Terminating);
    }
    if let Some(failure) = memory.failure.as_ref().filter(|f| f.stage == Stage::Delete && f.next_attempt > input.now) {
        return Decision { next: None, standing: Standing::Terminating, wake: failure.next_attempt };
    }
    let next = if machine.is_some() {
        Action::DeleteMachine
    } else if input.observed.disks.any {
        Action::RemoveDisks
    } else {
        Action::Forget
    };
    Decision { next: Some(next), standing: Standing::Terminating, wake: input.now }
}

/// Nothing is done to a machine of which nobody knows what it does.
fn blind(input: &Input<'_>, fault: &Fault) -> Decision {
    Decision { next: None, standing: Standing::Blind(fault.clone()), wake: later(input.now, AWAITING) }
}

fn awaiting(input: &Input<'_>, standing: Standing) -> Decision {
    Decision { next: None, standing, wake: later(input.now, AWAITING) }
}

fn settled(input: &Input<'_>, standing: Standing) -> Decision {
    let spread = backoff::draw(&input.record.uid, 0) % (SETTLED_SPREAD_SECONDS + 1);
    let wait = SETTLED + SignedDuration::from_secs(i64::try_from(spread).unwrap_or(0));
    Decision { next: None, standing, wake: later(input.now, wait) }
}

fn later(now: Timestamp, wait: SignedDuration) -> Timestamp {
    now.saturating_add(wait).unwrap_or(Timestamp::MAX)
}
