//! What benches print: lines `figure NAME VALUE UNIT` on standard output.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a harness fails its test by panicking")]

use std::{fs, time::Duration};

/// Prints a figure.
pub fn figure(name: &str, value: f64, unit: &str) {
    println!("figure {name} {value:.2} {unit}");
}

/// The middle one of an odd number of values; not a number when there is none.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Milliseconds, with their fractions.
#[must_use]
pub fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Resident memory of a process, in MiB.
///
/// # Panics
/// When there is no such process.
#[must_use]
pub fn rss_mib(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}
