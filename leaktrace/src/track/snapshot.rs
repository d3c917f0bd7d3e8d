//! What a snapshot holds, and how it is made of the sites: merged, sorted, cut.
//!
//! Must not know where the sites come from.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use leaktrace_common::call::Space;
use leaktrace_common::key::Process;
use leaktrace_common::math::Weight;
use leaktrace_common::record::LIFETIME_BUCKETS;

use super::ages::Ages;
use super::estimate::{Outstanding, Unseen};
use super::site::{Kept, SiteState};
use super::sums::{Spaces, Sums};
use super::{Image, Settings, SiteRef, Sort};
use crate::report::model::{Age, Omitted, Sampled, State, Totals};

/// Lifetimes of freed blocks: bucket `k` counts those of at least 2^k ns, less than twice that.
pub type Lifetimes = [u64; LIFETIME_BUCKETS];

/// The state of all sites at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// When its reading began, nanoseconds of `CLOCK_BOOTTIME`.
    pub now_ns: u64,
    /// Nanoseconds that rates and growth refer to.
    pub interval_ns: u64,
    /// Sums over all sites, those not shown and those of ended images included; `rss_bytes` is left empty.
    pub totals: Totals,
    /// Lifetimes of all blocks freed so far.
    pub lifetimes: Lifetimes,
    /// What each image holds, by pid, image, order of their ends.
    pub images: Vec<ImageTotals>,
    /// The sites with survivors, first the one that matters most.
    pub sites: Vec<SiteSnapshot>,
    /// What the filters and the length of the list left out.
    pub omitted: Omitted,
    /// Readings so far that contradicted themselves and were clamped.
    pub torn: u64,
}

/// What one process image holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageTotals {
    /// The image.
    pub image: Image,
    /// Whether it still runs.
    pub state: State,
    /// Outstanding bytes, whatever the filters.
    pub live_bytes: u64,
    /// Outstanding blocks.
    pub live_blocks: u64,
}

/// A site with survivors, or several that were found to be one.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteSnapshot {
    /// The site; of several, the one with the smallest stack id.
    pub site: SiteRef,
    /// How many sites it was.
    pub merged: usize,
    /// Whether its image still runs.
    pub state: State,
    /// Outstanding bytes that pass the filters.
    pub bytes: u64,
    /// Outstanding blocks that pass the filters.
    pub blocks: u64,
    /// How far to trust the two, where blocks are samples.
    pub sampled: Option<Sampled>,
    /// Growth of all its outstanding bytes per second, over the interval.
    pub bytes_per_s: f64,
    /// Blocks handed out.
    pub allocs: u64,
    /// Of those, blocks taken back.
    pub frees: u64,
    /// Ages of the survivors; zeros if no blocks were added.
    pub age_ms: Age,
    /// Lifetimes of its freed blocks.
    pub lifetimes: Lifetimes,
    /// Its oldest survivors, oldest first, if blocks were asked for.
    pub oldest: Option<Vec<BlockAge>>,
}

/// A survivor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockAge {
    /// Its address.
    pub address: u64,
    /// Bytes asked for.
    pub size_bytes: u64,
    /// How many blocks it stands for.
    pub weight: Weight,
    /// Age in milliseconds: at the snapshot, or when its image ended.
    pub age_ms: u64,
}

/// What the next snapshot has to know of this one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before {
    pub(super) now_ns: u64,
    pub(super) totals: Totals,
}

impl Before {
    pub(super) fn new(start_ns: u64) -> Self {
        Self {
            now_ns: start_ns,
            totals: Totals::default(),
        }
    }
}

/// Sites of which only sums are kept.
#[derive(Clone, Debug)]
pub(super) struct Rest {
    pub(super) sums: Spaces,
    pub(super) lifetimes: Lifetimes,
    /// How many of them have outstanding blocks.
    pub(super) live_sites: u64,
}

impl Default for Rest {
    fn default() -> Self {
        Self {
            sums: Spaces::default(),
            lifetimes: [0; LIFETIME_BUCKETS],
            live_sites: 0,
        }
    }
}

pub(super) fn add_lifetimes(sum: &mut Lifetimes, site: &[u64; LIFETIME_BUCKETS]) {
    for (sum, count) in sum.iter_mut().zip(site) {
        *sum += *count;
    }
}

/// A site, running or frozen, on its way into the snapshot.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) site: SiteRef,
    pub(super) state: State,
    /// What the ages of its blocks refer to, nanoseconds of `CLOCK_BOOTTIME`.
    pub(super) aged_at_ns: u64,
    pub(super) data: &'a SiteState,
}

/// Sites that are one site.
struct Group<'a> {
    first: Entry<'a>,
    members: Vec<Entry<'a>>,
    held: Outstanding,
    growth: i128,
    oldest_ms: u64,
}

impl<'a> Group<'a> {
    fn new(first: Entry<'a>) -> Self {
        Self {
            first,
            members: Vec::new(),
            held: Outstanding::default(),
            growth: 0,
            oldest_ms: 0,
        }
    }

    fn add(&mut self, entry: Entry<'a>) {
        // Whatever order the sites come in, the same one stands for all.
        if entry.site.key < self.first.site.key {
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
    fn compare(&self, other: &Self, sort: Sort) -> Ordering {
        let by = match sort {
            Sort::Bytes => Ordering::Equal,
            Sort::Blocks => other.held.blocks.cmp(&self.held.blocks),
            Sort::Growth => other.growth.cmp(&self.growth),
            Sort::Age => other.oldest_ms.cmp(&self.oldest_ms),
        };
        let place = |group: &Self| (group.first.site.image, group.first.site.key);
        by.then(other.held.bytes.cmp(&self.held.bytes))
            .then(other.held.blocks.cmp(&self.held.blocks))
            .then_with(|| place(self).cmp(&place(other)))
    }

    fn into_snapshot(self, settings: &Settings, interval_ns: u64) -> SiteSnapshot {
        let mut sums = Sums::default();
        let mut lifetimes = [0; LIFETIME_BUCKETS];
        let mut ages = Ages::default();
        for member in &self.members {
            sums.add(&member.data.sums);
            add_lifetimes(&mut lifetimes, member.data.lifetimes());
            ages.merge(&member.data.survivors.ages);
        }
        SiteSnapshot {
            site: self.first.site,
            merged: self.members.len(),
            state: self.first.state,
            bytes: self.held.bytes,
            blocks: self.held.blocks,
            sampled: settings
                .estimates_from()
                .map(|mean_bytes| self.held.sampled(mean_bytes, Unseen::LikeSeen)),
            bytes_per_s: per_second(self.growth as f64, interval_ns),
            allocs: sums.allocs,
            frees: sums.frees,
            age_ms: ages.summary(),
            lifetimes,
            oldest: settings
                .blocks_per_site
                .map(|max| oldest_blocks(&self.members, max)),
        }
    }
}

fn oldest_blocks(members: &[Entry<'_>], max: usize) -> Vec<BlockAge> {
    // All members are of one image, so that the order of their times is that of their ages.
    let aged_at_ns = members.first().map_or(0, |member| member.aged_at_ns);
    let mut kept: Vec<Kept> = members
        .iter()
        .flat_map(|member| member.data.survivors.oldest.iter().copied())
        .collect();
    kept.sort_unstable();
    kept.truncate(max);
    kept.iter()
        .map(|kept| BlockAge {
            address: kept.address,
            size_bytes: kept.size_bytes,
            weight: Weight(kept.weight),
            age_ms: aged_at_ns.saturating_sub(kept.time_ns) / 1_000_000,
        })
        .collect()
}

/// Zero when no time has passed.
fn per_second(change: f64, interval_ns: u64) -> f64 {
    if interval_ns == 0 {
        return 0.0;
    }
    change * 1e9 / interval_ns as f64
}

/// What merging and cutting leaves of the sites.
pub(super) struct Listed {
    pub(super) sites: Vec<SiteSnapshot>,
    pub(super) totals: Totals,
    pub(super) lifetimes: Lifetimes,
    pub(super) omitted: Omitted,
}

/// Merges, sorts and cuts. Work on what is not shown is little: one question and a few sums a site.
pub(super) fn list<'a, K: Hash + Eq>(
    settings: &Settings,
    interval_ns: u64,
    entries: impl Iterator<Item = Entry<'a>>,
    rest: &Rest,
    mut equivalence: impl FnMut(&SiteRef) -> K,
) -> Listed {
    let mut sums = rest.sums;
    let mut lifetimes = rest.lifetimes;
    let mut live_sites = rest.live_sites;
    let mut index_of: HashMap<(Image, Process, u32, K), usize> = HashMap::new();
    let mut groups: Vec<Group<'a>> = Vec::new();
    for entry in entries {
        let site = entry.data;
        sums.add(entry.site.key.process.space, &site.sums);
        add_lifetimes(&mut lifetimes, site.lifetimes());
        if site.survivors.held.blocks == 0 {
            live_sites += u64::from(site.sums.live_blocks() > 0);
            continue;
        }
        let SiteRef { image, key } = entry.site;
        let same = (image, key.process, key.call, equivalence(&entry.site));
        let index = *index_of.entry(same).or_insert_with(|| {
            groups.push(Group::new(entry));
            groups.len() - 1
        });
        groups[index].add(entry);
    }
    live_sites += groups.len() as u64;
    groups.sort_unstable_by(|a, b| a.compare(b, settings.sort));
    groups.truncate(settings.top);
    let sites: Vec<_> = groups
        .into_iter()
        .map(|group| group.into_snapshot(settings, interval_ns))
        .collect();
    let all = sums.all();
    let shown = |of: fn(&SiteSnapshot) -> u64| sites.iter().map(of).fold(0, u64::saturating_add);
    Listed {
        omitted: Omitted {
            sites: live_sites - sites.len() as u64,
            blocks: all.live_blocks().saturating_sub(shown(|site| site.blocks)),
            bytes: all.live_bytes().saturating_sub(shown(|site| site.bytes)),
        },
        sites,
        totals: totals_of(&sums, settings),
        lifetimes,
    }
}

fn totals_of(spaces: &Spaces, settings: &Settings) -> Totals {
    let sums = spaces.of_host();
    Totals {
        by_space: spaces.held(),
        live_bytes: sums.live_bytes(),
        live_blocks: sums.live_blocks(),
        sampled: settings
            .estimates_from()
            .map(|mean_bytes| sums.live.sampled(mean_bytes, Unseen::Any)),
        alloc_bytes: sums.alloc_bytes,
        allocs: sums.allocs,
        frees: sums.frees,
        freed_bytes: sums.freed_bytes,
        ..Totals::default()
    }
}

/// Sets the rates against the snapshot before.
pub(super) fn set_rates(totals: &mut Totals, before: &Totals, interval_ns: u64) {
    let rate = |now: u64, then: u64| per_second((i128::from(now) - i128::from(then)) as f64, interval_ns);
    totals.alloc_bytes_per_s = rate(totals.alloc_bytes, before.alloc_bytes);
    totals.allocs_per_s = rate(totals.allocs, before.allocs);
    totals.live_bytes_per_s = rate(totals.live_bytes, before.live_bytes);
}

/// Whether the blocks of a site are of the sum of the host's memory.
pub(super) fn is_of_sum(process: Process) -> bool {
    Space::of(process.space).is_none_or(Space::is_of_sum)
}

/// The sums of each running image, and the images that have ended.
pub(super) fn images<'a>(
    running: impl Iterator<Item = Entry<'a>>,
    ended: impl Iterator<Item = ImageTotals>,
) -> Vec<ImageTotals> {
    let mut all: BTreeMap<Image, ImageTotals> = ended.map(|totals| (totals.image, totals)).collect();
    for entry in running {
        let image = entry.site.image;
        let totals = all.entry(image).or_insert(ImageTotals {
            image,
            state: entry.state,
            live_bytes: 0,
            live_blocks: 0,
        });
        if !is_of_sum(entry.site.key.process) {
            continue;
        }
        totals.live_bytes = totals.live_bytes.saturating_add(entry.data.sums.live_bytes());
        totals.live_blocks = totals.live_blocks.saturating_add(entry.data.sums.live_blocks());
    }
    all.into_values().collect()
}
