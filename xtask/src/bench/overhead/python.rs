//! `cargo xtask bench python`: what Python's frames cost at each hit, by their number; and what tracing costs programs
//! that make small objects and do little else, beside Python's own tracers.
//!
//! Must not know how Python is read. All setups have their turn in each round, so that every ratio is of one moment.

use std::{fmt::Write as _, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{
    machine::Machine,
    rounds::{self, Extent, Measured},
    setup::Setup,
    stats::{Summary, summary},
    tracer::Tracers,
    workload::Workload,
};

/// Python frames on the stacks.
const DEPTHS: [u32; 3] = [5, 20, 60];
/// Under what they are walked, and under what not.
const DEPTH_SETUPS: [Setup; 3] = [Setup::Untraced, Setup::NoPython, Setup::Full];
/// Size of the block that the target leaves in each batch.
const KEPT_BYTES: u64 = 7777;

/// What `xtask/bench/python_objects.py` can do.
const OBJECTS: [&str; 4] = ["json", "objects", "parser", "numbers"];
const OBJECT_SETUPS: [Setup; 9] = [
    Setup::Untraced,
    Setup::NoPython,
    Setup::Full,
    Setup::Bounded,
    Setup::Memray,
    Setup::MemrayObjects,
    Setup::MemrayNative,
    Setup::Tracemalloc,
    Setup::Tracemalloc25,
];
/// What the default may cost such a program.
const OBJECTS_MOST: f64 = 1.1;

#[derive(clap::Args)]
pub(in super::super) struct Args {
    /// How often every setup has its turn
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Short batches: to see that it works, not for figures
    #[arg(long)]
    quick: bool,
    /// Only one half: what frames cost, or what programs of small objects take
    #[arg(long, value_name = "HALF", value_parser = ["frames", "objects"])]
    only: Option<String>,
}

pub(super) fn measure(args: &Args, directory: &Path, tracers: &Tracers) -> Result<()> {
    let machine = Machine::here();
    let wanted = |half: &str| args.only.as_deref().is_none_or(|only| only == half);
    let mut document = String::new();
    if wanted("frames") {
        let extent = extent(args, 300, 150);
        let mut depths = Vec::new();
        for frames in DEPTHS {
            let workload = Workload::PythonDeep { frames };
            let measured = rounds::measure(workload, &DEPTH_SETUPS, extent, tracers, directory)?;
            // The last to have its turn is not always the one that walks them: once more, for its report.
            depths.push((frames, frames_seen(workload, directory, tracers), measured));
        }
        document.push_str(&head(&machine, extent));
        document.push_str(&frames_table(&depths));
    }
    if wanted("objects") {
        // More than one interval of the setup that reports each second; a bound has settled by then.
        let extent = extent(args, 1500, 1500);
        let mut all = Vec::new();
        for what in OBJECTS {
            let workload = Workload::PythonObjects(what);
            let measured = rounds::measure(workload, &OBJECT_SETUPS, extent, tracers, directory)?;
            all.push((libc_calls(workload, directory, tracers), measured));
        }
        document.push_str(&head(&machine, extent));
        document.push_str(&objects_table(&all));
    }
    println!("{document}");
    Ok(())
}

const fn extent(args: &Args, batch_ms: u64, warm_up_ms: u64) -> Extent {
    let batch = Duration::from_millis(if args.quick { batch_ms / 5 } else { batch_ms });
    Extent {
        rounds: args.rounds as usize,
        batch,
        warm_up: Duration::from_millis(warm_up_ms),
    }
}

fn head(machine: &Machine, extent: Extent) -> String {
    format!(
        "\n{}; medians of {} rounds of {} ms.\n\n",
        machine.line(),
        extent.rounds,
        extent.batch.as_millis()
    )
}

/// Python frames that the report has of the block which the target leaves.
fn frames_seen(workload: Workload, directory: &Path, tracers: &Tracers) -> Result<usize> {
    let mut target = workload.start(directory, &[])?;
    let attached = tracers.attach(Setup::Full, &target)?;
    let units = target.batch(Duration::from_millis(10))?.units;
    attached.detach(units)?;
    let report = tracers.last_report()?;
    let survivors = report["survivors"]
        .as_array()
        .context("the report has no survivors")?;
    let kept = |survivor: &&Value| survivor["bytes"] == KEPT_BYTES && survivor["blocks"] == 1;
    let survivor = survivors
        .iter()
        .find(kept)
        .context("the block that is left is not in the report")?;
    let frames = survivor["frames"]
        .as_array()
        .context("a survivor has no frames")?;
    Ok(frames.iter().filter(|frame| frame["lang"] == "python").count())
}

/// Blocks that a loop takes from the C library: what the default traces of a program of small objects.
fn libc_calls(workload: Workload, directory: &Path, tracers: &Tracers) -> Result<f64> {
    let mut target = workload.start(directory, &[])?;
    let attached = tracers.attach(Setup::NoPython, &target)?;
    let units = target.batch(Duration::from_millis(300))?.units;
    attached.detach(0)?;
    let report = tracers.last_report()?;
    let allocs = report["totals"]["allocs"]
        .as_u64()
        .context("the report has no totals.allocs")?;
    Ok(allocs as f64 / units as f64)
}

/// A table of what pairs cost below so many frames, and what of that is the frames'.
fn frames_table(depths: &[(u32, Result<usize>, Measured)]) -> String {
    let mut text = "| Python frames | in the report | under | CPU ns a pair | spread | / --no-python | ns more than it | of \
                    that a frame more |\n|---:|---:|---|---:|---:|---:|---:|---:|\n"
        .to_owned();
    let more = |measured: &Measured| difference(measured, Setup::Full, Setup::NoPython);
    for (index, (frames, seen, measured)) in depths.iter().enumerate() {
        for row in &measured.rows {
            let walks = row.setup == Setup::Full;
            let before = index.checked_sub(1).and_then(|index| depths.get(index));
            let each = before.and_then(|(fewer, _, before)| {
                Some((more(measured)?.median - more(before)?.median) / f64::from(frames - fewer))
            });
            let seen = match seen {
                Ok(seen) => seen.to_string(),
                Err(error) => format!("{error:#}"),
            };
            let line = [
                frames.to_string(),
                if walks { seen } else { String::new() },
                row.setup.title().to_owned(),
                row.cpu_ns()
                    .map_or_else(|| failed(row), |ns| format!("{:.0}", ns.median)),
                row.cpu_ns()
                    .map_or_else(String::new, |ns| format!("{:.0} to {:.0}", ns.min, ns.max)),
                cell(
                    measured.ratio(row.setup, Setup::NoPython).filter(|_| walks),
                    |ratio| format!("{:.2}", ratio.median),
                ),
                cell(more(measured).filter(|_| walks), |ns| format!("{:.0}", ns.median)),
                cell(each.filter(|_| walks), |ns| format!("{ns:.0}")),
            ];
            let _infallible = writeln!(text, "| {} |", line.join(" | "));
        }
    }
    text
}

/// Processor time of a unit under `of` beyond that under `to`, by rounds.
fn difference(measured: &Measured, of: Setup, to: Setup) -> Option<Summary> {
    let (of, to) = (measured.row(of)?, measured.row(to)?);
    let rounds = of.samples.iter().zip(&to.samples);
    summary(
        rounds.filter_map(|(of, to)| Some(of.as_ref()?.cpu_ns_per_unit() - to.as_ref()?.cpu_ns_per_unit())),
    )
}

/// A table of ratios to the untraced program, a row each tracer, a column each program.
fn objects_table(all: &[(Result<f64>, Measured)]) -> String {
    let mut text = "| under |".to_owned();
    for (_, measured) in all {
        let _infallible = write!(text, " {} | spread |", measured.workload.name());
    }
    text.push_str("\n|---|");
    text.push_str(&"---:|---:|".repeat(all.len()));
    text.push('\n');
    for setup in OBJECT_SETUPS {
        let title = match setup {
            Setup::Full => "leaktrace --max-overhead off",
            other => other.title(),
        };
        let _infallible = write!(text, "| {title} |");
        for (_, measured) in all {
            let ratio = measured.ratio(setup, Setup::Untraced);
            let _infallible = match (ratio, measured.row(setup)) {
                (Some(ratio), _) => write!(
                    text,
                    " {:.2} | {:.2} to {:.2} |",
                    ratio.median, ratio.min, ratio.max
                ),
                (None, Some(row)) => write!(text, " {} | |", failed(row)),
                (None, None) => write!(text, " | |"),
            };
        }
        text.push('\n');
    }
    text.push('\n');
    for (calls, measured) in all {
        let untraced = measured.row(Setup::Untraced).and_then(rounds::Row::cpu_ns);
        let _infallible = match (calls, untraced) {
            (Ok(calls), Some(ns)) => writeln!(
                text,
                "- {}: a loop takes {:.0} µs untraced and {calls:.1} blocks from the C library",
                measured.workload,
                ns.median / 1e3
            ),
            (Err(error), _) => writeln!(text, "- {}: {error:#}", measured.workload),
            (Ok(_), None) => Ok(()),
        };
        if let Some(ratio) = measured.ratio(Setup::Bounded, Setup::Untraced) {
            let kept = if ratio.median <= OBJECTS_MOST {
                "kept"
            } else {
                "NOT KEPT"
            };
            let _infallible = writeln!(
                text,
                "- {}: {:.2}, bound {OBJECTS_MOST}: {kept}",
                measured.workload, ratio.median
            );
        }
    }
    text
}

fn cell<T>(value: Option<T>, show: impl Fn(T) -> String) -> String {
    value.map_or_else(String::new, show)
}

/// Why there is no figure.
fn failed(row: &rounds::Row) -> String {
    row.failure.clone().unwrap_or_else(|| "not measured".to_owned())
}

#[cfg(test)]
mod tests {
    use super::{super::workload::Sample, *};

    fn measured(workload: Workload, figures: &[(Setup, &[u64])]) -> Measured {
        let sample = |&cpu_ns: &u64| {
            Some(Sample {
                units: 1,
                cpu_ns,
                wall_ns: cpu_ns,
            })
        };
        let rows = figures.iter().map(|(setup, figures)| rounds::Row {
            setup: *setup,
            samples: figures.iter().map(sample).collect(),
            failure: None,
        });
        Measured {
            workload,
            rows: rows.collect(),
        }
    }

    #[test]
    fn frame_costs_what_the_walk_takes_more_when_there_are_more() {
        let at = |frames: u32, full: u64| {
            let workload = Workload::PythonDeep { frames };
            let rows: [(Setup, &[u64]); 3] = [
                (Setup::Untraced, &[10, 10]),
                (Setup::NoPython, &[1000, 3000]),
                (Setup::Full, &[1000 + full, 3000 + full]),
            ];
            (frames, Ok(frames as usize), measured(workload, &rows))
        };
        let text = frames_table(&[at(5, 500), at(20, 1250)]);
        // 750 ns more for 15 frames, however slow the second round was.
        assert!(
            text.contains("| 20 | 20 | leaktrace | 3250 | 2250 to 4250 |") && text.contains("| 1250 | 50 |"),
            "{text}"
        );
    }

    #[test]
    fn programs_stand_side_by_side_and_a_tracer_that_failed_says_why() {
        let rows: [(Setup, &[u64]); 2] = [(Setup::Untraced, &[100, 200]), (Setup::Bounded, &[105, 240])];
        let mut one = measured(Workload::PythonObjects("json"), &rows);
        one.rows.push(rounds::Row {
            setup: Setup::Memray,
            samples: vec![None],
            failure: Some("not installed".to_owned()),
        });
        let text = objects_table(&[(Ok(2.5), one)]);
        assert!(
            text.contains("| leaktrace -p, as it is | 1.12 | 1.05 to 1.20 |"),
            "{text}"
        );
        assert!(
            text.contains("| memray | not installed |") && text.contains("NOT KEPT"),
            "{text}"
        );
    }
}
