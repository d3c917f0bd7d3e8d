//! How the walks of stacks ended, summed by allocations.

use std::{cmp::Reverse, collections::HashMap};

use leaktrace_common::unwind::{END_BITS, end, end_of};

use crate::report::stacks::{EndsEarly, Stacks};

/// Places that are named.
const PLACES: usize = 3;

/// Sums.
#[derive(Clone, Debug, Default)]
pub struct Ends {
    by_end: [u64; 1 << END_BITS],
    finished: u64,
    not_kept: u64,
    places: HashMap<(String, u64), u64>,
}

/// The name of a way to end, as the report has it.
pub const fn name(ended: u64) -> &'static str {
    match ended {
        end::COMPLETE => "complete",
        end::GAP => "gap",
        end::UNKNOWN_MAPPING => "unknown_mapping",
        end::FAULT => "fault",
        end::TOO_DEEP => "too_deep",
        end::UNSUPPORTED => "unsupported",
        _ => "frame_pointers",
    }
}

impl Ends {
    /// Adds the allocations of a site. `finished` is whether its stack has been walked on to its end since; `place` is
    /// asked for the file of its last frame where it ends early.
    pub fn add<E>(
        &mut self,
        stack_id: u64,
        allocs: u64,
        finished: bool,
        place: impl FnOnce() -> Result<String, E>,
    ) -> Result<(), E> {
        let ended = end_of(stack_id);
        if stack_id == 0 {
            self.not_kept += allocs;
        } else if finished {
            self.finished += allocs;
        } else {
            self.by_end[ended as usize] += allocs;
            if !matches!(ended, end::COMPLETE | end::FRAME_POINTERS) {
                *self.places.entry((place()?, ended)).or_default() += allocs;
            }
        }
        Ok(())
    }

    /// As the report has it.
    pub fn report(&self) -> Stacks {
        let count = |ended: u64| self.by_end[ended as usize];
        let mut places: Vec<_> = self.places.iter().collect();
        places.sort_by_key(|(place, allocs)| (Reverse(**allocs), *place));
        let incomplete_at = places
            .into_iter()
            .take(PLACES)
            .map(|((object, ended), allocs)| EndsEarly {
                object: object.clone(),
                end: name(*ended),
                allocs: *allocs,
            });
        Stacks {
            complete: count(end::COMPLETE),
            finished: self.finished,
            gap: count(end::GAP),
            unknown_mapping: count(end::UNKNOWN_MAPPING),
            fault: count(end::FAULT),
            too_deep: count(end::TOO_DEEP),
            unsupported: count(end::UNSUPPORTED),
            frame_pointers: count(end::FRAME_POINTERS),
            not_kept: self.not_kept,
            incomplete_at: incomplete_at.collect(),
            ..Stacks::default()
        }
        .with_share()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(ends: &mut Ends, hash: u64, ended: u64, allocs: u64, finished: bool, place: &str) {
        let place = || Ok::<_, ()>(place.to_owned());
        ends.add(hash << END_BITS | ended, allocs, finished, place)
            .unwrap();
    }

    #[test]
    fn allocations_are_summed_by_how_their_stack_ended() {
        let mut ends = Ends::default();
        add(&mut ends, 1, end::COMPLETE, 90, false, "never asked");
        add(&mut ends, 2, end::UNSUPPORTED, 4, true, "never asked");
        add(&mut ends, 0, end::COMPLETE, 1, false, "never asked");
        for (hash, allocs, place) in [
            (3, 1, "/a"),
            (4, 1, "/b"),
            (5, 2, "/a"),
            (6, 1, "/c"),
            (7, 1, "/d"),
        ] {
            add(&mut ends, hash, end::GAP, allocs, false, place);
        }
        let stacks = ends.report();
        assert_eq!((stacks.complete, stacks.finished, stacks.gap), (90, 4, 6));
        assert_eq!((stacks.not_kept, stacks.unsupported), (1, 0));
        assert_eq!(stacks.complete_share, Some(94.0 / 101.0));
        let places: Vec<_> = stacks
            .incomplete_at
            .iter()
            .map(|place| (place.object.as_str(), place.end, place.allocs))
            .collect();
        assert_eq!(places, [("/a", "gap", 3), ("/b", "gap", 1), ("/c", "gap", 1)]);
    }

    #[test]
    fn frame_pointers_say_nothing_of_completeness() {
        let mut ends = Ends::default();
        add(&mut ends, 1, end::FRAME_POINTERS, 5, false, "never asked");
        let stacks = ends.report();
        assert_eq!((stacks.frame_pointers, stacks.complete_share), (5, None));
        assert!(stacks.incomplete_at.is_empty());
    }
}
