//! What stays of what was handed out, by when that was: a leak keeps the same share of every stretch, however old; a cache
//! has let go of the old.
//!
//! Must not know a series of levels: only births.

use statrs::distribution::{ContinuousCDF as _, Gamma};

use super::{
    FREEDOM_OF_COUNTS,
    evidence::{Births, Evidence},
    trend::{Slope, cdf, normal},
    unit_bytes,
};

/// Stretches that births are compared in.
const STRETCHES: usize = 8;

/// What is too young to have shown whether it stays: a part of the time looked at.
const YOUNG_PART: f64 = 0.25;

/// What was handed out right after the attach is start-up as often as not: a part of the time looked at.
pub(super) const FIRST_PART: f64 = 0.125;

/// The old may have lost so much against the young and still count as kept.
const KEPT: f64 = 0.6;

/// Bytes that stay per second of births, and what that rests on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Density {
    /// With the error by which stretches differ.
    pub(super) slope: Slope,
    /// Living blocks or samples.
    events: f64,
    /// How many bytes per second one of them stands for.
    unit_per_s: f64,
}

impl Density {
    /// Probability that more stays than this per second: as stretches differ, and as a count of so few events scatters,
    /// of which none seen is not none.
    pub(super) fn above(&self, per_s: f64) -> f64 {
        let by_count = if self.unit_per_s > 0.0 {
            Gamma::new(self.events + 0.5, 1.0)
                .map_or(0.5, |gamma| gamma.sf((per_s / self.unit_per_s).max(0.0)))
        } else {
            0.0
        };
        if self.slope.per_s > per_s {
            by_count.min(self.slope.above(per_s))
        } else {
            by_count.max(self.slope.above(per_s))
        }
    }
}

/// What the mature births of a window say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Mature {
    /// Bytes that stay per second, with their error.
    pub(super) stays: Density,
    /// Probability that something stays of the older half of the births, and of the younger.
    pub(super) old: f64,
    /// The same of the younger half.
    pub(super) young: f64,
    /// Probability that the old are kept as the young are.
    pub(super) kept: f64,
    /// Share of the bytes handed out that lives.
    pub(super) share: f64,
    /// How old the youngest of them is, seconds.
    pub(super) older_s: f64,
    /// Bytes of the older half of the births that stay per second, with their error.
    pub(super) old_stays: Density,
    /// How old the youngest of those is, seconds.
    pub(super) old_older_s: f64,
}

/// Looks at what was born from `from_s` on, but for the youngest. None where births are not known.
pub(super) fn mature(evidence: &Evidence, from_s: f64) -> Option<Mature> {
    let span_s = evidence.span_s();
    let window_s = span_s - from_s;
    let begin_s = from_s + FIRST_PART * window_s;
    let end_s = span_s - YOUNG_PART * window_s;
    let step_s = (end_s - begin_s) / STRETCHES as f64;
    let mut all = Vec::with_capacity(STRETCHES);
    for index in 0..STRETCHES {
        let at_s = begin_s + step_s * index as f64;
        all.push(evidence.births(at_s, at_s + step_s)?);
    }
    let (old, young) = all.split_at(STRETCHES / 2);
    let unit = unit_bytes(evidence);
    let old_stays = density(old, unit);
    let (old, young, whole) = (sum(old), sum(young), sum(&all));
    let stays = density(&all, unit);
    Some(Mature {
        stays,
        old: is_some(&old, &stays.slope),
        young: is_some(&young, &stays.slope),
        kept: kept(&old, &young, &stays.slope, whole.density()),
        share: share(&whole),
        older_s: span_s - end_s,
        old_stays,
        old_older_s: span_s - begin_s - step_s * (STRETCHES / 2) as f64,
    })
}

fn sum(births: &[Births]) -> Births {
    let mut sum = Births::default();
    for of in births {
        sum.over_s += of.over_s;
        sum.alloc_bytes += of.alloc_bytes;
        sum.allocs += of.allocs;
        sum.live.live_bytes += of.live.live_bytes;
        sum.live.live_blocks += of.live.live_blocks;
        sum.live.samples += of.live.samples;
    }
    sum
}

fn share(births: &Births) -> f64 {
    if births.alloc_bytes <= 0.0 {
        return 0.0;
    }
    (births.live.live_bytes / births.alloc_bytes).min(1.0)
}

/// What stays per second: the mean over the stretches. It scatters as they do, and at least as a count of so few does.
fn density(stretches: &[Births], unit: f64) -> Density {
    let n = stretches.len() as f64;
    let whole = sum(stretches);
    let mean = whole.density();
    let squares: f64 = stretches
        .iter()
        .map(|births| (births.density() - mean).powi(2))
        .sum();
    let scatter = (squares / (n - 1.0) / n).sqrt();
    let events = whole.events();
    let of_count = if events > 0.0 { mean / events.sqrt() } else { 0.0 };
    // Many that come as by a clock are known better than as many by chance; a few may have come so by chance.
    let least = if whole.live.samples < whole.live.live_blocks * 0.99 || events < 20.0 {
        of_count
    } else {
        of_count / 20.0
    };
    Density {
        slope: Slope {
            per_s: mean,
            error: scatter.max(least),
            // By how much counts scatter is known and not estimated.
            freedom: if least > scatter {
                FREEDOM_OF_COUNTS
            } else {
                n - 1.0
            },
        },
        events,
        unit_per_s: unit / whole.over_s,
    }
}

/// Probability that something of these stays: what was seen is no accident of a few.
fn is_some(births: &Births, all: &Slope) -> f64 {
    let mean = births.density();
    let events = births.events();
    if mean <= 0.0 || events <= 0.0 {
        return 0.0;
    }
    let error = (all.error * std::f64::consts::SQRT_2).max(mean / events.sqrt() / 2.0);
    // One or two may be anything.
    let of_number = 1.0 - (-events).exp() * (1.0 + events);
    cdf(all.freedom, mean / error).min(of_number)
}

/// Probability that the old are kept as the young are: by the share that lives, or by how much of each second does, since
/// what comes and goes beside them may be more or less than before.
fn kept(old: &Births, young: &Births, all: &Slope, mean: f64) -> f64 {
    let (old_events, young_events) = (old.events() + 0.5, young.events() + 0.5);
    if young.events() <= 0.0 {
        return if old.events() > 0.0 { 1.0 } else { 0.5 };
    }
    let shares = {
        let (of_old, of_young) = (
            old_events / (old.trials() + 1.0),
            young_events / (young.trials() + 1.0),
        );
        let variance = (1.0 - of_old.min(1.0)) / old_events + (1.0 - of_young.min(1.0)) / young_events;
        above(of_old / of_young, variance)
    };
    // Blocks that come in bursts are fewer pieces of evidence than they are blocks.
    let events = old_events + young_events;
    let of_count = if mean > 0.0 {
        (mean / events.sqrt()).max(f64::MIN_POSITIVE)
    } else {
        1.0
    };
    let clumps = (all.error / of_count).powi(2).max(1.0);
    let densities = {
        let ratio = (old_events / old.over_s) / (young_events / young.over_s);
        above(ratio, clumps * (1.0 / old_events + 1.0 / young_events))
    };
    shares.max(densities)
}

/// Probability that a ratio that was seen, with this variance of its logarithm, is above [`KEPT`] in truth.
fn above(ratio: f64, variance: f64) -> f64 {
    let distance = ratio.ln() - KEPT.ln();
    if variance <= 0.0 {
        return if distance > 0.0 { 1.0 } else { 0.0 };
    }
    normal(distance / variance.sqrt())
}
