//! Contexts: which device they are of, and what ends with them.
//!
//! The end of a context frees what was made in it by the calls that are not stream-ordered and not by handle (CUDA driver
//! API: `cuCtxDestroy`, `cuDevicePrimaryCtxReset`, `cuDevicePrimaryCtxRelease`).

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::generated::bpf_for_each_map_elem};
use core::ffi::c_void;
use leaktrace_common::{
    counter::Counter,
    gpu::{Context, Domain, GpuKey, GpuLive, GpuProcess, NO_DEVICE, device_code, gpu_flag},
    key::Process,
};

use super::{live, thread::context_key};
use crate::{
    atomic,
    counter::bump,
    maps::{GPU_CONTEXTS, GPU_LIVE, GPU_PROCESSES},
};

/// The device of a context; [`NO_DEVICE`] if that is not known.
#[inline(always)]
pub fn device_of(process: Process, context: u64) -> u8 {
    // SAFETY: a copy of a word.
    unsafe { GPU_CONTEXTS.get(context_key(process, context)) }.map_or(NO_DEVICE, |known| known.device as u8)
}

/// A context has been met, perhaps with its device.
#[inline(never)]
pub fn note(process: Process, context: u64, device: u8) {
    if context == 0 {
        return;
    }
    let key = context_key(process, context);
    if let Some(known) = GPU_CONTEXTS.get_ptr_mut(key) {
        if device != NO_DEVICE {
            // SAFETY: an aligned word; whoever writes it writes the same.
            unsafe { (*known).device = u32::from(device) };
        }
        return;
    }
    let new = Context {
        context,
        references: 0,
        device: u32::from(device),
    };
    match GPU_CONTEXTS.insert(key, new, u64::from(BPF_NOEXIST)) {
        Ok(()) => {
            if let Some(image) = image(process) {
                // SAFETY: a map's value, an aligned u64 that is only added to.
                unsafe { atomic::add(&raw mut (*image).contexts, 1) };
            }
        }
        Err(_) if GPU_CONTEXTS.get_ptr(key).is_some() => {}
        Err(_) => bump(Counter::GpuFull),
    }
}

/// What is known of a process image, made at its first context.
#[inline(always)]
fn image(process: Process) -> Option<*mut GpuProcess> {
    if let Some(image) = GPU_PROCESSES.get_ptr_mut(process) {
        return Some(image);
    }
    let new = GpuProcess {
        contexts: 0,
        exits: 0,
    };
    let _exists_or_full: Result<(), i32> = GPU_PROCESSES.insert(process, new, u64::from(BPF_NOEXIST));
    GPU_PROCESSES.get_ptr_mut(process)
}

/// Key of a device's primary context.
#[inline(always)]
const fn primary_key(process: Process, device: u64) -> GpuKey {
    live::key(process, device, Domain::Primary as u8)
}

/// A device's primary context is used once more.
#[inline(always)]
pub fn retain(process: Process, device: u64, context: u64) {
    let code = device_code(device as i64);
    note(process, context, code);
    let key = primary_key(process, device);
    if let Some(primary) = GPU_CONTEXTS.get_ptr_mut(key) {
        // SAFETY: words of a map's value; retains and releases of one device come one after the other as a rule, and one
        // that is lost makes the last release look like one before it: then what it freed is marked as unsure by none, and
        // is found when its addresses come again.
        unsafe {
            (*primary).references += 1;
            (*primary).context = context;
        }
        return;
    }
    let new = Context {
        context,
        references: 1,
        device: u32::from(code),
    };
    if GPU_CONTEXTS.insert(key, new, u64::from(BPF_NOEXIST)).is_err() {
        bump(Counter::GpuFull);
    }
}

/// One use less of a device's primary context; the last one ends it. If those from before the attach are not known, it
/// may have been the last one.
#[inline(always)]
pub fn release(process: Process, device: u64) {
    let code = device_code(device as i64);
    match GPU_CONTEXTS.get_ptr_mut(primary_key(process, device)) {
        // SAFETY: as in `retain`.
        Some(primary) if unsafe { (*primary).references } > 0 => {
            let (left, context) = unsafe {
                (*primary).references -= 1;
                ((*primary).references, (*primary).context)
            };
            if left == 0 {
                end(process, context, code);
            }
        }
        _ => empty(process, 0, code, false),
    }
}

/// A device's primary context is emptied, and goes on under the same handle.
#[inline(always)]
pub fn reset(process: Process, device: u64) {
    // SAFETY: a copy of a word.
    let known = unsafe { GPU_CONTEXTS.get(primary_key(process, device)) };
    let context = known.map_or(0, |primary| primary.context);
    empty(process, context, device_code(device as i64), true);
}

/// A context is ended.
#[inline(always)]
pub fn destroy(process: Process, context: u64) {
    note(process, context, NO_DEVICE);
    end(process, context, device_of(process, context));
}

/// What the loop over all records works on.
struct Ending {
    process: Process,
    context: u64,
    device: u8,
    /// The process has no other context, as far as is known.
    is_only: bool,
    is_certain: bool,
}

/// A context is gone, with what is in it.
#[inline(always)]
fn end(process: Process, context: u64, device: u8) {
    empty(process, context, device, true);
    if context != 0
        && GPU_CONTEXTS.remove(context_key(process, context)).is_ok()
        && let Some(image) = GPU_PROCESSES.get_ptr_mut(process)
    {
        // SAFETY: as in `note`.
        unsafe { atomic::add(&raw mut (*image).contexts, 1_u64.wrapping_neg()) };
    }
}

/// What is in a context is freed, or is marked where that is not certain.
#[inline(never)]
fn empty(process: Process, context: u64, device: u8, is_certain: bool) {
    // SAFETY: a copy of two words.
    let image = unsafe { GPU_PROCESSES.get(process) };
    if image.is_some_and(|image| image.exits != 0) {
        return;
    }
    let contexts = image.map_or(0, |image| image.contexts);
    let mut ending = Ending {
        process,
        context,
        device,
        is_only: contexts <= 1,
        is_certain,
    };
    let body: unsafe extern "C" fn(*mut c_void, *const GpuKey, *mut GpuLive, *mut Ending) -> i64 = outlived;
    // SAFETY: the kernel calls `outlived` with each element of the table and what is given here. It may take out the one
    // that it is at (kernel/bpf/hashtab.c: `bpf_for_each_hash_elem` walks with `hlist_nulls_for_each_entry_safe`).
    unsafe {
        bpf_for_each_map_elem(
            (&raw const GPU_LIVE).cast_mut().cast(),
            body as *mut c_void,
            (&raw mut ending).cast(),
            0,
        )
    };
}

/// What becomes of one record when a context ends.
unsafe extern "C" fn outlived(
    _table: *mut c_void,
    key: *const GpuKey,
    record: *mut GpuLive,
    ending: *mut Ending,
) -> i64 {
    // SAFETY: the kernel's pointers to an element, and the loop's own.
    let (key, ending) = unsafe { (&*key, &*ending) };
    let process = ending.process;
    if key.process.tgid != process.tgid || key.process.image != process.image {
        return 0;
    }
    // SAFETY: a copy of a record that only its own calls change.
    let copy = unsafe { *record };
    if copy.flags & gpu_flag::DIES_WITH_CONTEXT == 0 {
        return 0;
    }
    let both_known = copy.context != 0 && ending.context != 0;
    let other_context = both_known && copy.context != ending.context;
    let other_device = copy.device != NO_DEVICE && ending.device != NO_DEVICE && copy.device != ending.device;
    if other_context || other_device {
        return 0;
    }
    if ending.is_certain && (both_known || ending.is_only) {
        let own = *key;
        if GPU_LIVE.remove(own).is_ok() {
            bump(Counter::GpuContextFreed);
            live::freed(&own, &copy);
        }
    } else if copy.flags & gpu_flag::UNSURE == 0 {
        bump(Counter::GpuContextUnsure);
        // SAFETY: a byte that nothing else writes after the insertion.
        unsafe { (*record).flags |= gpu_flag::UNSURE };
    }
    0
}

/// The process has called `exit`: what ends now ends with it.
#[inline(always)]
pub fn note_exit(process: Process) {
    if let Some(image) = image(process) {
        // SAFETY: a map's value, an aligned u64 that is only ever set to this.
        unsafe { core::ptr::write_volatile(&raw mut (*image).exits, 1) };
    }
}
