//! From a return address to the rule that leads out of its frame: layout, page, row; and what was found before.

use leaktrace_common::unwind::{
    CHUNK_ROWS, FOUND, Found, Layout, MAPPING_STEPS, PAGE_BITS, Page, Row, SEARCH_STEPS, found, mapping,
};

use crate::{
    maps::{UNWIND_MAPPINGS, UNWIND_PAGES, UNWIND_ROWS},
    opaque::opaque,
};

/// Number of the rule of "nothing is known".
pub const GAP: u32 = 0;

const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// What the CPU has found before. Entries are the CPU's own, but a program that preempts this one writes them too:
/// an entry is read like a sequence lock, its address first and last.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Cache(pub *mut Found);

impl Cache {
    #[inline(always)]
    fn entry(self, address: u64) -> *mut u64 {
        let index = (address.wrapping_mul(FACTOR) >> (64 - FOUND.trailing_zeros())) as usize;
        // SAFETY: as many bits as the array has entries.
        unsafe { self.0.add(index) }.cast()
    }

    #[inline(always)]
    fn get(self, address: u64, generation: u32) -> Option<u32> {
        let entry = self.entry(address);
        // SAFETY: an entry is two aligned words. Volatile, for the order.
        unsafe {
            let before = core::ptr::read_volatile(entry);
            let what = core::ptr::read_volatile(entry.add(1));
            let after = core::ptr::read_volatile(entry);
            (before == address && after == address && what as u32 == generation)
                .then_some((what >> 32) as u32)
        }
    }

    #[inline(always)]
    fn put(self, address: u64, generation: u32, rule: u32) {
        let entry = self.entry(address);
        // SAFETY: as above.
        unsafe {
            core::ptr::write_volatile(entry, 0);
            core::ptr::write_volatile(entry.add(1), u64::from(rule) << 32 | u64::from(generation));
            core::ptr::write_volatile(entry, address);
        }
    }
}

/// Number of the rule at a return address, or one of [`found`].
#[inline(always)]
pub fn find(cache: Cache, layout: Layout, address: u64) -> u32 {
    let generation = layout.generation();
    if let Some(rule) = cache.get(address, generation) {
        return rule;
    }
    let rule = search(layout.0, address);
    cache.put(address, generation, rule);
    rule
}

/// A return address belongs to the call before it, which may be the last instruction of its function: so the byte
/// before is looked up.
#[inline(never)]
fn search(layout: u64, address: u64) -> u32 {
    let layout = Layout(layout);
    let ip = address.wrapping_sub(1);
    let mut low = layout.first();
    let end = low + layout.count();
    for step in 0..MAPPING_STEPS {
        let middle = low + (1 << (MAPPING_STEPS - 1 - step));
        let Some(mapping) = UNWIND_MAPPINGS.get(middle) else {
            // Beyond the array, so beyond the layout.
            continue;
        };
        let take = is_less(u64::from(middle), u64::from(end)) & is_less(mapping.begin, ip.wrapping_add(1));
        low += (take as u32) << (MAPPING_STEPS - 1 - step);
    }
    let Some(found) = UNWIND_MAPPINGS.get(low) else {
        return found::UNKNOWN;
    };
    if low == end || ip < found.begin || ip >= found.end {
        return found::UNKNOWN;
    }
    match found.kind {
        mapping::TABLE => {}
        mapping::FRAME_POINTER => return found::FRAME_POINTER,
        _ => return found::PENDING,
    }
    let rel = ip.wrapping_sub(found.bias);
    let page = (rel >> PAGE_BITS).wrapping_sub(u64::from(found.first_page));
    if page >= u64::from(found.page_count) {
        return GAP;
    }
    in_page(found.page_base.wrapping_add(page as u32), rel as u16)
}

#[inline(always)]
fn in_page(page: u32, offset: u16) -> u32 {
    let Some(&Page(page)) = UNWIND_PAGES.get(page) else {
        return GAP;
    };
    let page = Page(page);
    let Some(chunk) = UNWIND_ROWS.get_ptr(page.chunk()) else {
        return GAP;
    };
    let mut low = u64::from(page.first());
    let end = low + u64::from(page.count());
    if low == end {
        return GAP;
    }
    let row = |index: u64| {
        // SAFETY: masked to the length of a chunk.
        unsafe { *chunk.cast::<Row>().add(index as usize & (CHUNK_ROWS - 1)) }
    };
    let wanted = u64::from(Row::last_at(offset).0) + 1;
    for step in 0..SEARCH_STEPS {
        let half = 1 << (SEARCH_STEPS - 1 - step);
        let take = is_less(low + half, end) & is_less(u64::from(row(low + half).0), wanted);
        low += take * half;
    }
    u32::from(row(low).rule())
}

/// 1 if `a` is less than `b`, else 0; both less than 2^63. Without a branch: the searches have a dozen that no
/// predictor could foresee, and the verifier would follow every combination of them.
#[inline(always)]
fn is_less(a: u64, b: u64) -> u64 {
    opaque(a.wrapping_sub(b)) >> 63
}
