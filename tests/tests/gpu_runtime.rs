//! The runtime library over the driver: one record a call, with the outermost call's name and stack, freed wherever it is
//! freed. Shared, linked in, and linked in without symbols.

use leaktrace_tests::{
    Traced,
    gpu::{Expected, Layer, Rig, Runtime},
    leaktrace::Leaktrace,
    report::GPU_SPACES,
    skip::unless_missing,
    target::Target,
    trace,
};

const RUNTIMES: [(Runtime, Layer); 3] = [
    (Runtime::Shared, Layer::Outermost),
    (Runtime::Static, Layer::Outermost),
    (Runtime::StaticNameless, Layer::Driver),
];

fn calls(runtime: Runtime) -> Option<Rig> {
    unless_missing(Rig::runtime("runtime_calls", runtime))
}

fn lives() -> Rig {
    Rig::runtime("runtime_lives", Runtime::Shared).expect("gcc is enough for it")
}

fn traced(rig: &Rig, mode: &str, options: &[&str]) -> (Target, Traced) {
    let mut target = rig.start(&[mode]);
    let traced = trace(&mut target, options);
    (target, traced)
}

/// How `runtime_lives` MODE goes.
fn exact(mode: &str) {
    let (mut target, traced) = traced(&lives(), mode, &[]);
    Expected::of(&traced.truth).check(&traced.report);
    target.finish_with(0);
}

fn every_call(runtime: Runtime, layer: Layer) {
    let Some(rig) = calls(runtime) else { return };
    for mode in ["all", "early"] {
        let (mut target, traced) = traced(&rig, mode, &[]);
        Expected::of(&traced.truth).by(layer).check(&traced.report);
        target.finish_with(0);
    }
}

#[test]
fn every_call_of_a_shared_library() {
    every_call(Runtime::Shared, Layer::Outermost);
}

#[test]
fn every_call_of_a_library_that_jumps_into_the_driver() {
    every_call(Runtime::SharedJumping, Layer::Outermost);
}

#[test]
fn every_call_of_a_library_that_is_linked_in() {
    every_call(Runtime::Static, Layer::Outermost);
}

#[test]
fn every_call_of_a_library_without_symbols() {
    every_call(Runtime::StaticNameless, Layer::Driver);
}

#[test]
fn every_call_of_a_program_without_symbols() {
    let Some(rig) = calls(Runtime::StaticStripped) else {
        return;
    };
    let (mut target, traced) = traced(&rig, "all", &[]);
    Expected::of(&traced.truth).nameless().check(&traced.report);
    let calls = traced
        .report
        .tally(|survivor| survivor.text("space") == "array")
        .calls;
    assert_eq!(
        calls.iter().map(String::as_str).collect::<Vec<_>>(),
        ["cuArray3DCreate_v2", "cuArrayCreate_v2", "cuMipmappedArrayCreate"],
        "{}",
        traced.report.summary()
    );
    target.finish_with(0);
}

#[test]
fn fourteen_calls_over_fourteen_calls_are_fourteen_records() {
    for (runtime, layer) in RUNTIMES {
        let Some(rig) = calls(runtime) else { return };
        let (mut target, traced) = traced(&rig, "once", &[]);
        Expected::of(&traced.truth).by(layer).check(&traced.report);
        let report = &traced.report;
        let allocs: u64 = GPU_SPACES
            .iter()
            .map(|space| report.gpu_number(space, "allocs"))
            .sum();
        let records = report.tally(|survivor| GPU_SPACES.contains(&survivor.text("space")));
        assert_eq!(
            (allocs, records.blocks),
            (14, 14),
            "{runtime:?}\n{}",
            report.summary()
        );
        target.finish_with(0);
    }
}

#[test]
fn failures_are_told_once() {
    for (runtime, layer) in RUNTIMES {
        let Some(rig) = calls(runtime) else { return };
        let rig = rig.env("FAKE_GPU_BYTES", (16_u64 << 30).to_string());
        let (mut target, traced) = traced(&rig, "failures", &[]);
        Expected::of(&traced.truth).by(layer).check(&traced.report);
        target.finish_with(0);
    }
}

#[test]
fn without_a_driver_all_fails_and_leaves_nothing() {
    for runtime in [Runtime::Shared, Runtime::Static] {
        let Some(rig) = calls(runtime) else { return };
        let (mut target, traced) = traced(&rig.without_driver(), "no_driver", &["--gpu"]);
        Expected::of(&traced.truth).check(&traced.report);
        target.finish_with(0);
    }
}

#[test]
fn freed_on_other_threads() {
    exact("threads");
}

#[test]
fn on_the_device_that_the_thread_has_chosen() {
    exact("devices");
}

#[test]
fn what_was_made_before_the_attach_is_freed_as_unknown() {
    exact("before_attach");
}

#[test]
fn a_reset_frees_what_goes_with_the_context() {
    exact("reset");
}

#[test]
fn a_child_has_none_of_its_parents_memory() {
    exact("fork");
    let (mut target, traced) = traced(&lives(), "fork", &["--follow-forks"]);
    Expected::of(&traced.truth).check_sites(&traced.report);
    target.finish_with(0);
}

#[test]
fn a_child_has_memory_of_its_own() {
    let mut target = lives().start(&["fork_first"]);
    target.ready();
    let mut run = Leaktrace::attach(&[target.pid()])
        .args(&["--follow-forks", "-i", "100ms"])
        .start();
    target.go();
    target.at("child");
    run.report_where("both processes", |report| report.processes() == 2);
    target.go();
    let (child, parent) = (target.truth(), target.truth());
    let report = run.stop().report();
    for truth in [&child, &parent] {
        Expected::of(truth).check_sites(&report);
    }
    target.finish_with(0);
}

/// The library releases the primary contexts in its destructor, inside `exit`.
#[test]
fn what_lives_at_exit_is_told() {
    for (runtime, layer) in [
        (Runtime::Shared, Layer::Outermost),
        (Runtime::StaticNameless, Layer::Driver),
    ] {
        let Some(rig) = unless_missing(Rig::runtime("runtime_lives", runtime)) else {
            return;
        };
        let mut target = rig.start(&["exit"]);
        target.ready();
        let run = Leaktrace::attach(&[target.pid()]).start();
        target.go();
        let truth = target.truth();
        target.finish_with(0);
        let report = run.wait().report();
        Expected::of(&truth).by(layer).check(&report);
        let alive = report.tally(|survivor| survivor.is_gpus() && survivor.text("state") != "exited");
        assert_eq!(alive.blocks, 0, "{}", report.summary());
        assert_eq!(
            report.process(truth.pid)["state"],
            "exited",
            "{}",
            report.summary()
        );
    }
}

#[test]
fn reports_follow_what_is_made() {
    let mut target = lives().start(&["stages"]);
    target.ready();
    let mut run = Leaktrace::attach(&[target.pid()]).args(&["-i", "100ms"]).start();
    for blocks in [3, 5] {
        target.go();
        let truth = target.truth();
        let report = run.report_where("the blocks", |report| {
            report.gpu().is_some() && report.space("device").blocks == blocks
        });
        Expected::of(&truth).check_sites(&report);
    }
    let report = run.stop().report();
    assert_eq!(report.space("device").bytes, 5000, "{}", report.summary());
    target.finish_with(0);
}
