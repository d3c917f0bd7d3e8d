//! `cargo xtask bench programs`: how long the kernel side's programs run at each hit, without the trap.
//!
//! The kernel times the runs (`bpf_stats_enabled`), `bpftool` reads them; both clock readings are in the
//! figure. Must not know what the programs do.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{
    machine::Machine,
    setup::Setup,
    stats::{Summary, summary},
    tracer::Tracers,
    workload::{Target, Workload},
};
use crate::process::output;

/// What is compared: every allocation, few of them, none.
const SETUPS: [Setup; 3] = [Setup::Full, Setup::Sampled512, Setup::Filtered];
const THREADS: [u32; 3] = [1, 2, 4];
const BATCHES: usize = 15;
const BATCH: Duration = Duration::from_millis(60);

/// Runs and nanoseconds in them, by id and name of a program.
pub(super) type Runs = BTreeMap<(u64, String), (u64, u64)>;

pub(super) fn measure(directory: &Path, tracers: &Tracers) -> Result<()> {
    println!(
        "\n{}; lowest and median of {BATCHES} batches.\n",
        Machine::here().line()
    );
    println!("| threads | under | program | runs a pair | ns a run | median |");
    println!("|---:|---|---|---:|---:|---:|");
    for threads in THREADS {
        let mut target = Workload::Pairs { threads }.start(directory, &[])?;
        for setup in SETUPS {
            let attached = tracers.attach(setup, &target)?;
            let mut pairs = target.batch(BATCH)?.units;
            let rows = {
                let _timed = Timed::switch_on()?;
                batches(&mut target, &mut pairs)?
            };
            attached.detach(pairs)?;
            for (program, (runs, ns)) in rows {
                println!(
                    "| {threads} | {} | `{program}` | {:.2} | {:.0} | {:.0} |",
                    setup.title(),
                    runs.median,
                    ns.min,
                    ns.median
                );
            }
        }
        target.finish()?;
    }
    Ok(())
}

/// For each program that ran: runs a pair, and nanoseconds a run.
fn batches(target: &mut Target, pairs: &mut u64) -> Result<BTreeMap<String, (Summary, Summary)>> {
    let mut all: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for _ in 0..BATCHES {
        let before = runs()?;
        let units = target.batch(BATCH)?.units;
        *pairs += units;
        for (key, (count, ns)) in runs()? {
            let (count_before, ns_before) = before.get(&key).copied().unwrap_or_default();
            let count = count.saturating_sub(count_before);
            // Another tracer on this machine, or one that is going.
            if count > units / 10 {
                let ns_each = ns.saturating_sub(ns_before) as f64 / count as f64;
                let batches = all.entry(key.1).or_default();
                batches.push((count as f64 / units as f64, ns_each));
            }
        }
    }
    ensure!(!all.is_empty(), "no program of leaktrace's ran");
    let rows = all.into_iter().filter_map(|(name, batches)| {
        let counts = summary(batches.iter().map(|(count, _)| *count))?;
        Some((name, (counts, summary(batches.iter().map(|(_, ns)| *ns))?)))
    });
    Ok(rows.collect())
}

/// What `bpftool` says of leaktrace's programs, and of the one that is compared with them.
pub(super) fn runs() -> Result<Runs> {
    let listing = output(Command::new("bpftool").args(["prog", "show", "--json"]))
        .context("install the package bpftool")?;
    let programs: Vec<Value> = serde_json::from_str(&listing).context("bpftool does not print JSON")?;
    let runs = programs.iter().filter_map(|program| {
        let name = program["name"].as_str()?;
        [
            "alloc_enter",
            "alloc_exit",
            "alloc_session",
            "free_enter",
            "copy_stack",
        ]
        .contains(&name)
        .then(|| {
            let number = |field: &str| program[field].as_u64().unwrap_or(0);
            let key = (number("id"), name.to_owned());
            (key, (number("run_cnt"), number("run_time_ns")))
        })
    });
    Ok(runs.collect())
}

/// The kernel times the runs of BPF programs as long as this lives.
pub(super) struct Timed(PathBuf, String);

impl Timed {
    pub(super) fn switch_on() -> Result<Self> {
        let path = PathBuf::from("/proc/sys/kernel/bpf_stats_enabled");
        let before = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        fs::write(&path, "1").with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self(path, before))
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.0, &self.1) {
            eprintln!("cannot write {}: {error}", self.0.display());
        }
    }
}
