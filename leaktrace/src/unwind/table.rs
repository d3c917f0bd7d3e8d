//! The unwind table of one file. Stub.

use leaktrace_common::unwind::{PAGE_BITS, Row, Rule};

/// An executable segment: unrounded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Offset in the file.
    pub file_offset: u64,
    /// ELF virtual address.
    pub address: u64,
    /// Bytes in the file.
    pub size_bytes: u64,
}

/// The table of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Executable segments.
    pub segments: Vec<Segment>,
    /// ELF virtual address >> `PAGE_BITS` of the first page.
    pub first_page: u32,
    /// One more than pages: prefix sums.
    pub page_rows: Vec<u32>,
    /// Rows.
    pub rows: Vec<Row>,
    /// Unique rules.
    pub rules: Vec<Rule>,
    /// Bytes of code.
    pub text_bytes: u64,
}

impl Table {
    /// How many pages.
    pub fn page_count(&self) -> u32 {
        self.page_rows.len().saturating_sub(1) as u32
    }

    /// Reference lookup.
    pub fn rule_at(&self, address: u64) -> Rule {
        let Some(page) = (address >> PAGE_BITS).checked_sub(u64::from(self.first_page)) else {
            return Rule::default();
        };
        if page >= u64::from(self.page_count()) {
            return Rule::default();
        }
        let page = page as usize;
        let rows = &self.rows[self.page_rows[page] as usize..self.page_rows[page + 1] as usize];
        let last = Row::last_at(address as u16);
        let after = rows.partition_point(|row| *row <= last);
        after
            .checked_sub(1)
            .map_or_else(Rule::default, |row| self.rules[usize::from(rows[row].rule())])
    }

    /// Bias of a mapping.
    pub fn bias(&self, start: u64, file_offset: u64) -> Option<u64> {
        let segment = self.segments.iter().find(|segment| {
            let rounded = segment.file_offset & !0xfff;
            rounded <= file_offset && file_offset < segment.file_offset + segment.size_bytes
        })?;
        Some(
            start
                .wrapping_add(segment.file_offset)
                .wrapping_sub(file_offset)
                .wrapping_sub(segment.address),
        )
    }
}
