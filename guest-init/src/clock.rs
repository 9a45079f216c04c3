//! The guest's two clocks: milliseconds since its kernel started, and the time of day that the host tells.

use std::io;

use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

/// Milliseconds since the guest's kernel started.
pub(crate) fn uptime_ms() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

/// Sets the time of day, in nanoseconds since 1970-01-01 UTC.
pub(crate) fn set_realtime(ns: u64) -> io::Result<()> {
    Ok(clock_settime(ClockId::Realtime, timespec(ns))?)
}

fn timespec(ns: u64) -> Timespec {
    // Both quotients fit: 2^64 ns are 18 446 744 073 s.
    Timespec { tv_sec: (ns / 1_000_000_000).cast_signed(), tv_nsec: (ns % 1_000_000_000) as _ }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nanoseconds_are_split_into_seconds_and_the_rest() {
        let t = timespec(1_700_000_000_123_456_789);
        assert_eq!((t.tv_sec, t.tv_nsec), (1_700_000_000, 123_456_789));
        assert_eq!(timespec(u64::MAX).tv_sec, 18_446_744_073);
    }
}
