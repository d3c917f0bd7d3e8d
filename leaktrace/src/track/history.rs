//! How a site has gone: what it held and what it had handed out, at the readings that are kept.
//!
//! A site that does not change takes no room. Must not know when readings are made, nor what follows from a history.

use leaktrace_common::math::Weight;

use super::{sums::Sums, timeline::Reading};

/// Points that a site may have beyond twice the readings before those that say nothing are thrown away.
const SLACK: usize = 16;

/// A site at a reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Point {
    /// When, nanoseconds of `CLOCK_BOOTTIME`.
    pub(super) at_ns: u64,
    /// What it was.
    pub(super) level: Level,
}

/// What a site holds and has handed out: estimates where blocks are samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Level {
    /// Outstanding bytes.
    pub(super) live_bytes: u64,
    /// Outstanding blocks.
    pub(super) live_blocks: u64,
    /// Bytes handed out since the attach.
    pub(super) alloc_bytes: u64,
    /// Blocks handed out since the attach.
    pub(super) allocs: u64,
}

impl Level {
    /// Of a site's sums.
    pub(super) const fn of(sums: &Sums) -> Self {
        Self {
            live_bytes: sums.live_bytes(),
            live_blocks: sums.live_blocks(),
            alloc_bytes: sums.alloc_bytes,
            allocs: sums.allocs,
        }
    }

    /// Adds another site's.
    pub(super) const fn add(&mut self, other: &Self) {
        self.live_bytes = self.live_bytes.saturating_add(other.live_bytes);
        self.live_blocks = self.live_blocks.saturating_add(other.live_blocks);
        self.alloc_bytes = self.alloc_bytes.saturating_add(other.alloc_bytes);
        self.allocs = self.allocs.saturating_add(other.allocs);
    }
}

/// The changes of a site. Before the first it was nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    points: Vec<Point>,
}

impl History {
    /// Notes what a site is at a time: that of the last of `readings`, or its end.
    pub(super) fn push(&mut self, at_ns: u64, level: Level, readings: &[Reading]) {
        let before = self.points.last().map_or_else(Level::default, |last| last.level);
        if before == level {
            return;
        }
        self.points.push(Point { at_ns, level });
        if self.points.len() > 2 * readings.len() + SLACK {
            self.compact(readings);
        }
    }

    /// What it was at each of these times, in order.
    pub(super) fn at<'a>(&'a self, times_ns: &'a [u64]) -> impl Iterator<Item = Level> + 'a {
        let mut next = 0;
        times_ns.iter().map(move |at_ns| {
            while self.points.get(next).is_some_and(|point| point.at_ns <= *at_ns) {
                next += 1;
            }
            next.checked_sub(1)
                .map_or_else(Level::default, |last| self.points[last].level)
        })
    }

    /// Throws away what no reading refers to: the last point before each is enough.
    pub(super) fn compact(&mut self, readings: &[Reading]) {
        let mut readings = readings.iter().map(|reading| reading.at_ns).peekable();
        let mut kept: Vec<Point> = Vec::with_capacity(readings.len());
        for (index, point) in self.points.iter().enumerate() {
            while readings.next_if(|at_ns| *at_ns < point.at_ns).is_some() {}
            let next_ns = self.points.get(index + 1).map_or(u64::MAX, |next| next.at_ns);
            if readings.peek().is_some_and(|at_ns| *at_ns < next_ns) {
                kept.push(*point);
            }
        }
        self.points = kept;
    }

    /// Points kept.
    pub(super) const fn len(&self) -> usize {
        self.points.len()
    }

    pub(super) const fn heap_bytes(&self) -> usize {
        self.points.capacity() * size_of::<Point>()
    }
}

/// What of a site lives, by when it was handed out: by the first reading since, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Cohorts {
    list: Vec<(u64, Held)>,
}

/// What lives of a cohort.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Held {
    /// Bytes, as estimated where blocks are samples.
    pub(super) bytes: f32,
    /// Blocks.
    pub(super) blocks: f32,
    /// Recorded blocks.
    pub(super) samples: u32,
}

impl Held {
    /// Of a block.
    pub(super) fn of(size_bytes: u64, weight: Weight) -> Self {
        Self {
            bytes: weight.bytes(size_bytes) as f32,
            blocks: weight.to_f64() as f32,
            samples: 1,
        }
    }

    fn add(&mut self, other: &Self) {
        self.bytes += other.bytes;
        self.blocks += other.blocks;
        self.samples += other.samples;
    }
}

impl Cohorts {
    /// Adds a block that was handed out before the reading at this time, and after the one before.
    pub(super) fn add(&mut self, reading_ns: u64, block: &Held) {
        match self.list.binary_search_by_key(&reading_ns, |(of, _)| *of) {
            Ok(at) => self.list[at].1.add(block),
            Err(at) => self.list.insert(at, (reading_ns, *block)),
        }
    }

    /// Forgets them: the live table is read anew.
    pub(super) fn clear(&mut self) {
        self.list.clear();
    }

    /// Each that has any, with the time of the reading.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Held)> {
        self.list.iter().map(|(reading_ns, held)| (*reading_ns, held))
    }

    pub(super) const fn heap_bytes(&self) -> usize {
        self.list.capacity() * size_of::<(u64, Held)>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::timeline::{RunReading, Timeline},
        *,
    };

    fn level(live_bytes: u64) -> Level {
        Level {
            live_bytes,
            live_blocks: 1,
            alloc_bytes: 2 * live_bytes,
            allocs: 3,
        }
    }

    fn times(timeline: &Timeline) -> Vec<u64> {
        timeline.readings().iter().map(|reading| reading.at_ns).collect()
    }

    #[test]
    fn what_does_not_change_takes_no_room() {
        let mut timeline = Timeline::new(0);
        let mut history = History::default();
        for at in 1..1000 {
            timeline.push(at, RunReading::default());
            let level = if at < 7 { Level::default() } else { level(5) };
            history.push(at, level, timeline.readings());
        }
        assert_eq!(history.len(), 1);
        let times = times(&timeline);
        for (at_ns, level) in times.iter().zip(history.at(&times)) {
            assert_eq!(level.live_bytes, if *at_ns < 7 { 0 } else { 5 }, "{at_ns}");
        }
    }

    proptest! {
        #[test]
        fn at_every_kept_reading_it_is_what_it_was(values in prop::collection::vec(0u64..4, 1..600), halve in any::<bool>()) {
            let mut timeline = Timeline::new(0);
            let mut history = History::default();
            for (index, value) in values.iter().enumerate() {
                timeline.push(index as u64 + 1, RunReading::default());
                history.push(index as u64 + 1, level(*value), timeline.readings());
            }
            if halve {
                timeline.halve();
                history.compact(timeline.readings());
            }
            prop_assert!(history.len() <= 2 * timeline.readings().len() + SLACK);
            let times = times(&timeline);
            for (at_ns, level) in times.iter().zip(history.at(&times)) {
                let wanted = at_ns.checked_sub(1).map_or(0, |index| values[index as usize]);
                prop_assert_eq!(level.live_bytes, wanted);
            }
        }

        #[test]
        fn cohorts_add_up(blocks in prop::collection::vec((0u64..40, 1u64..100), 0..200)) {
            let mut cohorts = Cohorts::default();
            let mut naive = [0u64; 40];
            for (reading_ns, bytes) in &blocks {
                cohorts.add(*reading_ns, &Held::of(*bytes, Weight::ONE));
                naive[*reading_ns as usize] += bytes;
            }
            let mut read = [0u64; 40];
            let mut before = None;
            for (reading_ns, held) in cohorts.iter() {
                prop_assert!(before < Some(reading_ns));
                before = Some(reading_ns);
                read[reading_ns as usize] = held.bytes as u64;
            }
            prop_assert_eq!(read, naive);
        }
    }
}
