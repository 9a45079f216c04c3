//! The frequency of the host's time stamp counter, which QEMU's translator gives to its guests.
#![allow(unsafe_code, reason = "the counter is read by an intrinsic")]

/// What a guest is told of the counter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tsc {
    /// Its frequency.
    pub(crate) khz: u64,
    /// Whether it may be trusted without a watch on it.
    pub(crate) steady: bool,
}

/// Measures the counter's frequency, in kHz; takes some 20 ms. `None` where there is no such counter.
#[cfg(target_arch = "x86_64")]
pub(crate) fn measure_khz() -> Option<u64> {
    use std::{thread, time::Duration};

    /// Long enough that the few hundred nanoseconds between the two clocks make less than one part in 20000.
    const SPAN: Duration = Duration::from_millis(20);

    let (ticks, clock) = now();
    thread::sleep(SPAN);
    let (later_ticks, later_clock) = now();
    let ns = u64::try_from((later_clock - clock).as_nanos()).ok().filter(|ns| *ns > 0)?;
    let khz = u128::from(later_ticks.checked_sub(ticks)?) * 1_000_000 / u128::from(ns);
    u64::try_from(khz).ok().filter(|khz| *khz > 0)
}

/// There is none to measure.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn measure_khz() -> Option<u64> {
    None
}

/// Whether the host's kernel, which watched the counter since it booted, still counts it among the usable clocks.
pub(crate) fn is_steady() -> bool {
    let clocks = "/sys/devices/system/clocksource/clocksource0/available_clocksource";
    std::fs::read_to_string(clocks).is_ok_and(|clocks| clocks.split_whitespace().any(|clock| clock == "tsc"))
}

/// Both clocks at nearly the same instant: the closest of a few tries, as the process may be interrupted between them.
#[cfg(target_arch = "x86_64")]
fn now() -> (u64, std::time::Instant) {
    let read = || {
        // SAFETY: every x86-64 CPU has the instruction.
        let before = unsafe { core::arch::x86_64::_rdtsc() };
        let clock = std::time::Instant::now();
        // SAFETY: as above.
        let after = unsafe { core::arch::x86_64::_rdtsc() };
        (after.wrapping_sub(before), (before, clock))
    };
    (0..8).map(|_| read()).min_by_key(|(gap, _)| *gap).map_or_else(|| read().1, |(_, both)| both)
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    #[test]
    fn two_measurements_agree() {
        let (a, b) = (super::measure_khz().unwrap(), super::measure_khz().unwrap());
        assert!(a.abs_diff(b) * 100 < a, "{a} {b}");
    }
}
