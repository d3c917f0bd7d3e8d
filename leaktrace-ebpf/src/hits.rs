//! How often each probe is hit.

use leaktrace_common::{
    call::Cookie,
    record::{HIT_SLOTS, Hits},
};

use crate::{atomic, maps::HITS};

/// Counts an entry.
#[inline(always)]
pub fn entry(cookie: Cookie) {
    if let Some(hits) = slot(cookie) {
        // SAFETY: the map's value; atomic for the same reason as the ledger's counters.
        unsafe { atomic::add(&raw mut (*hits).entries, 1) };
    }
}

/// Counts a return.
#[inline(always)]
pub fn exit(cookie: Cookie) {
    if let Some(hits) = slot(cookie) {
        // SAFETY: as above.
        unsafe { atomic::add(&raw mut (*hits).returns, 1) };
    }
}

#[inline(always)]
fn slot(cookie: Cookie) -> Option<*mut Hits> {
    HITS.get_ptr_mut(u32::from(cookie.slot()) & (HIT_SLOTS as u32 - 1))
}
