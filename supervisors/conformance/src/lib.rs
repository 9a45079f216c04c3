//! The conformance kit: whether an executable is a supervisor.
//!
//! It runs the executable through the contract of [`microagent_supervisor_protocol`], one [`Check`] for each promise, each on a machine
//! and in a directory of its own. What it needs to know of the backend it learns from `capabilities`; what a backend does not have is
//! skipped, and says so.

mod absent;
mod bench;
mod capable;
mod check;
mod crash;
mod end;
mod extra;
mod parts;
mod power;
mod processes;
mod start;
mod words;

use std::time::{Duration, Instant};

use microagent_supervisor_protocol::{CallError, Capabilities, Supervisor};
use serde::Serialize;

use bench::Bench;
use check::Trouble;

pub use check::{Check, Outcome, Verdict};
pub use parts::{Parts, Placeholders};

/// All checks, in the order in which they run.
#[must_use]
pub fn checks() -> Vec<Check> {
    [
        words::CHECKS,
        capable::CHECKS,
        absent::CHECKS,
        start::CHECKS,
        power::CHECKS,
        end::CHECKS,
        crash::CHECKS,
        extra::CHECKS,
    ]
    .concat()
}

/// What came of all checks.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The executable.
    pub supervisor: String,
    /// The backend's name, and what else it told; absent when it did not answer.
    pub capabilities: Option<Capabilities>,
    /// Each check that was run or skipped.
    pub outcomes: Vec<Outcome>,
}

impl Report {
    /// Whether no check failed.
    #[must_use]
    pub fn conforms(&self) -> bool {
        self.count(Verdict::Failed) == 0
    }

    /// How many checks ended so.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        self.outcomes.iter().filter(|outcome| outcome.verdict == verdict).count()
    }
}

/// Runs these checks, one after the other; `told` hears of each as it ends. Blocks the thread: a machine with a real guest takes some
/// seconds for each.
pub fn run(supervisor: &Supervisor, parts: &dyn Parts, checks: &[Check], told: &mut dyn FnMut(&Outcome)) -> Report {
    let capabilities = supervisor.capabilities(bench::PATIENCE);
    let outcomes = checks
        .iter()
        .map(|check| {
            let outcome = one(supervisor, parts, &capabilities, check);
            told(&outcome);
            outcome
        })
        .collect();
    Report { supervisor: supervisor.path().display().to_string(), capabilities: capabilities.ok(), outcomes }
}

fn one(
    supervisor: &Supervisor,
    parts: &dyn Parts,
    capabilities: &Result<Capabilities, CallError>,
    check: &Check,
) -> Outcome {
    let began = Instant::now();
    let result = Bench::new(supervisor, parts, capabilities.as_ref().ok()).and_then(|bench| {
        (check.run)(&bench)?;
        bench.leave()
    });
    let (verdict, message) = match result {
        Ok(()) => (Verdict::Passed, None),
        Err(Trouble::Failed(why)) => (Verdict::Failed, Some(why)),
        Err(Trouble::Skipped(why)) => (Verdict::Skipped, Some(why)),
    };
    Outcome { name: check.name, promise: check.promise, verdict, message, milliseconds: millis(began.elapsed()) }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
