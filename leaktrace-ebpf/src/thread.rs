//! Per-thread state: found or made, and the rule that drops a call which never returned.

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::bpf_get_current_pid_tgid};
use leaktrace_common::{
    counter::Counter,
    key::Process,
    record::{LAYERS_MAX, Pending, Thread},
};

use crate::{
    config,
    counter::bump,
    maps::{LAYOUT_SLOTS, THREAD_ZERO, THREADS},
    members,
};

/// State of the current thread, if it has been seen before.
#[inline(always)]
pub fn known<'a>() -> Option<&'a mut Thread> {
    let tid = bpf_get_current_pid_tgid() as u32;
    // SAFETY: only the thread itself uses its entry, and a probe cannot interrupt a probe of the same
    // thread; user space never writes it.
    THREADS.get_ptr_mut(tid).map(|thread| unsafe { &mut *thread })
}

/// State of the current thread, made on its first traced call. `None` is counted.
#[inline(always)]
pub fn current<'a>() -> Option<&'a mut Thread> {
    if let Some(thread) = known() {
        return Some(thread);
    }
    create()
}

#[inline(always)]
fn create<'a>() -> Option<&'a mut Thread> {
    let (process, layout) = tracked()?;
    let tid = bpf_get_current_pid_tgid() as u32;
    let zero = THREAD_ZERO.get(0)?;
    if THREADS.insert(tid, zero, u64::from(BPF_NOEXIST)).is_err() {
        bump(Counter::ThreadsFull);
        return None;
    }
    let thread = known()?;
    thread.process = process;
    thread.layout = u64::from(layout);
    Some(thread)
}

/// The current process's image. `None`, counted, when it is not a target: a probe scoped to a process
/// also fires in a vfork child, which runs in the same memory under its own tgid; one of a file that is probed for all fires
/// in whatever maps it.
#[inline(always)]
pub fn current_process() -> Option<Process> {
    tracked().map(|(process, _)| process)
}

/// The same with the number of its layout's slot.
#[inline(always)]
fn tracked() -> Option<(Process, u32)> {
    let tgid = current_tgid();
    let Some(tracked) = members::get(tgid) else {
        bump(if config::selects() {
            Counter::Outside
        } else {
            Counter::Untracked
        });
        return None;
    };
    // SAFETY: a copy of a word.
    let layout = unsafe { LAYOUT_SLOTS.get(tgid) }.map_or(0, |slot| *slot);
    let process = Process {
        tgid,
        image: tracked.image as u16,
        space: 0,
        device: 0,
    };
    Some((process, layout))
}

/// The current process.
#[inline(always)]
pub fn current_tgid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// The slot for calls of a layer.
#[inline(always)]
pub fn pending(thread: &mut Thread, layer: u8) -> &mut Pending {
    // The mask is the bound the verifier sees.
    let index = layer as usize & (LAYERS_MAX - 1);
    // SAFETY: masked to the array's length; indexing would add a panic path.
    unsafe { &mut *(&raw mut thread.pending).cast::<Pending>().add(index) }
}
