//! The sampling means that are tried before anything is paused, and which of them is in force. Pure.
//!
//! A raised mean saves the work of allocations that are left out, and where entry and return are one session also
//! the trap of their return; never the trap of an entry. So a raise is judged by what an entry costs before and
//! after it, which does not depend on how busy the target is.

use leaktrace_common::math::MEAN_MAX_BYTES;

/// From one rung to the next.
const FACTOR: u64 = 8;
/// The first rung above "every allocation".
const FIRST_BYTES: u64 = 64 << 10;
/// What an entry must cost less for a raise to be worth its coarser numbers.
const GAIN: f64 = 0.05;
/// A rung is judged after so much time and so many entries.
const JUDGED_AFTER_NS: u64 = 200_000_000;
const JUDGED_AFTER_ENTRIES: u64 = 200;
/// For so long of the target's CPU time is that waited for.
const LONGEST_WAIT_NS: u64 = 1_000_000_000;
/// How long it must be calm before the mean is lowered; doubled each time that proves wrong.
const CALM_NS: u64 = 5_000_000_000;
const CALM_MAX_NS: u64 = 80_000_000_000;
/// Share of the budget that the next lower mean may be expected to cost.
const CALM_SHARE: f64 = 0.7;

/// What came of asking for a higher mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Raise {
    /// It is higher now.
    Raised,
    /// The present one has not been seen for long enough.
    TooEarly,
    /// The present one is enough.
    Enough,
    /// A higher one would gain nothing, there is none, or too little is seen to tell.
    Exhausted,
}

/// What was seen on a rung.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    elapsed_ns: u64,
    target_cpu_ns: u64,
    entries: u64,
    cost_ns: f64,
}

/// The means, and which is in force.
#[derive(Clone, Debug)]
pub(super) struct Ladder {
    rungs: Vec<u64>,
    at: usize,
    /// The highest that is worth its price, as far as known.
    highest: usize,
    /// What an entry was seen to cost on each rung, in nanoseconds.
    per_entry_ns: Vec<Option<f64>>,
    seen: Seen,
    /// CPU time of the target since the rung was taken.
    waited_ns: u64,
    calm_ns: u64,
    calm_needed_ns: u64,
    /// Time since the mean was last lowered.
    since_lowered_ns: u64,
}

impl Ladder {
    /// From the mean asked for, 0 for every allocation, up to the largest.
    pub(super) fn new(mean_bytes: u64) -> Self {
        let mut rungs = vec![mean_bytes];
        let mut next = if mean_bytes == 0 {
            FIRST_BYTES
        } else {
            mean_bytes.saturating_mul(FACTOR)
        };
        while next <= MEAN_MAX_BYTES {
            rungs.push(next);
            next *= FACTOR;
        }
        Self {
            highest: rungs.len() - 1,
            per_entry_ns: vec![None; rungs.len()],
            rungs,
            at: 0,
            seen: Seen::default(),
            waited_ns: 0,
            calm_ns: 0,
            calm_needed_ns: CALM_NS,
            since_lowered_ns: u64::MAX,
        }
    }

    /// The mean in force.
    pub(super) fn mean_bytes(&self) -> u64 {
        self.rungs[self.at]
    }

    /// Time passes, with all functions probed or not.
    pub(super) fn pass(&mut self, elapsed_ns: u64, target_cpu_ns: u64) {
        self.since_lowered_ns = self.since_lowered_ns.saturating_add(elapsed_ns);
        self.waited_ns += elapsed_ns.min(target_cpu_ns);
    }

    /// Takes in what the present mean costs while all functions are probed.
    pub(super) fn observe(&mut self, elapsed_ns: u64, target_cpu_ns: u64, entries: u64, cost_ns: f64) {
        let seen = &mut self.seen;
        seen.elapsed_ns += elapsed_ns;
        seen.target_cpu_ns += target_cpu_ns;
        seen.entries += entries;
        seen.cost_ns += cost_ns;
        if self.is_judged() {
            self.per_entry_ns[self.at] = Some(self.seen.cost_ns / self.seen.entries as f64);
        }
    }

    const fn is_judged(&self) -> bool {
        self.seen.elapsed_ns >= JUDGED_AFTER_NS && self.seen.entries >= JUDGED_AFTER_ENTRIES
    }

    /// The budget is overdrawn: the next mean, if that helps.
    pub(super) fn raise(&mut self, budget: f64) -> Raise {
        self.calm_ns = 0;
        if self.at == self.highest {
            return Raise::Exhausted;
        }
        if !self.is_judged() {
            return if self.waited_ns < LONGEST_WAIT_NS {
                Raise::TooEarly
            } else {
                Raise::Exhausted
            };
        }
        if self.seen.cost_ns <= 0.9 * budget * self.seen.target_cpu_ns as f64 {
            return Raise::Enough;
        }
        if let Some(below) = self.at.checked_sub(1)
            && let (Some(now), Some(before)) = (self.per_entry_ns[self.at], self.per_entry_ns[below])
            && now > before * (1.0 - GAIN)
        {
            self.highest = below;
            self.go(below);
            return Raise::Exhausted;
        }
        if self.since_lowered_ns < self.calm_needed_ns.saturating_mul(4) {
            self.calm_needed_ns = (self.calm_needed_ns * 2).min(CALM_MAX_NS);
        }
        self.go(self.at + 1);
        Raise::Raised
    }

    /// The budget is kept, at `share`: after a while the next lower mean, if it can be expected to keep it too.
    pub(super) fn rest(&mut self, share: f64, budget: f64, elapsed_ns: u64) {
        let Some(below) = self.at.checked_sub(1) else {
            return;
        };
        let dearer = match (self.per_entry_ns[below], self.per_entry_ns[self.at]) {
            (Some(below), Some(now)) if now > 0.0 => (below / now).max(1.0),
            _ => 1.0,
        };
        if share * dearer > CALM_SHARE * budget {
            self.calm_ns = 0;
            return;
        }
        self.calm_ns += elapsed_ns;
        if self.calm_ns >= self.calm_needed_ns {
            self.go(below);
            self.since_lowered_ns = 0;
            // The program may have changed: what gained nothing then may be worth it now.
            self.highest = self.rungs.len() - 1;
        }
    }

    fn go(&mut self, rung: usize) {
        self.at = rung;
        self.seen = Seen::default();
        self.waited_ns = 0;
        self.calm_ns = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rungs_reach_from_what_was_asked_to_the_largest() {
        assert_eq!(Ladder::new(0).rungs, [0, 64 << 10, 512 << 10, 4 << 20, 32 << 20]);
        assert_eq!(Ladder::new(512 << 10).rungs, [512 << 10, 4 << 20, 32 << 20]);
        assert_eq!(Ladder::new(MEAN_MAX_BYTES).rungs, [MEAN_MAX_BYTES]);
    }

    #[test]
    fn a_raise_that_gains_nothing_is_taken_back() {
        let mut ladder = Ladder::new(0);
        assert_eq!(ladder.raise(0.01), Raise::TooEarly);
        ladder.observe(300_000_000, 300_000_000, 1000, 30e6);
        assert_eq!(ladder.raise(0.01), Raise::Raised);
        ladder.observe(300_000_000, 300_000_000, 1000, 20e6);
        assert_eq!(ladder.raise(0.01), Raise::Raised);
        ladder.observe(300_000_000, 300_000_000, 1000, 19.9e6);
        assert_eq!(ladder.raise(0.01), Raise::Exhausted);
        assert_eq!(ladder.mean_bytes(), 64 << 10);
        assert_eq!(ladder.raise(0.01), Raise::Exhausted);
    }

    #[test]
    fn a_mean_that_is_enough_stays() {
        let mut ladder = Ladder::new(0);
        ladder.observe(300_000_000, 300_000_000, 1000, 30e6);
        assert_eq!(ladder.raise(0.05), Raise::Raised);
        ladder.observe(300_000_000, 300_000_000, 1000, 10e6);
        assert_eq!(ladder.raise(0.05), Raise::Enough);
        // The lower mean would cost three times as much: above the budget.
        ladder.rest(0.03, 0.05, CALM_NS);
        assert_eq!(ladder.mean_bytes(), 64 << 10);
        ladder.rest(0.01, 0.05, CALM_NS);
        assert_eq!(ladder.mean_bytes(), 0);
    }
}
