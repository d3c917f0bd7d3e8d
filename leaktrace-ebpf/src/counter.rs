//! The ledger's counters.

use leaktrace_common::counter::Counter;

use crate::{atomic, maps::COUNTERS};

/// Adds `n` to a counter.
///
/// Atomic although the slot is the CPU's own: a uprobe program can be preempted by another task's
/// between load and store, and the ledger must add up.
#[inline(always)]
pub fn add(counter: Counter, n: u64) {
    if let Some(slot) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the map's value is an aligned u64 that only atomic adds write.
        unsafe { atomic::add(slot, n) };
    }
}

/// Adds one to a counter.
#[inline(always)]
pub fn bump(counter: Counter) {
    add(counter, 1);
}
