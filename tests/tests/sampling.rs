//! Sampling by bytes: estimates with intervals, against programs that know exactly what they hold.
//!
//! The samples come from the kernel's random numbers, so no run is like another: what is asserted holds in all
//! but one of ten thousand runs of the suite if the estimates are what they say.

use std::fmt::Write as _;

use leaktrace_tests::{Traced, leaktrace::Leaktrace, report::Survivor, target::Target, trace};
use serde_json::Value;

const MEAN: &str = "64KiB";
const MEAN_BYTES: u64 = 64 << 10;
const SEEDS: u64 = 20;

/// Of 20 intervals that hold the truth with 95 % each, fewer than 14 do so with a probability of 3.4e-5.
const TOTALS_HELD_MIN: u64 = 14;

/// The same of four sites in each of 20 runs: fewer than 66 of 80 do so with a probability of 9.2e-6.
const SITES_HELD_MIN: u64 = 66;

/// A normal deviate is further from 0 than this with a probability of 2e-5.
const DEVIATIONS_MAX: f64 = 4.3;

fn sampled(seed: u64, options: &[&str]) -> Traced {
    let mut target = Target::c("sampled", &[&seed.to_string()]);
    let traced = trace(&mut target, options);
    target.finish_with(0);
    traced
}

fn interval(of: &Value, name: &str) -> [u64; 2] {
    let bound = |index: usize| of[name][index].as_u64();
    let (Some(low), Some(high)) = (bound(0), bound(1)) else {
        panic!("no {name} in {of}");
    };
    [low, high]
}

fn holds([low, high]: [u64; 2], truth: u64) -> bool {
    (low..=high).contains(&truth)
}

/// What the runs add up to.
#[derive(Default)]
struct Sums {
    totals_held: u64,
    sites_held: u64,
    /// Sum of the errors of the outstanding bytes, and of the squares of their deviations.
    error: f64,
    variance: f64,
    alloc_bytes: f64,
    true_alloc_bytes: f64,
    /// One line a run, for messages.
    log: Vec<String>,
}

impl Sums {
    fn add(&mut self, seed: u64, traced: &Traced) {
        let Traced { report, truth, .. } = traced;
        let totals = &report.value()["totals"];
        let true_bytes: u64 = truth.sites.values().map(|site| site.bytes).sum();
        let bytes = report.total("live_bytes");
        let [low, high] = interval(totals, "bytes_interval");
        let held = holds([low, high], true_bytes);
        self.totals_held += u64::from(held);
        self.error += bytes as f64 - true_bytes as f64;
        self.variance += ((high - low) as f64 / (2.0 * 1.96)).powi(2);
        self.alloc_bytes += report.total("alloc_bytes") as f64;
        self.true_alloc_bytes += truth.raw["alloc_bytes"].as_f64().expect("a number");
        let mut line = format!("seed {seed}: {true_bytes} B, estimated {bytes} ({low} to {high}) {held}");
        for name in ["keep", "keep_zeroed", "grow", "pass"] {
            let site = truth.site(name).bytes;
            let of_site = |survivor: &&Survivor<'_>| survivor.has_caller(name);
            let survivors = report.survivors();
            let found = survivors.iter().find(of_site);
            let interval = found.map(|survivor| interval(survivor.0, "bytes_interval"));
            let held = interval.is_some_and(|interval| holds(interval, site));
            self.sites_held += u64::from(held);
            write!(line, "; {name} {site} {interval:?} {held}").expect("text grows");
        }
        self.log.push(line);
    }
}

#[test]
fn the_truth_is_within_the_interval() {
    let mut sums = Sums::default();
    for seed in 1..=SEEDS {
        let traced = sampled(seed, &["--sample-bytes", MEAN]);
        let report = &traced.report;
        report.assert_adds_up();
        report.assert_no_losses();
        assert_eq!(
            report.number("/tracing/sampling/mean_bytes"),
            MEAN_BYTES,
            "{}",
            report.summary()
        );
        assert!(report.ledger("sampled_out") > 0, "{}", report.summary());
        for counter in [
            "abandoned",
            "failed",
            "free_missed",
            "free_unknown",
            "realloc_unknown",
        ] {
            assert_eq!(report.ledger(counter), 0, "{counter}\n{}", report.summary());
        }
        assert_eq!(report.site("churn").blocks, 0, "{}", report.summary());
        sums.add(seed, &traced);
    }
    let log = sums.log.join("\n");
    println!(
        "within their range: {} of {SEEDS} totals, {} of {} sites",
        sums.totals_held,
        sums.sites_held,
        4 * SEEDS
    );
    assert!(
        sums.totals_held >= TOTALS_HELD_MIN,
        "{} of {SEEDS}\n{log}",
        sums.totals_held
    );
    assert!(
        sums.sites_held >= SITES_HELD_MIN,
        "{} of {}\n{log}",
        sums.sites_held,
        4 * SEEDS
    );
    let deviations = sums.error / sums.variance.sqrt();
    assert!(
        deviations.abs() < DEVIATIONS_MAX,
        "{deviations} deviations\n{log}"
    );
    // All 20 runs together hand out some 300,000 means: what is sampled of them scatters by less than 0.3 %.
    let ratio = sums.alloc_bytes / sums.true_alloc_bytes;
    assert!((0.98..1.02).contains(&ratio), "{ratio}\n{log}");
}

#[test]
fn without_sampling_every_number_is_exact_and_says_nothing_else() {
    let traced = sampled(1, &[]);
    traced.report.assert_exact(&traced.truth);
    let report = traced.report.value();
    assert_eq!(report["tracing"]["sampling"], Value::Null);
    for name in ["samples", "bytes_interval", "blocks_interval"] {
        assert_eq!(report["totals"].get(name), None, "{name}");
        assert_eq!(report["survivors"][0].get(name), None, "{name}");
    }
    assert_eq!(traced.report.ledger("sampled_out"), 0);
}

#[test]
fn blocks_of_many_means_stand_for_themselves() {
    let mut target = Target::c("huge", &[]);
    let traced = trace(&mut target, &["--sample-bytes", "1KiB"]);
    traced.report.assert_adds_up();
    traced.report.assert_no_losses();
    for survivor in traced.report.survivors() {
        let (bytes, blocks) = (survivor.number("bytes"), survivor.number("blocks"));
        if bytes >= blocks * (32 << 10) {
            assert_eq!(survivor.number("samples"), blocks, "{}", traced.report.summary());
            assert_eq!(interval(survivor.0, "bytes_interval"), [bytes, bytes]);
        }
    }
    target.finish_with(0);
}

#[test]
fn a_call_inside_one_that_was_left_out_is_not_drawn_for_again() {
    let mut target = Target::c("handed_on", &["4000"]);
    let traced = trace(&mut target, &["--sample-bytes", MEAN]);
    traced.report.assert_adds_up();
    let truth = traced.truth.site("array").bytes;
    let ratio = traced.report.total("live_bytes") as f64 / truth as f64;
    // Some 500 samples scatter by 4.5 %. Drawn for twice, each block would count twice.
    assert!(
        (0.7..1.3).contains(&ratio),
        "{ratio}\n{}",
        traced.report.summary()
    );
    target.finish_with(0);
}

#[test]
fn listed_blocks_carry_the_weights_that_the_estimate_is_made_of() {
    let traced = sampled(3, &["--sample-bytes", MEAN, "--show-blocks"]);
    let survivors = traced.report.survivors();
    let zeroed = survivors
        .iter()
        .find(|survivor| survivor.has_caller("keep_zeroed"))
        .expect("a site that expects 47 samples has one");
    let blocks = zeroed.0["block_list"].as_array().expect("a list");
    assert_eq!(blocks.len() as u64, zeroed.number("samples"));
    let weight = |block: &Value| block["weight"].as_f64().expect("a number");
    let sum: f64 = blocks.iter().map(weight).sum();
    assert!(
        (sum - zeroed.number("blocks") as f64).abs() <= 1.0,
        "{sum}\n{}",
        traced.report.summary()
    );
    // 1 / (1 - exp(-size / mean)) for sizes from 1024 to 2047 B and a mean of 64 KiB.
    assert!(
        blocks.iter().all(|block| (32.5..64.6).contains(&weight(block))),
        "{blocks:?}"
    );
}

#[test]
fn the_filter_by_age_and_the_end_of_the_process_keep_the_sums() {
    let mut target = Target::c("sampled", &["5"]);
    target.ready();
    let run = Leaktrace::attach(&[target.pid()])
        .args(&["--sample-bytes", MEAN, "--older-than", "1ms"])
        .start();
    target.go();
    let truth = target.truth();
    target.finish_with(0);
    let report = run.wait().report();
    report.assert_adds_up();
    report.assert_no_losses();
    assert_eq!(
        report.process(truth.pid)["state"],
        "exited",
        "{}",
        report.summary()
    );
    assert!(report.site("keep").blocks > 0, "{}", report.summary());
}

#[test]
fn a_mean_out_of_range_is_one_line() {
    for size in ["100", "65MiB"] {
        Leaktrace::bare(&["-p", "1", "--sample-bytes", size])
            .run()
            .refused(&[
                "--sample-bytes",
                "1.0 KiB and 64.0 MiB",
                "or 0 to record every allocation",
            ]);
    }
}
