//! Reading the target's stack: a stretch of it at a time, since a read costs much the same whatever its size up to
//! some kilobytes.
//!
//! The words lie in the thread's state: per CPU, a program that preempts this one would overwrite them.

use aya_ebpf::helpers::generated::bpf_probe_read_user;
use leaktrace_common::{record::Thread, unwind::WINDOW_WORDS};

use crate::opaque::opaque;

/// Bytes of a window.
pub const WINDOW_BYTES: u64 = WINDOW_WORDS as u64 * 8;

const PAGE_BYTES: u64 = 4096;

/// How far below a word that is wanted a new window begins: registers are saved below the return address.
const BELOW_BYTES: u64 = 64;

/// The word at an address of the stack. `None` if it is not aligned or cannot be read.
#[inline(always)]
pub fn word(thread: &mut Thread, address: u64) -> Option<u64> {
    if address & 7 != 0 {
        return None;
    }
    let mut offset = address.wrapping_sub(thread.walk.window_base);
    if offset >= thread.walk.window_len {
        move_to(thread, address);
        offset = address.wrapping_sub(thread.walk.window_base);
        if offset >= thread.walk.window_len {
            return None;
        }
    }
    let index = (offset >> 3) as usize & (WINDOW_WORDS - 1);
    // SAFETY: masked to the length of the array; indexing would add a panic path.
    Some(unsafe { *(&raw const thread.window).cast::<u64>().add(index) })
}

#[inline(always)]
fn move_to(thread: &mut Thread, address: u64) {
    // Not below the frame that is being left: that part of the stack has been seen.
    let floor = thread.walk.sp;
    let from = address.wrapping_sub(BELOW_BYTES);
    let from = if from < floor && floor <= address {
        floor
    } else {
        from
    };
    if !read(thread, from) && from != address {
        read(thread, address);
    }
}

/// Moves the window to `address`; whether anything could be read. At the top of a stack it is cut at the end of the page.
#[inline(never)]
pub fn read(thread: &mut Thread, address: u64) -> bool {
    thread.walk.window_base = address;
    thread.walk.window_len = WINDOW_BYTES;
    let words = (&raw mut thread.window).cast::<u64>();
    if copy(words, WINDOW_BYTES, address) {
        return true;
    }
    let rest = opaque(PAGE_BYTES - (address & (PAGE_BYTES - 1)));
    let len = if rest < WINDOW_BYTES { rest } else { 8 };
    thread.walk.window_len = len;
    if copy(words, len, address) {
        return true;
    }
    thread.walk.window_len = 0;
    false
}

#[inline(always)]
fn copy(words: *mut u64, bytes: u64, address: u64) -> bool {
    // SAFETY: `words` has WINDOW_WORDS of them and `bytes` is not more; the helper checks the address.
    unsafe { bpf_probe_read_user(words.cast(), bytes as u32, address as *const _) == 0 }
}
