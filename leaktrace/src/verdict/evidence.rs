//! What a verdict is given from: how a site has gone, and what of each stretch of time lives.
//!
//! Must not know where it was read. All times are seconds since the attach.

/// A site at a reading.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Level {
    /// Outstanding bytes.
    pub live_bytes: f64,
    /// Outstanding blocks.
    pub live_blocks: f64,
    /// Bytes handed out up to then.
    pub alloc_bytes: f64,
    /// Blocks handed out up to then.
    pub allocs: f64,
}

/// What lives of what was handed out in a stretch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cohort {
    /// Bytes.
    pub live_bytes: f64,
    /// Blocks.
    pub live_blocks: f64,
    /// Recorded blocks: as many as blocks unless those are samples.
    pub samples: f64,
}

/// What is known of the whole run at a reading.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Run {
    /// Blocks taken back that nobody knows the site of.
    pub frees_unknown: f64,
    /// Resident and swapped memory of the targets, bytes; 0 where that is not known.
    pub resident_bytes: f64,
}

/// All that is known of a site.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// The readings, in order; the last is now.
    pub times_s: Vec<f64>,
    /// The site at each of them.
    pub levels: Vec<Level>,
    /// The run at each of them; empty where nothing is known of it.
    pub runs: Vec<Run>,
    /// What lives of what was handed out between the reading before and each of them; that of the first is from before.
    /// None where it is not known when what lives was handed out.
    pub cohorts: Option<Vec<Cohort>>,
    /// Where blocks are samples: how many bytes there are between two at most, on average. Then frees of blocks from before
    /// the attach cannot be told from those that were left out.
    pub sample_bytes: Option<f64>,
    /// Whether the process ran before the attach: it may hold blocks that nobody knows of.
    pub ran_before: bool,
}

/// Sums over a stretch of births.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Births {
    /// Length of the stretch, seconds.
    pub(super) over_s: f64,
    /// What was handed out in it.
    pub(super) alloc_bytes: f64,
    /// Blocks of that.
    pub(super) allocs: f64,
    /// What lives of it.
    pub(super) live: Cohort,
}

impl Births {
    /// Bytes that stayed, per second of the stretch.
    pub(super) fn density(&self) -> f64 {
        if self.over_s <= 0.0 {
            0.0
        } else {
            self.live.live_bytes / self.over_s
        }
    }

    /// How many independent pieces of evidence the living blocks are.
    pub(super) const fn events(&self) -> f64 {
        self.live.samples.min(self.live.live_blocks)
    }

    /// How many the blocks handed out were, of which as many stood for one as of those that live.
    pub(super) fn trials(&self) -> f64 {
        let weight = if self.live.samples > 0.0 {
            (self.live.live_blocks / self.live.samples).max(1.0)
        } else {
            1.0
        };
        (self.allocs / weight).max(self.events())
    }
}

impl Evidence {
    /// Seconds from the attach to now.
    pub(super) fn span_s(&self) -> f64 {
        self.times_s.last().copied().unwrap_or(0.0)
    }

    /// Whether it is known how much was handed out, and not only how much there is.
    pub(super) fn is_counted(&self) -> bool {
        self.now().allocs > 0.0
    }

    /// The site now.
    pub(super) fn now(&self) -> Level {
        self.levels.last().copied().unwrap_or_default()
    }

    /// Readings from a time on.
    pub(super) fn readings_since(&self, from_s: f64) -> usize {
        self.times_s.len() - self.times_s.partition_point(|time| *time < from_s)
    }

    /// The last reading that is not after a time: its index.
    fn index_at(&self, at_s: f64) -> usize {
        self.times_s
            .partition_point(|time| *time <= at_s)
            .saturating_sub(1)
    }

    /// The site at a time: between two readings as if it had gone in a line.
    pub(super) fn at(&self, at_s: f64) -> Level {
        let index = self.index_at(at_s);
        let Some(before) = self.levels.get(index) else {
            return Level::default();
        };
        let Some(after) = self.levels.get(index + 1) else {
            return *before;
        };
        let (from_s, to_s) = (self.times_s[index], self.times_s[index + 1]);
        let part = ((at_s - from_s) / (to_s - from_s)).clamp(0.0, 1.0);
        let between = |of: fn(&Level) -> f64| of(before) + part * (of(after) - of(before));
        Level {
            live_bytes: between(|level| level.live_bytes),
            live_blocks: between(|level| level.live_blocks),
            alloc_bytes: between(|level| level.alloc_bytes),
            allocs: between(|level| level.allocs),
        }
    }

    /// Outstanding bytes at `count` times, equally far apart, the last of which is now.
    pub(super) fn grid(&self, from_s: f64, count: usize) -> Vec<f64> {
        let step = (self.span_s() - from_s) / (count as f64 - 1.0);
        (0..count)
            .map(|index| self.at(from_s + step * index as f64).live_bytes)
            .collect()
    }

    /// The least and the most of the outstanding bytes from one time to another.
    pub(super) fn range(&self, from_s: f64, to_s: f64) -> (f64, f64) {
        let ends = [self.at(from_s).live_bytes, self.at(to_s).live_bytes];
        let readings = self.times_s.iter().zip(&self.levels);
        let between = readings.filter(|(time, _)| **time > from_s && **time < to_s);
        let all = between.map(|(_, level)| level.live_bytes).chain(ends);
        all.fold((f64::INFINITY, 0.0), |(low, high), bytes| {
            (f64::min(low, bytes), f64::max(high, bytes))
        })
    }

    /// What was handed out from one time to another, and what of it lives; none where that is not known. Parts of a
    /// stretch count in proportion.
    pub(super) fn births(&self, from_s: f64, to_s: f64) -> Option<Births> {
        let cohorts = self.cohorts.as_ref()?;
        let (from, to) = (self.at(from_s), self.at(to_s));
        let mut births = Births {
            over_s: to_s - from_s,
            alloc_bytes: to.alloc_bytes - from.alloc_bytes,
            allocs: to.allocs - from.allocs,
            live: Cohort::default(),
        };
        for (index, cohort) in cohorts.iter().enumerate().skip(1) {
            let (Some(begin), Some(end)) = (self.times_s.get(index - 1), self.times_s.get(index)) else {
                continue;
            };
            let common = end.min(to_s) - begin.max(from_s);
            if common > 0.0 && end > begin {
                let part = common / (end - begin);
                births.live.live_bytes += part * cohort.live_bytes;
                births.live.live_blocks += part * cohort.live_blocks;
                births.live.samples += part * cohort.samples;
            }
        }
        Some(births)
    }

    /// Bytes that came and that went since a time, per second.
    pub(super) fn flow(&self, from_s: f64) -> f64 {
        let (from, now) = (self.at(from_s), self.now());
        let came = now.alloc_bytes - from.alloc_bytes;
        let went = came - (now.live_bytes - from.live_bytes);
        (came + went).max(0.0) / (self.span_s() - from_s).max(f64::MIN_POSITIVE)
    }

    /// Readings at which more had been handed out than at those before: their times.
    pub(super) fn active(&self) -> Vec<f64> {
        let pairs = self
            .levels
            .windows(2)
            .zip(&self.times_s[1.min(self.times_s.len())..]);
        pairs
            .filter(|(pair, _)| pair[1].allocs > pair[0].allocs || pair[1].live_bytes > pair[0].live_bytes)
            .map(|(_, time)| *time)
            .collect()
    }

    /// The run at a time; none where nothing is known of it.
    pub(super) fn run_at(&self, at_s: f64) -> Option<Run> {
        self.runs.get(self.index_at(at_s)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence() -> Evidence {
        let level = |live_bytes, allocs| Level {
            live_bytes,
            live_blocks: live_bytes / 10.0,
            alloc_bytes: allocs * 10.0,
            allocs,
        };
        let cohort = |samples| Cohort {
            live_bytes: samples * 20.0,
            live_blocks: samples * 2.0,
            samples,
        };
        Evidence {
            times_s: vec![0.0, 1.0, 3.0, 4.0],
            levels: vec![
                level(0.0, 0.0),
                level(10.0, 4.0),
                level(50.0, 4.0),
                level(30.0, 10.0),
            ],
            cohorts: Some(vec![cohort(0.0), cohort(1.0), cohort(0.0), cohort(2.0)]),
            ..Evidence::default()
        }
    }

    #[test]
    fn between_readings_it_goes_in_a_line() {
        let evidence = evidence();
        assert_eq!(evidence.grid(0.0, 5), [0.0, 10.0, 30.0, 50.0, 30.0]);
        assert_eq!(evidence.range(0.5, 2.0), (5.0, 30.0));
        assert_eq!((evidence.at(9.0), evidence.span_s()), (evidence.now(), 4.0));
        assert_eq!(
            (evidence.active(), evidence.readings_since(1.0)),
            (vec![1.0, 3.0, 4.0], 3)
        );
    }

    #[test]
    fn births_are_those_of_a_stretch() {
        let births = evidence().births(0.5, 3.5).unwrap();
        assert_eq!(
            (births.over_s, births.allocs, births.alloc_bytes),
            (3.0, 5.0, 50.0)
        );
        assert!((births.live.live_bytes - (0.5 * 20.0 + 0.5 * 40.0)).abs() < 1e-9);
        assert_eq!(
            (births.events(), births.trials(), births.density()),
            (1.5, 2.5, 10.0)
        );
        assert_eq!(Evidence::default().births(0.0, 1.0), None);
    }
}
