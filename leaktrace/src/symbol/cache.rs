//! A bounded cache that keeps what is still asked for. Must not know what it holds.

use std::collections::HashMap;
use std::hash::Hash;
use std::mem;

/// Two generations: what is found in the old one moves to the young one; when the young one is full,
/// the old one is dropped and it takes its place. Neither order nor time has to be kept per entry.
#[derive(Debug)]
pub(super) struct Cache<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    generation_max: usize,
}

impl<K: Eq + Hash + Copy, V: Clone> Cache<K, V> {
    /// At most `max` entries, rounded up to an even number.
    pub(super) fn new(max: usize) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            generation_max: max.div_ceil(2).max(1),
        }
    }

    pub(super) fn get(&mut self, key: K) -> Option<V> {
        if let Some(value) = self.young.get(&key) {
            return Some(value.clone());
        }
        let value = self.old.remove(&key)?;
        self.insert(key, value.clone());
        Some(value)
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= self.generation_max && !self.young.contains_key(&key) {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_is_asked_for_and_stays_bounded() {
        let mut cache = Cache::new(10);
        cache.insert(0, "kept");
        for key in 1..1000 {
            cache.insert(key, "passing");
            assert_eq!(cache.get(0), Some("kept"), "after {key}");
            assert!(cache.young.len() + cache.old.len() <= 10);
        }
        assert_eq!(cache.get(1), None);
        assert_eq!(cache.get(999), Some("passing"));
    }
}
