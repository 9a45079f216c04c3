//! What to do about a lease, from what was seen of it and when.

use std::time::{Duration, Instant};

/// Which share of the duration the holder may use: the rest is for a request that is under way when the time is up.
const USABLE: f64 = 2.0 / 3.0;

/// How a lease is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The name of the Lease.
    pub name: String,
    /// Who wants it: a text that no other program, and no other run of this one, has.
    pub holder: String,
    /// How long the lease holds without being renewed; whole seconds, at least one.
    pub duration: Duration,
    /// How often it is renewed; well below two thirds of the duration.
    pub renew: Duration,
}

/// The lease as it was when it was last seen to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The `resourceVersion`: each change has another one.
    pub version: String,
    /// Who holds it; nobody when it was given back.
    pub holder: Option<String>,
    /// How long it holds without being renewed, by what its holder wrote.
    pub duration: Duration,
    /// When this version was first seen, by the clock of this machine that only goes forward.
    pub at: Instant,
}

/// The time until which a lease that is held may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// When the request was sent that took or renewed it: the server's copy is no older.
    pub renewed: Instant,
}

impl Holding {
    /// Until when the holder may act.
    #[must_use]
    pub fn until(self, terms: &Terms) -> Instant {
        self.renewed + terms.duration.mul_f64(USABLE)
    }
}

/// What to do about a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Take it: it is not there, was given back, or its holder has been silent for too long.
    Acquire,
    /// Renew it.
    Renew,
    /// Look again after this time.
    Wait(Duration),
    /// It was held and cannot be used any more: stop first, then begin anew.
    Lost,
}

/// What to do now. `seen` is absent when there is no such Lease; `holding` is what this program believes to hold.
#[must_use]
pub fn decide(terms: &Terms, seen: Option<&Seen>, holding: Option<Holding>, now: Instant) -> Step {
    let is_mine = seen.is_some_and(|seen| seen.holder.as_deref() == Some(&terms.holder));
    if let Some(holding) = holding {
        if !is_mine || now >= holding.until(terms) {
            return Step::Lost;
        }
        let due = holding.renewed + terms.renew;
        return if now >= due { Step::Renew } else { Step::Wait(due - now) };
    }
    match seen {
        None | Some(Seen { holder: None, .. }) => Step::Acquire,
        // Written by this very run, whose reply was lost: nobody else can mean this holder.
        Some(_) if is_mine => Step::Acquire,
        Some(seen) => {
            let free = seen.at + seen.duration;
            if now >= free { Step::Acquire } else { Step::Wait((free - now).min(terms.renew)) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn terms() -> Terms {
        Terms { name: "lead".into(), holder: "me".into(), duration: 15 * S, renew: 5 * S }
    }

    fn seen(holder: Option<&str>, at: Instant) -> Seen {
        Seen { version: "1".into(), holder: holder.map(str::to_owned), duration: 15 * S, at }
    }

    #[test]
    fn a_lease_that_is_not_there_or_was_given_back_is_taken() {
        let now = Instant::now();
        assert_eq!(decide(&terms(), None, None, now), Step::Acquire);
        assert_eq!(decide(&terms(), Some(&seen(None, now)), None, now), Step::Acquire);
    }

    #[test]
    fn the_lease_of_another_is_taken_only_after_its_duration_without_a_change() {
        let start = Instant::now();
        let other = seen(Some("other"), start);
        for second in 0..15 {
            let step = decide(&terms(), Some(&other), None, start + second * S);
            assert!(matches!(step, Step::Wait(wait) if !wait.is_zero() && wait <= 5 * S), "{second}: {step:?}");
        }
        assert_eq!(decide(&terms(), Some(&other), None, start + 14 * S), Step::Wait(S));
        assert_eq!(decide(&terms(), Some(&other), None, start + 15 * S), Step::Acquire);
    }

    #[test]
    fn the_duration_is_that_of_the_holder_and_not_ones_own() {
        let start = Instant::now();
        let other = Seen { duration: 60 * S, ..seen(Some("other"), start) };
        assert!(matches!(decide(&terms(), Some(&other), None, start + 59 * S), Step::Wait(_)));
        assert_eq!(decide(&terms(), Some(&other), None, start + 60 * S), Step::Acquire);
    }

    #[test]
    fn what_is_held_is_renewed_when_it_is_due() {
        let start = Instant::now();
        let (mine, holding) = (seen(Some("me"), start), Some(Holding { renewed: start }));
        assert_eq!(decide(&terms(), Some(&mine), holding, start + 2 * S), Step::Wait(3 * S));
        assert_eq!(decide(&terms(), Some(&mine), holding, start + 5 * S), Step::Renew);
        assert_eq!(decide(&terms(), Some(&mine), holding, start + 9 * S), Step::Renew);
    }

    #[test]
    fn the_holder_stops_before_any_other_can_begin() {
        let sent = Instant::now();
        let (mine, holding) = (seen(Some("me"), sent), Some(Holding { renewed: sent }));
        assert_eq!(decide(&terms(), Some(&mine), holding, sent + 10 * S), Step::Lost);
        // Who sees the renewal in the very moment in which it was sent waits for all of the duration.
        let other = Terms { holder: "other".into(), ..terms() };
        for second in 0..15 {
            assert_ne!(decide(&other, Some(&mine), None, sent + second * S), Step::Acquire);
        }
    }

    #[test]
    fn a_lease_that_someone_else_holds_or_removed_is_lost_at_once() {
        let now = Instant::now();
        let holding = Some(Holding { renewed: now });
        for taken in [Some(seen(Some("other"), now)), Some(seen(None, now)), None] {
            assert_eq!(decide(&terms(), taken.as_ref(), holding, now), Step::Lost, "{taken:?}");
        }
    }

    #[test]
    fn a_lease_of_this_run_whose_reply_was_lost_is_taken_again() {
        let now = Instant::now();
        assert_eq!(decide(&terms(), Some(&seen(Some("me"), now)), None, now), Step::Acquire);
    }
}
