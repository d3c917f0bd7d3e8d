//! Return addresses that return probes have replaced, ours and other tools': the kernel keeps the originals in a
//! list of the thread, innermost first (kernel/events/uprobes.c: `struct return_instance`, filled in
//! `prepare_uretprobe`; a function that two probes wait for has two, both with the original address).

use aya_ebpf::helpers::{bpf_get_current_task, bpf_probe_read_kernel};

use leaktrace_common::stack::Walk;

use crate::config;

/// Replaced addresses that are looked at in one step.
const STEPS: u32 = 64;

/// The return address that was at `slot` of the stack, if a return probe has replaced it.
#[inline(always)]
pub fn original(walk: &mut Walk, slot: u64) -> Option<u64> {
    let offsets = config::return_probes()?;
    // The instances of inner frames are behind the one it is at.
    if walk.instance == 0 {
        // SAFETY: no arguments.
        let task = unsafe { bpf_get_current_task() };
        let utask = word(task, offsets.task_utask)?;
        walk.instance = word(utask, offsets.utask_instances)?;
    }
    for _ in 0..STEPS {
        let instance = walk.instance;
        if instance == 0 {
            return None;
        }
        if word(instance, offsets.instance_stack)? == slot {
            return word(instance, offsets.instance_address);
        }
        walk.instance = word(instance, offsets.instance_next)?;
    }
    None
}

/// What return probes put in the place of return addresses in this process, once there are any
/// (kernel/events/uprobes.c: `uprobe_get_trampoline_vaddr`).
#[inline(always)]
pub fn trampoline() -> Option<u64> {
    let offsets = config::return_probes()?;
    // SAFETY: no arguments.
    let task = unsafe { bpf_get_current_task() };
    let area = word(word(task, offsets.task_mm)?, offsets.mm_xol_area)?;
    if area == 0 {
        return None;
    }
    word(area, offsets.xol_vaddr)
}

#[inline(always)]
fn word(base: u64, offset: u32) -> Option<u64> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel(base.wrapping_add(u64::from(offset)) as *const u64) }.ok()
}
