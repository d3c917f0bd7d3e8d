//! The steps with compiled programs: leaks in each build, late attach, NVML, cost, compute-sanitizer's second opinion.

use std::{collections::BTreeSet, fs, process::Command};

use anyhow::{Context as _, Result};

use super::{
    compile::{Build, Programs},
    machine::{Machine, cuda_tool, last_line},
    python,
    report::{Report, Sum},
    table::Row,
    trace::{self, Tracer},
};

const MIB: u64 = 1 << 20;

/// What a function of `accept_leak.cpp` leaves.
struct Site {
    function: &'static str,
    /// The call of the runtime library, or of the driver where that has none.
    call: &'static str,
    /// What that is where the runtime library has no symbols.
    driver_call: &'static str,
    blocks: u64,
    size: Size,
    /// Whether it is left after `cudaDeviceReset`; none where nothing is said of it.
    survives_reset: Option<bool>,
}

enum Size {
    Bytes(u64),
    /// Rows of the pitch that the driver has chosen.
    Rows(u64),
}

#[rustfmt::skip]
const SITES: [Site; 7] = [
    Site { function: "leak_here", call: "cudaMalloc", driver_call: "cuMemAlloc_v2", blocks: 7, size: Size::Bytes(3 * MIB), survives_reset: Some(false) },
    Site { function: "leak_managed", call: "cudaMallocManaged", driver_call: "cuMemAllocManaged", blocks: 2, size: Size::Bytes(4 * MIB), survives_reset: Some(false) },
    Site { function: "leak_async", call: "cudaMallocAsync", driver_call: "cuMemAllocAsync", blocks: 2, size: Size::Bytes(MIB), survives_reset: Some(true) },
    Site { function: "leak_host", call: "cudaMallocHost", driver_call: "cuMemHostAlloc", blocks: 2, size: Size::Bytes(MIB), survives_reset: Some(false) },
    Site { function: "leak_registered", call: "cudaHostRegister", driver_call: "cuMemHostRegister_v2", blocks: 1, size: Size::Bytes(MIB), survives_reset: None },
    Site { function: "leak_pitch", call: "cudaMallocPitch", driver_call: "cuMemAllocPitch_v2", blocks: 2, size: Size::Rows(100), survives_reset: Some(false) },
    Site { function: "leak_mapped", call: "cuMemCreate", driver_call: "cuMemCreate", blocks: 2, size: Size::Bytes(2 * MIB), survives_reset: Some(true) },
];

impl Site {
    fn expected(&self, build: Build, pitch_bytes: u64) -> Sum {
        let size_bytes = match self.size {
            Size::Bytes(bytes) => bytes,
            Size::Rows(rows) => rows * pitch_bytes,
        };
        let call = if build == Build::Stripped {
            self.driver_call
        } else {
            self.call
        };
        Sum::of(call, self.blocks, self.blocks * size_bytes)
    }
}

/// Step 2.
pub(super) fn names(machine: &mut Machine, rows: &mut Vec<Row>) -> Result<()> {
    const WHAT: &str = "cuGetProcAddress hands out what libcuda exports";
    let Some(programs) = machine.programs(WHAT, rows) else {
        return Ok(());
    };
    let ended = machine.run("accept_names", &mut programs.program("accept_names"))?;
    let of = |verdict: &str| -> Vec<&str> {
        let lines = ended.text.lines();
        lines
            .filter_map(|line| line.strip_prefix(verdict)?.strip_prefix(' '))
            .collect()
    };
    let (same, differing, missing) = (of("same"), of("differs"), of("missing"));
    if !ended.succeeded || same.is_empty() {
        rows.push(Row::differs(WHAT, "a list", last_line(&ended.text)));
        return Ok(());
    }
    rows.push(Row::judged(
        WHAT,
        "none differs",
        format!(
            "{} same, {} differ {}",
            same.len(),
            differing.len(),
            differing.join(" ")
        ),
        differing.is_empty(),
    ));
    rows.push(Row::judged(
        "names that this driver does not have",
        "any",
        missing.join(" "),
        true,
    ));
    Ok(())
}

/// Step 3.
pub(super) fn leaks(machine: &mut Machine, rows: &mut Vec<Row>) -> Result<()> {
    const WHAT: &str = "leaks of each call";
    if !machine.can_trace(WHAT, rows) {
        return Ok(());
    }
    let Some(programs) = machine.programs(WHAT, rows) else {
        return Ok(());
    };
    for build in Build::ALL {
        let name = build.name();
        let mut target = machine.start(&format!("{name} leaks"), programs.leak(build).arg("leaks"))?;
        target.at("ready", machine.patience())?;
        let driver = mapped_driver(target.pid());
        let traced = trace::trace(
            machine,
            &format!("{name} leaks"),
            &mut target,
            &["--max-overhead", "off"],
        )?;
        target.finish(machine.patience())?;
        if build == Build::Static {
            rows.push(Row::judged(
                "the driver's file can be probed",
                driver,
                set(&traced.report.probed_drivers()),
                !traced.report.probed_drivers().is_empty(),
            ));
        }
        let pitch_bytes = traced.truth["pitch_bytes"].as_u64().context("no pitch")?;
        compare_all(name, build, pitch_bytes, &traced.report, rows);
    }
    after_reset(machine, &programs, rows)
}

/// Every site, all of them together, and what failed.
fn compare_all(name: &str, build: Build, pitch_bytes: u64, report: &Report, rows: &mut Vec<Row>) {
    if !is_followed(name, report, rows) {
        return;
    }
    let mut all = Sum::default();
    for site in &SITES {
        let expected = site.expected(build, pitch_bytes);
        rows.push(Row::same(
            format!("{name}: {}", site.function),
            &expected,
            report.at(site.function, false),
        ));
        all.blocks += expected.blocks;
        all.bytes += expected.bytes;
        all.calls.extend(expected.calls);
    }
    // What was freed, on another thread too, and what failed is in no stack of these, but would be in this sum.
    rows.push(Row::same(
        format!("{name}: all GPU memory"),
        &all,
        report.all(false),
    ));
    let failed = if build == Build::Stripped {
        "cuMemAlloc_v2"
    } else {
        "cudaMalloc"
    };
    rows.push(Row::same(
        format!("{name}: failed for lack of memory"),
        format!("{failed} 1"),
        out_of_memory(report),
    ));
    rows.push(Row::same(
        format!("{name}: ledger"),
        "nothing lost",
        report.losses(),
    ));
}

/// If not, a row says so: that a report has nothing of a GPU must not pass for nothing outstanding.
pub(super) fn is_followed(name: &str, report: &Report, rows: &mut Vec<Row>) -> bool {
    let is = report.follows_gpu();
    if !is {
        rows.push(Row::differs(name, "GPU memory is followed", "it is not"));
    }
    is
}

fn out_of_memory(report: &Report) -> String {
    let counts = report.out_of_memory();
    let counts: Vec<_> = counts
        .iter()
        .map(|(call, count)| format!("{call} {count}"))
        .collect();
    counts.join(", ")
}

/// Started by leaktrace, so that all contexts are seen from their beginning.
fn after_reset(machine: &mut Machine, programs: &Programs, rows: &mut Vec<Row>) -> Result<()> {
    let path = programs.path(Build::Shared).display().to_string();
    let mut tracer = Tracer::command(machine, "reset", &[&path, "reset"], |command| {
        programs.environment(command);
    })?;
    let patience = machine.patience();
    let target = tracer.target();
    target.at("ready", patience)?;
    target.go();
    target.truth(patience)?;
    target.go();
    let report = tracer.end(machine)?;
    if !is_followed("after cudaDeviceReset", &report, rows) {
        return Ok(());
    }
    for site in &SITES {
        let Some(survives) = site.survives_reset else {
            continue;
        };
        let expected = if survives {
            site.expected(Build::Shared, 0)
        } else {
            Sum::default()
        };
        rows.push(Row::same(
            format!("after cudaDeviceReset: {}", site.function),
            expected,
            report.at(site.function, false),
        ));
    }
    Ok(())
}

/// Step 4.
pub(super) fn late(machine: &mut Machine, rows: &mut Vec<Row>) -> Result<()> {
    const WHAT: &str = "attached late";
    if !machine.can_trace(WHAT, rows) {
        return Ok(());
    }
    let Some(programs) = machine.programs(WHAT, rows) else {
        return Ok(());
    };
    let mut target = machine.start("late", programs.leak(Build::Shared).arg("late"))?;
    target.at("ready", machine.patience())?;
    let traced = trace::trace(machine, "late", &mut target, &[])?;
    target.finish(machine.patience())?;
    rows.push(Row::same(
        "attached after three of seven blocks",
        Sum::of("cudaMalloc", 4, 12 * MIB),
        traced.report.at("leak_here", false),
    ));
    rows.push(Row::same(
        "frees of memory from before the attach",
        0,
        traced.report.ledger("gpu_free_unknown"),
    ));
    before_driver(machine, &programs, rows)
}

/// Attached to a program that has not loaded the driver yet.
fn before_driver(machine: &mut Machine, programs: &Programs, rows: &mut Vec<Row>) -> Result<()> {
    let mut target = machine.start("cold", programs.leak(Build::Shared).arg("cold"))?;
    let patience = machine.patience();
    target.at("ready", patience)?;
    let mut tracer = Tracer::attach(machine, "cold", target.pid(), &["-v"])?;
    target.go();
    target.at("loaded", patience)?;
    // With -v it names each file that it probes. The driver's may have its probes before it is mapped.
    tracer
        .target()
        .line_ever("a word about libcuda", patience, |line| {
            line.contains("libcuda.so")
        })?;
    target.go();
    let truth = target.truth(patience)?;
    let report = tracer.stop(machine)?;
    target.finish(patience)?;
    let pitch_bytes = truth["pitch_bytes"].as_u64().context("no pitch")?;
    compare_all(
        "driver loaded after the attach",
        Build::Shared,
        pitch_bytes,
        &report,
        rows,
    );
    Ok(())
}

/// Where a process has the driver from, and how that is mounted.
fn mapped_driver(pid: u32) -> String {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let line = maps.lines().find(|line| line.contains("libcuda.so"));
    let Some(path) = line
        .and_then(|line| line.split_once('/'))
        .map(|(_, path)| format!("/{path}"))
    else {
        return "no libcuda mapped".to_owned();
    };
    let mounts = fs::read_to_string(format!("/proc/{pid}/mounts")).unwrap_or_default();
    let mount = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .filter(|words| words.len() > 3 && path.starts_with(words[1]))
        .max_by_key(|words| words[1].len());
    mount.map_or(path.clone(), |words| {
        let options = words[3].split(',').next().unwrap_or_default();
        format!("{path} on {} ({}, {options})", words[1], words[2])
    })
}

fn set(names: &BTreeSet<String>) -> String {
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    names.join(", ")
}

/// Step 5.
pub(super) fn nvml(machine: &mut Machine, rows: &mut Vec<Row>) -> Result<()> {
    const WHAT: &str = "used by the process, by NVML";
    if !machine.has_gpu(WHAT, rows) || !machine.can_trace(WHAT, rows) {
        return Ok(());
    }
    let Some(programs) = machine.programs(WHAT, rows) else {
        return Ok(());
    };
    let mut target = machine.start("device", programs.leak(Build::Shared).arg("device"))?;
    target.at("ready", machine.patience())?;
    let Some(before) = used_by(machine, target.pid())? else {
        rows.push(Row::not_run(WHAT, "nvidia-smi does not list the process"));
        return Ok(());
    };
    let tracer = Tracer::attach(machine, "device", target.pid(), &[])?;
    target.go();
    target.truth(machine.patience())?;
    let after = used_by(machine, target.pid())?.unwrap_or(0);
    let report = tracer.stop(machine)?;
    let (grew, blocks) = (after.saturating_sub(before), report.all(false).blocks);
    let traced = report.device_bytes();
    rows.push(Row::judged(
        "growth by nvidia-smi beside the traced device bytes",
        format!("{traced} bytes, {blocks} x 2 MiB more or less"),
        format!("{grew} bytes, above {before} of the context"),
        traced > 0 && grew.abs_diff(traced) <= blocks * 2 * MIB,
    ));
    let own = report.nvml(target.pid());
    rows.push(Row::judged(
        "leaktrace's own number from NVML",
        format!("{after} bytes, 1 MiB more or less"),
        own.map_or("none".to_owned(), |bytes| format!("{bytes} bytes")),
        own.is_some_and(|bytes| bytes.abs_diff(after) <= MIB),
    ));
    target.finish(machine.patience())?;
    Ok(())
}

/// Bytes, by nvidia-smi, which counts in MiB; none where it does not list the process.
pub(super) fn used_by(machine: &mut Machine, pid: u32) -> Result<Option<u64>> {
    let query = [
        "--query-compute-apps=pid,used_memory",
        "--format=csv,noheader,nounits",
    ];
    let ended = machine.run("nvidia-smi, processes", Command::new("nvidia-smi").args(query))?;
    Ok(ended.text.lines().find_map(|line| {
        let (listed, used) = line.split_once(',')?;
        let used_mib: u64 = used.trim().parse().ok()?;
        (listed.trim().parse() == Ok(pid)).then_some(used_mib * MIB)
    }))
}

/// Step 9.
pub(super) fn cost(machine: &mut Machine, rows: &mut Vec<Row>) -> Result<()> {
    const PAIRS: u64 = 100_000;
    const WHAT: &str = "a pair of cudaMalloc and cudaFree of 4 KiB";
    if !machine.can_trace(WHAT, rows) {
        return Ok(());
    }
    if let Some(programs) = machine.programs(WHAT, rows) {
        let run = |machine: &mut Machine| {
            machine.start("cost", programs.program("accept_cost").arg(PAIRS.to_string()))
        };
        compare_cost(machine, WHAT, PAIRS, run, rows)?;
    }
    python::cost(machine, rows)
}

/// Untraced, then traced. Times are shown and not judged.
pub(super) fn compare_cost(
    machine: &mut Machine,
    what: &str,
    count: u64,
    start: impl Fn(&mut Machine) -> Result<super::target::Target>,
    rows: &mut Vec<Row>,
) -> Result<()> {
    let mut target = start(machine)?;
    target.at("ready", machine.patience())?;
    target.go();
    let untraced = target.truth(machine.patience())?["ns"].clone();
    target.finish(machine.patience())?;

    let mut target = start(machine)?;
    target.at("ready", machine.patience())?;
    let traced = trace::trace(machine, what, &mut target, &["--max-overhead", "off"])?;
    target.finish(machine.patience())?;
    let (losses, seen) = (traced.report.losses(), traced.report.handed_out());
    rows.push(Row::judged(
        what,
        format!("{count} or more seen, nothing lost"),
        format!(
            "{untraced} ns, traced {} ns; {seen} seen, {losses}",
            traced.truth["ns"]
        ),
        seen >= count && losses == "nothing lost",
    ));
    Ok(())
}

/// Step 10.
pub(super) fn sanitizer(machine: &mut Machine, rows: &mut Vec<Row>) -> Result<()> {
    const WHAT: &str = "compute-sanitizer counts the same leaks";
    if !machine.has_gpu(WHAT, rows) {
        return Ok(());
    }
    let Some(tool) = cuda_tool("compute-sanitizer") else {
        rows.push(Row::not_run(WHAT, "no compute-sanitizer"));
        return Ok(());
    };
    let Some(programs) = machine.programs(WHAT, rows) else {
        return Ok(());
    };
    let mut command = Command::new(tool);
    command
        .args(["--tool", "memcheck", "--leak-check", "full"])
        .arg(programs.path(Build::Static))
        .arg("sanitize");
    let ended = machine.run("compute-sanitizer", &mut command)?;
    let summary = ended
        .text
        .lines()
        .find_map(|line| line.split_once("LEAK SUMMARY: "));
    rows.push(Row::same(
        WHAT,
        format!("{} bytes leaked in 7 allocations", 7 * 3 * MIB),
        summary.map_or_else(
            || last_line(&ended.text),
            |(_, summary)| summary.trim().to_owned(),
        ),
    ));
    Ok(())
}
