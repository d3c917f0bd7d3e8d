//! The moment an allocation call is entered: decide whether this call owns its block, take the stack,
//! remember the arguments.

use aya_ebpf::{
    EbpfContext as _,
    helpers::{bpf_get_attach_cookie, bpf_get_prandom_u32},
    programs::ProbeContext,
};
use leaktrace_common::{
    call::Cookie,
    counter::Counter,
    key::{LiveKey, Process},
    math::Weight,
    record::{Pending, Thread, outcome},
};

use crate::{
    KEEP_RETURN, SKIP_RETURN, config,
    counter::bump,
    filter, hits, live, members, python, registers,
    registers::{Arguments, UserRegisters},
    stack::{self, Begin},
    thread,
};

/// Value for a session: whether the return is wanted.
///
/// What is left out, by size or by sampling, is done with before anything but the thread's state is looked at.
#[inline(always)]
pub fn enter(ctx: &ProbeContext) -> u32 {
    // SAFETY: the helper takes the context of this program.
    let cookie = Cookie(unsafe { bpf_get_attach_cookie(ctx.as_ptr()) });
    let Some(state) = thread::current() else {
        return SKIP_RETURN;
    };
    // Not before: what a call of another process costs is no target's cost.
    hits::entry(cookie);
    let state_process = state.process;
    let arguments = Arguments::read(ctx);
    let mut size_bytes = requested(&arguments, cookie);
    // Rare, and each stands for much: none is left out.
    let is_pythons = cookie.is_pythons();
    if is_pythons {
        size_bytes = python::size_bytes(ctx, cookie, state, size_bytes);
        if size_bytes == 0 {
            return SKIP_RETURN;
        }
    }
    let call = Call {
        sp: registers::stack_pointer(ctx),
        instruction: registers::instruction(ctx),
    };
    if thread::pending(state, cookie.layer()).sp != 0 {
        if state.trampoline == 0 {
            state.trampoline = stack::trampoline().unwrap_or(0);
        }
        let trampoline = state.trampoline;
        let pending = thread::pending(state, cookie.layer());
        if let Some(nested) = inside(pending, &call, trampoline, state_process) {
            return nested;
        }
    }

    let mean_bytes = if is_pythons { 0 } else { config::mean_bytes() };
    let outcome = if !is_pythons && config::is_filtered(size_bytes) {
        outcome::FILTERED
    } else if mean_bytes != 0 && !state.sampler.takes(size_bytes, mean_bytes, random) {
        bump(Counter::SampledOut);
        outcome::SAMPLED_OUT
    } else if !members::may_record(state) {
        outcome::NO_ROOM
    } else {
        outcome::RECORD
    };
    let process = Process {
        space: cookie.space(),
        ..state_process
    };
    let block = arguments.get(cookie.pointer_arg(), 0);
    if outcome != outcome::RECORD && !is_watched(cookie, block, process) {
        if outcome == outcome::FILTERED {
            bump(Counter::FilteredSize);
        }
        return SKIP_RETURN;
    }
    begin(ctx, state, &call, cookie, outcome, size_bytes, block);
    let pending = thread::pending(state, cookie.layer());
    pending.weight = Weight::of(size_bytes, mean_bytes);
    if cookie.is_realloc() {
        take_old(pending, process);
    }
    KEEP_RETURN
}

/// Where a call is entered.
struct Call {
    sp: u64,
    instruction: u64,
}

/// Whether the return of a call whose block is not recorded matters all the same: it may get its block from
/// another probed function, which must be known as a part of this call, or it is a realloc that takes a
/// recorded block back.
#[inline(always)]
fn is_watched(cookie: Cookie, block: u64, process: Process) -> bool {
    cookie.hands_over()
        || cookie.has_ret_instructions()
        || (cookie.is_realloc() && block != 0 && filter::may_hold(block, process.tgid))
}

/// Whether a call entered while another is pending is a part of it: then the value for the session. If the
/// pending one cannot return any more, it is dropped.
#[inline(always)]
fn inside(pending: &mut Pending, call: &Call, trampoline: u64, process: Process) -> Option<u32> {
    let under_way = is_under_way(pending, trampoline);
    if pending.sp > call.sp && under_way {
        bump(Counter::Nested);
        return Some(SKIP_RETURN);
    }
    if pending.sp == call.sp && pending.instruction != call.instruction && under_way {
        // A tail call (`operator new` jumping to `malloc`): still the same call for its caller. Its
        // return is the outer one's, so it is kept.
        bump(Counter::Nested);
        return Some(KEEP_RETURN);
    }
    // The stack is back at or above where that call began, or no longer holds its return address: it
    // has been left without returning.
    abandon(pending, process);
    None
}

/// Notes a call whose return is waited for, with its stack if its block is to be recorded.
#[inline(always)]
fn begin(
    ctx: &ProbeContext,
    state: &mut Thread,
    call: &Call,
    cookie: Cookie,
    outcome: u32,
    size_bytes: u64,
    block: u64,
) {
    let (stack_id, return_address) = if outcome == outcome::RECORD {
        let captured = stack::capture(UserRegisters::of_probe(ctx), Begin::Probe, state);
        (captured.id, captured.return_address)
    } else {
        (0, registers::read_word(call.sp).unwrap_or(0))
    };
    let pending = thread::pending(state, cookie.layer());
    pending.sp = call.sp;
    pending.instruction = call.instruction;
    pending.return_address = return_address;
    pending.slot_seen = 0;
    pending.cookie = cookie.0;
    pending.size_bytes = size_bytes;
    pending.outcome = outcome;
    pending.out_pointer = block;
    pending.stack_id = stack_id;
    pending.old_address = 0;
    pending.old_known = 0;
}

#[inline(always)]
fn random() -> u32 {
    // SAFETY: no arguments.
    unsafe { bpf_get_prandom_u32() }
}

/// Whether a call that began further up the stack can still return. One that was left by an exception or a
/// longjmp cannot: the code that went on from there has called other functions since, and they have
/// overwritten its return address, or what a return probe has put in its place.
#[inline(always)]
pub fn is_under_way(pending: &mut Pending, trampoline: u64) -> bool {
    let slot = registers::read_word(pending.sp).unwrap_or(0);
    if Cookie(pending.cookie).has_ret_instructions() {
        return slot == pending.return_address;
    }
    if trampoline != 0 {
        return slot == trampoline;
    }
    // Where the kernel's BTF does not say where to find it, it is learnt from the first call that has another inside it
    // and does return. Until then all that is known is that it is not the caller's own.
    pending.slot_seen = slot;
    slot != pending.return_address
}

/// Drops a call that will not return. A block it was to reallocate is taken to be still there: nothing
/// says that it went.
#[inline(always)]
pub fn abandon(pending: &mut Pending, process: Process) {
    bump(Counter::Abandoned);
    pending.sp = 0;
    let process = Process {
        space: Cookie(pending.cookie).space(),
        ..process
    };
    if pending.old_known != 0 {
        live::put_back(
            &LiveKey {
                address: pending.old_address,
                process,
            },
            &pending.old,
        );
    }
}

/// Bytes asked for.
#[inline(always)]
fn requested(arguments: &Arguments, cookie: Cookie) -> u64 {
    let size = arguments.get(cookie.size_arg(), 0);
    let count = arguments.get(cookie.count_arg(), 1);
    // With fewer than 64 significant bits between them the product fits. With more it is at least 2^62,
    // beyond any address space: the call fails and the number is never shown. (BPF has no 128-bit product.)
    if size.leading_zeros() + count.leading_zeros() >= 64 {
        size.wrapping_mul(count)
    } else {
        u64::MAX
    }
}

/// Takes the block handed to realloc out of the live table: once the allocator has let go of the address,
/// another thread may get it before this call returns.
#[inline(always)]
fn take_old(pending: &mut Pending, process: Process) {
    let address = pending.out_pointer;
    pending.old_address = address;
    if address == 0 {
        return;
    }
    if live::take(&LiveKey { address, process }, &mut pending.old) {
        pending.old_known = 1;
    } else if !config::samples() {
        bump(Counter::ReallocUnknown);
    }
}
