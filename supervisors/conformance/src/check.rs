//! A check, and what can come of it.

use microagent_supervisor_protocol::CallError;
use serde::Serialize;

use crate::bench::Bench;

/// One promise of the protocol, and how it is tried.
#[derive(Clone, Copy)]
pub struct Check {
    /// A stable name in kebab-case.
    pub name: &'static str,
    /// What the supervisor promises.
    pub promise: &'static str,
    pub(crate) run: fn(&Bench<'_>) -> Result<(), Trouble>,
}

impl std::fmt::Debug for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Check").field("name", &self.name).field("promise", &self.promise).finish_non_exhaustive()
    }
}

/// What came of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// The name of the check.
    pub name: &'static str,
    /// What the supervisor promises.
    pub promise: &'static str,
    /// How it ended.
    pub verdict: Verdict,
    /// Why it did not pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// How long it took.
    pub milliseconds: u64,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// The promise was kept.
    Passed,
    /// It was not.
    Failed,
    /// It could not be tried: the backend does not have it, or this host does not let the kit try it.
    Skipped,
}

/// Why a check did not pass.
#[derive(Debug)]
pub(crate) enum Trouble {
    Failed(String),
    Skipped(String),
}

impl From<CallError> for Trouble {
    fn from(error: CallError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// A failure unless it is so.
pub(crate) fn require(so: bool, otherwise: impl FnOnce() -> String) -> Result<(), Trouble> {
    if so { Ok(()) } else { Err(Trouble::Failed(otherwise())) }
}

/// A trouble of the kit itself, such as a full disk: told as a failure, for the check has not passed.
pub(crate) fn own(what: &str, error: &std::io::Error) -> Trouble {
    Trouble::Failed(format!("the kit itself {what}: {error}"))
}
