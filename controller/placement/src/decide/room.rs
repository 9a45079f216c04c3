//! Whether a workspace needs room on a node.

use microagent_crds::{ConditionType, Phase, Reason, RunPolicy};

use super::Input;

/// Whether the workspace needs room: it is to run, or a machine of it may be running still.
pub(super) fn needs_room(input: &Input<'_>) -> bool {
    no_room(input).is_none()
}

/// Why no room is needed; absent when it is.
pub(super) fn no_room(input: &Input<'_>) -> Option<Reason> {
    let seen = input.seen;
    let policy = seen.workspace.spec.run_policy;
    let halted = (policy == RunPolicy::Halted).then_some(Reason::Halted);
    if seen.node().is_none() {
        return halted;
    }
    let status = seen.workspace.status.as_ref();
    let phase = status.and_then(|status| status.phase).unwrap_or_default();
    let before = seen.condition(ConditionType::Scheduled).map(|c| c.reason);
    let before = before.filter(|reason| matches!(reason, Reason::Halted | Reason::NotRunning));
    if !seen.is_taken_over() {
        return halted;
    }
    // Until the agent has seen the present spec, what was so before stays.
    if status.and_then(|status| status.observed_generation) != Some(seen.generation()) {
        return before.filter(|reason| *reason != Reason::Halted || halted.is_some());
    }
    let ready = seen.condition(ConditionType::Ready).map(|condition| condition.reason);
    let over = match phase {
        Phase::Succeeded => policy != RunPolicy::Always || ready == Some(Reason::Expired),
        Phase::Failed => policy == RunPolicy::Once || ready == Some(Reason::Expired),
        Phase::Halted => matches!(ready, Some(Reason::Idle | Reason::Expired)),
        _ => false,
    };
    match phase {
        Phase::Halted | Phase::Succeeded | Phase::Failed if halted.is_some() => halted,
        Phase::Pending if halted.is_some() => halted,
        _ if over => Some(Reason::NotRunning),
        // What was over stays so until the agent is on its way up again.
        Phase::Halted | Phase::Succeeded | Phase::Failed | Phase::Unknown => {
            before.filter(|reason| *reason == Reason::NotRunning)
        }
        _ => None,
    }
}
