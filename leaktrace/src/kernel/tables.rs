//! The arrays of unwind tables and layouts in the kernel, written through memory that is shared with it. Must not
//! know files, nor which part of an array belongs to what.

use std::{io, mem::offset_of, os::fd::AsFd as _};

use leaktrace_common::unwind::{CHUNK_ROWS, CodeMapping, Layout, LayoutSlot, Page, Row, Rule};

use super::{
    object::{KernelSide, LoadError},
    sys::{MappedArray, Plain},
};

/// The arrays, as those see them who fill them. Indices are in elements; whoever gives one beyond the end of its
/// array has a bug.
pub trait Arrays: std::fmt::Debug {
    /// How many of each there are.
    fn sizes(&self) -> Sizes;

    /// Writes rows. The chunks are one array here, in which row `n` of chunk `c` is `c * CHUNK_ROWS + n`.
    fn put_rows(&mut self, first: u32, rows: &[Row]);

    /// Writes pages.
    fn put_pages(&mut self, first: u32, pages: &[Page]);

    /// Writes a rule.
    fn put_rule(&mut self, number: u16, rule: Rule);

    /// Writes mappings.
    fn put_mappings(&mut self, first: u32, mappings: &[CodeMapping]);

    /// Makes a layout that of a slot, at once and after all that was written before.
    fn publish(&mut self, slot: u32, layout: Layout);

    /// Lets the kernel side say again that it has met an unknown address.
    fn answer(&mut self, slot: u32);

    /// How often libraries have begun or finished to be unmapped in the process of a slot ([`LayoutSlot::closes`]).
    fn closes(&self, slot: u32) -> u32;

    /// Begins to count that anew, for another process.
    fn forget_closes(&mut self, slot: u32);

    /// How many stacks the kernel side may send for user space to finish, from now on.
    fn grant(&mut self, slot: u32, stacks: u32);
}

/// Sizes that are set when the kernel side is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Chunks for rows, [`CHUNK_ROWS`] each.
    pub row_chunks: u32,
    /// Mappings of all layouts together.
    pub mappings: u32,
}

/// Sizes of the arrays, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Rows of all chunks together.
    pub rows: u32,
    /// Pages.
    pub pages: u32,
    /// Rules.
    pub rules: u32,
    /// Mappings.
    pub mappings: u32,
    /// Layouts.
    pub layouts: u32,
}

/// Those of the loaded kernel side.
#[derive(Debug)]
pub struct UnwindArrays {
    rows: MappedArray<Row>,
    pages: MappedArray<Page>,
    rules: MappedArray<Rule>,
    mappings: MappedArray<CodeMapping>,
    layouts: MappedArray<LayoutSlot>,
}

impl UnwindArrays {
    /// Maps them.
    ///
    /// # Errors
    /// [`LoadError::Maps`] when the object lacks them or they cannot be mapped.
    pub fn new(kernel: &KernelSide) -> Result<Self, LoadError> {
        Ok(Self {
            rows: map(kernel, "UNWIND_ROWS", CHUNK_ROWS)?,
            pages: map(kernel, "UNWIND_PAGES", 1)?,
            rules: map(kernel, "UNWIND_RULES", 1)?,
            mappings: map(kernel, "UNWIND_MAPPINGS", 1)?,
            layouts: map(kernel, "UNWIND_LAYOUTS", 1)?,
        })
    }
}

/// Maps all of an array whose elements are `each` values of type `T`.
fn map<T: Plain>(kernel: &KernelSide, name: &'static str, each: usize) -> Result<MappedArray<T>, LoadError> {
    let failed = |error: io::Error| LoadError::Maps(format!("mapping {name} into memory: {error}"));
    let elements = kernel.max_entries(name)? as usize;
    MappedArray::new(kernel.map(name)?.as_fd(), elements * each).map_err(failed)
}

impl Arrays for UnwindArrays {
    fn sizes(&self) -> Sizes {
        Sizes {
            rows: self.rows.len() as u32,
            pages: self.pages.len() as u32,
            rules: self.rules.len() as u32,
            mappings: self.mappings.len() as u32,
            layouts: self.layouts.len() as u32,
        }
    }

    fn put_rows(&mut self, first: u32, rows: &[Row]) {
        self.rows.write(first as usize, rows);
    }

    fn put_pages(&mut self, first: u32, pages: &[Page]) {
        self.pages.write(first as usize, pages);
    }

    fn put_rule(&mut self, number: u16, rule: Rule) {
        self.rules.write(usize::from(number), &[rule]);
    }

    fn put_mappings(&mut self, first: u32, mappings: &[CodeMapping]) {
        self.mappings.write(first as usize, mappings);
    }

    fn publish(&mut self, slot: u32, layout: Layout) {
        self.layouts
            .store_u64(slot as usize, offset_of!(LayoutSlot, layout), layout.0);
    }

    fn answer(&mut self, slot: u32) {
        self.layouts
            .store_u32(slot as usize, offset_of!(LayoutSlot, asked), 0);
    }

    fn closes(&self, slot: u32) -> u32 {
        self.layouts
            .load_u32(slot as usize, offset_of!(LayoutSlot, closes))
    }

    fn forget_closes(&mut self, slot: u32) {
        self.layouts
            .store_u32(slot as usize, offset_of!(LayoutSlot, closes), 0);
    }

    fn grant(&mut self, slot: u32, stacks: u32) {
        self.layouts
            .store_u32(slot as usize, offset_of!(LayoutSlot, raw_left), stacks);
    }
}
