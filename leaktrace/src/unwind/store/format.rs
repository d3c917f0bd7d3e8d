//! A table as the bytes of a file, and back.
//!
//! Little-endian words: magic and version, checksum of all that follows, four counts, then segments, pages, rows and
//! rules. Must not know files.

use leaktrace_common::unwind::{Row, Rule};
use twox_hash::XxHash3_64;

use crate::unwind::table::{Segment, Table};

/// To be raised whenever the layout changes, or what a table is for a file.
pub(super) const VERSION: u32 = 3;

const MAGIC: [u8; 4] = *b"LTUW";

/// The bytes of a file.
pub(super) fn encode(table: &Table) -> Vec<u8> {
    let mut body = Vec::new();
    let counts = [
        table.segments.len(),
        table.page_rows.len(),
        table.rows.len(),
        table.rules.len(),
    ];
    for count in counts {
        body.extend((count as u32).to_le_bytes());
    }
    body.extend(table.first_page.to_le_bytes());
    body.extend(table.text_bytes.to_le_bytes());
    for segment in &table.segments {
        for word in [segment.file_offset, segment.address, segment.size_bytes] {
            body.extend(word.to_le_bytes());
        }
    }
    for word in &table.page_rows {
        body.extend(word.to_le_bytes());
    }
    for Row(word) in &table.rows {
        body.extend(word.to_le_bytes());
    }
    for rule in &table.rules {
        body.extend(rule.cfa_offset.to_le_bytes());
        body.extend(rule.rbp_offset.to_le_bytes());
        body.extend([rule.cfa, rule.rbp]);
    }
    let mut bytes = Vec::with_capacity(body.len() + 16);
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(XxHash3_64::oneshot(&body).to_le_bytes());
    bytes.extend(body);
    bytes
}

/// The table in a file; `None` if it is not whole, of another version, or holds what no table can.
pub(super) fn decode(bytes: &[u8]) -> Option<Table> {
    let mut head = Words(bytes);
    let is_ours = head.take()? == MAGIC && u32::from_le_bytes(head.take()?) == VERSION;
    let checksum = u64::from_le_bytes(head.take()?);
    if !is_ours || XxHash3_64::oneshot(head.0) != checksum {
        return None;
    }
    let mut body = head;
    let mut count = || body.take().map(|word| u32::from_le_bytes(word) as usize);
    let (segments, pages, rows, rules) = (count()?, count()?, count()?, count()?);
    let first_page = u32::from_le_bytes(body.take()?);
    let text_bytes = u64::from_le_bytes(body.take()?);
    let table = Table {
        first_page,
        text_bytes,
        segments: body.many(segments, |[a, b, c]: [[u8; 8]; 3]| Segment {
            file_offset: u64::from_le_bytes(a),
            address: u64::from_le_bytes(b),
            size_bytes: u64::from_le_bytes(c),
        })?,
        page_rows: body.many(pages, |[word]: [[u8; 4]; 1]| u32::from_le_bytes(word))?,
        rows: body.many(rows, |[word]: [[u8; 4]; 1]| Row(u32::from_le_bytes(word)))?,
        rules: body.many(rules, |[[a, b, c, d, e, f, cfa, rbp]]: [[u8; 8]; 1]| Rule {
            cfa_offset: i32::from_le_bytes([a, b, c, d]),
            rbp_offset: i16::from_le_bytes([e, f]),
            cfa,
            rbp,
        })?,
    };
    (body.0.is_empty() && table.is_sound()).then_some(table)
}

/// Bytes that are taken from the front.
struct Words<'b>(&'b [u8]);

impl Words<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (word, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*word)
    }

    /// `count` elements of `WORDS` words each.
    fn many<const N: usize, const WORDS: usize, T>(
        &mut self,
        count: usize,
        element: impl Fn([[u8; N]; WORDS]) -> T,
    ) -> Option<Vec<T>> {
        let (bytes, rest) = self.0.split_at_checked(count.checked_mul(N * WORDS)?)?;
        self.0 = rest;
        let words = bytes.as_chunks::<N>().0;
        Some(
            words
                .as_chunks::<WORDS>()
                .0
                .iter()
                .map(|words| element(*words))
                .collect(),
        )
    }
}
