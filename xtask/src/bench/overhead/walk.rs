//! `cargo xtask bench unwind`: what walking a stack costs, by its depth, and what the tables cost at start.
//!
//! The kernel times the runs of the entry program; frames cost what separates two depths. Must not know how
//! stacks are walked.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{
    super::{Running, wait_for},
    machine::Machine,
    programs::{Runs, Timed, runs},
    setup::Setup,
    stats::{Summary, summary},
    tracer::Tracers,
    workload::{Target, Workload},
};
use crate::process::{find_program, output};

/// Frames of the stacks, from malloc to the C library's start.
const DEPTHS: [u32; 3] = [13, 40, 100];
/// What is compared, and whether the target has frame pointers.
const SETUPS: [(Setup, bool); 3] = [
    (Setup::Tables, false),
    (Setup::FramePointers, true),
    (Setup::CopyStack, false),
];
const ROUNDS: usize = 9;
const WARM_UP: Duration = Duration::from_millis(60);
const BATCH: Duration = Duration::from_millis(150);
/// Bounds: nanoseconds a frame, and for a whole run at 40 frames.
const FRAME_NS_MAX: f64 = 60.0;
const FORTY_NS_MAX: f64 = 2500.0;

/// Size of the block that the target leaves in each batch.
const KEPT_BYTES: u64 = 7777;

/// One setup at one depth.
struct Row {
    setup: Setup,
    depth: u32,
    /// Frames that the report has; `None` for what makes no report.
    seen: Option<usize>,
    run_ns: Summary,
}

pub(super) fn measure(directory: &Path, tracers: &Tracers) -> Result<()> {
    let mut rows = Vec::new();
    for depth in DEPTHS {
        rows.extend(at_depth(depth, directory, tracers)?);
    }
    println!(
        "\n{}; {ROUNDS} rounds of {} ms.\n",
        Machine::here().line(),
        BATCH.as_millis()
    );
    println!("{}", table(&rows));
    Ok(())
}

/// All setups in turn, round by round: what disturbs a round disturbs all of them.
fn at_depth(depth: u32, directory: &Path, tracers: &Tracers) -> Result<Vec<Row>> {
    let start = |framed| {
        let workload = Workload::Deep {
            frames: depth,
            framed,
        };
        workload.start(directory, &[])
    };
    let mut targets = [start(false)?, start(true)?];
    let mut all = SETUPS.map(|_| (Vec::new(), None));
    for _ in 0..ROUNDS {
        for ((setup, framed), (times, seen)) in SETUPS.iter().zip(&mut all) {
            let target = &mut targets[usize::from(*framed)];
            let attached = tracers.attach(*setup, target)?;
            let mut pairs = target.batch(WARM_UP)?.units;
            times.push(entry_ns(target, &mut pairs)?);
            attached.detach(pairs)?;
            if setup.options().is_some() {
                *seen = Some(frames_seen(&tracers.last_report()?)?);
            }
        }
    }
    targets.into_iter().try_for_each(Target::finish)?;
    let rows = SETUPS.iter().zip(all).map(|((setup, _), (times, seen))| {
        let run_ns = summary(times).context("no round was measured")?;
        Ok(Row {
            setup: *setup,
            depth,
            seen,
            run_ns,
        })
    });
    rows.collect()
}

/// Nanoseconds a run of the program at the entry of allocating functions, in one batch.
fn entry_ns(target: &mut Target, pairs: &mut u64) -> Result<f64> {
    let _timed = Timed::switch_on()?;
    let before = runs()?;
    let units = target.batch(BATCH)?.units;
    *pairs += units;
    let (count, ns) = entry_runs(&runs()?, &before, units);
    ensure!(count > 0, "no program ran at the entry of malloc");
    Ok(ns as f64 / count as f64)
}

/// Runs of the entry program and nanoseconds in them. Another tracer on this machine runs less often.
fn entry_runs(after: &Runs, before: &Runs, units: u64) -> (u64, u64) {
    let entries = after
        .iter()
        .filter(|((_, name), _)| matches!(name.as_str(), "alloc_enter" | "copy_stack"));
    entries
        .map(|(key, (count, ns))| {
            let (count_before, ns_before) = before.get(key).copied().unwrap_or_default();
            (count.saturating_sub(count_before), ns.saturating_sub(ns_before))
        })
        .filter(|(count, _)| *count > units / 2)
        .max()
        .unwrap_or_default()
}

/// Frames, inlined ones left out, of the blocks that the target leaves.
fn frames_seen(report: &Value) -> Result<usize> {
    let survivors = report["survivors"]
        .as_array()
        .context("the report has no survivors")?;
    let kept = |survivor: &&Value| {
        survivor["blocks"].as_u64().map(|blocks| blocks * KEPT_BYTES) == survivor["bytes"].as_u64()
    };
    let survivor = survivors
        .iter()
        .find(kept)
        .context("the block that is left is not in the report")?;
    let frames = survivor["frames"]
        .as_array()
        .context("a survivor has no frames")?;
    Ok(frames.iter().filter(|frame| frame["inlined"] != true).count())
}

/// The document for docs/overhead.md.
fn table(rows: &[Row]) -> String {
    let mut lines = vec![
        "| frames | under | frames in the report | ns a run, median | lowest | ns a frame more |".to_owned(),
        "|---:|---|---:|---:|---:|---:|".to_owned(),
    ];
    lines.extend(rows.iter().map(|row| {
        let before = rows
            .iter()
            .rfind(|other| other.setup == row.setup && other.depth < row.depth);
        format!(
            "| {} | {} | {} | {:.0} | {:.0} | {} |",
            row.depth,
            row.setup.title(),
            row.seen.map_or_else(String::new, |seen| seen.to_string()),
            row.run_ns.median,
            row.run_ns.min,
            before.map_or_else(String::new, |before| format!("{:.0}", frame_ns(before, row))),
        )
    }));
    let of_tables = |depth| {
        rows.iter()
            .find(|row| row.setup == Setup::Tables && row.depth == depth)
    };
    if let (Some(first), Some(forty), Some(last)) =
        (of_tables(DEPTHS[0]), of_tables(40), of_tables(DEPTHS[2]))
    {
        let judge = |what: &str, ns: f64, most: f64| {
            let kept = if ns <= most { "kept" } else { "NOT KEPT" };
            format!("- {what}: {ns:.0} ns, bound {most:.0}: {kept}")
        };
        lines.push(String::new());
        lines.push(judge("a frame", frame_ns(first, last), FRAME_NS_MAX));
        lines.push(judge(
            "40 frames, the whole entry",
            forty.run_ns.median,
            FORTY_NS_MAX,
        ));
    }
    lines.join("\n") + "\n"
}

/// What each frame costs by which two depths differ.
fn frame_ns(less: &Row, more: &Row) -> f64 {
    (more.run_ns.median - less.run_ns.median) / f64::from(more.depth - less.depth)
}

/// Time from leaktrace's start until it traces, with an empty and a filled cache of tables.
pub(super) fn starts(directory: &Path, tracers: &Tracers) -> Result<()> {
    const TIMES: usize = 5;
    println!(
        "| target | executable mappings | tables | ms until it traces, median of {TIMES} | lowest | highest |"
    );
    println!("|---|---:|---|---:|---:|---:|");
    for (title, mut command) in start_targets()? {
        let target = Running::start(
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null()),
        )?;
        wait_for("the target to have started", || Ok(is_waiting(target.0.id())))?;
        let mappings = executable_mappings(target.0.id())?;
        for (state, is_cold) in [("cold", true), ("warm", false)] {
            let cache = directory.join("start-cache");
            let mut times = Vec::new();
            for _ in 0..TIMES {
                if is_cold && cache.exists() {
                    fs::remove_dir_all(&cache)
                        .with_context(|| format!("cannot empty {}", cache.display()))?;
                }
                times.push(until_tracing(tracers.leaktrace(), target.0.id(), &cache)?.as_secs_f64() * 1e3);
            }
            let time = summary(times).context("no start was measured")?;
            println!(
                "| {title} | {mappings} | {state} | {:.0} | {:.0} | {:.0} |",
                time.median, time.min, time.max
            );
        }
    }
    Ok(())
}

/// Programs of many libraries, and one with a huge one. What is not installed is left out.
fn start_targets() -> Result<Vec<(&'static str, Command)>> {
    let mut targets = Vec::new();
    if let Some(gdb) = find_program("gdb") {
        let mut command = Command::new(gdb);
        command.args(["-q", "-nx"]);
        targets.push(("gdb", command));
    }
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let mut compiler = Command::new(Path::new(sysroot.trim()).join("bin/rustc"));
    // Waits for its source.
    compiler.args([
        "--crate-name",
        "nothing",
        "--emit",
        "metadata",
        "-o",
        "/dev/null",
        "-",
    ]);
    targets.push(("rustc (librustc_driver)", compiler));
    Ok(targets)
}

/// Whether all its threads sleep; a program that waits for its stdin does.
fn is_waiting(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
    ["pipe", "poll", "select"].iter().any(|word| stat.contains(word))
}

fn executable_mappings(pid: u32) -> Result<usize> {
    let path = format!("/proc/{pid}/maps");
    let maps = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let modes = maps
        .lines()
        .filter_map(|line| line.split_ascii_whitespace().nth(1));
    Ok(modes.filter(|mode| mode.contains('x')).count())
}

fn until_tracing(leaktrace: &Path, pid: u32, cache: &Path) -> Result<Duration> {
    let started = Instant::now();
    let mut running = Running::start(
        Command::new(leaktrace)
            .args(["--pid", &pid.to_string(), "--interval", "0", "--format", "json"])
            .env("XDG_CACHE_HOME", cache)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped()),
    )?;
    let stderr = running.0.stderr.take().context("no stderr to read")?;
    for line in BufReader::new(stderr).lines() {
        if line
            .context("cannot read what leaktrace says")?
            .starts_with("leaktrace: tracing")
        {
            return Ok(started.elapsed());
        }
    }
    anyhow::bail!("leaktrace ended before it traced process {pid}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(setup: Setup, depth: u32, median: f64) -> Row {
        let run_ns = Summary {
            median,
            min: median,
            max: median,
        };
        Row {
            setup,
            depth,
            seen: Some(depth as usize),
            run_ns,
        }
    }

    #[test]
    fn frame_costs_what_separates_two_depths() {
        let rows = [13, 40, 100].map(|depth| row(Setup::Tables, depth, 500.0 + 50.0 * f64::from(depth)));
        let text = table(&rows);
        assert!(text.contains("a frame: 50 ns, bound 60: kept"), "{text}");
        assert!(
            text.contains("the whole entry: 2500 ns, bound 2500: kept"),
            "{text}"
        );
        let rows = [13, 40, 100].map(|depth| row(Setup::Tables, depth, 100.0 * f64::from(depth)));
        assert_eq!(table(&rows).matches("NOT KEPT").count(), 2);
    }

    #[test]
    fn entry_program_is_the_one_that_ran_once_a_pair() {
        let key = |id, name: &str| (id, name.to_owned());
        let before = Runs::from([
            (key(1, "alloc_enter"), (100, 1000)),
            (key(2, "alloc_enter"), (7, 7)),
        ]);
        let after = Runs::from([
            (key(1, "alloc_enter"), (1100, 51_000)),
            (key(2, "alloc_enter"), (9, 9)),
            (key(3, "alloc_exit"), (5000, 1)),
        ]);
        assert_eq!(entry_runs(&after, &before, 1000), (1000, 50_000));
    }
}
