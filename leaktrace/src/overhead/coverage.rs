//! Which part of the target's running each function was probed for. Pure: time comes in.
//!
//! By the target's own CPU time, without what tracing takes of it: it calls its functions in that time. By the
//! clock a paused function would seem to be seen more than it is, because probes go out when the load is high; by
//! all CPU time too, because while probes are in the target gets less done in it.

use std::collections::{BTreeSet, HashMap};

/// Where a function was not probed since the last step.
#[derive(Clone, Copy, Debug)]
struct Absence {
    since_ns: u64,
    until_ns: Option<u64>,
}

/// Own CPU time of the target, and that of it in which a function was not probed.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    own_cpu_ns: f64,
    unseen_ns: HashMap<u16, f64>,
}

impl Seen {
    /// Share of the target's own CPU time in which the function of a slot was probed.
    pub fn share(&self, slot: u16) -> f64 {
        let unseen_ns = self.unseen_ns.get(&slot).copied().unwrap_or(0.0);
        if self.own_cpu_ns <= 0.0 {
            return 1.0;
        }
        (1.0 - unseen_ns / self.own_cpu_ns).clamp(0.0, 1.0)
    }

    /// The slots that were not probed for some of the time.
    pub fn paused(&self) -> impl Iterator<Item = u16> {
        self.unseen_ns.keys().copied()
    }

    /// `unseen` is the part of the step for which each function was not probed; nothing was traced of it there.
    fn add(&mut self, target_cpu_ns: f64, cost_ns: f64, unseen: &HashMap<u16, f64>) {
        let own_cpu_ns = (target_cpu_ns - cost_ns).max(LEAST_OWN * target_cpu_ns);
        self.own_cpu_ns += own_cpu_ns;
        for (&slot, part) in unseen {
            *self.unseen_ns.entry(slot).or_default() += (part * target_cpu_ns).min(own_cpu_ns);
        }
    }
}

/// Part of its CPU time that a target has for itself at least: a calibrated cost is not exact.
const LEAST_OWN: f64 = 0.02;

/// Follows what goes out and comes back.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    absences: HashMap<u16, Absence>,
    /// Since the last [`Self::begin_interval`].
    pub interval: Seen,
    /// Since the start.
    pub run: Seen,
}

impl Coverage {
    /// The probes of these functions have gone out.
    pub fn gone(&mut self, slots: &BTreeSet<u16>, now_ns: u64) {
        for &slot in slots {
            let absence = self.absences.entry(slot).or_insert(Absence {
                since_ns: now_ns,
                until_ns: None,
            });
            absence.until_ns = None;
        }
    }

    /// Those of a function are in again.
    pub fn back(&mut self, slot: u16, at_ns: u64) {
        if let Some(absence) = self.absences.get_mut(&slot) {
            absence.until_ns = Some(at_ns);
        }
    }

    /// The target has used so much CPU time from `start_ns` to `end_ns`, and tracing so much of it.
    pub fn step(&mut self, start_ns: u64, end_ns: u64, target_cpu_ns: u64, cost_ns: f64) {
        let elapsed_ns = end_ns.saturating_sub(start_ns).max(1) as f64;
        let part = |absence: &Absence| {
            let until_ns = absence.until_ns.unwrap_or(end_ns).min(end_ns);
            until_ns.saturating_sub(absence.since_ns.max(start_ns)) as f64 / elapsed_ns
        };
        let unseen = self
            .absences
            .iter()
            .map(|(&slot, absence)| (slot, part(absence)))
            .collect();
        let target_cpu_ns = target_cpu_ns as f64;
        self.interval.add(target_cpu_ns, cost_ns, &unseen);
        self.run.add(target_cpu_ns, cost_ns, &unseen);
        self.absences
            .retain(|_, absence| absence.until_ns.is_none_or(|until_ns| until_ns > end_ns));
    }

    /// A report has been made of the interval.
    pub fn begin_interval(&mut self) {
        self.interval = Seen::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_which_the_target_does_not_run_does_not_count() {
        let mut coverage = Coverage::default();
        coverage.step(0, 100, 50, 0.0);
        coverage.gone(&BTreeSet::from([3]), 100);
        coverage.step(100, 200, 50, 0.0);
        coverage.step(200, 10_000, 0, 0.0);
        coverage.back(3, 10_050);
        coverage.step(10_000, 10_100, 100, 0.0);
        // 50 seen, 50 not, and half of 100.
        assert!(
            (coverage.run.share(3) - 0.5).abs() < 1e-9,
            "{}",
            coverage.run.share(3)
        );
        assert!((coverage.run.share(4) - 1.0).abs() < 1e-9);
        coverage.begin_interval();
        coverage.step(10_100, 10_200, 100, 0.0);
        assert!((coverage.interval.share(3) - 1.0).abs() < 1e-9);
        assert_eq!(coverage.run.paused().collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn what_tracing_takes_is_not_time_in_which_the_target_calls() {
        let mut coverage = Coverage::default();
        coverage.step(0, 100, 100, 90.0);
        coverage.gone(&BTreeSet::from([1]), 100);
        coverage.step(100, 200, 30, 0.0);
        assert!(
            (coverage.run.share(1) - 0.25).abs() < 1e-9,
            "{}",
            coverage.run.share(1)
        );
    }

    #[test]
    fn what_goes_out_again_within_a_step_is_out() {
        let mut coverage = Coverage::default();
        coverage.gone(&BTreeSet::from([1]), 0);
        coverage.back(1, 50);
        coverage.gone(&BTreeSet::from([1]), 60);
        coverage.step(0, 100, 10, 0.0);
        assert!(coverage.run.share(1) < 1e-9);
    }
}
