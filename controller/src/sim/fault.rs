//! What can go wrong at an effect.

use super::State;

/// One thing that goes wrong, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disturbance {
    /// The controller is killed before it comes to the effect.
    CrashBefore,
    /// The controller is killed when the effect is done, before it learns of it.
    CrashAfter,
    /// The effect is refused, and may succeed later.
    Refused,
    /// The effect is refused for a reason that only a person can mend.
    RefusedForGood,
    /// The effect is done, and an error is told.
    ReplyLost,
    /// The effect is done in part, and an error is told.
    Partly,
    /// The effect is done in part, and the controller is killed.
    CrashPartly,
    /// The effect is done twice.
    Twice,
    /// The effect takes a minute.
    Late,
    /// What is observed is what was observed the time before.
    Stale,
    /// What is observed cannot be told.
    Blind,
}

impl Disturbance {
    pub(crate) const ALL: [Self; 11] = [
        Self::CrashBefore,
        Self::CrashAfter,
        Self::Refused,
        Self::RefusedForGood,
        Self::ReplyLost,
        Self::Partly,
        Self::CrashPartly,
        Self::Twice,
        Self::Late,
        Self::Stale,
        Self::Blind,
    ];
}

impl State {
    /// Counts an effect; gives what goes wrong at it.
    pub(crate) fn effect(&mut self, what: impl FnOnce() -> String) -> Option<Disturbance> {
        let nth = self.effects;
        self.effects += 1;
        let wrong = self.disturbances.iter().position(|(at, _)| *at == nth);
        let wrong = wrong.map(|at| self.disturbances.remove(at).1);
        let what = what();
        self.trace.push(match wrong {
            Some(wrong) => format!("{nth} {what} ({wrong:?})"),
            None => format!("{nth} {what}"),
        });
        wrong
    }
}
