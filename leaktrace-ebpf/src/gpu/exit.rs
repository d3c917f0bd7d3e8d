//! The moment a call of CUDA returns: what it made is recorded, or what it was to give back is put back.

use aya_ebpf::{EbpfContext as _, helpers::bpf_get_attach_cookie, programs::ProbeContext};
use leaktrace_common::{
    call::Space,
    counter::Counter,
    gpu::{
        Domain, GpuCookie, GpuLive, GpuOp, GpuPending, GpuThread, NO_DEVICE, ONE_REFERENCE, device_code,
        gpu_flag,
    },
    key::Process,
    record::Live,
};

use super::{array, context, failed, handle, live, thread};
use crate::{KEEP_RETURN, config, counter::bump, hits, registers, thread as threads};

/// Kinds of `CUmemLocation`.
const LOCATION_DEVICE: u32 = 1;

/// Always 0: a session's return run has no further say.
#[inline(always)]
pub fn exit(ctx: &ProbeContext) -> u32 {
    // SAFETY: the helper takes the context of this program.
    let cookie = GpuCookie(unsafe { bpf_get_attach_cookie(ctx.as_ptr()) });
    hits::exit(cookie.plain());
    let (Some(state), Some(gpu)) = (threads::known(), thread::known()) else {
        return KEEP_RETURN;
    };
    let process = state.process;
    let sp = registers::stack_pointer(ctx);
    let code = registers::result(ctx) as u32;
    let learnt;
    if cookie.is_of_runtime() {
        let pending = &mut gpu.runtime;
        if !returns(pending, sp) {
            return KEEP_RETURN;
        }
        learnt = pending.call.slot_seen;
        pending.call.sp = 0;
        settle_runtime(gpu, process, code);
    } else {
        let pending = &mut gpu.driver;
        if !returns(pending, sp) {
            return KEEP_RETURN;
        }
        learnt = pending.call.slot_seen;
        pending.call.sp = 0;
        settle_driver(gpu, process, code);
    }
    if learnt != 0 {
        state.trampoline = learnt;
    }
    KEEP_RETURN
}

/// Whether this is the return of that call: a return probe runs one word above its entry.
#[inline(always)]
fn returns(pending: &GpuPending, sp: u64) -> bool {
    pending.call.sp != 0 && (pending.call.sp == sp || pending.call.sp + 8 == sp)
}

/// A call of the runtime library: what it did is what the driver's calls in it did.
#[inline(always)]
fn settle_runtime(gpu: &mut GpuThread, process: Process, code: u32) {
    let cookie = GpuCookie(gpu.runtime.call.cookie);
    if code != 0 {
        if cookie.allocates() {
            bump(Counter::Failed);
        }
        failed::count(&gpu.runtime, process, code);
        return;
    }
    if cookie.is(GpuOp::SetDevice) {
        gpu.device = u32::from(device_code(i64::from(gpu.runtime.call.out_pointer as i32)));
    }
}

#[inline(always)]
fn settle_driver(gpu: &mut GpuThread, process: Process, code: u32) {
    measure(&mut gpu.driver);
    if code != 0 {
        settle_failed(gpu, process, code);
        return;
    }
    let cookie = GpuCookie(gpu.driver.call.cookie);
    let pending = &gpu.driver;
    match cookie.op() {
        op if op == GpuOp::Free as u8 || op == GpuOp::Release as u8 || op == GpuOp::CloseForeign as u8 => {
            settle_given_back(pending, process, cookie);
        }
        op if op == GpuOp::Retain as u8 => retained(gpu, process),
        op if op == GpuOp::Map as u8 => handle::map(pending, process),
        op if op == GpuOp::Unmap as u8 => handle::unmap(gpu, process),
        op if op >= GpuOp::ContextCreate as u8 && op <= GpuOp::PrimaryReset as u8 => {
            settle_context(gpu, process, cookie);
        }
        op if op < GpuOp::Untracked as u8 => made(gpu, process, cookie),
        _ => {}
    }
}

/// The size of what is told through a pointer. Not at the entry: what the program has not touched before, as a constant of
/// its own, can be read only after the driver has.
#[inline(always)]
fn measure(pending: &mut GpuPending) {
    let cookie = GpuCookie(pending.call.cookie);
    let description = pending.args[0];
    if cookie.is(GpuOp::Array) {
        pending.call.size_bytes = array::flat_bytes(description);
    } else if cookie.is(GpuOp::Array3d) {
        pending.call.size_bytes = array::deep_bytes(description, 1);
    } else if cookie.is(GpuOp::Mipmap) {
        pending.call.size_bytes = array::deep_bytes(description, pending.args[1] & 0xffff_ffff);
    }
}

/// The call has done nothing. It is counted once, for the call that the program made.
#[inline(always)]
fn settle_failed(gpu: &mut GpuThread, process: Process, code: u32) {
    thread::undo(&mut gpu.driver, process);
    if gpu.driver.within != 0 {
        // The runtime library's call says so as well; it may not know the size.
        if gpu.runtime.call.size_bytes == 0 {
            gpu.runtime.call.size_bytes = gpu.driver.call.size_bytes;
        }
        return;
    }
    if GpuCookie(gpu.driver.call.cookie).allocates() {
        bump(Counter::Failed);
    }
    failed::count(&gpu.driver, process, code);
}

#[inline(always)]
fn settle_given_back(pending: &GpuPending, process: Process, cookie: GpuCookie) {
    let identity = pending.call.old_address;
    match pending.call.old_known {
        live::TAKEN => live::freed(&live::key(process, identity, cookie.domain()), &pending.taken),
        live::LESSENED => {}
        // Giving back nothing is no event.
        _ if identity == 0 => {}
        _ => bump(Counter::GpuFreeUnknown),
    }
}

#[inline(always)]
fn settle_context(gpu: &mut GpuThread, process: Process, cookie: GpuCookie) {
    let first = gpu.driver.call.out_pointer;
    let second = gpu.driver.args[0];
    match cookie.op() {
        op if op == GpuOp::ContextCreate as u8 => {
            let context = registers::read_word(first).unwrap_or(0);
            context::note(process, context, device_code(i64::from(second as i32)));
            thread::push_context(gpu, context);
        }
        op if op == GpuOp::ContextPush as u8 => {
            context::note(process, first, NO_DEVICE);
            thread::push_context(gpu, first);
        }
        op if op == GpuOp::ContextPop as u8 => thread::pop_context(gpu),
        op if op == GpuOp::ContextDestroy as u8 => {
            context::destroy(process, first);
            if thread::context(gpu) == first {
                thread::pop_context(gpu);
            }
        }
        op if op == GpuOp::PrimaryRetain as u8 => {
            let context = registers::read_word(first).unwrap_or(0);
            context::retain(process, u64::from(second as u32), context);
        }
        op if op == GpuOp::PrimaryRelease as u8 => context::release(process, u64::from(first as u32)),
        _ => context::reset(process, u64::from(first as u32)),
    }
}

/// One reference more to a handle. If that is not known, only this reference is: so that its release does not count as
/// one of the handle's.
#[inline(always)]
fn retained(gpu: &GpuThread, process: Process) {
    let Some(handle) = registers::read_word(gpu.driver.call.out_pointer) else {
        bump(Counter::ResultUnreadable);
        return;
    };
    let key = live::key(process, handle, Domain::Handle as u8);
    if !handle::hold(&key, ONE_REFERENCE) {
        let mut record = GpuLive {
            flags: gpu_flag::UNCOUNTED,
            ..live::NONE
        };
        live::insert(&key, &mut record);
    }
}

/// Memory has been made, or an identity that is given back like memory.
#[inline(always)]
fn made(gpu: &GpuThread, process: Process, cookie: GpuCookie) {
    let pending = &gpu.driver;
    let (identity, size_bytes) = match result(pending, cookie) {
        Some(result) => result,
        None => {
            bump(Counter::ResultUnreadable);
            return;
        }
    };
    let key = live::key(process, identity, cookie.domain());
    let counts = cookie.is(GpuOp::Import) || cookie.is(GpuOp::OpenForeign);
    if counts && handle::hold(&key, ONE_REFERENCE) {
        return;
    }
    if cookie.space() != Space::Ipc as u8 && config::is_filtered(size_bytes) {
        bump(Counter::FilteredSize);
        return;
    }
    let mut flags = 0;
    if cookie.dies_with_context() {
        flags |= gpu_flag::DIES_WITH_CONTEXT;
    }
    if cookie.is(GpuOp::Multicast) {
        flags |= gpu_flag::UNCOUNTED;
    }
    let (space, device) = accounted(gpu, process, cookie);
    let mut record = GpuLive {
        block: Live {
            size_bytes,
            stack_id: pending.call.stack_id,
            call: pending.owner as u16,
            ..live::NONE.block
        },
        context: thread::context(gpu),
        space,
        device,
        flags,
        ..live::NONE
    };
    live::insert(&key, &mut record);
}

/// Identity and size of what was made.
#[inline(always)]
fn result(pending: &GpuPending, cookie: GpuCookie) -> Option<(u64, u64)> {
    if cookie.is(GpuOp::Register) {
        return Some((pending.call.out_pointer, pending.call.size_bytes));
    }
    let identity = registers::read_word(pending.call.out_pointer)?;
    if cookie.is(GpuOp::AllocPitch) {
        let pitch_bytes = registers::read_word(pending.args[0])?;
        return Some((identity, pitch_bytes.wrapping_mul(pending.args[2])));
    }
    Some((identity, pending.call.size_bytes))
}

/// Where it is accounted: its space and its device. Memory by handle says where it is; what is the host's has no device.
#[inline(always)]
fn accounted(gpu: &GpuThread, process: Process, cookie: GpuCookie) -> (u8, u8) {
    if cookie.is(GpuOp::Create) {
        // `CUmemAllocationProp`: type and handle types, then the kind of the location and its number.
        return match registers::read_word(gpu.driver.args[1].wrapping_add(8)) {
            Some(location) if location as u32 == LOCATION_DEVICE => {
                (Space::Vmm as u8, device_code((location >> 32) as i64))
            }
            Some(_) => (Space::VmmHost as u8, NO_DEVICE),
            None => (Space::Vmm as u8, NO_DEVICE),
        };
    }
    let space = cookie.space();
    if space == Space::Pinned as u8 || space == Space::Registered as u8 || space == Space::Ipc as u8 {
        return (space, NO_DEVICE);
    }
    (space, thread::device(gpu, process))
}
