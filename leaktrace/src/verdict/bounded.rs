//! Whether a site is bounded: start-up, a cache or pool, or what comes and goes.
//!
//! Must not know what growth looks like: that is `growth`, which is asked first.

use super::{
    Finding, GRID, NO_SLOPE, READINGS_MIN, SURE, SUREST, Why,
    evidence::{Evidence, Level},
    slope_since,
    survival::mature,
    trend::Slope,
    unit_bytes,
};
use crate::report::verdict::Class;

/// A rise by less than this part of what is held, over the time it is looked at, is none.
const FLAT: f64 = 0.1;

/// Nor is one by fewer blocks or samples than this: nobody can tell it from chance.
const FLAT_BLOCKS: f64 = 3.0;

/// What stays above this part of its most is held; what falls below it comes and goes.
const HELD: f64 = 0.5;

/// What was handed out so many times anew in half of the time comes and goes, unless there is always the same of it.
const TURNS: f64 = 20.0;

/// What was handed out in this part of the time seen was handed out at once.
const AT_ONCE: f64 = 0.25;

/// The most probable of them.
pub(super) fn find(evidence: &Evidence) -> Option<Finding> {
    let quiet = quiet(evidence);
    let flat = [0.5, 0.25].into_iter().filter_map(|part| flat(evidence, part));
    let found = quiet.into_iter().chain(flat).chain(young(evidence));
    found.max_by(|a, b| a.confidence.total_cmp(&b.confidence))
}

/// Nothing has been handed out for long: what there is stays as it is, or goes. Of levels alone, as of Python's types, it is
/// not known: what is replaced by as much shows no change.
fn quiet(evidence: &Evidence) -> Option<Finding> {
    if !evidence.is_counted() {
        return None;
    }
    let span_s = evidence.span_s();
    let active = evidence.active();
    let (first_s, last_s) = (active.first()?, active.last()?);
    let for_s = span_s - last_s;
    let within_s = last_s - first_s;
    if for_s <= 0.0 {
        return None;
    }
    // That what has happened so often in this time goes on, and by chance not in the quiet. One sample is one of many.
    let often = active.len() as f64;
    let again = if evidence.sample_bytes.is_some() {
        (-often * for_s / (span_s - for_s).max(f64::MIN_POSITIVE)).exp()
    } else {
        (within_s / (within_s + for_s)).powf(often)
    };
    let slope = slope_since(evidence, last_s.max(span_s / 2.0), GRID / 2).unwrap_or(NO_SLOPE);
    let now = evidence.now().live_bytes;
    let class = if now <= 0.0 {
        Class::Churn
    } else if within_s <= AT_ONCE * span_s {
        Class::OneOff
    } else {
        Class::Plateau
    };
    // At least half of the time was quiet, or it may be a pause.
    let confidence = (1.0 - again).min(SUREST) * (for_s / (0.5 * span_s)).min(1.0);
    Some(Finding {
        class,
        confidence,
        slope,
        bound_bytes: Some(now),
        needs_s: Some(
            (span_s - 2.0 * for_s)
                .max(within_s * 19.0 - for_s)
                .clamp(1.0, span_s),
        ),
        why: Why::Quiet { within_s, for_s },
    })
}

/// The level has not risen over the last part of the time, while enough was handed out for it to rise.
fn flat(evidence: &Evidence, part: f64) -> Option<Finding> {
    let span_s = evidence.span_s();
    let from_s = span_s * (1.0 - part);
    if evidence.readings_since(from_s) < READINGS_MIN / 2 {
        return None;
    }
    let over_s = span_s - from_s;
    let slope = slope_since(evidence, from_s, GRID / 2)?;
    let (low, high) = evidence.range(from_s, span_s);
    let handed_out = evidence.now().alloc_bytes - evidence.at(from_s).alloc_bytes;
    let turned_over = if high > 0.0 { handed_out / high } else { 0.0 };
    // Where nothing was handed out, that is what there is to say.
    if evidence.is_counted() && turned_over <= 0.0 {
        return None;
    }
    // Half of the time is enough by itself; less has to have seen the level put to the test.
    if evidence.is_counted() && part < 0.5 && turned_over < 0.25 {
        return None;
    }
    let rises = slope.above(flat_bytes(evidence, high) / over_s);
    let (_, most_bytes) = evidence.range(0.0, from_s);
    // A second look is one more chance to be wrong; and a level that nothing was added to was not put to the test.
    let added = evidence.now().allocs - evidence.at(from_s).allocs;
    let tested = if evidence.is_counted() {
        1.0 - (-added / 3.0).exp()
    } else {
        1.0
    };
    let confidence = (1.0 - rises * (0.5 / part)) * tested;
    Some(classed(evidence, confidence, slope, (low, high), {
        if high < HELD * most_bytes {
            Why::Fell { most_bytes }
        } else {
            Why::Bounded {
                for_s: over_s,
                turned_over,
            }
        }
    }))
}

/// Next to nothing of what is older lives, so that nothing gathers, however much the level goes up and down.
fn young(evidence: &Evidence) -> Option<Finding> {
    let span_s = evidence.span_s();
    let mature = mature(evidence, 0.0)?;
    let half_s = span_s / 2.0;
    let (low, high) = evidence.range(half_s, span_s);
    if evidence.active().last().is_none_or(|last_s| *last_s < half_s) {
        return None;
    }
    let slope = slope_since(evidence, half_s, GRID / 2)?;
    let rises_s = flat_bytes(evidence, high) / half_s;
    let rises = slope.above(rises_s);
    // Larger and larger blocks in the place of others are always young.
    if (rises > SURE && low > 0.0) || grows_by_size(evidence, half_s) {
        return None;
    }
    let mut stays = (mature.stays, mature.older_s);
    // What has begun of late is young, too: the old alone say something of a level that does not rise.
    if rises < 0.5 && mature.old_stays.above(rises_s) < stays.0.above(rises_s) {
        stays = (mature.old_stays, mature.old_older_s);
    }
    let (stays, older_s) = stays;
    // Not more is known than so many turns have shown.
    let turns = (evidence.now().allocs - evidence.at(half_s).allocs).max(0.0);
    let confidence = (1.0 - stays.above(rises_s)) * (1.0 - (-turns / 3.0).exp());
    let births = evidence.births(0.0, span_s - older_s)?;
    let share = if births.alloc_bytes > 0.0 {
        births.live.live_bytes / births.alloc_bytes
    } else {
        0.0
    };
    Some(classed(
        evidence,
        confidence,
        slope,
        (low, high),
        Why::Young { older_s, share },
    ))
}

/// A rise that is none, in bytes, of a site that holds so much at most.
pub(super) fn flat_bytes(evidence: &Evidence, high: f64) -> f64 {
    (FLAT * high).max(FLAT_BLOCKS * unit_bytes(evidence))
}

/// Whether there is more than there was because blocks are larger.
fn grows_by_size(evidence: &Evidence, from_s: f64) -> bool {
    let (then, now) = (evidence.at(from_s), evidence.now());
    let mean = |level: &Level| level.live_bytes / level.live_blocks.max(1.0);
    mean(&now) > 1.2 * mean(&then)
        && now.live_bytes > 1.2 * then.live_bytes
        && now.live_blocks < 1.2 * then.live_blocks
}

/// A cache or pool holds what it has; what comes and goes does not.
fn classed(evidence: &Evidence, confidence: f64, slope: Slope, (low, high): (f64, f64), why: Why) -> Finding {
    // Samples come and go by chance although what they stand for stays.
    let unit = unit_bytes(evidence);
    let is_sampled = evidence.sample_bytes.is_some();
    let chance = if is_sampled {
        2.0 * (high * unit).sqrt()
    } else {
        0.0
    };
    let is_above = high > 0.0 && low >= (HELD * high - chance).max(0.0) && low > 0.0;
    // What is replaced all the time is held only if there is a limit to it: then there is always as much.
    let half_s = evidence.span_s() / 2.0;
    let handed_out = evidence.now().alloc_bytes - evidence.at(half_s).alloc_bytes;
    let is_level = high - low <= (0.02 * high).max(2.0 * unit);
    let is_held = is_above && (is_level || handed_out <= TURNS * high);
    Finding {
        class: if is_held { Class::Plateau } else { Class::Churn },
        confidence: confidence.min(SUREST),
        slope,
        bound_bytes: Some(high.max(evidence.now().live_bytes)),
        needs_s: None,
        why,
    }
}
