//! How the walks of stacks ended, as part of the report: plain data, and as lines of text.

use serde::Serialize;

use super::{
    frames::base_name,
    python::PythonStacks,
    units::{count, counted},
};

/// Below this share of whole stacks the report warns.
const SHARE_TO_WARN: f64 = 0.95;

/// Recorded allocations since the attach, by how the walk of their stack ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Stacks {
    /// `complete` and `finished` as a share of all. None if there is none, or if stacks were walked by frame pointers:
    /// whether such a stack is whole is not known.
    pub complete_share: Option<f64>,
    /// At the outermost frame.
    pub complete: u64,
    /// There, after leaktrace has gone on from where the kernel side could not.
    pub finished: u64,
    /// In code without unwind information and without frame pointers.
    pub gap: u64,
    /// In code whose tables were not there when the stack was taken.
    pub unknown_mapping: u64,
    /// Where the stack's memory could not be read or made no sense.
    pub fault: u64,
    /// At the bound of frames.
    pub too_deep: u64,
    /// At unwind information that could not be followed.
    pub unsupported: u64,
    /// Walked by frame pointers alone.
    pub frame_pointers: u64,
    /// The stack was not kept.
    pub not_kept: u64,
    /// Where most of those end that end early.
    pub incomplete_at: Vec<EndsEarly>,
    /// How many carry their Python lines; none if no process has an interpreter that is followed.
    pub python: Option<PythonStacks>,
    /// What came of walking each stack once more, with `--verify-stacks`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified: Option<Verified>,
}

/// Stacks that end early in one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EndsEarly {
    /// Path of the file of the last frame, as the process sees it; `[anon]` for code made at run time, `[unknown]` where
    /// nothing is known to be mapped.
    pub object: String,
    /// How: the name of the field in [`Stacks`].
    pub end: &'static str,
    /// Recorded allocations.
    pub allocs: u64,
}

/// Stacks that were walked by the kernel side and by framehop.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Distinct stacks.
    pub stacks: u64,
    /// Frames that are the same in both.
    pub frames_equal: u64,
    /// The same frames.
    pub equal: u64,
    /// The same as far as framehop came: it ran out of the bytes it was given or gave up.
    pub framehop_ends_early: u64,
    /// The same as far as the kernel side came, which says that there is more.
    pub kernel_ends_early: u64,
    /// Other frames.
    pub differ: u64,
    /// Stacks whose frames were not kept, or whose process is not known any more.
    pub not_compared: u64,
    /// The first that are not equal.
    pub differences: Vec<Difference>,
}

/// A stack that the two do not agree on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Index of the first frame that is not the same.
    pub at: usize,
    /// How the kernel side's walk ended.
    pub kernel_end: &'static str,
    /// How framehop's ended.
    pub framehop_end: String,
    /// The kernel side's frames, innermost first: file and offset.
    pub kernel: Vec<String>,
    /// framehop's.
    pub framehop: Vec<String>,
}

/// A way to end early: the field's name, in words, and the way out.
struct Early {
    field: &'static str,
    allocs: u64,
    words: &'static str,
    way_out: &'static str,
}

impl Stacks {
    fn early(&self) -> [Early; 6] {
        let early = |field, allocs, words, way_out| Early {
            field,
            allocs,
            words,
            way_out,
        };
        [
            early(
                "gap",
                self.gap,
                "in code without unwind information",
                "build it with -fasynchronous-unwind-tables or -fno-omit-frame-pointer",
            ),
            early(
                "unknown_mapping",
                self.unknown_mapping,
                "in code mapped so recently that its unwind tables were not there yet",
                "trace for longer: what comes later is whole",
            ),
            early(
                "fault",
                self.fault,
                "at memory that could not be read or made no sense",
                "please report this with the program's name and version",
            ),
            early(
                "too_deep",
                self.too_deep,
                "at the bound of 246 frames",
                "their outer frames are missing, the inner ones are right",
            ),
            early(
                "unsupported",
                self.unsupported,
                "at unwind information that is not followed",
                "their outer frames are missing, the inner ones are right",
            ),
            early(
                "not_kept",
                self.not_kept,
                "not kept",
                "see stacks_full in the ledger",
            ),
        ]
    }

    fn total(&self) -> u64 {
        let early: u64 = self.early().iter().map(|early| early.allocs).sum();
        self.complete + self.finished + self.frame_pointers + early
    }

    /// Fills in the share.
    #[must_use]
    pub fn with_share(mut self) -> Self {
        let total = self.total();
        self.complete_share = (total > 0 && self.frame_pointers == 0)
            .then(|| (self.complete + self.finished) as f64 / total as f64);
        self
    }

    /// A sentence where too many stacks are not whole.
    pub fn warning(&self) -> Option<String> {
        let share = self.complete_share.filter(|&share| share < SHARE_TO_WARN)?;
        let worst = self.early().into_iter().max_by_key(|early| early.allocs)?;
        let place = self.incomplete_at.iter().find(|place| place.end == worst.field);
        let place = place.map_or_else(String::new, |place| format!(", most of them in {}", place.object));
        Some(format!(
            "only {} of stacks are complete: {} of {} recorded allocations have one that ends {}{place}; {}",
            share_words(share),
            count(worst.allocs),
            count(self.total()),
            worst.words,
            worst.way_out
        ))
    }

    /// What there is to say, a line each.
    pub fn lines(&self) -> Vec<String> {
        let stacks = self.sentence().map(|sentence| format!("stacks: {sentence}"));
        let verified = self.verified.as_ref().map(|verified| {
            format!(
                "stacks walked once more by framehop: {}, {} frames equal: {} equal, {} differ; framehop ended early in {}, the kernel \
                 side in {}; {} not compared",
                count(verified.stacks),
                count(verified.frames_equal),
                count(verified.equal),
                count(verified.differ),
                count(verified.framehop_ends_early),
                count(verified.kernel_ends_early),
                count(verified.not_compared),
            )
        });
        let python = self.python.as_ref().and_then(PythonStacks::line);
        stacks.into_iter().chain(python).chain(verified).collect()
    }

    fn sentence(&self) -> Option<String> {
        if self.frame_pointers > 0 {
            return Some("walked by frame pointers; whether they are whole is not known".to_owned());
        }
        let share = self.complete_share?;
        let total = self.total();
        let missing = total - self.complete - self.finished;
        if missing == 0 {
            return Some("all complete".to_owned());
        }
        let mut early = self.early();
        early.sort_by_key(|early| std::cmp::Reverse(early.allocs));
        let parts = early
            .iter()
            .filter(|early| early.allocs > 0)
            .map(|early| format!("{} {}", count(early.allocs), early.words));
        let parts = parts.collect::<Vec<_>>().join(", ");
        let places = self
            .incomplete_at
            .iter()
            .map(|place| format!("{} {}", base_name(&place.object), count(place.allocs)));
        let places = places.collect::<Vec<_>>().join(", ");
        let places = if places.is_empty() {
            places
        } else {
            format!("; last frame in {places}")
        };
        Some(format!(
            "{} complete ({} in {} end early: {parts}{places})",
            share_words(share),
            count(missing),
            counted(total, "allocation"),
        ))
    }
}

/// A share that is near to all, never rounded up to it.
pub(super) fn share_words(share: f64) -> String {
    let percent = share * 100.0;
    if percent < 99.0 {
        return format!("{percent:.0} %");
    }
    let down = |digits: f64| (percent * digits).floor() / digits;
    if percent < 99.9 {
        format!("{:.1} %", down(10.0))
    } else {
        format!("{:.3} %", down(1000.0).min(99.999))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stacks() -> Stacks {
        Stacks {
            complete: 3_980,
            finished: 8,
            gap: 9,
            fault: 3,
            incomplete_at: vec![EndsEarly {
                object: "/usr/bin/node".to_owned(),
                end: "gap",
                allocs: 9,
            }],
            ..Stacks::default()
        }
        .with_share()
    }

    #[test]
    fn a_line_says_how_many_end_early_and_why() {
        assert_eq!(
            stacks().lines(),
            [
                "stacks: 99.7 % complete (12 in 4,000 allocations end early: 9 in code without unwind information, 3 at \
             memory that could not be read or made no sense; last frame in node 9)"
            ]
        );
        assert_eq!(stacks().warning(), None);
    }

    #[test]
    fn all_is_said_of_all_only() {
        let all = Stacks {
            complete: 5,
            ..Stacks::default()
        };
        assert_eq!(all.with_share().lines(), ["stacks: all complete"]);
        for (share, words) in [
            (0.999_999_9, "99.999 %"),
            (0.999_49, "99.949 %"),
            (0.998_99, "99.8 %"),
            (0.994, "99.4 %"),
            (0.956, "96 %"),
        ] {
            assert_eq!(share_words(share), words);
        }
    }

    #[test]
    fn nothing_is_said_where_nothing_is_known() {
        let none = Stacks::default().with_share();
        assert_eq!((none.complete_share, none.lines()), (None, Vec::new()));
        let guessed = Stacks {
            frame_pointers: 7,
            not_kept: 1,
            ..Stacks::default()
        };
        let guessed = guessed.with_share();
        assert_eq!(guessed.complete_share, None);
        assert_eq!(
            guessed.lines(),
            ["stacks: walked by frame pointers; whether they are whole is not known"]
        );
        assert_eq!(guessed.warning(), None);
    }

    #[test]
    fn too_few_whole_stacks_are_warned_of_with_the_way_out() {
        let stacks = Stacks {
            gap: 1_000,
            ..stacks()
        };
        let warning = stacks.with_share().warning().unwrap();
        assert_eq!(
            warning,
            "only 80 % of stacks are complete: 1,000 of 4,991 recorded allocations have one that ends in code without \
             unwind information, most of them in /usr/bin/node; build it with -fasynchronous-unwind-tables or \
             -fno-omit-frame-pointer"
        );
    }
}
