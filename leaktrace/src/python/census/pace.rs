//! How often a census of a process may be taken, and how long it may take: a share of one CPU. Pure.

use std::time::Duration;

/// Share of one CPU that the censuses of a process may take.
const SHARE: f64 = 0.02;

/// Time for a census, as long as it is enough: for some ten million objects. The first says what growth counts from, and
/// one that is not finished has been for nothing.
const TIME: Duration = Duration::from_secs(2);

/// Time for a census at most: a process that needs more has none.
const TIME_MAX: Duration = Duration::from_secs(4);

/// Paces the censuses of a process: one that was not finished has more time the next time, and all are so far apart
/// that they stay within their share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    time: Duration,
    not_before_ns: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            time: TIME,
            not_before_ns: 0,
        }
    }
}

impl Pace {
    /// Time for a census that begins now (nanoseconds of any clock that does not go back); `None` if it is too early.
    pub const fn time(&self, now_ns: u64) -> Option<Duration> {
        if now_ns < self.not_before_ns {
            None
        } else {
            Some(self.time)
        }
    }

    /// A census that ended now took so long; `is_late` if it was not finished in its time.
    pub fn taken(&mut self, now_ns: u64, spent: Duration, is_late: bool) {
        self.not_before_ns = now_ns.saturating_add(spent.div_f64(SHARE).as_nanos() as u64);
        if is_late {
            self.time = (self.time * 2).min(TIME_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn censuses_stay_within_their_share() {
        let mut pace = Pace::default();
        assert_eq!(pace.time(0), Some(TIME));
        pace.taken(10 * MS, Duration::from_millis(10), false);
        assert_eq!(pace.time(509 * MS), None);
        assert_eq!(pace.time(510 * MS), Some(TIME));
    }

    #[test]
    fn one_that_was_not_finished_has_more_time_up_to_a_bound() {
        let mut pace = Pace::default();
        for _ in 0..9 {
            pace.taken(0, TIME, true);
        }
        assert_eq!(pace.time(u64::MAX), Some(TIME_MAX));
    }
}
