//! Memory of Python's object allocator: which mappings are its arenas, and where a pool lies. Must not know frames.

use aya_ebpf::programs::ProbeContext;
use leaktrace_common::{
    call::{Cookie, Space},
    record::Thread,
};

use crate::{registers, stack};

/// Pools of an arena: 64 of 4 KiB up to Python 3.9, of 16 KiB from then on (Objects/obmalloc.c).
const POOLS_OF_ARENA_BITS: u32 = 6;

/// Bytes of what the call hands out; 0 if that is none of the allocator's: most mappings are another's.
#[inline(always)]
pub fn size_bytes(ctx: &ProbeContext, cookie: Cookie, thread: &Thread, asked_bytes: u64) -> u64 {
    let Some(interpreter) = stack::interpreter(thread) else {
        return 0;
    };
    let (arena_bytes, code_begin, code_end) = (
        interpreter.arena_bytes,
        interpreter.code_begin,
        interpreter.code_end,
    );
    if cookie.space() == Space::PythonPool as u8 {
        return arena_bytes >> POOLS_OF_ARENA_BITS;
    }
    if asked_bytes != arena_bytes {
        return 0;
    }
    let caller = registers::read_word(registers::stack_pointer(ctx)).unwrap_or(0);
    if caller > code_begin && caller <= code_end {
        arena_bytes
    } else {
        0
    }
}

/// What a record is kept under: of a pool the call hands out its first block.
#[inline(always)]
pub fn address(cookie: Cookie, result: u64, size_bytes: u64) -> u64 {
    if cookie.space() == Space::PythonPool as u8 {
        result & !size_bytes.wrapping_sub(1)
    } else {
        result
    }
}
