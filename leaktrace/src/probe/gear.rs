//! What functions are probed for, each in a group of its own: heap allocators and GPU memory everywhere, arenas
//! and pools where there is a Python interpreter. Must not know how functions are found.

use leaktrace_common::call::Space;

use super::elf::{Function, Skipped};

/// What functions are probed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Gear {
    /// Blocks of heap allocators, and those of the user's.
    Heap,
    /// Arenas of `CPython`'s object allocator.
    Arenas,
    /// Pools in them.
    Pools,
    /// Memory of GPUs.
    Gpu,
}

impl Gear {
    /// That of functions which hand out or take back blocks of a space.
    pub const fn of(space: Space) -> Self {
        match space {
            Space::PythonArena => Self::Arenas,
            Space::PythonPool => Self::Pools,
            space if space.is_gpus() => Self::Gpu,
            _ => Self::Heap,
        }
    }
}

/// Functions that are probed together or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Functions to probe, in order of their offset; no two at one offset.
    pub functions: Vec<Function>,
    /// Functions of the table that are not probed here.
    pub skipped: Vec<Skipped>,
}
