//! `cargo xtask bench report`: what a report of a million live blocks from ten thousand sites costs, as a
//! table for docs/overhead.md.
//!
//! Two measurements beside each other: the pure part alone (divan, leaktrace/benches/report.rs), and the
//! program tracing a real process.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use super::{Running, create, directory, need_root, wait_for};
use crate::{
    process::{cargo, run as run_command, step, workspace},
    test::release_binary,
};

const BLOCKS: u64 = 1_000_000;
const SITES: u64 = 10_000;

/// How many sites the report shows: the default, and all of them.
const SHOWN: [u64; 2] = [10, SITES];

pub(super) fn run() -> Result<()> {
    step("the pure part");
    run_command(cargo().args(["bench", "--locked", "--package", "leaktrace", "--bench", "report"]))?;

    step("end to end");
    need_root("report")?;
    let leaktrace = release_binary()?;
    let directory = directory()?;
    let fixture = compile(&directory)?;
    let rows = SHOWN.map(|shown| measure(&leaktrace, &fixture, &directory, shown));

    println!("\n{BLOCKS} live blocks, {SITES} sites\n");
    println!("| sites shown | report | tracer's peak memory | kernel tables | document |");
    println!("|---:|---:|---:|---:|---:|");
    for (shown, row) in SHOWN.into_iter().zip(rows) {
        let Cost {
            time,
            peak_bytes,
            tables_bytes,
            document_bytes,
        } = row?;
        println!(
            "| {shown} | {} ms | {} | {} | {} |",
            time.as_millis(),
            mebibytes(peak_bytes),
            mebibytes(tables_bytes),
            mebibytes(document_bytes)
        );
    }
    Ok(())
}

/// What one report cost.
struct Cost {
    /// From SIGINT to the end of leaktrace: the last reading, the names, the document, the detaching.
    time: Duration,
    /// The tracer's highest resident memory.
    peak_bytes: u64,
    /// What the kernel holds for the tables, as the kernel says it (exact since 6.4).
    tables_bytes: u64,
    document_bytes: u64,
}

fn compile(directory: &Path) -> Result<PathBuf> {
    let program = directory.join("many_sites");
    run_command(
        Command::new("cc")
            .args([
                "-O1",
                "-g",
                "-fno-omit-frame-pointer",
                "-fno-optimize-sibling-calls",
                "-fno-builtin",
            ])
            .args(["-std=gnu11", "-o"])
            .arg(&program)
            .arg(workspace().join("tests/programs/c/many_sites.c")),
    )?;
    Ok(program)
}

fn measure(leaktrace: &Path, fixture: &Path, directory: &Path, shown: u64) -> Result<Cost> {
    let mut target = Running::start(
        Command::new(fixture)
            .args([BLOCKS.to_string(), SITES.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped()),
    )?;
    let mut stdin = target.0.stdin.take().context("the fixture has no stdin")?;
    let mut lines = BufReader::new(target.0.stdout.take().context("the fixture has no stdout")?).lines();
    let mut next_line = || {
        lines
            .next()
            .context("the fixture ended early")?
            .context("cannot read the fixture")
    };
    ensure!(next_line()? == "ready", "the fixture did not say `ready`");

    let document = directory.join(format!("report-{shown}.json"));
    let log = directory.join(format!("leaktrace-{shown}.log"));
    let mut tracer = Running::start(
        Command::new(leaktrace)
            .args([
                "--pid",
                &target.0.id().to_string(),
                "--interval",
                "0",
                "--format",
                "json",
            ])
            .args(["--top", &shown.to_string(), "--output"])
            .arg(&document)
            .stdin(Stdio::null())
            .stderr(create(&log)?),
    )?;
    wait_for("leaktrace to attach", || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        if let Some(status) = tracer.0.try_wait().context("cannot wait for leaktrace")? {
            bail!("leaktrace ended early ({status}): {text}");
        }
        Ok(text.contains("leaktrace: tracing"))
    })?;
    stdin.write_all(b"\n").context("cannot write to the fixture")?;
    let truth = next_line()?;

    let tables_bytes = table_bytes(tracer.0.id());
    let mut peak_bytes = 0;
    let started = Instant::now();
    kill(Pid::from_raw(tracer.0.id().cast_signed()), Signal::SIGINT).context("cannot interrupt leaktrace")?;
    wait_for("the report", || {
        // Gone once the process is a zombie; the peak only grows, so the last value read stands.
        peak_bytes = peak(tracer.0.id()).unwrap_or(peak_bytes);
        Ok(tracer
            .0
            .try_wait()
            .context("cannot wait for leaktrace")?
            .is_some())
    })?;
    let time = started.elapsed();

    let text = fs::read(&document).with_context(|| format!("cannot read {}", document.display()))?;
    verify(
        &serde_json::from_slice(&text).context("the report is not JSON")?,
        &truth,
        shown,
    )?;
    Ok(Cost {
        time,
        peak_bytes,
        tables_bytes,
        document_bytes: text.len() as u64,
    })
}

/// A fast report of something else would be no result: all blocks must be in it.
fn verify(report: &Value, truth: &str, shown: u64) -> Result<()> {
    let truth: Value = serde_json::from_str(truth).context("the fixture's truth is not JSON")?;
    let live = report["totals"]["live_blocks"]
        .as_u64()
        .context("the report has no totals.live_blocks")?;
    let expected = truth["allocs"].as_u64().context("the truth has no `allocs`")?;
    ensure!(
        live == expected,
        "{expected} blocks are live, the report has {live}"
    );
    let listed = report["survivors"].as_array().map_or(0, Vec::len) as u64;
    ensure!(
        listed == shown,
        "{shown} sites were to be shown, the report has {listed}"
    );
    Ok(())
}

/// `VmHWM` of a process.
fn peak(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kibibytes: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?
        .trim()
        .strip_suffix(" kB")?
        .parse()
        .ok()?;
    Some(kibibytes * 1024)
}

/// Memory of all BPF maps that a process holds, each once.
fn table_bytes(pid: u32) -> u64 {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fdinfo")) else {
        return 0;
    };
    let maps: BTreeMap<u64, u64> = entries
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path()).ok())
        .filter_map(|fdinfo| map_memory(&fdinfo))
        .collect();
    maps.values().sum()
}

/// Id and bytes of the map that a descriptor stands for; `None` for other descriptors.
fn map_memory(fdinfo: &str) -> Option<(u64, u64)> {
    let field = |name: &str| {
        let line = fdinfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.strip_prefix(':')?.trim().parse().ok()
    };
    Some((field("map_id")?, field("memlock")?))
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_a_map_is_read_and_other_descriptors_are_none() {
        let map = "pos:\t0\nflags:\t02000002\nmap_type:\t1\nmemlock:\t2097152\nmap_id:\t17\nfrozen:\t0\n";
        assert_eq!(map_memory(map), Some((17, 2_097_152)));
        assert_eq!(map_memory("pos:\t0\nflags:\t02\nmnt_id:\t15\n"), None);
    }

    #[test]
    fn report_that_misses_a_block_or_a_site_is_refused() {
        let report = serde_json::json!({"totals": {"live_blocks": 9}, "survivors": [{}, {}]});
        verify(&report, r#"{"allocs": 9}"#, 2).unwrap();
        assert!(verify(&report, r#"{"allocs": 10}"#, 2).is_err());
        assert!(verify(&report, r#"{"allocs": 9}"#, 3).is_err());
    }
}
