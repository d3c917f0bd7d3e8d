//! The totals of a site as the kernel's counters give them, made consistent, and as whole numbers.
//!
//! Must not know time, filters or single blocks.

use leaktrace_common::call::Space;
use leaktrace_common::math::BLOCKS_FRACTION_BITS;
use leaktrace_common::record::{Estimate, Site};

use super::estimate::{Outstanding, Rounding};
use crate::report::model::{BySpace, Held};

/// Counts of a site that do not contradict each other: never more frees than allocations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) allocs: u64,
    pub(super) alloc_bytes: u64,
    pub(super) frees: u64,
    pub(super) freed_bytes: u64,
    /// The differences, with what is known of their error.
    pub(super) live: Outstanding,
}

impl Sums {
    /// Of totals that are [`consistent`].
    pub(super) const fn of(totals: &Site, sampling: bool, round: Rounding) -> Self {
        let mut sums = Self {
            allocs: totals.allocs,
            alloc_bytes: totals.alloc_bytes,
            frees: totals.frees,
            freed_bytes: totals.freed_bytes,
            live: Outstanding {
                bytes: totals.alloc_bytes - totals.freed_bytes,
                blocks: totals.allocs - totals.frees,
                samples: totals.allocs - totals.frees,
                recorded_bytes: totals.alloc_bytes - totals.freed_bytes,
                variance_of_bytes: 0,
                variance_of_blocks: 0,
            },
        };
        if sampling {
            let Site { allocated, freed, .. } = totals;
            sums.allocs = round.whole(allocated.blocks);
            sums.alloc_bytes = allocated.bytes;
            sums.frees = round.whole(freed.blocks);
            sums.freed_bytes = freed.bytes;
            sums.live.bytes = sums.alloc_bytes - sums.freed_bytes;
            sums.live.blocks = sums.allocs - sums.frees;
            sums.live.variance_of_bytes = allocated.variance_of_bytes - freed.variance_of_bytes;
            sums.live.variance_of_blocks = allocated.variance_of_blocks - freed.variance_of_blocks;
        }
        sums
    }

    /// Adds another site's; stays at the largest number rather than start again from 0.
    pub(super) const fn add(&mut self, other: &Self) {
        self.allocs = self.allocs.saturating_add(other.allocs);
        self.alloc_bytes = self.alloc_bytes.saturating_add(other.alloc_bytes);
        self.frees = self.frees.saturating_add(other.frees);
        self.freed_bytes = self.freed_bytes.saturating_add(other.freed_bytes);
        self.live.add(&other.live);
    }

    /// Outstanding blocks.
    pub(super) const fn live_blocks(&self) -> u64 {
        self.live.blocks
    }

    /// Their bytes.
    pub(super) const fn live_bytes(&self) -> u64 {
        self.live.bytes
    }
}

/// Counts of each kind of memory.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spaces([Sums; Space::ALL.len()]);

impl Spaces {
    /// Adds a site's, whose space goes by this number.
    pub(super) fn add(&mut self, number: u8, sums: &Sums) {
        self.0[space_of(number) as usize].add(sums);
    }

    /// The sum of all of the host's memory that is listed, be they blocks within blocks or not.
    pub(super) fn listed_of_host(&self) -> Sums {
        self.sum(|space| !space.is_gpus())
    }

    /// Of one kind.
    pub(super) const fn of(&self, space: Space) -> &Sums {
        &self.0[space as usize]
    }

    /// The sum of the host's memory that the process holds.
    pub(super) fn of_host(&self) -> Sums {
        self.sum(Space::is_of_sum)
    }

    fn sum(&self, counts: impl Fn(Space) -> bool) -> Sums {
        let mut sum = Sums::default();
        for space in Space::ALL.into_iter().filter(|space| counts(*space)) {
            sum.add(&self.0[space as usize]);
        }
        sum
    }

    /// What is outstanding of each.
    pub(super) fn held(&self) -> BySpace {
        BySpace::from_fn(|space| Held {
            live_bytes: self.of(space).live_bytes(),
            live_blocks: self.of(space).live_blocks(),
        })
    }
}

/// A kind of memory by its number, as it is summed up.
pub(super) fn space_of(number: u8) -> Space {
    Space::of(number).unwrap_or(Space::Heap)
}

/// The same totals without contradictions.
///
/// The kernel's counters are read one after the other while they grow: a block may be seen freed before it
/// is seen allocated, its bytes with or without itself, and what it stands for with or without either.
pub(super) fn consistent(totals: &Site, sampling: bool) -> Site {
    let mut totals = *totals;
    totals.frees = totals.frees.min(totals.allocs);
    let none_left = totals.frees == totals.allocs;
    totals.freed_bytes = if none_left {
        totals.alloc_bytes
    } else {
        totals.freed_bytes.min(totals.alloc_bytes)
    };
    if sampling {
        totals.allocated = Estimate {
            blocks: totals.allocated.blocks.max(totals.allocs << BLOCKS_FRACTION_BITS),
            bytes: totals.allocated.bytes.max(totals.alloc_bytes),
            ..totals.allocated
        };
        totals.freed = if none_left {
            totals.allocated
        } else {
            freed_within(&totals)
        };
    }
    totals
}

/// What was freed stands for at least itself, and leaves at least what is left.
fn freed_within(totals: &Site) -> Estimate {
    let Site { allocated, freed, .. } = totals;
    let left_blocks = (totals.allocs - totals.frees) << BLOCKS_FRACTION_BITS;
    let left_bytes = totals.alloc_bytes - totals.freed_bytes;
    Estimate {
        blocks: (freed.blocks)
            .max(totals.frees << BLOCKS_FRACTION_BITS)
            .min(allocated.blocks - left_blocks),
        bytes: (freed.bytes)
            .max(totals.freed_bytes)
            .min(allocated.bytes - left_bytes),
        variance_of_bytes: freed.variance_of_bytes.min(allocated.variance_of_bytes),
        variance_of_blocks: freed.variance_of_blocks.min(allocated.variance_of_blocks),
    }
}
