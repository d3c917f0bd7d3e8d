//! Stretches joined and cut into pages, against looking for the last row by hand.

use super::*;
use leaktrace_common::unwind::{cfa, rbp};
use proptest::prelude::*;

const fn rule(cfa_offset: i32) -> Rule {
    Rule {
        cfa_offset,
        rbp_offset: 0,
        cfa: cfa::RSP,
        rbp: rbp::SAME,
    }
}

fn stretch(start: u64, end: u64, rows: &[(u64, i32)]) -> Stretch {
    Stretch {
        start,
        end,
        rows: rows
            .iter()
            .map(|(address, offset)| (*address, rule(*offset)))
            .collect(),
        row_count: rows.len() as u32,
    }
}

fn code(start: u64, end: u64) -> Vec<Segment> {
    vec![Segment {
        file_offset: start,
        address: start,
        size_bytes: end - start,
    }]
}

/// Keeps rows in which one of these addresses is.
struct At(Vec<u64>);

impl Keep for At {
    fn keeps(&self, start: u64, end: u64) -> bool {
        self.0.iter().any(|address| (start..end).contains(address))
    }
}

fn everything() -> At {
    At((0..0x1000).collect())
}

#[test]
fn a_gap_is_kept_if_it_is_long_or_something_returns_there() {
    let functions = [
        stretch(0x100, 0x110, &[(0x100, 8)]),
        stretch(0x118, 0x120, &[(0x118, 16)]),
        stretch(0x130, 0x140, &[(0x130, 24)]),
    ];
    assert_eq!(
        rows(&functions, 0x140, &At(vec![])),
        [
            (0, GAP),
            (0x100, rule(8)),
            (0x118, rule(16)),
            (0x120, GAP),
            (0x130, rule(24)),
            (0x140, GAP)
        ]
    );
    let with_call = rows(&functions, 0x140, &At(vec![0x113]));
    assert!(with_call.contains(&(0x110, GAP)));
}

#[test]
fn equal_neighbours_become_one() {
    let functions = [
        stretch(0x100, 0x110, &[(0x100, 8)]),
        stretch(0x110, 0x120, &[(0x110, 8), (0x118, 16)]),
    ];
    assert_eq!(
        rows(&functions, 0x120, &everything()),
        [(0, GAP), (0x100, rule(8)), (0x118, rule(16)), (0x120, GAP)]
    );
}

#[test]
fn of_two_that_overlap_the_earlier_has_the_code() {
    let functions = [
        stretch(0x100, 0x120, &[(0x100, 8)]),
        stretch(0x110, 0x140, &[(0x110, 16), (0x118, 24), (0x130, 32)]),
        stretch(0x110, 0x120, &[(0x110, 99)]),
    ];
    assert_eq!(
        rows(&functions, 0x140, &everything()),
        [
            (0, GAP),
            (0x100, rule(8)),
            (0x120, rule(24)),
            (0x130, rule(32)),
            (0x140, GAP)
        ]
    );
}

#[test]
fn what_a_handler_returns_to_begins_a_byte_early() {
    let mut signal = stretch(0x10f, 0x119, &[]);
    signal.rows.push((0x10f, SIGNAL));
    let functions = [stretch(0x100, 0x110, &[(0x100, 8), (0x10f, 16)]), signal];
    assert_eq!(
        rows(&functions, 0x140, &everything()),
        [(0, GAP), (0x100, rule(8)), (0x10f, SIGNAL), (0x119, GAP)]
    );
}

#[test]
fn a_page_with_too_many_rows_is_not_followed() {
    let many: Vec<(u64, Rule)> = (0..=PAGE_ROWS_MAX as u64)
        .map(|at| (0x1_0000 + at, rule((at % 7) as i32)))
        .chain([(0x2_0000, rule(8))])
        .collect();
    let table = table(&many, code(0x1_0000, 0x2_1000));
    assert_eq!(table.rule_at(0x1_0004), UNSUPPORTED);
    assert_eq!(table.rule_at(0x1_ffff), UNSUPPORTED);
    assert_eq!(table.rule_at(0x2_0000), rule(8));
    assert!(table.is_sound());
}

#[test]
fn rules_beyond_what_a_row_can_name_are_not_followed() {
    let many: Vec<(u64, Rule)> = (0..70_000).map(|at| (at * 16, rule(at as i32))).collect();
    let table = table(&many, code(0, 70_000 * 16));
    assert_eq!(table.rules.len(), RULES_MAX);
    assert_eq!(table.rule_at(65_534 * 16), rule(65_534));
    assert_eq!(table.rule_at(65_535 * 16), UNSUPPORTED);
    assert_eq!(table.rule_at(69_999 * 16), UNSUPPORTED);
    assert!(table.is_sound());
}

/// Functions of up to four rows, with gaps of all lengths, over some pages.
fn functions() -> impl Strategy<Value = Vec<Stretch>> {
    let rows = prop::collection::vec((1_u64..3000, 0_i32..4), 1..5);
    let function = (0_u64..40, rows, 0_u64..200_000, any::<bool>());
    prop::collection::vec(function, 0..60).prop_map(|functions| {
        let mut at = 0x5_1230;
        let mut stretches = Vec::new();
        for (padding, rows, far, is_far) in functions {
            at += padding + if is_far { far } else { 0 };
            let start = at;
            let mut placed = Vec::new();
            for (size_bytes, offset) in rows {
                if placed.last().is_none_or(|(_, last)| *last != offset) {
                    placed.push((at, offset));
                }
                at += size_bytes;
            }
            stretches.push(stretch(start, at, &placed));
        }
        stretches
    })
}

/// Leaves out what `keep` does not want, as the reader of unwind sections does.
fn filtered(functions: &[Stretch], keep: &At) -> Vec<Stretch> {
    functions
        .iter()
        .map(|function| {
            let ends = function
                .rows
                .iter()
                .skip(1)
                .map(|(address, _)| *address)
                .chain([function.end]);
            let mut kept = Vec::new();
            for ((address, rule), end) in function.rows.iter().zip(ends) {
                if keep.keeps(*address, end) {
                    push(&mut kept, *address, *rule);
                }
            }
            Stretch {
                rows: kept,
                ..function.clone()
            }
        })
        .collect()
}

proptest! {
    #[test]
    fn rules_where_something_returns_do_not_depend_on_what_is_left_out(
        functions in functions(),
        calls in prop::collection::vec(0_u64..400_000, 0..100),
    ) {
        let end = functions.last().map_or(0x5_2000, |function| function.end);
        let keep = At(calls.iter().map(|at| 0x5_1000 + at).collect());
        let kept = table(&rows(&filtered(&functions, &keep), end, &keep), code(0x5_1200, end));
        prop_assert!(kept.is_sound());
        for address in &keep.0 {
            let function = functions.iter().find(|function| (function.start..function.end).contains(address));
            let expected = function.map_or(GAP, |function| {
                function.rows.iter().rev().find(|(row, _)| row <= address).unwrap().1
            });
            prop_assert_eq!(kept.rule_at(*address), expected, "{:#x}", address);
        }
    }
}
