//! The 95 % interval of a sum that was estimated from samples.
//!
//! Must not know what was sampled: numbers in, numbers out.
//!
//! A sum of weighted samples scatters like a Poisson count in units of its own: its estimate and variance are
//! those of a gamma distribution, whose quantiles bound the sum (Fay and Feuer, "Confidence intervals for
//! directly standardized rates", Statistics in Medicine 16, 1997). They take a whole sample more for the upper
//! bound and none for the lower, which is too wide where samples are few; half a sample on both sides, as
//! Jeffreys' prior for a Poisson count has it, holds the 95 % on average (Brown and others, "Interval
//! estimation in exponential families", Statistica Sinica 13, 2003).
//!
//! What was recorded is certain, and only the rest of the estimate is not: the lower bound is never below
//! it, and the upper bound is that of the rest alone.

/// The normal distribution's quantile at 97.5 %.
const Z: f64 = 1.959_964;

/// Not seeing a single one of so many expected samples has a probability of 5 %: -ln 0.05.
const MISSED_AT_MOST: f64 = 2.995_732;

/// What is known of a sum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Known {
    /// The part that was recorded.
    pub(super) recorded: f64,
    /// The whole, as estimated.
    pub(super) estimate: f64,
    /// The estimate's variance.
    pub(super) variance: f64,
}

/// The bounds of a sum, rounded outwards. `unit_low` and `unit_high` are what one more sample would add to
/// the sum; 0 where everything is recorded.
pub(super) fn interval(known: &Known, unit_low: f64, unit_high: f64) -> [u64; 2] {
    let Known {
        recorded, variance, ..
    } = *known;
    let estimate = known.estimate.max(recorded);
    let low = quantile(estimate, variance, unit_low, -Z).clamp(recorded, estimate);
    let rest = estimate - recorded;
    let high = if rest > 0.0 {
        recorded + quantile(rest, variance, unit_high, Z)
    } else {
        recorded + MISSED_AT_MOST * unit_high
    };
    [low.floor() as u64, high.max(estimate).ceil() as u64]
}

/// Of the gamma distribution with this mean and variance and half a `unit` more, where the normal
/// distribution has `z`.
fn quantile(mean: f64, variance: f64, unit: f64, z: f64) -> f64 {
    let mean = mean + unit / 2.0;
    let variance = variance + unit * unit / 2.0;
    if variance <= 0.0 {
        return mean;
    }
    // Wilson and Hilferty, "The distribution of chi-square", PNAS 17, 1931.
    let shape = mean * mean / variance;
    let root = 1.0 - 1.0 / (9.0 * shape) + z / (3.0 * shape.sqrt());
    mean * root.max(0.0).powi(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_samples(count: f64, unit: f64) -> [u64; 2] {
        let known = Known {
            recorded: 0.0,
            estimate: count * unit,
            variance: count * unit * unit,
        };
        interval(&known, unit, unit)
    }

    #[test]
    fn samples_of_equal_weight_have_the_bounds_of_a_poisson_count() {
        // Quantiles of gamma(n + 1/2), from tables of chi-square: half of that with 2n + 1 degrees of freedom.
        for (count, low, high) in [
            (1, 0.1079, 4.674),
            (3, 0.8449, 8.006),
            (12, 6.560, 20.32),
            (49, 36.68, 64.22),
        ] {
            let [got_low, got_high] = of_samples(f64::from(count), 1e6);
            let near = |got: u64, wanted: f64| (got as f64 / 1e6 - wanted).abs() <= 0.03;
            assert!(near(got_low, low), "{count}: {got_low} for {low}");
            assert!(near(got_high, high), "{count}: {got_high} for {high}");
        }
    }

    #[test]
    fn no_sample_is_not_nothing() {
        assert_eq!(of_samples(0.0, 1000.0), [0, 2996]);
    }

    #[test]
    fn what_is_recorded_is_certain() {
        let exact = Known {
            recorded: 77.0,
            estimate: 77.0,
            variance: 0.0,
        };
        assert_eq!(interval(&exact, 0.0, 0.0), [77, 77]);
        // A large block beside a single sample of small ones.
        let mixed = Known {
            recorded: 1e9 + 64.0,
            estimate: 1e9 + 1e6,
            variance: 1e12,
        };
        let [low, high] = interval(&mixed, 1e6, 1e6);
        assert_eq!(low, 1_000_000_064);
        assert!((1_004_500_000..1_004_800_000).contains(&high), "{high}");
        // Numbers that contradict each other give an order, not a panic.
        let torn = Known {
            recorded: 9.0,
            estimate: 5.0,
            variance: 0.0,
        };
        assert_eq!(interval(&torn, 0.0, 0.0), [9, 9]);
    }
}
