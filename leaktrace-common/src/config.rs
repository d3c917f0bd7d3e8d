//! The block of constants that user space writes into the kernel side's `.rodata` before it is loaded.
//! The verifier then removes the branches that a run does not need.

use crate::{select::Rules, unwind::ReturnProbes};

/// Configuration of the kernel side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Config {
    /// Smaller allocations are not recorded.
    pub min_size_bytes: u64,
    /// Larger allocations are not recorded.
    pub max_size_bytes: u64,
    /// Not 0 where this run may sample: records then carry weights, and the filter of live addresses is kept.
    pub sampling: u64,
    /// Shards of a site less one: a power of two less one. Threads on different CPUs that allocate from one stack
    /// would otherwise write to one cache line.
    pub site_shard_mask: u64,
    /// Not 0 where stacks are walked by unwind tables; else by frame pointers.
    pub unwind: u64,
    /// Not 0 where each new stack is sent to user space as well, to be walked there once more.
    pub verify: u64,
    /// Where replaced return addresses are found.
    pub return_probes: ReturnProbes,
    /// Offset in the kernel's `task_struct` of the thread pointer (`thread.fsbase`), by which a thread's Python frames
    /// are found; 0 where they are not walked.
    pub thread_pointer: u64,
    /// Which processes the kernel side makes targets by itself.
    pub rules: Rules,
}

/// Most shards that a site can have.
pub const SITE_SHARDS_MAX: u32 = 8;

impl Config {
    /// Every allocation is recorded.
    pub const ALL: Self = Self {
        min_size_bytes: 0,
        max_size_bytes: u64::MAX,
        sampling: 0,
        site_shard_mask: 0,
        unwind: 0,
        verify: 0,
        return_probes: ReturnProbes {
            task_utask: 0,
            utask_instances: 0,
            instance_stack: 0,
            instance_address: 0,
            instance_next: 0,
            task_mm: 0,
            mm_xol_area: 0,
            xol_vaddr: 0,
        },
        thread_pointer: 0,
        rules: Rules::NONE,
    };
}

/// The live table is made of tiers, each larger than the one before and created only when the one
/// before fills: a hash map's bucket array is paid for in full when the map is created (16 bytes a
/// bucket), so one map of 10 million blocks would cost 268 MB before the first of them.
pub const LIVE_TIERS_MAX: u32 = 6;

/// Blocks the first tier holds.
pub const LIVE_TIER_FIRST: u32 = 1 << 16;

/// Words of the filter of live addresses, four counts each: 256 KiB, which a core's second-level cache holds.
/// With 20 000 sampled blocks alive, 10 GiB at a mean of 512 KiB, one free in seven of unsampled blocks
/// still asks the live table.
pub const FILTER_WORDS: usize = 1 << 15;

const _: () = assert!(FILTER_WORDS.is_power_of_two());
const _: () = assert!(size_of::<Config>() == 88 + size_of::<Rules>());
const _: () = assert!(size_of::<LiveTiers>() == 16);

/// Which tier new blocks go to, and how many exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct LiveTiers {
    /// Index of the tier that is being filled.
    pub current: u32,
    /// Tiers that exist.
    pub count: u32,
    /// The last tier that user space was told of by the kernel side.
    pub announced: u32,
    /// Always 0.
    pub pad: u32,
}
