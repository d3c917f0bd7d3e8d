//! What tracing costs: that the report says it, and that `--max-overhead` acts on it. No time is asserted.

use leaktrace_tests::{leaktrace::Leaktrace, report::Report, target::Target, trace};
use serde_json::Value;

fn overhead(report: &Report) -> &Value {
    &report.value()["overhead"]
}

fn number(value: &Value, pointer: &str) -> f64 {
    value
        .pointer(pointer)
        .and_then(Value::as_f64)
        .unwrap_or_else(|| panic!("no number {pointer} in {value}"))
}

/// Entries and returns of a function.
fn hits(report: &Report, function: &str) -> (u64, u64) {
    let functions = overhead(report)["functions"].as_array().expect("a list");
    let found = functions.iter().find(|entry| entry["function"] == function);
    found.map_or((0, 0), |entry| {
        let of = |field: &str| entry[field].as_u64().expect("a number");
        (of("entries"), of("returns"))
    })
}

#[test]
fn every_report_states_a_cost_that_fits_the_calls_made() {
    const PAIRS: u64 = 20_000;
    const LEAKS: u64 = PAIRS / 1000;
    let mut target = Target::c("pairs", &[&PAIRS.to_string()]);
    let traced = trace(&mut target, &[]);
    let report = &traced.report;
    let summary = report.summary();
    assert_eq!(
        hits(report, "malloc"),
        (PAIRS + LEAKS, PAIRS + LEAKS),
        "{summary}"
    );
    assert_eq!(hits(report, "free"), (PAIRS, 0), "{summary}");
    let overhead = overhead(report);
    let traps = number(overhead, "/run/traps");
    assert!((traps - (3 * PAIRS + 2 * LEAKS) as f64).abs() < 0.5, "{overhead}");

    let price = |kind: &str| number(overhead, &format!("/calibration/{kind}"));
    let entry_ns = price("emulated_ns").min(price("single_stepped_ns"));
    let entries = (2 * PAIRS + LEAKS) as f64;
    assert!(entry_ns > 0.0, "{overhead}");
    assert!(
        number(overhead, "/run/trap_s") * 1e9 > entries * entry_ns * 0.999,
        "{overhead}"
    );
    assert!(number(overhead, "/run/run_s") > 0.0, "{overhead}");
    let share = number(overhead, "/run/target_share");
    let spent = number(overhead, "/run/trap_s") + number(overhead, "/run/run_s");
    let of_cpu = (spent / number(overhead, "/run/target_cpu_s")).min(1.0);
    assert!((share - of_cpu).abs() < 1e-6 && share > 0.0, "{overhead}");
    assert!(number(overhead, "/run/tracer_cpu_s") > 0.0, "{overhead}");
    assert!(overhead["budget"].is_null(), "{overhead}");
    target.finish_with(0);
}

#[test]
fn a_command_that_ends_at_once_has_its_cost_stated() {
    let program = leaktrace_tests::fixtures::c("pairs");
    let mut run = Leaktrace::command(&program, &["20000"]).with_stdin().start();
    run.close_stdin();
    let report = run.wait().report();
    assert!(
        number(overhead(&report), "/run/target_share") > 0.0,
        "{}",
        overhead(&report)
    );
    let (entries, returns) = hits(&report, "malloc");
    assert!(entries >= 20_020 && returns >= 20_020, "{}", overhead(&report));
}

#[test]
fn a_budget_pauses_while_it_must_and_no_longer() {
    let mut target = Target::c("busy", &[]);
    target.ready();
    let mut run = Leaktrace::attach(&[target.pid()])
        .args(&["-i", "200ms", "--max-overhead", "20%"])
        .start();
    target.go();
    target.at("busy");
    let is_paused = |report: &Report| number(overhead(report), "/budget/paused") > 0.0;
    let paused = run.report_where("a report with a paused function", is_paused);
    assert!((number(overhead(&paused), "/budget/share") - 0.2).abs() < 1e-9);
    run.report_where("a report of what was not seen", |report| {
        let budget = &overhead(report)["budget"];
        number(budget, "/unseen_allocs") > 0.0 && number(budget, "/frees_unseen_share") > 0.0
    });

    target.go();
    target.at("idle");
    run.report_where("a report with everything in place again", |report| {
        let budget = &overhead(report)["budget"];
        !is_paused(report) && number(budget, "/mean_bytes") == 0.0
    });
    let report = run.stop().last_report();
    report.assert_adds_up();
    // All was freed, if unseen: nothing may be called a survivor without a doubt.
    let budget = &overhead(&report)["budget"];
    let unsure = number(budget, "/unsure_blocks");
    assert!(
        (unsure - report.total("live_blocks") as f64).abs() < 0.5,
        "{budget}"
    );
    let warned = report
        .warnings()
        .iter()
        .any(|warning| warning.contains("--max-overhead"));
    assert_eq!(warned, unsure > 0.0, "{:?}", report.warnings());
    target.go();
    target.finish_with_truth(0);
}

#[test]
fn a_budget_that_is_kept_anyway_changes_nothing() {
    let mut target = Target::c("pairs", &["2000"]);
    let traced = trace(&mut target, &["--max-overhead", "100%"]);
    traced.report.assert_exact(&traced.truth);
    let budget = &overhead(&traced.report)["budget"];
    for field in ["/mean_bytes", "/paused", "/unseen_allocs", "/unsure_blocks"] {
        assert!(number(budget, field) == 0.0, "{field}: {budget}");
    }
    target.finish_with(0);
}
