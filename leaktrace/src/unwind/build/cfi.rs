//! From unwind sections to stretches of code with their rules: one a function, or a part of one.
//!
//! Must not know what lies between functions, nor pages.

use gimli::{
    BaseAddresses, CieOrFde, CommonInformationEntry, DebugFrame, EhFrame, FrameDescriptionEntry,
    LittleEndian, UnwindContext, UnwindSection,
};
use leaktrace_common::unwind::Rule;
use rayon::prelude::*;

use super::elf::Section;
use super::rule::{self, Reader, SIGNAL, UNSUPPORTED};

/// Functions that one thread takes at a time.
const BATCH: usize = 1024;

/// Most bytes of what all functions of a kind share. They are evaluated for each function; compilers write 24.
const SHARED_BYTES_MAX: usize = 1024;

/// A stretch of code with the rules that hold in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    /// First address.
    pub(super) start: u64,
    /// First address after it.
    pub(super) end: u64,
    /// From which address on which rule holds, sorted; the first at `start`, unless it was left out.
    pub(super) rows: Vec<(u64, Rule)>,
    /// How many rows there were before any was left out.
    pub(super) row_count: u32,
}

/// Which rows are wanted: whether a return address can be in `start..end`.
pub(super) trait Keep: Sync {
    /// Whether the row of `start..end` is kept.
    fn keeps(&self, start: u64, end: u64) -> bool;
}

/// The functions of `.eh_frame`, sorted by address.
pub(super) fn eh_frame(section: &Section<'_>, bases: &BaseAddresses, keep: &impl Keep) -> Vec<Stretch> {
    let frames = EhFrame::new(&section.data, LittleEndian);
    let offsets = eh_frame_offsets(&section.data, section.is_open);
    stretches(&frames, bases, &offsets, keep)
}

/// The functions of `.debug_frame`, sorted by address.
pub(super) fn debug_frame(section: &Section<'_>, keep: &impl Keep) -> Vec<Stretch> {
    let mut frames = DebugFrame::new(&section.data, LittleEndian);
    // Before version 4 an entry does not say it.
    frames.set_address_size(8);
    let bases = BaseAddresses::default();
    let mut offsets = Vec::new();
    let mut entries = frames.entries(&bases);
    // What comes after a broken entry cannot be found.
    while let Ok(Some(entry)) = entries.next() {
        if let CieOrFde::Fde(function) = entry {
            offsets.push(function.offset().into());
        }
    }
    stretches(&frames, &bases, &offsets, keep)
}

/// Where the functions of `.eh_frame` are. A length of 0 ends the section for some readers; linkers leave some in
/// its middle, and the dynamic linker's sorted table goes on behind them.
fn eh_frame_offsets(data: &[u8], ends_at_terminator: bool) -> Vec<gimli::EhFrameOffset> {
    /// A length of 64 bits follows.
    const LONG: u32 = u32::MAX;
    let word = |at: usize| -> Option<u32> {
        let bytes = data.get(at..at.checked_add(4)?)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let mut offsets = Vec::new();
    let mut at = 0;
    while let Some(length) = word(at) {
        let (head, length) = match length {
            0 if ends_at_terminator => break,
            0 => {
                at += 4;
                continue;
            }
            LONG => match word(at + 4).zip(word(at + 8)) {
                Some((low, high)) => (12, (high as usize) << 32 | low as usize),
                None => break,
            },
            _ => (4, length as usize),
        };
        let Some(end) = length.checked_add(at + head).filter(|end| *end <= data.len()) else {
            break;
        };
        // What functions share has 0 where a function says how far back that is.
        if length >= 4 && word(at + head) != Some(0) {
            offsets.push(at.into());
        }
        at = end;
    }
    offsets
}

fn stretches<'d, S>(
    section: &S,
    bases: &BaseAddresses,
    offsets: &[S::Offset],
    keep: &impl Keep,
) -> Vec<Stretch>
where
    S: UnwindSection<Reader<'d>> + Sync,
    S::Offset: Sync,
{
    let mut stretches: Vec<Stretch> = offsets
        .par_chunks(BATCH)
        .flat_map_iter(|offsets| {
            let mut context = UnwindContext::new();
            let mut shared: Option<(usize, CommonInformationEntry<Reader<'d>>)> = None;
            let mut stretches = Vec::with_capacity(offsets.len());
            for offset in offsets {
                let function = section.fde_from_offset(bases, *offset, |section, bases, offset| {
                    let at: usize = gimli::UnwindOffset::into(offset);
                    if let Some((known, entry)) = &shared
                        && *known == at
                    {
                        return Ok(entry.clone());
                    }
                    let entry = section.cie_from_offset(bases, offset)?;
                    shared = Some((at, entry.clone()));
                    Ok(entry)
                });
                // One that cannot be read leaves a gap.
                stretches.extend(
                    function
                        .ok()
                        .and_then(|function| stretch(section, bases, &function, &mut context, keep)),
                );
            }
            stretches
        })
        .collect();
    stretches.par_sort_by_key(|stretch| stretch.start);
    stretches
}

fn stretch<'d, S: UnwindSection<Reader<'d>>>(
    section: &S,
    bases: &BaseAddresses,
    function: &FrameDescriptionEntry<Reader<'d>>,
    context: &mut UnwindContext<usize>,
    keep: &impl Keep,
) -> Option<Stretch> {
    let start = function.initial_address();
    let end = start.checked_add(function.len()).filter(|end| *end > start)?;
    let mut stretch = Stretch {
        start,
        end,
        rows: Vec::new(),
        row_count: 0,
    };
    let shared = function.cie();
    if function.is_signal_trampoline() {
        stretch.rows.push((start, SIGNAL));
        stretch.row_count = 1;
        return Some(stretch);
    }
    let is_plain = shared.entry_len() <= SHARED_BYTES_MAX
        && shared.encoding().address_size == 8
        && shared.return_address_register() == gimli::X86_64::RA;
    let mut at = start;
    let read = is_plain
        && rows(section, bases, function, context, |from, to, rule| {
            at = to;
            stretch.row_count += 1;
            if rule == rule::END || keep.keeps(from, to) {
                push(&mut stretch.rows, from, rule);
            }
        })
        .is_ok();
    if !read && at < end {
        push(&mut stretch.rows, at, UNSUPPORTED);
    }
    Some(stretch)
}

/// Calls `visit` with each row of a function, in order: first address, first address after it, rule.
fn rows<'d, S: UnwindSection<Reader<'d>>>(
    section: &S,
    bases: &BaseAddresses,
    function: &FrameDescriptionEntry<Reader<'d>>,
    context: &mut UnwindContext<usize>,
    mut visit: impl FnMut(u64, u64, Rule),
) -> gimli::Result<()> {
    let encoding = function.cie().encoding();
    let function_end = function.initial_address() + function.len();
    let mut table = function.rows(section, bases, context)?;
    while let Some(row) = table.next_row()? {
        let end = row.end_address().min(function_end);
        if row.start_address() < end {
            visit(row.start_address(), end, rule::of_row(row, section, encoding));
        }
    }
    Ok(())
}

/// Appends a row, unless its rule is in force already.
pub(super) fn push(rows: &mut Vec<(u64, Rule)>, address: u64, rule: Rule) {
    if rows.last().is_none_or(|(_, last)| *last != rule) {
        rows.push((address, rule));
    }
}
