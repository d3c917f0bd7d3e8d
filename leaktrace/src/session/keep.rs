//! Holds what tracing costs to what the user allows: passes what was measured to the controller, and what it
//! wants to the kernel side and the probes.

use std::collections::{BTreeSet, HashMap};

use leaktrace_common::call::{Op, Space};

use super::collect::{Collector, HandedOut};
use crate::{
    kernel::{clock::now_ns, maps::TableError},
    overhead::{
        controller::{Class, Controller, Desired, Spent, Step},
        coverage::{Coverage, Seen},
        meter::{Meter, Reading},
    },
    report::overhead::Budget,
    traced::{
        set::TracedSet,
        slots::{Slot, Slots},
    },
};

/// Keeps to a budget.
pub(super) struct Keeper {
    budget: f64,
    controller: Controller,
    desired: Desired,
    /// Which functions were probed, and when.
    pub coverage: Coverage,
    /// The largest mean gap between samples so far.
    pub largest_mean_bytes: u64,
    /// What each call had handed out at the last report.
    handed_out: HashMap<u32, HandedOut>,
    /// Entries of each function since then.
    entries: HashMap<u16, u64>,
    /// Estimated: blocks and bytes that were handed out unseen.
    unseen: (f64, f64),
    settled: bool,
    last_ns: u64,
    /// Nobody asked for the bound.
    by_default: bool,
}

impl Keeper {
    /// `budget` is a share of the targets' CPU time, `mean_bytes` the mean gap between samples that was asked for.
    pub(super) fn new(budget: f64, mean_bytes: u64, by_default: bool) -> Self {
        let controller = Controller::new(budget, mean_bytes, true);
        Self {
            budget,
            desired: controller.desired(),
            controller,
            coverage: Coverage::default(),
            largest_mean_bytes: mean_bytes,
            handed_out: HashMap::new(),
            entries: HashMap::new(),
            unseen: (0.0, 0.0),
            settled: true,
            last_ns: now_ns(),
            by_default,
        }
    }

    /// Takes in what was measured and sees to what follows from it.
    ///
    /// # Errors
    /// [`TableError`].
    pub(super) fn step(
        &mut self,
        reading: &Reading,
        meter: &mut Meter,
        traced: &mut TracedSet,
        collector: &mut Collector,
    ) -> Result<(), TableError> {
        let now_ns = now_ns();
        for (slot, at_ns) in traced.settle() {
            self.coverage.back(slot, at_ns);
            if traced.catalog.slots.get(slot).is_some_and(takes_back) {
                collector.unsure_before_ns = collector.unsure_before_ns.max(at_ns);
            }
        }
        self.coverage
            .step(self.last_ns, now_ns, reading.target_cpu_ns, reading.cost.ns());
        self.last_ns = now_ns;
        if self.any_frees_out(&traced.catalog.slots) {
            collector.unsure_before_ns = now_ns;
        }
        for (slot, hits, _) in &reading.functions {
            *self.entries.entry(*slot).or_default() += hits.entries;
        }
        let functions: Vec<Spent> = reading
            .functions
            .iter()
            .filter_map(|&(slot, hits, cost)| {
                Some(Spent {
                    slot,
                    class: class(traced.catalog.slots.get(slot)?)?,
                    entries: hits.entries,
                    cost_ns: cost.ns(),
                })
            })
            .collect();
        let desired = self.controller.step(&Step {
            elapsed_ns: reading.elapsed_ns,
            target_cpu_ns: reading.target_cpu_ns,
            functions: &functions,
            fresh: reading.fresh,
            settled: self.settled,
        });
        if desired.mean_bytes != self.desired.mean_bytes {
            tracing::info!("sampling mean {} bytes", desired.mean_bytes);
            collector.tables().set_mean(desired.mean_bytes)?;
            collector.sample_mean(desired.mean_bytes);
            self.largest_mean_bytes = self.largest_mean_bytes.max(desired.mean_bytes);
            meter.renew(traced.programs());
        }
        if desired.out != self.desired.out {
            tracing::info!("paused functions: {:?}", desired.out);
            let gone: BTreeSet<u16> = desired.out.difference(&self.desired.out).copied().collect();
            self.coverage.gone(&gone, now_ns);
            traced.pause(&desired.out);
        }
        self.desired = desired;
        self.settled = traced.is_settled();
        if self.any_frees_out(&traced.catalog.slots) {
            collector.unsure_before_ns = now_ns;
        }
        Ok(())
    }

    fn any_frees_out(&self, slots: &Slots) -> bool {
        let takes_back = |&slot: &u16| slots.get(slot).is_some_and(takes_back);
        self.desired.out.iter().any(takes_back)
    }

    /// Whether a function is paused now.
    pub(super) fn is_paused(&self, slot: u16) -> bool {
        self.desired.out.contains(&slot)
    }

    /// What it has come to, for a report.
    pub(super) fn budget(&mut self, slots: &Slots, collector: &Collector) -> Budget {
        self.estimate_unseen(slots, collector);
        let unseen_share = |(slot, _): (u16, &Slot)| 1.0 - self.coverage.run.share(slot);
        Budget {
            share: self.budget,
            by_default: self.by_default,
            mean_bytes: self.desired.mean_bytes,
            paused: self.desired.out.len(),
            unseen_allocs: self.unseen.0.round() as u64,
            unseen_alloc_bytes: self.unseen.1.round() as u64,
            frees_unseen_share: slots
                .iter()
                .filter(|(_, slot)| takes_back(slot))
                .map(unseen_share)
                .fold(0.0, f64::max),
            unsure_blocks: collector.unsure.blocks,
            unsure_bytes: collector.unsure.bytes,
        }
    }

    /// What was recorded of a call while its functions were probed stands for what it did while they were not:
    /// by the interval, since the load changes. One in which nothing of them was seen is judged with the next.
    fn estimate_unseen(&mut self, slots: &Slots, collector: &Collector) {
        let seen = &self.coverage.interval;
        let is_paused = seen.paused().next().is_some();
        if is_paused && !seen.paused().any(|slot| self.entries.contains_key(&slot)) {
            return;
        }
        for (&call, &now) in &collector.handed_out {
            let before = self.handed_out.insert(call, now).unwrap_or_default();
            let more = 1.0 / seen_share(call, &self.entries, slots, seen) - 1.0;
            self.unseen.0 += now.blocks.saturating_sub(before.blocks) as f64 * more;
            self.unseen.1 += now.bytes.saturating_sub(before.bytes) as f64 * more;
        }
        self.entries.clear();
        self.coverage.begin_interval();
    }
}

/// A smaller share of the target's CPU time says nothing about the rest.
const LEAST_SEEN: f64 = 1e-4;

/// Share of a call's entries that were seen: several functions may count as one call.
fn seen_share(call: u32, entries: &HashMap<u16, u64>, slots: &Slots, seen: &Seen) -> f64 {
    let of_call = |slot: u16| slots.get(slot).is_some_and(|slot| u32::from(slot.call) == call);
    let (mut all, mut estimated) = (0.0, 0.0);
    for (&slot, &entries) in entries.iter().filter(|(slot, _)| of_call(**slot)) {
        all += entries as f64;
        estimated += entries as f64 / seen.share(slot).max(LEAST_SEEN);
    }
    if estimated > 0.0 { all / estimated } else { 1.0 }
}

/// A reallocation that goes unseen leaves a block behind that is none any more. What is never paused is always seen.
const fn takes_back(slot: &Slot) -> bool {
    matches!(slot.op, Op::Free | Op::Realloc) && !slot.space.is_gpus()
}

/// None for what is never paused: what it costs cannot be saved.
const fn class(slot: &Slot) -> Option<Class> {
    match (slot.space, takes_back(slot)) {
        (space, _) if space.is_gpus() => None,
        (Space::PythonArena, _) => Some(Class::Arenas),
        (_, true) => Some(Class::TakesBack),
        (_, false) => Some(Class::Allocates),
    }
}
