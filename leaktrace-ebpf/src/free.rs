//! The moment a block is handed back: its record leaves the live table at the ENTRY of the call, before
//! the allocator can give the address to another thread.

use aya_ebpf::{EbpfContext as _, helpers::bpf_get_attach_cookie, programs::ProbeContext};
use leaktrace_common::{
    call::Cookie,
    counter::Counter,
    key::{LiveKey, Process},
    math::Weight,
    record::Live,
};

use crate::{
    KEEP_RETURN, config, counter::bump, filter, hits, live, members, registers, registers::Arguments, site,
    thread,
};

/// Always 0.
#[inline(always)]
pub fn free(ctx: &ProbeContext) -> u32 {
    // SAFETY: the helper takes the context of this program.
    let cookie = Cookie(unsafe { bpf_get_attach_cookie(ctx.as_ptr()) });
    let address = Arguments::read(ctx).get(cookie.pointer_arg(), 0);
    let tgid = thread::current_tgid();
    if config::selects() && members::get(tgid).is_none() {
        bump(Counter::Outside);
        return KEEP_RETURN;
    }
    hits::entry(cookie);
    if address == 0 {
        return KEEP_RETURN;
    }
    if !filter::may_hold(address, tgid) {
        return KEEP_RETURN;
    }
    let Some(process) = thread::current_process() else {
        return KEEP_RETURN;
    };
    let process = Process {
        space: cookie.space(),
        ..process
    };
    let mut block = Live {
        size_bytes: 0,
        time_ns: 0,
        stack_id: 0,
        call: 0,
        shard: 0,
        weight: Weight::ONE,
    };
    if !live::take(&LiveKey { address, process }, &mut block) {
        unknown(address, cookie, registers::stack_pointer(ctx));
    } else {
        site::freed(&process, &block);
    }
    if cookie.delegates()
        && !config::samples()
        && let Some(state) = thread::current()
    {
        state.delegated_address = address;
        state.delegated_sp = registers::stack_pointer(ctx);
    }
    KEEP_RETURN
}

/// A block that is not in the table: from before the attach, unless a call around this one has just taken
/// it out: `free_sized` that calls `free`, or a realloc that frees its old block.
#[inline(always)]
fn unknown(address: u64, cookie: Cookie, sp: u64) {
    // Where most blocks are not recorded nothing follows from it. And most mappings are none of Python's.
    if config::samples() || cookie.is_pythons() {
        return;
    }
    if let Some(state) = thread::known() {
        if state.delegated_address == address && sp <= state.delegated_sp {
            return;
        }
        let pending = thread::pending(state, cookie.layer());
        if pending.sp != 0 && pending.old_address == address {
            return;
        }
    }
    bump(Counter::FreeUnknown);
}
