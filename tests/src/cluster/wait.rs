//! Waiting for what other processes do.

use std::{
    thread,
    time::{Duration, Instant},
};

/// For everything that must happen; long, as the machines that run tests are busy.
const PATIENCE: Duration = Duration::from_secs(180);
/// Between two looks. A look may start a program, so not too often.
const PAUSE: Duration = Duration::from_millis(100);

/// Waits until something is so.
///
/// # Panics
/// When it does not come to that within minutes.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "it never comes to that: {what}");
        thread::sleep(PAUSE);
    }
}
