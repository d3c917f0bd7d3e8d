//! Calls that failed, by stack and result.

use aya_ebpf::bindings::BPF_NOEXIST;
use leaktrace_common::{
    counter::Counter,
    gpu::{GpuErrorKey, GpuErrors, GpuPending},
    key::Process,
};

use crate::{atomic, counter::bump, live::now_ns, maps::GPU_ERRORS};

/// Counts one, of the call that the program made.
#[inline(never)]
pub fn count(pending: &GpuPending, process: Process, code: u32) {
    let key = GpuErrorKey {
        stack_id: pending.call.stack_id,
        process,
        call: pending.owner,
        code,
    };
    let bytes = pending.call.size_bytes;
    if GPU_ERRORS.get_ptr(key).is_none() {
        let none = GpuErrors {
            count: 0,
            bytes: 0,
            largest_bytes: 0,
            last_ns: 0,
        };
        // Another thread may add it at the same moment: whoever is second finds it.
        let _exists_or_full: Result<(), i32> = GPU_ERRORS.insert(key, none, u64::from(BPF_NOEXIST));
    }
    let Some(errors) = GPU_ERRORS.get_ptr_mut(key) else {
        bump(Counter::GpuErrorsFull);
        return;
    };
    // SAFETY: a map's value of aligned words; of two threads the largest of one may be lost, which only understates it.
    unsafe {
        atomic::add(&raw mut (*errors).count, 1);
        atomic::add(&raw mut (*errors).bytes, bytes);
        if bytes > (*errors).largest_bytes {
            (*errors).largest_bytes = bytes;
        }
        (*errors).last_ns = now_ns();
    }
}
