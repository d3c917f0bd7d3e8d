//! Stacks that the kernel side cannot finish: registers and a stretch of stack go to user space, once for each that
//! differs, within a share that each process is granted.

use aya_ebpf::{helpers::generated::bpf_probe_read_user, programs::ProbeContext};
use leaktrace_common::{
    counter::Counter,
    record::Thread,
    unwind::{RAW_BYTES_MAX, RawStack, WINDOW_WORDS, end_of, raw},
};

use super::{
    Hash, kept, remember,
    window::{self, WINDOW_BYTES},
};
use crate::{
    counter::bump,
    maps::{RAW_STACKS, STACKS, UNWIND_LAYOUTS},
    registers,
};

const WINDOWS: u64 = RAW_BYTES_MAX as u64 / WINDOW_BYTES;

/// A stack whose walk could not go on; `partial` is the id by its frames alone. The id that it gets takes in what lies on the stack: the frames that are missing must not
/// be those of another.
#[inline(always)]
pub fn hand_over(thread: &mut Thread, partial: u64) -> u64 {
    if !is_granted(thread) {
        bump(Counter::RawStacksLost);
        return remember(thread, partial);
    }
    let mut len = 0;
    let id = hash_stack(thread, &mut len).id(end_of(partial));
    if let Some(id) = kept(thread, id) {
        return id;
    }
    if STACKS.get_ptr(id).is_some() {
        return remember(thread, id);
    }
    let walk = &thread.walk;
    let kind = if walk.signal != 0 { raw::SIGNAL } else { raw::FRAME };
    let registers = [walk.ip, walk.sp, walk.bp];
    if send(thread, id, kind, registers, len) {
        remember(thread, id)
    } else {
        bump(Counter::RawStacksLost);
        remember(thread, partial)
    }
}

/// A finished stack, to be walked once more.
#[inline(always)]
pub fn verify(ctx: &ProbeContext, thread: &mut Thread, id: u64) {
    let sp = registers::stack_pointer(ctx);
    // SAFETY: a constant index.
    let caller = unsafe { *(&raw const thread.stack.frames).cast::<u64>().add(1) };
    let registers = [caller, sp + 8, registers::frame_pointer(ctx)];
    if !send(thread, id, raw::VERIFY, registers, RAW_BYTES_MAX as u64) {
        bump(Counter::RawStacksLost);
    }
}

#[inline(always)]
fn is_granted(thread: &Thread) -> bool {
    UNWIND_LAYOUTS
        .get_ptr(thread.layout as u32)
        // SAFETY: an aligned word.
        .is_some_and(|slot| unsafe { core::ptr::read_volatile(&raw const (*slot).raw_left) } != 0)
}

/// One fewer. Threads that do so at the same time may count as one.
#[inline(always)]
fn use_up(thread: &Thread) {
    if let Some(slot) = UNWIND_LAYOUTS.get_ptr_mut(thread.layout as u32) {
        // SAFETY: an aligned word.
        unsafe {
            let left = core::ptr::read_volatile(&raw const (*slot).raw_left);
            if left != 0 {
                core::ptr::write_volatile(&raw mut (*slot).raw_left, left - 1);
            }
        }
    }
}

/// Hash of the frames and of the stack above them; `len` becomes how many bytes could be read.
#[inline(never)]
fn hash_stack(thread: &mut Thread, len: &mut u64) -> Hash {
    let sp = thread.walk.sp;
    let words = (&raw const thread.window).cast::<u64>();
    for index in 0..WINDOWS {
        if !window::read(thread, sp + index * WINDOW_BYTES) {
            break;
        }
        let count = (thread.walk.window_len >> 3) as usize;
        for word in 0..WINDOW_WORDS {
            if word >= count {
                break;
            }
            // SAFETY: less than the number of words. The hash is kept in the thread's memory, whose values the verifier
            // does not follow.
            thread.walk.hash = Hash(thread.walk.hash).add(unsafe { *words.add(word) }).0;
        }
        *len += thread.walk.window_len;
        if thread.walk.window_len < WINDOW_BYTES {
            break;
        }
    }
    Hash(thread.walk.hash)
}

#[inline(never)]
fn send(thread: &Thread, stack_id: u64, kind: u16, registers: [u64; 3], len: u64) -> bool {
    let Some(mut entry) = RAW_STACKS.reserve(0) else {
        return false;
    };
    let raw: *mut RawStack = entry.as_mut_ptr();
    // SAFETY: the entry's memory, all of whose fields are written here.
    unsafe {
        (&raw mut (*raw).stack_id).write(stack_id);
        (&raw mut (*raw).tgid).write(thread.process.tgid);
        (&raw mut (*raw).image).write(thread.process.image);
        (&raw mut (*raw).kind).write(kind);
        (&raw mut (*raw).address).write(registers[0]);
        (&raw mut (*raw).sp).write(registers[1]);
        (&raw mut (*raw).bp).write(registers[2]);
        (&raw mut (*raw).len).write(copy(&raw mut (*raw).bytes, registers[1], len));
    }
    entry.submit(0);
    use_up(thread);
    true
}

/// As much of the stack as can be read, up to `len` bytes; how much.
#[inline(always)]
fn copy(bytes: *mut [u8; RAW_BYTES_MAX], sp: u64, len: u64) -> u64 {
    let mut copied = 0;
    for index in 0..WINDOWS {
        let offset = index * WINDOW_BYTES;
        let left = len.saturating_sub(offset);
        let want = if left < WINDOW_BYTES { left } else { WINDOW_BYTES };
        if want == 0 {
            break;
        }
        // SAFETY: within the entry; the helper checks the address.
        let failed = unsafe {
            bpf_probe_read_user(
                bytes.cast::<u8>().add(offset as usize).cast(),
                want as u32,
                (sp + offset) as *const _,
            )
        };
        if failed != 0 {
            break;
        }
        copied = offset + want;
    }
    copied
}
