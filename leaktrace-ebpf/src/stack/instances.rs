//! Return addresses that return probes have replaced, ours and other tools': the kernel keeps the originals in a
//! list of the thread, innermost first (kernel/events/uprobes.c: `struct return_instance`, filled in
//! `prepare_uretprobe`; a function that two probes wait for has two, both with the original address).

use aya_ebpf::helpers::{bpf_get_current_task, bpf_probe_read_kernel};

use crate::config;

/// Replaced addresses that are looked at in one step.
const STEPS: u32 = 64;

/// Where in the list the walk is: the instances of inner frames are behind it. 0 at the start.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Cursor(u64);

impl Cursor {
    /// At the start.
    pub const START: Self = Self(0);
}

/// The return address that was at `slot` of the stack, if a return probe has replaced it.
#[inline(always)]
pub fn original(cursor: &mut Cursor, slot: u64) -> Option<u64> {
    let offsets = config::return_probes()?;
    if cursor.0 == 0 {
        // SAFETY: no arguments.
        let task = unsafe { bpf_get_current_task() };
        let utask = word(task, offsets.task_utask)?;
        cursor.0 = word(utask, offsets.utask_instances)?;
    }
    for _ in 0..STEPS {
        let instance = cursor.0;
        if instance == 0 {
            return None;
        }
        if word(instance, offsets.instance_stack)? == slot {
            return word(instance, offsets.instance_address);
        }
        cursor.0 = word(instance, offsets.instance_next)?;
    }
    None
}

#[inline(always)]
fn word(base: u64, offset: u32) -> Option<u64> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel((base + u64::from(offset)) as *const u64) }.ok()
}
