//! Which parts of an array are free. Pure.

use std::{collections::BTreeMap, ops::Range};

/// The free ranges of an array. A range that is taken never lies on both sides of a wall.
#[derive(Clone, Debug)]
pub(super) struct Extents {
    /// End by start. No two of them touch, but at a wall.
    free: BTreeMap<u32, u32>,
    /// There is a wall at each multiple of it.
    wall: u32,
}

impl Extents {
    /// All of `range` is free.
    pub(super) fn new(range: Range<u32>, wall: u32) -> Self {
        let mut extents = Self {
            free: BTreeMap::new(),
            wall,
        };
        let mut start = range.start;
        while start < range.end {
            let end = (start - start % wall).saturating_add(wall).min(range.end);
            extents.free.insert(start, end);
            start = end;
        }
        extents
    }

    /// Takes `len`, out of the smallest free range that has as much.
    pub(super) fn take(&mut self, len: u32) -> Option<Range<u32>> {
        if len == 0 {
            return Some(0..0);
        }
        let fits = self.free.iter().filter(|(start, end)| *end - *start >= len);
        let (&start, &end) = fits.min_by_key(|(start, end)| *end - *start)?;
        self.free.remove(&start);
        if start + len < end {
            self.free.insert(start + len, end);
        }
        Some(start..start + len)
    }

    /// Length of the longest free range.
    pub(super) fn longest(&self) -> u32 {
        self.free
            .iter()
            .map(|(start, end)| end - start)
            .max()
            .unwrap_or(0)
    }

    /// Gives a range back that was taken.
    pub(super) fn give(&mut self, range: Range<u32>) {
        let Range { mut start, mut end } = range;
        if start >= end {
            return;
        }
        if !end.is_multiple_of(self.wall)
            && let Some(after) = self.free.remove(&end)
        {
            end = after;
        }
        if !start.is_multiple_of(self.wall)
            && let Some((&before, _)) = self
                .free
                .range(..start)
                .next_back()
                .filter(|(_, to)| **to == start)
        {
            start = before;
        }
        self.free.insert(start, end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// What is taken overlaps nothing that is taken and crosses no wall; when all is given back, all is as at first.
        #[test]
        fn nothing_is_taken_twice(
            steps in prop::collection::vec((any::<bool>(), 1u32..40, any::<prop::sample::Index>()), 0..200),
        ) {
            let (range, wall) = (5..300, 64);
            let mut extents = Extents::new(range.clone(), wall);
            let mut taken: Vec<Range<u32>> = Vec::new();
            for (give, len, which) in steps {
                if give && !taken.is_empty() {
                    extents.give(taken.swap_remove(which.index(taken.len())));
                } else if let Some(new) = extents.take(len) {
                    prop_assert_eq!(new.end - new.start, len);
                    prop_assert!(range.start <= new.start && new.end <= range.end);
                    prop_assert_eq!(new.start / wall, (new.end - 1) / wall);
                    prop_assert!(taken.iter().all(|old| old.end <= new.start || new.end <= old.start));
                    taken.push(new);
                } else {
                    prop_assert!(extents.longest() < len);
                }
                let used: u32 = taken.iter().map(|range| range.end - range.start).sum();
                let free: u32 = extents.free.iter().map(|(start, end)| end - start).sum();
                prop_assert_eq!(free + used, 295);
            }
            for old in taken {
                extents.give(old);
            }
            prop_assert_eq!(extents.free, Extents::new(range, wall).free);
        }
    }

    #[test]
    fn nothing_is_taken_where_there_is_nothing() {
        let mut extents = Extents::new(3..3, 8);
        assert_eq!((extents.take(1), extents.longest()), (None, 0));
    }
}
