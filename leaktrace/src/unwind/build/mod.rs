//! Builds a [`Table`] from an ELF file.
//!
//! `elf` reads the file, `cfi` and `rule` its unwind sections, `calls` finds where a return address can be, `bare`
//! adds code without unwind information, `pages` joins it all. A row is left out when no return address can be in
//! it: at a probe each frame but the first is known by its return address, so that a lookup asks for the last byte of
//! a call. Nothing in a file can make it panic, and memory and time are bounded by the file's size.

mod bare;
mod bytes;
mod calls;
mod cfi;
mod elf;
mod pages;
mod rule;

use std::fs::File;
use std::io;

use gimli::BaseAddresses;
use object::ReadRef;
use object::read::ReadCache;

use self::bytes::Bytes;
pub(crate) use self::bytes::Cursor;
use self::calls::Calls;
use self::cfi::{Keep, Stretch};
use self::elf::Elf;
use super::table::Table;

/// Which rows a table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Those that a return address can be in.
    CallSites,
    /// All, to check the others by.
    All,
}

/// Why a file has no table. The caller knows the file's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// Not an x86-64 executable or library.
    #[error("it is no x86-64 program or library")]
    Foreign,
    /// Nothing in it is mapped as code.
    #[error("it has no code")]
    NoCode,
    /// It has no unwind information.
    #[error("it has no unwind information")]
    NoUnwindSection,
    /// Code or unwind sections are larger than any that is known.
    #[error("it is larger than leaktrace takes")]
    TooLarge,
    /// It says what cannot be.
    #[error("{part} cannot be read: {why}")]
    Broken {
        /// What of it.
        part: &'static str,
        /// Why.
        why: String,
    },
    /// It could not be read.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
}

/// What was seen on the way to a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Functions, and parts of functions, with unwind information.
    pub functions: usize,
    /// Rows of them.
    pub rows: u64,
}

/// Builds the table of a file that is in memory.
///
/// # Errors
/// [`BuildError`]
pub fn build(elf: &[u8], rows: Rows) -> Result<Table, BuildError> {
    assemble(&Elf::open(elf)?, elf, rows).map(|(table, _)| table)
}

/// Builds the table of an open file, whose position stays as it is, and counts what was in the file.
///
/// # Errors
/// [`BuildError`]
pub fn build_file(file: &File, rows: Rows) -> Result<(Table, Counts), BuildError> {
    let cache = ReadCache::new(Cursor::new(file));
    assemble(&Elf::open(&cache)?, file, rows)
}

fn assemble<'d, R: ReadRef<'d>>(
    elf: &Elf<'d, R>,
    bytes: &(impl Bytes + ?Sized),
    rows: Rows,
) -> Result<(Table, Counts), BuildError> {
    let calls = Calls::scan(bytes, &elf.segments).map_err(|error| unreadable(&error))?;
    let keep = Filter { rows, calls: &calls };
    let mut functions = functions(elf, &keep)?;
    let counts = Counts {
        functions: functions.len(),
        rows: functions
            .iter()
            .map(|function| u64::from(function.row_count))
            .sum(),
    };
    let mut others = bare::patterns(&functions, &calls.patterns);
    if bare::is_bare(&functions, elf.entry) {
        others.extend(bare::outermost(&functions, elf.entry, &elf.outermost()));
    }
    functions.extend(others);
    functions.sort_by_key(|function| function.start);
    let end = elf.segments.last().map_or(0, super::table::Segment::end);
    let rows = pages::rows(&functions, end, &keep);
    Ok((pages::table(&rows, elf.segments.clone()), counts))
}

/// The functions with unwind information, sorted by address, all of them in code.
fn functions<'d, R: ReadRef<'d>>(elf: &Elf<'d, R>, keep: &impl Keep) -> Result<Vec<Stretch>, BuildError> {
    let (loaded, debug) = (elf.eh_frame()?, elf.debug_frame()?);
    if loaded.is_none() && debug.is_none() {
        return Err(BuildError::NoUnwindSection);
    }
    let mut functions = loaded.map_or_else(Vec::new, |section| {
        let mut bases = BaseAddresses::default().set_eh_frame(section.address);
        if let Some(text) = elf.address_of(".text") {
            bases = bases.set_text(text);
        }
        if let Some(table) = elf.address_of(".got") {
            bases = bases.set_got(table);
        }
        cfi::eh_frame(&section, &bases, keep)
    });
    if let Some(section) = debug {
        // What both describe is taken from what the program itself would use.
        let others = cfi::debug_frame(&section, keep);
        let only_there = |function: &Stretch| bare::is_bare(&functions, function.start);
        let others: Vec<Stretch> = others.into_iter().filter(only_there).collect();
        functions.extend(others);
        functions.sort_by_key(|function| function.start);
    }
    // Linkers leave entries of functions that they have dropped, at address 0 or behind the code.
    functions.retain_mut(|function| {
        let holds = |segment: &&super::table::Segment| {
            segment.address <= function.start && function.start < segment.end()
        };
        let segment = elf.segments.iter().find(holds);
        function.end = segment.map_or(function.start, |segment| function.end.min(segment.end()));
        function.end > function.start
    });
    Ok(functions)
}

/// Leaves out rows that no return address can be in.
struct Filter<'c> {
    rows: Rows,
    calls: &'c Calls,
}

impl Keep for Filter<'_> {
    fn keeps(&self, start: u64, end: u64) -> bool {
        self.rows == Rows::All || self.calls.any_in(start, end)
    }
}

fn unreadable(error: &io::Error) -> BuildError {
    BuildError::Unreadable(error.to_string())
}

/// Wraps an error of the ELF reader.
fn broken(part: &'static str) -> impl FnOnce(object::Error) -> BuildError {
    move |error| BuildError::Broken {
        part,
        why: error.to_string(),
    }
}

#[cfg(test)]
#[path = "build_tests.rs"]
mod tests;
