//! Whether confidence means what it says: verdicts on a mixed population of made-up sites, most of them near the border.

use fastrand::Rng;

use super::{
    bounded::flat_bytes,
    evidence::Evidence,
    judge,
    simulated::{Life, arrivals, cache, read},
};
use crate::report::verdict::{Class, Verdict};

const READINGS: usize = 60;

/// A site whose truth is known.
struct Site {
    evidence: Evidence,
    /// Bytes that stay for ever, per second.
    leak_per_s: f64,
    /// Whether it is bounded, and the bound was reached in the first half.
    is_bounded: bool,
}

fn log_uniform(rng: &mut Rng, low: f64, high: f64) -> f64 {
    (low.ln() + rng.f64() * (high / low).ln()).exp()
}

/// Churn of any kind with or without a leak beside it, or a cache.
fn site(seed: u64) -> Site {
    let mut rng = Rng::with_seed(seed);
    let span_s = log_uniform(&mut rng, 12.0, 60.0);
    let bytes = log_uniform(&mut rng, 32.0, 4096.0);
    let per_s = log_uniform(&mut rng, 5.0, 1000.0);
    let mean_bytes = (rng.f64() < 0.5).then(|| bytes * log_uniform(&mut rng, 2.0, 50.0));
    let (blocks, leak_per_s) = if rng.f64() < 0.3 {
        let full_s = span_s * rng.f64() * 0.5;
        let entries = ((per_s * full_s) as usize).max(1);
        let by_chance = rng.bool();
        (cache(&mut rng, span_s, per_s, bytes, entries, by_chance), 0.0)
    } else {
        let life = match rng.u8(..3) {
            0 => Life::Exponential(span_s * log_uniform(&mut rng, 0.001, 0.1)),
            1 => Life::Pareto(span_s * 0.0005, 1.5 + rng.f64()),
            _ => Life::Bimodal(0.9, span_s * 0.002, span_s * log_uniform(&mut rng, 0.005, 0.1)),
        };
        let mut blocks = arrivals(&mut rng, (0.0, span_s), per_s, bytes, life);
        // A leak of a few blocks up to as many as of all else.
        let leak = if rng.bool() {
            log_uniform(&mut rng, 2.0 / span_s, per_s)
        } else {
            0.0
        };
        if leak > 0.0 {
            blocks.extend(arrivals(&mut rng, (0.0, span_s), leak, bytes, Life::Ever));
        }
        (blocks, leak * bytes)
    };
    Site {
        evidence: read(&mut rng, &blocks, span_s, READINGS, mean_bytes),
        leak_per_s,
        is_bounded: leak_per_s <= 0.0,
    }
}

/// Whether a verdict is right; what is undecided is neither.
fn is_right(site: &Site, verdict: &Verdict) -> Option<bool> {
    // Of what no sample lives nothing is shown.
    if site.evidence.now().live_bytes <= 0.0 {
        return None;
    }
    match verdict.class {
        Class::Undecided => None,
        Class::Growing => Some(!site.is_bounded),
        // It is bounded, or rises by less than is called a rise, in half of the time.
        Class::Plateau | Class::OneOff | Class::Churn => {
            let half_s = site.evidence.span_s() / 2.0;
            let (_, high) = site.evidence.range(half_s, 2.0 * half_s);
            Some(site.leak_per_s * half_s < flat_bytes(&site.evidence, high))
        }
    }
}

/// Verdicts by confidence: how many, and how many of them are right.
fn calibrate(sites: u64) -> Vec<(f64, Class, bool)> {
    (0..sites)
        .filter_map(|seed| {
            let site = site(seed);
            let verdict = judge(&site.evidence);
            is_right(&site, &verdict).map(|right| (verdict.confidence, verdict.class, right))
        })
        .collect()
}

/// How many there are, and how many of them are right, with a confidence from `low` on and below `high`.
fn count(verdicts: &[(f64, Class, bool)], (low, high): (f64, f64), is_growing: bool) -> (usize, usize) {
    let of = verdicts.iter().filter(|(confidence, class, _)| {
        (low..high).contains(confidence) && (*class == Class::Growing) == is_growing
    });
    of.fold((0, 0), |(all, right), (_, _, is_right)| {
        (all + 1, right + usize::from(*is_right))
    })
}

/// The table of docs/verdict.md: `LEAKTRACE_TEST_SITES=3000 cargo test -p leaktrace --lib calibration -- --nocapture`.
#[test]
fn verdicts_are_right_as_often_as_they_say() {
    let sites = std::env::var("LEAKTRACE_TEST_SITES").map_or(600, |sites| sites.parse().expect("a number"));
    let verdicts = calibrate(sites);
    for is_growing in [true, false] {
        for range in [(0.95, 0.97), (0.97, 0.99), (0.99, 1.0)] {
            let (all, right) = count(&verdicts, range, is_growing);
            println!("growing {is_growing}, confidence {range:?}: {right} of {all} right");
        }
        let (all, right) = count(&verdicts, (0.95, 1.0), is_growing);
        assert!(
            all > 50 && right * 100 >= 97 * all,
            "growing {is_growing}: {right} of {all}"
        );
    }
    println!("decided: {} of {sites}", verdicts.len());
    let near = [true, false].map(|is_growing| count(&verdicts, (0.95, 0.97), is_growing));
    let (all, right) = (near[0].0 + near[1].0, near[0].1 + near[1].1);
    // So few may by chance be some fewer.
    let chance = 2.0 * (0.05 * 0.95 * all as f64).sqrt();
    assert!(
        right as f64 >= 0.95 * all as f64 - chance,
        "{right} of {all} of those given at 95 %"
    );
}
