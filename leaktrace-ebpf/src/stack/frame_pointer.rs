//! The walk along frame pointers.
//!
//! Frame 0 is the probed function and frame 1 its caller, read from the stack pointer: at entry the
//! function has no frame of its own yet, so the chain that starts at rbp is the caller's and begins with
//! the caller's caller. (`bpf_get_stack` drops the caller for that reason unless the probed instruction is
//! `push %rbp` or `endbr64`; it is also dearer than this walk wherever the chain is short.)

use aya_ebpf::helpers::bpf_probe_read_user;
use leaktrace_common::stack::{FRAMES_MAX, Stack};

use super::Hash;
use crate::registers::UserRegisters;

/// A frame larger than this is taken for garbage in rbp: code without frame pointers uses it as an
/// ordinary register.
const FRAME_MAX_BYTES: u64 = 1 << 20;

/// Fills `stack` and returns the hash of its frames. `caller` is 0 if it could not be read or is not known.
#[inline(always)]
pub fn walk(at: &UserRegisters, stack: &mut Stack, caller: u64) -> Hash {
    let frames = (&raw mut stack.frames).cast::<u64>();
    let function = at.instruction;
    let mut hash = Hash::new().add(function);
    let mut sp = at.stack_pointer;
    let mut bp = at.frame_pointer;
    let mut len = 1;
    // SAFETY: indices are constants or loop counters below FRAMES_MAX; indexing would add panic paths.
    unsafe { *frames = function };
    if caller != 0 {
        hash = hash.add(caller);
        // SAFETY: as above.
        unsafe { *frames.add(1) = caller };
        len = 2;
    }
    stack.truncated = 1;
    for index in 2..FRAMES_MAX {
        // The chain only goes up, by aligned frames of sane size.
        if bp <= sp || bp & 7 != 0 || bp - sp > FRAME_MAX_BYTES {
            stack.truncated = 0;
            break;
        }
        // SAFETY: the helper checks the address.
        let Ok([next, address]) = (unsafe { bpf_probe_read_user(bp as *const [u64; 2]) }) else {
            stack.truncated = 0;
            break;
        };
        if address == 0 {
            stack.truncated = 0;
            break;
        }
        hash = hash.add(address);
        // SAFETY: as above.
        unsafe { *frames.add(index) = address };
        len = index as u32 + 1;
        sp = bp;
        bp = next;
    }
    stack.len = len;
    hash
}
