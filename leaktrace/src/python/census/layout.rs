//! What a census has to know of a version beyond where things are: which [`Offsets`] does not say. From the headers of
//! CPython 3.8 to 3.14 (`Include/object.h`, `Include/internal/pycore_gc.h`, `pycore_dict.h`), builds without debugging.

use crate::python::offsets::{Offsets, TextOffsets, TypeOffsets};

/// Bytes of the collector's head in front of an object (`PyGC_Head`).
pub(super) const GC_HEAD_BYTES: u64 = 16;

/// Bits of a type's flags (`Py_TPFLAGS_*`, `Include/object.h`).
pub(super) mod flags {
    pub(in super::super) const MANAGED_WEAKREF: u64 = 1 << 3;
    pub(in super::super) const MANAGED_DICT: u64 = 1 << 4;
    pub(in super::super) const HEAP_TYPE: u64 = 1 << 9;
    pub(in super::super) const READY: u64 = 1 << 12;
    pub(in super::super) const HAVE_GC: u64 = 1 << 14;
    pub(in super::super) const LONG: u64 = 1 << 24;
    pub(in super::super) const LIST: u64 = 1 << 25;
    pub(in super::super) const UNICODE: u64 = 1 << 28;
    pub(in super::super) const DICT: u64 = 1 << 29;
    pub(in super::super) const TYPE: u64 = 1 << 31;
}

/// Lists of objects that the collector looks at: three generations, and in 3.14 the young and two halves of the old.
pub(super) const GENERATIONS: usize = 3;

/// Bytes of what the collector counts of a generation (`struct gc_generation_stats`), up to 3.14.
const STATISTICS_BYTES: u64 = 24;

/// What differs between versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// The 8 of 3.8.
    pub(super) minor: u8,
    /// Offset in the runtime of the pointer to the first interpreter.
    pub(super) interpreters: u64,
    /// Offset in an interpreter of the pointer to the next.
    pub(super) next_interpreter: u64,
    /// Where the collector's state is.
    pub(super) collector: Collector,
    /// What is where in it.
    pub(super) lists: Lists,
    /// Offset in that state of the 32-bit word that says whether the collector runs.
    pub(super) collecting: u64,
    /// Of types.
    pub(super) types: TypeOffsets,
    /// Of strings.
    pub(super) text: TextOffsets,
}

/// Where a collector's state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Collector {
    /// At an offset in each interpreter.
    OfInterpreter(u64),
    /// At an offset in the runtime, one for all interpreters (3.8).
    OfRuntime(u64),
}

/// Offsets in the collector's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lists {
    /// Of the first of [`GENERATIONS`] heads.
    pub(super) first: u64,
    /// From one head to the next.
    pub(super) stride: u64,
    /// Of the head of the frozen objects.
    pub(super) permanent: u64,
}

impl Lists {
    /// Where they may be from 3.14 on, where a patch release can move them: behind two numbers, with heads as close as
    /// they were or aligned to 16 bytes.
    const CANDIDATES: [Self; 3] = [Self::at(8, 24), Self::at(16, 32), Self::at(24, 24)];

    const fn at(first: u64, stride: u64) -> Self {
        Self {
            first,
            stride,
            permanent: first + GENERATIONS as u64 * stride,
        }
    }

    /// Where they may be in a version, the likeliest first.
    pub(super) fn candidates(self, minor: u8) -> impl Iterator<Item = Self> {
        let others = if minor >= 14 { &Self::CANDIDATES[..] } else { &[] };
        std::iter::once(self).chain(others.iter().copied())
    }

    /// Offset of the number of collections of the oldest generation.
    pub(super) const fn collections(self) -> u64 {
        self.permanent + self.stride + 2 * STATISTICS_BYTES
    }
}

impl Layout {
    /// `None` where objects are in no lists.
    pub(super) fn new(offsets: &Offsets) -> Option<Self> {
        let gc = offsets.gc.filter(|_| !offsets.free_threaded)?;
        let collector = match (offsets.interpreter.gc, offsets.runtime.gc) {
            (Some(offset), _) => Collector::OfInterpreter(offset.into()),
            (None, Some(offset)) => Collector::OfRuntime(offset.into()),
            (None, None) => return None,
        };
        Some(Self {
            minor: offsets.version.minor,
            interpreters: offsets.runtime.interpreters.into(),
            next_interpreter: offsets.interpreter.next.into(),
            collector,
            lists: Lists {
                first: gc.generations.into(),
                stride: gc.generation_stride.into(),
                permanent: gc.permanent.into(),
            },
            collecting: gc.collecting.into(),
            types: offsets.types,
            text: offsets.text,
        })
    }

    /// Bytes in front of the collector's head, for the dictionary and the weak references of an object whose type says
    /// so (`_PyType_PreHeaderSize`).
    pub(super) const fn pre_header_bytes(self, type_flags: u64) -> u64 {
        let managed = match self.minor {
            ..=10 => 0,
            11 => flags::MANAGED_DICT,
            _ => flags::MANAGED_DICT | flags::MANAGED_WEAKREF,
        };
        if type_flags & managed != 0 { 16 } else { 0 }
    }

    /// Bytes of a pool of small objects (`POOL_SIZE`, Objects/obmalloc.c).
    pub(super) const fn pool_bytes(self) -> u64 {
        if self.minor <= 9 { 4 << 10 } else { 16 << 10 }
    }

    /// Bytes of an arena of pools (`ARENA_SIZE`).
    pub(super) const fn arena_bytes(self) -> u64 {
        if self.minor <= 9 { 256 << 10 } else { 1 << 20 }
    }

    /// Whether the upper half of a count of references has flags (3.14).
    pub(super) const fn flags_in_references(self) -> bool {
        self.minor >= 14
    }
}
