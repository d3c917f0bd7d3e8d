//! Who takes memory or gives it back, for the gear that watches and probes nothing.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::{bpf_get_current_pid_tgid, bpf_get_current_task, generated::bpf_probe_read_kernel},
    programs::RawTracePointContext,
};

use crate::{config, maps::RESIDENT};

/// The resident memory of an address space has changed. Noted once until user space has looked: one look-up a change.
///
/// The event names the address space, not its process (include/trace/events/kmem.h: `rss_stat`, whose first argument is
/// the `mm_struct` since kernel 5.5); changes made by others, such as reclaim, are left to user space's own rounds.
#[inline(always)]
pub fn resident(ctx: &RawTracePointContext) {
    let changed: u64 = ctx.arg(0);
    let mut own = 0_u64;
    // SAFETY: the helpers check addresses; no arguments.
    unsafe {
        let task = bpf_get_current_task() + u64::from(config::rules().offsets.task_mm);
        bpf_probe_read_kernel((&raw mut own).cast(), 8, task as *const _);
    }
    if own != changed {
        return;
    }
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    if RESIDENT.get_ptr(tgid).is_none() {
        // Full: user space looks at all of them, too, now and then.
        let _full: Result<(), i32> = RESIDENT.insert(tgid, 1, u64::from(BPF_NOEXIST));
    }
}
