//! The slope of a series and how far to trust it, whatever the noise around it remembers of itself.
//!
//! Numbers in, numbers out: must not know what they are of.
//!
//! The slope is that of Theil and Sen, the median of the slopes between all pairs (P. K. Sen, "Estimates of the regression
//! coefficient based on Kendall's tau", Journal of the American Statistical Association 63, 1968): a few wild values do
//! not move it. How far it scatters follows from what is left over: a process whose value is partly that of the step before
//! (AR(1)), from noise that forgets at once to a random walk, which a leak is whose blocks come by chance. What is left
//! over remembers more than it shows, since the line was fitted to it (M. G. Kendall, "Note on bias in the estimation of
//! autocorrelation", Biometrika 41, 1954): that is allowed for, as P. Perron and T. Yabu do who give the same interval for
//! both kinds of noise ("Estimating deterministic trends with an integrated or stationary noise component", Journal of
//! Econometrics 151, 2009).

use statrs::distribution::{ContinuousCDF as _, Normal, StudentsT};

/// Values below which a series says nothing.
pub(super) const VALUES_MIN: usize = 6;

/// From here on noise is a random walk: where it began is of no matter.
const WALK: f64 = 0.97;

/// A slope.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Slope {
    /// Per second.
    pub(super) per_s: f64,
    /// Its standard error.
    pub(super) error: f64,
    /// Degrees of freedom of that.
    pub(super) freedom: f64,
}

impl Slope {
    /// Probability that the true slope is above this one.
    pub(super) fn above(&self, per_s: f64) -> f64 {
        let difference = self.per_s - per_s;
        if self.error <= 0.0 {
            return if difference > 0.0 { 1.0 } else { 0.0 };
        }
        cdf(self.freedom, difference / self.error)
    }

    /// Lower and upper bound at 95 %.
    pub(super) fn interval(&self) -> [f64; 2] {
        let width = quantile_975(self.freedom) * self.error;
        [self.per_s - width, self.per_s + width]
    }
}

/// The part of Student's distribution below `value`.
pub(super) fn cdf(freedom: f64, value: f64) -> f64 {
    StudentsT::new(0.0, 1.0, freedom.max(1.0)).map_or(0.5, |student| student.cdf(value))
}

/// The part of the normal distribution below `value`.
pub(super) fn normal(value: f64) -> f64 {
    Normal::new(0.0, 1.0).map_or(0.5, |normal| normal.cdf(value))
}

fn quantile_975(freedom: f64) -> f64 {
    StudentsT::new(0.0, 1.0, freedom.max(1.0)).map_or(f64::INFINITY, |student| student.inverse_cdf(0.975))
}

/// The slope of values that are `step_s` seconds apart. None of too few values.
pub(super) fn slope(values: &[f64], step_s: f64) -> Option<Slope> {
    let count = values.len();
    if count < VALUES_MIN || step_s <= 0.0 {
        return None;
    }
    let per_step = theil_sen(values);
    let residuals = residuals(values, per_step);
    let (memory, noise) = noise(&residuals);
    let error = noise * spread(count, memory);
    Some(Slope {
        per_s: per_step / step_s,
        error: error / step_s,
        // What is known of the noise was estimated as well.
        freedom: ((count as f64 - 4.0) / 3.0).max(3.0),
    })
}

/// How far values lie from a line of this slope: the standard deviation.
pub(super) fn scatter(values: &[f64], per_step: f64) -> f64 {
    let squares: f64 = residuals(values, per_step).iter().map(|left| left * left).sum();
    (squares / (values.len() as f64 - 2.0).max(1.0)).sqrt()
}

/// Probability that there is no upward trend, by the test of Mann and Kendall, whose variance is as much larger as noise of
/// this memory makes that of a slope (as K. H. Hamed and A. R. Rao do by other means, Journal of Hydrology 204, 1998).
pub(super) fn no_rise(values: &[f64]) -> f64 {
    let count = values.len();
    if count < VALUES_MIN {
        return 1.0;
    }
    let mut score = 0.0;
    for (index, later) in values.iter().enumerate() {
        for earlier in &values[..index] {
            score += f64::from(later.total_cmp(earlier) as i8);
        }
    }
    let n = count as f64;
    let variance = (n * (n - 1.0) * (2.0 * n + 5.0) - ties(values)) / 18.0;
    if variance <= 0.0 {
        return 1.0;
    }
    let (memory, _) = noise(&residuals(values, theil_sen(values)));
    let stationary = if memory < WALK {
        (1.0 - memory * memory).sqrt()
    } else {
        1.0
    };
    let inflation = (spread(count, memory) * stationary / spread(count, 0.0)).max(1.0);
    1.0 - normal((score - score.signum()) / (variance.sqrt() * inflation))
}

/// The sum over groups of equal values that the variance of the test is smaller by.
fn ties(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let groups = sorted
        .chunk_by(|a, b| a.total_cmp(b).is_eq())
        .map(|group| group.len() as f64);
    groups.map(|size| size * (size - 1.0) * (2.0 * size + 5.0)).sum()
}

/// The median of the slopes between all pairs, per step.
fn theil_sen(values: &[f64]) -> f64 {
    let mut slopes = Vec::with_capacity(values.len() * values.len() / 2);
    for (index, later) in values.iter().enumerate() {
        let pairs = values[..index].iter().enumerate();
        slopes.extend(pairs.map(|(before, earlier)| (later - earlier) / (index - before) as f64));
    }
    median(&mut slopes)
}

/// The middle of the values, 0 of none.
fn median(values: &mut [f64]) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let middle = values.len() / 2;
    let (below, upper, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    let upper = *upper;
    if below.len() < middle || values.len() % 2 == 1 {
        return upper;
    }
    let lower = values[..middle].iter().copied().fold(f64::NEG_INFINITY, f64::max);
    f64::midpoint(lower, upper)
}

/// What is left over of the values when the line of this slope is taken away.
fn residuals(values: &[f64], per_step: f64) -> Vec<f64> {
    let mut left: Vec<f64> = values
        .iter()
        .enumerate()
        .map(|(index, value)| value - per_step * index as f64)
        .collect();
    let mean = left.iter().sum::<f64>() / left.len() as f64;
    for value in &mut left {
        *value -= mean;
    }
    left
}

/// How much of a value that of the step before is, from 0 to 1, and the standard deviation of the rest.
fn noise(residuals: &[f64]) -> (f64, f64) {
    let n = residuals.len() as f64;
    let squares: f64 = residuals.iter().map(|value| value * value).sum();
    if squares <= 0.0 {
        return (0.0, 0.0);
    }
    let pairs = || residuals.windows(2).map(|pair| (pair[0], pair[1]));
    let before: f64 = pairs().map(|(before, _)| before * before).sum();
    let shown = pairs().map(|(before, now)| before * now).sum::<f64>() / before.max(f64::MIN_POSITIVE);
    let memory = unbiased(shown, n);
    let rest: f64 = pairs().map(|(before, now)| (now - memory * before).powi(2)).sum();
    (memory, (rest / (n - 3.0)).sqrt())
}

/// The memory whose median estimate from `n` values is what was shown, once a mean and a slope are taken away (as D. W. K.
/// Andrews does by tables, Econometrica 61, 1993; here a curve through 20 000 simulations at each of 7 memories). What may
/// as well be a random walk is taken for one.
fn unbiased(shown: f64, n: f64) -> f64 {
    let mut memory: f64 = shown;
    for _ in 0..30 {
        let within = memory.clamp(0.0, 1.0);
        memory = shown + (2.2 + 3.3 * within + 3.2 * within.powi(4)) / n;
    }
    if memory > 1.0 - 2.0 / n.sqrt() {
        1.0
    } else {
        memory.max(0.0)
    }
}

/// The standard error of a slope per step, for noise of deviation 1 at each step and this memory.
///
/// The slope is a weighted sum of the values; each noise is in all values after it, fading.
fn spread(count: usize, memory: f64) -> f64 {
    let middle = (count as f64 - 1.0) / 2.0;
    let squares: f64 = (0..count).map(|index| (index as f64 - middle).powi(2)).sum();
    let mut reach = 0.0;
    let mut sum = 0.0;
    for index in (0..count).rev() {
        reach = (index as f64 - middle) / squares + memory * reach;
        sum += reach * reach;
    }
    if memory < WALK {
        // What had gathered before the first value.
        sum += reach * reach * (1.0 / (1.0 - memory * memory) - 1.0);
    }
    sum.sqrt()
}

#[cfg(test)]
#[path = "trend_tests.rs"]
mod tests;
