//! Hundreds of processes a second that start and die while all of the machine is traced: none is harmed,
//! what they held adds up, and the kernel side is empty again in the end.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
};

use leaktrace_tests::{
    fixtures::Fixture,
    leaktrace::Leaktrace,
    memory,
    report::{Report, Truth},
    skip::{self, unless_missing},
    target::Target,
    wait,
};
use nix::sys::signal::Signal;

/// Processes a second.
const RATE: u64 = 500;

/// Blocks that each process leaks, and their size; nobody else has many of it.
const BLOCKS: u64 = 10;
const SIZE: u64 = 1999;

/// Records blocks of that size alone, so that all of the machine can be traced beside the suites.
const ONLY_ITS_SIZE: [&str; 4] = ["--min-size", "1999", "--max-size", "1999"];

/// One storm at a time: the machine is to be busy with it, not more than busy.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long a storm blows, in seconds: a minute where that is asked for.
fn seconds() -> u64 {
    let asked = std::env::var("LEAKTRACE_TEST_STORM_SECONDS");
    asked.map_or(10, |seconds| seconds.parse().expect("a number of seconds"))
}

/// The C fixture by a name of the test's own.
fn named(fixture: &str, name: &str) -> PathBuf {
    let built = Fixture::c(fixture).named(name).build();
    built.expect("gcc is needed by all suites: install gcc and libc6-dev")
}

/// A storm that waits to be let loose: its children are `short` by the name of `short`, or have been forked.
fn storm(name: &str, short: &str, seconds: u64) -> Target {
    let arguments = [
        named("short", short).display().to_string(),
        RATE.to_string(),
        seconds.to_string(),
        BLOCKS.to_string(),
        SIZE.to_string(),
    ];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut target = Target::program(&named("storm", name), &arguments);
    target.ready();
    target
}

/// Every process ended with 0 and answered right.
fn assert_unharmed(truth: &Truth) {
    let started = truth.fact("started");
    assert_eq!(truth.fact("exited_with_0"), started, "{}", truth.raw);
    assert_eq!(truth.fact("answered_right"), started, "{}", truth.raw);
}

/// What was leaked by the storm of this name and by its children, blocks and bytes.
fn leaked(report: &Report, name: &str) -> (u64, u64) {
    let names = [format!("/storm_{name}"), format!("/short_{name}")];
    let tally = report.tally(|survivor| {
        let of = |frame: &serde_json::Value| {
            let object = frame["object"].as_str().unwrap_or_default();
            names.iter().any(|name| object.ends_with(name))
        };
        survivor.has_caller("short_leak") && survivor.frames().iter().any(of)
    });
    (tally.blocks, tally.bytes)
}

/// What the storm leaked is in the report to the block and to the byte.
fn assert_all_seen(report: &Report, name: &str, truth: &Truth) {
    report.assert_adds_up();
    report.assert_no_losses();
    for loss in ["processes_full", "live_process_full", "stacks_process_full"] {
        assert_eq!(report.ledger(loss), 0, "{loss}\n{}", report.summary());
    }
    // Thousands have ended, of which the report lists a thousand at most: none of it is among what is omitted.
    let seen = leaked(report, name);
    let all = (truth.fact("leaked_blocks"), truth.fact("leaked_bytes"));
    assert_eq!(seen, all, "{}\n{}", truth.raw, report.summary());
}

/// Of the kernel side's tables nothing is taken up by processes that have ended: `tracing.tables` of the report.
fn assert_tables_empty(report: &Report) {
    for table in ["processes", "threads", "live", "sites", "stacks"] {
        let left = report.number(&format!("/tracing/tables/{table}"));
        assert_eq!(
            left,
            0,
            "{table}\n{}\n{}",
            report.value()["tracing"]["tables"],
            report.summary()
        );
    }
}

/// By name, so that nothing else on the machine is in the tables when it is over.
#[test]
fn a_storm_leaves_nothing_behind() {
    let _alone = alone();
    let mut target = storm("storm_alone", "short_alone", seconds());
    let selection = [
        "--comm",
        "short_alone",
        "--comm",
        "storm_alone",
        "--scope",
        "host",
    ];
    let mut run = Leaktrace::selecting(&selection)
        .args(&["--by", "site", "-i", "500ms"])
        .start();
    target.go();
    let truth = target.truth();
    assert_unharmed(&truth);
    target.finish_with(0);
    let report = run.report_where("the end of them all, and empty tables", |report| {
        let tables = &report.value()["tracing"]["tables"];
        let members = &report.value()["target"]["members"];
        let is_over = members["joined"].as_u64().is_some_and(|joined| joined > 0) && members["running"] == 0;
        is_over && tables["processes"] == 0 && tables["live"] == 0
    });
    assert_all_seen(&report, "alone", &truth);
    assert_tables_empty(&report);
    drop(run.stop().report());
}

#[test]
fn a_storm_while_all_processes_are_traced() {
    let _alone = alone();
    let mut target = storm("storm_all", "short_all", seconds());
    let run = Leaktrace::selecting(&["--all"])
        .args(&["--by", "site"])
        .args(&ONLY_ITS_SIZE)
        .start();
    target.go();
    let truth = target.truth();
    assert_unharmed(&truth);
    let report = run.stop().report();
    assert_all_seen(&report, "all", &truth);
    target.finish_with(0);
}

/// As a host is left traced: sampled.
#[test]
fn a_storm_under_the_defaults_for_all() {
    let _alone = alone();
    let mut target = storm("storm_sampled", "short_sampled", seconds().min(5));
    let run = Leaktrace::bare(&["--all", "--format", "json", "-i", "1s"]).start();
    target.go();
    assert_unharmed(&target.truth());
    target.finish_with(0);
    run.stop().report().assert_adds_up();
}

/// Children by each way to start one come and go while the probes of all processes are taken out, at whatever moment: by
/// then some are between their fork and their exec, or inside the allocator.
#[test]
fn leaktrace_is_killed_in_the_storm() {
    let _alone = alone();
    let mut target = storm("storm_killed", "short_killed", 20);
    let pid = target.pid();
    target.go();
    // Each is killed at another moment of its life: when it has said so much, or has put so many probes in place.
    let mut runs = 0;
    while target.is_running() && runs < 12 {
        let run = Leaktrace::selecting(&["--all", "-vv"]).args(&ONLY_ITS_SIZE);
        if runs % 3 == 0 {
            run.start().signal(Signal::SIGKILL);
        } else {
            let mut run = run.spawn();
            if runs % 3 == 1 {
                run.stderr_line("the first thing it says", |_| true);
            } else {
                wait::until("the first probe", || {
                    (!memory::breakpoints(pid).is_empty()).then_some(())
                });
            }
            run.signal(Signal::SIGKILL);
        }
        wait::until("the removal of all probes", || {
            memory::breakpoints(pid).is_empty().then_some(())
        });
        runs += 1;
    }
    assert_unharmed(&target.truth());
    target.finish_with(0);
}

/// The ids of what a process holds of the kernel's, as the files of its descriptors have them: `link`, `prog`, `map`.
fn held(pid: u32, what: &str) -> BTreeSet<u64> {
    let folder = format!("/proc/{pid}/fdinfo");
    let files = std::fs::read_dir(&folder).expect("it lives").flatten();
    let texts = files.filter_map(|file| std::fs::read_to_string(file.path()).ok());
    let field = format!("{what}_id:");
    let id = |text: String| {
        let line = text.lines().find_map(|line| line.strip_prefix(&field))?;
        line.trim().parse().ok()
    };
    texts.filter_map(id).collect()
}

/// The ids of all that the kernel has.
fn all_of(bpftool: &Path, what: &str) -> BTreeSet<u64> {
    let output = Command::new(bpftool).args([what, "list", "--json"]).output();
    let output = output.expect("it starts");
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout).expect("bpftool prints JSON");
    let entries = listed.as_array().expect("a list");
    entries.iter().filter_map(|entry| entry["id"].as_u64()).collect()
}

/// No link, program or map is left of a leaktrace that was killed.
#[test]
fn nothing_of_a_killed_leaktrace_stays_in_the_kernel() {
    let _alone = alone();
    let Some(bpftool) = unless_missing(skip::program("bpftool", "bpftool")) else {
        return;
    };
    let mut target = storm("storm_bpftool", "short_bpftool", 3);
    let run = Leaktrace::selecting(&["--comm", "short_bpftool", "--scope", "host"]).start();
    let kinds = ["link", "prog", "map"].map(|what| {
        // What is let go of at this moment is in one of the two only.
        let ids = &held(run.pid(), what) & &all_of(&bpftool, what);
        assert!(!ids.is_empty(), "there must be something to be removed: {what}");
        (what, ids)
    });
    target.go();
    run.signal(Signal::SIGKILL);
    drop(run.wait());
    for (what, ids) in &kinds {
        wait::until("the kernel to let go of it", || {
            ids.is_disjoint(&all_of(&bpftool, what)).then_some(())
        });
    }
    assert_unharmed(&target.truth());
    target.finish_with(0);
}
