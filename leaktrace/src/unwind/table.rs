//! The unwind table of one file: for every place from which a call is made, the rule that leads to the caller.
//!
//! What is in a table, and how a reader finds a rule in it; the kernel side's search (`leaktrace-ebpf/src/stack/`)
//! gives what [`Table::rule_at`] gives. Must not know ELF or DWARF, nor where tables lie in the kernel.

use std::fmt;

use leaktrace_common::unwind::{PAGE_BITS, PAGE_ROWS_MAX, Row, Rule, cfa};

/// Bytes of a page of memory, to which the kernel rounds mappings.
const MEMORY_PAGE_BYTES: u64 = 4096;

/// A stretch of a file that is mapped as code. Not rounded: lld and mold let segments begin within a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First byte in the file.
    pub file_offset: u64,
    /// ELF virtual address of that byte.
    pub address: u64,
    /// Bytes in the file.
    pub size_bytes: u64,
}

impl Segment {
    /// First address after it.
    pub const fn end(&self) -> u64 {
        self.address.saturating_add(self.size_bytes)
    }
}

/// The table of one file. Addresses are ELF virtual addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// What of the file is code, by address.
    pub segments: Vec<Segment>,
    /// Number (address >> [`PAGE_BITS`]) of the first page.
    pub first_page: u32,
    /// Where the rows of each page begin in `rows`, and the end of the last: one more than there are pages. A page
    /// without rows is all gap; the first row of any other has offset 0.
    pub page_rows: Vec<u32>,
    /// [`Row::rule`] is an index in `rules`.
    pub rows: Vec<Row>,
    /// Each once.
    pub rules: Vec<Rule>,
    /// Bytes of code.
    pub text_bytes: u64,
}

impl Table {
    /// How many pages it has.
    pub const fn page_count(&self) -> u32 {
        self.page_rows.len().saturating_sub(1) as u32
    }

    /// Rows of a page, by its number from `first_page` on. Empty: all of it is a gap.
    pub fn page(&self, page: u32) -> &[Row] {
        let page = page as usize;
        let bounds = self.page_rows.get(page).zip(self.page_rows.get(page + 1));
        bounds
            .and_then(|(from, to)| self.rows.get(*from as usize..*to as usize))
            .unwrap_or_default()
    }

    /// The rule at an address; for a return address ask for the byte before it, which belongs to the call.
    /// A gap ([`Rule::default`]) outside of the file's code.
    pub fn rule_at(&self, address: u64) -> Rule {
        let Some(page) = (address >> PAGE_BITS).checked_sub(self.first_page.into()) else {
            return Rule::default();
        };
        let rows = self.page(u32::try_from(page).unwrap_or(u32::MAX));
        let after = rows.partition_point(|row| *row <= Row::last_at(address as u16));
        after
            .checked_sub(1)
            .and_then(|last| self.rules.get(usize::from(rows[last].rule())))
            .copied()
            .unwrap_or_default()
    }

    /// What to take from an address in a mapping to have the ELF virtual address (modulo 2^64). `start` is the
    /// mapping's first address, `file_offset` the offset of that byte in the file. `None` when no code of the file
    /// is mapped there.
    pub fn bias(&self, start: u64, file_offset: u64) -> Option<u64> {
        // The kernel maps whole pages, so a mapping begins at the page that the segment begins in, and two segments
        // may share a page of the file. The later one is meant: of the earlier one, a mapping begins there only if
        // it was cut at that very page.
        let mapped = |segment: &&Segment| {
            let first = segment.file_offset & !(MEMORY_PAGE_BYTES - 1);
            let end = segment.file_offset.saturating_add(segment.size_bytes);
            first <= file_offset && file_offset < end
        };
        let segment = self.segments.iter().rev().find(mapped)?;
        let address = segment
            .address
            .wrapping_add(file_offset.wrapping_sub(segment.file_offset));
        Some(start.wrapping_sub(address))
    }

    /// Bytes that it takes in the kernel: rows and pages. Rules are shared by all files.
    pub const fn size_bytes(&self) -> u64 {
        (size_of_val(self.rows.as_slice()) + self.page_rows.len().saturating_sub(1) * 8) as u64
    }

    /// What it holds, on one line.
    pub const fn summary(&self) -> Summary<'_> {
        Summary(self)
    }

    /// Whether a lookup can rely on it: it was read from a file.
    pub(crate) fn is_sound(&self) -> bool {
        let counts = self.page_rows.first() == Some(&0)
            && self.page_rows.last().map(|rows| *rows as usize) == Some(self.rows.len())
            && self.page_rows.is_sorted();
        counts
            && self
                .rows
                .iter()
                .all(|row| usize::from(row.rule()) < self.rules.len())
            && self.rules.iter().all(|rule| rule.cfa <= cfa::UNSUPPORTED)
            && (0..self.page_count()).all(|page| is_sound_page(self.page(page)))
    }
}

/// A page of rows, sorted from offset 0 on, or none.
fn is_sound_page(rows: &[Row]) -> bool {
    rows.len() <= PAGE_ROWS_MAX
        && rows.first().is_none_or(|row| row.offset() == 0)
        && rows.is_sorted_by(|one, next| one.offset() < next.offset())
}

/// What a table holds, on one line.
#[derive(Clone, Copy, Debug)]
pub struct Summary<'t>(&'t Table);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.0;
        write!(
            f,
            "{} KiB of code, {} rows, {} rules: {} bytes, {} a MiB of code",
            table.text_bytes >> 10,
            table.rows.len(),
            table.rules.len(),
            table.size_bytes(),
            bytes_per_mib(table),
        )
    }
}

/// Bytes that a table takes in the kernel for each MiB of code.
pub fn bytes_per_mib(table: &Table) -> u64 {
    let bytes = u128::from(table.size_bytes()) << 20;
    u64::try_from(bytes / u128::from(table.text_bytes.max(1))).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use leaktrace_common::unwind::rbp;

    fn rule(cfa_offset: i32) -> Rule {
        Rule {
            cfa_offset,
            rbp_offset: 0,
            cfa: cfa::RSP,
            rbp: rbp::SAME,
        }
    }

    /// Pages 3 to 5, the middle one all gap.
    fn table() -> Table {
        Table {
            first_page: 3,
            page_rows: vec![0, 2, 2, 3],
            rows: vec![Row::new(0, 0), Row::new(0x20, 1), Row::new(0, 2)],
            rules: vec![Rule::default(), rule(8), rule(16)],
            ..Table::default()
        }
    }

    #[test]
    fn a_rule_holds_from_its_row_to_the_next() {
        let table = table();
        let found = [
            0x2_ffff, 0x3_0000, 0x3_001f, 0x3_0020, 0x3_ffff, 0x4_0000, 0x5_0000, 0x5_ffff, 0x6_0000,
        ]
        .map(|address| table.rule_at(address).cfa_offset);
        assert_eq!(found, [0, 0, 0, 8, 8, 0, 16, 16, 0]);
        assert_eq!(table.rule_at(u64::MAX), Rule::default());
        assert_eq!(Table::default().rule_at(0), Rule::default());
    }

    #[test]
    fn only_a_table_that_holds_together_is_sound() {
        assert!(table().is_sound());
        let broken: [fn(&mut Table); 6] = [
            |table| table.rows[1] = Row::new(0, 1),
            |table| table.rows[0] = Row::new(4, 0),
            |table| table.rows[2] = Row::new(0, 3),
            |table| table.page_rows[3] = 4,
            |table| table.page_rows[1] = 3,
            |table| table.rules[1].cfa = 99,
        ];
        for (case, break_it) in broken.iter().enumerate() {
            let mut table = table();
            break_it(&mut table);
            assert!(!table.is_sound(), "case {case}");
        }
    }

    #[test]
    fn bias_takes_segments_that_begin_within_a_page() {
        let table = Table {
            segments: vec![
                Segment {
                    file_offset: 0x1240,
                    address: 0x2240,
                    size_bytes: 0x2000,
                },
                Segment {
                    file_offset: 0x3250,
                    address: 0x5250,
                    size_bytes: 0x100,
                },
            ],
            ..Table::default()
        };
        // As lld maps it: the page that the segment begins in.
        assert_eq!(table.bias(0x7000_1000, 0x1000), Some(0x7000_1000 - 0x2000));
        // The rest of it, after a page of it got other rights.
        assert_eq!(table.bias(0x7000_2000, 0x2000), Some(0x7000_2000 - 0x3000));
        // The first segment's last page is the second one's first.
        assert_eq!(table.bias(0x7000_5000, 0x3000), Some(0x7000_5000 - 0x5000));
        assert_eq!(table.bias(0x7000_0000, 0), None);
        assert_eq!(table.bias(0x7000_0000, 0x4000), None);
        // An executable that is linked to a fixed address.
        assert_eq!(table.bias(0x2000, 0x1000), Some(0));
    }
}
