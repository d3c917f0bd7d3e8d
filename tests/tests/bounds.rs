//! What happens when there is much, and when there is too much: counters, warnings, sums that still add up.

use leaktrace_tests::{target::Target, trace};

#[test]
fn many_churned_blocks_beside_a_thousand_that_stay() {
    let mut target = Target::c("millions", &["3000000"]);
    let traced = trace(&mut target, &[]);
    traced.report.assert_exact(&traced.truth);
    traced.report.assert_site("stay", 1000, 72_000);
    traced.report.assert_site("pass", 0, 0);
    target.finish_with(0);
}

#[test]
fn reports_that_take_longer_than_the_interval_do_not_hide_the_end_of_the_target() {
    let mut target = Target::c("many_sites", &["50000", "1000"]);
    target.ready();
    let run = leaktrace_tests::leaktrace::Leaktrace::attach(&[target.pid()])
        .args(&["-i", "1ms"])
        .start();
    target.go();
    let truth = target.truth();
    target.finish_with(0);
    let report = run.wait().report();
    report.assert_exact(&truth);
    assert_eq!(
        report.process(truth.pid)["state"],
        "exited",
        "{}",
        report.summary()
    );
}

#[test]
fn ten_thousand_sites_come_out_whole() {
    let mut target = Target::c("many_sites", &["100000", "10000"]);
    let traced = trace(&mut target, &[]);
    traced.report.assert_exact(&traced.truth);
    let survivors = traced.report.survivors();
    assert_eq!(survivors.len(), 10_000);
    assert!(survivors.iter().all(|survivor| survivor.number("blocks") == 10));
    target.finish_with(0);
}

#[test]
fn a_full_live_table_is_counted_and_explained() {
    let mut target = Target::c("many_sites", &["5000", "10"]);
    let traced = trace(&mut target, &["--max-live", "1000"]);
    let report = &traced.report;
    report.assert_adds_up();
    let live = report.total("live_blocks");
    assert!(live <= 1000, "{}", report.summary());
    assert!(live >= 900, "the table must be used: {}", report.summary());
    assert_eq!(report.ledger("live_full"), 5000 - live, "{}", report.summary());
    let lost = report.ledger("live_full_bytes") + report.total("live_bytes");
    assert_eq!(lost, traced.truth.site("bottom").bytes, "{}", report.summary());
    let explained = report
        .warnings()
        .iter()
        .any(|warning| warning.contains("--max-live"));
    assert!(explained, "{:?}", report.warnings());
    target.finish_with(0);
}

#[test]
fn blocks_that_did_not_fit_are_unknown_when_freed() {
    let mut target = Target::c("same_address", &["60", "100"]);
    target.ready();
    let run = leaktrace_tests::leaktrace::Leaktrace::attach(&[target.pid()])
        .args(&["--max-live", "16"])
        .start();
    target.go();
    target.at("allocated");
    target.go();
    target.truth();
    let report = run.stop().report();
    report.assert_adds_up();
    assert_eq!(
        report.ledger("live_full") + report.total("allocs"),
        60,
        "{}",
        report.summary()
    );
    assert_eq!(
        report.ledger("free_unknown") + report.total("frees"),
        30,
        "{}",
        report.summary()
    );
    target.finish_with(0);
}

#[test]
fn a_full_stack_table_is_counted_and_explained() {
    // 256 k stacks fit, and as many sites.
    let mut target = Target::c("many_sites", &["300000", "300000"]);
    let traced = trace(&mut target, &["--top", "10"]);
    let report = &traced.report;
    report.assert_adds_up();
    let recorded = report.total("live_blocks") + report.ledger("sites_full");
    assert_eq!(recorded, 300_000, "{}", report.summary());
    assert!(report.ledger("stacks_full") > 0, "{}", report.summary());
    assert!(!report.warnings().is_empty());
    target.finish_with(0);
}

#[test]
fn a_process_that_holds_too_much_leaves_room_for_others() {
    use leaktrace_tests::{fixtures::Fixture, leaktrace::Leaktrace};

    let named = |fixture: &str, name: &str| Fixture::c(fixture).named(name).build().expect("gcc");
    let mut noisy = Target::program(&named("many_sites", "bounds_noisy"), &["5000", "10"]);
    let mut quiet = Target::program(&named("serve", "bounds_quiet"), &[]);
    noisy.ready();
    quiet.ready();
    let run = Leaktrace::selecting(&["--comm", "bounds_noisy", "--comm", "bounds_quiet"])
        .args(&["--max-live-per-process", "1000"])
        .start();
    noisy.go();
    let of_noisy = noisy.truth();
    quiet.send(b"aaft");
    let of_quiet = quiet.truth();
    let report = run.stop().report();
    report.assert_sites(&of_quiet);
    let kept = report.tally(|survivor| survivor.number("pid") == u64::from(of_noisy.pid));
    assert_eq!(kept.blocks, 1000, "{}", report.summary());
    assert_eq!(report.ledger("live_process_full"), 4000, "{}", report.summary());
    let is_explained =
        |warning: &&str| warning.contains("live_process_full") && warning.contains("--max-live");
    assert!(report.warnings().iter().any(is_explained), "{}", report.summary());
    noisy.finish_with(0);
    quiet.finish_with(0);
}
