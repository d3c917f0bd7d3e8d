//! Ages of the survivors of a site, in a space that does not grow with their number.
//!
//! Must not know sites or blocks.

use hdrhistogram::Histogram;

use crate::report::model::Age;

/// Significant digits of the median.
const DIGITS: u8 = 2;

/// hdrhistogram distinguishes so many values in each power of two at [`DIGITS`] digits. Ages are rounded
/// to the same steps here, so that the result does not depend on when one representation gives way to
/// the other.
const STEPS_BITS: u32 = 8;

/// Distinct steps up to which a sorted list is smaller than a histogram (8 bytes each, against 4 bytes
/// for every step up to the oldest age: 7 KiB for a minute, 13 KiB for a month).
const FEW_MAX: usize = 1024;

/// Ages in milliseconds: exact extremes, the median to two digits up to 49 days.
#[derive(Clone, Debug, Default)]
pub(super) struct Ages {
    extremes: Option<(u64, u64)>,
    steps: Steps,
}

#[derive(Clone, Debug)]
enum Steps {
    /// (age rounded down to its step, how many), with repetitions until compacted.
    Few(Vec<(u32, u32)>),
    Many(Box<Histogram<u32>>),
}

impl Default for Steps {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl Ages {
    /// Adds one age of a block that stands for `blocks` of them.
    pub(super) fn record(&mut self, age_ms: u64, blocks: u32) {
        self.widen(age_ms, age_ms);
        self.steps.add(step_of(age_ms), blocks);
    }

    /// Adds all ages of another site.
    pub(super) fn merge(&mut self, other: &Self) {
        if let Some((min, max)) = other.extremes {
            self.widen(min, max);
        }
        other.steps.each(|step, count| self.steps.add(step, count));
    }

    /// Forgets everything; the space of a list is kept for the next interval.
    pub(super) fn clear(&mut self) {
        self.extremes = None;
        match &mut self.steps {
            Steps::Few(list) => list.clear(),
            Steps::Many(_) => self.steps = Steps::default(),
        }
    }

    /// Gives back the space that is not needed: nothing will be added any more.
    pub(super) fn settle(&mut self) {
        if let Steps::Few(list) = &mut self.steps {
            compact(list);
            list.shrink_to_fit();
        }
    }

    /// Age of the oldest; 0 if there is none.
    pub(super) fn max_ms(&self) -> u64 {
        self.extremes.map_or(0, |(_, max)| max)
    }

    /// The summary; zeros if nothing was recorded.
    pub(super) fn summary(&self) -> Age {
        let Some((min, max)) = self.extremes else {
            return Age::default();
        };
        let median = self.steps.median().unwrap_or(max);
        Age {
            min,
            p50: median.clamp(min, max),
            max,
        }
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        match &self.steps {
            Steps::Few(list) => list.capacity() * size_of::<(u32, u32)>(),
            Steps::Many(histogram) => {
                size_of::<Histogram<u32>>() + histogram.distinct_values() * size_of::<u32>()
            }
        }
    }

    fn widen(&mut self, min_ms: u64, max_ms: u64) {
        let (min, max) = self.extremes.unwrap_or((min_ms, max_ms));
        self.extremes = Some((min.min(min_ms), max.max(max_ms)));
    }
}

impl Steps {
    fn add(&mut self, step: u32, count: u32) {
        match self {
            Self::Few(list) => {
                list_add(list, step, count);
                if list.len() > FEW_MAX
                    && let Some(histogram) = new_histogram(list)
                {
                    *self = Self::Many(Box::new(histogram));
                }
            }
            Self::Many(histogram) => record(histogram, step, count),
        }
    }

    fn each(&self, mut visit: impl FnMut(u32, u32)) {
        match self {
            Self::Few(list) => list.iter().for_each(|(step, count)| visit(*step, *count)),
            Self::Many(histogram) => {
                for step in histogram.iter_recorded() {
                    visit(step_of(step.value_iterated_to()), step.count_at_value());
                }
            }
        }
    }

    fn median(&self) -> Option<u64> {
        match self {
            Self::Few(list) => Some(new_histogram(list)?.value_at_quantile(0.5)),
            Self::Many(histogram) => Some(histogram.value_at_quantile(0.5)),
        }
    }
}

/// A histogram that grows with its largest value. `None` only if the library refuses [`DIGITS`].
fn new_histogram(list: &[(u32, u32)]) -> Option<Histogram<u32>> {
    let mut histogram = Histogram::new(DIGITS).ok()?;
    for (step, count) in list {
        record(&mut histogram, *step, *count);
    }
    Some(histogram)
}

fn record(histogram: &mut Histogram<u32>, step: u32, count: u32) {
    // Growing fails only beyond 2^62; were it to, the value counts as the largest that fits.
    if histogram.record_n(u64::from(step), count).is_err() {
        histogram.saturating_record_n(u64::from(step), count);
    }
}

/// The age rounded down to the step it shares with its neighbours.
fn step_of(age_ms: u64) -> u32 {
    let age_ms = u32::try_from(age_ms).unwrap_or(u32::MAX);
    let shift = (u32::BITS - age_ms.leading_zeros()).saturating_sub(STEPS_BITS);
    age_ms >> shift << shift
}

/// Adds to the list; when its space is used up, equal steps are put together before it is doubled.
fn list_add(list: &mut Vec<(u32, u32)>, step: u32, count: u32) {
    if list.len() == list.capacity() {
        compact(list);
        // Less than a quarter won back: the next compaction would come too soon.
        if list.len() * 4 >= list.capacity() * 3 {
            list.reserve_exact(list.len().max(8));
        }
    }
    list.push((step, count));
}

fn compact(list: &mut Vec<(u32, u32)>) {
    list.sort_unstable();
    list.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        if same {
            kept.1 = kept.1.saturating_add(next.1);
        }
        same
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_recorded_is_all_zero() {
        assert_eq!(Ages::default().summary(), Age::default());
        assert_eq!(Ages::default().max_ms(), 0);
    }

    #[test]
    fn space_is_bounded_by_the_range_and_not_by_the_number() {
        let mut ages = Ages::default();
        for age in 0..1_000_000u64 {
            ages.record(age % 250 * 1000, 1);
        }
        assert!(ages.heap_bytes() <= 512 * 8, "{}", ages.heap_bytes());
        let mut spread = Ages::default();
        let month_ms = 30 * 24 * 3600 * 1000;
        for index in 0..100_000u64 {
            spread.record(index * index % month_ms, 1);
        }
        assert!(spread.heap_bytes() < 14 << 10, "{}", spread.heap_bytes());
        assert!(matches!(spread.steps, Steps::Many(_)));
    }

    #[test]
    fn rounding_is_that_of_the_histogram() {
        let histogram = Histogram::<u32>::new_with_max(u64::from(u32::MAX), DIGITS).unwrap();
        for age in (0..5000).chain((5000..u64::from(u32::MAX)).step_by(9_999_991)) {
            assert_eq!(u64::from(step_of(age)), histogram.lowest_equivalent(age), "{age}");
        }
        assert_eq!(step_of(u64::MAX), step_of(u64::from(u32::MAX)));
    }

    #[test]
    fn ages_beyond_the_range_keep_their_extremes() {
        let mut ages = Ages::default();
        ages.record(u64::MAX, 1);
        assert_eq!(ages.summary().max, u64::MAX);
        assert_eq!(ages.summary().min, u64::MAX);
    }

    fn record_all(ages: &mut Ages, values: &[u64]) {
        for value in values {
            ages.record(*value, 1);
        }
    }

    fn values() -> impl Strategy<Value = Vec<u64>> {
        prop_oneof![
            prop::collection::vec(0u64..100_000_000, 1..3000),
            prop::collection::vec(0u64..300, 1..3000),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn agrees_with_sorted_values(mut values in values(), split in 0usize..3000) {
            let mut whole = Ages::default();
            record_all(&mut whole, &values);
            let (left, right) = values.split_at(split.min(values.len()));
            let (mut first, mut second) = (Ages::default(), Ages::default());
            record_all(&mut first, left);
            record_all(&mut second, right);
            second.settle();
            first.merge(&second);
            prop_assert_eq!(first.summary(), whole.summary());

            values.sort_unstable();
            let exact = values[(values.len() - 1) / 2];
            let summary = whole.summary();
            prop_assert_eq!((summary.min, summary.max), (values[0], values[values.len() - 1]));
            prop_assert!(summary.p50.abs_diff(exact) * 100 <= exact.max(100), "{} for {exact}", summary.p50);
        }
    }
}
