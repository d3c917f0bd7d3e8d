//! The moment an allocation call is entered: decide whether this call owns its block, take the stack,
//! remember the arguments.

use aya_ebpf::{EbpfContext as _, helpers::bpf_get_attach_cookie, programs::ProbeContext};
use leaktrace_common::{
    call::Cookie,
    counter::Counter,
    key::{LiveKey, Process},
    math::Weight,
    record::{Pending, outcome},
};

use crate::{
    KEEP_RETURN, SKIP_RETURN, config, counter::bump, hits, live, registers, registers::Arguments, stack,
    thread,
};

/// Value for a session: whether the return is wanted.
#[inline(always)]
pub fn enter(ctx: &ProbeContext) -> u32 {
    // SAFETY: the helper takes the context of this program.
    let cookie = Cookie(unsafe { bpf_get_attach_cookie(ctx.as_ptr()) });
    hits::entry(cookie);
    let Some(state) = thread::current() else {
        return SKIP_RETURN;
    };
    let state_process = state.process;
    let state_trampoline = state.trampoline;
    let process = Process {
        space: cookie.space(),
        ..state_process
    };
    let sp = registers::stack_pointer(ctx);
    let instruction = registers::instruction(ctx);
    let pending = thread::pending(state, cookie.layer());
    if pending.sp != 0 {
        let under_way = is_under_way(pending, state_trampoline);
        if pending.sp > sp && under_way {
            bump(Counter::Nested);
            return SKIP_RETURN;
        }
        if pending.sp == sp && pending.instruction != instruction && under_way {
            // A tail call (`operator new` jumping to `malloc`): still the same call for its caller. Its
            // return is the outer one's, so it is kept.
            bump(Counter::Nested);
            return KEEP_RETURN;
        }
        // The stack is back at or above where that call began, or no longer holds its return address: it
        // has been left without returning.
        abandon(pending, state_process);
    }

    let arguments = Arguments::read(ctx);
    let size_bytes = requested(&arguments, cookie);
    let config = config::config();
    let mean_bytes = if config.sampling == 0 {
        0
    } else {
        config::mean_bytes()
    };
    pending.weight = Weight::of(size_bytes, mean_bytes);
    let filtered = size_bytes < config.min_size_bytes || size_bytes > config.max_size_bytes;
    if filtered && !cookie.is_realloc() {
        bump(Counter::FilteredSize);
        return SKIP_RETURN;
    }
    pending.instruction = instruction;
    pending.return_address = registers::read_word(sp).unwrap_or(0);
    pending.slot_seen = 0;
    pending.cookie = cookie.0;
    pending.size_bytes = size_bytes;
    pending.outcome = if filtered {
        outcome::FILTERED
    } else {
        outcome::RECORD
    };
    pending.out_pointer = arguments.get(cookie.pointer_arg(), 0);
    pending.old_address = 0;
    pending.old_known = 0;
    if cookie.is_realloc() {
        take_old(pending, process);
    }
    pending.sp = sp;
    let stack_id = if filtered {
        0
    } else {
        stack::capture(ctx, &mut state.stack)
    };
    thread::pending(state, cookie.layer()).stack_id = stack_id;
    KEEP_RETURN
}

/// Whether a call that began further up the stack can still return. One that was left by an exception or a
/// longjmp cannot: the code that went on from there has called other functions since, and they have
/// overwritten its return address, or what a return probe has put in its place.
#[inline(always)]
fn is_under_way(pending: &mut Pending, trampoline: u64) -> bool {
    let slot = registers::read_word(pending.sp).unwrap_or(0);
    if Cookie(pending.cookie).has_ret_instructions() {
        return slot == pending.return_address;
    }
    if trampoline != 0 {
        return slot == trampoline;
    }
    // The probe's address is learnt from the first call that has another inside it and does return. Until
    // then all that is known is that it is not the caller's own.
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
    } else {
        bump(Counter::ReallocUnknown);
    }
}
