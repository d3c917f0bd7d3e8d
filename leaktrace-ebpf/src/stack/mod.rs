//! Taking the stack at the entry of a call, and giving it an id.
//!
//! `capture` is the interface: it walks by unwind tables (`table`) or, where those cannot be had, by frame pointers.
//! An interpreter's own frames (`python`) are walked behind them, and the id covers both.

mod frame_pointer;
mod instances;
mod python;
mod raw;
mod rule;
mod table;
mod window;

pub use instances::trampoline;
pub use python::{forget_thread, interpreter};

use aya_ebpf::bindings::BPF_NOEXIST;
use leaktrace_common::{
    counter::Counter,
    python::python_end,
    record::{KEPT_STACKS, Thread},
    unwind::{END_BITS, Layout, end, linker},
};

use crate::{
    config,
    counter::bump,
    maps::{STACKS, UNWIND_LAYOUTS},
    members,
    registers::{self, UserRegisters},
};

const E2BIG: i32 = -7;
const ENOMEM: i32 = -12;

/// A stack that has been taken.
pub struct Captured {
    /// Key in the table of stacks: a 64-bit hash of the frames, whose low bits say how the walk ended; 0 when the
    /// table has no room (counted).
    pub id: u64,
    /// Return address of the probed function; 0 if it could not be read.
    pub return_address: u64,
}

/// Where a walk begins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// At the probed instruction of a function: its return address is on top of the stack.
    Probe,
    /// Behind the instruction of a system call: the tables know that as they know the end of a call.
    SystemCall,
}

/// Walks the stack and keeps it.
#[inline(always)]
pub fn capture(at: UserRegisters, begin: Begin, thread: &mut Thread) -> Captured {
    // By registers, not in memory: before Linux 6.13 all functions of a program that are under way share 512 bytes of stack.
    let (instruction, sp, bp) = (at.instruction, at.stack_pointer, at.frame_pointer);
    if config::unwinds() {
        let id = by_tables(instruction, sp, bp, begin, thread);
        return Captured {
            id,
            return_address: thread.walk.caller,
        };
    }
    let return_address = match begin {
        Begin::Probe => registers::read_word(sp).unwrap_or(0),
        // The function has a frame of its own.
        Begin::SystemCall => 0,
    };
    let id = by_frame_pointers(instruction, sp, bp, thread, return_address);
    Captured { id, return_address }
}

#[inline(never)]
fn by_tables(instruction: u64, sp: u64, bp: u64, begin: Begin, thread: &mut Thread) -> u64 {
    let at = UserRegisters::new(instruction, sp, bp);
    table::walk(&at, begin, thread);
    python::walk(thread);
    let id = Hash(thread.walk.hash).id(thread.walk.end);
    if end_is(id, end::TOO_DEEP) {
        bump(Counter::StacksTruncated);
    }
    // Before what is known to be kept: a stack with these frames may have been lost, and this one need not be.
    if end_is(id, end::UNKNOWN_MAPPING) || end_is(id, end::UNSUPPORTED) {
        return raw::hand_over(thread, id);
    }
    if let Some(id) = kept(thread, id) {
        return id;
    }
    if config::verifies() && begin == Begin::Probe && STACKS.get_ptr(id).is_none() {
        raw::verify(&at, thread, id);
    }
    remember(thread, id)
}

#[inline(never)]
fn by_frame_pointers(instruction: u64, sp: u64, bp: u64, thread: &mut Thread, caller: u64) -> u64 {
    let at = UserRegisters::new(instruction, sp, bp);
    let hash = frame_pointer::walk(&at, &mut thread.stack, caller);
    thread.stack.python = 0;
    thread.stack.python_end = python_end::NO_INTERPRETER;
    if thread.stack.truncated != 0 {
        bump(Counter::StacksTruncated);
    }
    let id = hash.id(end::FRAME_POINTERS);
    match kept(thread, id) {
        Some(id) => id,
        None => remember(thread, id),
    }
}

/// What was mapped in a process is mapped no more: called at `exec`, before the new image's first instruction.
#[inline(always)]
pub fn forget(layout: u32) {
    if let Some(slot) = UNWIND_LAYOUTS.get_ptr_mut(layout) {
        // SAFETY: an aligned word, which user space also writes, by single stores.
        unsafe {
            core::ptr::write_volatile(&raw mut (*slot).layout, Layout::NONE.0);
            core::ptr::write_volatile(&raw mut (*slot).asked, 0);
        }
    }
}

/// The dynamic linker is in this state. Whether it has just finished unmapping: what is known to be mapped is to be
/// looked at once more. From the beginning of it on, no layout holds that was made before its end.
#[inline(always)]
pub fn unmapping(layout: u32, state: u32) -> bool {
    let Some(slot) = UNWIND_LAYOUTS.get_ptr_mut(layout) else {
        return false;
    };
    // SAFETY: an aligned word that only this function writes, under the lock of the process's dynamic linker.
    let closes = unsafe { core::ptr::read_volatile(&raw const (*slot).closes) };
    let under_way = closes & 1 != 0;
    if under_way != (state == linker::DELETE) && (under_way || state == linker::DELETE) {
        // SAFETY: as above.
        unsafe { core::ptr::write_volatile(&raw mut (*slot).closes, closes + 1) };
        return under_way;
    }
    false
}

#[inline(always)]
const fn end_is(id: u64, end: u64) -> bool {
    leaktrace_common::unwind::end_of(id) == end
}

/// The id, if the thread knows that the table has it.
#[inline(always)]
fn kept(thread: &mut Thread, id: u64) -> Option<u64> {
    // Where processes come and go, user space takes stacks out of the table.
    (!config::selects() && *slot(thread, id) == id).then_some(id)
}

/// Keeps the thread's stack in the table, and remembers that it is there.
#[inline(always)]
fn remember(thread: &mut Thread, id: u64) -> u64 {
    let id = keep(id, thread);
    *slot(thread, id) = id;
    id
}

#[inline(always)]
fn slot(thread: &mut Thread, id: u64) -> &mut u64 {
    let index = (id >> END_BITS) as usize & (KEPT_STACKS - 1);
    // SAFETY: masked to the array's length; indexing would add a panic path.
    unsafe { &mut *(&raw mut thread.kept).cast::<u64>().add(index) }
}

#[inline(always)]
fn keep(id: u64, thread: &mut Thread) -> u64 {
    if STACKS.get_ptr(id).is_some() {
        return id;
    }
    if !members::takes_stack(thread.process.tgid) {
        return 0;
    }
    // Who finds the stack finds them.
    python::keep(thread);
    match STACKS.insert(id, &thread.stack, u64::from(BPF_NOEXIST)) {
        Err(E2BIG | ENOMEM) => {
            bump(Counter::StacksFull);
            0
        }
        // Another thread was first, with the same frames.
        Ok(()) | Err(_) => id,
    }
}

/// Incremental hash of the frames, mixed while they are walked.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Hash(pub u64);

impl Hash {
    const SEED: u64 = 0x51_7c_c1_b7_27_22_0a_95;
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

    #[inline(always)]
    pub const fn new() -> Self {
        Self(Self::SEED)
    }

    #[inline(always)]
    pub const fn add(self, frame: u64) -> Self {
        let mixed = (self.0 ^ frame).wrapping_mul(Self::FACTOR);
        Self(mixed ^ (mixed >> 29))
    }

    /// The id of a stack that ended so; never 0, which stands for "no stack".
    #[inline(always)]
    pub const fn id(self, end: u64) -> u64 {
        let hash = self.0 & !((1 << END_BITS) - 1);
        (if hash == 0 { 1 << END_BITS } else { hash }) | end
    }
}
