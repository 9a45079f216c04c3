//! The supervisor as an executable: with a stand-in for the framework, and as it is shipped.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test and its helpers end by panicking")]

mod conformance;
mod host;
mod life;
#[cfg(not(target_os = "macos"))]
mod shipped;
