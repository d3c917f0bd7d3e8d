//! Reads what the cost is made of: hits of probes, times of runs, CPU time of the targets and of leaktrace.
//!
//! Must not know what is done about it.

use std::{collections::HashMap, os::fd::OwnedFd};

use leaktrace_common::record::{HIT_SLOTS, Hits};

use super::cost::{Cost, ProbeKind, RunTimes, TrapCosts};
use crate::{
    kernel::{
        clock::{now_ns, own_cpu_ns, process_cpu_ns},
        counters::HitTable,
        programs::{Program, Programs},
        sys::{self, RunStats},
    },
    traced::slots::Slots,
};

/// What one reading found, since the one before.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Nanoseconds since then.
    pub elapsed_ns: u64,
    /// CPU time of the targets.
    pub target_cpu_ns: u64,
    /// Of all functions.
    pub cost: Cost,
    /// Of each function that was hit, by its slot.
    pub functions: Vec<(u16, Hits, Cost)>,
    /// Runs have been timed since [`Meter::renew`].
    pub fresh: bool,
}

/// Sums over an interval or over the whole run.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    /// Nanoseconds.
    pub elapsed_ns: u64,
    /// CPU time of the targets.
    pub target_cpu_ns: u64,
    /// CPU time of leaktrace.
    pub tracer_cpu_ns: u64,
    /// Of all functions.
    pub cost: Cost,
    /// By function.
    pub functions: HashMap<u16, (Hits, Cost)>,
}

/// Reads and adds up.
pub struct Meter {
    costs: Result<TrapCosts, String>,
    session: bool,
    hits: HitTable,
    last_hits: Vec<Hits>,
    timing: Timing,
    /// CPU time when last looked at, by process.
    last_cpu_ns: HashMap<u32, u64>,
    last_tracer_cpu_ns: u64,
    last_ns: u64,
    /// Since the last [`Self::begin_interval`].
    pub interval: Sums,
    /// Since the start.
    pub run: Sums,
}

impl Meter {
    /// Begins: runs are timed from here on. `running` are the targets that run already and are not probed yet; others
    /// are followed from their fork on.
    pub fn new(
        costs: Result<TrapCosts, String>,
        hits: HitTable,
        session: bool,
        running: impl IntoIterator<Item = u32>,
    ) -> Self {
        Self {
            costs,
            session,
            hits,
            last_hits: vec![Hits::default(); HIT_SLOTS],
            timing: Timing::begin(),
            last_cpu_ns: running
                .into_iter()
                .filter_map(|pid| Some((pid, process_cpu_ns(pid)?)))
                .collect(),
            last_tracer_cpu_ns: own_cpu_ns(),
            last_ns: now_ns(),
            interval: Sums::default(),
            run: Sums::default(),
        }
    }

    /// What a trap costs; else why that is unknown.
    pub const fn costs(&self) -> Result<&TrapCosts, &String> {
        self.costs.as_ref()
    }

    /// Whether runs are being timed, which is to be over soon.
    pub const fn is_timing(&self) -> bool {
        self.timing.window.is_some()
    }

    /// Why runs cannot be timed, if so.
    pub fn untimed(&self) -> Option<&str> {
        self.timing.unavailable.as_deref()
    }

    /// Reads everything.
    ///
    /// # Errors
    /// aya's, when the table of hits cannot be read.
    pub fn read(
        &mut self,
        programs: &Programs,
        slots: &Slots,
        targets: impl IntoIterator<Item = u32>,
    ) -> Result<Reading, String> {
        let now_ns = now_ns();
        self.timing.step(programs, now_ns);
        let target_cpu_ns = self.read_cpu(targets);
        let mut reading = Reading {
            elapsed_ns: now_ns.saturating_sub(self.last_ns),
            target_cpu_ns,
            fresh: self.timing.is_fresh(),
            ..Reading::default()
        };
        self.last_ns = now_ns;
        for (slot, function) in slots.iter() {
            let hits = self.read_hits(slot)?;
            if hits == Hits::default() {
                continue;
            }
            let kind = ProbeKind::of(function, self.session);
            let mut cost = Cost {
                traps: hits.entries + hits.returns,
                ..Cost::default()
            };
            if let Ok(costs) = &self.costs {
                cost = Cost::of(hits, &kind, costs, &self.timing.times);
            }
            reading.cost += cost;
            reading.functions.push((slot, hits, cost));
        }
        // Functions without a number of their own: what they are is not known, so only their hits count.
        let shared = self.read_hits(Slots::SHARED)?;
        reading.cost.traps += shared.entries + shared.returns;
        let tracer_cpu_ns = own_cpu_ns();
        let tracer_ns = tracer_cpu_ns - self.last_tracer_cpu_ns;
        self.last_tracer_cpu_ns = tracer_cpu_ns;
        self.interval.add(&reading, tracer_ns);
        self.run.add(&reading, tracer_ns);
        Ok(reading)
    }

    fn read_hits(&mut self, slot: u16) -> Result<Hits, String> {
        let hits = self.hits.read(slot)?;
        let last = std::mem::replace(&mut self.last_hits[usize::from(slot)], hits);
        Ok(Hits {
            entries: hits.entries.saturating_sub(last.entries),
            returns: hits.returns.saturating_sub(last.returns),
        })
    }

    /// A process that has been reaped takes its clock with it: what it used since the last reading is lost.
    fn read_cpu(&mut self, targets: impl IntoIterator<Item = u32>) -> u64 {
        let mut sum = 0;
        for pid in targets {
            if let Some(cpu_ns) = process_cpu_ns(pid) {
                let last = self.last_cpu_ns.insert(pid, cpu_ns).unwrap_or(0);
                sum += cpu_ns.saturating_sub(last);
            }
        }
        sum
    }

    /// The programs do something else from now on: their runs are timed anew.
    pub fn renew(&mut self, programs: &Programs) {
        self.timing.renew(programs);
    }

    /// A report has been made of the interval.
    pub fn begin_interval(&mut self) {
        self.interval = Sums::default();
    }
}

impl Sums {
    fn add(&mut self, reading: &Reading, tracer_cpu_ns: u64) {
        self.elapsed_ns += reading.elapsed_ns;
        self.target_cpu_ns += reading.target_cpu_ns;
        self.tracer_cpu_ns += tracer_cpu_ns;
        self.cost += reading.cost;
        for &(slot, hits, cost) in &reading.functions {
            let (hits_sum, cost_sum) = self.functions.entry(slot).or_default();
            hits_sum.entries += hits.entries;
            hits_sum.returns += hits.returns;
            *cost_sum += cost;
        }
    }

    /// Share of the targets' CPU time; `None` if they used none.
    pub fn share(&self) -> Option<f64> {
        self.cost.share(self.target_cpu_ns)
    }
}

/// At least so long are runs timed in a row.
const WINDOW_NS: u64 = 50_000_000;
/// And so long if there are few.
const LONGEST_WINDOW_NS: u64 = 1_000_000_000;
/// These many are enough.
const ENOUGH_RUNS: u64 = 200;
/// From one window to the next: a run that is timed costs some 50 ns more.
const PERIOD_NS: u64 = 5_000_000_000;

/// Times the runs of the programs now and then.
struct Timing {
    times: RunTimes,
    window: Option<Window>,
    next_ns: u64,
    seen: HashMap<Program, RunStats>,
    /// Runs timed since the last renewal.
    runs_since: u64,
    unavailable: Option<String>,
}

struct Window {
    since_ns: u64,
    runs: u64,
    _enabled: OwnedFd,
}

impl Timing {
    fn begin() -> Self {
        let mut timing = Self {
            times: RunTimes::default(),
            window: None,
            next_ns: 0,
            seen: HashMap::new(),
            runs_since: 0,
            unavailable: None,
        };
        timing.open(now_ns());
        timing
    }

    /// The programs' numbers stand still while no window is open, unless somebody else has one open.
    fn open(&mut self, now_ns: u64) {
        if self.window.is_some() || self.unavailable.is_some() {
            return;
        }
        match sys::enable_run_stats() {
            Ok(enabled) => {
                self.times.decay();
                self.window = Some(Window {
                    since_ns: now_ns,
                    runs: 0,
                    _enabled: enabled,
                });
            }
            Err(error) => {
                self.unavailable = Some(format!(
                    "cannot time leaktrace's programs: {error}; run as root or with CAP_SYS_ADMIN"
                ));
            }
        }
    }

    /// Reads an open window and closes one that has seen enough; opens the next when it is due.
    fn step(&mut self, programs: &Programs, now_ns: u64) {
        if self.window.is_none() {
            if now_ns >= self.next_ns {
                self.note(programs);
                self.open(now_ns);
            }
            return;
        }
        let runs = self.take(programs);
        let Some(window) = &mut self.window else { return };
        window.runs += runs;
        self.runs_since += runs;
        let open_ns = now_ns.saturating_sub(window.since_ns);
        if open_ns >= LONGEST_WINDOW_NS || (open_ns >= WINDOW_NS && window.runs >= ENOUGH_RUNS) {
            self.window = None;
            self.next_ns = now_ns + PERIOD_NS;
        }
    }

    /// Takes what has been timed; the number of runs.
    fn take(&mut self, programs: &Programs) -> u64 {
        let mut sum = 0;
        for (program, timed) in self.note(programs) {
            self.times.add(program, timed.runs, timed.run_ns);
            sum += timed.runs;
        }
        sum
    }

    /// What has been timed since the last time.
    fn note(&mut self, programs: &Programs) -> Vec<(Program, RunStats)> {
        let stats = programs
            .each()
            .filter_map(|(program, fd)| Some((program, sys::run_stats(fd).ok()?)));
        stats
            .map(|(program, stats)| {
                let last = self.seen.insert(program, stats).unwrap_or_default();
                let timed = RunStats {
                    runs: stats.runs.saturating_sub(last.runs),
                    run_ns: stats.run_ns.saturating_sub(last.run_ns),
                };
                (program, timed)
            })
            .collect()
    }

    /// What has been timed until now belongs to before.
    fn renew(&mut self, programs: &Programs) {
        self.note(programs);
        self.times.renew();
        self.runs_since = 0;
        self.window = None;
        self.open(now_ns());
    }

    const fn is_fresh(&self) -> bool {
        self.runs_since >= ENOUGH_RUNS || self.unavailable.is_some()
    }
}
