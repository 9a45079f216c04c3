//! Restarts that were asked for: each new word in the annotation, and each new request, is one.

use microagent_supervisor_protocol::Machine;

use super::{Input, Notes};
use crate::memory::{HaltAsked, HaltCause, RestartTokens};

/// The annotation that asks for a restart each time its text becomes another one, for those who own the manifest.
pub const RESTART_ANNOTATION: &str = "microagent.dev/restart";

/// What is asked for now.
pub(super) fn asked(input: &Input<'_>) -> RestartTokens {
    let annotations = input.record.workspace.metadata.annotations.as_ref();
    RestartTokens {
        annotation: annotations.and_then(|all| all.get(RESTART_ANNOTATION)).cloned(),
        request: input.observed.restart_request.clone(),
    }
}

/// Takes a restart that is asked for and was not taken yet: a machine that runs is to be halted first, and nothing that happened
/// before holds up the start after it.
pub(super) fn take(input: &Input<'_>, memory: &mut Notes<'_>, running: Option<&Machine>) {
    let annotations = input.record.workspace.metadata.annotations.as_ref();
    let annotation = annotations.and_then(|all| all.get(RESTART_ANNOTATION));
    let request = input.observed.restart_request.as_ref();
    let done = &memory.restarted;
    // What is taken back asks for nothing.
    let is_new = (annotation.is_some() && annotation != done.annotation.as_ref())
        || (request.is_some() && request != done.request.as_ref());
    if !is_new {
        return;
    }
    let memory = memory.to_mut();
    memory.restarted = asked(input);
    memory.finished = None;
    memory.idle = None;
    memory.restarts = crate::memory::Restarts { count: memory.restarts.count, ..Default::default() };
    for failure in memory.failures.values_mut() {
        failure.count = 0;
        failure.next_attempt = input.now;
    }
    let Some(machine) = running else { return };
    let boot_id = machine.identity.as_ref().map_or("", |identity| &identity.boot_id);
    match memory.halt.as_mut().filter(|halt| halt.boot_id == boot_id) {
        Some(halt) => halt.cause = HaltCause::Restart,
        None => {
            // Never asked: the halt itself asks in this same pass.
            let never = jiff::Timestamp::UNIX_EPOCH;
            memory.halt = Some(HaltAsked {
                boot_id: boot_id.to_owned(),
                at: input.now,
                asked_at: never,
                cause: HaltCause::Restart,
            });
        }
    }
}
