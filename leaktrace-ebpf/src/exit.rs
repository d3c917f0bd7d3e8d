//! The moment an allocation call returns: pair it with its entry and record the block.

use aya_ebpf::{EbpfContext as _, helpers::bpf_get_attach_cookie, programs::ProbeContext};
use leaktrace_common::{
    call::Cookie,
    counter::Counter,
    key::{LiveKey, Process, SiteKey},
    record::{Live, Pending, outcome},
};

use crate::{KEEP_RETURN, counter::bump, hits, live, python, registers, site, thread};

/// Always 0: a session's return run has no further say.
#[inline(always)]
pub fn exit(ctx: &ProbeContext) -> u32 {
    // SAFETY: the helper takes the context of this program.
    let cookie = Cookie(unsafe { bpf_get_attach_cookie(ctx.as_ptr()) });
    let Some(state) = thread::known() else {
        return KEEP_RETURN;
    };
    hits::exit(cookie);
    let layer = cookie.layer();
    let process = state.process;
    let pending = thread::pending(state, layer);
    let sp = registers::stack_pointer(ctx);
    // At a `ret` instruction the stack pointer is what it was at entry; a return probe runs one word
    // further. Any other value is the return of a call inside this one.
    if pending.sp == 0 || (pending.sp != sp && pending.sp + 8 != sp) {
        return KEEP_RETURN;
    }
    pending.sp = 0;
    let learnt = pending.slot_seen;
    // The call may have been handed on to another function, whose return this is: the entry's cookie says
    // what it is.
    let space = Cookie(pending.cookie).space();
    settle(pending, Process { space, ..process }, registers::result(ctx));
    if learnt != 0 {
        state.trampoline = learnt;
    }
    KEEP_RETURN
}

/// What became of the call, by its result.
#[inline(always)]
fn settle(pending: &Pending, process: Process, result: u64) {
    let cookie = Cookie(pending.cookie);
    let is_left_out = matches!(pending.outcome, outcome::SAMPLED_OUT | outcome::NO_ROOM);
    if is_left_out && !cookie.is_realloc() {
        // It was pending only so that calls inside it were known as its parts.
        return;
    }
    let address = if cookie.result_in_out_pointer() {
        // The C `int` result: 0 is success. On failure the out-pointer means nothing and is not read.
        if result as u32 != 0 {
            0
        } else if let Some(address) = registers::read_word(pending.out_pointer) {
            address
        } else {
            bump(Counter::ResultUnreadable);
            return;
        }
    } else if is_error(result) {
        0
    } else if cookie.is_pythons() {
        python::address(cookie, result, pending.size_bytes)
    } else {
        result
    };
    if cookie.is_realloc() {
        settle_old(pending, process, cookie, address);
    }
    if address == 0 {
        // realloc(p, 0) answers NULL for "freed", which is no failure.
        if !(cookie.is_realloc() && pending.size_bytes == 0) {
            bump(Counter::Failed);
        }
        return;
    }
    match pending.outcome {
        outcome::RECORD => record(pending, process, cookie, address),
        outcome::FILTERED => bump(Counter::FilteredSize),
        // Counted when it was left out.
        _ => {}
    }
}

/// A function of libc that makes a mapping answers an address, or -1; no block has an address so high.
#[inline(always)]
const fn is_error(result: u64) -> bool {
    result > u64::MAX - 4096
}

/// The block that realloc was given: freed if the call succeeded, still the caller's if it failed.
#[inline(always)]
fn settle_old(pending: &Pending, process: Process, cookie: Cookie, address: u64) {
    if pending.old_known == 0 {
        return;
    }
    if address == 0 && pending.size_bytes != 0 && !cookie.frees_on_failure() {
        live::put_back(
            &LiveKey {
                address: pending.old_address,
                process,
            },
            &pending.old,
        );
    } else {
        site::freed(&process, &pending.old);
    }
}

#[inline(always)]
fn record(pending: &Pending, process: Process, cookie: Cookie, address: u64) {
    let (call, shard) = (cookie.call(), site::shard());
    let site_key = SiteKey {
        stack_id: pending.stack_id,
        process,
        call: call.into(),
        shard: shard.into(),
    };
    let Some(site) = site::find_or_add(&site_key) else {
        bump(Counter::SitesFull);
        return;
    };
    let block = Live {
        size_bytes: pending.size_bytes,
        time_ns: live::now_ns(),
        stack_id: pending.stack_id,
        call,
        shard,
        weight: pending.weight,
    };
    // First the block, then the totals: a block that could not be recorded must not be counted, since its
    // free could not be matched.
    if live::insert(&LiveKey { address, process }, &block) {
        site::allocated(site, &block);
    }
}
