//! Leak, cache, start-up or churn: what a site is taken for, how sure that is, and why. docs/verdict.md explains the method.
//!
//! Pure: numbers in, a verdict out. Must not know a clock, where the numbers were read, or what a site is called.
//!
//! Nothing here depends on seconds or bytes as such but for the least time of observation: what a verdict rests on are
//! halves and quarters of the time seen, and shares of what is held.

mod bounded;
pub mod evidence;
mod growth;
mod reason;
mod survival;
mod trend;

use evidence::Evidence;
use trend::Slope;

use crate::report::verdict::{Class, Survival, Verdict};

/// Seconds of observation before which nothing is said: less shows start-up only.
const OBSERVED_MIN_S: f64 = 10.0;

/// Readings that it takes.
const READINGS_MIN: usize = 12;

/// A verdict is given from this probability on.
const SURE: f64 = 0.95;

/// Most that is claimed: what is outside the model is not in the numbers.
const SUREST: f64 = 0.999;

/// Points that a trend is taken from.
const GRID: usize = 24;

/// What scatters by no more than so many times what its samples do is not moved by anything else.
const OF_SAMPLES: f64 = 1.25;

/// Degrees of freedom of an error that follows from a count.
const FREEDOM_OF_COUNTS: f64 = 30.0;

/// Stretches whose least is looked at.
const FLOORS: usize = 6;

/// Ages that the survival of cohorts is told for, as parts of the time seen, and in seconds.
const AGES_S: [f64; 4] = [10.0, 60.0, 300.0, 1800.0];

/// What was found, before it is put in words.
#[derive(Clone, Debug, PartialEq)]
struct Finding {
    class: Class,
    confidence: f64,
    slope: Slope,
    bound_bytes: Option<f64>,
    needs_s: Option<f64>,
    why: Why,
}

/// Why.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Why {
    /// Too short a look: seconds that it takes in all.
    TooEarly { takes_s: f64 },
    /// What was handed out stays: the share of it that lives, of the old as of the young, over this time.
    Stays { share: f64, over_s: f64 },
    /// Blocks are replaced by larger ones.
    Resizes { factor: f64, over_s: f64 },
    /// It rises, and nothing is known of what it is made of.
    Rises { over_s: f64 },
    /// It has grown until a moment ago.
    Stopped { ago_s: f64 },
    /// It grows, and as many blocks from before the attach are taken back.
    Replaces { frees: f64, gained: f64 },
    /// It grows, and the memory of the process does not.
    NotResident { grown_bytes: f64, resident_bytes: f64 },
    /// It rose until then and has not since, with so much handed out meanwhile.
    Bounded { for_s: f64, turned_over: f64 },
    /// It has fallen from its most.
    Fell { most_bytes: f64 },
    /// All of it was handed out within so long, and nothing for so long.
    Quiet { within_s: f64, for_s: f64 },
    /// Nothing, or next to nothing, of what is older than this lives.
    Young { older_s: f64, share: f64 },
    /// None of this, clearly.
    Unclear { rising: f64 },
}

/// Judges a site.
pub fn judge(evidence: &Evidence) -> Verdict {
    let finding = find(evidence);
    let slope = finding.slope;
    let loss_per_s = match finding.class {
        Class::Growing => slope.per_s.max(0.0),
        Class::Undecided if matches!(finding.why, Why::TooEarly { .. }) => 0.0,
        // As far as it may be growing.
        Class::Undecided => slope.per_s.max(0.0) * slope.above(0.0) * 0.5,
        Class::Plateau | Class::OneOff | Class::Churn => 0.0,
    };
    Verdict {
        class: finding.class,
        confidence: finding.confidence.clamp(0.0, SUREST),
        slope_bytes_per_s: slope.per_s,
        slope_interval: slope.interval(),
        bound_bytes: finding.bound_bytes.map(|bytes| bytes.ceil() as u64),
        loss_bytes_per_h: (loss_per_s * 3600.0) as u64,
        survival: survival(evidence),
        reason: reason::sentence(&finding, evidence),
        needs_s: finding.needs_s,
    }
}

/// A guess at how much a site loses in a second, for choosing which ones to judge: it rises that much of late.
pub fn guess_per_s(evidence: &Evidence) -> f64 {
    let span_s = evidence.span_s();
    if span_s <= 0.0 {
        return 0.0;
    }
    let half_s = span_s / 2.0;
    ((evidence.now().live_bytes - evidence.at(half_s).live_bytes) / half_s).max(0.0)
}

fn find(evidence: &Evidence) -> Finding {
    let span_s = evidence.span_s();
    if span_s < OBSERVED_MIN_S || evidence.times_s.len() < READINGS_MIN {
        return too_early(evidence);
    }
    let growth = growth::find(evidence);
    if let Some(found) = growth.iter().find(|found| found.class == Class::Growing) {
        return found.clone();
    }
    let bounded = bounded::find(evidence);
    if let Some(bounded) = &bounded
        && bounded.confidence >= SURE
    {
        return bounded.clone();
    }
    let best = growth
        .into_iter()
        .chain(bounded)
        .max_by(|a, b| a.confidence.total_cmp(&b.confidence));
    undecided(evidence, best)
}

fn too_early(evidence: &Evidence) -> Finding {
    let span_s = evidence.span_s();
    let readings = evidence.times_s.len().max(1) as f64;
    let takes_s = OBSERVED_MIN_S.max(span_s / readings * READINGS_MIN as f64);
    Finding {
        class: Class::Undecided,
        confidence: 0.0,
        slope: slope_since(evidence, 0.0, GRID).unwrap_or(NO_SLOPE),
        bound_bytes: None,
        needs_s: Some((takes_s - span_s).max(1.0)),
        why: Why::TooEarly { takes_s },
    }
}

/// Nothing is sure: what is most probable says how much more it takes.
fn undecided(evidence: &Evidence, best: Option<Finding>) -> Finding {
    let span_s = evidence.span_s();
    let slope = slope_since(evidence, span_s / 2.0, GRID / 2).unwrap_or(NO_SLOPE);
    let why = Why::Unclear {
        rising: slope.above(0.0),
    };
    let Some(best) = best else {
        return Finding {
            class: Class::Undecided,
            confidence: 0.0,
            slope,
            bound_bytes: None,
            needs_s: Some(span_s),
            why,
        };
    };
    let why = match best.why {
        Why::Stopped { .. } | Why::Replaces { .. } | Why::NotResident { .. } => best.why,
        _ => why,
    };
    // Errors shrink as the square root of the time.
    let missing = (1.0 - best.confidence) / (1.0 - SURE);
    Finding {
        class: Class::Undecided,
        confidence: best.confidence.min(SURE),
        slope,
        bound_bytes: None,
        needs_s: best
            .needs_s
            .or(Some(span_s * (missing.ln() / 3.0).clamp(0.1, 2.0))),
        why,
    }
}

/// No slope is known.
const NO_SLOPE: Slope = Slope {
    per_s: 0.0,
    error: 0.0,
    freedom: 1.0,
};

/// The slope of the outstanding bytes from a time until now.
fn slope_since(evidence: &Evidence, from_s: f64, points: usize) -> Option<Slope> {
    // More points than readings would be made up.
    let points = points.min(evidence.readings_since(from_s));
    let values = evidence.grid(from_s, points.max(2));
    let over_s = evidence.span_s() - from_s;
    let slope = trend::slope(&values, over_s / (values.len() as f64 - 1.0))?;
    let slope = of_samples(evidence, slope, &values, over_s);
    let change = evidence.now().live_bytes - evidence.at(from_s).live_bytes;
    Some(counted(evidence, slope, change, over_s))
}

/// How many samples there were scatters by a known amount: a slope is not known better than by that at each point, and where
/// they scatter no more nothing wanders by itself, so that it is known at least as well as by its ends.
fn of_samples(evidence: &Evidence, slope: Slope, values: &[f64], over_s: f64) -> Slope {
    let points = values.len() as f64;
    let most = values.iter().copied().fold(0.0, f64::max);
    let chance = chance_of_samples(evidence, most);
    let scatter = trend::scatter(values, slope.per_s * over_s / (points - 1.0));
    let least = chance * (12.0 / points).sqrt() / over_s;
    let by_ends = chance * std::f64::consts::SQRT_2 / over_s;
    let error = if chance > 0.0 && scatter <= OF_SAMPLES * chance {
        slope.error.min(by_ends).max(least)
    } else {
        slope.error.max(least)
    };
    if error.total_cmp(&slope.error).is_eq() {
        return slope;
    }
    Slope {
        error,
        freedom: FREEDOM_OF_COUNTS,
        ..slope
    }
}

/// The slope of the least that was outstanding in each of [`FLOORS`] stretches from a time until now: what comes and goes as a
/// whole, as a batch job's memory, leaves that as it is.
fn floor_since(evidence: &Evidence, from_s: f64) -> Option<Slope> {
    let over_s = evidence.span_s() - from_s;
    let step_s = over_s / FLOORS as f64;
    let floors: Vec<f64> = (0..FLOORS)
        .map(|index| from_s + step_s * index as f64)
        .map(|begin_s| evidence.range(begin_s, begin_s + step_s).0)
        .collect();
    let slope = trend::slope(&floors, step_s)?;
    let slope = Slope {
        // Six values may by chance lie in a line.
        error: slope
            .error
            .max(chance_of_samples(evidence, floors[FLOORS - 1]) * std::f64::consts::SQRT_2 / over_s),
        ..slope
    };
    Some(counted(evidence, slope, floors[FLOORS - 1] - floors[0], over_s))
}

/// By how much a level scatters because its blocks are samples, bytes; 0 where all are recorded.
fn chance_of_samples(evidence: &Evidence, bytes: f64) -> f64 {
    let cohorts = || evidence.cohorts.iter().flatten();
    let samples: f64 = cohorts().map(|cohort| cohort.samples).sum();
    let blocks: f64 = cohorts().map(|cohort| cohort.live_blocks).sum();
    // Blocks as large as that are recorded each.
    if evidence.sample_bytes.is_none() || (blocks > 0.0 && samples >= 0.99 * blocks) {
        return 0.0;
    }
    (bytes * unit_bytes(evidence)).sqrt()
}

/// A level that changes by few blocks could have changed by some more or fewer.
fn counted(evidence: &Evidence, slope: Slope, change: f64, over_s: f64) -> Slope {
    let unit = unit_bytes(evidence);
    let blocks = if unit > 0.0 { change.abs() / unit } else { 0.0 };
    let of_count = (blocks + 1.0).sqrt();
    Slope {
        error: slope.error.max(of_count * unit / over_s),
        ..slope
    }
}

/// What one more block changes: the mean of those that live, and of what has none at least what a sample stands for.
fn unit_bytes(evidence: &Evidence) -> f64 {
    let now = evidence.now();
    let samples: f64 = evidence
        .cohorts
        .iter()
        .flatten()
        .map(|cohort| cohort.samples)
        .sum();
    let count = if samples > 0.0 { samples } else { now.live_blocks };
    let mean = if count > 0.0 { now.live_bytes / count } else { 0.0 };
    if mean > 0.0 {
        return mean;
    }
    let of_all = if now.allocs > 0.0 {
        now.alloc_bytes / now.allocs
    } else {
        0.0
    };
    of_all.max(evidence.sample_bytes.unwrap_or(0.0))
}

/// Of what was handed out so long ago, how much lives: of a stretch a fifth as long.
fn survival(evidence: &Evidence) -> Vec<Survival> {
    let span_s = evidence.span_s();
    let ages = AGES_S.into_iter().filter(|age_s| *age_s * 1.1 <= span_s);
    ages.filter_map(|age_s| {
        let over_s = age_s / 5.0;
        let births = evidence.births(span_s - 1.1 * age_s, span_s - 0.9 * age_s)?;
        (births.alloc_bytes > 0.0).then(|| Survival {
            age_s,
            over_s,
            allocated_bytes: births.alloc_bytes.round() as u64,
            live_bytes: births.live.live_bytes.min(births.alloc_bytes).round() as u64,
        })
    })
    .collect()
}

#[cfg(test)]
mod calibration;
#[cfg(test)]
mod simulated;
#[cfg(test)]
mod tests;
