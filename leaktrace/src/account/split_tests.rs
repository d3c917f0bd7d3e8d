//! What pieces are taken for, and that nothing is counted twice or left out.

use leaktrace_common::mapping::flag;
use proptest::prelude::*;

use super::*;
use crate::account::{
    evidence::{
        Block, Rounding,
        tests::{block, site},
    },
    mapped::Mapped,
    pieces::{
        cut,
        tests::{Below, Unseen, map},
    },
    smaps::{Area, Backing},
};
use leaktrace_common::{call::Space, math::Weight};

const MIB: u64 = 1 << 20;

fn area(start: u64, end: u64, backing: Backing, held: u64) -> Area {
    Area {
        rss_bytes: held * MIB,
        ..Area::empty(start * MIB, end * MIB, backing)
    }
}

fn anonymous(start: u64, end: u64, held: u64) -> Area {
    area(start, end, Backing::Anonymous, held)
}

/// A process whose state is carried from look to look.
#[derive(Default)]
struct Looks {
    base: Base,
    known: Known,
    mapped: Mapped,
}

impl Looks {
    fn at(was: &[Area]) -> Self {
        Self {
            base: Base::new(was),
            ..Self::default()
        }
    }

    fn look(&mut self, areas: &[Area], blocks: &[Block], mut pages: impl Pages) -> Split {
        let pieces = cut(areas, &self.mapped, &self.base, &mut pages);
        let mut found = Blocks::new(&pieces, Rounding::Unknown);
        for block in blocks {
            found.add(block);
        }
        let sources = Sources {
            blocks: &found,
            base: &mut self.base,
            known: &mut self.known,
            pages: &mut pages,
        };
        split(&pieces, sources, |stack_id| stack_id == 99)
    }
}

/// Heap, mappings, stacks, before, files; in MiB.
fn levels(levels: &Levels) -> [u64; 5] {
    [
        levels.heap_bytes,
        levels.mappings_bytes,
        levels.stacks_bytes,
        levels.before_bytes,
        levels.files_bytes,
    ]
    .map(|bytes| bytes / MIB)
}

fn of(split: &Split, stack_id: u64) -> u64 {
    split
        .sites
        .get(&site(stack_id, Space::Heap))
        .copied()
        .unwrap_or(0)
}

#[test]
fn a_live_block_says_whose_memory_it_is() {
    let was = [anonymous(100, 200, 50), anonymous(300, 400, 50)];
    let mut looks = Looks::at(&was);
    let now = [
        anonymous(100, 200, 60),
        anonymous(300, 400, 50),
        anonymous(500, 600, 7),
    ];
    let split = looks.look(&now, &[], Unseen);
    assert_eq!(levels(&split.levels), [0, 7, 0, 110, 0]);
    let blocks = [block(1, 150 * MIB, 1000), block(1, 550 * MIB, 1000)];
    let split = looks.look(&now, &blocks, Unseen);
    assert_eq!(levels(&split.levels), [67, 0, 0, 50, 0]);
    assert_eq!(of(&split, 1), 2000);
    // It was the allocator's at the attach, too; and it stays so when the block is gone.
    assert_eq!(levels(&looks.base.levels()), [50, 0, 0, 50, 0]);
    let split = looks.look(&now, &[], Unseen);
    assert_eq!(levels(&split.levels), [67, 0, 0, 50, 0]);
    // Until something else is mapped there.
    looks.known.forget(500 * MIB, 600 * MIB);
    let split = looks.look(&now, &[], Unseen);
    assert_eq!(levels(&split.levels), [60, 7, 0, 50, 0]);
}

#[test]
fn who_has_mapped_it_is_known_by_the_call() {
    let mut looks = Looks::default();
    for event in [
        map(100 * MIB, 10 * MIB, 0, flag::BY_ALLOCATOR),
        map(110 * MIB, 10 * MIB, 5, 0),
        map(120 * MIB, 10 * MIB, 6, flag::STACK),
        map(130 * MIB, 10 * MIB, 99, 0),
    ] {
        looks.mapped.apply(&event);
    }
    // The kernel has made them one; the page tables say what each has.
    let split = looks.look(&[anonymous(100, 140, 25)], &[], Below(125 * MIB));
    assert_eq!(levels(&split.levels), [10, 10, 5, 0, 0]);
    let mapped = split.mappings[&Some((Call::Map, 5))];
    let expected = MappedBytes {
        held_bytes: 10 * MIB,
        length_bytes: 10 * MIB,
        stretches: 1,
        touched: 1,
        made: 0,
    };
    assert_eq!(mapped, expected);
    let [mapping, stack] = split.stretches[..] else {
        panic!("{:?}", split.stretches)
    };
    assert_eq!(
        (mapping.call, mapping.stack_id, mapping.start, mapping.held_bytes),
        (Call::Map, 5, 110 * MIB, 10 * MIB)
    );
    assert_eq!((stack.stack_id, stack.held_bytes), (6, 5 * MIB));
    assert_eq!(split.stacks[&Some((Call::Map, 6))].held_bytes, 5 * MIB);
}

#[test]
fn names_say_what_memory_is() {
    let areas = [
        area(1, 2, Backing::File, 1),
        area(2, 5, Backing::Heap, 3),
        area(6, 11, Backing::Stack, 5),
    ];
    let split = Looks::default().look(&areas, &[], Unseen);
    assert_eq!(levels(&split.levels), [3, 0, 5, 0, 1]);
}

#[test]
fn a_block_that_was_never_touched_is_not_there() {
    let areas = [anonymous(100, 200, 10), anonymous(300, 400, 100)];
    let blocks = [block(1, 100 * MIB, 100 * MIB), block(2, 300 * MIB, 100 * MIB)];
    let mut looks = Looks::default();
    let split = looks.look(&areas, &blocks, Below(110 * MIB));
    assert_eq!((of(&split, 1), of(&split, 2)), (10 * MIB, 100 * MIB));
    // Where pages cannot be counted, it has the part that all has.
    let split = looks.look(&areas, &blocks, Unseen);
    assert_eq!((of(&split, 1), of(&split, 2)), (10 * MIB, 100 * MIB));
}

#[test]
fn small_blocks_have_no_more_than_there_is() {
    let blocks: Vec<Block> = (0..100)
        .map(|index| block(index % 2, (100 + index) * MIB, 100_000))
        .collect();
    let split = Looks::default().look(&[anonymous(100, 200, 5)], &blocks, Unseen);
    assert_eq!((of(&split, 0), of(&split, 1)), (5 * MIB / 2, 5 * MIB / 2));
    assert_eq!(split.outstanding_bytes(), split.levels.heap_bytes);
}

#[test]
fn samples_are_held_against_all_of_the_heap() {
    let areas = [anonymous(100, 101, 1), anonymous(200, 300, 100)];
    let weight = Weight::of(1024, MIB);
    let sampled = |address| Block {
        weight,
        ..block(1, address, 1024)
    };
    // Three samples where there is room for one megabyte: they stand for others.
    let blocks = [sampled(100 * MIB), sampled(100 * MIB + 4096), sampled(200 * MIB)];
    let split = Looks::default().look(&areas, &blocks, Unseen);
    assert_eq!(of(&split, 1), 3 * weight.bytes(1024));
}

proptest! {
    #[test]
    fn all_that_is_there_is_somewhere_once(
        areas in prop::collection::vec((1..40_u64, 0..30_u64, 0..=100_u64, 0..6_usize), 1..12),
        was in prop::collection::vec((1..40_u64, 0..30_u64, 0..=100_u64, 0..6_usize), 0..12),
        maps in prop::collection::vec((0..300_u64, 1..40_u64, 0..9_u32), 0..12),
        blocks in prop::collection::vec((0..400_u64, 1..9_000_000_u64, 0..5_u64), 0..30),
        below in 0..400_u64,
    ) {
        let lay = |areas: Vec<(u64, u64, u64, usize)>| -> Vec<Area> {
            let mut at = 0;
            areas.into_iter().map(|(length, gap, share, kind)| {
                let start = at + gap;
                at = start + length;
                let backing = [Backing::File, Backing::Heap, Backing::Stack];
                let backing = backing.get(kind).copied().unwrap_or(Backing::Anonymous);
                Area {
                    rss_bytes: length * MIB * share / 100,
                    ..Area::empty(start * MIB, at * MIB, backing)
                }
            }).collect()
        };
        let (areas, was) = (lay(areas), lay(was));
        let mut looks = Looks::at(&was);
        for (start, length, flags) in maps {
            looks.mapped.apply(&map(start * MIB, length * MIB, start % 4, flags));
        }
        let blocks: Vec<Block> = blocks.iter().map(|&(at, size, stack)| block(stack, at * MIB, size)).collect();
        let held: u64 = areas.iter().map(Area::held_bytes).sum();
        let stood = looks.base.levels().sum();
        for _ in 0..2 {
            for split in [
                looks.look(&areas, &blocks, Below(below * MIB)),
                looks.look(&areas, &blocks, Unseen),
            ] {
                prop_assert_eq!(split.levels.sum(), held);
                let mapped: u64 = split.mappings.values().map(|bytes| bytes.held_bytes).sum();
                prop_assert_eq!(mapped, split.levels.mappings_bytes);
                prop_assert_eq!(looks.base.levels().sum(), stood);
            }
        }
    }
}
