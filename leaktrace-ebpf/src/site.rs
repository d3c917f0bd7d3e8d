//! Totals by site.

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::generated::bpf_get_smp_processor_id};
use leaktrace_common::{
    key::{Process, SiteKey},
    record::{Estimate, LIFETIME_BUCKETS, LIFETIME_FIRST_BIT, Live, Site},
};

use crate::{
    atomic::add,
    config, live,
    maps::{SITE_ZERO, SITES},
};

/// The totals of a site's shard, made if this is its first block; `None` when the table is full.
#[inline(always)]
pub fn find_or_add(key: &SiteKey) -> Option<*mut Site> {
    if let Some(site) = SITES.get_ptr_mut(key) {
        return Some(site);
    }
    // Another thread may add it at the same moment: whoever is second finds it.
    let zero = SITE_ZERO.get(0)?;
    let _exists_or_full: Result<(), i32> = SITES.insert(key, zero, u64::from(BPF_NOEXIST));
    SITES.get_ptr_mut(key)
}

/// The shard that this CPU counts in.
#[inline(always)]
pub fn shard() -> u16 {
    // SAFETY: no arguments.
    (u64::from(unsafe { bpf_get_smp_processor_id() }) & config::site_shard_mask()) as u16
}

/// Counts a block handed out.
#[inline(always)]
pub fn allocated(site: *mut Site, block: &Live) {
    // SAFETY: `site` comes from the map and stays mapped until the program ends; all writers are atomic.
    unsafe {
        add(&raw mut (*site).allocs, 1);
        add(&raw mut (*site).alloc_bytes, block.size_bytes);
        if config::samples() {
            estimated(&raw mut (*site).allocated, block);
        }
    }
}

/// Adds what a block stands for.
///
/// # Safety
/// `to` points into a map value.
#[inline(always)]
unsafe fn estimated(to: *mut Estimate, block: &Live) {
    let weight = block.weight;
    // SAFETY: the caller's.
    unsafe {
        add(&raw mut (*to).blocks, weight.blocks());
        add(&raw mut (*to).bytes, weight.bytes(block.size_bytes));
        if !weight.is_one() {
            add(
                &raw mut (*to).variance_of_bytes,
                weight.variance_of_bytes(block.size_bytes),
            );
            add(&raw mut (*to).variance_of_blocks, weight.variance_of_blocks());
        }
    }
}

/// Counts a block of `process` as taken back, now.
#[inline(never)]
pub fn freed(process: &Process, block: &Live) {
    let Some(site) = shard_for_free(process, block) else {
        return;
    };
    let lifetime_ns = live::now_ns().wrapping_sub(block.time_ns);
    // SAFETY: as in `allocated`; the bucket is below the array's length.
    unsafe {
        add(&raw mut (*site).frees, 1);
        add(&raw mut (*site).freed_bytes, block.size_bytes);
        let buckets = (&raw mut (*site).lifetimes).cast::<u64>();
        let mut blocks = 1;
        if config::samples() {
            estimated(&raw mut (*site).freed, block);
            blocks = block.weight.whole_blocks();
        }
        add(buckets.add(bucket(lifetime_ns)), blocks);
    }
}

/// Bucket of a lifetime: the position of its highest bit above the first bucket's.
#[inline(always)]
fn bucket(ns: u64) -> usize {
    let bit = 63 - (ns >> LIFETIME_FIRST_BIT | 1).leading_zeros() as usize;
    if bit < LIFETIME_BUCKETS {
        bit
    } else {
        LIFETIME_BUCKETS - 1
    }
}

/// This CPU's shard of a block's site, or, where there is no room for another, the one that counted the
/// allocation. `None` only if user space has purged the process meanwhile.
#[inline(always)]
fn shard_for_free(process: &Process, block: &Live) -> Option<*mut Site> {
    let counted = SiteKey {
        stack_id: block.stack_id,
        process: *process,
        call: block.call.into(),
        shard: block.shard.into(),
    };
    let shard = u32::from(shard());
    if shard == counted.shard {
        return SITES.get_ptr_mut(counted);
    }
    let here = SiteKey { shard, ..counted };
    if let Some(site) = SITES.get_ptr_mut(here) {
        return Some(site);
    }
    // Not made for a process that is gone.
    let there = SITES.get_ptr_mut(counted)?;
    Some(find_or_add(&here).unwrap_or(there))
}
