//! Sites that are one site: what they hold together, and how they compare.
//!
//! Must not know which of them are one, nor how long the list is.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;

use leaktrace_common::call::Space;
use leaktrace_common::key::SiteKey;
use leaktrace_common::math::Weight;
use leaktrace_common::record::LIFETIME_BUCKETS;

use super::ages::Ages;
use super::estimate::{Outstanding, Unseen};
use super::frozen::FrozenId;
use super::lifetimes::add_lifetimes;
use super::site::{Kept, SiteState};
use super::snapshot::{BlockAge, PIDS_MAX, SiteSnapshot, per_second};
use super::sums::{Sums, space_of};
use super::{Image, Settings, SiteRef, Sort};
use crate::report::gpu::Table;
use crate::report::model::{Held, State};
use crate::report::verdict::Verdict;

/// What an entry stands for that is the sum of several sites.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Gathering {
    /// What the process of the site itself holds.
    pub(super) own: Outstanding,
    /// How many sites.
    pub(super) sites: usize,
    /// How many processes beside that one.
    pub(super) others: usize,
}

/// A site, running or frozen, on its way into the snapshot.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) site: SiteRef,
    pub(super) state: State,
    /// The end of its process; none while that runs. With the pid, it tells processes apart.
    pub(super) life: Option<FrozenId>,
    /// What the ages of its blocks refer to, nanoseconds of `CLOCK_BOOTTIME`.
    pub(super) aged_at_ns: u64,
    pub(super) data: &'a SiteState,
    /// Of a sum.
    pub(super) gathering: Option<Gathering>,
}

impl Entry<'_> {
    /// What the process of the site holds.
    fn own(&self) -> &Outstanding {
        let own = self.gathering.as_ref().map(|gathering| &gathering.own);
        own.unwrap_or(&self.data.survivors.held)
    }

    /// An order that does not depend on what the maps were read in.
    const fn place(&self) -> (SiteKey, Image) {
        (self.site.key, self.site.image)
    }
}

/// What a process has of a site.
struct Holder<'a> {
    first: Entry<'a>,
    held: Outstanding,
}

/// Sites that are one site.
pub(super) struct Group<'a> {
    pub(super) first: Entry<'a>,
    pub(super) members: Vec<Entry<'a>>,
    pub(super) held: Outstanding,
    pub(super) growth: i128,
    pub(super) oldest_ms: u64,
    pub(super) verdict: Option<Verdict>,
}

impl<'a> Group<'a> {
    pub(super) fn new(first: Entry<'a>) -> Self {
        Self {
            first,
            members: Vec::new(),
            held: Outstanding::default(),
            growth: 0,
            oldest_ms: 0,
            verdict: None,
        }
    }

    pub(super) fn loss(&self) -> u64 {
        self.verdict
            .as_ref()
            .map_or(0, |verdict| verdict.loss_bytes_per_h)
    }

    pub(super) fn add(&mut self, entry: Entry<'a>) {
        // Whatever order the sites come in, the same one stands for all.
        if entry.place() < self.first.place() {
            self.first = entry;
        }
        let site = entry.data;
        self.held.add(&site.survivors.held);
        self.growth += i128::from(site.sums.live_bytes()) - i128::from(site.previous_live_bytes);
        self.oldest_ms = self.oldest_ms.max(site.survivors.ages.max_ms());
        self.members.push(entry);
    }

    /// The order of the list. Equal in what it is sorted by: more bytes, more blocks, then by number,
    /// so that a list does not depend on the order in which maps were read.
    pub(super) fn compare(&self, other: &Self, sort: Sort) -> Ordering {
        let by = match sort {
            Sort::Bytes => Ordering::Equal,
            Sort::Loss => other.loss().cmp(&self.loss()),
            Sort::Blocks => other.held.blocks.cmp(&self.held.blocks),
            Sort::Growth => other.growth.cmp(&self.growth),
            Sort::Age => other.oldest_ms.cmp(&self.oldest_ms),
        };
        let place = |group: &Self| (group.first.site.image, group.first.site.key);
        by.then(self.is_beside_device(sort).cmp(&other.is_beside_device(sort)))
            .then(other.held.bytes.cmp(&self.held.bytes))
            .then(other.held.blocks.cmp(&self.held.blocks))
            .then_with(|| place(self).cmp(&place(other)))
    }

    pub(super) fn space(&self) -> Space {
        space_of(self.first.site.key.process.space)
    }

    /// By bytes, what takes a device's memory comes before all else that is a GPU's.
    fn is_beside_device(&self, sort: Sort) -> bool {
        let space = self.space();
        matches!(sort, Sort::Bytes | Sort::Loss) && Table::of(space) == Table::Gpu && !is_on_device(space)
    }

    /// The processes that it is of, those that hold most first.
    fn holders(&self) -> Vec<Holder<'a>> {
        let mut holders: BTreeMap<(u32, Option<FrozenId>), Holder<'a>> = BTreeMap::new();
        for &member in &self.members {
            let holder = holders
                .entry((member.site.image.tgid, member.life))
                .or_insert_with(|| Holder {
                    first: member,
                    held: Outstanding::default(),
                });
            if member.place() < holder.first.place() {
                holder.first = member;
            }
            holder.held.add(member.own());
        }
        // Stable: of those that hold the same the smallest pid is the first.
        let mut holders: Vec<_> = holders.into_values().collect();
        holders.sort_by_key(|holder| Reverse((holder.held.bytes, holder.held.blocks)));
        holders
    }

    pub(super) fn into_snapshot(self, settings: &Settings, interval_ns: u64) -> SiteSnapshot {
        let space = self.space();
        let holders = self.holders();
        let first = holders.first().map_or(self.first, |holder| holder.first);
        let runs = self.members.iter().any(|member| member.state == State::Running);
        let pids = holders.iter().map(|holder| holder.first.site.image.tgid);
        let mut sums = Sums::default();
        let mut unsure = Held::default();
        let mut lifetimes = [0; LIFETIME_BUCKETS];
        let mut ages = Ages::default();
        let (mut merged, mut processes) = (self.members.len(), holders.len());
        for gathering in self.members.iter().filter_map(|member| member.gathering) {
            merged += gathering.sites - 1;
            processes += gathering.others;
        }
        for member in &self.members {
            sums.add(&member.data.sums);
            add_lifetimes(&mut lifetimes, member.data.lifetimes());
            ages.merge(&member.data.survivors.ages);
            let of_member = member.data.survivors.unsure;
            unsure.live_bytes = unsure.live_bytes.saturating_add(of_member.live_bytes);
            unsure.live_blocks += of_member.live_blocks;
        }
        SiteSnapshot {
            site: first.site,
            merged,
            processes,
            pids: pids.take(PIDS_MAX).collect(),
            state: if runs { State::Running } else { first.state },
            bytes: self.held.bytes,
            blocks: self.held.blocks,
            unsure,
            // Calls of a GPU are all recorded, and so are mappings.
            sampled: settings
                .estimates_from()
                .filter(|_| !space.is_gpus() && space != Space::Mapping)
                .map(|mean_bytes| self.held.sampled(mean_bytes, Unseen::LikeSeen)),
            bytes_per_s: per_second(self.growth as f64, interval_ns),
            allocs: sums.allocs,
            frees: sums.frees,
            age_ms: ages.summary(),
            lifetimes,
            verdict: self.verdict,
            oldest: settings
                .blocks_per_site
                .map(|max| oldest_blocks(&self.members, max)),
        }
    }
}

fn oldest_blocks(members: &[Entry<'_>], max: usize) -> Vec<BlockAge> {
    // Those of images that have ended are as old as they were then.
    let mut kept: Vec<(u64, u32, Kept)> = Vec::new();
    for member in members {
        let aged = |kept: &Kept| member.aged_at_ns.saturating_sub(kept.time_ns);
        let oldest = member.data.survivors.oldest.iter();
        kept.extend(oldest.map(|kept| (aged(kept), member.site.image.tgid, *kept)));
    }
    kept.sort_unstable_by_key(|&(age_ns, tgid, kept)| (Reverse(age_ns), kept, tgid));
    kept.truncate(max);
    kept.iter()
        .map(|(age_ns, tgid, kept)| BlockAge {
            tgid: *tgid,
            address: kept.address,
            size_bytes: kept.size_bytes,
            weight: Weight(kept.weight),
            age_ms: age_ns / 1_000_000,
        })
        .collect()
}

/// Whether it is, or may become, memory of a device.
const fn is_on_device(space: Space) -> bool {
    matches!(space, Space::Device | Space::Managed | Space::Array | Space::Vmm)
}
