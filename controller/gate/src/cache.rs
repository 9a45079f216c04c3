//! Answers that hold for a short while, so that a client which asks often does not make the API server answer each time.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

/// A bounded map whose entries go after a time. The one that is to go first makes room.
#[derive(Debug)]
pub(crate) struct Cache<K, V> {
    lifetime: Duration,
    capacity: usize,
    entries: HashMap<K, (Instant, V)>,
}

impl<K: Hash + Eq + Clone, V: Clone> Cache<K, V> {
    pub(crate) fn new(lifetime: Duration, capacity: usize) -> Self {
        Self { lifetime, capacity, entries: HashMap::new() }
    }

    /// What was put in for `key` less than the lifetime ago.
    pub(crate) fn get(&self, key: &K, now: Instant) -> Option<V> {
        let (put, value) = self.entries.get(key)?;
        (now.saturating_duration_since(*put) < self.lifetime).then(|| value.clone())
    }

    pub(crate) fn put(&mut self, key: K, value: V, now: Instant) {
        if self.entries.len() >= self.capacity && !self.entries.contains_key(&key) {
            let lifetime = self.lifetime;
            self.entries.retain(|_, (put, _)| now.saturating_duration_since(*put) < lifetime);
            if self.entries.len() >= self.capacity
                && let Some(oldest) = self.entries.iter().min_by_key(|(_, (put, _))| *put).map(|(key, _)| key.clone())
            {
                self.entries.remove(&oldest);
            }
        }
        self.entries.insert(key, (now, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_goes_after_its_time_and_the_oldest_when_there_is_no_room() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut cache = Cache::new(5 * second, 2);
        cache.put("a", 1, start);
        cache.put("b", 2, start + second);
        assert_eq!((cache.get(&"a", start + 4 * second), cache.get(&"a", start + 5 * second)), (Some(1), None));
        cache.put("c", 3, start + 2 * second);
        assert_eq!(["a", "b", "c"].map(|key| cache.get(&key, start + 2 * second)), [None, Some(2), Some(3)]);
        cache.put("c", 4, start + 3 * second);
        assert_eq!(["b", "c"].map(|key| cache.get(&key, start + 3 * second)), [Some(2), Some(4)]);
        cache.put("d", 5, start + 60 * second);
        assert_eq!(cache.entries.len(), 1, "what is too old is dropped together");
    }
}
