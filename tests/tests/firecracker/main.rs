//! The Firecracker supervisor, as an executable, against a strict stand-in for Firecracker; and against the real one where there is one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test and its helpers end by panicking")]

mod conformance;
mod contract;
mod controller;
mod faults;
mod jail;
mod life;
mod real;
mod snapshot;
mod strict;

use microagent_supervisor_protocol::{CallError, ErrorBody};

/// Why it was refused.
fn refused<T: std::fmt::Debug>(result: Result<T, CallError>) -> ErrorBody {
    match result {
        Err(CallError::Refused { error, .. }) => *error,
        other => panic!("{other:?}"),
    }
}
