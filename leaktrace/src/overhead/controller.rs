//! What to do so that tracing costs no more than the user allows: first a coarser sampling mean, then functions
//! that are not probed for a while, the hottest first. Pure: no clock, no I/O.
//!
//! Functions that only allocate are paused first: what was recorded of them is then a known part of all, and
//! what survives is certain, because frees are still seen. Only where that is not enough go frees and
//! reallocations too, after a while in which blocks just handed out may still be seen to go.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ladder::{Ladder, Raise},
    pacer::Pacer,
};

pub use super::pacer::Phase;

/// What remains in while probes are out may cost this share of the budget, so that the debt is repaid.
const REST: f64 = 0.6;
/// The same for a plan that has been in use: it is kept unless it has become clearly too dear.
const REST_KEPT: f64 = 0.8;
/// The same once frees go out as well.
const REST_WITH_FREES: f64 = 0.2;
/// A function that costs less than this share of the budget stays in: it would be unseen for nothing.
const NEGLIGIBLE: f64 = 0.01;
/// CPU time over which the cost of each function is averaged.
const SPENDING_TAU_NS: f64 = 2e9;
/// Time over which the share is averaged to tell that it is calm.
const CALM_TAU_NS: f64 = 5e9;
/// A target is taken to use this part of a CPU at least: the share of one that idles means nothing.
const IDLE_CPUS: f64 = 0.02;

/// What a function does to blocks, as far as pausing is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Only hands out.
    Allocates,
    /// Takes back, or does both.
    TakesBack,
    /// Maps an interpreter's arenas, or takes them back: a few calls stand for a million objects, so these go last.
    Arenas,
}

/// What a function has cost in a step.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    /// Its slot.
    pub slot: u16,
    /// See [`Class`].
    pub class: Class,
    /// Its entries.
    pub entries: u64,
    /// Nanoseconds of the target's CPU time.
    pub cost_ns: f64,
}

/// What happened since the last step.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// Nanoseconds since then.
    pub elapsed_ns: u64,
    /// CPU time that the target used.
    pub target_cpu_ns: u64,
    /// What each function has cost; those without a hit are left out.
    pub functions: &'a [Spent],
    /// The cost is that of the present mean.
    pub fresh: bool,
    /// Probes were where they are wanted during all of the step.
    pub settled: bool,
}

/// What is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Mean gap between two samples of a thread; 0 for every allocation.
    pub mean_bytes: u64,
    /// Functions that are not probed for the moment, by slot.
    pub out: BTreeSet<u16>,
}

/// Decides.
#[derive(Clone, Debug)]
pub struct Controller {
    budget: f64,
    samples: bool,
    ladder: Ladder,
    pacer: Pacer,
    spending: Spending,
    plan: Plan,
    calm: Calm,
}

impl Controller {
    /// `budget` is a share of the target's CPU time; `mean_bytes` the mean asked for, 0 for every allocation.
    /// Without `samples` the mean stays.
    pub fn new(budget: f64, mean_bytes: u64, samples: bool) -> Self {
        Self {
            budget,
            samples,
            ladder: Ladder::new(mean_bytes),
            pacer: Pacer::new(budget),
            spending: Spending::default(),
            plan: Plan::default(),
            calm: Calm::default(),
        }
    }

    /// Where the probes are to be.
    pub const fn phase(&self) -> Phase {
        self.pacer.phase()
    }

    /// What is wanted now.
    pub fn desired(&self) -> Desired {
        Desired {
            mean_bytes: self.ladder.mean_bytes(),
            out: match self.pacer.phase() {
                Phase::In => BTreeSet::new(),
                Phase::Drain => self.plan.first.clone(),
                Phase::Out => self.plan.all.clone(),
            },
        }
    }

    /// Takes in a step and says what is wanted from now on.
    pub fn step(&mut self, step: &Step<'_>) -> Desired {
        let cost_ns: f64 = step.functions.iter().map(|spent| spent.cost_ns).sum();
        self.pacer.book(step.elapsed_ns, step.target_cpu_ns, cost_ns);
        self.ladder.pass(step.elapsed_ns, step.target_cpu_ns);
        let share = self.calm.share(step.elapsed_ns, step.target_cpu_ns, cost_ns);
        match self.pacer.phase() {
            Phase::In => {
                if step.settled {
                    self.observe(step, cost_ns);
                }
                if self.pacer.is_overdrawn() {
                    self.save();
                } else if self.samples {
                    self.ladder.rest(share, self.budget, step.elapsed_ns);
                }
            }
            Phase::Drain if step.settled && self.pacer.is_drained() => self.pacer.go(Phase::Out),
            Phase::Out if self.pacer.is_repaid() => self.pacer.go(Phase::In),
            Phase::Out if self.pacer.is_still_too_dear() && !self.plan.frees => {
                self.plan = self.spending.plan_with_frees(self.budget);
                self.pacer.go(Phase::Drain);
            }
            Phase::Drain | Phase::Out => {}
        }
        self.desired()
    }

    fn observe(&mut self, step: &Step<'_>, cost_ns: f64) {
        self.spending.learn(step);
        if step.fresh {
            let entries = step.functions.iter().map(|spent| spent.entries).sum();
            self.ladder
                .observe(step.elapsed_ns, step.target_cpu_ns, entries, cost_ns);
        }
    }

    /// The budget is overdrawn.
    fn save(&mut self) {
        let raise = if self.samples {
            self.ladder.raise(self.budget)
        } else {
            Raise::Exhausted
        };
        if raise != Raise::Exhausted {
            return;
        }
        self.plan = self.spending.plan(self.budget, &self.plan);
        if self.plan.all.is_empty() {
            return;
        }
        self.pacer
            .go(if self.plan.frees { Phase::Drain } else { Phase::Out });
    }
}

/// Which functions go out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Plan {
    /// Those that only allocate, which go first.
    first: BTreeSet<u16>,
    /// All of them.
    all: BTreeSet<u16>,
    /// Whether some of them take blocks back.
    frees: bool,
}

/// What each function costs while it is probed, averaged over the target's CPU time.
#[derive(Clone, Debug, Default)]
struct Spending {
    target_cpu_ns: f64,
    functions: BTreeMap<u16, (Class, f64)>,
}

impl Spending {
    fn learn(&mut self, step: &Step<'_>) {
        let kept = (-(step.target_cpu_ns as f64) / SPENDING_TAU_NS).exp();
        self.target_cpu_ns = self.target_cpu_ns * kept + step.target_cpu_ns as f64;
        for (_, cost_ns) in self.functions.values_mut() {
            *cost_ns *= kept;
        }
        for spent in step.functions {
            self.functions.entry(spent.slot).or_insert((spent.class, 0.0)).1 += spent.cost_ns;
        }
    }

    /// Functions of a class with their share, the hottest first.
    fn hottest(&self, class: Class) -> Vec<(u16, f64)> {
        let mut functions: Vec<(u16, f64)> = self
            .functions
            .iter()
            .filter(|(_, (of, _))| *of == class)
            .map(|(&slot, &(_, cost_ns))| (slot, cost_ns / self.target_cpu_ns.max(1.0)))
            .collect();
        functions.sort_by(|a, b| b.1.total_cmp(&a.1));
        functions
    }

    fn share(&self) -> f64 {
        self.functions.values().map(|(_, cost_ns)| cost_ns).sum::<f64>() / self.target_cpu_ns.max(1.0)
    }

    /// The hottest allocating functions, as many as needed; where all of them are not enough, frees too. The last plan is
    /// kept as long as it does.
    fn plan(&self, budget: f64, last: &Plan) -> Plan {
        let rest_of = |plan: &Plan| {
            self.share() - {
                let out = self.functions.iter().filter(|(slot, _)| plan.all.contains(slot));
                out.map(|(_, (_, cost_ns))| cost_ns).sum::<f64>() / self.target_cpu_ns.max(1.0)
            }
        };
        if !last.frees && !last.all.is_empty() && rest_of(last) <= REST_KEPT * budget {
            return last.clone();
        }
        let mut plan = Plan::default();
        let mut rest = self.share();
        let enough = if last.frees { REST / 2.0 } else { REST };
        for (slot, share) in self.hottest(Class::Allocates) {
            if rest <= enough * budget {
                break;
            }
            rest -= share;
            plan.all.insert(slot);
        }
        if rest > enough * budget {
            return self.plan_with_frees(budget);
        }
        plan.first.clone_from(&plan.all);
        plan
    }

    /// All that allocate and are not negligible, then the hottest of those that take back.
    fn plan_with_frees(&self, budget: f64) -> Plan {
        let mut rest = self.share();
        let mut plan = Plan::default();
        for class in [Class::Allocates, Class::TakesBack, Class::Arenas] {
            for (slot, share) in self.hottest(class) {
                if rest <= REST_WITH_FREES * budget || share < NEGLIGIBLE * budget {
                    break;
                }
                rest -= share;
                plan.all.insert(slot);
                if class == Class::Allocates {
                    plan.first.insert(slot);
                } else {
                    plan.frees = true;
                }
            }
        }
        plan
    }
}

/// The share, averaged over time. In nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Calm {
    elapsed: f64,
    target_cpu: f64,
    cost: f64,
}

impl Calm {
    fn share(&mut self, elapsed_ns: u64, target_cpu_ns: u64, cost_ns: f64) -> f64 {
        let kept = (-(elapsed_ns as f64) / CALM_TAU_NS).exp();
        self.elapsed = self.elapsed * kept + elapsed_ns as f64;
        self.target_cpu = self.target_cpu * kept + target_cpu_ns as f64;
        self.cost = self.cost * kept + cost_ns;
        self.cost / self.target_cpu.max(IDLE_CPUS * self.elapsed).max(1.0)
    }
}

#[cfg(test)]
#[path = "controller_tests.rs"]
mod tests;
