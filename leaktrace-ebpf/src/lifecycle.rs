//! Ends and beginnings: `exec`, the end of a thread, and the rare events user space must hear of at once.

use aya_ebpf::{
    EbpfContext as _,
    helpers::{bpf_get_attach_cookie, bpf_get_current_pid_tgid, bpf_probe_read_user},
    programs::{ProbeContext, RawTracePointContext},
};
use aya_log_ebpf::debug;
use leaktrace_common::{
    counter::Counter,
    event::{Event, kind},
    record::{LAYERS_MAX, tracked},
};

use crate::{
    KEEP_RETURN,
    counter::bump,
    enter, gpu, live,
    maps::{EVENTS, LAYOUT_SLOTS, THREADS},
    members, registers, stack, thread,
};

/// Index of `old_pid` among the arguments of sched_process_exec: the thread id before the exec, which is
/// another than the process id when a thread that is not the first calls it
/// (include/trace/events/sched.h: `TP_PROTO(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`,
/// unchanged since kernel 3.4).
const EXEC_OLD_PID: usize = 1;

/// A process has replaced its image. Its memory is gone, so what follows belongs to a new image.
///
/// Runs after the new image is mapped and before its first instruction
/// (fs/exec.c: `exec_binprm` calls `trace_sched_process_exec` last).
#[inline(always)]
pub fn exec(ctx: &RawTracePointContext) -> i32 {
    let tgid = thread::current_tgid();
    let Some(process) = members::get(tgid) else {
        members::consider(tgid);
        return 0;
    };
    let old_tid: i32 = ctx.arg(EXEC_OLD_PID);
    let _absent: Result<(), i32> = THREADS.remove(old_tid as u32);
    let _absent: Result<(), i32> = THREADS.remove(tgid);
    for tid in [old_tid as u32, tgid] {
        stack::forget_thread(tid);
        gpu::forget_thread(tid);
    }
    stack::forget(layout_slot(tgid));
    if !members::stays(process) {
        members::leave(tgid, process);
        return 0;
    }
    // The other threads are gone.
    process.image += 1;
    process.live = 0;
    process.stacks = 0;
    let image = process.image;
    if process.state & tracked::TOLD == 0 {
        return 0;
    }
    debug!(
        ctx,
        "process {} has replaced its image; the new one is its {}.", tgid, image
    );
    let kind = if old_tid as u32 == tgid {
        kind::EXEC
    } else {
        kind::EXEC_BY_THREAD
    };
    announce(kind, tgid, u64::from(image));
    0
}

/// A thread ends: its state goes, and with it a call it was killed in.
#[inline(always)]
pub fn thread_exit(ctx: &RawTracePointContext) -> i32 {
    members::ended();
    let Some(state) = thread::known() else { return 0 };
    let process = state.process;
    for layer in 0..LAYERS_MAX as u8 {
        let pending = thread::pending(state, layer);
        if pending.sp != 0 {
            debug!(ctx, "a thread of process {} ends inside a call", process.tgid);
            enter::abandon(pending, process);
        }
    }
    let tid = bpf_get_current_pid_tgid() as u32;
    let _gone: Result<(), i32> = THREADS.remove(tid);
    stack::forget_thread(tid);
    gpu::end_thread(tid, process);
    0
}

/// Tells user space that blocks now go to tier `next`.
#[inline(always)]
pub fn announce_full_tier(next: u32) {
    announce(kind::TIER_FULL, thread::current_tgid(), u64::from(next));
}

/// The dynamic linker says what it is about to do or has done, as it says to debuggers; the cookie leads from the probed
/// instruction to its state.
///
/// Unmapped libraries make room for others at the same addresses, and nobody else tells of it: perf's side-band knows
/// what is mapped, not what is unmapped.
#[inline(always)]
pub fn linker(ctx: &ProbeContext) -> u32 {
    // SAFETY: the helper takes the context of this program.
    let cookie = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) };
    let address = registers::instruction(ctx).wrapping_add(cookie);
    // SAFETY: the helper checks the address.
    let Ok(state) = (unsafe { bpf_probe_read_user(address as *const u32) }) else {
        return KEEP_RETURN;
    };
    let tgid = thread::current_tgid();
    if members::get(tgid).is_some() && stack::unmapping(layout_slot(tgid), state) {
        announce(kind::UNMAPPED, tgid, 0);
    }
    KEEP_RETURN
}

/// Tells user space that nothing is known of an address in the current process's code.
#[inline(always)]
pub fn announce_unknown(address: u64) {
    announce(kind::UNKNOWN_ADDRESS, thread::current_tgid(), address);
}

/// Tells user space of a process that has become a target by itself.
#[inline(always)]
pub fn announce_joined(tgid: u32, image: u32) {
    announce(kind::JOINED, tgid, u64::from(image));
}

/// Tells user space of a process that was a target.
#[inline(always)]
pub fn announce_left(tgid: u32, image: u32) {
    announce(kind::LEFT, tgid, u64::from(image));
}

/// The slot of a process's layout; 0 for none.
#[inline(always)]
fn layout_slot(tgid: u32) -> u32 {
    // SAFETY: a copy of a word.
    unsafe { LAYOUT_SLOTS.get(tgid) }.map_or(0, |slot| *slot)
}

#[inline(always)]
fn announce(kind: u32, tgid: u32, value: u64) {
    let event = Event {
        kind,
        tgid,
        value,
        time_ns: live::now_ns(),
    };
    if EVENTS.output(event, 0).is_err() {
        bump(Counter::EventsLost);
    }
}
