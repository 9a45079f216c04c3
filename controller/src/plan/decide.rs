//! The next action, and where the workspace stands: the order of the questions.

use jiff::{SignedDuration, Timestamp};
use microagent_crds::RunPolicy;
use microagent_supervisor_protocol::{Machine, MachineState};

use super::{Action, Input, Notes, attend::attend, backoff, failure, halt, remove::remove, restart, start::start};
use crate::{
    memory::{Fault, HaltCause, Stage},
    observed::MachineSight,
};

/// How often a settled workspace is looked at: five minutes, give or take a tenth.
const SETTLED: SignedDuration = SignedDuration::from_secs(270);
const SETTLED_SPREAD_SECONDS: u64 = 60;
/// How often one that something is awaited for is looked at, should its change hint be lost.
pub(super) const AWAITING: SignedDuration = SignedDuration::from_secs(10);

/// What was decided.
#[derive(Debug)]
pub(super) struct Decision {
    pub(super) next: Option<Action>,
    pub(super) standing: Standing,
    pub(super) wake: Timestamp,
    /// The way to what is wanted has taken longer than the spec allows.
    pub(super) overdue: bool,
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
    /// The workload runs, and its health is not known yet.
    Probing,
    /// The machine is being paused, resumed or cut off.
    Switching,
    /// The workload has ended, the machine not yet.
    Ending,
    /// The machine has ended, its outputs are being kept.
    Keeping,
    /// The workload runs in a machine that is as the spec wants it.
    Running,
    /// The machine's CPUs stand still, as wanted.
    Paused,
    /// The machine runs cut off from everything, as wanted.
    Quarantined,
    /// The workload runs in a machine of an older spec.
    Outdated,
    /// The workload ended and is started again later.
    BackingOff,
    /// The machine is asked to end.
    Halting,
    /// The machine is asked to end, and is started anew then.
    Restarting,
    /// No machine runs, as wanted.
    Halted,
    /// No machine runs, for nothing used it.
    Idle,
    /// No machine runs, for its node has no room reserved for it.
    Unreserved,
    /// The workload ended well and is not to run again.
    Succeeded,
    /// The workload ended badly and is not to run again.
    Failed,
    /// Its end has come, and nothing is left of it.
    Expired,
    /// Something failed and is tried again.
    Retrying(Stage, Fault),
    /// Nobody knows what the machine does.
    Blind(Fault),
}

impl Standing {
    /// Whether nothing is on its way: the workspace stays so until something changes.
    pub(super) fn is_settled(&self) -> bool {
        match self {
            Self::Running
            | Self::Paused
            | Self::Quarantined
            | Self::Outdated
            | Self::Halted
            | Self::Idle
            | Self::Succeeded
            | Self::Failed
            | Self::Expired => true,
            Self::Terminating
            | Self::Making(_)
            | Self::Starting
            | Self::Probing
            | Self::Unreserved
            | Self::Switching
            | Self::Ending
            | Self::Keeping
            | Self::BackingOff
            | Self::Halting
            | Self::Restarting
            | Self::Retrying(..)
            | Self::Blind(_) => false,
        }
    }
}

/// Decides. Changes `memory` only by what the action needs to be remembered.
pub(super) fn decide(input: &Input<'_>, memory: &mut Notes<'_>) -> Decision {
    let record = input.record;
    let spec = &record.workspace.spec;
    let machine = match &input.observed.machine {
        MachineSight::Seen { machine, .. } if machine.state != MachineState::Absent => Some(&**machine),
        MachineSight::Seen { .. } | MachineSight::None => None,
        MachineSight::Unknown(fault) => return blind(input, fault),
    };
    let running = machine.filter(|m| is_alive(m));
    if record.deleted_at.is_some() || memory.expired.is_some() {
        return remove(input, memory, machine, running);
    }
    restart::take(input, memory, running);
    if let Some(machine) = running {
        if spec.run_policy == RunPolicy::Halted || record.unreserved.is_some() {
            return halt::halt(input, memory, machine, HaltCause::Unwanted, Standing::Halting);
        }
        return attend(input, memory, machine);
    }
    if let Some(decision) = keep_outputs(input, memory, machine, Standing::Keeping) {
        return decision;
    }
    if spec.run_policy == RunPolicy::Halted {
        return settled(input, Standing::Halted);
    }
    if let Some(finished) = &memory.finished {
        let well = memory.result.as_ref().is_some_and(microagent_crds::RunResult::succeeded);
        let for_good = match spec.run_policy {
            RunPolicy::Once | RunPolicy::Halted => true,
            RunPolicy::OnFailure => well,
            RunPolicy::Always => false,
        };
        // An adopted boot has no hash; it counts as the present one.
        if for_good && (finished == input.machine_hash || finished.is_empty()) {
            return settled(input, if well { Standing::Succeeded } else { Standing::Failed });
        }
        let memory = memory.to_mut();
        memory.finished = None;
        memory.restarts = crate::memory::Restarts::default();
    }
    if let Some(idle) = &memory.idle {
        if idle == input.machine_hash || idle.is_empty() {
            return settled(input, Standing::Idle);
        }
        memory.to_mut().idle = None;
    }
    if record.unreserved.is_some() {
        return settled(input, Standing::Unreserved);
    }
    start(input, memory)
}

/// Keeps the outputs of a machine that has ended, before anything else is done to it.
pub(super) fn keep_outputs(
    input: &Input<'_>,
    memory: &mut Notes<'_>,
    machine: Option<&Machine>,
    standing: Standing,
) -> Option<Decision> {
    let machine = machine.filter(|machine| machine.state == MachineState::Exited && !machine.artifacts.is_empty())?;
    let boot_id = &machine.identity.as_ref()?.boot_id;
    if let Some(kept) = input.observed.kept_outputs.as_ref().filter(|kept| kept.boot_id == *boot_id) {
        if memory.artifacts != kept.artifacts {
            memory.to_mut().artifacts.clone_from(&kept.artifacts);
        }
        return None;
    }
    Some(failure::attempt(input, memory, Stage::Outputs, Action::KeepOutputs, standing).decision())
}

pub(super) fn is_alive(machine: &Machine) -> bool {
    match machine.state {
        MachineState::Starting
        | MachineState::Running
        | MachineState::Paused
        | MachineState::Quarantined
        | MachineState::Halting => true,
        MachineState::Absent | MachineState::Prepared | MachineState::Exited => false,
    }
}

/// Nothing is done to a machine of which nobody knows what it does.
fn blind(input: &Input<'_>, fault: &Fault) -> Decision {
    Decision::waiting(Standing::Blind(fault.clone()), later(input.now, AWAITING))
}

pub(super) fn awaiting(input: &Input<'_>, standing: Standing) -> Decision {
    Decision::waiting(standing, later(input.now, AWAITING))
}

pub(super) fn settled(input: &Input<'_>, standing: Standing) -> Decision {
    let spread = backoff::draw(&input.record.uid, 0) % (SETTLED_SPREAD_SECONDS + 1);
    let wait = SETTLED + SignedDuration::from_secs(spread.cast_signed());
    Decision::waiting(standing, later(input.now, wait))
}

impl Decision {
    pub(super) fn waiting(standing: Standing, wake: Timestamp) -> Self {
        Self { next: None, standing, wake, overdue: false }
    }

    pub(super) fn acting(input: &Input<'_>, action: Action, standing: Standing) -> Self {
        Self { next: Some(action), standing, wake: input.now, overdue: false }
    }

    /// To be looked at again at `at`, if not before.
    pub(super) fn by(self, at: Timestamp) -> Self {
        Self { wake: self.wake.min(at), ..self }
    }
}

pub(super) fn later(now: Timestamp, wait: SignedDuration) -> Timestamp {
    now.saturating_add(wait).unwrap_or(Timestamp::MAX)
}
