//! Counts judgements: pure, from judgements to numbers.
//!
//! Must not know how they are shown.

use std::collections::BTreeMap;

use super::{
    class::Class,
    judge::{Judged, Line, judge, line},
    record::{Record, Sampling},
};

/// The least precision and recall of growing.
pub(super) const LEAST: f64 = 0.97;

/// How far a process line may be off.
pub(super) const MOST_OFF: f64 = 0.05;

/// Lower bounds of the bins of confidence; the last ends at 1.
const BINS: [f64; 5] = [0.0, 0.9, 0.95, 0.97, 0.99];

/// All that is known of a set of runs.
#[derive(Debug)]
pub(super) struct Score {
    pub(super) runs: usize,
    pub(super) judged: Vec<Judged>,
    pub(super) lines: Vec<Line>,
    /// Runs of which the process line is not known.
    pub(super) without_line: usize,
    /// Labelled sites in runs in which the label's event never came.
    pub(super) never: Vec<String>,
    /// Sites without a label that are called growing where nothing grows.
    pub(super) strays: Vec<String>,
    /// The same where something does: containers of what leaks grow with it.
    pub(super) strays_beside: usize,
}

impl Score {
    pub(super) fn of(records: &[Record]) -> Self {
        let stray = |record: &Record| {
            let run = format!(
                "{}, speed {}, {}",
                record.case.name,
                record.speed,
                record.sampling.name()
            );
            record
                .strays
                .iter()
                .map(move |stray| format!("{run}: {stray}"))
                .collect::<Vec<_>>()
        };
        Self {
            runs: records.len(),
            judged: records.iter().flat_map(judge).collect(),
            lines: records.iter().filter_map(line).collect(),
            without_line: records.iter().filter(|record| record.process.is_none()).count(),
            never: records
                .iter()
                .flat_map(|record| record.sites.iter().map(move |site| (record, site)))
                .filter(|(_, site)| site.since_s.is_none())
                .map(|(record, site)| {
                    format!("{} {}, speed {}", record.case.name, site.label.site, record.speed)
                })
                .collect(),
            strays: records
                .iter()
                .filter(|record| !record.case.leaks())
                .flat_map(stray)
                .collect(),
            strays_beside: records
                .iter()
                .filter(|record| record.case.leaks())
                .map(|record| record.strays.len())
                .sum(),
        }
    }

    /// Label by verdict at the end of the run: how often. Labels by their first class.
    pub(super) fn confusion(&self, sampling: Option<Sampling>) -> BTreeMap<(Class, Class), usize> {
        let mut table = BTreeMap::new();
        for judged in self
            .judged
            .iter()
            .filter(|judged| sampling.is_none_or(|of| judged.sampling == of))
        {
            *table.entry((judged.label.fair[0], judged.verdict())).or_default() += 1;
        }
        table
    }

    /// Of what is called growing how much is, and of what is growing how much is called so.
    pub(super) fn growing(&self, sampling: Option<Sampling>) -> Growing {
        let mut growing = Growing::default();
        for judged in self
            .judged
            .iter()
            .filter(|judged| sampling.is_none_or(|of| judged.sampling == of))
        {
            match (judged.label.is_bounded(), judged.verdict() == Class::Growing) {
                (false, _) if judged.last.class == Class::Growing => growing.found += 1,
                (false, _) => growing.missed += 1,
                (true, true) => growing.wrong += 1,
                (true, false) => {}
            }
        }
        if sampling.is_none() {
            growing.wrong += self.strays.len();
        }
        growing
    }

    /// Final verdicts, or all since the labels' events, by confidence: the bin's lower bound, how many, how many right.
    pub(super) fn calibration(&self, every: bool) -> Vec<(f64, usize, usize)> {
        let verdicts: Vec<(f64, bool)> = if every {
            self.judged
                .iter()
                .flat_map(|judged| judged.decided.iter().copied())
                .collect()
        } else {
            let decided = self.judged.iter().filter(|judged| judged.last.class.is_decided());
            decided
                .map(|judged| (judged.last.confidence, judged.is_right))
                .collect()
        };
        let in_bin = |at: usize| {
            let bin = verdicts
                .iter()
                .filter(|(confidence, _)| BINS.iter().rposition(|least| confidence >= least) == Some(at));
            let right: Vec<bool> = bin.map(|(_, is_right)| *is_right).collect();
            (
                BINS[at],
                right.len(),
                right.iter().filter(|is_right| **is_right).count(),
            )
        };
        (0..BINS.len()).map(in_bin).collect()
    }

    /// Slope intervals of what is called growing and is: how many, and how many hold the true slope.
    pub(super) fn slopes(&self) -> (usize, usize) {
        let slopes: Vec<bool> = self
            .judged
            .iter()
            .filter_map(|judged| Some(judged.slope?.1))
            .collect();
        (slopes.len(), slopes.iter().filter(|held| **held).count())
    }

    /// Bounds as multiples of the most that was held: how many, how many between 0.8 and 2, and the median.
    pub(super) fn bounds(&self) -> (usize, usize, Option<f64>) {
        let ratios: Vec<f64> = self
            .judged
            .iter()
            .filter_map(|judged| judged.bound_ratio)
            .collect();
        let near = ratios.iter().filter(|ratio| (0.8..=2.0).contains(*ratio)).count();
        (
            ratios.len(),
            near,
            Spread::of(&ratios).map(|spread| spread.median),
        )
    }

    /// By label's first class: seconds to the verdict that stays right, and how many never came to it.
    pub(super) fn times(&self) -> Vec<(Class, Option<Spread>, usize)> {
        let of = |class: Class| {
            let judged: Vec<_> = self
                .judged
                .iter()
                .filter(|judged| judged.label.fair[0] == class)
                .collect();
            let times: Vec<f64> = judged.iter().filter_map(|judged| judged.right_after_s).collect();
            (class, Spread::of(&times), judged.len() - times.len())
        };
        [Class::Growing, Class::Plateau, Class::OneOff, Class::Churn]
            .map(of)
            .into()
    }

    /// Bounded sites that were called growing after their event; those within the grace included.
    pub(super) fn grew(&self) -> impl Iterator<Item = &Judged> {
        self.judged.iter().filter(|judged| judged.grew_for_s.is_some())
    }

    /// Wrong verdicts, and leaks that are not found.
    pub(super) fn wrong(&self) -> impl Iterator<Item = &Judged> {
        self.judged.iter().filter(|judged| judged.is_wrong())
    }

    /// Process lines, the worst first.
    pub(super) fn worst_lines(&self) -> Vec<&Line> {
        let mut lines: Vec<_> = self.lines.iter().collect();
        lines.sort_by(|one, other| other.off.total_cmp(&one.off));
        lines
    }

    /// What is not as it has to be; empty if all is.
    pub(super) fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        let growing = self.growing(None);
        if growing.precision().is_none_or(|precision| precision < LEAST) {
            failures.push(format!("precision of growing is below {LEAST}"));
        }
        if growing.recall().is_none_or(|recall| recall < LEAST) {
            failures.push(format!("recall of growing is below {LEAST}"));
        }
        let mut counted = |count: usize, what: &str| {
            if count > 0 {
                failures.push(format!("{count} {what}"));
            }
        };
        counted(
            self.judged.iter().filter(|judged| judged.grew_too_long).count(),
            "bounded sites were called growing once full",
        );
        counted(
            self.lines.iter().filter(|line| line.off > MOST_OFF).count(),
            "process lines do not add up",
        );
        counted(self.without_line, "runs have no process line");
        counted(
            self.judged
                .iter()
                .filter(|judged| judged.is_wrongly_first)
                .count(),
            "times something that is hardly touched stood first",
        );
        counted(self.never.len(), "labels' events never came");
        failures
    }
}

/// How well what grows is told from the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Growing {
    pub(super) found: usize,
    pub(super) missed: usize,
    /// Called growing, and not.
    pub(super) wrong: usize,
}

impl Growing {
    /// None where nothing is called growing.
    pub(super) fn precision(self) -> Option<f64> {
        share(self.found, self.found + self.wrong)
    }

    /// None where nothing grows.
    pub(super) fn recall(self) -> Option<f64> {
        share(self.found, self.found + self.missed)
    }
}

/// A part of a whole; none of nothing.
pub(super) fn share(part: usize, whole: usize) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// Where numbers lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) nine_tenths: f64,
    pub(super) most: f64,
}

impl Spread {
    /// Of the numbers themselves, by nearest rank; none of none.
    pub(super) fn of(numbers: &[f64]) -> Option<Self> {
        let mut sorted = numbers.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| sorted[((sorted.len() as f64 * share).ceil() as usize).max(1) - 1];
        (!sorted.is_empty()).then(|| Self {
            median: at(0.5),
            nine_tenths: at(0.9),
            most: at(1.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::judge::tests::record;
    use Class::{Churn, Growing as Grows, OneOff, Plateau, Undecided};

    fn score(runs: &[(&str, &[Class])]) -> Score {
        let records: Vec<_> = runs
            .iter()
            .map(|(case, classes)| record(case, classes, 0.0))
            .collect();
        Score::of(&records)
    }

    #[test]
    fn what_is_found_missed_and_wrong_is_counted() {
        let score = score(&[
            ("box-leak", &[Grows]),
            ("vec-of-box", &[Grows]),
            ("answers", &[Undecided]),
            ("pool", &[Grows]),
            ("lru-128", &[Churn]),
        ]);
        let growing = score.growing(None);
        assert_eq!(
            growing,
            Growing {
                found: 2,
                missed: 1,
                wrong: 1
            }
        );
        assert_eq!(
            (growing.precision(), growing.recall()),
            (Some(2.0 / 3.0), Some(2.0 / 3.0))
        );
        let table = score.confusion(Some(Sampling::Exact));
        assert_eq!(table[&(Grows, Grows)], 2);
        assert_eq!(table[&(Plateau, Grows)], 1);
        assert_eq!(table[&(Plateau, Churn)], 1);
        assert!(score.confusion(Some(Sampling::Sampled)).is_empty());
        // A leak that is not found and a pool that is called one; that the cache is called churn is fair.
        let wrong: Vec<_> = score.wrong().map(|judged| judged.case).collect();
        assert_eq!(wrong, ["answers", "pool"]);
    }

    #[test]
    fn a_stray_counts_where_nothing_grows() {
        let mut bounded = record("pool", &[Plateau], 0.0);
        bounded.strays.push("malloc".to_owned());
        let mut leaks = record("box-leak", &[Grows], 0.0);
        leaks.strays.push("malloc".to_owned());
        let score = Score::of(&[bounded, leaks]);
        assert_eq!(score.growing(None).wrong, 1);
        assert_eq!(score.strays, ["pool, speed 1, exact: malloc"]);
        assert_eq!(score.strays_beside, 1);
    }

    #[test]
    fn verdicts_are_binned_by_confidence() {
        let mut sure = record("box-leak", &[Grows, Grows], 0.0);
        sure.sites[0].said[1].confidence = 1.0;
        let score = Score::of(&[sure, record("lru-128", &[Undecided, Grows], 0.0)]);
        assert_eq!(
            score.calibration(false),
            [(0.0, 0, 0), (0.9, 0, 0), (0.95, 1, 0), (0.97, 0, 0), (0.99, 1, 1)]
        );
        assert_eq!(score.calibration(true)[2], (0.95, 2, 1));
        assert_eq!(score.slopes(), (1, 1));
    }

    #[test]
    fn times_to_the_right_verdict_are_by_label() {
        let score = score(&[
            ("box-leak", &[Undecided, Grows]),
            ("answers", &[Grows, Undecided]),
            ("tables", &[OneOff, OneOff]),
        ]);
        let times = score.times();
        let spread = |at| {
            Some(Spread {
                median: at,
                nine_tenths: at,
                most: at,
            })
        };
        assert_eq!(times[0], (Grows, spread(2.0), 1));
        assert_eq!(times[2], (OneOff, spread(1.0), 0));
        assert_eq!(times[3], (Churn, None, 0));
    }

    #[test]
    fn a_spread_is_of_numbers_that_are_there() {
        let numbers: Vec<f64> = (1..=20).map(f64::from).rev().collect();
        let spread = Spread::of(&numbers).expect("there are numbers");
        assert_eq!(
            (spread.median, spread.nine_tenths, spread.most),
            (10.0, 18.0, 20.0)
        );
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn what_is_not_as_it_has_to_be_is_named() {
        use crate::corpus::record::Process;
        let with_line = |parts_bytes: f64| {
            let mut of = record("box-leak", &[Grows], 0.0);
            of.process = Some(Process {
                true_bytes: 1e8,
                parts_bytes,
                ..Process::default()
            });
            of
        };
        assert_eq!(Score::of(&[with_line(0.96e8)]).failures(), Vec::<String>::new());
        assert_eq!(
            Score::of(&[with_line(0.94e8)]).failures(),
            ["1 process lines do not add up"]
        );
        let failures = Score::of(&[record("answers", &[Undecided], 0.0)]).failures();
        assert_eq!(
            failures,
            [
                "precision of growing is below 0.97",
                "recall of growing is below 0.97",
                "1 runs have no process line"
            ]
        );
    }
}
