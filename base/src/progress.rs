//! How long work tells how far it is, and is told to stop.

use std::sync::atomic::{AtomicBool, Ordering};

/// One look at work under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What is being done, in a few words: `pulling`, `unpacking linux-image`.
    pub what: String,
    /// How much is done, in bytes.
    pub done: u64,
    /// How much there is to do, in bytes, where it is known.
    pub total: Option<u64>,
}

/// Listens to work, and may cancel it. Called often and from several threads, so it must be cheap.
pub trait Progress: Send + Sync {
    /// The work is at this step.
    fn step(&self, step: Step);

    /// The work, whose size is no number of bytes, is done to this percentage.
    fn share(&self, what: &str, percent: u8) {
        self.step(Step { what: format!("{what}: {percent} %"), done: 0, total: None });
    }

    /// Whether nobody wants the work any longer. Work looks at least once a mebibyte and then ends with an error.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Nobody listens and nobody cancels.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn step(&self, _: Step) {}
}

/// Nobody listens, but the work can be cancelled by setting the flag.
impl Progress for AtomicBool {
    fn step(&self, _: Step) {}

    fn cancelled(&self) -> bool {
        self.load(Ordering::Relaxed)
    }
}
