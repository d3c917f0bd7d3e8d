//! Whether what was said of a site in a run is right: pure, from records to judgements.
//!
//! Must not know how they are counted and shown.

use super::{
    cases::Label,
    class::Class,
    record::{Record, Said, Sampling, Site},
};

/// How long after the label's event a verdict may still be that of before, as a part of the run: nobody sees in an instant
/// that something has stopped growing.
pub(super) const GRACE: f64 = 0.1;

/// Of so much eight samples are expected, and none once in three thousand runs.
const LITTLE_BYTES: f64 = (8 << 14) as f64;

/// What changes less than this is not held against the process line: pages that the attach itself touches are as many.
const LEAST_CHANGE_BYTES: f64 = (4 << 20) as f64;

/// A labelled site in a run.
#[derive(Clone, Debug)]
pub(super) struct Judged {
    pub(super) case: &'static str,
    pub(super) speed: u64,
    pub(super) sampling: Sampling,
    pub(super) label: &'static Label,
    /// What it holds at the end, as the program says.
    pub(super) true_bytes: f64,
    /// What the last report says.
    pub(super) last: Said,
    pub(super) is_right: bool,
    /// Seconds from the label's event to the first report from which on the verdict is right; none if it is not at the end.
    pub(super) right_after_s: Option<f64>,
    /// Of what is bounded: seconds from the event to the last report that says it grows.
    pub(super) grew_for_s: Option<f64>,
    /// The same, later than [`GRACE`] allows.
    pub(super) grew_too_long: bool,
    /// All decided verdicts since the event: confidence, and whether it is right.
    pub(super) decided: Vec<(f64, bool)>,
    /// Of what grows and is called so: the true slope, and whether the interval holds it.
    pub(super) slope: Option<(f64, bool)>,
    /// Of what is said to have a bound: that bound as a multiple of the most that it held.
    pub(super) bound_ratio: Option<f64>,
    /// Whether it stands first and must not.
    pub(super) is_wrongly_first: bool,
}

impl Judged {
    /// The last verdict is a wrong one, or there is none where there should be.
    pub(super) fn is_wrong(&self) -> bool {
        !self.is_right && (self.last.class.is_decided() || !self.label.is_bounded())
    }

    /// What the last report says; of what is bounded growing, if any stack of it is called so.
    pub(super) fn verdict(&self) -> Class {
        if self.last.grows && self.label.is_bounded() {
            Class::Growing
        } else {
            self.last.class
        }
    }
}

/// Judges the sites of a run.
pub(super) fn judge(record: &Record) -> Vec<Judged> {
    record
        .sites
        .iter()
        .filter_map(|site| judge_site(record, site))
        .collect()
}

/// None where the label's event never came.
fn judge_site(record: &Record, site: &Site) -> Option<Judged> {
    let label = site.label;
    let since_s = site.since_s?;
    let held: Vec<&Said> = site
        .said
        .iter()
        .filter(|said| said.elapsed_s >= since_s)
        .collect();
    let last = *held.last()?;
    let wrong = held.iter().rposition(|said| !is_right(record, site, said));
    let first_right = held.get(wrong.map_or(0, |wrong| wrong + 1));
    let grew_for_s = held
        .iter()
        .rfind(|said| label.is_bounded() && said.grows)
        .map(|said| said.elapsed_s - since_s);
    let true_slope = site.truth.slope_bytes_per_s;
    let slope = true_slope.filter(|_| label.has_slope && !label.is_bounded() && last.class == Class::Growing);
    let bound = last
        .bound_bytes
        .filter(|_| label.is_bounded() && !label.never_first && site.truth.most_bytes > 0.0);
    Some(Judged {
        case: record.case.name,
        speed: record.speed,
        sampling: record.sampling,
        label,
        true_bytes: site.truth.bytes,
        last: last.clone(),
        is_right: is_right(record, site, last),
        right_after_s: first_right.map(|said| said.elapsed_s - since_s),
        grew_for_s,
        grew_too_long: grew_for_s.is_some_and(|grew_s| grew_s > GRACE * record.seconds),
        decided: held
            .iter()
            .filter(|said| said.class.is_decided())
            .map(|said| (said.confidence, is_right(record, site, said)))
            .collect(),
        slope: slope.map(|slope| {
            (
                slope,
                (last.slope_interval[0]..=last.slope_interval[1]).contains(&slope),
            )
        }),
        bound_ratio: bound.map(|bound| bound / site.truth.most_bytes),
        is_wrongly_first: label.never_first && last.first,
    })
}

/// Whether what a report says is right. Of what comes and goes there may be nothing to list.
fn is_right(record: &Record, site: &Site, said: &Said) -> bool {
    let class = if said.grows && site.label.is_bounded() {
        Class::Growing
    } else {
        said.class
    };
    // Little is often not sampled at all.
    let little = match record.sampling {
        Sampling::Exact => 0.0,
        Sampling::Sampled => LITTLE_BYTES,
    };
    let may_be_unlisted = site.label.fair.contains(&Class::Churn) && site.truth.bytes <= little;
    site.label.fair.contains(&class) || class == Class::Unlisted && may_be_unlisted
}

/// A process line.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) case: &'static str,
    pub(super) speed: u64,
    pub(super) sampling: Sampling,
    /// The change of resident memory, as the process says itself.
    pub(super) true_bytes: f64,
    pub(super) parts_bytes: f64,
    /// How far the two are apart, as a share of the first.
    pub(super) off: f64,
    /// What the report itself calls unexplained, as a share of the first.
    pub(super) unexplained: f64,
    pub(super) text: String,
}

/// The process line of a run; none where there is none or hardly any change.
pub(super) fn line(record: &Record) -> Option<Line> {
    let process = record.process.as_ref()?;
    let of = process.true_bytes.abs();
    (of >= LEAST_CHANGE_BYTES).then(|| Line {
        case: record.case.name,
        speed: record.speed,
        sampling: record.sampling,
        true_bytes: process.true_bytes,
        parts_bytes: process.parts_bytes,
        off: (process.true_bytes - process.parts_bytes).abs() / of,
        unexplained: process.unexplained_bytes.abs() / of,
        text: process.line.clone(),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use Class::{Churn, Growing, Plateau, Undecided, Unlisted};

    use super::*;
    use crate::corpus::{
        cases::CASES,
        record::{Process, Truth},
    };

    /// One class a second.
    pub(in crate::corpus) fn record(case: &str, classes: &[Class], since_s: f64) -> Record {
        let case = CASES
            .iter()
            .find(|known| known.name == case)
            .expect("it is in the table");
        let said = classes.iter().enumerate().map(|(at, &class)| Said {
            elapsed_s: (at + 1) as f64,
            class,
            grows: class == Growing,
            confidence: 0.96,
            slope_bytes_per_s: 10.0,
            slope_interval: [9.0, 11.0],
            bound_bytes: (class == Plateau).then_some(1000.0),
            reason: "because".to_owned(),
            bytes: 1.0,
            first: true,
        });
        let site = Site {
            label: &case.labels[0],
            since_s: Some(since_s),
            truth: Truth {
                bytes: 1.0,
                slope_bytes_per_s: Some(10.5),
                most_bytes: 800.0,
            },
            said: said.collect(),
        };
        Record {
            case,
            speed: 1,
            sampling: Sampling::Exact,
            seconds: 30.0,
            sites: vec![site],
            strays: Vec::new(),
            process: None,
        }
    }

    fn one(case: &str, classes: &[Class], since_s: f64) -> Judged {
        judge(&record(case, classes, since_s)).remove(0)
    }

    #[test]
    fn a_leak_is_right_from_the_report_on_after_which_it_stays_growing() {
        let judged = one(
            "box-leak",
            &[Undecided, Growing, Undecided, Growing, Growing],
            0.0,
        );
        assert!(judged.is_right);
        assert_eq!(judged.right_after_s, Some(4.0));
        assert_eq!(judged.slope, Some((10.5, true)));
        let missed = one("box-leak", &[Growing, Undecided], 0.0);
        assert!(!missed.is_right && missed.is_wrong());
        assert_eq!((missed.right_after_s, missed.slope), (None, None));
    }

    #[test]
    fn a_cache_may_be_called_growing_until_it_is_full() {
        let judged = one("lru-100000", &[Growing, Growing, Growing, Plateau, Churn], 2.5);
        assert!(judged.is_right);
        assert_eq!((judged.grew_for_s, judged.grew_too_long), (Some(0.5), false));
        assert_eq!(judged.right_after_s, Some(1.5));
        let late = one(
            "lru-100000",
            &[Undecided, Plateau, Plateau, Plateau, Plateau, Growing, Plateau],
            2.0,
        );
        assert_eq!((late.grew_for_s, late.grew_too_long), (Some(4.0), true));
        assert_eq!(late.bound_ratio, Some(1.25));
    }

    #[test]
    fn what_comes_and_goes_need_not_be_listed() {
        let mut closed = record("figures-closed", &[Undecided, Unlisted], 0.0);
        assert!(!judge(&closed)[0].is_right, "it holds a byte");
        closed.sites[0].truth.bytes = 0.0;
        assert!(judge(&closed)[0].is_right);
        let tables = one("tables", &[Undecided, Unlisted], 0.0);
        assert!(!tables.is_right && !tables.is_wrong());
    }

    #[test]
    fn before_its_event_nothing_is_held_against_a_site() {
        let judged = one("pool", &[Growing, Growing, Plateau], 2.5);
        assert_eq!(judged.grew_for_s, None);
        assert_eq!(judged.decided, [(0.96, true)]);
    }

    #[test]
    fn a_site_whose_event_never_came_is_not_judged() {
        let mut never = record("pool", &[Growing], 0.0);
        never.sites[0].since_s = None;
        assert!(judge(&never).is_empty());
    }

    #[test]
    fn the_process_line_is_judged_where_there_is_a_change() {
        let mut of = record("pool", &[Plateau], 0.0);
        let mut process = Process {
            true_bytes: 10e6,
            parts_bytes: 9.4e6,
            unexplained_bytes: 0.2e6,
            ..Process::default()
        };
        of.process = Some(process.clone());
        let judged = line(&of).expect("10 MB are a change");
        assert!((judged.off - 0.06).abs() < 1e-9 && (judged.unexplained - 0.02).abs() < 1e-9);
        process.true_bytes = 1e6;
        of.process = Some(process);
        assert!(line(&of).is_none());
    }

    #[test]
    fn a_reservation_must_not_stand_first() {
        let mut of = record("mmap-huge", &[Growing], 0.0);
        of.sites[0].label = &of.case.labels[1];
        assert!(judge(&of)[0].is_wrongly_first);
    }
}
