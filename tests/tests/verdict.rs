//! What sites are taken for, of real programs: the demo's, whose sites are known, from its start and while it runs; and what
//! follows from it for the exit code.

use leaktrace_tests::{
    leaktrace::{Leaktrace, binary},
    report::{Report, Survivor},
    skip::{program, unless_missing},
    target::Target,
};
use serde_json::Value;

/// The site that this function is on the way to.
fn site<'a>(report: &'a Report, function: &str) -> Option<&'a Value> {
    let mut sites = report.survivors().into_iter();
    let of = |survivor: &Survivor<'_>| survivor.symbols().iter().any(|symbol| symbol.contains(function));
    sites.find(of).map(|site| site.0)
}

/// Its verdict.
fn verdict<'a>(report: &'a Report, function: &str) -> Option<&'a Value> {
    let verdict = site(report, function)?.get("verdict");
    verdict.filter(|verdict| !verdict.is_null())
}

fn class<'a>(report: &'a Report, function: &str) -> &'a str {
    verdict(report, function).map_or("none", |verdict| verdict["class"].as_str().unwrap_or("no text"))
}

fn number(verdict: &Value, name: &str) -> f64 {
    verdict[name]
        .as_f64()
        .unwrap_or_else(|| panic!("no number {name} in {verdict}"))
}

/// What it leaks in a second, by its own blocks.
fn leaked_per_s(report: &Report, function: &str) -> f64 {
    let bytes = report.tally(|survivor| survivor.symbols().iter().any(|symbol| symbol.contains(function)));
    bytes.bytes as f64 / report.value()["elapsed_s"].as_f64().expect("a time")
}

#[test]
fn the_sites_of_the_demo_are_what_they_are() {
    let options = ["demo", "-d", "14s", "--format", "json"];
    let finished = Leaktrace::bare(&options).run().exited_with(0);
    let report = finished.last_report();
    let leak = verdict(&report, "leak_a_session_every_tick").expect("the leak has a verdict");
    assert_eq!(leak["class"], "growing", "{leak}");
    assert_eq!(class(&report, "fill_a_bounded_cache"), "plateau");
    assert_eq!(class(&report, "load_the_start_up_table"), "one-off");
    // What is lost most comes first, whatever it holds.
    let first = report.survivors()[0].symbols().join(" ");
    assert!(first.contains("leak_a_session_every_tick"), "{first}");
    // In 14 s it has leaked some thousand blocks: its rate is known to a few hundredths.
    let (slope, truth) = (
        number(leak, "slope_bytes_per_s"),
        leaked_per_s(&report, "leak_a_session"),
    );
    assert!((slope / truth - 1.0).abs() < 0.1, "{slope} for {truth}");
    let [low, high] = [0, 1].map(|index| leak["slope_interval"][index].as_f64().expect("a bound"));
    assert!(low <= slope && slope <= high && low > 0.0, "{leak}");
    assert!(number(leak, "loss_bytes_per_h") > 0.9 * 3600.0 * low, "{leak}");
    // Between readings it is taken to go in a line: to a block more or less.
    let survival = &leak["survival"][0];
    let (live, handed_out) = (
        number(survival, "live_bytes"),
        number(survival, "allocated_bytes"),
    );
    assert!((live - handed_out).abs() <= 4096.0 && live > 1e6, "{leak}");
    let cache = verdict(&report, "fill_a_bounded_cache").expect("the cache has a verdict");
    let bound = number(cache, "bound_bytes");
    assert!(
        (128_000.0..=130_000.0).contains(&bound),
        "128 blocks of 1000 bytes: {cache}"
    );
    assert!(
        number(cache, "confidence") >= 0.95 && number(cache, "loss_bytes_per_h").abs() < 1e-9,
        "{cache}"
    );
    // What is thrown out is the oldest: it has lived as long as half of those that are there, and longer.
    let entry = site(&report, "fill_a_bounded_cache").expect("the cache is there");
    let lived_ms = number(&entry["lifetime_ms"], "p50");
    assert!(lived_ms >= number(&entry["age_ms"], "p50"), "{entry}");
    let leaked = site(&report, "leak_a_session").expect("the leak is there");
    assert!(
        leaked["lifetime_ms"].is_null(),
        "nothing of it was freed: {leaked}"
    );
}

#[test]
fn what_grows_fails_the_gate_unless_it_is_suppressed() {
    let target = Target::program(&binary(), &["demo-target"]);
    let options = ["-i", "1s", "--fail-on", "growing"];
    let mut run = Leaktrace::attach(&[target.pid()]).args(&options).start();
    let mut suppressed = Leaktrace::attach(&[target.pid()])
        .args(&options)
        .args(&["--suppressions", "/dev/stdin"])
        .with_stdin()
        .spawn();
    suppressed.send(b"leak:leak_a_session\n");
    suppressed.close_stdin();
    let is_judged = |report: &Report| class(report, "leak_a_session_every_tick") == "growing";
    let report = run.report_where("a report with a growing site", is_judged);
    // The cache was full before the attach: its blocks took the places of others.
    assert_ne!(class(&report, "fill_a_bounded_cache"), "growing");
    let finished = run.stop().exited_with(1);
    assert!(
        finished.stderr.contains("leak_a_session_every_tick"),
        "{}",
        finished.stderr
    );
    let report = finished.last_report();
    let failed = &report.value()["gate"]["failed"][0];
    assert_eq!(failed["condition"], "growing", "{failed}");
    let is_suppressed = |report: &Report| report.value()["suppressed"][0]["sites"].as_u64() > Some(0);
    suppressed.report_where("a report without that site", is_suppressed);
    let passed = suppressed.stop().exited_with(0);
    assert!(!passed.stderr.contains("leak_a_session"), "{}", passed.stderr);
}

/// A leak of a few blocks a second among ten thousand that come and go, of a Python program in its own mode of sampling.
#[test]
fn types_have_verdicts_too() {
    let Some(python) = unless_missing(program("python3", "python3")) else {
        return;
    };
    let script = "import time\nclass Kept:\n    pass\nkept = []\nprint('ready', flush=True)\n\
                   while True:\n    kept.extend(Kept() for _ in range(50))\n    time.sleep(0.02)\n";
    let mut target = Target::program(&python, &["-c", script]);
    target.ready();
    let mut run = Leaktrace::attach(&[target.pid()]).args(&["-i", "1s"]).start();
    let grows = |report: &Report| {
        let types = report.value()["types"]["list"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        types
            .iter()
            .any(|of| of["name"] == "Kept" && of["verdict"]["class"] == "growing")
    };
    run.report_where("a report in which the type grows", grows);
    let last = run.stop().exited_with(0).last_report();
    assert!(
        last.value()["types"]["censuses"].as_u64() > Some(2),
        "{}",
        last.summary()
    );
}
