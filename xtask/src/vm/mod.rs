//! `cargo xtask vm KERNEL...`: boots Debian's kernels in a virtual machine and checks there that leaktrace
//! finds a known leak.
//!
//! The machine has no disk: everything is in its initramfs, made here from busybox, the released program
//! and a small leaking one. What it prints comes over the serial line. Nothing is installed into the system
//! but qemu, busybox and cpio; kernels are downloaded with a package index of their own.

mod boot;
mod initramfs;
mod kernel;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{
    debian::{self, Outcome},
    process::{step, workspace},
    test::{release_binary, target_dir},
};

/// The same of the run with a selection.
const BEGIN_SELECTED: &str = "=== selected report";
const END_SELECTED: &str = "=== end of selected report";
/// How often its program starts, all but the last in the control group that is selected.
const SELECTED_RUNS: u64 = 3;

/// What the virtual machine is made with.
const PACKAGES: [&str; 6] = [
    "busybox-static",
    "cpio",
    "gcc",
    "libc6-dev",
    "python3",
    "qemu-system-x86",
];

/// malloc/free pairs of the leaking program; every 1000th leaks 100 bytes.
const PAIRS: u64 = 20_000;

/// Debian's Python, and all of its library that it needs to start.
const PYTHON: &str = "/usr/bin/python3";
const PYTHON_ENCODINGS: [&str; 4] = ["__init__.py", "aliases.py", "ascii.py", "utf_8.py"];

/// The Python program: arrays of 3000 bytes, which are allocated with one byte more, and where.
const PYTHON_BLOCKS: u64 = 20;
const PYTHON_BYTES: u64 = 3001;
const PYTHON_STACK: [(&str, u64); 3] = [("take", 8), ("run", 13), ("<module>", 18)];

/// Around the JSON on the serial line.
const BEGIN: &str = "=== report";
const END: &str = "=== end of report";
/// The same of the run of Python.
const BEGIN_PYTHON: &str = "=== Python report";
const END_PYTHON: &str = "=== end of Python report";
/// The same of the run with GPU memory.
const BEGIN_GPU: &str = "=== GPU report";
const END_GPU: &str = "=== end of GPU report";
/// What its program keeps: space, blocks, MiB.
const GPU_KEPT: [(&str, u64, u64); 2] = [("device", 3, 3), ("vmm", 1, 2)];
/// What it makes in a context that it ends.
const GPU_CONTEXT_FREED: u64 = 4;
/// Around what the run with mappings said of them.
const BEGIN_MAPPINGS: &str = "=== mappings";
const END_MAPPINGS: &str = "=== end of mappings";
/// What its program maps and gives back: call, bytes, bits of `mapping::flag`, whether with a stack.
const MAPPINGS: [(&str, &str, &str, bool); 4] = [
    ("mmap", "0x305000", "0x2", true),
    ("munmap", "0x7000", "0x0", false),
    ("mremap", "0x609000", "0x0", true),
    // By malloc, which is why no stack is taken.
    ("mmap", "0x901000", "0x3", false),
];
/// The same of a sampled run.
const BEGIN_SAMPLED: &str = "=== sampled report";
const END_SAMPLED: &str = "=== end of sampled report";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Kernel versions: 6.1, 6.12
    #[arg(required = true)]
    kernels: Vec<String>,
    /// Shell commands to run there instead of the check; the output is printed
    #[arg(long)]
    run: Vec<String>,
    /// Use KVM; without it the machine is emulated, which is slow, but works inside virtual machines too
    #[arg(long)]
    kvm: bool,
    /// How long one machine may take, in seconds
    #[arg(long, default_value_t = 300)]
    timeout_s: u64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    step("what the virtual machine needs");
    if let Outcome::Missing { packages, reason } = debian::ensure(&PACKAGES, true)? {
        bail!("missing: {} ({reason})", packages.join(", "));
    }
    let directory = target_dir().join("vm");
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let leaktrace = release_binary()?;
    let fixture = initramfs::compile(&workspace().join("xtask/src/vm/leak.c"), &directory.join("leak"))?;
    let map = initramfs::compile(&workspace().join("xtask/src/vm/map.c"), &directory.join("map"))?;
    let gpu = initramfs::compile(&workspace().join("xtask/src/vm/gpu.c"), &directory.join("gpu"))?;

    let commands = if args.run.is_empty() {
        check_commands()
    } else {
        args.run.clone()
    };
    let initramfs = directory.join("initramfs.cpio");
    let (python, files) = python()?;
    initramfs::make(
        &initramfs,
        &initramfs::Contents {
            programs: &[
                ("leaktrace", &leaktrace),
                ("leak", &fixture),
                ("gpu", &gpu),
                ("map", &map),
                ("python3", &python),
            ],
            files: &files,
            commands: &commands,
        },
    )?;

    let mut failed = Vec::new();
    for version in &args.kernels {
        step(&format!("Linux {version}"));
        let kernel = kernel::download(version, &directory)?;
        println!("{}", kernel.display());
        let serial = boot::run(&kernel, &initramfs, args.kvm, Duration::from_secs(args.timeout_s))?;
        print!("{serial}");
        if args.run.is_empty() {
            match verify(&serial)
                .and_then(|()| verify_sampled(&serial))
                .and_then(|()| verify_python(&serial))
                .and_then(|()| verify_gpu(&serial))
                .and_then(|()| verify_selected(&serial))
                .and_then(|()| verify_mappings(&serial))
            {
                Ok(()) => println!("Linux {version}: the leak was found, exactly"),
                Err(error) => {
                    println!("Linux {version}: FAILED: {error:#}");
                    failed.push(version.as_str());
                }
            }
        }
    }
    ensure!(failed.is_empty(), "failed on Linux {}", failed.join(", "));
    Ok(())
}

/// Debian's Python, and the files that its program needs: path there, path here.
fn python() -> Result<(PathBuf, Vec<(PathBuf, PathBuf)>)> {
    let program = fs::canonicalize(PYTHON).with_context(|| format!("cannot find {PYTHON}"))?;
    let name = program
        .file_name()
        .context("the path of Python ends in no name")?
        .to_os_string();
    let library = Path::new("/usr/lib").join(name);
    let mut files = vec![(
        PathBuf::from("/leak.py"),
        workspace().join("xtask/src/vm/leak.py"),
    )];
    // By it Python knows its library.
    files.push((library.join("os.py"), library.join("os.py")));
    for name in PYTHON_ENCODINGS {
        let path = library.join("encodings").join(name);
        files.push((path.clone(), path));
    }
    Ok((program, files))
}

fn check_commands() -> Vec<String> {
    vec![
        "uname -r".to_owned(),
        "leaktrace doctor".to_owned(),
        format!("leaktrace -v --interval 0 --format json --output /report -- /bin/leak {PAIRS}"),
        format!("echo '{BEGIN}'; cat /report; echo; echo '{END}'"),
        // Other branches of the programs: the verifier of each kernel must take them too.
        format!(
            "leaktrace --sample-bytes 1KiB --max-overhead 100% --interval 0 --format json --output /sampled -- /bin/leak {PAIRS}"
        ),
        format!("echo '{BEGIN_SAMPLED}'; cat /sampled; echo; echo '{END_SAMPLED}'"),
        "leaktrace --interval 0 --format json --output /python -- /bin/python3 -S -E /leak.py".to_owned(),
        format!("echo '{BEGIN_PYTHON}'; cat /python; echo; echo '{END_PYTHON}'"),
        "leaktrace --interval 0 --format json --output /gpu -- /bin/gpu".to_owned(),
        format!("echo '{BEGIN_GPU}'; cat /gpu; echo; echo '{END_GPU}'"),
        "leaktrace -vv --interval 0 --format json --output /mapped -- /bin/map 2> /mapped.log".to_owned(),
        format!(
            "echo '{BEGIN_MAPPINGS}'; grep 'mmap of\\|munmap of\\|mremap of\\|WARN' /mapped.log; echo '{END_MAPPINGS}'"
        ),
        "mkdir -p /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; mkdir /sys/fs/cgroup/leaky"
            .to_owned(),
        selected_commands(),
        format!("echo '{BEGIN_SELECTED}'; cat /selected; echo; echo '{END_SELECTED}'"),
    ]
}

/// Traces a control group and a name in it while its program comes and goes, within the group and outside.
fn selected_commands() -> String {
    let inside = "sh -c 'echo $$ > /sys/fs/cgroup/leaky/cgroup.procs; exec leak 20000'; "
        .repeat(SELECTED_RUNS as usize - 1);
    format!(
        "leaktrace --cgroup /sys/fs/cgroup/leaky --comm leak --scope host --sample-bytes 0 --interval 0 --format json \
         --output /selected 2> /selected.err & tracer=$!; \
         while kill -0 $tracer && ! grep -q 'leaktrace: tracing' /selected.err; do usleep 100000; done; \
         {inside} leak 20000; kill -INT $tracer; wait $tracer; cat /selected.err"
    )
}

/// What stands on the serial line between two lines.
fn between<'a>(serial: &'a str, begin: &str, end: &str) -> Result<&'a str> {
    serial
        .split_once(&format!("{begin}\n"))
        .and_then(|(_, rest)| rest.split_once(end))
        .map(|(text, _)| text)
        .with_context(|| format!("there is no report on the serial line after `{begin}`"))
}

fn report(serial: &str, begin: &str, end: &str) -> Result<Value> {
    let text = between(serial, begin, end)?;
    serde_json::from_str(text).context("the report is not JSON")
}

/// Whether a sampled run estimates what was allocated.
fn verify_sampled(serial: &str) -> Result<()> {
    let report = report(serial, BEGIN_SAMPLED, END_SAMPLED)?;
    let allocs = report["totals"]["allocs"]
        .as_u64()
        .context("the report has no `totals.allocs`")?;
    // 1860 samples of blocks of 100 bytes: one standard deviation is 2.2 %.
    let tolerance = PAIRS / 8;
    ensure!(
        allocs.abs_diff(PAIRS) <= tolerance,
        "sampled: {PAIRS} allocations, give or take {tolerance}, were expected, the report has {allocs}"
    );
    ensure!(
        report["ledger"]["sampled_out"].as_u64() > Some(PAIRS / 2),
        "sampled: nearly every allocation was recorded"
    );
    ensure_nothing_lost(&report)
}

/// Whether the report on the serial line names the leak with all its blocks, and lost nothing.
fn verify(serial: &str) -> Result<()> {
    let report = report(serial, BEGIN, END)?;
    let blocks = PAIRS / 1000;
    let survivors = report["survivors"]
        .as_array()
        .context("the report has no `survivors`")?;
    let leak = survivors
        .iter()
        .find(|survivor| frame_symbols(survivor).any(|symbol| symbol == "take"))
        .context("no survivor was allocated in `take`")?;
    ensure!(
        leak["blocks"] == blocks && leak["bytes"] == 100 * blocks,
        "expected {blocks} blocks and {} bytes in `take`, the report has {} and {}",
        100 * blocks,
        leak["blocks"],
        leak["bytes"]
    );
    ensure_nothing_lost(&report)
}

/// Whether the report has the arrays that Python kept, with the lines that made them.
fn verify_python(serial: &str) -> Result<()> {
    let report = report(serial, BEGIN_PYTHON, END_PYTHON)?;
    let survivors = report["survivors"]
        .as_array()
        .context("the report has no `survivors`")?;
    let leak = survivors
        .iter()
        .find(|survivor| survivor["bytes"] == PYTHON_BLOCKS * PYTHON_BYTES)
        .context("Python: no survivor has the bytes of the arrays")?;
    let stack: Vec<_> = leak["frames"]
        .as_array()
        .context("the survivor has no frames")?
        .iter()
        .filter(|frame| frame["lang"] == "python")
        .map(|frame| {
            (
                frame["symbol"].as_str().unwrap_or_default(),
                frame["line"].as_u64().unwrap_or_default(),
            )
        })
        .collect();
    ensure!(
        stack == PYTHON_STACK,
        "Python: expected the stack {PYTHON_STACK:?}, the report has {stack:?}"
    );
    ensure_nothing_lost(&report)
}

/// Whether the report has the GPU memory that was kept, and the rest as given back.
fn verify_gpu(serial: &str) -> Result<()> {
    let report = report(serial, BEGIN_GPU, END_GPU)?;
    let survivors = report["survivors"]
        .as_array()
        .context("the report has no `survivors`")?;
    for (space, blocks, mib) in GPU_KEPT {
        // The compiler makes several call sites of a loop.
        let of_space = survivors.iter().filter(|survivor| survivor["space"] == space);
        let number = |survivor: &Value, name: &str| survivor[name].as_u64().unwrap_or_default();
        let kept = of_space.fold((0, 0), |(blocks, bytes), survivor| {
            (
                blocks + number(survivor, "blocks"),
                bytes + number(survivor, "bytes"),
            )
        });
        ensure!(
            kept == (blocks, mib << 20),
            "GPU: expected {blocks} blocks of {mib} MiB of {space} memory, the report has {} and {} bytes",
            kept.0,
            kept.1
        );
    }
    ensure!(
        report["ledger"]["gpu_context_freed"] == GPU_CONTEXT_FREED,
        "GPU: {GPU_CONTEXT_FREED} blocks go with their context, the report has {}",
        report["ledger"]["gpu_context_freed"]
    );
    for name in ["gpu_full", "gpu_free_unknown", "free_missed"] {
        ensure!(
            report["ledger"][name] == 0,
            "GPU: {name} is {}",
            report["ledger"][name]
        );
    }
    ensure_nothing_lost(&report)
}

/// Whether the kernel side told of all that a program has mapped, from where it should.
fn verify_mappings(serial: &str) -> Result<()> {
    let told = between(serial, BEGIN_MAPPINGS, END_MAPPINGS)?;
    for (call, bytes, flags, has_stack) in MAPPINGS {
        let is_it = |line: &&str| {
            line.contains(&format!(" {call} of "))
                && line.contains(&format!("+{bytes} from "))
                && line.contains(&format!(", flags {flags}, "))
                && line.contains(", stack 0x0, ") != has_stack
        };
        ensure!(
            told.lines().any(|line| is_it(&line)),
            "mappings: no {call} of {bytes} bytes with the flags {flags} among:\n{told}"
        );
    }
    Ok(())
}

/// Whether a selection had exactly the processes that it names.
fn verify_selected(serial: &str) -> Result<()> {
    let report = report(serial, BEGIN_SELECTED, END_SELECTED)?;
    let survivors = report["survivors"]
        .as_array()
        .context("the report has no `survivors`")?;
    let blocks: u64 = survivors
        .iter()
        .filter(|survivor| frame_symbols(survivor).any(|symbol| symbol == "take"))
        .filter_map(|survivor| survivor["blocks"].as_u64())
        .sum();
    let expected = (SELECTED_RUNS - 1) * PAIRS / 1000;
    ensure!(
        blocks == expected,
        "selected: expected {expected} blocks in `take`, the report has {blocks}"
    );
    ensure_nothing_lost(&report)
}

fn ensure_nothing_lost(report: &Value) -> Result<()> {
    for name in [
        "live_full",
        "live_no_memory",
        "sites_full",
        "threads_full",
        "events_lost",
    ] {
        ensure!(
            report["ledger"][name] == 0,
            "ledger: {name} is {}",
            report["ledger"][name]
        );
    }
    Ok(())
}

fn frame_symbols(survivor: &Value) -> impl Iterator<Item = &str> {
    let frames = survivor["frames"].as_array().map_or(&[][..], Vec::as_slice);
    frames.iter().filter_map(|frame| frame["symbol"].as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serial(blocks: u64, lost: u64) -> String {
        format!(
            "boot\n{BEGIN}\n{{\"survivors\": [{{\"blocks\": {blocks}, \"bytes\": {}, \"frames\": \
             [{{\"symbol\": \"malloc\"}}, {{\"symbol\": \"take\"}}]}}], \"ledger\": {{\"live_full\": {lost}, \
             \"live_no_memory\": 0, \"sites_full\": 0, \"threads_full\": 0, \"events_lost\": 0}}}}\n{END}\n",
            100 * blocks
        )
    }

    #[test]
    fn estimate_that_is_far_off_or_no_estimate_fails() {
        let sampled = |allocs: u64, left_out: u64| {
            let serial = format!(
                "{BEGIN_SAMPLED}\n{{\"totals\": {{\"allocs\": {allocs}}}, \"ledger\": {{\"sampled_out\": {left_out}, \
                 \"live_full\": 0, \"live_no_memory\": 0, \"sites_full\": 0, \"threads_full\": 0, \
                 \"events_lost\": 0}}}}\n{END_SAMPLED}\n"
            );
            verify_sampled(&serial)
        };
        sampled(PAIRS + PAIRS / 50, 18_000).unwrap();
        assert!(
            sampled(PAIRS / 2, 18_000)
                .unwrap_err()
                .to_string()
                .contains("give or take")
        );
        assert!(
            sampled(PAIRS, 0)
                .unwrap_err()
                .to_string()
                .contains("nearly every")
        );
    }

    #[test]
    fn exact_report_passes() {
        verify(&serial(20, 0)).unwrap();
    }

    #[test]
    fn python_without_its_lines_fails() {
        let python = |line: u64| {
            let frames: Vec<_> = PYTHON_STACK
                .iter()
                .map(|(symbol, at)| {
                    format!(
                        "{{\"lang\": \"python\", \"symbol\": \"{symbol}\", \"line\": {}}}",
                        at + line
                    )
                })
                .collect();
            let serial = format!(
                "{BEGIN_PYTHON}\n{{\"survivors\": [{{\"bytes\": {}, \"frames\": [{{\"lang\": \"native\"}}, {}]}}], \
                 \"ledger\": {{\"live_full\": 0, \"live_no_memory\": 0, \"sites_full\": 0, \"threads_full\": 0, \
                 \"events_lost\": 0}}}}\n{END_PYTHON}\n",
                PYTHON_BLOCKS * PYTHON_BYTES,
                frames.join(", ")
            );
            verify_python(&serial)
        };
        python(0).unwrap();
        assert!(python(1).unwrap_err().to_string().contains("expected the stack"));
    }

    #[test]
    fn gpu_memory_that_is_off_fails() {
        let gpu = |blocks: u64, with_context: u64| {
            let serial = format!(
                "{BEGIN_GPU}\n{{\"survivors\": [{{\"space\": \"device\", \"blocks\": {blocks}, \"bytes\": 3145728}}, \
                 {{\"space\": \"vmm\", \"blocks\": 1, \"bytes\": 2097152}}], \"ledger\": {{\"gpu_context_freed\": \
                 {with_context}, \"gpu_full\": 0, \"gpu_free_unknown\": 0, \"free_missed\": 0, \"live_full\": 0, \
                 \"live_no_memory\": 0, \"sites_full\": 0, \"threads_full\": 0, \"events_lost\": 0}}}}\n{END_GPU}\n"
            );
            verify_gpu(&serial)
        };
        gpu(3, 4).unwrap();
        assert!(gpu(7, 4).unwrap_err().to_string().contains("expected 3 blocks"));
        assert!(
            gpu(3, 0)
                .unwrap_err()
                .to_string()
                .contains("go with their context")
        );
    }

    #[test]
    fn mapping_without_its_stack_fails() {
        let told = |stack: &str| {
            format!(
                "{BEGIN_MAPPINGS}\nDEBUG mmap of 9.1: 0x7000+0x305000 from 0x0+0x0, flags 0x2, stack {stack}, 0 ns\n\
                 DEBUG munmap of 9.1: 0x7000+0x7000 from 0x0+0x0, flags 0x0, stack 0x0, 7 ns\n\
                 DEBUG mremap of 9.1: 0x7000+0x609000 from 0x1000+0x1000, flags 0x0, stack 0x8, 7 ns\n\
                 DEBUG mmap of 9.1: 0x7000+0x901000 from 0x0+0x0, flags 0x3, stack 0x0, 0 ns\n{END_MAPPINGS}\n"
            )
        };
        verify_mappings(&told("0x10")).unwrap();
        assert!(
            verify_mappings(&told("0x0"))
                .unwrap_err()
                .to_string()
                .contains("no mmap of 0x305000 bytes")
        );
    }

    #[test]
    fn selection_that_has_other_processes_fails() {
        let selected = |blocks: u64| {
            let serial = format!(
                "{BEGIN_SELECTED}\n{{\"survivors\": [{{\"blocks\": {blocks}, \"frames\": [{{\"symbol\": \"take\"}}]}}], \
                 \"ledger\": {{\"live_full\": 0, \"live_no_memory\": 0, \"sites_full\": 0, \"threads_full\": 0, \
                 \"events_lost\": 0}}}}\n{END_SELECTED}\n"
            );
            verify_selected(&serial)
        };
        selected(40).unwrap();
        assert!(
            selected(60)
                .unwrap_err()
                .to_string()
                .contains("expected 40 blocks")
        );
    }

    #[test]
    fn missing_block_loss_and_missing_report_fail() {
        assert!(
            verify(&serial(19, 0))
                .unwrap_err()
                .to_string()
                .contains("expected 20 blocks")
        );
        assert!(
            verify(&serial(20, 1))
                .unwrap_err()
                .to_string()
                .contains("live_full")
        );
        assert!(
            verify("Kernel panic")
                .unwrap_err()
                .to_string()
                .contains("no report")
        );
    }
}
