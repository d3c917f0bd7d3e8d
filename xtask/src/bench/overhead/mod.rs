//! `cargo xtask bench overhead`, `guard`, `programs`, `unwind`, `python` and `host`: what tracing costs the traced program,
//! beside empty probes at the same places and beside other tracers, all in one run.
//!
//! `workload` runs the programs, `tracer` what is attached to them, `rounds` puts the two together,
//! `stats` and `table` make figures of it. A figure is processor time of the target itself; every ratio is
//! one of two figures of the same round.

mod host;
mod machine;
mod programs;
mod python;
mod rounds;
mod setup;
mod stats;
mod table;
mod tracer;
mod walk;
mod workload;

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;

pub(super) use self::{host::Args as HostArgs, host::run as host, python::Args as PythonArgs};
use self::{
    machine::Machine,
    rounds::{Extent, Measured},
    setup::Setup,
    table::Bound,
    tracer::Tracers,
    workload::Workload,
};
use super::{directory, need_root};
use crate::{
    debian::{self, Outcome},
    process::step,
};

/// Peers and real programs.
const PACKAGES: [&str; 8] = [
    "bpftrace",
    "gcc",
    "heaptrack",
    "python3",
    "redis-server",
    "redis-tools",
    "sqlite3",
    "zstd",
];

/// What full and sampled tracing may cost one thread that does nothing but allocate and free.
const DONE_WHEN: [Bound; 4] = [
    Bound {
        of: Setup::Full,
        to: Setup::FloorReturn,
        most: 2.0,
    },
    Bound {
        of: Setup::Full,
        to: Setup::Bpftrace,
        most: 1.0 / 5.0,
    },
    Bound {
        of: Setup::Sampled512,
        to: Setup::FloorSkip,
        most: 1.25,
    },
    Bound {
        of: Setup::Sampled512,
        to: Setup::Bpftrace,
        most: 1.0 / 9.0,
    },
];

/// What the guard lets pass. Ratios within a run hold still where times do not; half as much again as the
/// bounds above (and more for the smaller one) is room for a machine that is shared, and still less than what
/// one more trap, one more single-stepped instruction or a second walk of the stack would add.
const GUARD: [Bound; 4] = [
    Bound {
        of: Setup::Full,
        to: Setup::FloorReturn,
        most: 3.0,
    },
    Bound {
        of: Setup::Sampled512,
        to: Setup::FloorSkip,
        most: 2.0,
    },
    Bound {
        of: Setup::Filtered,
        to: Setup::FloorSkip,
        most: 2.0,
    },
    // The chosen sites are never dearer than the first instructions.
    Bound {
        of: Setup::FloorReturn,
        to: Setup::FloorSymbols,
        most: 1.25,
    },
];

#[derive(clap::Args)]
pub(super) struct Args {
    /// How often every setup has its turn
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Short batches, one and four threads: to see that it works, not for figures
    #[arg(long)]
    quick: bool,
    /// Only this workload (pairs, redis, json, sqlite) or setup (full, 512KiB, bpftrace, ...); may be
    /// given several times
    #[arg(long, value_name = "NAME", value_parser = only)]
    only: Vec<String>,
    /// Install nothing; name what is missing
    #[arg(long)]
    no_install: bool,
}

/// Refuses what names nothing.
fn only(name: &str) -> Result<String, String> {
    let setups = Setup::ALL.map(Setup::name);
    let workloads = ["pairs", "redis", "json", "sqlite"];
    if setups.contains(&name) || workloads.contains(&name) {
        return Ok(name.to_owned());
    }
    Err(format!(
        "name a workload ({}) or a setup ({})",
        workloads.join(", "),
        setups.join(", ")
    ))
}

pub(super) fn run(args: &Args) -> Result<()> {
    need_root("overhead")?;
    step("what the bench needs");
    if let Outcome::Missing { packages, reason } = debian::ensure(&PACKAGES, !args.no_install)? {
        println!(
            "not installed: {} ({reason}); their rows say so",
            packages.join(", ")
        );
    }
    let machine = Machine::here();
    let directory = directory()?;
    workload::build(&directory)?;
    let tracers = Tracers::build(&directory)?;
    let extent = extent(args);

    step("measuring");
    let mut all = Vec::new();
    let mut failed = Vec::new();
    for workload in workloads(args) {
        match rounds::measure(workload, &setups(args, workload), extent, &tracers, &directory) {
            Ok(measured) => {
                println!("\n{}", table::markdown(&measured));
                all.push(measured);
            }
            Err(error) => failed.push(format!("{workload}: {error:#}")),
        }
    }

    let report = document(&machine, extent, &all);
    let path = directory.join("overhead.md");
    fs::write(&path, &report).with_context(|| format!("cannot write {}", path.display()))?;
    let json = serde_json::to_string_pretty(&json!({
        "machine": machine.json(),
        "rounds": extent.rounds,
        "batch_ms": extent.batch.as_millis() as u64,
        "workloads": all.iter().map(table::json).collect::<Vec<_>>(),
        "done_when": single_thread(&all).map(|pairs| DONE_WHEN.map(|bound| bound.json(pairs)).to_vec()),
        "failed": failed,
    }))?;
    let path = directory.join("overhead.json");
    fs::write(&path, json).with_context(|| format!("cannot write {}", path.display()))?;

    step("all together");
    println!("{report}");
    println!("with every round: {}", path.display());
    ensure!(failed.is_empty(), "not measured: {}", failed.join("; "));
    Ok(())
}

/// The document for docs/overhead.md.
fn document(machine: &Machine, extent: Extent, all: &[Measured]) -> String {
    let mut text = format!(
        "{}; medians of {} rounds of {} ms.\n",
        machine.line(),
        extent.rounds,
        extent.batch.as_millis()
    );
    for measured in all {
        text.push('\n');
        text.push_str(&table::markdown(measured));
    }
    let scaling = table::scaling(all);
    if !scaling.is_empty() {
        text.push('\n');
        text.push_str(&scaling);
    }
    if let Some(pairs) = single_thread(all) {
        let lines = DONE_WHEN.map(|bound| format!("- {}\n", bound.judge(pairs).0));
        text.push_str("\n### Against the bounds, one thread\n\n");
        text.push_str(&lines.concat());
    }
    text
}

fn single_thread(all: &[Measured]) -> Option<&Measured> {
    all.iter()
        .find(|measured| measured.workload == Workload::Pairs { threads: 1 })
}

const fn extent(args: &Args) -> Extent {
    let (batch_ms, warm_up_ms) = if args.quick { (100, 30) } else { (400, 150) };
    Extent {
        rounds: args.rounds as usize,
        batch: Duration::from_millis(batch_ms),
        warm_up: Duration::from_millis(warm_up_ms),
    }
}

fn workloads(args: &Args) -> Vec<Workload> {
    let threads: &[u32] = if args.quick { &[1, 4] } else { &[1, 2, 4, 8] };
    let all: Vec<Workload> = threads
        .iter()
        .map(|&threads| Workload::Pairs { threads })
        .chain([Workload::Redis, Workload::Json, Workload::Sqlite])
        .collect();
    let named = |workload: &Workload| args.only.iter().any(|name| name == workload.name());
    if all.iter().any(named) {
        all.into_iter().filter(named).collect()
    } else {
        all
    }
}

/// A real program tells nothing that the pairs do not of probes at the symbols or of the filter.
fn setups(args: &Args, workload: Workload) -> Vec<Setup> {
    let named = |setup: &Setup| args.only.iter().any(|name| name == setup.name());
    let any_named = Setup::ALL.iter().any(named);
    let pairs = matches!(workload, Workload::Pairs { .. });
    Setup::ALL
        .into_iter()
        .filter(|setup| {
            // All ratios need the first.
            *setup == Setup::Untraced
                || if any_named {
                    named(setup)
                } else {
                    pairs || !matches!(setup, Setup::FloorSymbols | Setup::Filtered)
                }
        })
        .collect()
}

/// How long the kernel side's programs run.
pub(super) fn programs() -> Result<()> {
    need_root("programs")?;
    let directory = directory()?;
    workload::build(&directory)?;
    programs::measure(&directory, &Tracers::build(&directory)?)
}

/// What a frame of a stack costs, and how long the tables take at start.
pub(super) fn unwind() -> Result<()> {
    need_root("unwind")?;
    let directory = directory()?;
    workload::build(&directory)?;
    let tracers = Tracers::build(&directory)?;
    walk::measure(&directory, &tracers)?;
    walk::starts(&directory, &tracers)
}

/// What Python's frames cost, and what tracing costs programs of small objects, beside Python's own tracers.
pub(super) fn python(args: &PythonArgs) -> Result<()> {
    need_root("python")?;
    let directory = directory()?;
    workload::build(&directory)?;
    let tracers = Tracers::without_floor(&directory)?;
    if let Err(error) = tracer::install_memray(&directory) {
        println!("memray is not installed, its rows say so: {error:#}");
    }
    python::measure(args, &directory, &tracers)
}

/// A short run that fails when a ratio is far beyond what it should be.
pub(super) fn guard() -> Result<()> {
    need_root("guard")?;
    let directory = directory()?;
    workload::build(&directory)?;
    let tracers = Tracers::build(&directory)?;
    let extent = Extent {
        rounds: 5,
        batch: Duration::from_millis(100),
        warm_up: Duration::from_millis(30),
    };
    let setups: Vec<Setup> = Setup::ALL
        .into_iter()
        .filter(|setup| GUARD.iter().any(|bound| bound.of == *setup || bound.to == *setup))
        .collect();
    let workload = Workload::Pairs { threads: 1 };
    let measured = rounds::measure(workload, &setups, extent, &tracers, &directory)?;
    println!("\n{}", table::markdown(&measured));
    let mut broken = 0;
    for bound in &GUARD {
        let (line, kept) = bound.judge(&measured);
        println!("{line}");
        broken += usize::from(kept != Some(true));
    }
    if broken > 0 {
        bail!("{broken} of {} bounds are not kept", GUARD.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(only: &[&str], quick: bool) -> Args {
        Args {
            rounds: 5,
            quick,
            only: only.iter().map(ToString::to_string).collect(),
            no_install: true,
        }
    }

    #[test]
    fn only_takes_workloads_and_setups_and_nothing_else() {
        assert!(only("redis").is_ok() && only("512KiB").is_ok());
        assert!(only("memcached").unwrap_err().contains("bpftrace"));
    }

    #[test]
    fn naming_a_workload_keeps_all_setups_and_naming_a_setup_all_workloads() {
        let redis = args(&["redis"], false);
        assert_eq!(workloads(&redis), [Workload::Redis]);
        assert!(setups(&redis, Workload::Redis).contains(&Setup::Bpftrace));

        let full = args(&["full"], true);
        assert_eq!(workloads(&full).len(), 5);
        assert_eq!(setups(&full, Workload::Json), [Setup::Untraced, Setup::Full]);
    }

    #[test]
    fn pairs_run_under_everything() {
        let all = args(&[], false);
        assert_eq!(setups(&all, Workload::Pairs { threads: 2 }), Setup::ALL);
        assert_eq!(workloads(&all).len(), 7);
    }
}
