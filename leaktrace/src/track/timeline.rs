//! When the history of all sites was read: close together of late, further apart the longer ago, and bounded in number.
//!
//! One for all sites, so that the histories of sites that turn out to be one can be added up. Must not know what was read.

/// Readings kept, to begin with: some 32 for each doubling of time.
pub(super) const READINGS_MAX: usize = 96;

/// Fewer than that say too little.
const READINGS_MIN: usize = 24;

/// What is younger than this part of the whole time is kept as closely as the readings came.
const RECENT_PART: f64 = 16.0;

/// The times of readings, nanoseconds of `CLOCK_BOOTTIME`, with what was true of the whole run then.
#[derive(Clone, Debug)]
pub(super) struct Timeline {
    readings: Vec<Reading>,
    max: usize,
}

/// A reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    /// When, nanoseconds of `CLOCK_BOOTTIME`.
    pub(super) at_ns: u64,
    /// What was known of the run.
    pub(super) run: RunReading,
}

/// What is read of the whole run together with the sites.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunReading {
    /// Blocks taken back up to now that were handed out before the attach, or not recorded: whose they were is not known.
    pub frees_unknown: u64,
    /// Resident and swapped memory of all targets that run, bytes; 0 where that is not known.
    pub resident_bytes: u64,
}

impl Timeline {
    /// From the attach on.
    pub(super) fn new(start_ns: u64) -> Self {
        let start = Reading {
            at_ns: start_ns,
            run: RunReading::default(),
        };
        Self {
            readings: vec![start],
            max: READINGS_MAX,
        }
    }

    /// What there was at the attach.
    pub(super) fn set_start(&mut self, run: RunReading) {
        if let Some(first) = self.readings.first_mut() {
            first.run = run;
        }
    }

    /// Adds a reading. Of two at one time there is one.
    pub(super) fn push(&mut self, at_ns: u64, run: RunReading) {
        if self.last_ns() < at_ns {
            self.readings.push(Reading { at_ns, run });
        }
        while self.readings.len() > self.max {
            self.thin();
        }
    }

    /// Keeps half as many from now on: there are too many sites.
    pub(super) fn halve(&mut self) {
        self.max = (self.max / 2).max(READINGS_MIN);
        while self.readings.len() > self.max {
            self.thin();
        }
    }

    /// The attach.
    pub(super) fn start_ns(&self) -> u64 {
        self.readings.first().map_or(0, |first| first.at_ns)
    }

    /// The last reading.
    pub(super) fn last_ns(&self) -> u64 {
        self.readings.last().map_or(0, |last| last.at_ns)
    }

    /// All that are kept, in order. The first is the attach.
    pub(super) fn readings(&self) -> &[Reading] {
        &self.readings
    }

    /// The first reading at a time or after it; of what is younger than all, the end of time.
    pub(super) fn reading_of(&self, at_ns: u64) -> u64 {
        let index = self.readings.partition_point(|reading| reading.at_ns < at_ns);
        self.readings.get(index).map_or(u64::MAX, |reading| reading.at_ns)
    }

    /// Leaves out the reading that is missed least: neither the first nor the last.
    fn thin(&mut self) {
        let (start_ns, now_ns) = (self.start_ns(), self.last_ns());
        let floor = now_ns.saturating_sub(start_ns) as f64 / RECENT_PART;
        let missed = |index: usize| {
            let gap = self.readings[index + 1].at_ns - self.readings[index - 1].at_ns;
            let age = now_ns - self.readings[index].at_ns;
            gap as f64 / (age as f64 + floor)
        };
        let least = (1..self.readings.len() - 1).min_by(|a, b| missed(*a).total_cmp(&missed(*b)));
        match least {
            Some(index) => drop(self.readings.remove(index)),
            // Two readings are the least there can be.
            None => self.max = self.max.max(self.readings.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn what_is_recent_is_close_together_and_the_attach_is_kept() {
        let mut timeline = Timeline::new(5 * S);
        for second in 6..=100_005 {
            timeline.push(second * S, RunReading::default());
        }
        let readings = timeline.readings();
        assert_eq!(readings.len(), READINGS_MAX);
        assert_eq!((timeline.start_ns(), timeline.last_ns()), (5 * S, 100_005 * S));
        let now = timeline.last_ns();
        for pair in readings.windows(2) {
            let (gap, age) = (pair[1].at_ns - pair[0].at_ns, now - pair[0].at_ns);
            assert!(gap as f64 <= 0.08 * (age as f64 + 1e14 / 16.0), "{gap} at {age}");
        }
        // Of the last sixteenth more than of any other.
        let late = readings
            .iter()
            .filter(|reading| reading.at_ns + 6250 * S > now)
            .count();
        assert!(late > READINGS_MAX / 6, "{late}");
    }

    #[test]
    fn what_happens_belongs_to_the_next_reading() {
        let mut timeline = Timeline::new(10);
        timeline.push(20, RunReading::default());
        timeline.push(20, RunReading::default());
        timeline.push(30, RunReading::default());
        let readings = [5, 10, 11, 20, 21, 30, 31].map(|at| timeline.reading_of(at));
        assert_eq!(readings, [10, 10, 20, 20, 30, 30, u64::MAX]);
    }

    #[test]
    fn half_as_many_are_kept_and_never_too_few() {
        let mut timeline = Timeline::new(0);
        for at in 1..200 {
            timeline.push(at, RunReading::default());
        }
        timeline.halve();
        assert_eq!(timeline.readings().len(), READINGS_MAX / 2);
        for _ in 0..9 {
            timeline.halve();
        }
        assert_eq!(timeline.readings().len(), READINGS_MIN);
    }
}
