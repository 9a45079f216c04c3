//! A machine runs, and one should.

use microagent_crds::PowerState;
use microagent_supervisor_protocol::{Machine, MachineState};

use super::{
    Action, Input, Notes,
    decide::{Decision, Standing, awaiting, settled},
    failure,
    halt::halt,
    lifecycle,
};
use crate::memory::{HaltCause, Stage};

/// What makes a machine that is up do what is wanted of it.
fn switch(wanted: PowerState, state: MachineState) -> Option<Action> {
    match (wanted, state) {
        (PowerState::Running, MachineState::Paused | MachineState::Quarantined) => Some(Action::ResumeMachine),
        (PowerState::Paused, MachineState::Running | MachineState::Quarantined) => Some(Action::PauseMachine),
        (PowerState::Quarantined, MachineState::Running | MachineState::Paused) => Some(Action::QuarantineMachine),
        _ => None,
    }
}

/// Whether a machine that is up does what is wanted of it.
pub(super) fn is_switched(input: &Input<'_>, machine: &Machine) -> bool {
    switch(input.record.workspace.spec.power_state, machine.state).is_none()
}

/// Sees that the machine does what is wanted of it.
pub(super) fn attend(input: &Input<'_>, memory: &mut Notes<'_>, machine: &Machine) -> Decision {
    let spec = &input.record.workspace.spec;
    let boot_id = machine.identity.as_ref().map_or("", |identity| &identity.boot_id);
    // A halt for a reason of its own goes on to its end; one for the sake of a spec that has changed its mind goes on only once the
    // machine has heard of it.
    let asked = memory.halt.as_ref().filter(|halt| halt.boot_id == boot_id).map(|halt| halt.cause.clone());
    if let Some(cause) = asked.filter(|c| *c != HaltCause::Unwanted || machine.state == MachineState::Halting) {
        let standing = match cause {
            HaltCause::Restart | HaltCause::Unhealthy { .. } => Standing::Restarting,
            HaltCause::Unwanted | HaltCause::Idle { .. } => Standing::Halting,
        };
        return halt(input, memory, machine, cause, standing);
    }
    if machine.state == MachineState::Halting {
        return awaiting(input, Standing::Halting);
    }
    let guest = &machine.guest;
    if guest.workload_finished_at.is_some() {
        return awaiting(input, Standing::Ending);
    }
    if machine.state == MachineState::Starting {
        return awaiting(input, Standing::Starting);
    }
    if let Some(action) = switch(spec.power_state, machine.state) {
        return failure::attempt(input, memory, Stage::Power, action, Standing::Switching).decision();
    }
    match machine.state {
        MachineState::Paused => return settled(input, Standing::Paused),
        // Nothing is done to a machine that is kept as evidence.
        MachineState::Quarantined => return settled(input, Standing::Quarantined),
        _ => {}
    }
    if guest.workload_started_at.is_none() {
        return awaiting(input, Standing::Starting);
    }
    if spec.health.is_some()
        && let Some(health) = guest.health.as_ref().filter(|health| !health.healthy)
    {
        let cause = HaltCause::Unhealthy { message: health.message.clone() };
        return halt(input, memory, machine, cause, Standing::Restarting);
    }
    let idle_at = match lifecycle::idle(input, machine) {
        lifecycle::Idle::Now(message) => {
            return halt(input, memory, machine, HaltCause::Idle { message }, Standing::Halting);
        }
        lifecycle::Idle::At(at) => Some(at),
        lifecycle::Idle::Never => None,
    };
    let outdated = memory.boot.as_ref().is_none_or(|boot| boot.machine_hash != input.machine_hash);
    let decision = if outdated {
        settled(input, Standing::Outdated)
    } else if spec.health.is_some() && guest.health.is_none() {
        awaiting(input, Standing::Probing)
    } else {
        settled(input, Standing::Running)
    };
    match idle_at {
        Some(at) => decision.by(at),
        None => decision,
    }
}
