//! What is mapped against a model that has an entry for each page.

use std::collections::BTreeMap;

use leaktrace_common::key::Process;
use proptest::prelude::*;

use super::{super::smaps::Backing, *};

const PAGE: u64 = 4096;

fn event(kind: u32, start: u64, length: u64, old: (u64, u64), flags: u32, number: u64) -> MapEvent {
    MapEvent {
        process: Process {
            tgid: 7,
            image: 0,
            space: 0,
            device: 0,
        },
        time_ns: number,
        began_ns: number,
        stack_id: number << 8,
        start: start * PAGE,
        length_bytes: length * PAGE,
        old_start: old.0 * PAGE,
        old_length_bytes: old.1 * PAGE,
        kind,
        flags,
    }
}

fn map(start: u64, length: u64, number: u64) -> MapEvent {
    event(kind::MAP, start, length, (0, 0), flag::ANONYMOUS, number)
}

/// First and last page and the stack of each stretch that is known, in order.
fn known(mapped: &Mapped) -> Vec<(u64, u64, u64)> {
    let pieces = mapped.pieces(0, u64::MAX);
    let known =
        pieces.filter_map(|(start, end, origin)| Some((start / PAGE, end / PAGE, origin?.stack_id >> 8)));
    known.collect()
}

fn after(events: &[MapEvent]) -> Mapped {
    let mut mapped = Mapped::new();
    for event in events {
        mapped.apply(event);
    }
    mapped
}

#[test]
fn a_hole_splits_a_mapping() {
    let hole = event(kind::UNMAP, 14, 2, (0, 0), 0, 2);
    assert_eq!(known(&after(&[map(10, 10, 1), hole])), [(10, 14, 1), (16, 20, 1)]);
    assert_eq!(
        known(&after(&[map(10, 10, 1), map(12, 3, 2)])),
        [(10, 12, 1), (12, 15, 2), (15, 20, 1)]
    );
}

#[test]
fn what_is_given_to_another_before_it_is_told_of_stays_his() {
    // Taken away from 5 on, told of at 9; mapped by another at 7.
    let taken = MapEvent {
        began_ns: 5,
        ..event(kind::UNMAP, 10, 10, (0, 0), 0, 9)
    };
    assert_eq!(
        known(&after(&[map(10, 10, 1), map(12, 3, 7), taken])),
        [(12, 15, 7)]
    );
    let moved = MapEvent {
        began_ns: 5,
        ..event(kind::REMAP, 50, 10, (10, 10), 0, 9)
    };
    let mapped = after(&[map(10, 10, 1), map(12, 3, 7), moved]);
    assert_eq!(
        mapped
            .pieces(10 * PAGE, 20 * PAGE)
            .filter(|piece| piece.2.is_some())
            .count(),
        1
    );
}

#[test]
fn what_moves_and_grows_is_of_who_mapped_it() {
    let moved = event(kind::REMAP, 50, 30, (10, 10), 0, 2);
    assert_eq!(known(&after(&[map(10, 10, 1), moved])), [(50, 80, 1)]);
    let grown = event(kind::REMAP, 10, 30, (10, 10), 0, 2);
    assert_eq!(known(&after(&[map(10, 10, 1), grown])), [(10, 40, 1)]);
    let shrunk = event(kind::REMAP, 10, 4, (10, 10), 0, 2);
    assert_eq!(known(&after(&[map(10, 10, 1), shrunk])), [(10, 14, 1)]);
    let kept = event(kind::REMAP, 50, 10, (10, 10), flag::KEEPS_OLD, 2);
    assert_eq!(known(&after(&[map(10, 10, 1), kept])), [(10, 20, 1), (50, 60, 1)]);
}

#[test]
fn what_was_mapped_before_and_moves_is_known_to_be() {
    let mapped = after(&[event(kind::REMAP, 50, 30, (10, 10), 0, 2)]);
    let pieces: Vec<_> = mapped.pieces(50 * PAGE, 80 * PAGE).collect();
    let before: Vec<_> = pieces
        .iter()
        .map(|(start, end, origin)| (start / PAGE, end / PAGE, origin.map(|origin| origin.before)))
        .collect();
    assert_eq!(before, [(50, 60, Some(true)), (60, 80, Some(false))]);
    // What grows where it is: only that is known.
    let mapped = after(&[event(kind::REMAP, 10, 30, (10, 10), 0, 2)]);
    assert_eq!(known(&mapped), [(20, 40, 2)]);
}

#[test]
fn the_break_moves_both_ways() {
    let to = |now, old, number| event(kind::BREAK, now, 0, (old, 0), 0, number);
    assert_eq!(known(&after(&[to(100, 0, 1)])), []);
    let moves = [to(120, 100, 1), to(150, 120, 2), to(110, 150, 3)];
    assert_eq!(known(&after(&moves)), [(100, 110, 1)]);
    assert_eq!(known(&after(&moves[..2])), [(100, 120, 1), (120, 150, 2)]);
}

#[test]
fn after_a_loss_only_what_is_mapped_stays() {
    let mut mapped = after(&[map(10, 10, 1), map(30, 10, 2)]);
    let area = |start, end| Area::empty(start * PAGE, end * PAGE, Backing::Anonymous);
    mapped.resync(&[area(5, 12), area(18, 31), area(100, 200)]);
    assert_eq!(known(&mapped), [(10, 12, 1), (18, 20, 1), (30, 31, 2)]);
    mapped.resync(&[]);
    assert!(mapped.is_empty());
}

#[test]
fn there_is_an_end_to_what_is_kept() {
    let mut mapped = Mapped::new();
    let many = INTERVALS_MAX as u64;
    // Two stacks in turn: no two neighbours are alike.
    for number in 0..many + 10 {
        mapped.apply(&map(number, 1, number % 2));
    }
    assert_eq!((mapped.len() as u64, mapped.dropped()), (many, 10));
    // Neighbours of one stack are one when there is no more room.
    let mut mapped = Mapped::new();
    for number in 0..many + 10 {
        mapped.apply(&MapEvent {
            time_ns: number,
            ..map(number, 1, 3)
        });
    }
    assert!(mapped.len() < 20);
    assert_eq!(mapped.dropped(), 0);
    assert_eq!(
        mapped
            .pieces(0, u64::MAX)
            .filter(|(.., origin)| origin.is_some())
            .count(),
        mapped.len()
    );
}

/// The same with an entry for each page.
#[derive(Default)]
struct Pages(BTreeMap<u64, Origin>);

impl Pages {
    fn apply(&mut self, event: &MapEvent) {
        let (start, length) = (event.start / PAGE, event.length_bytes / PAGE);
        let (old, old_length) = (event.old_start / PAGE, event.old_length_bytes / PAGE);
        match event.kind {
            kind::MAP => {
                for page in start..start + length {
                    self.0.insert(page, Origin::new(event, Call::Map));
                }
            }
            kind::UNMAP => {
                for page in start..start + length {
                    self.0.remove(&page);
                }
            }
            kind::REMAP => {
                let was: Vec<Option<Origin>> = (old..old + old_length)
                    .map(|page| self.0.get(&page).copied())
                    .collect();
                let gone = if event.flags & flag::KEEPS_OLD == 0 {
                    old_length
                } else {
                    0
                };
                for page in (old..old + gone).chain(start..start + length) {
                    self.0.remove(&page);
                }
                let remapped = Origin::new(event, Call::Remap);
                let before = Origin {
                    before: true,
                    ..remapped
                };
                for index in 0..length {
                    let origin = match was.get(index as usize) {
                        Some(Some(origin)) => Some(*origin),
                        Some(None) => (start != old).then_some(before),
                        None => Some(was.last().copied().flatten().unwrap_or(remapped)),
                    };
                    if let Some(origin) = origin {
                        self.0.insert(start + index, origin);
                    }
                }
            }
            _ => {
                for page in start.min(old)..start.max(old) {
                    self.0.remove(&page);
                }
                let origin = Origin {
                    length_bytes: (start.saturating_sub(old)) * PAGE,
                    ..Origin::new(event, Call::Break)
                };
                for page in old..start {
                    self.0.insert(page, origin);
                }
            }
        }
    }
}

fn events() -> impl Strategy<Value = Vec<MapEvent>> {
    let flags = prop::sample::select(vec![0, flag::BY_ALLOCATOR, flag::STACK, flag::KEEPS_OLD]);
    let one = (
        1..=4_u32,
        1..60_u64,
        1..20_u64,
        1..60_u64,
        1..20_u64,
        flags,
        any::<bool>(),
    );
    prop::collection::vec(one, 1..60).prop_map(|all| {
        let numbered = all.into_iter().enumerate();
        let all = numbered.filter_map(|(number, (kind, start, length, old, old_length, flags, stays))| {
            let start = if stays { old } else { start };
            let disjoint = start + length <= old || old + old_length <= start;
            // As the kernel has it: what moves does not overlap where it was.
            if kind == kind::REMAP && start != old && !disjoint {
                return None;
            }
            let flags = if start == old {
                flags & !flag::KEEPS_OLD
            } else {
                flags
            };
            Some(event(
                kind,
                start,
                length,
                (old, old_length),
                flags,
                number as u64 + 1,
            ))
        });
        all.collect()
    })
}

proptest! {
    #[test]
    fn stretches_say_what_pages_would(events in events()) {
        let (mut mapped, mut pages) = (Mapped::new(), Pages::default());
        for event in &events {
            mapped.apply(event);
            pages.apply(event);
            let mut at = 0;
            for (start, end, origin) in mapped.pieces(0, 200 * PAGE) {
                prop_assert_eq!(start, at);
                prop_assert!(end > start);
                at = end;
                for page in start / PAGE..end / PAGE {
                    prop_assert_eq!(origin, pages.0.get(&page), "page {} after {:?}", page, event);
                }
            }
            prop_assert_eq!(at, 200 * PAGE);
        }
    }
}
