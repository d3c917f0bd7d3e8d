//! Unwind tables: made from the files that processes map, put into the kernel, and for each process the layout that
//! says which table is for which of its addresses.
//!
//! [`Unwinder`] is what the rest of the program talks to. A [`table::Table`] is that of one file; [`build`]
//! makes it, [`store`] keeps it on disk, [`library`] does both for many; [`files`] knows which file has which. [`shelf`] puts them into the kernel's arrays, [`layout`]
//! makes layouts, [`slots`] finds room for them. Where the kernel side cannot go on by them, [`finish`] does, by
//! framehop; [`verify`] compares the two. Must not know probes, blocks or reports, and reads no `/proc`.

pub mod build;
mod extents;
pub mod files;
pub mod finish;
pub mod layout;
pub mod library;
pub mod listing;
#[cfg(test)]
mod memory;
mod sections;
pub mod shelf;
pub mod slots;
pub mod store;
pub mod table;
pub mod verify;

use std::{collections::HashMap, ops::Range, sync::Arc};

use leaktrace_common::unwind::{CHUNK_ROWS, CodeMapping, LayoutSlot, Row};

use self::{
    files::{Files, Known},
    layout::{Code, Plan, VDSO},
    shelf::{Full, Shelf, TableId},
    slots::{NoRoom, Slots},
    table::Table,
};
use crate::{
    kernel::tables::Arrays,
    symbol::{
        mappings::{Mapping, Mappings},
        objects::Objects,
    },
};

/// Stacks that a process may have finished by user space between two times that it is granted more.
const RAW_STACKS: u32 = 4096;

/// From an unknown address to the look at what is mapped: a process that loads a library maps it in several steps,
/// and often loads more than one.
const LOOK_AFTER_NS: u64 = 1_500_000;

/// How long the kernel side stays silent about a process after a look that has found nothing new. It doubles each
/// time, from the first to the second.
const SILENT_NS: (u64, u64) = (10_000_000, 1_000_000_000);

/// How soon a layout for which there was no room, or that lacks a table for that reason, is tried again.
const AGAIN_NS: u64 = 1_000_000_000;

/// The same where room will come of itself: a process that maps files in quick succession has used it up for layouts
/// that did not last.
const SOON_NS: u64 = 20_000_000;

/// Mappings of all layouts together, 40 bytes each. Those of a layout cannot be used again at once, so that there must
/// be some for layouts that have just been replaced.
pub const MAPPINGS: u32 = 1 << 16;

/// Least number of chunks for rows, of 256 KiB each.
const CHUNKS_MIN: u64 = 8;

/// How many chunks for rows the kernel side should have where `rows` are needed at the start: as much again for what
/// is loaded later, within `max_bytes`.
pub const fn row_chunks(rows: usize, max_bytes: u64) -> u32 {
    // A page has 16 bits for the number of its chunk.
    const CHUNKS_MAX: u64 = 1 << 16;
    let chunk_bytes = size_of::<[Row; CHUNK_ROWS]>() as u64;
    let wanted = 2 * rows.div_ceil(CHUNK_ROWS) as u64 + 4;
    let bound = max_bytes / chunk_bytes;
    let bound = if bound > CHUNKS_MAX { CHUNKS_MAX } else { bound };
    let chunks = if wanted < bound { wanted } else { bound };
    if chunks > CHUNKS_MIN {
        chunks as u32
    } else {
        CHUNKS_MIN as u32
    }
}

/// What did not fit; part of the ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Missed {
    /// Tables that found no room in the kernel.
    pub tables_full: u64,
    /// Executable mappings that found no room in a layout, or whose layout found none.
    pub mappings_left_out: u64,
}

/// What is to be done for a process; see [`Unwinder::take_due`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// To read what it has mapped, and to publish it.
    Look(u32),
    /// To publish once more what is known to be mapped.
    Again(u32),
}

/// All tables and layouts of a run.
#[derive(Debug)]
pub struct Unwinder {
    arrays: Box<dyn Arrays>,
    files: Files,
    shelf: Shelf,
    slots: Slots,
    processes: HashMap<u32, Process>,
    /// Tables that have been counted as not fitting.
    unfit: HashMap<TableId, Full>,
    /// See [`Missed`].
    pub missed: Missed,
}

/// What the kernel side knows of a process.
#[derive(Debug, Default)]
struct Process {
    slot: u32,
    /// How often libraries had been unmapped when last looked at what is mapped ([`LayoutSlot::closes`]).
    closes: u32,
    /// See [`LayoutSlot::epoch`]; as published, like the next.
    epoch: u8,
    /// As published.
    plan: Plan,
    /// Where the mappings lie; none before the first layout.
    range: Option<Range<u32>>,
    held: Vec<TableId>,
    /// The last layout found no room, and has been counted.
    left_out: bool,
    /// A table that it needs is on its way.
    waits: bool,
    /// When to publish again because there was no room, nanoseconds.
    again_ns: Option<u64>,
    /// When to look at what is mapped.
    look_ns: Option<u64>,
    /// When to let the kernel side speak again.
    answer_ns: Option<u64>,
    /// For how long it was told to be silent last.
    silent_ns: u64,
}

/// A layout as it was found, and what it says of the tables.
#[derive(Debug, Default)]
struct Found {
    plan: Plan,
    held: Vec<TableId>,
    /// Some table is on its way.
    waits: bool,
    /// Some table did not fit.
    full: bool,
}

impl Unwinder {
    /// No process yet. `files` may have tables already.
    pub fn new(files: Files, mut arrays: Box<dyn Arrays>) -> Self {
        let shelf = Shelf::new(arrays.as_mut());
        let slots = Slots::new(arrays.as_ref());
        Self {
            arrays,
            files,
            shelf,
            slots,
            processes: HashMap::new(),
            unfit: HashMap::new(),
            missed: Missed::default(),
        }
    }

    /// See [`Files::prepare`].
    pub const fn files(&mut self) -> &mut Files {
        &mut self.files
    }

    /// Takes a process in, without a layout. Its slot, for the kernel side.
    pub fn join(&mut self, pid: u32, now_ns: u64) -> u32 {
        self.forget(pid, now_ns);
        let slot = self.slots.take(self.arrays.as_mut(), now_ns);
        // Until there is a layout, user space walks the stacks.
        self.arrays.grant(slot, RAW_STACKS);
        let process = Process {
            slot,
            ..Process::default()
        };
        self.processes.insert(pid, process);
        // Before its first layout there is nothing but them.
        self.arrays.grant(slot, RAW_STACKS);
        slot
    }

    /// A process has ended, or is not traced any more.
    pub fn forget(&mut self, pid: u32, now_ns: u64) {
        let Some(process) = self.processes.remove(&pid) else {
            return;
        };
        self.slots.give(process.slot, self.arrays.as_mut(), now_ns);
        if let Some(range) = process.range {
            self.slots.retire_range(range, now_ns);
        }
        for table in process.held {
            self.shelf.release(table, now_ns);
        }
    }

    /// Tells the kernel side what image `image` of a process has mapped. Whether that is new to it.
    pub fn publish(
        &mut self,
        pid: u32,
        image: u16,
        mappings: &Mappings,
        objects: &Objects,
        now_ns: u64,
    ) -> bool {
        if !self.processes.contains_key(&pid) {
            return false;
        }
        let found = self.find(mappings, objects, now_ns);
        let Some(process) = self.processes.get_mut(&pid) else {
            return false;
        };
        process.waits = found.waits;
        process.again_ns = found.full.then_some(now_ns + AGAIN_NS);
        let epoch = LayoutSlot::epoch(image, process.closes);
        let changed = process.range.is_none() || process.epoch != epoch || process.plan != found.plan;
        let published = changed.then(|| {
            let mappings = &found.plan.mappings;
            self.slots
                .publish(process.slot, epoch, mappings, self.arrays.as_mut(), now_ns)
        });
        let Some(Ok(range)) = published else {
            for table in found.held {
                self.shelf.release(table, now_ns);
            }
            // The layout before it stays: most of it still holds.
            match published {
                Some(Err(NoRoom::ForNow)) => process.again_ns = Some(now_ns + SOON_NS),
                Some(_) if !process.left_out => {
                    process.left_out = true;
                    process.again_ns = Some(now_ns + AGAIN_NS);
                    self.missed.mappings_left_out += found.plan.mappings.len() as u64;
                }
                Some(_) => process.again_ns = Some(now_ns + AGAIN_NS),
                None => {}
            }
            return changed;
        };
        process.left_out = false;
        self.missed.mappings_left_out += found.plan.left_out.saturating_sub(process.plan.left_out) as u64;
        process.epoch = epoch;
        process.plan = found.plan;
        process.silent_ns = 0;
        process.answer_ns = None;
        self.arrays.grant(process.slot, RAW_STACKS);
        self.arrays.answer(process.slot);
        if let Some(old) = process.range.replace(range) {
            self.slots.retire_range(old, now_ns);
        }
        for table in std::mem::replace(&mut process.held, found.held) {
            self.shelf.release(table, now_ns);
        }
        true
    }

    /// Finds the tables of all that is mapped and holds them.
    fn find(&mut self, mappings: &Mappings, objects: &Objects, now_ns: u64) -> Found {
        let mut found = Found::default();
        let mut codes: HashMap<u64, Owned> = HashMap::new();
        for mapping in mappings.iter().filter(|mapping| mapping.executable) {
            let code = self.code(mapping, objects, &mut found, now_ns);
            codes.insert(mapping.start, code);
        }
        found.plan = layout::plan(mappings.iter(), |mapping| {
            codes.get(&mapping.start).map_or(Code::Pending, Owned::as_code)
        });
        found
    }

    /// What is known of the code in a mapping. Its table is held.
    fn code(&mut self, mapping: &Mapping, objects: &Objects, found: &mut Found, now_ns: u64) -> Owned {
        let known = match mapping.object {
            Some(object) => self.files.of_object(object, objects),
            None if mapping.name == VDSO => self.files.vdso(),
            // A file that could not be opened.
            None if mapping.name.starts_with('/') && mapping.name != "//anon" => return Owned::Pending,
            None => Known::None,
        };
        let (id, table) = match known {
            Known::None => return Owned::FramePointer,
            Known::Pending => {
                found.waits = true;
                return Owned::Pending;
            }
            Known::Ready(id, table) => (id, table),
        };
        match self.shelf.hold(id, &table, self.arrays.as_mut(), now_ns) {
            Ok(placed) => {
                found.held.push(id);
                Owned::Table(Arc::clone(&placed.table), placed.page_base)
            }
            Err(full) => {
                found.full = true;
                if self.unfit.insert(id, full).is_none() {
                    self.missed.tables_full += 1;
                }
                Owned::Pending
            }
        }
    }

    /// Takes over tables that have come. The processes that have been waiting for one: to be published again.
    pub fn take_over(&mut self) -> Vec<u32> {
        if !self.files.take_over() {
            return Vec::new();
        }
        let waiting = self.processes.iter().filter(|(_, process)| process.waits);
        waiting.map(|(pid, _)| *pid).collect()
    }

    /// The kernel side has met an address in a process that is in no mapping it knows of.
    pub fn unknown(&mut self, pid: u32, now_ns: u64) {
        if let Some(process) = self.processes.get_mut(&pid) {
            process.look_ns.get_or_insert(now_ns + LOOK_AFTER_NS);
        }
    }

    /// The dynamic linker of a process has unmapped libraries: no layout holds any more.
    pub fn unmapped(&mut self, pid: u32, now_ns: u64) {
        if let Some(process) = self.processes.get_mut(&pid) {
            process.look_ns = Some(now_ns);
        }
    }

    /// Before a look at what a process has mapped: what to give to [`Self::looked_from`] after it. `None` while libraries
    /// are being unmapped: the look has to wait for the end of that, of which the kernel side tells.
    pub fn closes(&self, pid: u32) -> Option<u32> {
        let process = self.processes.get(&pid)?;
        let closes = self.arrays.closes(process.slot);
        closes.is_multiple_of(2).then_some(closes)
    }

    /// What is known to be mapped in a process is what was found by a look that began at this count.
    pub fn looked_from(&mut self, pid: u32, closes: u32) {
        if let Some(process) = self.processes.get_mut(&pid) {
            process.closes = closes;
        }
    }

    /// A look at what a process has mapped is done.
    pub fn looked(&mut self, pid: u32, changed: bool, now_ns: u64) {
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        if changed {
            return;
        }
        process.silent_ns = (2 * process.silent_ns).clamp(SILENT_NS.0, SILENT_NS.1);
        process.answer_ns = Some(now_ns + process.silent_ns);
    }

    /// When [`Self::take_due`] has something to do next, nanoseconds.
    pub fn due_ns(&self) -> Option<u64> {
        let times = self
            .processes
            .values()
            .flat_map(|process| [process.again_ns, process.look_ns, process.answer_ns]);
        times.flatten().min()
    }

    /// What is to be done now.
    pub fn take_due(&mut self, now_ns: u64) -> Vec<Due> {
        let mut due = Vec::new();
        let is_due = |time: &mut u64| *time <= now_ns;
        for (pid, process) in &mut self.processes {
            if process.answer_ns.take_if(is_due).is_some() {
                self.arrays.answer(process.slot);
            }
            let again = process.again_ns.take_if(is_due).is_some();
            if process.look_ns.take_if(is_due).is_some() {
                due.push(Due::Look(*pid));
            } else if again {
                due.push(Due::Again(*pid));
            }
        }
        due
    }

    /// Grants every process its stacks to be finished by user space once more.
    pub fn grant(&mut self) {
        // Of all that have none of their own yet.
        self.arrays.grant(slots::NO_SLOT, RAW_STACKS);
        for process in self.processes.values() {
            self.arrays.grant(process.slot, RAW_STACKS);
        }
    }

    /// The slot of a process; none where there is none for it.
    pub fn slot(&self, pid: u32) -> Option<u32> {
        let slot = self.processes.get(&pid)?.slot;
        (slot != slots::NO_SLOT).then_some(slot)
    }

    /// What was published last for a process.
    pub fn layout(&self, pid: u32) -> Option<&[CodeMapping]> {
        let process = self.processes.get(&pid)?;
        process.range.is_some().then_some(&process.plan.mappings)
    }
}

/// [`Code`] with its table shared.
enum Owned {
    Table(Arc<Table>, u32),
    FramePointer,
    Pending,
}

impl Owned {
    fn as_code(&self) -> Code<'_> {
        match self {
            Self::Table(table, page_base) => Code::Table {
                table,
                page_base: *page_base,
            },
            Self::FramePointer => Code::FramePointer,
            Self::Pending => Code::Pending,
        }
    }
}

#[cfg(test)]
#[path = "unwinder_tests.rs"]
mod tests;
