//! Which addresses may be in the live table: what a free of an unsampled block asks, and in most cases all.
//!
//! One count for each value of a hash of process and address, so that an address that was recorded is never
//! missed: a plain bitmap could not be cleared when one of two blocks of a bit goes. One cache line is read.
//! Kept only where the run may sample.

use crate::{atomic, config, maps::FILTER};
use leaktrace_common::config::FILTER_WORDS;

/// Counts in a word, of 16 bits each: the live table has room for far fewer than 65 535 blocks of one count
/// (at the 2^32 blocks that --max-live can ask for, 32 768 of each on average).
const LANES: u64 = 4;
const LANE_BITS: u64 = 16;

/// Whether an address may be recorded; `true` where there is no filter.
#[inline(always)]
pub fn may_hold(address: u64, tgid: u32) -> bool {
    if !config::samples() {
        return true;
    }
    let Some((word, shift)) = slot(address, tgid) else {
        return true;
    };
    // SAFETY: an aligned word of the map's value. Volatile: other threads change it.
    (unsafe { word.read_volatile() } >> shift) & ((1 << LANE_BITS) - 1) != 0
}

/// Notes an address, before its block can be freed.
#[inline(always)]
pub fn add(address: u64, tgid: u32) {
    change(address, tgid, |one| one);
}

/// Forgets one note of an address.
#[inline(always)]
pub fn remove(address: u64, tgid: u32) {
    change(address, tgid, u64::wrapping_neg);
}

#[inline(always)]
fn change(address: u64, tgid: u32, by: impl Fn(u64) -> u64) {
    if !config::samples() {
        return;
    }
    if let Some((word, shift)) = slot(address, tgid) {
        // SAFETY: an aligned word of the map's value, changed by atomic adds alone. A count never goes below
        // zero, so that no lane borrows from another.
        unsafe { atomic::add(word, by(1 << shift)) };
    }
}

/// The word of an address and the position of its count.
#[inline(always)]
fn slot(address: u64, tgid: u32) -> Option<(*mut u64, u64)> {
    let words = FILTER.get_ptr_mut(0)?.cast::<u64>();
    // Blocks are aligned to 16 bytes by most allocators: the product mixes all bits into the upper ones.
    let hash = (address ^ (u64::from(tgid) << 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let index = (hash >> 40) as usize & (FILTER_WORDS - 1);
    // SAFETY: masked to the array's length.
    Some((
        unsafe { words.add(index) },
        ((hash >> 36) & (LANES - 1)) * LANE_BITS,
    ))
}
