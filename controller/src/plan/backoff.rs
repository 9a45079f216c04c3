//! When a failed workspace is tried again.

use jiff::{SignedDuration, Timestamp};

/// The shortest upper bound of a wait.
const BASE_MS: u64 = 1_000;
/// The longest upper bound of a wait: five minutes, the design's.
const MAX_MS: u64 = 300_000;

/// Full jitter: the wait before attempt `count` (from 1) is drawn evenly from half a second to `min(5 min, 1 s · 2^(count-1))`, so
/// that workspaces that failed together do not come back together. `seed` decides the draw: the same workspace and the
/// same count give the same wait, which keeps `plan` a function.
pub(crate) fn next_attempt(now: Timestamp, count: u32, seed: &str) -> Timestamp {
    let bound =
        BASE_MS.saturating_mul(1u64.checked_shl(count.saturating_sub(1).min(20)).unwrap_or(u64::MAX)).min(MAX_MS);
    let least = BASE_MS / 2;
    let wait = least + draw(seed, count) % (bound - least + 1);
    now.saturating_add(SignedDuration::from_millis(i64::try_from(wait).unwrap_or(i64::MAX))).unwrap_or(Timestamp::MAX)
}

/// An even draw from the text and the number: the first bytes of their SHA-256.
pub(crate) fn draw(seed: &str, count: u32) -> u64 {
    let digest = microagent_base::Digest::of(format!("{seed}/{count}").as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&digest.bytes()[..8]);
    u64::from_le_bytes(first)
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
    fn two_workspaces_that_failed_together_come_back_apart() {
        let now = Timestamp::UNIX_EPOCH;
        assert_ne!(next_attempt(now, 9, "a"), next_attempt(now, 9, "b"));
        assert_eq!(next_attempt(now, 9, "a"), next_attempt(now, 9, "a"));
    }
}
