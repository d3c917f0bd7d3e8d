//! Ends of Python's pools, which no probe sees: pools that are not in use any more are looked for once an interval,
//! taken out of the table of live blocks, and counted as freed beside the kernel side's totals.
//!
//! Must not know what a report shows.

use std::collections::{BTreeMap, HashMap};

use leaktrace_common::{
    call::Space,
    key::{LiveKey, SiteKey},
    math::BLOCKS_FRACTION_BITS,
    record::{LIFETIME_BUCKETS, LIFETIME_FIRST_BIT, Live, Site},
};

use crate::{
    kernel::maps::{LiveTable, TableError},
    python::{
        memory::Process,
        pools::{Pool, Pools},
    },
    traced::set::TracedSet,
};

/// Follows the pools of all processes.
#[derive(Debug, Default)]
pub(super) struct PoolEnds {
    /// By pid and image.
    processes: HashMap<(u32, u16), Pools>,
    /// What was found freed, by site.
    freed: HashMap<SiteKey, Site>,
}

impl PoolEnds {
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
            for pool in known.dead(&Process::new(pid), &all) {
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

    fn add(&mut self, key: &LiveKey, block: &Live, now_ns: u64) {
        let site = SiteKey {
            stack_id: block.stack_id,
            process: key.process,
            call: block.call.into(),
            shard: 0,
        };
        let freed = self.freed.entry(site).or_insert(Site::EMPTY);
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
        self.freed
            .retain(|key, _| (key.process.tgid, key.process.image) != (pid, image));
    }
}
