//! How long freed blocks lived: counted by powers of two of nanoseconds by the kernel side, and told in milliseconds.
//!
//! Must not know which blocks they were.

use hdrhistogram::Histogram;
use leaktrace_common::record::{LIFETIME_BUCKETS, LIFETIME_FIRST_BIT};

use crate::report::model::Lifetime;

/// Lifetimes of freed blocks: bucket `k` counts those of at least 2^(k + [`LIFETIME_FIRST_BIT`]) ns, less than twice that.
pub type Lifetimes = [u64; LIFETIME_BUCKETS];

/// A power of two is all that is known of a lifetime.
const DIGITS: u8 = 1;

/// Adds the lifetimes of other blocks.
pub(super) fn add_lifetimes(sum: &mut Lifetimes, more: &Lifetimes) {
    for (sum, count) in sum.iter_mut().zip(more) {
        *sum += *count;
    }
}

/// The lifetimes below which half of all, nine of ten and 99 of 100 are: each is the upper bound of the power of two that
/// it lies in. None where nothing was freed.
pub fn summary(lifetimes: &Lifetimes) -> Option<Lifetime> {
    let mut histogram = Histogram::<u64>::new(DIGITS).ok()?;
    for (bucket, count) in lifetimes.iter().enumerate() {
        histogram
            .record_n(1 << (bucket as u32 + LIFETIME_FIRST_BIT), *count)
            .ok()?;
    }
    if histogram.is_empty() {
        return None;
    }
    // What hdrhistogram answers is up to a tenth above what was recorded; its bucket is the same.
    let below_ms = |part: f64| {
        let bucket = histogram.value_at_quantile(part).max(1).ilog2();
        2_f64.powi(bucket.cast_signed() + 1) / 1e6
    };
    Some(Lifetime {
        p50: below_ms(0.5),
        p90: below_ms(0.9),
        p99: below_ms(0.99),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_freed_has_no_lifetime() {
        assert_eq!(summary(&[0; LIFETIME_BUCKETS]), None);
    }

    proptest! {
        #[test]
        fn a_part_of_all_is_below(lifetimes_ns in prop::collection::vec(1u64..1 << 45, 1..300)) {
            let mut lifetimes = [0; LIFETIME_BUCKETS];
            for lifetime_ns in &lifetimes_ns {
                let bucket = lifetime_ns.ilog2().saturating_sub(LIFETIME_FIRST_BIT) as usize;
                lifetimes[bucket.min(LIFETIME_BUCKETS - 1)] += 1;
            }
            let found = summary(&lifetimes).unwrap();
            for (part, below_ms) in [(0.5, found.p50), (0.9, found.p90), (0.99, found.p99)] {
                let number = |above_ms: f64| lifetimes_ns.iter().filter(|ns| (**ns as f64) < above_ms * 1e6).count() as f64;
                let wanted = part * lifetimes_ns.len() as f64;
                prop_assert!(number(below_ms) >= wanted.floor(), "{part}: {below_ms} ms");
                // The shortest have a bucket that begins at none.
                let half_ms = if below_ms <= 512e-6 { 0.0 } else { below_ms / 2.0 };
                prop_assert!(number(half_ms) < wanted.ceil(), "{part}: {below_ms} ms is more than it takes");
            }
        }
    }
}
