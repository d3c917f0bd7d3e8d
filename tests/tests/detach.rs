//! However leaktrace ends, the target runs on, at full speed, with the code it had before.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use leaktrace_tests::{leaktrace::Leaktrace, memory, target::Target, wait};
use nix::sys::signal::Signal;
use tempfile::TempDir;

/// A target that loops over malloc and free in two threads, and shows how often it has been round.
struct Load {
    target: Target,
    progress: PathBuf,
    _folder: TempDir,
}

impl Load {
    fn ready() -> Self {
        let folder = TempDir::new().expect("a temporary folder can be made");
        let progress = folder.path().join("progress");
        let path = progress.to_str().expect("a plain path");
        let mut target = Target::c("steady", &[path, "2", "1000"]);
        target.ready();
        Self {
            target,
            progress,
            _folder: folder,
        }
    }

    fn rounds(&self) -> u64 {
        let mut bytes = [0; 8];
        let file = File::open(&self.progress).expect("the progress file is there");
        file.read_exact_at(&mut bytes, 0)
            .expect("the progress file can be read");
        u64::from_ne_bytes(bytes)
    }

    /// Waits until it has been round `more` times, and says how long that took.
    fn runs_on(&self, more: u64) -> Duration {
        let (start, from) = (Instant::now(), self.rounds());
        wait::until("progress of the target", || {
            (self.rounds() >= from + more).then_some(())
        });
        start.elapsed()
    }
}

/// Ends leaktrace by `end` under load, and checks the target before, during and after.
fn detach(end: impl FnOnce(leaktrace_tests::leaktrace::Run)) {
    let mut load = Load::ready();
    let pid = load.target.pid();
    assert_eq!(memory::breakpoints(pid), [], "before the attach");
    load.target.go();
    load.target.at("running");
    let run = Leaktrace::attach(&[pid]).start();
    assert!(
        !memory::breakpoints(pid).is_empty(),
        "there must be probes to be removed"
    );
    load.runs_on(1000);
    end(run);
    // The kernel removes the probes of a killed tracer when it closes its files, which takes a moment.
    wait::until("the removal of all breakpoints", || {
        memory::breakpoints(pid).is_empty().then_some(())
    });
    load.runs_on(100_000);
    assert!(load.target.is_running());
    load.target.go();
    load.target.truth();
    load.target.finish_with(9);
}

#[test]
fn by_sigint() {
    detach(|run| run.stop().report().assert_no_losses());
}

#[test]
fn by_sigterm() {
    detach(|run| {
        run.signal(Signal::SIGTERM);
        // As complete as after Ctrl-C: the last report, exit code 0.
        run.wait().report().assert_no_losses();
    });
}

#[test]
fn by_sigkill() {
    detach(|run| {
        run.signal(Signal::SIGKILL);
        let status = run.wait().status;
        assert!(!status.success(), "{status}");
    });
}

#[test]
fn by_duration() {
    let mut load = Load::ready();
    let pid = load.target.pid();
    load.target.go();
    load.target.at("running");
    let report = Leaktrace::attach(&[pid])
        .args(&["-d", "1s"])
        .start()
        .wait()
        .report();
    report.assert_no_losses();
    assert!(
        report.value()["elapsed_s"]
            .as_f64()
            .is_some_and(|elapsed| elapsed >= 1.0)
    );
    assert_eq!(memory::breakpoints(pid), [], "after the end");
    load.runs_on(100_000);
    load.target.go();
    load.target.truth();
    load.target.finish_with(9);
}

#[test]
fn while_attached_nothing_but_breakpoints_changes() {
    let mut load = Load::ready();
    let pid = load.target.pid();
    let run = Leaktrace::attach(&[pid]).start();
    let probes = memory::breakpoints(pid);
    let breakpoint = 0xcc;
    let memory_file = File::open(format!("/proc/{pid}/mem")).expect("root may read it");
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("it is there");
    for probe in &probes {
        let line = maps
            .lines()
            .find(|line| line.ends_with(&probe.object) && line.contains(" r-xp "))
            .expect("the mapping of a probe");
        let mut fields = line.split_ascii_whitespace();
        let start = fields
            .next()
            .and_then(|range| range.split_once('-'))
            .expect("a range")
            .0;
        let offset = fields.nth(1).expect("an offset");
        let number = |text| u64::from_str_radix(text, 16).expect("hexadecimal");
        let mut byte = [0];
        memory_file
            .read_exact_at(&mut byte, number(start) + probe.offset - number(offset))
            .expect("the code can be read");
        assert_eq!(byte[0], breakpoint, "{probe:?}");
    }
    run.stop().report().assert_adds_up();
    load.target.go();
    load.target.at("running");
    load.target.go();
    load.target.truth();
    load.target.finish_with(9);
}

#[test]
fn a_killed_target_ends_the_run_in_good_order() {
    let mut load = Load::ready();
    let run = Leaktrace::attach(&[load.target.pid()]).start();
    load.target.go();
    load.target.at("running");
    load.runs_on(5000);
    load.target.signal(Signal::SIGKILL);
    load.target.wait();
    let report = run.wait().report();
    report.assert_adds_up();
    report.assert_no_losses();
    assert!(report.site("steady_leak").blocks >= 4, "{}", report.summary());
}

#[test]
fn attached_again_after_the_end() {
    let mut load = Load::ready();
    load.target.go();
    load.target.at("running");
    for _ in 0..3 {
        let run = Leaktrace::attach(&[load.target.pid()]).start();
        load.runs_on(1000);
        run.stop().report().assert_no_losses();
    }
    load.target.go();
    load.target.truth();
    load.target.finish_with(9);
}

#[test]
fn two_tracers_at_one_target() {
    let mut target = Target::c("pairs", &["5000"]);
    target.ready();
    let first = Leaktrace::attach(&[target.pid()]).start();
    let second = Leaktrace::attach(&[target.pid()]).start();
    target.go();
    let truth = target.truth();
    first.stop().report().assert_exact(&truth);
    second.stop().report().assert_exact(&truth);
    target.finish_with(0);
}
