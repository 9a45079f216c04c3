//! When a failed workspace is tried again.

use jiff::{SignedDuration, Timestamp};

/// The shortest upper bound of a wait.
const BASE_MS: u64 = 1_000;
/// The longest upper bound of a wait: five minutes, the design's.
const MAX_MS: u64 = 300_000;

/// Full jitter: the wait before attempt `count` (from 1) is drawn evenly from half a second to `min(5 min, 1 s · 2^(count-1))`, so
/// that workspaces that failed together do not come back together. `seed` decides the draw: the same workspace and the
/// same count give the same wait, which keeps `plan` a function.
#[must_use]
pub fn next_attempt(now: Timestamp, count: u32, seed: &str) -> Timestamp {
    let bound =
        BASE_MS.saturating_mul(1u64.checked_shl(count.saturating_sub(1).min(20)).unwrap_or(u64::MAX)).min(MAX_MS);
    let least = BASE_MS / 2;
    let wait = least + draw(seed, count) % (bound - least + 1);
    now.saturating_add(SignedDuration::from_millis(i64::try_from(wait).unwrap_or(i64::MAX))).unwrap_or(Timestamp::MAX)
}

/// Whether a wait until `at` is over. One that is longer than any wait can be is over too: the clock was set back.
pub(crate) fn is_over(at: Timestamp, now: Timestamp) -> bool {
    at <= now || at.duration_since(now) > SignedDuration::from_millis(MAX_MS.cast_signed())
}

/// An even draw from the text and the number: FNV-1a (RFC 9923), whose low bits are then mixed with its high ones.
pub(crate) fn draw(seed: &str, count: u32) -> u64 {
    let hash = seed
        .bytes()
        .chain(count.to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let hash = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ (hash >> 29)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_five_minutes_and_never_pass_them() {
        let now = Timestamp::UNIX_EPOCH;
        for count in 1..200 {
            let bound = BASE_MS.saturating_mul(1 << (count - 1).min(20)).min(MAX_MS);
            for seed in ["a", "b", "c"] {
                let wait = next_attempt(now, count, seed).as_millisecond();
                assert!((500..=i64::try_from(bound).unwrap()).contains(&wait), "{count} {seed} {wait}");
            }
        }
    }

    #[test]
    fn a_wait_may_be_as_short_and_as_long_as_its_bounds() {
        let wait =
            |count| move |seed: u32| next_attempt(Timestamp::UNIX_EPOCH, count, &seed.to_string()).as_millisecond();
        let first: Vec<i64> = (0..20_000).map(wait(1)).collect();
        assert_eq!((first.iter().min(), first.iter().max()), (Some(&500), Some(&1000)));
        let late: Vec<i64> = (0..20_000).map(wait(30)).collect();
        assert!(late.iter().any(|ms| *ms < 1_000) && late.iter().any(|ms| *ms > 299_000));
    }

    #[test]
    fn a_wait_is_over_at_its_time_or_when_the_clock_was_set_back() {
        let second = |second| Timestamp::from_second(second).unwrap();
        assert!(!is_over(second(1), second(0)) && !is_over(second(300), second(0)));
        assert!(is_over(second(0), second(0)) && is_over(second(301), second(0)));
    }

    #[test]
    fn two_workspaces_that_failed_together_come_back_apart() {
        let now = Timestamp::UNIX_EPOCH;
        assert_ne!(next_attempt(now, 9, "a"), next_attempt(now, 9, "b"));
        assert_eq!(next_attempt(now, 9, "a"), next_attempt(now, 9, "a"));
    }

    #[test]
    fn draws_are_spread_evenly() {
        let mut buckets = [0u32; 16];
        for n in 0..1600 {
            buckets[usize::try_from(draw(&format!("01990000-0000-7000-8000-{n:012}"), n % 3) % 16).unwrap()] += 1;
        }
        assert!(buckets.iter().all(|count| (60..=140).contains(count)), "{buckets:?}");
    }
}
