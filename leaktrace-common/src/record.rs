//! Values of the kernel's maps.

use crate::{
    key::Process,
    math::{Sampler, Weight},
    stack::{Stack, Walk},
    unwind::WINDOW_WORDS,
};

/// A live block, written when its allocation returned successfully.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Live {
    /// Bytes asked for.
    pub size_bytes: u64,
    /// When the allocation returned, nanoseconds of `CLOCK_BOOTTIME`.
    pub time_ns: u64,
    /// Together with `call` and the key's process: the site.
    pub stack_id: u64,
    /// The call.
    pub call: u16,
    /// Shard of the site that counted the allocation.
    pub shard: u16,
    /// How many allocations it stands for.
    pub weight: Weight,
}

/// Lifetimes are counted in powers of two: bucket `k` holds those of at least
/// 2^(k + [`LIFETIME_FIRST_BIT`]) ns, the first also all shorter ones and the last all longer ones.
pub const LIFETIME_BUCKETS: usize = 40;

/// See [`LIFETIME_BUCKETS`]: a probed free is never seen sooner than 256 ns after its malloc.
pub const LIFETIME_FIRST_BIT: u32 = 8;

/// What the recorded blocks of a site stand for, where sampling is possible; all zeros where it is not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Estimate {
    /// Blocks, with [`crate::math::BLOCKS_FRACTION_BITS`] fraction bits.
    pub blocks: u64,
    /// Bytes.
    pub bytes: u64,
    /// Variance of `bytes`, in squares of [`crate::math::VARIANCE_UNIT_BYTES`].
    pub variance_of_bytes: u64,
    /// Variance of the blocks.
    pub variance_of_blocks: u64,
}

impl Estimate {
    /// Nothing.
    pub const ZERO: Self = Self {
        blocks: 0,
        bytes: 0,
        variance_of_bytes: 0,
        variance_of_blocks: 0,
    };

    /// Adds another.
    pub const fn add(&mut self, other: &Self) {
        self.blocks += other.blocks;
        self.bytes += other.bytes;
        self.variance_of_bytes += other.variance_of_bytes;
        self.variance_of_blocks += other.variance_of_blocks;
    }
}

/// Totals of a site. They only grow; what is outstanding is a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Site {
    /// Blocks handed out and recorded.
    pub allocs: u64,
    /// Their bytes.
    pub alloc_bytes: u64,
    /// Recorded blocks of this site taken back, wherever that happened.
    pub frees: u64,
    /// Their bytes.
    pub freed_bytes: u64,
    /// What those handed out stand for.
    pub allocated: Estimate,
    /// What those taken back stand for: the same weights as when they were handed out.
    pub freed: Estimate,
    /// Lifetimes of the freed blocks by log2 of nanoseconds, each as often as the blocks it stands for.
    pub lifetimes: [u64; LIFETIME_BUCKETS],
}

impl Site {
    /// Nothing seen yet.
    pub const EMPTY: Self = Self {
        allocs: 0,
        alloc_bytes: 0,
        frees: 0,
        freed_bytes: 0,
        allocated: Estimate::ZERO,
        freed: Estimate::ZERO,
        lifetimes: [0; LIFETIME_BUCKETS],
    };

    /// Adds the totals of another shard.
    pub fn add(&mut self, other: &Self) {
        self.allocs += other.allocs;
        self.alloc_bytes += other.alloc_bytes;
        self.frees += other.frees;
        self.freed_bytes += other.freed_bytes;
        self.allocated.add(&other.allocated);
        self.freed.add(&other.freed);
        for (sum, bucket) in self.lifetimes.iter_mut().zip(&other.lifetimes) {
            *sum += bucket;
        }
    }
}

/// A call that has been entered and has not returned.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Pending {
    /// Stack pointer at the function's entry; 0 when nothing is pending.
    pub sp: u64,
    /// Address of the probed instruction: with `sp` it tells a tail call from a call that never returned.
    pub instruction: u64,
    /// Its return address, as the caller pushed it; 0 if it could not be read.
    pub return_address: u64,
    /// What stood in its place while a call inside this one was entered; 0 for none so far.
    pub slot_seen: u64,
    /// The function's cookie.
    pub cookie: u64,
    /// Bytes asked for.
    pub size_bytes: u64,
    /// The out-pointer, for calls that have one.
    pub out_pointer: u64,
    /// Stack at entry.
    pub stack_id: u64,
    /// Realloc: the block handed in; 0 for none.
    pub old_address: u64,
    /// Realloc: the record taken out of the live table; meaningful if `old_known` is not 0.
    pub old: Live,
    /// Whether `old` was in the live table.
    pub old_known: u32,
    /// Whether the new block is to be recorded, and if not why: one of [`outcome`].
    pub outcome: u32,
    /// How many allocations the new block stands for.
    pub weight: Weight,
    /// Always 0.
    pub pad: u32,
}

/// What is to be done with the block of a pending call.
pub mod outcome {
    /// It is recorded.
    pub const RECORD: u32 = 0;
    /// Its size is filtered out.
    pub const FILTERED: u32 = 1;
    /// Sampling left it out.
    pub const SAMPLED_OUT: u32 = 2;
    /// Its process has as much recorded as it may have, or is a target no more.
    pub const NO_ROOM: u32 = 3;
}

/// What the kernel side keeps per thread.
///
/// Per thread and not per CPU: a uprobe program can be preempted by another task's on the same CPU, so
/// a per-CPU buffer would be written by two threads at once.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Thread {
    /// The thread's process image; read once, when the thread is first seen.
    pub process: Process,
    /// Index of the process's slot in the array of layouts ([`crate::unwind::LayoutSlot`]).
    pub layout: u64,
    /// Its countdown to the next sample.
    pub sampler: Sampler,
    /// The block last taken back by a free that may pass it on to another probed free; 0 for none.
    pub delegated_address: u64,
    /// Stack pointer at the entry of that free.
    pub delegated_sp: u64,
    /// Address that the kernel's return probes put in the place of a return address, once it is known.
    pub trampoline: u64,
    /// When the system call was entered by which the thread gives back what is mapped; 0 for none.
    pub unmapping_ns: u64,
    /// One call in flight per layer: the outermost one owns the record, those inside it are silent.
    pub pending: [Pending; LAYERS_MAX],
    /// Stacks of this thread that are known to be in the table, by the low bits of their ids.
    pub kept: [u64; KEPT_STACKS],
    /// The stack walk under way.
    pub walk: Walk,
    /// Its frames.
    pub stack: Stack,
    /// The part of the target's stack that the walk is in.
    pub window: [u64; WINDOW_WORDS],
}

/// Size of [`Thread::kept`], a power of two.
pub const KEPT_STACKS: usize = 16;

/// Layers ([`crate::call::Cookie::layer`]) that can have a call in flight at the same time in one thread. A
/// power of two.
pub const LAYERS_MAX: usize = 4;

/// A traced process. User space adds it or the kernel side does; from then on only the kernel side writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Tracked {
    /// See [`Process::image`].
    pub image: u32,
    /// Bits of [`tracked`].
    pub state: u32,
    /// Blocks of it in the live table, those of images that are gone left out. Kept only where processes become targets
    /// by themselves, as is the next.
    pub live: u64,
    /// Stacks that it has put into the table of stacks.
    pub stacks: u64,
}

/// Bits of [`Tracked::state`].
pub mod tracked {
    /// User space knows of it.
    pub const TOLD: u32 = 1;
    /// It has ended or is none any more: the entry is kept until user space has taken what belongs to it, so that a
    /// process that comes under the same number is another image.
    pub const LEFT: u32 = 2;
    /// It is a target whatever it executes.
    pub const NAMED: u32 = 4;
}

/// How often a probe was hit, by the slot in its cookie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Hits {
    /// Entries.
    pub entries: u64,
    /// Returns, where they trap.
    pub returns: u64,
}

/// Slots of the table of hits.
pub const HIT_SLOTS: usize = 1024;

/// What user space changes while the kernel side runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Control {
    /// Mean gap between two samples of a thread; 0 records every allocation. Only where
    /// [`crate::config::Config::sampling`] is set.
    pub mean_bytes: u64,
    /// Blocks that one process may have in the live table, where processes become targets by themselves.
    pub process_live_max: u64,
    /// Stacks that one may put into the table of stacks.
    pub process_stacks_max: u64,
    /// Not 0 where user space is told of each target as soon as it is one, and not only when something of it is recorded:
    /// it has to set the probes.
    pub tells_at_once: u64,
}

const _: () = assert!(size_of::<Live>() == 32);
const _: () = assert!(size_of::<Hits>() == 16);
const _: () = assert!(size_of::<Estimate>() == 32);
const _: () = assert!(size_of::<Tracked>() == 24);
const _: () = assert!(size_of::<Site>() == 96 + 8 * LIFETIME_BUCKETS);
const _: () = assert!(size_of::<Pending>() == 120);
const _: () = assert!(LAYERS_MAX.is_power_of_two() && KEPT_STACKS.is_power_of_two());
// 4 KiB is the largest size class of the kernel's BPF allocator (kernel/bpf/memalloc.c); with ~56 bytes of header.
const _: () = assert!(size_of::<Thread>() <= 4030);
