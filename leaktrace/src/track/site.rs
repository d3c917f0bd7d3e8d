//! What is kept of one site, and the table of all sites.
//!
//! Blocks pass through and are not kept, except, if asked for, the oldest few of each site.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use leaktrace_common::call::Space;
use leaktrace_common::key::SiteKey;
use leaktrace_common::math::BLOCKS_FRACTION_BITS;
use leaktrace_common::record::{Estimate, Site};

use super::ages::Ages;
use super::estimate::{Outstanding, Rounding, Swept};
use super::hash::BuildKeyHasher;
use super::history::{Cohorts, Held as Cohort, History, Level};
use super::lifetimes::{Lifetimes, add_lifetimes};
use super::sums::{Sums, consistent, space_of};
use super::timeline::Reading;
use super::{LiveBlock, MappingLevel, Settings};
use crate::report::model::Held;

/// Blocks kept for display in all sites together: 32 MiB. Beyond it each site keeps fewer.
const KEPT_MAX: usize = 1 << 20;

/// Nanoseconds in a millisecond.
const MS: u64 = 1_000_000;

/// A block kept for display. The order is that of age: the oldest is the smallest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kept {
    pub(super) time_ns: u64,
    pub(super) address: u64,
    pub(super) size_bytes: u64,
    /// A [`leaktrace_common::math::Weight`]: of no meaning for the order.
    pub(super) weight: u32,
}

/// The blocks of a site that pass the filters.
#[derive(Clone, Debug, Default)]
pub(super) struct Survivors {
    /// What the sweep has found so far; with a filter by age only.
    swept: Swept,
    /// What it comes to, once it is settled.
    pub(super) held: Outstanding,
    /// Of that, what may be gone.
    pub(super) unsure: Held,
    pub(super) ages: Ages,
    /// All that lives, by when it was handed out: whatever the filters.
    pub(super) cohorts: Cohorts,
    /// The youngest of them on top.
    pub(super) oldest: BinaryHeap<Kept>,
}

/// A site.
#[derive(Clone, Debug)]
pub(super) struct SiteState {
    /// As last read: what the next reading has to continue.
    totals: Site,
    /// The same without contradictions.
    pub(super) sums: Sums,
    /// Outstanding bytes at the snapshot before.
    pub(super) previous_live_bytes: u64,
    /// How it has gone.
    pub(super) history: History,
    pub(super) survivors: Survivors,
}

impl Default for SiteState {
    fn default() -> Self {
        Self {
            totals: Site::EMPTY,
            sums: Sums::default(),
            previous_live_bytes: 0,
            history: History::default(),
            survivors: Survivors::default(),
        }
    }
}

impl SiteState {
    /// Lifetimes of the freed blocks by log2 of nanoseconds.
    pub(super) const fn lifetimes(&self) -> &Lifetimes {
        &self.totals.lifetimes
    }

    /// Adds another site, of whose blocks none is kept.
    pub(super) fn gather(&mut self, other: &Self) {
        add_lifetimes(&mut self.totals.lifetimes, other.lifetimes());
        self.sums.add(&other.sums);
        self.previous_live_bytes = self.previous_live_bytes.saturating_add(other.previous_live_bytes);
        let (survivors, of_other) = (&mut self.survivors, &other.survivors);
        survivors.held.add(&of_other.held);
        survivors.ages.merge(&of_other.ages);
        let unsure = &mut survivors.unsure;
        unsure.live_bytes = unsure.live_bytes.saturating_add(of_other.unsure.live_bytes);
        unsure.live_blocks = unsure.live_blocks.saturating_add(of_other.unsure.live_blocks);
    }

    /// Takes new totals over; returns whether they contradict themselves or those before.
    fn update(&mut self, new: &Site, sampling: bool, round: Rounding) -> bool {
        let old = self.totals;
        self.totals = Site {
            allocs: new.allocs.max(old.allocs),
            alloc_bytes: new.alloc_bytes.max(old.alloc_bytes),
            frees: new.frees.max(old.frees),
            freed_bytes: new.freed_bytes.max(old.freed_bytes),
            allocated: larger(&new.allocated, &old.allocated),
            freed: larger(&new.freed, &old.freed),
            lifetimes: new.lifetimes,
        };
        let taken = consistent(&self.totals, sampling);
        self.sums = Sums::of(&taken, sampling, round);
        taken != *new
    }

    /// Decides what survived once totals and blocks are in; returns whether they contradict each other.
    ///
    /// Without a filter by age everything outstanding is a survivor, and the totals, which add up to
    /// the block, say how much that is; the sweep, which takes time while the target runs, says only
    /// how old it is. With one, the sweep decides.
    pub(super) fn settle(&mut self, settings: &Settings, round: Rounding) -> bool {
        let (held, cut) = if settings.older_than_ns == 0 {
            (self.sums.live, false)
        } else {
            self.survivors.swept.within(&self.sums.live, round)
        };
        self.survivors.held = held;
        let unsure = &mut self.survivors.unsure;
        unsure.live_bytes = unsure.live_bytes.min(held.bytes);
        unsure.live_blocks = unsure.live_blocks.min(held.blocks);
        cut
    }
}

/// Field by field.
fn larger(new: &Estimate, old: &Estimate) -> Estimate {
    Estimate {
        blocks: new.blocks.max(old.blocks),
        bytes: new.bytes.max(old.bytes),
        variance_of_bytes: new.variance_of_bytes.max(old.variance_of_bytes),
        variance_of_blocks: new.variance_of_blocks.max(old.variance_of_blocks),
    }
}

/// Whether it is memory that a process has mapped by itself: its blocks are stretches of addresses, and what is there of
/// them comes and goes.
pub(super) fn is_mapping(key: &SiteKey) -> bool {
    space_of(key.process.space) == Space::Mapping
}

/// Has the difference of two counts that only grow become `now`.
const fn raise(come: &mut u64, gone: &mut u64, now: u64) {
    let before = *come - *gone;
    *come += now.saturating_sub(before);
    *gone += before.saturating_sub(now);
}

/// All sites that are not frozen.
#[derive(Clone, Debug, Default)]
pub(super) struct Sites {
    pub(super) map: HashMap<SiteKey, SiteState, BuildKeyHasher>,
    /// Blocks in all [`Survivors::oldest`].
    kept: usize,
    /// How many of them a site may have now.
    limit: usize,
    /// Whether blocks are samples.
    sampling: bool,
    /// Contradictions met.
    pub(super) torn: u64,
}

impl Sites {
    /// None yet.
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            sampling: settings.largest_mean_bytes.is_some(),
            ..Self::default()
        }
    }

    /// Forgets the survivors, not the totals.
    pub(super) fn begin(&mut self, settings: &Settings) {
        for site in self.map.values_mut() {
            let survivors = &mut site.survivors;
            survivors.swept = Swept::default();
            survivors.held = Outstanding::default();
            survivors.unsure = Held::default();
            survivors.ages.clear();
            survivors.cohorts.clear();
            survivors.oldest = BinaryHeap::new();
        }
        self.kept = 0;
        self.limit = settings.blocks_per_site.unwrap_or(0);
    }

    /// What has come is handed out, what has gone is taken back; so is what was replaced meanwhile.
    pub(super) fn set_level(&mut self, key: SiteKey, level: &MappingLevel) {
        let before = self.map.get(&key).map(|site| site.totals);
        // Of a process that has ended it is kept elsewhere, as it was then.
        if before.is_none() && *level == MappingLevel::default() {
            return;
        }
        let mut totals = before.unwrap_or(Site::EMPTY);
        raise(&mut totals.alloc_bytes, &mut totals.freed_bytes, level.live_bytes);
        raise(&mut totals.allocs, &mut totals.frees, level.live_blocks);
        let replaced = level.allocs.saturating_sub(totals.allocs);
        let replaced_bytes = replaced * (level.live_bytes / level.live_blocks.max(1));
        totals.allocs += replaced;
        totals.frees += replaced;
        totals.alloc_bytes += replaced_bytes;
        totals.freed_bytes += replaced_bytes;
        // Of these every one is recorded.
        let all = |blocks: u64, bytes: u64| Estimate {
            blocks: blocks << BLOCKS_FRACTION_BITS,
            bytes,
            ..Estimate::ZERO
        };
        totals.allocated = all(totals.allocs, totals.alloc_bytes);
        totals.freed = all(totals.frees, totals.freed_bytes);
        self.add_totals(key, &totals);
    }

    pub(super) fn add_totals(&mut self, key: SiteKey, totals: &Site) {
        let round = Rounding::of(key.stack_id);
        let torn = self
            .map
            .entry(key)
            .or_default()
            .update(totals, self.sampling, round);
        self.torn += u64::from(torn);
    }

    /// Notes what all sites are at a reading, the last of these.
    pub(super) fn note(&mut self, readings: &[Reading]) {
        let Some(now) = readings.last() else { return };
        for site in self.map.values_mut() {
            site.history.push(now.at_ns, Level::of(&site.sums), readings);
        }
    }

    /// Points in the histories of all sites.
    pub(super) fn points(&self) -> usize {
        self.map.values().map(|site| site.history.len()).sum()
    }

    /// Throws away all points that no reading refers to.
    pub(super) fn compact(&mut self, readings: &[Reading]) {
        for site in self.map.values_mut() {
            site.history.compact(readings);
        }
    }

    /// Adds a block of the live table, which was handed out before the reading at this time and after that before it.
    pub(super) fn add_block(&mut self, now_ns: u64, older_than_ns: u64, reading_ns: u64, block: &LiveBlock) {
        // A block younger than the interval's beginning is of age 0: the target runs during the sweep.
        let age_ns = now_ns.saturating_sub(block.time_ns);
        let survivors = &mut self.map.entry(block.site_key()).or_default().survivors;
        survivors
            .cohorts
            .add(reading_ns, &Cohort::of(block.size_bytes, block.weight));
        if age_ns < older_than_ns {
            return;
        }
        // Without a filter by age the totals say how much it is.
        if older_than_ns > 0 {
            survivors.swept.add(block.size_bytes, block.weight);
        }
        survivors
            .ages
            .record(age_ns / MS, block.weight.whole_blocks() as u32);
        if block.unsure {
            survivors.unsure.live_bytes = survivors.unsure.live_bytes.saturating_add(block.size_bytes);
            survivors.unsure.live_blocks += 1;
        }
        if self.limit == 0 {
            return;
        }
        let kept = Kept {
            time_ns: block.time_ns,
            address: block.address,
            size_bytes: block.size_bytes,
            weight: block.weight.0,
        };
        if survivors.oldest.len() < self.limit {
            survivors.oldest.push(kept);
            self.kept += 1;
            if self.kept > KEPT_MAX {
                self.halve_limit();
            }
        } else if let Some(mut youngest) = survivors.oldest.peek_mut()
            && kept.cmp(&youngest) == Ordering::Less
        {
            *youngest = kept;
        }
    }

    /// The oldest n/2 of a site are among its oldest n: what is dropped would not have been shown.
    fn halve_limit(&mut self) {
        self.limit = (self.limit / 2).max(1);
        self.kept = 0;
        for site in self.map.values_mut() {
            let oldest = &mut site.survivors.oldest;
            while oldest.len() > self.limit {
                oldest.pop();
            }
            oldest.shrink_to_fit();
            self.kept += oldest.len();
        }
    }

    /// Ends the adding: see [`SiteState::settle`].
    pub(super) fn settle(&mut self, settings: &Settings) {
        for (key, site) in &mut self.map {
            self.torn += u64::from(site.settle(settings, Rounding::of(key.stack_id)));
        }
    }

    /// Bytes of memory taken, the blocks kept for display included.
    pub(super) fn memory_bytes(&self) -> usize {
        let entry = size_of::<(SiteKey, SiteState)>() + 1;
        self.map.capacity() * entry + self.map.values().map(SiteState::heap_bytes).sum::<usize>()
    }
}

impl SiteState {
    pub(super) fn heap_bytes(&self) -> usize {
        self.history.heap_bytes()
            + self.survivors.cohorts.heap_bytes()
            + self.survivors.ages.heap_bytes()
            + self.survivors.oldest.capacity() * size_of::<Kept>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use leaktrace_common::key::Process;
    use leaktrace_common::math::Weight;
    use proptest::prelude::*;

    fn totals(allocs: u64, alloc_bytes: u64, frees: u64, freed_bytes: u64) -> Site {
        Site {
            allocs,
            alloc_bytes,
            frees,
            freed_bytes,
            ..Site::EMPTY
        }
    }

    /// Totals that a sweep cannot exceed.
    const FULL: Outstanding = Outstanding {
        bytes: u64::MAX,
        blocks: u64::MAX,
        samples: u64::MAX,
        recorded_bytes: u64::MAX,
        variance_of_bytes: 0,
        variance_of_blocks: 0,
    };

    fn update(site: &mut SiteState, totals: &Site) -> bool {
        site.update(totals, false, Rounding::default())
    }

    #[test]
    fn consistent_totals_are_taken_as_they_are() {
        let mut site = SiteState::default();
        assert!(!update(&mut site, &totals(3, 30, 1, 10)));
        assert_eq!((site.sums.live_blocks(), site.sums.live_bytes()), (2, 20));
        // Blocks of no bytes are blocks.
        assert!(!update(&mut site, &totals(4, 30, 1, 30)));
        assert_eq!((site.sums.live_blocks(), site.sums.live_bytes()), (3, 0));
    }

    #[test]
    fn torn_totals_are_clamped_and_reported() {
        for torn in [totals(1, 10, 2, 20), totals(2, 10, 1, 20), totals(2, 20, 2, 10)] {
            let mut site = SiteState::default();
            assert!(update(&mut site, &torn), "{torn:?}");
            assert_eq!(site.sums.live_blocks(), torn.allocs.saturating_sub(torn.frees));
            assert_eq!(site.sums.live_bytes(), 0, "{torn:?}");
        }
        let mut site = SiteState::default();
        update(&mut site, &totals(5, 50, 2, 20));
        assert!(update(&mut site, &totals(4, 50, 2, 20)), "counters never shrink");
        assert_eq!(site.sums.allocs, 5);
    }

    #[test]
    fn a_sample_counted_before_what_it_stands_for_is_reported() {
        let mut site = SiteState::default();
        let torn = totals(1, 10, 0, 0);
        assert!(site.update(&torn, true, Rounding::default()));
        assert_eq!((site.sums.live_blocks(), site.sums.live_bytes()), (1, 10));
        let whole = Site {
            allocated: Estimate {
                blocks: 7 << 16,
                bytes: 70,
                ..Estimate::ZERO
            },
            ..torn
        };
        assert!(!site.update(&whole, true, Rounding::default()));
        assert_eq!((site.sums.live_blocks(), site.sums.live_bytes()), (7, 70));
        assert_eq!((site.sums.live.samples, site.sums.live.recorded_bytes), (1, 10));
    }

    #[test]
    fn a_torn_reading_leaves_no_trace_in_the_next() {
        let mut site = SiteState::default();
        // The second block's bytes are in, its count is not.
        assert!(update(&mut site, &totals(1, 30, 1, 10)));
        assert_eq!((site.sums.live_blocks(), site.sums.live_bytes()), (0, 0));
        assert!(!update(&mut site, &totals(2, 30, 1, 10)));
        assert_eq!((site.sums.live_blocks(), site.sums.live_bytes()), (1, 20));
    }

    fn block(stack_id: u64, time_ns: u64, address: u64) -> LiveBlock {
        LiveBlock {
            process: Process {
                tgid: 1,
                image: 0,
                space: 0,
                device: 0,
            },
            stack_id,
            call: 0,
            address,
            size_bytes: 1,
            time_ns,
            weight: Weight::ONE,
            unsure: false,
        }
    }

    #[test]
    fn blocks_kept_in_all_stay_below_the_bound() {
        let settings = Settings {
            blocks_per_site: Some(1000),
            ..Settings::default()
        };
        let mut sites = Sites::default();
        sites.begin(&settings);
        for index in 0..2_000_000u64 {
            sites.add_block(10_000_000, 1, 0, &block(index % 2000, 2_000_000 - index, index));
        }
        assert_eq!(sites.limit, 500);
        assert!(sites.kept <= KEPT_MAX);
        let site = &sites.map[&block(7, 0, 0).site_key()];
        let (swept, _) = site.survivors.swept.within(&FULL, Rounding::default());
        assert_eq!((swept.blocks, site.survivors.oldest.len()), (1000, 500));
        let youngest = site.survivors.oldest.peek().unwrap();
        assert_eq!(youngest.address, 7 + 500 * 2000);
    }

    proptest! {
        #[test]
        fn the_oldest_blocks_are_kept(times in prop::collection::vec(0u64..50, 0..200), limit in 0usize..20) {
            let settings = Settings { blocks_per_site: Some(limit), ..Settings::default() };
            let mut sites = Sites::default();
            sites.begin(&settings);
            for (address, time_ns) in times.iter().enumerate() {
                sites.add_block(100, 0, 0, &block(1, *time_ns, address as u64));
            }
            let mut expected: Vec<_> = times.iter().enumerate().map(|(address, time)| (*time, address as u64)).collect();
            expected.sort_unstable();
            expected.truncate(limit);
            let oldest = sites.map.values_mut().next().map(|site| std::mem::take(&mut site.survivors.oldest));
            let kept = oldest.unwrap_or_default().into_sorted_vec();
            let kept: Vec<_> = kept.iter().map(|kept| (kept.time_ns, kept.address)).collect();
            prop_assert_eq!(kept, expected);
        }

        #[test]
        fn whatever_is_read_adds_up(reads in prop::collection::vec((0u64..9, 0u64..90, 0u64..9, 0u64..90), 1..20)) {
            let mut site = SiteState::default();
            for (allocs, alloc_bytes, frees, freed_bytes) in reads {
                let before = site.sums;
                update(&mut site, &totals(allocs, alloc_bytes, frees, freed_bytes));
                let now = site.sums;
                prop_assert!(now.frees <= now.allocs && now.freed_bytes <= now.alloc_bytes);
                prop_assert!(site.sums.live_blocks() > 0 || site.sums.live_bytes() == 0);
                prop_assert!(now.allocs >= before.allocs && now.frees >= before.frees);
            }
        }

        #[test]
        fn whatever_is_read_of_samples_adds_up(
            reads in prop::collection::vec((0u64..9, 0u64..90, 0u64..9, 0u64..90, estimate(), estimate()), 1..20),
            stack_id in any::<u64>(),
        ) {
            let mut site = SiteState::default();
            for (allocs, alloc_bytes, frees, freed_bytes, allocated, freed) in reads {
                let new = Site { allocated, freed, ..totals(allocs, alloc_bytes, frees, freed_bytes) };
                let before = site.sums;
                site.update(&new, true, Rounding::of(stack_id));
                let now = site.sums;
                prop_assert_eq!(now.allocs - now.frees, now.live_blocks());
                prop_assert_eq!(now.alloc_bytes - now.freed_bytes, now.live_bytes());
                prop_assert!(now.live.samples <= now.live_blocks() && now.live.recorded_bytes <= now.live_bytes());
                prop_assert!(now.live.samples > 0 || now.live_blocks() == 0 && now.live_bytes() == 0);
                prop_assert!(now.allocs >= before.allocs && now.alloc_bytes >= before.alloc_bytes);
            }
        }
    }

    fn estimate() -> impl Strategy<Value = Estimate> {
        (0u64..900_000, 0u64..2000, 0u64..50, 0u64..50).prop_map(
            |(blocks, bytes, variance_of_bytes, variance_of_blocks)| Estimate {
                blocks,
                bytes,
                variance_of_bytes,
                variance_of_blocks,
            },
        )
    }
}
