//! Tables on the shelf, found again as the kernel side finds them.

use leaktrace_common::unwind::{PAGE_BITS, cfa, rbp};
use proptest::prelude::*;

use super::*;
use crate::unwind::memory::Memory;

const CHUNK: u32 = CHUNK_ROWS as u32;

fn sizes(chunks: u32) -> Sizes {
    Sizes {
        rows: chunks * CHUNK,
        pages: 64,
        rules: 64,
        mappings: 1,
        layouts: 1,
    }
}

/// A table with as many rows in each page as given, and `rules` rules of its own.
fn table(seed: u32, rows_of_pages: &[u32], rules: u32) -> Arc<Table> {
    let mut table = Table {
        first_page: seed,
        page_rows: vec![0],
        ..Table::default()
    };
    let rule = |number| Rule {
        cfa_offset: (seed % 3 * 1000 + number) as i32,
        cfa: cfa::RSP,
        rbp: rbp::SAME,
        rbp_offset: 0,
    };
    table.rules.extend((0..rules).map(rule));
    for (page, &count) in rows_of_pages.iter().enumerate() {
        let row = |row: u32| {
            let offset = row * ((1 << PAGE_BITS) / count);
            Row::new(offset as u16, ((row * 7 + seed + page as u32) % rules) as u16)
        };
        table.rows.extend((0..count).map(row));
        table.page_rows.push(table.rows.len() as u32);
    }
    Arc::new(table)
}

/// Addresses at which something changes, and those before them, give what the table gives.
fn check(memory: &Memory, placed: &Placed) {
    let table = &placed.table;
    for page in 0..table.page_count() {
        let at = memory.page(placed.page_base + page);
        let base = u64::from(table.first_page + page) << PAGE_BITS;
        let rows = table.page(page);
        assert_eq!(usize::from(at.count()), rows.len());
        assert!(
            u32::from(at.first()) + u32::from(at.count()) <= CHUNK,
            "in two chunks"
        );
        let some = rows.iter().step_by(61).chain(rows.last());
        for offset in some.map(|row| row.offset()).chain([u16::MAX]) {
            for offset in [offset.saturating_sub(1), offset] {
                let expected = table.rule_at(base | u64::from(offset));
                assert_eq!(memory.rule_in(at, offset), expected, "page {page} at {offset:#x}");
            }
        }
    }
}

fn check_all(memory: &Memory, shelf: &Shelf) {
    let mut rows: Vec<Range<u32>> = Vec::new();
    let mut pages: Vec<Range<u32>> = Vec::new();
    for placed in shelf.placed.values() {
        rows.extend(placed.rows.iter().filter(|rows| !rows.is_empty()).cloned());
        pages.push(placed.page_base..placed.page_base + placed.table.page_count());
        if placed.holds > 0 {
            check(memory, placed);
        }
    }
    for mut ranges in [rows, pages] {
        ranges.sort_by_key(|range| (range.start, range.end));
        assert!(
            ranges.windows(2).all(|pair| pair[0].end <= pair[1].start),
            "{ranges:?}"
        );
    }
}

#[derive(Clone, Debug)]
enum Step {
    Hold(usize),
    Release(usize),
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0usize..12).prop_map(Step::Hold),
        3 => (0usize..12).prop_map(Step::Release),
        1 => Just(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever comes and goes: what is held is found, nothing overlaps, no page lies in two chunks, and what fits
    /// into an empty shelf fits once all else has been let go.
    #[test]
    fn what_is_held_is_found(
        tables in prop::collection::vec(
            (prop::collection::vec(prop_oneof![Just(0u32), 1u32..8191], 1..14), 1u32..40), 12),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let tables: Vec<Arc<Table>> = (0..)
            .zip(&tables)
            .map(|(seed, (pages, rules))| table(seed, pages, *rules))
            .collect();
        let mut memory = Memory::new(sizes(2));
        let mut shelf = Shelf::new(&mut memory);
        let mut holds = vec![0; tables.len()];
        let mut now_ns = 5;
        for step in steps {
            now_ns += 1;
            match step {
                Step::Hold(which) => {
                    let id = TableId(which as u32);
                    let held = shelf.hold(id, &tables[which], &mut memory, now_ns);
                    holds[which] += u32::from(held.is_ok());
                }
                Step::Release(which) if holds[which] > 0 => {
                    holds[which] -= 1;
                    shelf.release(TableId(which as u32), now_ns);
                }
                Step::Release(_) => {}
                Step::Wait => now_ns += GRACE_NS,
            }
            check_all(&memory, &shelf);
        }
        for (which, count) in holds.into_iter().enumerate() {
            (0..count).for_each(|_| shelf.release(TableId(which as u32), now_ns));
        }
        for (which, table) in tables.iter().enumerate() {
            now_ns += GRACE_NS;
            let id = TableId(which as u32);
            let fits = shelf.could_fit(table);
            prop_assert_eq!(shelf.hold(id, table, &mut memory, now_ns).map(drop), fits);
            check_all(&memory, &shelf);
            shelf.release(id, now_ns);
        }
    }
}

#[test]
fn the_table_used_longest_ago_makes_room_and_no_other() {
    let mut memory = Memory::new(sizes(1));
    let mut shelf = Shelf::new(&mut memory);
    // Three fit, a fourth does not.
    let tables: Vec<Arc<Table>> = (0..4).map(|seed| table(seed, &[8000, 8000], 3)).collect();
    for which in 0..3 {
        let id = TableId(which);
        assert!(shelf.hold(id, &tables[which as usize], &mut memory, 0).is_ok());
    }
    shelf.release(TableId(1), 20);
    shelf.release(TableId(0), 30);
    let full = |shelf: &mut Shelf, memory: &mut Memory, now_ns| {
        shelf.hold(TableId(3), &tables[3], memory, now_ns).map(drop)
    };
    // 65536 rows hold four of 16000; make the room scarce with one more page.
    let fourth = table(9, &[8000, 8000], 3);
    assert!(shelf.hold(TableId(9), &fourth, &mut memory, 0).is_ok());
    // A walk may still be in it.
    assert_eq!(full(&mut shelf, &mut memory, 20 + GRACE_NS - 1), Err(Full::Rows));
    assert_eq!(full(&mut shelf, &mut memory, 20 + GRACE_NS), Ok(()));
    assert!(shelf.get(TableId(1)).is_none() && shelf.get(TableId(0)).is_some());
    check_all(&memory, &shelf);
}

#[test]
fn what_never_fits_drives_nothing_out() {
    let mut memory = Memory::new(sizes(1));
    let mut shelf = Shelf::new(&mut memory);
    assert!(
        shelf
            .hold(TableId(0), &table(0, &[10], 3), &mut memory, 0)
            .is_ok()
    );
    shelf.release(TableId(0), 0);
    for (number, (large, full)) in [
        (table(1, &[8000; 9], 3), Full::Rows),
        (table(1, &[1; 65], 3), Full::Pages),
        (table(1, &[100], 64), Full::Rules),
    ]
    .into_iter()
    .enumerate()
    {
        let id = TableId(number as u32 + 1);
        let held = shelf.hold(id, &large, &mut memory, 10 * GRACE_NS).map(drop);
        assert_eq!(held, Err(full));
    }
    assert!(shelf.get(TableId(0)).is_some());
}

#[test]
fn rules_are_there_once_and_go_with_their_last_table() {
    let mut memory = Memory::new(sizes(1));
    let mut shelf = Shelf::new(&mut memory);
    // 0 and 3 have the same rules.
    for (id, seed, rules) in [(0, 0, 30), (1, 1, 30), (2, 3, 30)] {
        let table = table(seed, &[100], rules);
        assert!(shelf.hold(TableId(id), &table, &mut memory, 0).is_ok(), "{id}");
    }
    assert_eq!(shelf.rules.uses.len(), 61);
    shelf.release(TableId(0), 0);
    shelf.release(TableId(1), 0);
    // 60 and that of a gap are in use, and 4 more do not fit. Without table 0 there is no more room, without 1 there is.
    let new = table(2, &[100], 4);
    assert!(shelf.hold(TableId(4), &new, &mut memory, GRACE_NS).is_ok());
    assert!(shelf.get(TableId(2)).is_some());
    check_all(&memory, &shelf);
}

#[test]
fn a_table_without_rows_takes_no_room() {
    let mut memory = Memory::new(sizes(1));
    let mut shelf = Shelf::new(&mut memory);
    let full = table(0, &[8191, 8191, 8191, 8191, 8191, 8191, 8191, 8191, 8], 1);
    assert!(shelf.hold(TableId(0), &full, &mut memory, 0).is_ok());
    assert_eq!(shelf.rows.longest(), 0);
    for (id, table) in [(1, table(1, &[0, 0], 1)), (2, Arc::new(Table::default()))] {
        let held = shelf.hold(TableId(id), &table, &mut memory, 0).map(drop);
        assert_eq!(held, Ok(()), "{id}");
    }
    check_all(&memory, &shelf);
}
