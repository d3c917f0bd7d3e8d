//! Which slot of the kernel's array of layouts a process has, and which part of the array of mappings a layout.
//! Must not know files or processes.

use std::{collections::VecDeque, ops::Range};

use leaktrace_common::unwind::{CodeMapping, Layout};

use super::{extents::Extents, shelf::GRACE_NS};
use crate::kernel::tables::Arrays;

/// The slot of processes for which there is none: it never has a layout.
pub const NO_SLOT: u32 = 0;

/// Slots and ranges of mappings.
#[derive(Debug)]
pub struct Slots {
    free: Extents,
    ranges: Extents,
    /// What a walk may still read, and from when on it can be used again: nanoseconds.
    retired: VecDeque<(u64, Retired)>,
    generation: u32,
}

/// Why a layout was not published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoom {
    /// Parts of the array that could be used again may still be read.
    ForNow,
    /// All of it is in use, or there is no slot.
    ForGood,
}

#[derive(Clone, Debug)]
enum Retired {
    Slot(u32),
    Range(Range<u32>),
}

impl Slots {
    /// All free.
    pub fn new(arrays: &dyn Arrays) -> Self {
        let sizes = arrays.sizes();
        Self {
            free: Extents::new(NO_SLOT + 1..sizes.layouts, u32::MAX),
            ranges: Extents::new(0..sizes.mappings, u32::MAX),
            retired: VecDeque::new(),
            generation: 0,
        }
    }

    /// A slot without a layout; [`NO_SLOT`] when there is none left.
    pub fn take(&mut self, arrays: &mut dyn Arrays, now_ns: u64) -> u32 {
        self.reuse(now_ns);
        let Some(slot) = self.free.take(1) else {
            return NO_SLOT;
        };
        arrays.publish(slot.start, Layout::NONE);
        arrays.answer(slot.start);
        arrays.forget_closes(slot.start);
        slot.start
    }

    /// Gives a slot back.
    pub fn give(&mut self, slot: u32, arrays: &mut dyn Arrays, now_ns: u64) {
        if slot != NO_SLOT {
            arrays.publish(slot, Layout::NONE);
            self.retire(Retired::Slot(slot), now_ns);
        }
    }

    /// Makes `mappings` the layout of a slot, from that epoch of it. Where they lie now.
    ///
    /// # Errors
    /// When there is no room for them.
    pub fn publish(
        &mut self,
        slot: u32,
        epoch: u8,
        mappings: &[CodeMapping],
        arrays: &mut dyn Arrays,
        now_ns: u64,
    ) -> Result<Range<u32>, NoRoom> {
        if slot == NO_SLOT {
            return Err(NoRoom::ForGood);
        }
        self.reuse(now_ns);
        let Some(range) = self.ranges.take(mappings.len() as u32) else {
            return Err(if self.retired.is_empty() {
                NoRoom::ForGood
            } else {
                NoRoom::ForNow
            });
        };
        arrays.put_mappings(range.start, mappings);
        // 24 bits of it are kept, and 0 is no generation.
        self.generation = (self.generation + 1) & 0xff_ffff;
        self.generation = self.generation.max(1);
        let layout = Layout::new(self.generation, epoch, range.start, mappings.len() as u16);
        arrays.publish(slot, layout);
        Ok(range)
    }

    /// A layout's mappings are not led to any more.
    pub fn retire_range(&mut self, range: Range<u32>, now_ns: u64) {
        self.retire(Retired::Range(range), now_ns);
    }

    fn retire(&mut self, retired: Retired, now_ns: u64) {
        self.retired.push_back((now_ns.saturating_add(GRACE_NS), retired));
    }

    fn reuse(&mut self, now_ns: u64) {
        while let Some((_, retired)) = self.retired.pop_front_if(|(from_ns, _)| *from_ns <= now_ns) {
            match retired {
                Retired::Slot(slot) => self.free.give(slot..slot + 1),
                Retired::Range(range) => self.ranges.give(range),
            }
        }
    }
}
