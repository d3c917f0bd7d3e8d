//! Stacks that the kernel side cannot finish: registers and a stretch of stack go to user space, once for each that
//! differs, within a share that each process is granted.

use aya_ebpf::helpers::{
    bpf_loop,
    generated::{bpf_probe_read_kernel, bpf_probe_read_user},
};
use core::ffi::c_void;
use leaktrace_common::{
    counter::Counter,
    record::Thread,
    unwind::{RAW_BYTES_FEW, RAW_BYTES_MAX, RawHeader, RawStack, WINDOW_WORDS, end_of, raw, raw_base},
};

use super::{
    Hash, kept, remember,
    window::{self, WINDOW_BYTES},
};
use crate::{
    counter::bump,
    live,
    maps::{RAW_STACKS, STACKS, THREAD_ZERO, UNWIND_LAYOUTS},
    opaque::opaque,
    registers::UserRegisters,
};

const WINDOWS: u64 = RAW_BYTES_MAX as u64 / WINDOW_BYTES;

/// A stack whose walk could not go on; `partial` is the id by its frames alone. The id that it gets takes in what lies on
/// the stack: the frames that are missing must not be those of another.
#[inline(always)]
pub fn hand_over(thread: &mut Thread, partial: u64) -> u64 {
    if !is_granted(thread) {
        bump(Counter::RawStacksLost);
        return remember(thread, partial);
    }
    let id = hash_stack(thread).id(end_of(partial));
    let len = thread.walk.hashed_len;
    if let Some(id) = kept(thread, id) {
        return id;
    }
    if STACKS.get_ptr(id).is_some() {
        return remember(thread, id);
    }
    let walk = thread.walk;
    let header = RawHeader {
        stack_id: id,
        tgid: thread.process.tgid,
        image: thread.process.image,
        kind: if walk.interrupted != 0 {
            raw::INTERRUPTED
        } else {
            raw::FRAME
        },
        address: walk.ip,
        sp: walk.sp,
        bp: walk.bp,
        len,
        time_ns: live::now_ns(),
    };
    let sent = if len <= RAW_BYTES_FEW as u64 {
        send::<RAW_BYTES_FEW>(&header)
    } else {
        send::<RAW_BYTES_MAX>(&header)
    };
    if sent {
        use_up(thread);
        remember(thread, id)
    } else {
        bump(Counter::RawStacksLost);
        remember(thread, partial)
    }
}

/// A finished stack, to be walked once more.
#[inline(always)]
pub fn verify(at: &UserRegisters, thread: &mut Thread, id: u64) {
    let sp = at.stack_pointer;
    let header = RawHeader {
        stack_id: id,
        tgid: thread.process.tgid,
        image: thread.process.image,
        kind: raw::VERIFY,
        // SAFETY: a constant index.
        address: unsafe { *(&raw const thread.stack.frames).cast::<u64>().add(1) },
        sp: sp + 8,
        bp: at.frame_pointer,
        len: RAW_BYTES_MAX as u64,
        time_ns: live::now_ns(),
    };
    if !send::<RAW_BYTES_MAX>(&header) {
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

/// Hash of the frames and of the stack above them, as far as that is sent and can be read.
#[inline(always)]
fn hash_stack(thread: &mut Thread) -> Hash {
    thread.walk.hashed_len = 0;
    let mut context: *mut Thread = thread;
    let body: unsafe extern "C" fn(u32, *mut *mut Thread) -> i64 = hash_window;
    // SAFETY: the kernel calls `hash_window` with the pointer given here, which outlives the call.
    unsafe { bpf_loop(WINDOWS as u32, body as *mut c_void, (&raw mut context).cast(), 0) };
    Hash(thread.walk.hash)
}

/// Takes one window in. A function with a large frame leaves pages that nothing has touched, and beyond them the stack
/// goes on: what cannot be read is passed over.
unsafe extern "C" fn hash_window(index: u32, thread: *mut *mut Thread) -> i64 {
    // SAFETY: what `hash_stack` has handed to the kernel; the thread is that of the program, and no one else's.
    let thread = unsafe { &mut **thread };
    let offset = u64::from(index) * WINDOW_BYTES;
    let sp = thread.walk.sp;
    if !window::read(thread, raw_base(sp) + offset) {
        return 0;
    }
    let words = (&raw const thread.window).cast::<u64>();
    // What is below the stack pointer has no meaning.
    let first = if index == 0 { (sp - raw_base(sp)) >> 3 } else { 0 };
    for word in 0..WINDOW_WORDS as u64 {
        // All bits set from the first word on, without a branch: the verifier would follow each of a hundred.
        let mask = (opaque(first.wrapping_sub(word + 1)) as i64 >> 63) as u64;
        // SAFETY: less than the number of words. The hash is kept in the thread's memory, whose values the verifier
        // does not follow.
        thread.walk.hash = Hash(thread.walk.hash)
            .add(unsafe { *words.add(word as usize) } & mask)
            .0;
    }
    thread.walk.hashed_len = offset + WINDOW_BYTES;
    0
}

#[inline(never)]
fn send<const BYTES: usize>(header: &RawHeader) -> bool {
    let Some(mut entry) = RAW_STACKS.reserve_untyped::<RawStack<BYTES>>(0) else {
        return false;
    };
    let raw: *mut RawStack<BYTES> = entry.as_mut_ptr();
    // SAFETY: the entry's memory, all of whose fields are written here but the bytes beyond `len`.
    unsafe {
        (&raw mut (*raw).header).write(*header);
        copy(raw, header.sp, header.len);
    }
    entry.submit(0);
    true
}

/// The stack up to `len` bytes, with zeros where it cannot be read. A window lies in one page, so it can be read or it
/// cannot.
///
/// # Safety
/// `raw` is the memory of a record.
#[inline(always)]
unsafe fn copy<const BYTES: usize>(raw: *mut RawStack<BYTES>, sp: u64, len: u64) {
    // SAFETY: the caller's; the helpers check the target's addresses. How much has been read is kept in the record: before
    // Linux 6.5 the verifier follows every value of a register in a program of several functions.
    unsafe {
        let copied = &raw mut (*raw).header.len;
        copied.write(0);
        for index in 0..BYTES as u64 / WINDOW_BYTES {
            let offset = index * WINDOW_BYTES;
            if offset >= len {
                break;
            }
            let to = (&raw mut (*raw).bytes).cast::<u8>().add(offset as usize);
            if bpf_probe_read_user(
                to.cast(),
                WINDOW_BYTES as u32,
                (raw_base(sp) + offset) as *const _,
            ) == 0
            {
                copied.write(offset + WINDOW_BYTES);
            } else if let Some(zeros) = THREAD_ZERO.get_ptr(0) {
                bpf_probe_read_kernel(to.cast(), WINDOW_BYTES as u32, zeros.cast());
            }
        }
    }
}

const _: () = assert!(size_of::<Thread>() as u64 >= WINDOW_BYTES);
