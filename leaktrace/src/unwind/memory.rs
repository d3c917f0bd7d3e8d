//! The kernel's arrays in the memory of a test, searched as the kernel side searches them.

use std::{cell::RefCell, rc::Rc};

use leaktrace_common::unwind::{
    CodeMapping, Layout, LayoutSlot, PAGE_BITS, PAGE_ROWS_MAX, Page, Row, Rule, mapping,
};

use crate::kernel::tables::{Arrays, Sizes};

/// The arrays.
#[derive(Clone, Debug)]
pub(super) struct Memory(Rc<RefCell<Contents>>);

#[derive(Debug)]
struct Contents {
    rows: Vec<Row>,
    pages: Vec<Page>,
    rules: Vec<Rule>,
    mappings: Vec<CodeMapping>,
    layouts: Vec<LayoutSlot>,
}

/// What the kernel side finds at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// No layout.
    Nothing,
    /// In no mapping, or in one whose table is not there.
    Unknown,
    /// Code without tables.
    FramePointer,
    /// A rule.
    Rule(Rule),
}

impl Memory {
    pub(super) fn new(sizes: Sizes) -> Self {
        let slot = LayoutSlot {
            layout: 0,
            asked: 0,
            raw_left: 0,
            closes: 0,
            pad: 0,
        };
        Self(Rc::new(RefCell::new(Contents {
            // What was never written is found out by its rule.
            rows: vec![Row::new(0, u16::MAX); sizes.rows as usize],
            pages: vec![Page(0); sizes.pages as usize],
            rules: vec![Rule::default(); sizes.rules as usize],
            mappings: vec![CodeMapping::default(); sizes.mappings as usize],
            layouts: vec![slot; sizes.layouts as usize],
        })))
    }

    pub(super) fn slot(&self, slot: u32) -> LayoutSlot {
        self.0.borrow().layouts[slot as usize]
    }

    /// As the kernel side does when it has met an unknown address.
    pub(super) fn ask(&self, slot: u32) {
        self.0.borrow_mut().layouts[slot as usize].asked = 1;
    }

    /// As the kernel side does when the dynamic linker unmaps libraries, and when it has.
    pub(super) fn close(&self, slot: u32) {
        self.0.borrow_mut().layouts[slot as usize].closes += 1;
    }

    pub(super) fn page(&self, page: u32) -> Page {
        self.0.borrow().pages[page as usize]
    }

    /// The rule in a page at an offset.
    pub(super) fn rule_in(&self, page: Page, offset: u16) -> Rule {
        let contents = self.0.borrow();
        assert!(usize::from(page.count()) <= PAGE_ROWS_MAX);
        let first = page.chunk() as usize * leaktrace_common::unwind::CHUNK_ROWS + usize::from(page.first());
        let rows = &contents.rows[first..first + usize::from(page.count())];
        let after = rows.partition_point(|row| *row <= Row::last_at(offset));
        after
            .checked_sub(1)
            .map_or_else(Rule::default, |row| contents.rules[usize::from(rows[row].rule())])
    }

    /// What is found at an address of the process with that slot.
    pub(super) fn find(&self, slot: u32, address: u64) -> Found {
        let layout = Layout(self.slot(slot).layout);
        if layout == Layout::NONE {
            return Found::Nothing;
        }
        let at = {
            let contents = self.0.borrow();
            let mappings = &contents.mappings[layout.first() as usize..][..layout.count() as usize];
            assert!(mappings.windows(2).all(|pair| pair[0].end <= pair[1].begin));
            let after = mappings.partition_point(|mapping| mapping.begin <= address);
            let found = after.checked_sub(1).map(|index| mappings[index]);
            match found.filter(|mapping| address < mapping.end) {
                Some(mapping) => mapping,
                None => return Found::Unknown,
            }
        };
        match at.kind {
            mapping::FRAME_POINTER => return Found::FramePointer,
            mapping::PENDING => return Found::Unknown,
            _ => {}
        }
        let relative = address.wrapping_sub(at.bias);
        let page = (relative >> PAGE_BITS).wrapping_sub(u64::from(at.first_page));
        if page >= u64::from(at.page_count) {
            return Found::Rule(Rule::default());
        }
        let page = self.page(at.page_base + page as u32);
        Found::Rule(self.rule_in(page, relative as u16))
    }
}

impl Arrays for Memory {
    fn sizes(&self) -> Sizes {
        let contents = self.0.borrow();
        Sizes {
            rows: contents.rows.len() as u32,
            pages: contents.pages.len() as u32,
            rules: contents.rules.len() as u32,
            mappings: contents.mappings.len() as u32,
            layouts: contents.layouts.len() as u32,
        }
    }

    fn put_rows(&mut self, first: u32, rows: &[Row]) {
        self.0.borrow_mut().rows[first as usize..][..rows.len()].copy_from_slice(rows);
    }

    fn put_pages(&mut self, first: u32, pages: &[Page]) {
        self.0.borrow_mut().pages[first as usize..][..pages.len()].copy_from_slice(pages);
    }

    fn put_rule(&mut self, number: u16, rule: Rule) {
        self.0.borrow_mut().rules[usize::from(number)] = rule;
    }

    fn put_mappings(&mut self, first: u32, mappings: &[CodeMapping]) {
        self.0.borrow_mut().mappings[first as usize..][..mappings.len()].copy_from_slice(mappings);
    }

    fn publish(&mut self, slot: u32, layout: Layout) {
        self.0.borrow_mut().layouts[slot as usize].layout = layout.0;
    }

    fn answer(&mut self, slot: u32) {
        self.0.borrow_mut().layouts[slot as usize].asked = 0;
    }

    fn closes(&self, slot: u32) -> u32 {
        self.slot(slot).closes
    }

    fn forget_closes(&mut self, slot: u32) {
        self.0.borrow_mut().layouts[slot as usize].closes = 0;
    }

    fn grant(&mut self, slot: u32, stacks: u32) {
        self.0.borrow_mut().layouts[slot as usize].raw_left = stacks;
    }
}
