//! From stretches of code to pages of rows.
//!
//! Must not know where rules come from, nor machine code.

use std::collections::HashMap;

use leaktrace_common::unwind::{PAGE_BITS, PAGE_ROWS_MAX, Row, Rule};

use super::cfi::{Keep, Stretch, push};
use super::rule::{GAP, SIGNAL, UNSUPPORTED};
use crate::unwind::table::{Segment, Table};

/// Distinct rules of one file: a row has 16 bits for their number.
const RULES_MAX: usize = 1 << 16;

/// A gap that is longer is kept even where no call is in it. Shorter ones are what aligns functions.
const PADDING_BYTES_MAX: u64 = 15;

/// Joins stretches to the rows of a whole file: a rule is in force until the next one. Of two that overlap, the
/// earlier one has the code; of two that begin together, the first.
pub(super) fn rows(stretches: &[Stretch], end: u64, keep: &impl Keep) -> Vec<(u64, Rule)> {
    let mut rows = vec![(0, GAP)];
    let mut at = 0;
    for stretch in stretches {
        let start = if stretch.rows.first().is_some_and(|(_, rule)| *rule == SIGNAL) {
            // Its first byte may be the last of the function before, which makes no call there.
            stretch.start
        } else {
            stretch.start.max(at)
        };
        if stretch.end <= start {
            continue;
        }
        gap(&mut rows, at, start, keep);
        // What holds at the start, when that was cut.
        let first = stretch.rows.partition_point(|(address, _)| *address <= start);
        if let Some((_, rule)) = first.checked_sub(1).and_then(|last| stretch.rows.get(last)) {
            place(&mut rows, start, *rule);
        }
        for (address, rule) in stretch.rows.iter().skip(first) {
            place(&mut rows, *address, *rule);
        }
        at = stretch.end;
    }
    gap(&mut rows, at, end.max(at), keep);
    place(&mut rows, end.max(at), GAP);
    rows
}

fn gap(rows: &mut Vec<(u64, Rule)>, start: u64, end: u64, keep: &impl Keep) {
    if start < end && (end - start > PADDING_BYTES_MAX || keep.keeps(start, end)) {
        place(rows, start, GAP);
    }
}

/// Appends a row; it takes the place of what was to begin there or behind.
fn place(rows: &mut Vec<(u64, Rule)>, address: u64, rule: Rule) {
    while rows.last().is_some_and(|(last, _)| *last >= address && *last > 0) {
        rows.pop();
    }
    push(rows, address, rule);
}

/// Cuts rows into pages.
pub(super) fn table(rows: &[(u64, Rule)], segments: Vec<Segment>) -> Table {
    let first_page = segments.first().map_or(0, |first| first.address >> PAGE_BITS);
    let end = segments.last().map_or(0, Segment::end);
    let page_count = (end >> PAGE_BITS) + 1 - first_page;
    let mut table = Table {
        first_page: first_page as u32,
        page_rows: Vec::with_capacity(page_count as usize + 1),
        rows: Vec::with_capacity(rows.len() + page_count as usize),
        rules: Vec::new(),
        text_bytes: segments.iter().map(|segment| segment.size_bytes).sum(),
        segments,
    };
    let mut numbers = Numbers::default();
    let mut next = rows.partition_point(|(address, _)| *address < first_page << PAGE_BITS);
    let mut in_force = next.checked_sub(1).map_or(GAP, |last| rows[last].1);
    table.page_rows.push(0);
    for page in first_page..first_page + page_count {
        let from = next;
        while rows
            .get(next)
            .is_some_and(|(address, _)| address >> PAGE_BITS == page)
        {
            next += 1;
        }
        cut(&mut table, &mut numbers, in_force, &rows[from..next]);
        in_force = rows[..next].last().map_or(GAP, |(_, rule)| *rule);
        table.page_rows.push(table.rows.len() as u32);
    }
    table.rows.shrink_to_fit();
    table.rules = numbers.rules;
    table
}

/// Appends the rows of one page, in which `in_force` holds at first.
fn cut(table: &mut Table, numbers: &mut Numbers, in_force: Rule, rows: &[(u64, Rule)]) {
    let begins_within = rows.first().is_none_or(|(address, _)| *address as u16 != 0);
    let is_gap = |rule: &Rule| *rule == GAP;
    if (!begins_within || is_gap(&in_force)) && rows.iter().all(|(_, rule)| is_gap(rule)) {
        return;
    }
    if rows.len() + usize::from(begins_within) > PAGE_ROWS_MAX {
        table.rows.push(Row::new(0, numbers.of(UNSUPPORTED)));
        return;
    }
    if begins_within {
        table.rows.push(Row::new(0, numbers.of(in_force)));
    }
    table.rows.extend(
        rows.iter()
            .map(|(address, rule)| Row::new(*address as u16, numbers.of(*rule))),
    );
}

/// Rules and their numbers.
#[derive(Default)]
struct Numbers {
    rules: Vec<Rule>,
    known: HashMap<Rule, u16>,
}

impl Numbers {
    /// The number of a rule. When they are used up, that of a rule that is not followed.
    fn of(&mut self, rule: Rule) -> u16 {
        if let Some(number) = self.known.get(&rule) {
            return *number;
        }
        // The last one is for what has none.
        let rule = if self.rules.len() + 1 < RULES_MAX {
            rule
        } else {
            UNSUPPORTED
        };
        let next = self.rules.len() as u16;
        let rules = &mut self.rules;
        *self.known.entry(rule).or_insert_with(|| {
            rules.push(rule);
            next
        })
    }
}

#[cfg(test)]
#[path = "pages_tests.rs"]
mod tests;
