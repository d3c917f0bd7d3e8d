//! Calls of which only the entry matters, and that they were made: they return what nobody asks for, or never return.

use aya_ebpf::{EbpfContext as _, helpers::bpf_get_attach_cookie, programs::ProbeContext};
use leaktrace_common::{
    counter::Counter,
    gpu::{GpuCookie, GpuOp, GpuThread, device_code},
    key::Process,
};

use super::{context, thread};
use crate::{KEEP_RETURN, counter::bump, hits, registers::Arguments, thread as threads};

/// Always 0.
#[inline(always)]
pub fn note(ctx: &ProbeContext) -> u32 {
    // SAFETY: the helper takes the context of this program.
    let cookie = GpuCookie(unsafe { bpf_get_attach_cookie(ctx.as_ptr()) });
    hits::entry(cookie.plain());
    if cookie.is(GpuOp::ContextSet) {
        // Both states of a thread are there, or neither: at its end the one tells of the other.
        if let Some(state) = threads::current()
            && let Some(gpu) = thread::current()
        {
            set_context(gpu, state.process, Arguments::read(ctx).get(0, 0));
        }
        return KEEP_RETURN;
    }
    let Some(process) = threads::current_process() else {
        return KEEP_RETURN;
    };
    if cookie.is(GpuOp::Exit) {
        context::note_exit(process);
    } else {
        bump(Counter::GpuUntracked);
    }
    KEEP_RETURN
}

/// The thread's context, from its own word or the one that the runtime library has for a device.
#[inline(always)]
fn set_context(gpu: &mut GpuThread, process: Process, context: u64) {
    let mut device = 0;
    let runtime = GpuCookie(gpu.runtime.call.cookie);
    if gpu.runtime.call.sp != 0 && runtime.is(GpuOp::SetDevice) {
        device = device_code(i64::from(gpu.runtime.call.out_pointer as i32));
    }
    context::note(process, context, device);
    thread::set_context(gpu, context);
}
