//! The moment a call of CUDA is entered: whose call it is, its stack, its arguments; and what it gives back is taken out.

use aya_ebpf::{EbpfContext as _, helpers::bpf_get_attach_cookie, programs::ProbeContext};
use leaktrace_common::{
    counter::Counter,
    gpu::{GpuCookie, GpuOp, GpuPending, GpuThread, ONE_REFERENCE, device_code},
    key::Process,
    record::Thread,
};

use super::{context, handle, live, thread};
use crate::{
    KEEP_RETURN, SKIP_RETURN,
    counter::bump,
    enter::is_under_way,
    hits, members, registers,
    registers::{Arguments, UserRegisters},
    stack::{self, Begin},
    thread as threads,
};

/// What an entered call is to one that is pending.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Nesting {
    /// None is pending.
    Outermost,
    /// Inside it.
    Within,
    /// In its place, by a jump: both return at once.
    InPlace,
}

/// Where a call is entered.
struct Place {
    sp: u64,
    instruction: u64,
    trampoline: u64,
}

/// Value for a session: whether the return is wanted.
#[inline(always)]
pub fn enter(ctx: &ProbeContext) -> u32 {
    // SAFETY: the helper takes the context of this program.
    let cookie = GpuCookie(unsafe { bpf_get_attach_cookie(ctx.as_ptr()) });
    let Some(state) = threads::current() else {
        return SKIP_RETURN;
    };
    hits::entry(cookie.plain());
    let process = state.process;
    let arguments = Arguments::read(ctx);
    let mut owner = cookie;
    let mut stack_id = 0;
    let mut within = false;
    let Some(gpu) = thread::current() else {
        return SKIP_RETURN;
    };
    let place = Place {
        sp: registers::stack_pointer(ctx),
        instruction: registers::instruction(ctx),
        trampoline: trampoline(state),
    };
    let in_driver = nesting(&mut gpu.driver, &place, process);
    if in_driver != Nesting::Outermost {
        return part_of(in_driver);
    }
    let in_runtime = nesting(&mut gpu.runtime, &place, process);
    if in_runtime != Nesting::Outermost {
        if cookie.is_of_runtime() {
            return part_of(in_runtime);
        }
        within = true;
        owner = GpuCookie(gpu.runtime.call.cookie);
        stack_id = gpu.runtime.call.stack_id;
    }
    // Of a call of the runtime that allocates nothing there is none.
    let wants_stack = cookie.allocates() && stack_id == 0;
    // The one place where a stack is walked: the verifier looks at the walk for each.
    if wants_stack && members::meet(state).is_some() {
        stack_id = stack::capture(UserRegisters::of_probe(ctx), Begin::Probe, state).id;
    }
    if cookie.is_of_runtime() {
        begin(&mut gpu.runtime, &place, cookie, owner, stack_id, &arguments);
        if cookie.is(GpuOp::SetDevice) {
            choose_device(gpu, process, &arguments);
        }
        return KEEP_RETURN;
    }
    begin(&mut gpu.driver, &place, cookie, owner, stack_id, &arguments);
    gpu.driver.within = u32::from(within);
    look_ahead(&mut gpu.driver, process, cookie);
    KEEP_RETURN
}

/// Where the kernel's return probes lead, once that is known.
#[inline(always)]
fn trampoline(state: &mut Thread) -> u64 {
    if state.trampoline == 0 {
        state.trampoline = stack::trampoline().unwrap_or(0);
    }
    state.trampoline
}

#[inline(always)]
fn part_of(nesting: Nesting) -> u32 {
    bump(Counter::Nested);
    if nesting == Nesting::InPlace {
        KEEP_RETURN
    } else {
        SKIP_RETURN
    }
}

/// What the call is to a pending one, which is dropped if it cannot return any more.
#[inline(always)]
fn nesting(pending: &mut GpuPending, place: &Place, process: Process) -> Nesting {
    if pending.call.sp == 0 {
        return Nesting::Outermost;
    }
    let under_way = is_under_way(&mut pending.call, place.trampoline);
    if pending.call.sp > place.sp && under_way {
        return Nesting::Within;
    }
    if pending.call.sp == place.sp && pending.call.instruction != place.instruction && under_way {
        return Nesting::InPlace;
    }
    thread::abandon(pending, process);
    Nesting::Outermost
}

/// Notes a call whose return is waited for. `owner` is the call that the program made.
#[inline(always)]
fn begin(
    pending: &mut GpuPending,
    place: &Place,
    cookie: GpuCookie,
    owner: GpuCookie,
    stack_id: u64,
    arguments: &Arguments,
) {
    let call = &mut pending.call;
    call.sp = place.sp;
    call.instruction = place.instruction;
    call.return_address = registers::read_word(place.sp).unwrap_or(0);
    call.slot_seen = 0;
    call.cookie = cookie.0;
    call.size_bytes = arguments.get(cookie.size_arg(), 0);
    call.out_pointer = arguments.get(0, 0);
    call.stack_id = stack_id;
    call.old_address = 0;
    call.old_known = 0;
    pending.owner = u32::from(owner.call());
    pending.args = [arguments.get(1, 0), arguments.get(2, 0), arguments.get(3, 0)];
    if cookie.is(GpuOp::ContextCreate) {
        pending.args[0] = arguments.get(cookie.device_arg(), 0);
    }
}

/// What has to be looked at before the call does its work: what it gives back, which another thread may have again before
/// it returns.
#[inline(always)]
fn look_ahead(pending: &mut GpuPending, process: Process, cookie: GpuCookie) {
    let identity = pending.call.out_pointer;
    if cookie.is(GpuOp::Free) {
        let key = live::key(process, identity, cookie.domain());
        pending.call.old_address = identity;
        if identity != 0 && live::take(&key, &mut pending.taken) {
            pending.call.old_known = live::TAKEN;
        }
    } else if cookie.is(GpuOp::Release) || cookie.is(GpuOp::CloseForeign) {
        let key = live::key(process, identity, cookie.domain());
        pending.call.old_address = identity;
        pending.call.old_known = handle::let_go(&key, ONE_REFERENCE, &mut pending.taken);
    } else if cookie.is(GpuOp::AllocPitch) {
        // Only for a failure: the width as it was asked for.
        pending.call.size_bytes = pending.args[1].wrapping_mul(pending.args[2]);
    }
}

/// The thread will use another device: which context that means is said by the driver's call inside, if it is another one.
#[inline(always)]
fn choose_device(gpu: &mut GpuThread, process: Process, arguments: &Arguments) {
    let device = device_code(i64::from(arguments.get(0, 0) as i32));
    let context = thread::context(gpu);
    if context != 0 && context::device_of(process, context) != device {
        thread::set_context(gpu, 0);
    }
}
