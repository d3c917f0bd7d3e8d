//! The table of live blocks, in tiers: user space adds a larger tier when the current one fills.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::bpf_ktime_get_boot_ns,
};
use leaktrace_common::{call::Space, config::LIVE_TIERS_MAX, counter::Counter, key::LiveKey, record::Live};

use crate::{
    atomic,
    counter::{add, bump},
    filter, lifecycle,
    maps::{LIVE, LIVE_TIERS, LIVE_USED},
    members, site,
};

const EEXIST: i32 = -17;
const E2BIG: i32 = -7;

/// Nanoseconds since boot, suspend included.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// Takes a block out of the table, into `block`; whether it was there.
///
/// Functions of this module are calls of their own and write through pointers: inlined everywhere they
/// would exceed the 512 bytes of a BPF stack.
#[inline(never)]
pub fn take(key: &LiveKey, block: &mut Live) -> bool {
    let used = used_tiers();
    let first = current_tier();
    // The tier that is being filled first: most blocks die young.
    for step in 0..LIVE_TIERS_MAX {
        let tier = (first + LIVE_TIERS_MAX - step) % LIVE_TIERS_MAX;
        if is_used(used, tier) && take_from(tier, key, block) {
            return true;
        }
    }
    false
}

#[inline(always)]
fn take_from(tier: u32, key: &LiveKey, block: &mut Live) -> bool {
    let Some(table) = LIVE.get(tier) else { return false };
    // SAFETY: the element belongs to the block that is being handed back; nobody else may touch it.
    let Some(found) = (unsafe { table.get(key) }) else {
        return false;
    };
    // Copied before the removal: the memory of a removed element may be handed out again at once.
    *block = *found;
    // Of two threads that free one block at the same time (a bug of the target) one finds it gone.
    let taken = table.remove(key).is_ok();
    if taken {
        filter::remove(key.address, key.process.tgid);
        members::count_block(key.process.tgid, false);
    }
    taken
}

/// Puts a block back that `take` took out: a realloc that failed.
#[inline(always)]
pub fn put_back(key: &LiveKey, block: &Live) {
    if !store(key, block) {
        // Its site has it as handed out, so it must count as taken back to keep the sums.
        site::freed(&key.process, block);
    }
}

/// Records a block. `false` when it could not be, which is counted.
#[inline(never)]
pub fn insert(key: &LiveKey, block: &Live) -> bool {
    let mut stale = *block;
    // An address that is handed out while still recorded was freed unseen. `store` sees it only in the
    // tier it writes to.
    let used = used_tiers();
    let current = current_tier();
    for tier in 0..LIVE_TIERS_MAX {
        if tier != current && is_used(used, tier) && take_from(tier, key, &mut stale) {
            missed_free(key, &stale);
        }
    }
    store(key, block)
}

#[inline(never)]
fn store(key: &LiveKey, block: &Live) -> bool {
    filter::add(key.address, key.process.tgid);
    let current = current_tier();
    let mut result = store_in(current, key, block);
    if result == E2BIG {
        // The next tier is always there beforehand, unless --max-live has been reached.
        let next = current + 1;
        use_tier(next);
        result = store_in(next, key, block);
        announce(next);
    }
    match result {
        0 => {
            members::count_block(key.process.tgid, true);
            return true;
        }
        E2BIG => {
            bump(Counter::LiveFull);
            add(Counter::LiveFullBytes, block.size_bytes);
        }
        _ => bump(Counter::LiveNoMemory),
    }
    filter::remove(key.address, key.process.tgid);
    false
}

#[inline(always)]
fn store_in(tier: u32, key: &LiveKey, block: &Live) -> i32 {
    let Some(table) = LIVE.get(tier) else { return E2BIG };
    match table.insert(key, block, u64::from(BPF_NOEXIST)) {
        Ok(()) => 0,
        Err(EEXIST) => {
            let mut stale = *block;
            if take_from(tier, key, &mut stale) {
                missed_free(key, &stale);
            }
            table.insert(key, block, u64::from(BPF_ANY)).err().unwrap_or(0)
        }
        Err(error) => error,
    }
}

/// Tells user space, once, that blocks now go to tier `next`.
#[inline(always)]
fn announce(next: u32) {
    let Some(tiers) = LIVE_TIERS.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: the map's only value; a lost write among CPUs at most repeats the event.
    let tiers = unsafe { &mut *tiers };
    if next < tiers.count && tiers.announced != next {
        tiers.announced = next;
        lifecycle::announce_full_tier(next);
    }
}

#[inline(always)]
fn missed_free(key: &LiveKey, stale: &Live) {
    // That a pool is given back is seen by user space alone, and later.
    if key.process.space != Space::PythonPool as u8 {
        bump(Counter::FreeMissed);
    }
    site::freed(&key.process, stale);
}

/// The tiers that may have blocks, a bit each.
#[inline(always)]
fn used_tiers() -> u64 {
    LIVE_USED.get(0).map_or(u64::MAX, |used| *used | 1)
}

#[inline(always)]
fn is_used(used: u64, tier: u32) -> bool {
    used & (1 << tier) != 0
}

/// Notes a tier, before its first block.
#[inline(always)]
fn use_tier(tier: u32) {
    if let Some(used) = LIVE_USED.get_ptr_mut(0) {
        // SAFETY: the map's only value, an aligned u64 that is changed in this way alone.
        unsafe { atomic::set(used, 1 << (tier & 63)) };
    }
}

#[inline(always)]
fn current_tier() -> u32 {
    LIVE_TIERS.get(0).map_or(0, |tiers| tiers.current)
}
