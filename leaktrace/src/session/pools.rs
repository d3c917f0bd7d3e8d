//! Ends of Python's pools, which no probe sees: pools that are not in use any more are looked for every second and for
//! every report, taken out of the table of live blocks, and counted as freed beside the kernel side's totals.
//!
//! Must not know what a report shows.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
};

use leaktrace_common::{
    call::Space,
    key::{LiveKey, Process as Key, SiteKey},
    math::BLOCKS_FRACTION_BITS,
    record::{LIFETIME_BUCKETS, LIFETIME_FIRST_BIT, Live, Site},
};

use crate::{
    kernel::maps::{LiveTable, TableError},
    probe::gear::Gear,
    python::{
        memory::Process,
        pools::{Pool, Pools},
    },
    traced::{process::Traced, set::TracedSet},
};

/// Least time between two looks that nothing asks for but the time, in nanoseconds.
const BETWEEN_NS: u64 = 1_000_000_000;

/// And no more of the time than one part in so many: the whole table of live blocks is read.
const SHARE: u64 = 50;

/// Follows the pools of all processes.
#[derive(Debug, Default)]
pub(super) struct PoolEnds {
    /// When the next look is due.
    due_ns: u64,
    /// By pid and image.
    processes: HashMap<(u32, u16), Pools>,
    /// What was found freed, by site.
    freed: HashMap<SiteKey, Site>,
    /// Bytes of the objects in the pools of each site, and how many pools have such, as of the last look.
    objects: HashMap<SiteKey, BTreeMap<u32, u64>>,
}

impl PoolEnds {
    /// Whether it is time to look, at `now_ns`, whatever else asks for it: a process that ends is not there any more
    /// when that is known.
    pub(super) const fn is_due(&self, now_ns: u64) -> bool {
        now_ns >= self.due_ns
    }

    /// Notes a look that has taken from `begin_ns` to `end_ns`.
    pub(super) fn looked(&mut self, begin_ns: u64, end_ns: u64) {
        self.due_ns = end_ns + BETWEEN_NS.max(SHARE * end_ns.saturating_sub(begin_ns));
    }

    /// Looks at every pool that is recorded as live, at `now_ns` (`CLOCK_BOOTTIME`).
    ///
    /// # Errors
    /// [`TableError`].
    pub(super) fn look(
        &mut self,
        live: &LiveTable,
        traced: &TracedSet,
        now_ns: u64,
    ) -> Result<(), TableError> {
        let mut recorded: BTreeMap<(u32, u16), HashMap<Pool, (LiveKey, Live)>> = BTreeMap::new();
        live.for_each(|key, block| {
            if key.process.space == Space::PythonPool as u8 {
                let pool = Pool {
                    address: key.address,
                    since_ns: block.time_ns,
                };
                let of_process = recorded.entry((key.process.tgid, key.process.image));
                of_process.or_default().insert(pool, (*key, *block));
            }
        })?;
        for ((pid, image), pools) in recorded {
            // Addresses of an image that is gone mean nothing in the next.
            if traced.get(pid).is_none_or(|process| process.image() != image) {
                continue;
            }
            let all: Vec<Pool> = pools.keys().copied().collect();
            let known = self.processes.entry((pid, image)).or_default();
            let dead = known.dead(&Process::new(pid), &all);
            self.objects.retain(|key, _| !belongs(key.process, pid, image));
            for (pool, (key, block)) in &pools {
                if let Some(bytes) = known.object_bytes(*pool) {
                    let of_site = self.objects.entry(site_of(key, block)).or_default();
                    *of_site.entry(bytes).or_default() += 1;
                }
            }
            for pool in dead {
                let Some((key, block)) = pools.get(&pool) else {
                    continue;
                };
                // If it was taken into use again meanwhile, the kernel side has counted its end.
                if live.take(key, block)? {
                    self.add(key, block, now_ns);
                }
            }
        }
        Ok(())
    }

    /// Bytes of an object in most of the pools of a site; `None` if they have not been looked at.
    pub(super) fn object_bytes(&self, key: &SiteKey) -> Option<u32> {
        let sizes = self.objects.get(&SiteKey { shard: 0, ..*key })?;
        let most = sizes.iter().max_by_key(|(_, pools)| **pools);
        most.map(|(bytes, _)| *bytes)
    }

    /// An image has ended, and its memory cannot be looked at any more. Pools in arenas that it had given back are freed;
    /// those in its other arenas stay what they were at the last look, and so do those in memory that it had before its
    /// arenas were seen.
    ///
    /// # Errors
    /// [`TableError`].
    pub(super) fn end(
        &mut self,
        live: &LiveTable,
        process: &Traced,
        image: u16,
        now_ns: u64,
    ) -> Result<(), TableError> {
        if !process.python.probed().any(|(_, gear)| gear == Gear::Arenas) {
            return Ok(());
        }
        let mut older = process.older_memory(image).to_vec();
        let (mut arenas, mut pools) = (Vec::new(), Vec::new());
        live.for_each(|key, block| {
            if !belongs(key.process, process.pid, image) {
                return;
            }
            match Space::of(key.process.space) {
                Some(Space::PythonArena) => {
                    arenas.push(key.address..key.address.saturating_add(block.size_bytes));
                }
                Some(Space::PythonPool) => pools.push((*key, *block)),
                _ => {}
            }
        })?;
        arenas.sort_unstable_by_key(|range| range.start);
        older.sort_unstable_by_key(|range| range.start);
        for (key, block) in &pools {
            let is_there = is_within(&arenas, key.address) || is_within(&older, key.address);
            if !is_there && live.take(key, block)? {
                self.add(key, block, now_ns);
            }
        }
        Ok(())
    }

    fn add(&mut self, key: &LiveKey, block: &Live, now_ns: u64) {
        let freed = self.freed.entry(site_of(key, block)).or_insert(Site::EMPTY);
        freed.frees += 1;
        freed.freed_bytes += block.size_bytes;
        freed.freed.blocks += 1 << BLOCKS_FRACTION_BITS;
        freed.freed.bytes += block.size_bytes;
        let lifetime = now_ns.saturating_sub(block.time_ns) >> LIFETIME_FIRST_BIT;
        let bucket = lifetime.checked_ilog2().unwrap_or(0) as usize;
        freed.lifetimes[bucket.min(LIFETIME_BUCKETS - 1)] += 1;
    }

    /// The totals of a site, with what was found freed.
    pub(super) fn with_freed(&self, key: &SiteKey, totals: &Site) -> Site {
        let mut totals = *totals;
        if let Some(freed) = self.freed.get(key) {
            totals.add(freed);
        }
        totals
    }

    /// An image has ended.
    pub(super) fn forget(&mut self, pid: u32, image: u16) {
        self.processes.remove(&(pid, image));
        self.freed.retain(|key, _| !belongs(key.process, pid, image));
    }
}

const fn site_of(key: &LiveKey, block: &Live) -> SiteKey {
    SiteKey {
        stack_id: block.stack_id,
        process: key.process,
        call: block.call as u32,
        shard: 0,
    }
}

const fn belongs(process: Key, pid: u32, image: u16) -> bool {
    process.tgid == pid && process.image == image
}

/// Whether an address is in one of the ranges, which are in order and do not overlap.
fn is_within(ranges: &[Range<u64>], address: u64) -> bool {
    let after = ranges.partition_point(|range| range.start <= address);
    after > 0 && ranges[after - 1].contains(&address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_within_an_arena_from_its_first_byte_to_its_last() {
        let arenas = [0x1000..0x2000, 0x2000..0x4000, 0xa000..0xb000];
        for (address, is_within_one) in [
            (0xfff, false),
            (0x1000, true),
            (0x3fff, true),
            (0x4000, false),
            (0xafff, true),
            (0xb000, false),
        ] {
            assert_eq!(is_within(&arenas, address), is_within_one, "{address:#x}");
        }
        assert!(!is_within(&[], 7));
    }

    #[test]
    fn looks_take_a_bounded_share_of_the_time() {
        let mut pools = PoolEnds::default();
        assert!(pools.is_due(1));
        pools.looked(1, 2);
        assert!(!pools.is_due(BETWEEN_NS) && pools.is_due(BETWEEN_NS + 2));
        pools.looked(0, BETWEEN_NS);
        assert!(!pools.is_due(SHARE * BETWEEN_NS) && pools.is_due((SHARE + 1) * BETWEEN_NS));
    }
}
