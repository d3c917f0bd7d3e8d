//! What the kernel side tells of the memory that a target maps by itself: one record a system call that has succeeded.

use crate::key::Process;

/// Kinds of [`MapEvent`].
pub mod kind {
    /// `mmap`: `start` and `length_bytes` are now mapped anew, whatever was there.
    pub const MAP: u32 = 1;
    /// `munmap`: nothing of what was mapped there before `began_ns` is any more.
    pub const UNMAP: u32 = 2;
    /// `mremap`: what was at `old_start` of `old_length_bytes` is now at `start` of `length_bytes`. A length of 0 there:
    /// the old range stays as it is, and the new one is of the same shared memory.
    pub const REMAP: u32 = 3;
    /// `brk`: the heap's end is now `start`; `old_start` is where it was, 0 where that is not known.
    pub const BREAK: u32 = 4;
}

/// Bits of [`MapEvent::flags`].
pub mod flag {
    /// A probed function of an allocator was under way in the thread.
    pub const BY_ALLOCATOR: u32 = 1;
    /// The mapping is of no file.
    pub const ANONYMOUS: u32 = 2;
    /// It is shared.
    pub const SHARED: u32 = 4;
    /// It is for a stack (`MAP_STACK`, `MAP_GROWSDOWN`).
    pub const STACK: u32 = 8;
    /// `MREMAP_DONTUNMAP`: the old range stays mapped, empty.
    pub const KEEPS_OLD: u32 = 16;
}

/// A system call that has changed what is mapped. Addresses and lengths are of whole pages.
///
/// Events of one process are not quite in the order in which its calls took effect: they are told as the calls return, and
/// what one thread gives back another may have been given before the first returns. Who gives back names the time at which
/// it began to, and what was mapped since then is another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct MapEvent {
    /// Who.
    pub process: Process,
    /// When it returned, nanoseconds of `CLOCK_BOOTTIME`.
    pub time_ns: u64,
    /// When it was entered, where it takes something away ([`kind::UNMAP`], [`kind::REMAP`]); else as `time_ns`.
    pub began_ns: u64,
    /// The stack it was called from; 0 where it was not taken: of unmappings and of an allocator's calls.
    pub stack_id: u64,
    /// First address.
    pub start: u64,
    /// Bytes.
    pub length_bytes: u64,
    /// See [`kind`].
    pub old_start: u64,
    /// See [`kind`].
    pub old_length_bytes: u64,
    /// One of [`kind`].
    pub kind: u32,
    /// Bits of [`flag`].
    pub flags: u32,
}

const _: () = assert!(size_of::<MapEvent>() == 72);
