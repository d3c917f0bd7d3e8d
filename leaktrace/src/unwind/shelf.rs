//! Which tables are in the kernel's arrays, and where. Must not know files or processes: a table has a number, and
//! is in use as often as it is held.

use std::{collections::HashMap, ops::Range, sync::Arc};

use leaktrace_common::unwind::{CHUNK_ROWS, PAGE_ROWS_MAX, Page, Row, Rule};

use super::{extents::Extents, table::Table};
use crate::kernel::tables::{Arrays, Sizes};

/// Number of a table: that of one file's content, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableId(pub u32);

/// How long a walk may still read what no layout leads to any more. A walk takes microseconds; a task that is
/// preempted in one, on a machine that has more to run than it can, some tens of milliseconds.
pub const GRACE_NS: u64 = 1_000_000_000;

/// Which array has no room left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// That of rows.
    Rows,
    /// That of pages.
    Pages,
    /// That of rules.
    Rules,
}

/// A table that is in the kernel.
#[derive(Debug)]
pub struct Placed {
    /// The table.
    pub table: Arc<Table>,
    /// Index of its first page.
    pub page_base: u32,
    rows: Vec<Range<u32>>,
    rules: Vec<u16>,
    holds: u32,
    /// When it was last held, nanoseconds.
    used_ns: u64,
}

/// The tables in the kernel.
#[derive(Debug)]
pub struct Shelf {
    rows: Extents,
    pages: Extents,
    rules: Rules,
    capacity: Sizes,
    placed: HashMap<TableId, Placed>,
}

impl Shelf {
    /// Nothing is there yet. Rule 0 of the arrays is that of a gap.
    pub fn new(arrays: &mut dyn Arrays) -> Self {
        let capacity = arrays.sizes();
        arrays.put_rule(0, Rule::default());
        Self {
            rows: Extents::new(0..capacity.rows, CHUNK_ROWS as u32),
            pages: Extents::new(0..capacity.pages, u32::MAX),
            rules: Rules::new(capacity.rules),
            capacity,
            placed: HashMap::new(),
        }
    }

    /// A table, if it is in the kernel.
    pub fn get(&self, id: TableId) -> Option<&Placed> {
        self.placed.get(&id)
    }

    /// Puts a table into the kernel and holds it; one that is there is only held. Tables that nobody has held for
    /// [`GRACE_NS`] make room, the one first that was last held longest ago.
    ///
    /// # Errors
    /// [`Full`]; then all is as before, but for tables that have made room.
    pub fn hold(
        &mut self,
        id: TableId,
        table: &Arc<Table>,
        arrays: &mut dyn Arrays,
        now_ns: u64,
    ) -> Result<&Placed, Full> {
        if !self.placed.contains_key(&id) {
            let placed = self.place(table, arrays, now_ns)?;
            self.placed.insert(id, placed);
        }
        let Some(placed) = self.placed.get_mut(&id) else {
            return Err(Full::Rows);
        };
        placed.holds += 1;
        Ok(placed)
    }

    /// Takes back one [`Self::hold`].
    pub fn release(&mut self, id: TableId, now_ns: u64) {
        if let Some(placed) = self.placed.get_mut(&id) {
            placed.holds = placed.holds.saturating_sub(1);
            placed.used_ns = now_ns;
        }
    }

    fn place(&mut self, table: &Arc<Table>, arrays: &mut dyn Arrays, now_ns: u64) -> Result<Placed, Full> {
        self.could_fit(table)?;
        loop {
            match self.try_place(table, arrays, now_ns) {
                Err(full) => self.make_room(now_ns).ok_or(full)?,
                placed => return placed,
            }
        }
    }

    /// Whether it fits once all else is gone: nothing has to make room for what does not fit then.
    const fn could_fit(&self, table: &Table) -> Result<(), Full> {
        if table.rows.len() > self.capacity.rows as usize {
            Err(Full::Rows)
        } else if table.page_rows.len() > self.capacity.pages as usize {
            Err(Full::Pages)
        } else if table.rules.len() >= self.capacity.rules as usize {
            Err(Full::Rules)
        } else {
            Ok(())
        }
    }

    /// Takes the table out that nobody has held for longest.
    fn make_room(&mut self, now_ns: u64) -> Option<()> {
        let idle = self
            .placed
            .iter()
            .filter(|(_, placed)| placed.holds == 0 && placed.used_ns.saturating_add(GRACE_NS) <= now_ns);
        let (&id, _) = idle.min_by_key(|(_, placed)| placed.used_ns)?;
        let gone = self.placed.remove(&id)?;
        for rows in gone.rows {
            self.rows.give(rows);
        }
        self.pages
            .give(gone.page_base..gone.page_base + gone.table.page_count());
        self.rules.release(&gone.rules);
        Some(())
    }

    fn try_place(
        &mut self,
        table: &Arc<Table>,
        arrays: &mut dyn Arrays,
        now_ns: u64,
    ) -> Result<Placed, Full> {
        let runs = take_runs(&mut self.rows, &table.page_rows).ok_or(Full::Rows)?;
        let rows: Vec<Range<u32>> = runs.iter().map(|run| run.rows.clone()).collect();
        let give_rows = |extents: &mut Extents| rows.iter().cloned().for_each(|rows| extents.give(rows));
        let Some(pages) = self.pages.take(table.page_count()) else {
            give_rows(&mut self.rows);
            return Err(Full::Pages);
        };
        let Some(rules) = self.rules.hold(&table.rules, arrays) else {
            give_rows(&mut self.rows);
            self.pages.give(pages);
            return Err(Full::Rules);
        };
        write(table, &runs, pages.start, &rules, arrays);
        Ok(Placed {
            table: Arc::clone(table),
            page_base: pages.start,
            rows,
            rules,
            holds: 0,
            used_ns: now_ns,
        })
    }
}

/// Pages of a table whose rows lie in a row.
#[derive(Debug)]
struct Run {
    /// Pages of the table.
    pages: Range<usize>,
    /// Where their rows are.
    rows: Range<u32>,
}

/// Takes room for the rows of a table: all in one range if there is one, else as much as fits into the longest at a
/// time. Whole pages only.
fn take_runs(free: &mut Extents, page_rows: &[u32]) -> Option<Vec<Run>> {
    let last = page_rows.len().saturating_sub(1);
    let mut runs: Vec<Run> = Vec::new();
    let mut page = 0;
    while page < last {
        let longest = free.longest();
        let begin = page_rows[page];
        let end = page + page_rows[page..].partition_point(|&row| row - begin <= longest) - 1;
        let range = (end > page).then(|| free.take(page_rows[end] - begin)).flatten();
        let Some(rows) = range else {
            for run in runs {
                free.give(run.rows);
            }
            return None;
        };
        runs.push(Run {
            pages: page..end,
            rows,
        });
        page = end;
    }
    Some(runs)
}

/// Writes a table: rows first, since pages lead to them.
fn write(table: &Table, runs: &[Run], page_base: u32, rules: &[u16], arrays: &mut dyn Arrays) {
    let mut pages = Vec::with_capacity(table.page_count() as usize);
    for run in runs {
        let begin = table.page_rows[run.pages.start];
        let rows = &table.rows[begin as usize..table.page_rows[run.pages.end] as usize];
        let rows: Vec<Row> = rows
            .iter()
            .map(|row| Row::new(row.offset(), rules[usize::from(row.rule())]))
            .collect();
        arrays.put_rows(run.rows.start, &rows);
        for page in run.pages.clone() {
            let (from, to) = (table.page_rows[page], table.page_rows[page + 1]);
            pages.push(entry(run.rows.start + (from - begin), to - from));
        }
    }
    arrays.put_pages(page_base, &pages);
}

/// The page whose `count` rows are from `first` on.
const fn entry(first: u32, count: u32) -> Page {
    let chunk_rows = CHUNK_ROWS as u32;
    // More rows than the kernel side searches are as good as none.
    if count == 0 || count > PAGE_ROWS_MAX as u32 {
        return Page(0);
    }
    Page::new(
        (first / chunk_rows) as u16,
        (first % chunk_rows) as u16,
        count as u16,
    )
}

/// The rules in the kernel, each there once.
#[derive(Debug)]
struct Rules {
    numbers: HashMap<Rule, u16>,
    /// By number: the rule and how many tables have it.
    uses: Vec<(Rule, u32)>,
    free: Vec<u16>,
    capacity: u32,
}

impl Rules {
    fn new(capacity: u32) -> Self {
        let gap = Rule::default();
        Self {
            numbers: HashMap::from([(gap, 0)]),
            // Rule 0 is never taken out.
            uses: vec![(gap, 1)],
            free: Vec::new(),
            capacity: capacity.min(1 << u16::BITS),
        }
    }

    /// The numbers of a table's rules, in their order; `None` where they do not all fit.
    fn hold(&mut self, rules: &[Rule], arrays: &mut dyn Arrays) -> Option<Vec<u16>> {
        let mut numbers = Vec::with_capacity(rules.len());
        for &rule in rules {
            let known = self.numbers.get(&rule).copied();
            let Some(number) = known.or_else(|| self.add(rule, arrays)) else {
                self.release(&numbers);
                return None;
            };
            self.uses[usize::from(number)].1 += 1;
            numbers.push(number);
        }
        Some(numbers)
    }

    fn add(&mut self, rule: Rule, arrays: &mut dyn Arrays) -> Option<u16> {
        let number = match self.free.pop() {
            Some(number) => number,
            None if (self.uses.len() as u32) < self.capacity => {
                self.uses.push((rule, 0));
                (self.uses.len() - 1) as u16
            }
            None => return None,
        };
        self.uses[usize::from(number)] = (rule, 0);
        self.numbers.insert(rule, number);
        arrays.put_rule(number, rule);
        Some(number)
    }

    fn release(&mut self, numbers: &[u16]) {
        for &number in numbers {
            let (rule, uses) = &mut self.uses[usize::from(number)];
            *uses -= 1;
            if *uses == 0 {
                self.numbers.remove(rule);
                self.free.push(number);
            }
        }
    }
}

#[cfg(test)]
#[path = "shelf_tests.rs"]
mod tests;
