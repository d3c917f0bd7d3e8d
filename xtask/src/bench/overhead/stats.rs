//! Medians, spreads and ratios of rounds. Pure.

/// Median, smallest and largest of the rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Summary {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

/// `None` when there is nothing to sum up.
pub(super) fn summary(values: impl IntoIterator<Item = f64>) -> Option<Summary> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let (&min, &max) = (values.first()?, values.last()?);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    let median = if values.len().is_multiple_of(2) {
        f64::midpoint(*values.get(middle - 1)?, upper)
    } else {
        upper
    };
    Some(Summary { median, min, max })
}

/// Ratios of what was measured in the same round: what disturbs a whole round falls out. Rounds that lack
/// either do not count.
pub(super) fn ratio(of: &[Option<f64>], to: &[Option<f64>]) -> Option<Summary> {
    summary(of.iter().zip(to).filter_map(|(of, to)| Some((*of)? / (*to)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle_of_an_odd_and_the_mean_of_the_two_middles_of_an_even_number() {
        assert_eq!(
            summary([9.0, 1.0, 4.0]),
            Some(Summary {
                median: 4.0,
                min: 1.0,
                max: 9.0
            })
        );
        assert_eq!(
            summary([8.0, 1.0, 2.0, 4.0]),
            Some(Summary {
                median: 3.0,
                min: 1.0,
                max: 8.0
            })
        );
        assert_eq!(summary([]), None);
    }

    #[test]
    fn ratio_pairs_the_rounds_and_leaves_out_those_that_lack_one() {
        let slow_second_round = [Some(20.0), Some(400.0), None, Some(20.0)];
        let base = [Some(10.0), Some(200.0), Some(10.0), None];
        assert_eq!(
            ratio(&slow_second_round, &base),
            Some(Summary {
                median: 2.0,
                min: 2.0,
                max: 2.0
            })
        );
        assert_eq!(ratio(&[Some(1.0)], &[None]), None);
    }
}
