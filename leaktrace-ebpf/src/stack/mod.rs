//! Taking the stack at the entry of a call, and giving it an id.
//!
//! `capture` is the interface: today it follows frame pointers; a walk by unwind tables and an
//! interpreter's frames join here and nothing else changes.

mod frame_pointer;

use aya_ebpf::{bindings::BPF_NOEXIST, programs::ProbeContext};
use leaktrace_common::{
    counter::Counter,
    record::{KEPT_STACKS, Thread},
    stack::Stack,
};

use crate::{counter::bump, maps::STACKS};

const E2BIG: i32 = -7;
const ENOMEM: i32 = -12;

/// Walks the stack, keeps it, and returns its id: a 64-bit hash of the frames, or 0 when the table has no room
/// (counted). `caller` is the probed function's return address; 0 if it could not be read.
#[inline(never)]
pub fn capture(ctx: &ProbeContext, thread: &mut Thread, caller: u64) -> u64 {
    let id = frame_pointer::walk(ctx, &mut thread.stack, caller);
    if thread.stack.truncated != 0 {
        bump(Counter::StacksTruncated);
    }
    // SAFETY: masked to the array's length; indexing would add a panic path.
    let kept = unsafe {
        &mut *(&raw mut thread.kept)
            .cast::<u64>()
            .add(id as usize & (KEPT_STACKS - 1))
    };
    if *kept == id {
        return id;
    }
    *kept = keep(id, &thread.stack);
    *kept
}

#[inline(always)]
fn keep(id: u64, stack: &Stack) -> u64 {
    if STACKS.get_ptr(id).is_some() {
        return id;
    }
    match STACKS.insert(id, stack, u64::from(BPF_NOEXIST)) {
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
pub struct Hash(u64);

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

    /// The id; never 0, which stands for "no stack".
    #[inline(always)]
    pub const fn id(self) -> u64 {
        if self.0 == 0 { 1 } else { self.0 }
    }
}
