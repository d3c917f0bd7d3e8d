//! What is kept of a thread that calls CUDA: calls under way, and which context and device it uses.

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::bpf_get_current_pid_tgid};
use leaktrace_common::{
    counter::Counter,
    gpu::{CONTEXTS_OF_THREAD, Domain, GpuCookie, GpuKey, GpuPending, GpuThread, NO_DEVICE},
    key::Process,
};

use super::{context, handle, live};
use crate::{
    counter::bump,
    maps::{GPU_THREAD_ZERO, GPU_THREADS},
};

/// State of the current thread, if it has been seen before.
#[inline(always)]
pub fn known<'a>() -> Option<&'a mut GpuThread> {
    let tid = bpf_get_current_pid_tgid() as u32;
    // SAFETY: only the thread itself uses its entry, and a probe cannot interrupt a probe of the same thread.
    GPU_THREADS.get_ptr_mut(tid).map(|thread| unsafe { &mut *thread })
}

/// State of the current thread, made on its first call. `None` is counted.
#[inline(always)]
pub fn current<'a>() -> Option<&'a mut GpuThread> {
    if let Some(thread) = known() {
        return Some(thread);
    }
    let tid = bpf_get_current_pid_tgid() as u32;
    let zero = GPU_THREAD_ZERO.get(0)?;
    if GPU_THREADS.insert(tid, zero, u64::from(BPF_NOEXIST)).is_err() {
        bump(Counter::ThreadsFull);
        return None;
    }
    known()
}

/// A thread is gone, and its memory with it.
#[inline(always)]
pub fn forget(tid: u32) {
    let _absent: Result<(), i32> = GPU_THREADS.remove(tid);
}

/// The current thread ends, perhaps inside a call.
#[inline(always)]
pub fn end(tid: u32, process: Process) {
    if let Some(thread) = known() {
        if thread.driver.call.sp != 0 {
            abandon(&mut thread.driver, process);
        }
        forget(tid);
    }
}

/// Drops a call that will not return: what it was to take back is taken to be still there.
#[inline(always)]
pub fn abandon(pending: &mut GpuPending, process: Process) {
    bump(Counter::Abandoned);
    pending.call.sp = 0;
    undo(pending, process);
}

/// Puts back what the entry of a call that has failed has taken.
#[inline(always)]
pub fn undo(pending: &mut GpuPending, process: Process) {
    let cookie = GpuCookie(pending.call.cookie);
    let key = live::key(process, pending.call.old_address, cookie.domain());
    match pending.call.old_known {
        live::TAKEN => live::put_back(&key, &pending.taken),
        live::LESSENED => handle::hold_again(&key),
        _ => {}
    }
}

/// The context that the thread uses; 0 if that is not known.
#[inline(always)]
pub fn context(thread: &GpuThread) -> u64 {
    *slot(thread, thread.depth)
}

/// It uses this one from now on.
#[inline(always)]
pub fn set_context(thread: &mut GpuThread, context: u64) {
    let depth = thread.depth;
    *slot_mut(thread, depth) = context;
}

/// The same, above the one before. Deeper than is kept, they overwrite each other: then none is known wrongly for long,
/// since each use sets its own.
#[inline(always)]
pub fn push_context(thread: &mut GpuThread, context: u64) {
    thread.depth = thread.depth.wrapping_add(1);
    set_context(thread, context);
}

/// Back to the one before.
#[inline(always)]
pub fn pop_context(thread: &mut GpuThread) {
    set_context(thread, 0);
    if thread.depth > 0 {
        thread.depth -= 1;
    }
}

/// The device that the thread uses: that of its context, or else the one that it has chosen.
#[inline(always)]
pub fn device(thread: &GpuThread, process: Process) -> u8 {
    let context = context(thread);
    if context != 0 {
        let device = context::device_of(process, context);
        if device != NO_DEVICE {
            return device;
        }
    }
    thread.device as u8
}

#[inline(always)]
fn slot(thread: &GpuThread, depth: u32) -> &u64 {
    let index = depth as usize & (CONTEXTS_OF_THREAD - 1);
    // SAFETY: masked to the array's length; indexing would add a panic path.
    unsafe { &*(&raw const thread.contexts).cast::<u64>().add(index) }
}

#[inline(always)]
fn slot_mut(thread: &mut GpuThread, depth: u32) -> &mut u64 {
    let index = depth as usize & (CONTEXTS_OF_THREAD - 1);
    // SAFETY: as above.
    unsafe { &mut *(&raw mut thread.contexts).cast::<u64>().add(index) }
}

/// Key of what is kept of a context.
#[inline(always)]
pub fn context_key(process: Process, context: u64) -> GpuKey {
    live::key(process, context, Domain::Context as u8)
}
