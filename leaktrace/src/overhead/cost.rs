//! From hits of probes to what they have cost the target. Pure: no clock, no I/O.
//!
//! A hit costs a trap, whose price depends on the probed instruction, and the run of a program:
//! `sum(hits x price of the trap) + sum(runs x time of a run)`.

use std::{collections::HashMap, ops::AddAssign};

use leaktrace_common::{
    call::{Op, Space},
    record::Hits,
};

use crate::{
    kernel::programs::{GpuProgram, Program},
    probe::site::SiteKind,
    traced::slots::{Return, Slot},
};

/// What a function's probes are, as far as it concerns their cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeKind {
    /// At its entry.
    pub entry: SiteKind,
    /// The program that runs there.
    pub entry_program: Program,
    /// At its return, with the program that runs there; `None` where that is not probed.
    pub exit: Option<(Return, Program)>,
}

impl ProbeKind {
    /// Of a function; `session` where entry and return are one program.
    pub fn of(slot: &Slot, session: bool) -> Self {
        let (enter, exit) = match (slot.op, slot.exit) {
            _ if slot.space.is_gpus() => of_gpu(slot, session),
            (Op::Free, _) => (Program::FreeEnter, Program::FreeEnter),
            (_, Some(Return::Probe)) if session => (Program::AllocSession, Program::AllocSession),
            _ => (Program::AllocEnter, Program::AllocExit),
        };
        Self {
            entry: slot.entry,
            entry_program: enter,
            exit: slot.exit.map(|by| (by, exit)),
        }
    }
}

/// The programs of a function of CUDA's, and of those that stand beside them.
const fn of_gpu(slot: &Slot, session: bool) -> (Program, Program) {
    let (entry, exit) = match (slot.exit, slot.space) {
        (None, Space::Tensor) => (GpuProgram::Tensor, GpuProgram::Tensor),
        (None, _) => (GpuProgram::Note, GpuProgram::Note),
        (Some(_), _) if session => (GpuProgram::Session, GpuProgram::Session),
        (Some(_), _) => (GpuProgram::Enter, GpuProgram::Exit),
    };
    (Program::Gpu(entry), Program::Gpu(exit))
}

/// What a trap costs here, an empty program included, in nanoseconds of the target's time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrapCosts {
    /// Entry, at an instruction that is emulated.
    pub emulated_ns: f64,
    /// Entry, at one that is single-stepped.
    pub single_stepped_ns: f64,
    /// Return probe: what it adds to the entry's trap.
    pub return_ns: f64,
}

impl TrapCosts {
    const fn of_entry(&self, kind: SiteKind) -> f64 {
        match kind {
            SiteKind::Emulated(_) => self.emulated_ns,
            SiteKind::SingleStepped => self.single_stepped_ns,
        }
    }

    const fn of_exit(&self, exit: Return) -> f64 {
        match exit {
            Return::Probe => self.return_ns,
            Return::Instruction => self.single_stepped_ns,
        }
    }
}

/// What one run of each program takes, on average.
#[derive(Clone, Debug, Default)]
pub struct RunTimes(HashMap<Program, Average>);

#[derive(Clone, Copy, Debug, Default)]
struct Average {
    runs: f64,
    run_ns: f64,
}

/// How much what was known before counts when runs are timed again.
const KEPT: f64 = 0.5;

impl RunTimes {
    /// What comes from now on counts more than what is known.
    pub fn decay(&mut self) {
        self.scale(KEPT);
    }

    fn scale(&mut self, factor: f64) {
        for average in self.0.values_mut() {
            average.runs *= factor;
            average.run_ns *= factor;
        }
    }

    /// Takes in `runs` more that took `run_ns` in all.
    pub fn add(&mut self, program: Program, runs: u64, run_ns: u64) {
        if runs == 0 {
            return;
        }
        let average = self.0.entry(program).or_default();
        average.runs += runs as f64;
        average.run_ns += run_ns as f64;
    }

    /// From here on only what comes counts, as soon as something does: the programs now do something else.
    pub fn renew(&mut self) {
        for average in self.0.values_mut() {
            // So little weight that the next reading decides alone.
            let scale = 1e-6 / average.runs.max(1.0);
            average.runs *= scale;
            average.run_ns *= scale;
        }
    }

    /// Nanoseconds of a run; `None` if none has been timed.
    pub fn of(&self, program: Program) -> Option<f64> {
        let average = self.0.get(&program)?;
        Some(average.run_ns / average.runs)
    }
}

/// What a number of hits has cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Hits: entries and returns.
    pub traps: u64,
    /// Nanoseconds in the traps.
    pub trap_ns: f64,
    /// Nanoseconds in leaktrace's programs.
    pub run_ns: f64,
}

impl Cost {
    /// Of the hits of one function.
    pub fn of(hits: Hits, kind: &ProbeKind, costs: &TrapCosts, runs: &RunTimes) -> Self {
        let entries = hits.entries as f64;
        let returns = hits.returns as f64;
        let exit = kind.exit.map_or((0.0, 0.0), |(exit, program)| {
            (costs.of_exit(exit), runs.of(program).unwrap_or(0.0))
        });
        Self {
            traps: hits.entries + hits.returns,
            trap_ns: entries * costs.of_entry(kind.entry) + returns * exit.0,
            run_ns: entries * runs.of(kind.entry_program).unwrap_or(0.0) + returns * exit.1,
        }
    }

    /// Nanoseconds in all.
    pub const fn ns(&self) -> f64 {
        self.trap_ns + self.run_ns
    }

    /// As a share of the target's CPU time, which contains it; `None` if it used none. Never above 1: a
    /// calibrated price is not what each trap really took.
    pub fn share(&self, target_cpu_ns: u64) -> Option<f64> {
        (target_cpu_ns > 0).then(|| (self.ns() / target_cpu_ns as f64).min(1.0))
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.traps += other.traps;
        self.trap_ns += other.trap_ns;
        self.run_ns += other.run_ns;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::site::Emulated;

    const COSTS: TrapCosts = TrapCosts {
        emulated_ns: 900.0,
        single_stepped_ns: 15_000.0,
        return_ns: 600.0,
    };

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-3
    }

    fn hits(entries: u64, returns: u64) -> Hits {
        Hits { entries, returns }
    }

    #[test]
    fn every_kind_of_probe_has_its_price() {
        let mut runs = RunTimes::default();
        runs.add(Program::AllocSession, 10, 2_000);
        runs.add(Program::FreeEnter, 10, 1_000);
        let malloc = ProbeKind {
            entry: SiteKind::Emulated(Emulated::Push),
            entry_program: Program::AllocSession,
            exit: Some((Return::Probe, Program::AllocSession)),
        };
        let cost = Cost::of(hits(100, 40), &malloc, &COSTS, &runs);
        assert_eq!(cost.traps, 140);
        assert!(close(cost.trap_ns, 100.0 * 900.0 + 40.0 * 600.0), "{cost:?}");
        assert!(close(cost.run_ns, 140.0 * 200.0), "{cost:?}");

        let free = ProbeKind {
            entry: SiteKind::SingleStepped,
            entry_program: Program::FreeEnter,
            exit: None,
        };
        let cost = Cost::of(hits(10, 0), &free, &COSTS, &runs);
        assert!(close(cost.ns(), 10.0 * 15_100.0), "{cost:?}");

        let throwing = ProbeKind {
            entry: SiteKind::Emulated(Emulated::Push),
            entry_program: Program::AllocEnter,
            exit: Some((Return::Instruction, Program::AllocExit)),
        };
        let cost = Cost::of(hits(1, 1), &throwing, &COSTS, &runs);
        assert!(
            close(cost.trap_ns, 15_900.0) && close(cost.run_ns, 0.0),
            "{cost:?}"
        );
    }

    #[test]
    fn a_share_is_of_the_time_that_contains_it() {
        let mut sum = Cost::default();
        assert_eq!(sum.share(0), None);
        assert_eq!(sum.share(5), Some(0.0));
        sum += Cost {
            traps: 1,
            trap_ns: 20.0,
            run_ns: 5.0,
        };
        assert_eq!(sum.share(100), Some(0.25));
        assert_eq!(sum.share(10), Some(1.0));
    }

    #[test]
    fn run_times_are_smoothed_until_they_are_renewed() {
        let mut runs = RunTimes::default();
        runs.add(Program::FreeEnter, 0, 0);
        assert_eq!(runs.of(Program::FreeEnter), None);
        runs.add(Program::FreeEnter, 100, 10_000);
        runs.decay();
        runs.add(Program::FreeEnter, 100, 40_000);
        let smoothed = runs.of(Program::FreeEnter).unwrap();
        assert!(close(smoothed, 45_000.0 / 150.0), "{smoothed}");
        runs.renew();
        assert!(close(runs.of(Program::FreeEnter).unwrap(), smoothed));
        runs.add(Program::FreeEnter, 10, 500);
        assert!((runs.of(Program::FreeEnter).unwrap() - 50.0).abs() < 0.1);
    }
}
