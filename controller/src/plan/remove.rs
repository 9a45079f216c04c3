//! Removing what is left, from the machine outwards.

use microagent_crds::OnDelete;
use microagent_supervisor_protocol::Machine;

use super::{
    Action, Input, Notes,
    decide::{Decision, Standing, keep_outputs, settled},
    failure,
    halt::halt,
};
use crate::memory::{HaltCause, Stage};

/// Removes a workspace that is to go, or whose end has come. Of the second a record stays for as long as it is declared, so that it is
/// not taken for a new one.
pub(super) fn remove(
    input: &Input<'_>,
    memory: &mut Notes<'_>,
    machine: Option<&Machine>,
    running: Option<&Machine>,
) -> Decision {
    if let Some(machine) = running {
        return halt(input, memory, machine, HaltCause::Unwanted, Standing::Terminating);
    }
    if let Some(decision) = keep_outputs(input, memory, machine, Standing::Terminating) {
        return decision;
    }
    let disks = input.observed.disks;
    let retain = input.record.workspace.spec.lifecycle.on_delete == OnDelete::Retain;
    let next = if machine.is_some() {
        Action::DeleteMachine
    } else if retain && disks.written {
        Action::RetainDisks
    } else if disks.any {
        Action::RemoveDisks
    } else if input.record.deleted_at.is_some() {
        Action::Forget
    } else if input.observed.withdrawable {
        Action::WithdrawManifest
    } else {
        // What was remembered of the machine went with it.
        if memory.boot.is_some() || memory.halt.is_some() || memory.setup_complete {
            let memory = memory.to_mut();
            memory.boot = None;
            memory.halt = None;
            memory.setup_complete = false;
        }
        return settled(input, Standing::Expired);
    };
    failure::attempt(input, memory, Stage::Delete, next, Standing::Terminating).decision()
}
