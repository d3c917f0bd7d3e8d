//! Memory that lives as long as there are references to its handle or mappings of it
//! (CUDA driver API, "Virtual Memory Management": `cuMemRelease`, `cuMemUnmap`).

use aya_ebpf::{bindings::BPF_ANY, helpers::bpf_loop};
use core::ffi::c_void;
use leaktrace_common::{
    counter::Counter,
    gpu::{Domain, GpuKey, GpuLive, GpuPending, GpuThread, Mapping, ONE_MAPPING, ONE_REFERENCE, Unmapped},
    key::Process,
};

use super::live;
use crate::{
    atomic,
    counter::bump,
    maps::{GPU_LIVE, GPU_MAPPINGS},
};

/// Value of the loop's body: go on.
const CONTINUE: i64 = 0;
/// Value of the loop's body: end the loop.
const STOP: i64 = 1;

/// Least size of a mapping, and the step from a mapping that is not known: no GPU maps in smaller pieces
/// (`cuMemGetAllocationGranularity` gives 2 MiB).
const GRANULE_BYTES: u64 = 2 << 20;

/// Steps of a call: 128 GiB of mappings from before the attach, or so many known ones.
const STEPS: u32 = 1 << 16;

/// One hold more; whether the handle is known.
#[inline(always)]
pub fn hold(key: &GpuKey, hold: u64) -> bool {
    let Some(record) = GPU_LIVE.get_ptr_mut(key) else {
        return false;
    };
    // SAFETY: a map's value, an aligned u64 that is only added to.
    unsafe { atomic::add(&raw mut (*record).holds, hold) };
    true
}

/// Takes back that there is one reference less.
#[inline(always)]
pub fn hold_again(key: &GpuKey) {
    let _gone: bool = hold(key, ONE_REFERENCE);
}

/// One hold less. With the last one the record is taken out, into `record`: one of the values of `old_known`, 0 for a
/// handle that is not known.
#[inline(never)]
pub fn let_go(key: &GpuKey, hold: u64, record: &mut GpuLive) -> u32 {
    let Some(found) = GPU_LIVE.get_ptr_mut(key) else {
        return 0;
    };
    // SAFETY: as in `hold`. Of two threads that let go at once both may see nothing left: one of them takes it.
    let left = unsafe {
        atomic::add(&raw mut (*found).holds, hold.wrapping_neg());
        core::ptr::read_volatile(&raw const (*found).holds)
    };
    if left == 0 && live::take(key, record) {
        // As it was, should it have to be put back.
        record.holds = hold;
        return live::TAKEN;
    }
    live::LESSENED
}

/// A handle is mapped: arguments (address, size, offset, handle).
#[inline(always)]
pub fn map(pending: &GpuPending, process: Process) {
    let handle = pending.args[2];
    let key = live::key(process, handle, Domain::Handle as u8);
    let Some(record) = GPU_LIVE.get_ptr_mut(key) else {
        return;
    };
    // SAFETY: as in `hold`; the time does not change.
    let made_ns = unsafe {
        atomic::add(&raw mut (*record).holds, ONE_MAPPING);
        (*record).block.time_ns
    };
    let mapping = Mapping {
        handle,
        made_ns,
        size_bytes: pending.args[0],
    };
    let at = live::key(process, pending.call.out_pointer, Domain::Mapping as u8);
    if GPU_MAPPINGS.insert(at, mapping, u64::from(BPF_ANY)).is_err() {
        bump(Counter::GpuFull);
    }
}

/// What the loop over a range works on. Where it is, is in the thread's state: the verifier would follow a number on the
/// stack through every step.
struct Work {
    range: *mut Unmapped,
    process: Process,
}

/// Mappings are gone: all in the range of the arguments (address, size).
#[inline(always)]
pub fn unmap(gpu: &mut GpuThread, process: Process) {
    let start = gpu.driver.call.out_pointer;
    gpu.unmapped = Unmapped {
        next: start,
        end: start.wrapping_add(gpu.driver.args[0]),
        found: 0,
    };
    let mut work = Work {
        range: &raw mut gpu.unmapped,
        process,
    };
    let body: unsafe extern "C" fn(u32, *mut Work) -> i64 = step;
    // SAFETY: the kernel calls `step` with what is given here, which outlives the call.
    unsafe { bpf_loop(STEPS, body as *mut c_void, (&raw mut work).cast(), 0) };
    // SAFETY: the loop has written it behind the compiler's back.
    if unsafe { core::ptr::read_volatile(&raw const gpu.unmapped.found) } == 0 {
        bump(Counter::GpuFreeUnknown);
    }
}

unsafe extern "C" fn step(_index: u32, work: *mut Work) -> i64 {
    // SAFETY: the loop's own, and the thread's.
    let (range, process) = unsafe { (&mut *(*work).range, (*work).process) };
    if range.next >= range.end {
        return STOP;
    }
    let at = live::key(process, range.next, Domain::Mapping as u8);
    // SAFETY: a copy; nobody else unmaps the same range.
    let Some(mapping) = (unsafe { GPU_MAPPINGS.get(at) }).copied() else {
        range.next = range.next.wrapping_add(GRANULE_BYTES);
        return CONTINUE;
    };
    let _gone: Result<(), i32> = GPU_MAPPINGS.remove(at);
    range.found += 1;
    range.next = range.next.wrapping_add(mapping.size_bytes);
    let key = live::key(process, mapping.handle, Domain::Handle as u8);
    // SAFETY: a word that does not change.
    let is_same = unsafe { GPU_LIVE.get(key) }.is_some_and(|record| record.block.time_ns == mapping.made_ns);
    if is_same {
        let mut record = live::NONE;
        if let_go(&key, ONE_MAPPING, &mut record) == live::TAKEN {
            live::freed(&key, &record);
        }
    }
    CONTINUE
}
