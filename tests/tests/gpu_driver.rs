//! The calls of the GPU's driver: each is recorded with its call, its bytes as the driver has them, its space, and given
//! back by whoever frees it.

use leaktrace_tests::{
    gpu::{Expected, Rig},
    report::GPU_SPACES,
    trace,
};

/// Traces a run of a program over the driver and compares it with the truth.
fn exact(program: &str, arguments: &[&str], options: &[&str]) {
    let mut target = Rig::driver(program).start(arguments);
    let traced = trace(&mut target, options);
    Expected::of(&traced.truth).check(&traced.report);
    target.finish_with(0);
}

#[test]
fn every_call() {
    exact("driver_calls", &[], &[]);
}

#[test]
fn every_call_when_asked_for() {
    exact("driver_calls", &[], &["--gpu"]);
}

#[test]
fn every_call_in_a_context_from_before_the_attach() {
    exact("driver_calls", &["early"], &[]);
}

#[test]
fn what_fails_is_no_memory_and_is_told() {
    exact("driver_failures", &[], &[]);
}

#[test]
fn nothing_unless_wanted() {
    let mut target = Rig::driver("driver_calls").start(&[]);
    let traced = trace(&mut target, &["--no-gpu"]);
    let report = &traced.report;
    report.assert_adds_up();
    assert!(report.gpu().is_none(), "{}", report.summary());
    let survivors = report.survivors();
    let gpu = survivors.iter().filter(|survivor| survivor.is_gpus()).count();
    assert_eq!(gpu, 0, "{}", report.summary());
    target.finish_with(0);
}

#[test]
fn only_blocks_of_the_wanted_size() {
    let mut target = Rig::driver("driver_calls").start(&[]);
    let traced = trace(&mut target, &["--min-size", "6000", "--max-size", "9000"]);
    let report = &traced.report;
    report.assert_adds_up();
    let sites = [
        ("leak_pool", "device", 6000),
        ("leak_pool_ptsz", "device", 7000),
        ("leak_alloc_host", "pinned", 8000),
        ("leak_host_alloc", "pinned", 9000),
    ];
    for (site, space, bytes) in sites {
        let seen = report.gpu_site(space, site);
        assert_eq!(
            (seen.blocks, seen.bytes),
            (3, 3 * bytes),
            "{site}\n{}",
            report.summary()
        );
    }
    // What is another process's has no size.
    let spaces = GPU_SPACES.iter().filter(|space| **space != "ipc");
    let blocks: u64 = spaces.map(|space| report.space(space).blocks).sum();
    assert_eq!(blocks, 12, "{}", report.summary());
    target.finish_with(0);
}
