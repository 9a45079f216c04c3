//! Which workspace is looked at next, and when: one delayed queue that both sources and every finished pass feed.
//!
//! A key stands in it at most once, at the earliest time that was asked for. Keys that are due leave in the order in
//! which they became due, so none starves. A key that is being worked on is not given out a second time: what is asked
//! for meanwhile happens after the work is done.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::Key;

/// Waits longer than [`FAR`] end together, at whole multiples of this: a host of thousands that are looked at every few minutes is woken
/// every few seconds, and not for each of them.
const TOGETHER: Duration = Duration::from_secs(4);
const FAR: Duration = Duration::from_secs(60);

/// The queue. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    began: Instant,
    state: Mutex<State>,
    /// Told when the earliest time may have changed.
    changed: Notify,
}

impl Default for Shared {
    fn default() -> Self {
        Self { began: Instant::now(), state: Mutex::default(), changed: Notify::new() }
    }
}

#[derive(Debug, Default)]
struct State {
    /// By time, then by the order of asking.
    waiting: BTreeSet<(Instant, u64, Key)>,
    times: HashMap<Key, (Instant, u64)>,
    /// The keys that are being worked on, each with the time for which it was asked again since.
    working: HashMap<Key, Option<Instant>>,
    asked: u64,
}

/// How full a queue is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Keys that are due and not given out yet.
    pub due: usize,
    /// Keys that are due later.
    pub waiting: usize,
    /// Keys that are being worked on.
    pub working: usize,
}

/// A key that is being worked on. Dropping it ends the work.
#[derive(Debug)]
#[must_use = "the key is given out again as soon as this is dropped"]
pub struct Lease {
    key: Key,
    shared: Arc<Shared>,
}

impl Queue {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for `key` now.
    pub fn add(&self, key: Key) {
        self.add_at(key, Instant::now());
    }

    /// Asks for `key` at `at`. An earlier time that was asked for already stays.
    pub fn add_at(&self, key: Key, at: Instant) {
        self.shared.add_at(key, at);
    }

    /// Asks for `key` after `wait`, or up to four seconds later where that is more than a minute.
    pub fn add_in(&self, key: Key, wait: Duration) {
        let at = Instant::now() + wait;
        let since = at.saturating_duration_since(self.shared.began);
        let late = Duration::from_nanos(u64::try_from(since.as_nanos() % TOGETHER.as_nanos()).unwrap_or(0));
        self.add_at(key, if wait > FAR && !late.is_zero() { at + (TOGETHER - late) } else { at });
    }

    /// Takes back what was asked for `key`, for a workspace that is gone.
    pub fn remove(&self, key: &Key) {
        let mut state = self.shared.lock();
        if let Some((at, order)) = state.times.remove(key) {
            state.waiting.remove(&(at, order, key.clone()));
        }
        if let Some(again) = state.working.get_mut(key) {
            *again = None;
        }
    }

    /// Waits for the next key that is due. Nothing is lost when the future is dropped.
    pub async fn next(&self) -> Lease {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            // Enrolled before the look, so that what is added between the look and the wait is not missed.
            changed.as_mut().enable();
            let earliest = {
                let mut state = self.shared.lock();
                if let Some(key) = state.take(Instant::now()) {
                    return Lease { key, shared: self.shared.clone() };
                }
                state.waiting.first().map(|(at, ..)| *at)
            };
            match earliest {
                Some(at) => tokio::select! {
                    () = sleep_until(at) => {}
                    () = changed => {}
                },
                None => changed.await,
            }
        }
    }

    /// How many keys wait, due or not. Those that are being worked on do not count.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.lock().waiting.len()
    }

    /// How many keys are due, wait and are worked on. Walks over those that are due.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let now = Instant::now();
        let state = self.shared.lock();
        let due = state.waiting.iter().take_while(|(at, ..)| *at <= now).count();
        Counts { due, waiting: state.waiting.len() - due, working: state.working.len() }
    }

    /// When each key that waits is due.
    #[must_use]
    pub fn times(&self) -> HashMap<Key, Instant> {
        self.shared.lock().times.iter().map(|(key, (at, _))| (key.clone(), *at)).collect()
    }

    /// Whether no key waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under the lock, so a poisoned state is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who waits for what is due first is woken only when that is another time now.
    fn add_at(&self, key: Key, at: Instant) {
        let is_first = {
            let mut state = self.lock();
            let earliest = state.waiting.first().map(|(at, ..)| *at);
            state.add_at(key, at);
            earliest.is_none_or(|earliest| at < earliest)
        };
        if is_first {
            self.changed.notify_waiters();
        }
    }
}

impl State {
    fn add_at(&mut self, key: Key, at: Instant) {
        if let Some(again) = self.working.get_mut(&key) {
            *again = Some(again.map_or(at, |earlier| earlier.min(at)));
            return;
        }
        if let Some(&(earlier, order)) = self.times.get(&key) {
            if earlier <= at {
                return;
            }
            self.waiting.remove(&(earlier, order, key.clone()));
        }
        self.asked += 1;
        self.times.insert(key.clone(), (at, self.asked));
        self.waiting.insert((at, self.asked, key));
    }

    fn take(&mut self, now: Instant) -> Option<Key> {
        if self.waiting.first()?.0 > now {
            return None;
        }
        let (_, _, key) = self.waiting.pop_first()?;
        self.times.remove(&key);
        self.working.insert(key.clone(), None);
        Some(key)
    }
}

impl Lease {
    /// The key.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if let Some(Some(at)) = state.working.remove(&self.key) {
            drop(state);
            self.shared.add_at(self.key.clone(), at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn key(name: &str) -> Key {
        Key::new("default", name)
    }

    /// What is due now.
    async fn take(queue: &Queue) -> Option<String> {
        timeout(Duration::ZERO, queue.next()).await.ok().map(|lease| lease.key().name.clone())
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_asked_for_twice_is_given_once() {
        let queue = Queue::new();
        queue.add(key("a"));
        queue.add(key("a"));
        assert_eq!(take(&queue).await.as_deref(), Some("a"));
        assert_eq!(take(&queue).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_time_asked_for_wins_whatever_the_order() {
        let queue = Queue::new();
        let start = Instant::now();
        queue.add_at(key("a"), start + Duration::from_secs(60));
        queue.add_at(key("a"), start + Duration::from_secs(5));
        queue.add_at(key("a"), start + Duration::from_secs(90));
        assert_eq!(queue.len(), 1);
        drop(queue.next().await);
        assert_eq!(start.elapsed(), Duration::from_secs(5));
        assert!(queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_consumer_wakes_for_a_key_that_is_due_sooner() {
        let queue = Queue::new();
        let start = Instant::now();
        queue.add_at(key("late"), start + Duration::from_secs(60));
        let consumer = tokio::spawn({
            let queue = queue.clone();
            async move { queue.next().await.key().name.clone() }
        });
        tokio::task::yield_now().await;
        queue.add_at(key("soon"), start + Duration::from_secs(1));
        assert_eq!(consumer.await.unwrap(), "soon");
        assert_eq!(start.elapsed(), Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_is_worked_on_comes_again_only_after_the_work() {
        let queue = Queue::new();
        queue.add(key("a"));
        let lease = queue.next().await;
        queue.add(key("a"));
        queue.add(key("b"));
        assert_eq!(take(&queue).await.as_deref(), Some("b"));
        assert_eq!(take(&queue).await, None, "a is still being worked on");
        drop(lease);
        assert_eq!(take(&queue).await.as_deref(), Some("a"));
        assert_eq!(take(&queue).await, None, "asked for once meanwhile, given once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_time_asked_for_during_the_work_is_kept_for_afterwards() {
        let queue = Queue::new();
        let start = Instant::now();
        queue.add(key("a"));
        let lease = queue.next().await;
        queue.add_at(key("a"), start + Duration::from_secs(30));
        queue.add_at(key("a"), start + Duration::from_secs(10));
        queue.add_at(key("a"), start + Duration::from_secs(20));
        drop(lease);
        drop(queue.next().await);
        assert_eq!(start.elapsed(), Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn keys_count_once_as_due_waiting_or_worked_on() {
        let queue = Queue::new();
        for name in ["a", "b", "c"] {
            queue.add(key(name));
        }
        queue.add_at(key("later"), Instant::now() + Duration::from_secs(60));
        let _lease = queue.next().await;
        assert_eq!(queue.counts(), Counts { due: 2, waiting: 1, working: 1 });
        tokio::time::advance(Duration::from_secs(61)).await;
        assert_eq!(queue.counts(), Counts { due: 3, waiting: 0, working: 1 });
        assert_eq!(queue.times().len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn long_waits_end_together_and_short_ones_when_they_were_asked_for() {
        let queue = Queue::new();
        let start = Instant::now();
        tokio::time::advance(Duration::from_millis(700)).await;
        for (name, wait) in [("a", 300_100), ("b", 302_900), ("c", 303_300), ("short", 59_900)] {
            queue.add_in(key(name), Duration::from_millis(wait));
        }
        let mut seen = Vec::new();
        for _ in 0..4 {
            let lease = queue.next().await;
            seen.push((lease.key().name.clone(), start.elapsed().as_millis()));
        }
        let expected = [("short", 60_600), ("a", 304_000), ("b", 304_000), ("c", 304_000)];
        assert_eq!(seen, expected.map(|(name, at)| (name.to_owned(), at)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_key_does_not_starve_the_others() {
        let queue = Queue::new();
        for name in ["a", "b", "c"] {
            queue.add(key(name));
        }
        let mut seen = Vec::new();
        for _ in 0..5 {
            let lease = queue.next().await;
            seen.push(lease.key().name.clone());
            queue.add(lease.key().clone());
        }
        assert_eq!(seen, ["a", "b", "c", "a", "b"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_removed_key_does_not_come() {
        let queue = Queue::new();
        queue.add(key("a"));
        queue.remove(&key("a"));
        assert_eq!(take(&queue).await, None);
        queue.add(key("a"));
        let lease = queue.next().await;
        queue.add(key("a"));
        queue.remove(&key("a"));
        drop(lease);
        assert_eq!(take(&queue).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn many_consumers_share_the_keys_without_doubles() {
        let queue = Queue::new();
        let consumers: Vec<_> = (0..4)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move { queue.next().await })
            })
            .collect();
        tokio::task::yield_now().await;
        for name in ["a", "b", "c", "d"] {
            queue.add(key(name));
        }
        let mut seen = Vec::new();
        for consumer in consumers {
            seen.push(consumer.await.unwrap().key().name.clone());
        }
        seen.sort();
        assert_eq!(seen, ["a", "b", "c", "d"]);
    }
}
