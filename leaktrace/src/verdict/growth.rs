//! Whether a site grows: over the whole time seen, or over a later part of it.
//!
//! Must not know what a bound looks like: that is `bounded`.

use statrs::distribution::{Binomial, Discrete as _, DiscreteCDF as _};

use super::{
    Finding, GRID, OBSERVED_MIN_S, READINGS_MIN, SURE, SUREST, Why,
    evidence::{Evidence, Level},
    floor_since, slope_since,
    survival::{FIRST_PART, Mature, mature},
    trend::{self, Slope},
    unit_bytes,
};
use crate::report::verdict::Class;

/// How much more probable than not it is that what stays evenly is a leak, where the level says neither: of a part that
/// stays out of much that goes, and of most.
const ODDS_OF_PART: f64 = 20.0;
const ODDS_OF_MOST: f64 = 4.0;

/// Less of what is handed out stays: a part.
const PART: f64 = 0.25;

/// Growth by larger blocks is believed where what is held, and a block of it, has grown by so much since the first quarter,
/// and by a step's worth in each of the quarter and the half after it.
const RESIZES: f64 = 1.69;
const STEP: f64 = 1.1;

/// A change of a level by less is no step.
const LEAST_STEP: f64 = 1.002;

/// The next step is overdue after so many times as long as it may take.
const OVERDUE: f64 = 1.5;

/// What piles up has grown by so much in the later half.
const PILES: f64 = 1.3;

/// The later half of a rise, as part of the earlier, from which on it is even: what fills up or decays rises less and less.
const EVEN: f64 = 0.75;

/// Frees of unknown blocks, as part of the blocks gained, from which on those may only have taken their place.
const REPLACES: f64 = 0.5;

/// Growth of resident memory, as part of that of the site, below which the site's is no growth of the process.
const RESIDENT: f64 = 0.25;

/// Earlier stretches that a pause is compared with, at least.
const PAUSES_MIN: usize = 10;

/// What is less is no growth of resident memory worth asking about.
const RESIDENT_MIN_BYTES: f64 = 8e6;

/// Looks at the whole time, then at its last half, and so on; the first that grows is the last in the list.
pub(super) fn find(evidence: &Evidence) -> Vec<Finding> {
    let span_s = evidence.span_s();
    let mut found = Vec::new();
    let mut window_s = span_s;
    while window_s >= OBSERVED_MIN_S && evidence.readings_since(span_s - window_s) >= READINGS_MIN {
        // Each further look is one more chance to be wrong.
        let strictness = window_s / span_s;
        found.extend(in_window(evidence, span_s - window_s, strictness));
        if found
            .last()
            .is_some_and(|last: &Finding| last.class == Class::Growing)
        {
            break;
        }
        window_s /= 2.0;
    }
    found
}

fn in_window(evidence: &Evidence, from_s: f64, strictness: f64) -> Option<Finding> {
    let span_s = evidence.span_s();
    let window_s = span_s - from_s;
    let recent = slope_since(evidence, from_s + window_s / 2.0, GRID / 2)?;
    let (mut confidence, slope, why) = rising(evidence, from_s, &recent);
    confidence = 1.0 - (1.0 - confidence) / strictness;
    let doubt = doubt(evidence, from_s, &slope, why);
    let is_sure = confidence >= SURE && doubt.is_none();
    Some(Finding {
        class: if is_sure { Class::Growing } else { Class::Undecided },
        confidence: if is_sure {
            of_product(confidence).min(SUREST)
        } else if doubt.is_some() {
            confidence.min(0.9)
        } else {
            confidence.max(0.0)
        },
        slope,
        bound_bytes: None,
        needs_s: doubt.map(|doubt| doubt.1),
        why: doubt.map_or(why, |doubt| doubt.0),
    })
}

/// How often a product of probabilities like these is right: they are not independent, and all of them have to be wrong in
/// the same way. Of 20 000 made-up sites those that a product of 0.75 is given are leaks in 92 of 100 cases, of 0.85 in 97 and
/// of 0.95 in more than 99. What is called growing needs the product itself to be sure all the same.
fn of_product(product: f64) -> f64 {
    1.0 - 1.25 * (1.0 - product).powi(2)
}

/// The probability that it rises by what stays or becomes larger, and how fast.
fn rising(evidence: &Evidence, from_s: f64, recent: &Slope) -> (f64, Slope, Why) {
    let window_s = evidence.span_s() - from_s;
    let mature = mature(evidence, from_s);
    let by_size = resizing(evidence, from_s);
    let Some(mature) = mature else {
        return by_level(evidence, from_s, recent);
    };
    let by_blocks = {
        let settled_s = from_s + FIRST_PART * window_s;
        // The level has to rise by as much both of late and ever since the start-up.
        let fits =
            |from_s: f64| level_since(evidence, from_s).map_or(1.0, |level| consistent(&mature, &level));
        let consistent = fits(from_s + window_s / 2.0).min(fits(settled_s));
        // That the old are let go of shows in a level that rises less and less: both would have to be misread.
        let (evenly, ..) = by_level(evidence, settled_s, recent);
        let kept = 1.0 - (1.0 - mature.kept) * (1.0 - evenly);
        let confidence = mature.old.min(mature.young) * kept * consistent;
        let slope = mature.stays.slope;
        let why = Why::Stays {
            share: mature.share,
            over_s: window_s,
        };
        (confidence, slope, why)
    };
    let others = by_size.into_iter().chain(piling_up(evidence, from_s, recent));
    others.fold(
        by_blocks,
        |best, other| if other.0 > best.0 { other } else { best },
    )
}

/// More and more, as evenly as at first, although each block goes: a queue that falls behind. It takes a level that leaves
/// all it has been at behind it.
fn piling_up(evidence: &Evidence, from_s: f64, recent: &Slope) -> Option<(f64, Slope, Why)> {
    let span_s = evidence.span_s();
    let window_s = span_s - from_s;
    let half_s = from_s + window_s / 2.0;
    let (first, half, now) = (evidence.at(from_s), evidence.at(half_s), evidence.now());
    let (early, late) = (
        half.live_bytes - first.live_bytes,
        now.live_bytes - half.live_bytes,
    );
    let (low, _) = evidence.range(span_s - window_s / 4.0, span_s);
    let (_, high) = evidence.range(from_s, half_s);
    if late < EVEN * early || early <= 0.0 || now.live_bytes < PILES * half.live_bytes || low < high {
        return None;
    }
    Some(by_level(evidence, from_s, recent))
}

/// How the level goes since a time: all of it, or the least that it is from time to time where that says more.
fn level_since(evidence: &Evidence, from_s: f64) -> Option<Slope> {
    let level = slope_since(evidence, from_s, GRID / 2)?;
    let floor = floor_since(evidence, from_s);
    // Known of six values only: it has to say clearly more.
    Some(
        floor
            .filter(|floor| floor.error < level.error / 3.0)
            .unwrap_or(level),
    )
}

/// How well what stays agrees with the level, against that staying flat: a full cache that throws out at random keeps a
/// share of the old as well, and does not rise.
fn consistent(mature: &Mature, recent: &Slope) -> f64 {
    let odds = if mature.share < PART {
        ODDS_OF_PART
    } else {
        ODDS_OF_MOST
    };
    let expected = mature.stays.slope.per_s;
    let error = recent
        .error
        .hypot(mature.stays.slope.error.min(expected / 2.0))
        .max(f64::MIN_POSITIVE);
    // Of the two, by how much the level speaks for the one that rises.
    let for_rise = -((recent.per_s - expected) / error).powi(2) / 2.0;
    let for_flat =
        -(recent.per_s.max(0.0) / recent.error.max(expected * 0.02).max(f64::MIN_POSITIVE)).powi(2) / 2.0;
    let for_rise = if recent.per_s > expected { 0.0 } else { for_rise };
    let logit = odds.ln() + (for_rise - for_flat).clamp(-60.0, 60.0);
    1.0 / (1.0 + (-logit).exp())
}

/// Blocks that are replaced by larger ones, again and again: a table, a vector, some of them.
fn resizing(evidence: &Evidence, from_s: f64) -> Option<(f64, Slope, Why)> {
    let span_s = evidence.span_s();
    let window_s = span_s - from_s;
    let (quarter, half, now) = (
        evidence.at(from_s + window_s / 4.0),
        evidence.at(from_s + window_s / 2.0),
        evidence.now(),
    );
    let mean = |level: &Level| level.live_bytes / level.live_blocks.max(1.0);
    let is_larger = |now: f64, half: f64, quarter: f64| {
        quarter > 0.0 && half >= STEP * quarter && now >= STEP * half && now >= RESIZES * quarter
    };
    if !is_larger(now.live_bytes, half.live_bytes, quarter.live_bytes)
        || !is_larger(mean(&now), mean(&half), mean(&quarter))
    {
        return None;
    }
    // It never was less than before but for a moment: what comes and goes is.
    let (low, _) = evidence.range(span_s - window_s / 4.0, span_s);
    let (_, high) = evidence.range(from_s, from_s + window_s / 2.0);
    if low < high {
        return None;
    }
    let steps = steps(evidence, from_s);
    if span_s - steps.ups_s.last()? > OVERDUE * next_pause(&steps.ups_s)? {
        return None;
    }
    let values = evidence.grid(from_s, GRID);
    let slope = trend::slope(&values, window_s / (GRID as f64 - 1.0))?;
    let factor = now.live_bytes / quarter.live_bytes;
    Some((
        steps.confidence(),
        slope,
        Why::Resizes {
            factor,
            over_s: 0.75 * window_s,
        },
    ))
}

/// When a level has become larger at once, and how often it became less.
struct Steps {
    ups_s: Vec<f64>,
    downs: u64,
}

impl Steps {
    /// That it does not go up as often as down: so many ups among so few downs are no chance. The number seen counts half, as
    /// whole numbers would else make the test surer of chance than it is (H. O. Lancaster, "Significance tests in discrete
    /// distributions", Journal of the American Statistical Association 56, 1961).
    fn confidence(&self) -> f64 {
        let all = self.ups_s.len() as u64 + self.downs;
        Binomial::new(0.5, all).map_or(0.0, |of_chance| {
            1.0 - of_chance.cdf(self.downs) + of_chance.pmf(self.downs) / 2.0
        })
    }
}

fn steps(evidence: &Evidence, from_s: f64) -> Steps {
    let pairs = evidence.levels.windows(2).zip(&evidence.times_s[1..]);
    let mut steps = Steps {
        ups_s: Vec::new(),
        downs: 0,
    };
    for (pair, time) in pairs.filter(|(_, time)| **time > from_s) {
        let (before, after) = (pair[0].live_bytes, pair[1].live_bytes);
        if after > LEAST_STEP * before {
            steps.ups_s.push(*time);
        } else if before > LEAST_STEP * after {
            steps.downs += 1;
        }
    }
    steps
}

/// How long the next step may take: of the later pauses, the longest, and as much longer again as it was than the one before
/// it, at most twice. A vector that doubles waits twice as long each time.
fn next_pause(ups_s: &[f64]) -> Option<f64> {
    let pauses: Vec<f64> = ups_s.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let longer = |pair: &[f64]| pair[1] * (pair[1] / pair[0].max(f64::MIN_POSITIVE)).clamp(1.0, 2.0);
    let later = pauses.windows(2).skip(pauses.len().saturating_sub(1) / 2);
    later.map(longer).max_by(f64::total_cmp)
}

/// By the level alone: nothing is known of what it is made of, and it takes more.
fn by_level(evidence: &Evidence, from_s: f64, recent: &Slope) -> (f64, Slope, Why) {
    let span_s = evidence.span_s();
    let whole = slope_since(evidence, from_s, GRID);
    let points = GRID.min(evidence.readings_since(from_s)).max(2);
    let values = evidence.grid(from_s, points);
    let early = trend::slope(&values[..points / 2], (span_s - from_s) / (points as f64 - 1.0));
    let whole_s = whole.map_or(0.0, |slope| slope.per_s);
    // The ranks of values say little where noise is a random walk, however steep the rise; its slope does.
    let by_slope = whole.map_or(1.0, |slope| 1.0 - slope.above(0.0));
    let rises = 1.0 - (2.0 * trend::no_rise(&values).min(by_slope)).min(1.0);
    // It has risen from the beginning, and still does: at least half as fast.
    let rose = early.map_or(0.5, |slope| slope.above(0.0));
    let confidence = rises * recent.above(whole_s / 2.0) * (0.5 + rose / 2.0);
    let over_s = span_s - from_s;
    (confidence, *recent, Why::Rises { over_s })
}

/// What speaks against growth that shows, and how long it takes to know.
fn doubt(evidence: &Evidence, from_s: f64, slope: &Slope, why: Why) -> Option<(Why, f64)> {
    let span_s = evidence.span_s();
    let window_s = span_s - from_s;
    // A block that is larger than the one before it took the place of none that is unknown, and its steps have a pace of
    // their own.
    let by_size = matches!(why, Why::Resizes { .. });
    if !by_size && let Some(ago_s) = stopped(evidence, from_s) {
        // What is flat for as long as it has risen is flat.
        return Some((Why::Stopped { ago_s }, (span_s - 3.0 * ago_s).max(ago_s)));
    }
    if from_s > 0.0 && been_there(evidence, from_s) {
        return Some((
            Why::Unclear {
                rising: slope.above(0.0),
            },
            span_s / 2.0,
        ));
    }
    let (then, now) = (evidence.run_at(from_s)?, evidence.run_at(span_s)?);
    // What comes and goes may be less by now: what has come and stayed is what takes another's place.
    let stayed = evidence
        .births(from_s, span_s)
        .map_or(0.0, |births| births.live.live_blocks);
    let gained = (evidence.now().live_blocks - evidence.at(from_s).live_blocks).max(stayed);
    let frees = now.frees_unknown - then.frees_unknown;
    if evidence.sample_bytes.is_none() && !by_size && frees > REPLACES * gained {
        return Some((Why::Replaces { frees, gained }, span_s));
    }
    let grown_bytes = slope.per_s * window_s;
    let resident_bytes = now.resident_bytes - then.resident_bytes;
    let is_asked = evidence.sample_bytes.is_some() && evidence.ran_before && then.resident_bytes > 0.0;
    (is_asked && grown_bytes > RESIDENT_MIN_BYTES && resident_bytes < RESIDENT * grown_bytes).then_some((
        Why::NotResident {
            grown_bytes,
            resident_bytes,
        },
        span_s,
    ))
}

/// Whether it has been where it is before the window, and after the first quarter of all: as by day, after a night.
fn been_there(evidence: &Evidence, from_s: f64) -> bool {
    let span_s = evidence.span_s();
    let first_s = span_s / 4.0;
    if from_s <= first_s {
        return false;
    }
    let (_, been) = evidence.range(first_s, from_s);
    evidence.at(span_s).live_bytes <= been
}

/// Whether it has grown as by a clock and does not any more: since when, seconds. A cache that has become full does not
/// rise from one reading to the next any more; growth in bursts pauses as well, and only a longer pause than its usual
/// ones counts.
fn stopped(evidence: &Evidence, from_s: f64) -> Option<f64> {
    let readings = evidence.times_s.iter().zip(&evidence.levels);
    let mut recent: Vec<(f64, f64)> = readings
        .filter(|(time, _)| **time >= from_s)
        .map(|(time, level)| (*time, level.live_bytes))
        .collect();
    // A last look right after another one saw no time for anything to happen.
    let mean_gap_s = (evidence.span_s() - from_s) / recent.len() as f64;
    if let [.., before, last] = recent.as_slice()
        && last.0 - before.0 < mean_gap_s / 2.0
    {
        recent.remove(recent.len() - 2);
    }
    let (now_s, now) = *recent.last()?;
    let unit = unit_bytes(evidence);
    for lag in [1, 2, 3, 4, 6, 9, 13] {
        let Some(windows) = recent
            .len()
            .checked_sub(2 * lag)
            .filter(|windows| *windows >= PAUSES_MIN)
        else {
            break;
        };
        let (then_s, then) = recent[recent.len() - 1 - lag];
        let last = (now - then) / (now_s - then_s);
        let rates = recent[..recent.len() - lag]
            .windows(lag + 1)
            .map(|pair| (pair[lag].1 - pair[0].1) / (pair[lag].0 - pair[0].0));
        let (mut sum, mut squares, mut pauses) = (0.0, 0.0, 0_usize);
        for rate in rates {
            sum += rate;
            squares += rate * rate;
            pauses += usize::from(rate <= last);
        }
        let usual = sum / windows as f64;
        let variance = (squares / windows as f64 - usual * usual).max(0.0);
        // Blocks that come by chance stay away by chance; of samples those that go do so as well.
        let flow = if evidence.sample_bytes.is_some() {
            evidence.flow(from_s).max(usual)
        } else {
            usual.max(0.0)
        };
        let of_count = flow * unit / (now_s - then_s);
        let scatter = variance.max(of_count).sqrt();
        if last < 0.3 * usual && usual - last > 3.0 * scatter && pauses * 40 <= windows {
            return Some(now_s - then_s);
        }
    }
    None
}
