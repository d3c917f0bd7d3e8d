//! The walk by unwind tables.
//!
//! At a probe the function has not moved the stack pointer nor rbp (placement proves it), so its frame is known
//! without a table: CFA = rsp + 8. From there on every address is a return address and each frame's rule leads to
//! the next. The body runs in `bpf_loop` (kernel 5.17): a loop of its own length is too much for the verifier.

use aya_ebpf::helpers::bpf_loop;
use core::ffi::c_void;
use leaktrace_common::{
    record::Thread,
    stack::{FRAMES_MAX, Walk},
    unwind::{Layout, LayoutSlot, Rule, cfa, end, found, rbp, ucontext},
};

use super::{
    Begin, Hash, instances,
    rule::{self, Cache},
    window,
};
use crate::{
    lifecycle,
    maps::{UNWIND_FOUND, UNWIND_LAYOUTS, UNWIND_RULES},
    registers::UserRegisters,
};

/// Steps of a walk: a frame each, and one more for each return address that a return probe has replaced.
const STEPS: u32 = FRAMES_MAX as u32 + 64;

/// A bound for the verifier: beyond the last frame there is the window, so an index up to it stays in the thread's state.
const FRAMES_MASK: usize = 255;
const _: () = assert!(FRAMES_MAX <= FRAMES_MASK);

/// A frame pointer further up than this is taken for something else.
const FRAME_MAX_BYTES: u64 = 1 << 20;

/// Value of the loop's body: go on.
const CONTINUE: i64 = 0;
/// Value of the loop's body: end the loop.
const STOP: i64 = 1;

/// What the loop's body works on.
#[repr(C)]
struct Context {
    thread: *mut Thread,
    cache: Cache,
}

/// Walks the stack into the thread's state.
#[inline(always)]
pub fn walk(at: &UserRegisters, from: Begin, thread: &mut Thread) {
    match from {
        Begin::Probe => begin(at, thread),
        Begin::SystemCall => begin_within(at, thread),
    }
    if thread.walk.ip != 0
        && let Some(found) = UNWIND_FOUND.get_ptr_mut(0)
    {
        let mut context = Context {
            thread,
            cache: Cache(found.cast()),
        };
        let body: unsafe extern "C" fn(u32, *mut Context) -> i64 = step;
        // SAFETY: the kernel calls `step` with the context given here, which outlives the call.
        unsafe { bpf_loop(STEPS, body as *mut c_void, (&raw mut context).cast(), 0) };
    }
    thread.stack.truncated = u16::from(thread.walk.end == end::TOO_DEEP);
}

/// At the probed instruction.
#[inline(always)]
fn begin(at: &UserRegisters, thread: &mut Thread) {
    let function = at.instruction;
    let sp = at.stack_pointer;
    window::read(thread, sp);
    let caller = window::word(thread, sp).unwrap_or(0);
    thread.walk.layout = layout(thread).0;
    let walk = &mut thread.walk;
    walk.caller = caller;
    walk.ip = caller;
    walk.sp = sp + 8;
    walk.bp = at.frame_pointer;
    walk.hash = Hash::new().add(function).0;
    // What holds if the steps do not suffice.
    walk.end = if caller == 0 { end::FAULT } else { end::TOO_DEEP };
    walk.guessed = 0;
    walk.interrupted = 0;
    walk.instance = 0;
    thread.stack.len = 1;
    // SAFETY: the first frame.
    unsafe { *(&raw mut thread.stack.frames).cast::<u64>() = function };
}

/// Behind an instruction whose rule the tables have, as if what it called were returning.
#[inline(always)]
fn begin_within(at: &UserRegisters, thread: &mut Thread) {
    window::read(thread, at.stack_pointer);
    thread.walk.layout = layout(thread).0;
    let walk = &mut thread.walk;
    walk.caller = 0;
    walk.ip = at.instruction;
    walk.sp = at.stack_pointer;
    walk.bp = at.frame_pointer;
    walk.hash = Hash::new().0;
    // What holds if the steps do not suffice.
    walk.end = end::TOO_DEEP;
    walk.guessed = 0;
    walk.interrupted = 0;
    walk.instance = 0;
    thread.stack.len = 0;
}

/// The layout of the thread's process, if it still holds.
#[inline(always)]
fn layout(thread: &Thread) -> Layout {
    let Some(slot) = UNWIND_LAYOUTS.get_ptr(thread.layout as u32) else {
        return Layout::NONE;
    };
    // SAFETY: aligned words, the first of which user space changes at once and the second the kernel side.
    let (layout, closes) = unsafe {
        (
            Layout(core::ptr::read_volatile(&raw const (*slot).layout)),
            core::ptr::read_volatile(&raw const (*slot).closes),
        )
    };
    if layout.epoch() == LayoutSlot::epoch(thread.process.image, closes) {
        layout
    } else {
        Layout::NONE
    }
}

#[inline(always)]
const fn stop(walk: &mut Walk, end: u64) -> i64 {
    walk.end = end;
    STOP
}

/// Keeps the frame the walk is at; whether there was room.
#[inline(always)]
fn keep(thread: &mut Thread) -> bool {
    let index = thread.stack.len as usize;
    if index >= FRAMES_MAX {
        return false;
    }
    let address = thread.walk.ip;
    // SAFETY: the mask is the bound the verifier sees; the comparison above is stricter.
    unsafe {
        *(&raw mut thread.stack.frames)
            .cast::<u64>()
            .add(index & FRAMES_MASK) = address;
    };
    thread.walk.hash = Hash(thread.walk.hash).add(address).0;
    thread.stack.len = index as u32 + 1;
    true
}

/// From one frame to the next.
unsafe extern "C" fn step(_index: u32, context: *mut Context) -> i64 {
    // SAFETY: what `walk` has handed to the kernel; the thread is that of the program, and no one else's.
    let (thread, cache) = unsafe { (&mut *(*context).thread, (*context).cache) };
    let number = rule::find(cache, Layout(thread.walk.layout), thread.walk.ip);
    if number >= found::PENDING {
        return unknown(thread, number);
    }
    if !keep(thread) {
        return STOP;
    }
    if number == found::FRAME_POINTER {
        return follow(thread, Rule::default());
    }
    match UNWIND_RULES.get(number) {
        Some(rule) => follow(thread, *rule),
        None => follow(thread, Rule::default()),
    }
}

/// At an address of which the layout knows nothing.
#[inline(always)]
fn unknown(thread: &mut Thread, number: u32) -> i64 {
    let slot = thread.walk.sp - 8;
    if let Some(address) = instances::original(&mut thread.walk, slot) {
        thread.walk.ip = address;
        return CONTINUE;
    }
    if number == found::UNKNOWN {
        ask(thread.layout as u32, thread.walk.ip);
    }
    if thread.walk.guessed != 0 {
        // Most likely the frame pointer was none.
        return stop(&mut thread.walk, end::GAP);
    }
    keep(thread);
    stop(&mut thread.walk, end::UNKNOWN_MAPPING)
}

/// Has user space look at the process's mappings again, if it has not been told yet.
#[inline(always)]
fn ask(layout: u32, address: u64) {
    let Some(slot) = UNWIND_LAYOUTS.get_ptr_mut(layout) else {
        return;
    };
    // SAFETY: an aligned word. Two threads may both find it 0: then user space is told twice.
    unsafe {
        if core::ptr::read_volatile(&raw const (*slot).asked) == 0 {
            core::ptr::write_volatile(&raw mut (*slot).asked, 1);
            lifecycle::announce_unknown(address);
        }
    }
}

/// Leaves the frame by its rule.
#[inline(always)]
fn follow(thread: &mut Thread, rule: Rule) -> i64 {
    let (sp, bp) = (thread.walk.sp, thread.walk.bp);
    let offset = i64::from(rule.cfa_offset) as u64;
    let guessed = rule.cfa == cfa::GAP;
    let frame = match rule.cfa {
        cfa::RSP => sp.wrapping_add(offset),
        cfa::RBP => bp.wrapping_add(offset),
        cfa::GAP => {
            if bp < sp || bp - sp > FRAME_MAX_BYTES {
                return stop(&mut thread.walk, end::GAP);
            }
            bp.wrapping_add(16)
        }
        cfa::END => return stop(&mut thread.walk, end::COMPLETE),
        cfa::AT_RSP | cfa::AT_RBP => {
            let register = if rule.cfa == cfa::AT_RSP { sp } else { bp };
            let address = register.wrapping_add(i64::from(rule.cfa_offset >> 8) as u64);
            let Some(word) = window::word(thread, address) else {
                return stop(&mut thread.walk, end::FAULT);
            };
            word.wrapping_add(offset & 0xff)
        }
        cfa::PLT => sp.wrapping_add(if thread.walk.ip.wrapping_sub(1) & 15 >= 11 {
            16
        } else {
            8
        }),
        cfa::SIGNAL => return interrupted(thread),
        _ => return stop(&mut thread.walk, end::UNSUPPORTED),
    };
    // Rules that change the stack may lead anywhere, so a frame need not lie above the last one; the number of steps
    // is what bounds the walk.
    let Some(address) = window::word(thread, frame.wrapping_sub(8)) else {
        return stop(&mut thread.walk, end::FAULT);
    };
    if guessed || rule.rbp != rbp::SAME {
        let base = if guessed || rule.rbp == rbp::AT_RBP {
            bp
        } else {
            frame
        };
        let saved = if guessed {
            base
        } else {
            base.wrapping_add(i64::from(rule.rbp_offset) as u64)
        };
        let Some(word) = window::word(thread, saved) else {
            return stop(&mut thread.walk, end::FAULT);
        };
        thread.walk.bp = word;
    }
    thread.walk.guessed = u64::from(guessed);
    if address == 0 {
        // The outermost frame, by the convention of hand-written start code; after a guess it means nothing.
        return stop(&mut thread.walk, if guessed { end::GAP } else { end::COMPLETE });
    }
    thread.walk.ip = address;
    thread.walk.sp = frame;
    CONTINUE
}

/// At the code that a signal handler returns to: the frame that the signal has interrupted is user space's to leave,
/// since the tables hold what is in force at calls, and this may be at any instruction.
#[inline(always)]
fn interrupted(thread: &mut Thread) -> i64 {
    let context = thread.walk.sp;
    // Each is kept at once: a value that may or may not be there is more than the verifier can follow.
    let Some(bp) = window::word(thread, context + ucontext::RBP) else {
        return stop(&mut thread.walk, end::FAULT);
    };
    thread.walk.bp = bp;
    let Some(ip) = window::word(thread, context + ucontext::RIP) else {
        return stop(&mut thread.walk, end::FAULT);
    };
    thread.walk.ip = ip;
    let Some(sp) = window::word(thread, context + ucontext::RSP) else {
        return stop(&mut thread.walk, end::FAULT);
    };
    thread.walk.sp = sp;
    thread.walk.interrupted = 1;
    keep(thread);
    stop(&mut thread.walk, end::UNSUPPORTED)
}
