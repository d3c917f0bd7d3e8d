//! The walk by unwind tables.
//!
//! At a probe the function has not moved the stack pointer nor rbp (placement proves it), so its frame is known
//! without a table: CFA = rsp + 8. From there on every address is a return address and each frame's rule leads to
//! the next. The body runs in `bpf_loop` (kernel 5.17): a loop of its own length is too much for the verifier.

use aya_ebpf::{helpers::bpf_loop, programs::ProbeContext};
use core::ffi::c_void;
use leaktrace_common::{
    record::Thread,
    stack::FRAMES_MAX,
    unwind::{Layout, Rule, cfa, end, found, rbp},
};

use super::{
    Hash,
    instances::{self, Cursor},
    rule::{self, Cache},
    window::Window,
};
use crate::{
    lifecycle,
    maps::{UNWIND_FOUND, UNWIND_LAYOUTS, UNWIND_RULES},
    registers,
};

/// Steps of a walk: a frame each, and one more for each return address that a return probe has replaced.
const STEPS: u32 = 160;

/// A frame pointer further up than this is taken for something else.
const FRAME_MAX_BYTES: u64 = 1 << 20;

/// Value of the loop's body: go on.
const CONTINUE: i64 = 0;
/// Value of the loop's body: end the loop.
const STOP: i64 = 1;

/// A walk under way.
#[repr(C)]
pub struct Walk {
    thread: *mut Thread,
    cache: Cache,
    window: Window,
    layout: Layout,
    /// Return address in the frame the walk is at.
    ip: u64,
    /// Stack pointer there, just after the return to `ip`.
    sp: u64,
    /// rbp there.
    bp: u64,
    hash: Hash,
    /// Frames kept.
    len: u64,
    /// One of [`end`].
    end: u64,
    /// Whether the last step went by frame pointer.
    guessed: u64,
    /// Whether the walk ended at a signal handler's frame.
    signal: u64,
    cursor: Cursor,
}

/// A walk that has ended.
pub struct Walked {
    /// The stack's id.
    pub id: u64,
    /// Return address, stack pointer and rbp at the last frame.
    pub ip: u64,
    /// See `ip`.
    pub sp: u64,
    /// See `ip`.
    pub bp: u64,
    /// Whether that frame is a signal handler's.
    pub signal: bool,
    /// Hash of the frames, to go on with.
    pub hash: Hash,
}

impl Walk {
    /// At the probed instruction.
    #[inline(always)]
    pub fn begin(ctx: &ProbeContext, thread: &mut Thread) -> Self {
        let function = registers::instruction(ctx);
        let sp = registers::stack_pointer(ctx);
        let mut window = Window::new((&raw mut thread.window).cast());
        let ip = window.word(sp, sp).unwrap_or(0);
        // SAFETY: the first frame.
        unsafe { *(&raw mut thread.stack.frames).cast::<u64>() = function };
        Self {
            layout: layout(thread),
            thread,
            cache: Cache(core::ptr::null_mut()),
            window,
            ip,
            sp: sp + 8,
            bp: registers::frame_pointer(ctx),
            hash: Hash::new().add(function),
            len: 1,
            end: if ip == 0 { end::FAULT } else { end::TOO_DEEP },
            guessed: 0,
            signal: 0,
            cursor: Cursor::START,
        }
    }

    /// Of the probed function; 0 if it could not be read.
    #[inline(always)]
    pub const fn return_address(&self) -> u64 {
        self.ip
    }

    /// To the end.
    #[inline(always)]
    pub fn run(&mut self) {
        let Some(found) = UNWIND_FOUND.get_ptr_mut(0) else {
            return;
        };
        if self.ip == 0 {
            return;
        }
        self.cache = Cache(found.cast());
        let body: unsafe extern "C" fn(u32, *mut Self) -> i64 = step;
        // SAFETY: the kernel calls `step` with the context given here, which outlives the call.
        unsafe { bpf_loop(STEPS, body as *mut c_void, (&raw mut *self).cast(), 0) };
    }

    /// What came of it; the frames are in the thread's stack.
    #[inline(always)]
    pub fn end(&self, thread: &mut Thread) -> Walked {
        thread.stack.len = self.len as u32;
        thread.stack.truncated = u32::from(self.end == end::TOO_DEEP);
        Walked {
            id: self.hash.id(self.end),
            ip: self.ip,
            sp: self.sp,
            bp: self.bp,
            signal: self.signal != 0,
            hash: self.hash,
        }
    }

    #[inline(always)]
    fn stop(&mut self, end: u64) -> i64 {
        self.end = end;
        STOP
    }

    /// Keeps a frame; whether there was room.
    #[inline(always)]
    fn keep(&mut self, address: u64) -> bool {
        let index = self.len;
        if index >= FRAMES_MAX as u64 {
            return false;
        }
        // SAFETY: the mask is the bound the verifier sees; the comparison above is stricter.
        unsafe {
            *(&raw mut (*self.thread).stack.frames)
                .cast::<u64>()
                .add(index as usize & FRAMES_MAX) = address;
        };
        self.hash = self.hash.add(address);
        self.len = index + 1;
        true
    }
}

/// The layout of the thread's process, if it is that of this image.
#[inline(always)]
fn layout(thread: &Thread) -> Layout {
    let Some(slot) = UNWIND_LAYOUTS.get_ptr(thread.layout as u32) else {
        return Layout::NONE;
    };
    // SAFETY: an aligned word that user space changes at once.
    let layout = Layout(unsafe { core::ptr::read_volatile(&raw const (*slot).layout) });
    if layout.image() == thread.process.image as u8 {
        layout
    } else {
        Layout::NONE
    }
}

/// From one frame to the next.
unsafe extern "C" fn step(_index: u32, walk: *mut Walk) -> i64 {
    // SAFETY: the walk that `run` has handed to the kernel.
    let walk = unsafe { &mut *walk };
    let number = rule::find(walk.cache, walk.layout, walk.ip);
    if number >= found::PENDING {
        return unknown(walk, number);
    }
    if !walk.keep(walk.ip) {
        return STOP;
    }
    let rule = if number == found::FRAME_POINTER {
        Rule::default()
    } else {
        match UNWIND_RULES.get(number) {
            Some(rule) => *rule,
            None => Rule::default(),
        }
    };
    follow(walk, rule)
}

/// At an address of which the layout knows nothing.
#[inline(always)]
fn unknown(walk: &mut Walk, number: u32) -> i64 {
    if let Some(address) = instances::original(&mut walk.cursor, walk.sp - 8) {
        walk.ip = address;
        return CONTINUE;
    }
    if walk.guessed != 0 {
        // The frame pointer was none.
        return walk.stop(end::GAP);
    }
    if number == found::UNKNOWN {
        // SAFETY: the thread whose walk it is.
        ask(unsafe { (*walk.thread).layout } as u32, walk.ip);
    }
    walk.keep(walk.ip);
    walk.stop(end::UNKNOWN_MAPPING)
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
fn follow(walk: &mut Walk, rule: Rule) -> i64 {
    let (sp, bp) = (walk.sp, walk.bp);
    let offset = rule.cfa_offset as i64 as u64;
    let guessed = rule.cfa == cfa::GAP;
    let frame = match rule.cfa {
        cfa::RSP => Some(sp.wrapping_add(offset)),
        cfa::RBP => Some(bp.wrapping_add(offset)),
        cfa::GAP => {
            if bp < sp || bp & 7 != 0 || bp - sp > FRAME_MAX_BYTES {
                return walk.stop(end::GAP);
            }
            Some(bp.wrapping_add(16))
        }
        cfa::END => return walk.stop(end::COMPLETE),
        cfa::AT_RSP => at(walk, sp, rule.cfa_offset),
        cfa::AT_RBP => at(walk, bp, rule.cfa_offset),
        cfa::PLT => Some(sp + 8 + if walk.ip.wrapping_sub(1) & 15 >= 11 { 8 } else { 0 }),
        other => {
            walk.signal = u64::from(other == cfa::SIGNAL);
            return walk.stop(end::UNSUPPORTED);
        }
    };
    let Some(frame) = frame else {
        return walk.stop(end::FAULT);
    };
    // A caller's frame lies above its callee's, on whichever stack; a rule may lead to another stack (AT_*), but
    // never round in a circle: the number of steps is bounded.
    let Some(address) = walk.window.word(frame.wrapping_sub(8), sp) else {
        return walk.stop(end::FAULT);
    };
    let saved = match rule.rbp {
        _ if guessed => Some(bp),
        rbp::AT_CFA => Some(frame.wrapping_add(i64::from(rule.rbp_offset) as u64)),
        rbp::AT_RBP => Some(bp.wrapping_add(i64::from(rule.rbp_offset) as u64)),
        _ => None,
    };
    if let Some(saved) = saved {
        match walk.window.word(saved, sp) {
            Some(word) => walk.bp = word,
            None => return walk.stop(end::FAULT),
        }
    }
    walk.guessed = u64::from(guessed);
    if address == 0 {
        // The outermost frame, by the convention of hand-written start code; after a guess it means nothing.
        return walk.stop(if guessed { end::GAP } else { end::COMPLETE });
    }
    walk.ip = address;
    walk.sp = frame;
    CONTINUE
}

/// A CFA that lies on the stack.
#[inline(always)]
fn at(walk: &mut Walk, register: u64, offset: i32) -> Option<u64> {
    let address = register.wrapping_add(i64::from(offset >> 8) as u64);
    let word = walk.window.word(address, walk.sp)?;
    Some(word.wrapping_add(u64::from(offset as u8)))
}
