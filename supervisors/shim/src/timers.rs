//! When the shim acts although nothing happened.

use std::time::Instant;

/// What the shim does at a time of its own.
#[derive(Default)]
pub(crate) struct Timers {
    /// When a console that said nothing yet counts as silent.
    pub(crate) silence: Option<Instant>,
    /// When a guest that is not configured yet is given up.
    pub(crate) boot: Option<Instant>,
    /// When the guest is tried to be reached.
    pub(crate) connect: Option<Instant>,
    /// When the machine is ended whatever it does.
    pub(crate) end: Option<Instant>,
    /// When a machine whose helper has ended is ended too, if it has not ended by then.
    pub(crate) bereft: Option<Instant>,
    /// When the VMM is told again whether to stand still.
    pub(crate) power: Option<Instant>,
}

impl Timers {
    /// The next of them.
    pub(crate) fn next(&self) -> Option<Instant> {
        [self.silence, self.boot, self.connect, self.end, self.bereft, self.power].into_iter().flatten().min()
    }

    /// The earlier of two ends counts.
    pub(crate) fn end_by(&mut self, at: Instant) {
        self.end = Some(self.end.map_or(at, |end| end.min(at)));
    }
}

/// Takes a timer that has run out.
pub(crate) fn due(timer: &mut Option<Instant>, now: Instant) -> bool {
    timer.take_if(|at| *at <= now).is_some()
}
