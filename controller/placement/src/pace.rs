//! When a workspace is tried again, by what went wrong with it.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use microagent_controller::plan::backoff::next_attempt;

/// How long a Pod that was made may take to be seen; until then another is not asked for.
const SEEN: Duration = Duration::from_secs(2);
/// A reservation that held for so long was a good one: the next is not held back for the sake of those before.
const GOOD: Duration = Duration::from_secs(600);

/// What is remembered of one workspace between two passes. Nothing is lost with it but patience.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    generation: i64,
    failures: u32,
    reserves: u32,
    reserved: Option<Instant>,
    not_before: Option<Instant>,
    /// Why the API server refused the last reservation.
    pub(crate) refusal: Option<String>,
}

impl Pace {
    /// The workspace has this generation; another spec is another attempt.
    pub(crate) fn at(&mut self, generation: i64) {
        if self.generation != generation {
            let refusal = self.refusal.take();
            *self = Self { generation, refusal, ..Self::default() };
        }
    }

    /// Whether a reservation may be asked for.
    pub(crate) fn may_reserve(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|at| now >= at)
    }

    /// When one may be, if not yet.
    pub(crate) fn not_before(&self, now: Instant) -> Option<Instant> {
        self.not_before.filter(|at| now < *at)
    }

    /// A reservation was made.
    pub(crate) fn made(&mut self, now: Instant, seed: &str) {
        self.refusal = None;
        self.count(now, seed);
        self.not_before = self.not_before.max(Some(now + SEEN));
    }

    /// A reservation was refused.
    pub(crate) fn refused(&mut self, now: Instant, seed: &str, why: String) {
        self.refusal = Some(why);
        self.count(now, seed);
    }

    /// Something failed. Gives how long to wait.
    pub(crate) fn failed(&mut self, seed: &str) -> Duration {
        self.failures = self.failures.saturating_add(1);
        wait(self.failures, seed)
    }

    /// Something was done.
    pub(crate) fn done(&mut self) {
        self.failures = 0;
    }

    fn count(&mut self, now: Instant, seed: &str) {
        let is_good = self.reserved.is_some_and(|at| now.duration_since(at) >= GOOD);
        self.reserves = if is_good { 1 } else { self.reserves.saturating_add(1) };
        self.reserved = Some(now);
        self.not_before = Some(now + wait(self.reserves, seed));
    }
}

/// Half a second to a second at first, up to five minutes.
fn wait(count: u32, seed: &str) -> Duration {
    let start = Timestamp::UNIX_EPOCH;
    Duration::try_from(next_attempt(start, count, seed).duration_since(start)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_further_and_further_apart_and_another_spec_begins_anew() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        pace.at(1);
        assert!(pace.may_reserve(start));
        for _ in 0..20 {
            pace.refused(start, "a", "quota".into());
        }
        assert!(!pace.may_reserve(start) && pace.may_reserve(start + Duration::from_secs(300)));
        assert!(pace.not_before(start).is_some() && pace.not_before(start + Duration::from_secs(300)).is_none());
        pace.at(1);
        assert!(!pace.may_reserve(start));
        pace.at(2);
        assert!(pace.may_reserve(start));
        assert_eq!(pace.refusal.as_deref(), Some("quota"), "it is told until the next answer");
    }

    #[test]
    fn a_pod_that_was_made_is_not_asked_for_again_before_it_can_be_seen() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        pace.refused(start, "a", "quota".into());
        pace.made(start, "a");
        assert!(pace.refusal.is_none() && !pace.may_reserve(start + SEEN - Duration::from_millis(1)));
        assert!(pace.may_reserve(start + SEEN));
    }

    #[test]
    fn reservations_that_are_taken_at_once_are_made_less_and_less_often_and_a_good_one_is_forgiven() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        for _ in 0..30 {
            pace.made(start, "b");
        }
        let later = start + GOOD;
        pace.made(later, "b");
        assert!(pace.may_reserve(later + SEEN));
    }
}
