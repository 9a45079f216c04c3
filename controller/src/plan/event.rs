//! Events: one for each condition that became something else.

use microagent_crds::{Condition, ConditionStatus, ConditionType, Reason, WorkspaceStatus};

use crate::journal::EventType;

/// Something that happened to a workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Whether people should look.
    pub type_: EventType,
    /// The condition's new reason.
    pub reason: Reason,
    /// The condition's new message.
    pub message: String,
}

/// The events of the way from one status to the next.
pub(super) fn transitions(previous: &WorkspaceStatus, status: &WorkspaceStatus) -> Vec<Event> {
    let changed = |condition: &&Condition| {
        let before = previous.condition(condition.type_);
        let differs = before.is_none_or(|p| p.status != condition.status || p.reason != condition.reason);
        // Without a probe a workload is healthy because it runs, and that is told already.
        let probed = before.is_some_and(|p| matches!(p.reason, Reason::Unhealthy | Reason::HealthUnknown));
        differs && (condition.reason != Reason::Healthy || probed)
    };
    // What a person must act on is a warning, whichever condition tells it first.
    let stalled =
        status.condition(ConditionType::Stalled).filter(|stalled| stalled.is_true()).map(|stalled| stalled.reason);
    let mut events: Vec<Event> = Vec::new();
    for condition in status.conditions.iter().filter(changed).filter(|condition| is_news(condition)) {
        let warns = stalled == Some(condition.reason) || is_fault(condition.reason);
        let type_ = if warns { EventType::Warning } else { EventType::Normal };
        // Several conditions may change for one reason: it is told once.
        if events.iter().all(|event| event.reason != condition.reason) {
            events.push(Event { type_, reason: condition.reason, message: condition.message.clone() });
        }
    }
    events
}

/// Whether a change to this is worth telling: a stage that is merely not reached is not, and what a stage tells the summary does
/// not tell again.
fn is_news(condition: &Condition) -> bool {
    use Reason::{
        Halting, NoSetup, NotRunning, Pending, Progressing, Queued, Restarting, Settled, Terminating, UpToDate, Waiting,
    };
    let dull = matches!(
        condition.reason,
        Pending | Waiting | Progressing | Settled | NotRunning | Queued | UpToDate | NoSetup
    );
    if dull || condition.status == ConditionStatus::Unknown {
        return false;
    }
    condition.type_ != ConditionType::Ready
        || condition.is_true()
        || matches!(condition.reason, Terminating | Halting | Restarting)
}

/// Whether the reason is of something that went wrong. What is not on the way to what was asked for is.
fn is_fault(reason: Reason) -> bool {
    reason == Reason::Unhealthy || reason as u32 >= Reason::WorkloadFailed as u32
}
