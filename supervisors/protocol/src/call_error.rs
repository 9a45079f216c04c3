//! Why a call had no valid answer.

use std::{io, path::PathBuf, process::ExitStatus, time::Duration};

use crate::{ErrorBody, Machine, PROTOCOL, Verb};

/// Why a call of a supervisor failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// There is no supervisor of this backend.
    #[error(
        "no supervisor for backend {backend}: {name} is not beside this program, in its libexec/microagent, or in PATH; install it, or set {variable}"
    )]
    NotFound {
        /// The backend.
        backend: String,
        /// The executable that was looked for.
        name: String,
        /// The environment variable that names it.
        variable: String,
    },
    /// The executable cannot be run.
    #[error("cannot run supervisor {path}: {source}; see that it is an executable file for this host")]
    Spawn {
        /// The executable.
        path: PathBuf,
        /// The reason the system gave.
        source: io::Error,
    },
    /// The pipes to it failed.
    #[error("cannot talk to supervisor {path} for {verb:?}: {source}")]
    Io {
        /// The executable.
        path: PathBuf,
        /// The call.
        verb: Verb,
        /// The reason the system gave.
        source: io::Error,
    },
    /// The request is longer than the protocol allows.
    #[error("the {verb:?} request for {path} has {bytes} bytes, more than {max}; place fewer or smaller files in the guest", max = crate::MAX_BYTES)]
    RequestTooLong {
        /// The executable.
        path: PathBuf,
        /// The call.
        verb: Verb,
        /// The length of the request.
        bytes: usize,
    },
    /// It did not end in time; it was killed with its process group.
    #[error("supervisor {path} did not answer {verb:?} within {deadline:?} and was killed; {}", said(stderr))]
    Deadline {
        /// The executable.
        path: PathBuf,
        /// The call.
        verb: Verb,
        /// How long it had.
        deadline: Duration,
        /// The end of its standard error.
        stderr: String,
    },
    /// It said more than the protocol allows; it was killed with its process group.
    #[error("supervisor {path} answered {verb:?} with more than {max} bytes and was killed; replace it", max = crate::MAX_BYTES)]
    AnswerTooLong {
        /// The executable.
        path: PathBuf,
        /// The call.
        verb: Verb,
    },
    /// It ended without an answer.
    #[error("supervisor {path} ended with {status} before it answered {verb:?}; {}", said(stderr))]
    Ended {
        /// The executable.
        path: PathBuf,
        /// The call.
        verb: Verb,
        /// How it ended.
        status: ExitStatus,
        /// The end of its standard error.
        stderr: String,
    },
    /// Its answer is not JSON of the protocol, is cut short, or contradicts itself.
    #[error("supervisor {path} answered {verb:?} with what the protocol does not allow: {why}; {}", said(stderr))]
    Malformed {
        /// The executable.
        path: PathBuf,
        /// The call.
        verb: Verb,
        /// What is wrong.
        why: String,
        /// The end of its standard error.
        stderr: String,
    },
    /// It speaks another version.
    #[error(
        "supervisor {path} speaks `{found}`, not `{PROTOCOL}`; install a supervisor and a controller of the same release"
    )]
    Protocol {
        /// The executable.
        path: PathBuf,
        /// What it speaks.
        found: String,
    },
    /// It answered that it is not so.
    #[error("{verb:?} failed: {error}")]
    Refused {
        /// The call.
        verb: Verb,
        /// Why.
        error: Box<ErrorBody>,
        /// The machine, where it could be observed.
        machine: Option<Box<Machine>>,
    },
}

impl CallError {
    /// A stable code in CamelCase: the supervisor's own where it answered.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "SupervisorNotFound",
            Self::Spawn { .. } => "SupervisorNotExecutable",
            Self::Io { .. } => "SupervisorIo",
            Self::RequestTooLong { .. } => "RequestTooLong",
            Self::Deadline { .. } => "SupervisorTimeout",
            Self::Ended { .. } => "SupervisorEnded",
            Self::AnswerTooLong { .. } | Self::Malformed { .. } => "SupervisorAnswer",
            Self::Protocol { .. } => "SupervisorProtocol",
            Self::Refused { error, .. } => error.code.as_str(),
        }
    }

    /// Whether the same call may succeed later with nothing changed by a person.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::Io { .. } | Self::Deadline { .. } | Self::Ended { .. } => true,
            Self::Refused { error, .. } => error.retryable,
            _ => false,
        }
    }
}

fn said(stderr: &str) -> String {
    if stderr.is_empty() { "it said nothing".to_owned() } else { format!("it said: {stderr}") }
}
