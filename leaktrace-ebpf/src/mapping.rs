//! What a target maps by itself: told to user space as each system call that changes it returns.
//!
//! By the tracepoints of these four calls alone; a process that is no target pays one look-up. The arguments are still in
//! the registers that the call was entered with, so that only what gives memory back is seen at its entry: the time of that
//! is what puts the events of several threads into order ([`MapEvent`]). Must not know what becomes of a mapping.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::bpf_ringbuf_query,
    programs::TracePointContext,
};
use leaktrace_common::{
    counter::Counter,
    key::Process,
    mapping::{MapEvent, flag, kind},
    record::{LAYERS_MAX, Thread},
};

use crate::{
    counter::bump,
    enter, live,
    maps::MAPPED_EVENTS,
    members,
    registers::SystemCall,
    stack::{self, Begin},
    thread,
};

/// Numbers of the system calls (arch/x86/entry/syscalls/syscall_64.tbl).
mod number {
    pub const MMAP: i32 = 9;
    pub const MUNMAP: i32 = 11;
    pub const BRK: i32 = 12;
    pub const MREMAP: i32 = 25;
}

/// Flags of mmap(2) and mremap(2) (include/uapi/linux/mman.h, include/uapi/asm-generic/mman.h).
mod asked {
    pub const TYPE: u64 = 0xf;
    pub const PRIVATE: u64 = 2;
    pub const ANONYMOUS: u64 = 0x20;
    pub const GROWS_DOWN: u64 = 0x100;
    pub const STACK: u64 = 0x2_0000;
    pub const HUGE: u64 = 0x4_0000;
    pub const HUGE_SHIFT: u32 = 26;
    pub const HUGE_MASK: u64 = 0x3f;
    pub const KEEPS_OLD: u64 = 4;
}

const PAGE_BITS: u32 = 12;

/// log2 of a huge page, where the call does not say.
const HUGE_PAGE_BITS: u32 = 21;

/// Largest errno (include/linux/err.h: `MAX_ERRNO`).
const ERRNO_MAX: u64 = 4095;

/// User space looks now and then by itself; it is woken where this many bytes wait.
const WAKE_BYTES: u64 = 1 << 20;

/// A call that gives back what is mapped is entered.
#[inline(always)]
pub fn enter() {
    if members::get(thread::current_tgid()).is_none() {
        return;
    }
    if let Some(state) = thread::current() {
        state.unmapping_ns = live::now_ns();
    }
}

/// One of the four calls returns.
#[inline(always)]
pub fn exit(ctx: &TracePointContext) {
    let tgid = thread::current_tgid();
    let Some(tracked) = members::get(tgid) else { return };
    let process = Process {
        tgid,
        image: tracked.image as u16,
        space: 0,
        device: 0,
    };
    let result = result(ctx);
    if result > u64::MAX - ERRNO_MAX {
        return;
    }
    let call = SystemCall::current();
    let now_ns = live::now_ns();
    let mut event = MapEvent {
        process,
        time_ns: now_ns,
        began_ns: now_ns,
        stack_id: 0,
        start: 0,
        length_bytes: 0,
        old_start: 0,
        old_length_bytes: 0,
        kind: 0,
        flags: 0,
    };
    let is_change = describe(&mut event, number(ctx), &call.arguments, result);
    // Without room for the thread's state (counted) there is still the call itself.
    if let Some(state) = thread::current() {
        if event.kind == kind::UNMAP || event.kind == kind::REMAP {
            if state.unmapping_ns != 0 {
                event.began_ns = state.unmapping_ns;
            }
            state.unmapping_ns = 0;
        }
        if is_change && is_in_allocator(state, call.at.stack_pointer) {
            event.flags |= flag::BY_ALLOCATOR;
        } else if is_change && members::meet(state).is_some() {
            event.stack_id = stack::capture(call.at, Begin::SystemCall, state).id;
        }
    }
    tell(&event);
}

/// Says what the call has done, from its arguments and result; whether that is to map memory.
#[inline(always)]
fn describe(event: &mut MapEvent, number: i32, arguments: &[u64; 4], result: u64) -> bool {
    let &[first, second, third, fourth] = arguments;
    match number {
        number::MMAP => {
            event.kind = kind::MAP;
            event.start = result;
            event.length_bytes = round_up(second, page_bits(fourth));
            event.flags = flags(fourth);
            true
        }
        number::MUNMAP => {
            event.kind = kind::UNMAP;
            event.start = first;
            event.length_bytes = round_up(second, PAGE_BITS);
            false
        }
        number::MREMAP => {
            event.kind = kind::REMAP;
            event.start = result;
            event.length_bytes = round_up(third, PAGE_BITS);
            event.old_start = first;
            event.old_length_bytes = round_up(second, PAGE_BITS);
            event.flags = if fourth & asked::KEEPS_OLD == 0 {
                0
            } else {
                flag::KEEPS_OLD
            };
            true
        }
        number::BRK => {
            event.kind = kind::BREAK;
            event.start = round_up(result, PAGE_BITS);
            // Else it was refused, or only asked where the end is: that tells it, too.
            first == result
        }
        _ => false,
    }
}

#[inline(always)]
fn flags(asked: u64) -> u32 {
    let mut flags = 0;
    if asked & asked::ANONYMOUS != 0 {
        flags |= flag::ANONYMOUS;
    }
    if asked & asked::TYPE != asked::PRIVATE {
        flags |= flag::SHARED;
    }
    if asked & (asked::STACK | asked::GROWS_DOWN) != 0 {
        flags |= flag::STACK;
    }
    flags
}

/// log2 of the pages that an mmap is rounded up to.
#[inline(always)]
const fn page_bits(asked: u64) -> u32 {
    if asked & asked::HUGE == 0 {
        return PAGE_BITS;
    }
    match (asked >> asked::HUGE_SHIFT & asked::HUGE_MASK) as u32 {
        0 => HUGE_PAGE_BITS,
        bits => bits,
    }
}

#[inline(always)]
const fn round_up(bytes: u64, page_bits: u32) -> u64 {
    let mask = (1_u64 << (page_bits & 63)) - 1;
    bytes.wrapping_add(mask) & !mask
}

/// Whether a probed function of an allocator is under way in the thread: further up its stack, or in the very function that
/// makes the call.
#[inline(always)]
fn is_in_allocator(state: &mut Thread, stack_pointer: u64) -> bool {
    if state.trampoline == 0 {
        state.trampoline = stack::trampoline().unwrap_or(0);
    }
    let trampoline = state.trampoline;
    for layer in 0..LAYERS_MAX as u8 {
        let pending = thread::pending(state, layer);
        if pending.sp >= stack_pointer && enter::is_under_way(pending, trampoline) {
            return true;
        }
    }
    false
}

#[inline(always)]
fn tell(event: &MapEvent) {
    // SAFETY: the helper takes the map.
    let waiting_bytes = unsafe {
        bpf_ringbuf_query(
            (&raw const MAPPED_EVENTS).cast_mut().cast(),
            u64::from(BPF_RB_AVAIL_DATA),
        )
    };
    let wake = if waiting_bytes < WAKE_BYTES {
        BPF_RB_NO_WAKEUP
    } else {
        BPF_RB_FORCE_WAKEUP
    };
    if MAPPED_EVENTS.output(event, u64::from(wake)).is_err() {
        bump(Counter::MappingsLost);
    }
}

macro_rules! field {
    ($ctx:expr, $offset:literal, $type:ty) => {
        // SAFETY: the context of a program at a system call's tracepoint, as that one's `format` says (kernel,
        // kernel/trace/trace_syscalls.c: `struct syscall_tp_t` in `perf_call_bpf_exit`). Volatile, so that the compiler
        // keeps the load at its constant offset.
        unsafe { core::ptr::read_volatile($ctx.as_ptr().byte_add($offset).cast::<$type>()) }
    };
}

/// Number of the system call.
#[inline(always)]
fn number(ctx: &TracePointContext) -> i32 {
    field!(ctx, 8, i32)
}

/// What it returns.
#[inline(always)]
fn result(ctx: &TracePointContext) -> u64 {
    field!(ctx, 16, u64)
}
