//! Reading the target's stack: a stretch of it at a time, since a read costs much the same whatever its size up to
//! some kilobytes.
//!
//! The words lie in the thread's state: per CPU, a program that preempts this one would overwrite them.

use aya_ebpf::helpers::generated::bpf_probe_read_user;
use leaktrace_common::unwind::WINDOW_WORDS;

/// Bytes of a window.
pub const WINDOW_BYTES: u64 = WINDOW_WORDS as u64 * 8;

const PAGE_BYTES: u64 = 4096;

/// How far below a word that is wanted a new window begins: registers are saved below the return address.
const BELOW_BYTES: u64 = 64;

/// A stretch of the stack.
#[repr(C)]
pub struct Window {
    /// The thread's words.
    pub words: *mut u64,
    /// Address of the first.
    base: u64,
    /// Bytes that have been read.
    len: u64,
}

impl Window {
    /// Reads nothing yet.
    #[inline(always)]
    pub const fn new(words: *mut u64) -> Self {
        Self {
            words,
            base: 0,
            len: 0,
        }
    }

    /// The word at an address of the stack, which is expected at or above `floor`. `None` if it is not aligned or cannot be read.
    #[inline(always)]
    pub fn word(&mut self, address: u64, floor: u64) -> Option<u64> {
        if address & 7 != 0 {
            return None;
        }
        let mut offset = address.wrapping_sub(self.base);
        if offset >= self.len {
            let from = address.wrapping_sub(BELOW_BYTES);
            let from = if from > floor && from < address {
                from
            } else {
                address
            };
            if !self.read(from) && !(from != address && self.read(address)) {
                return None;
            }
            offset = address.wrapping_sub(self.base);
            if offset >= self.len {
                return None;
            }
        }
        let index = (offset >> 3) as usize & (WINDOW_WORDS - 1);
        // SAFETY: masked to the length of the thread's words.
        Some(unsafe { *self.words.add(index) })
    }

    /// Moves the window to `address`. At the top of a stack it may be cut at the end of the page.
    #[inline(always)]
    pub fn read(&mut self, address: u64) -> bool {
        self.base = address;
        self.len = WINDOW_BYTES;
        if read(self.words, WINDOW_BYTES, address) {
            return true;
        }
        let rest = PAGE_BYTES - (address & (PAGE_BYTES - 1));
        self.len = if rest < WINDOW_BYTES { rest } else { 8 };
        if read(self.words, self.len, address) {
            return true;
        }
        self.len = 0;
        false
    }

    /// Bytes that the window holds.
    #[inline(always)]
    pub const fn len(&self) -> u64 {
        self.len
    }
}

#[inline(always)]
fn read(words: *mut u64, bytes: u64, address: u64) -> bool {
    // SAFETY: `words` has WINDOW_WORDS of them and `bytes` is not more; the helper checks the address.
    unsafe { bpf_probe_read_user(words.cast(), bytes as u32, address as *const _) == 0 }
}
