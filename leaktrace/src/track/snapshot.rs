//! What a snapshot holds, and how it is made of the sites: merged, sorted, cut.
//!
//! Must not know where the sites come from.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use leaktrace_common::call::Space;
use leaktrace_common::key::{Process, SiteKey};
use leaktrace_common::math::Weight;
use leaktrace_common::record::LIFETIME_BUCKETS;

use super::ages::Ages;
use super::estimate::{Outstanding, Unseen};
use super::frozen::FrozenId;
use super::gpu::{ImagePlace, PlaceTotals, Places, PlacesBefore};
use super::past::Past;
use super::site::{Kept, SiteState};
use super::sums::{Spaces, Sums, space_of};
use super::{Image, Scope, Settings, SiteRef, Sort};
use crate::report::gpu::Table;
use crate::report::model::{Age, Held, Omitted, OmittedSpace, Sampled, State, Totals};
use crate::report::verdict::Verdict;
use crate::verdict;

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
    /// What each image holds, by pid, image, order of their ends. Those that have ended and hold nothing are left out.
    pub images: Vec<ImageTotals>,
    /// What those hold that are not kept one by one any more.
    pub forgotten: Held,
    /// Memory of GPUs by kind and device, ended images included.
    pub places: Vec<PlaceTotals>,
    /// The same of each image: the running ones, then those that have ended.
    pub image_places: Vec<ImagePlace>,
    /// The sites with survivors: those of GPU memory, of tensors, of the host's memory; in each table first the one that
    /// matters most.
    pub sites: Vec<SiteSnapshot>,
    /// What the filters and the length of the list left out.
    pub omitted: Omitted,
    /// What of that passes the filters, by kind of memory, as far as it is known: of images that are not kept one by one, only
    /// where no age was asked for.
    pub unlisted: Vec<OmittedSpace>,
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
    /// The end of its process; none while that runs. Images of one pid and one end are of one process.
    pub life: Option<FrozenId>,
    /// Outstanding bytes, whatever the filters.
    pub live_bytes: u64,
    /// Outstanding blocks.
    pub live_blocks: u64,
}

/// A site with survivors, or several that were found to be one.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteSnapshot {
    /// The site; of several, that of the process that holds most of it, and there the one with the smallest stack id.
    pub site: SiteRef,
    /// How many sites it was.
    pub merged: usize,
    /// How many processes they are of.
    pub processes: usize,
    /// Those of them that hold most, the first first: at most [`PIDS_MAX`]. Of those that are not kept one by one, one.
    pub pids: Vec<u32>,
    /// Whether its image still runs; of several, whether one does.
    pub state: State,
    /// Outstanding bytes that pass the filters.
    pub bytes: u64,
    /// Outstanding blocks that pass the filters.
    pub blocks: u64,
    /// Of those, what may be gone: a context has ended that may have been theirs.
    pub unsure: Held,
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
    /// What it is taken for; none where its history is not kept.
    pub verdict: Option<Verdict>,
    /// Its oldest survivors, oldest first, if blocks were asked for.
    pub oldest: Option<Vec<BlockAge>>,
}

/// Sites that are judged before the list is cut: those that rise most. The others lose less.
const JUDGED_MAX: usize = 200;

/// Processes named with a site.
pub const PIDS_MAX: usize = 10;

/// A survivor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockAge {
    /// Whose it is.
    pub tgid: u32,
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
#[derive(Clone, Debug)]
pub(super) struct Before {
    pub(super) now_ns: u64,
    pub(super) totals: Totals,
    pub(super) places: PlacesBefore,
}

impl Before {
    pub(super) fn new(start_ns: u64) -> Self {
        Self {
            now_ns: start_ns,
            totals: Totals::default(),
            places: PlacesBefore::default(),
        }
    }
}

/// Sites of which only sums are kept.
#[derive(Clone, Debug)]
pub(super) struct Rest {
    pub(super) sums: Spaces,
    pub(super) lifetimes: Lifetimes,
    /// How many of them have outstanding blocks.
    pub(super) live_sites: SitesBySpace,
    /// Memory of GPUs of images that are not kept.
    pub(super) places: Places,
    /// What images hold that are not kept although they hold something.
    pub(super) forgotten: Held,
}

impl Default for Rest {
    fn default() -> Self {
        Self {
            sums: Spaces::default(),
            lifetimes: [0; LIFETIME_BUCKETS],
            live_sites: SitesBySpace::default(),
            places: Places::default(),
            forgotten: Held::default(),
        }
    }
}

/// A number of sites for each kind of memory.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SitesBySpace([u64; Space::ALL.len()]);

impl SitesBySpace {
    /// Adds sites whose space goes by this number.
    pub(super) fn add(&mut self, number: u8, sites: u64) {
        self.0[space_of(number) as usize] += sites;
    }

    fn sum(&self, counts: impl Fn(Space) -> bool) -> u64 {
        let spaces = Space::ALL.into_iter().filter(|space| counts(*space));
        spaces.map(|space| self.0[space as usize]).sum()
    }
}

pub(super) fn add_lifetimes(sum: &mut Lifetimes, site: &[u64; LIFETIME_BUCKETS]) {
    for (sum, count) in sum.iter_mut().zip(site) {
        *sum += *count;
    }
}

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
struct Group<'a> {
    first: Entry<'a>,
    members: Vec<Entry<'a>>,
    held: Outstanding,
    growth: i128,
    oldest_ms: u64,
    verdict: Option<Verdict>,
}

impl<'a> Group<'a> {
    fn new(first: Entry<'a>) -> Self {
        Self {
            first,
            members: Vec::new(),
            held: Outstanding::default(),
            growth: 0,
            oldest_ms: 0,
            verdict: None,
        }
    }

    fn loss(&self) -> u64 {
        self.verdict
            .as_ref()
            .map_or(0, |verdict| verdict.loss_bytes_per_h)
    }

    fn add(&mut self, entry: Entry<'a>) {
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
    fn compare(&self, other: &Self, sort: Sort) -> Ordering {
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

    fn space(&self) -> Space {
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

    fn into_snapshot(self, settings: &Settings, interval_ns: u64) -> SiteSnapshot {
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
            // Calls of a GPU are all recorded.
            sampled: settings
                .estimates_from()
                .filter(|_| !space.is_gpus())
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

/// Zero when no time has passed.
pub(super) fn per_second(change: f64, interval_ns: u64) -> f64 {
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
    pub(super) unlisted: Vec<OmittedSpace>,
}

/// Merges, sorts and cuts. Work on what is not shown is little: one question and a few sums a site.
pub(super) fn list<'a, K: Hash + Eq>(
    settings: &Settings,
    interval_ns: u64,
    past: &Past<'_>,
    entries: impl Iterator<Item = Entry<'a>>,
    rest: &Rest,
    mut group: impl FnMut(&SiteRef) -> (Scope, K),
) -> Listed {
    let mut sums = rest.sums;
    let mut lifetimes = rest.lifetimes;
    let mut live_sites = rest.live_sites;
    let mut index_of: HashMap<(Scope, u8, u8, u32, K), usize> = HashMap::new();
    let mut groups: Vec<Group<'a>> = Vec::new();
    for entry in entries {
        let site = entry.data;
        sums.add(entry.site.key.process.space, &site.sums);
        add_lifetimes(&mut lifetimes, site.lifetimes());
        if site.survivors.held.blocks == 0 {
            live_sites.add(
                entry.site.key.process.space,
                u64::from(site.sums.live_blocks() > 0),
            );
            continue;
        }
        let key = entry.site.key;
        let (scope, stack) = group(&entry.site);
        let same = (scope, key.process.space, key.process.device, key.call, stack);
        let index = *index_of.entry(same).or_insert_with(|| {
            live_sites.add(key.process.space, 1);
            groups.push(Group::new(entry));
            groups.len() - 1
        });
        groups[index].add(entry);
    }
    judge(&mut groups, past, JUDGED_MAX);
    let mut unlisted = Unlisted::of_rest(rest, settings);
    let mut listed = cut(groups, settings, &mut unlisted);
    judge(&mut listed, past, usize::MAX);
    let sites: Vec<_> = listed
        .into_iter()
        .map(|group| group.into_snapshot(settings, interval_ns))
        .collect();
    Listed {
        omitted: omitted(&sites, &sums, &live_sites),
        unlisted: unlisted.spaces(),
        sites,
        totals: totals_of(&sums, settings),
        lifetimes,
    }
}

/// Judges those that rise most, and of few all.
fn judge(groups: &mut [Group<'_>], past: &Past<'_>, max: usize) {
    let mut rising: Vec<(f64, usize)> = Vec::new();
    if groups.len() > max {
        let guesses = groups.iter().enumerate().map(|(index, group)| {
            let evidence = past.evidence(&group.members);
            (
                evidence.map_or(0.0, |evidence| verdict::guess_per_s(&evidence)),
                index,
            )
        });
        rising.extend(guesses.filter(|(guess, _)| *guess > 0.0));
        rising.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        rising.truncate(max);
    } else {
        rising.extend((0..groups.len()).map(|index| (0.0, index)));
    }
    for (_, index) in rising {
        let group = &mut groups[index];
        if group.verdict.is_none() {
            group.verdict = past
                .evidence(&group.members)
                .map(|evidence| verdict::judge(&evidence));
        }
    }
}

/// What passes the filters and is not in the list.
struct Unlisted([OmittedSpace; Space::ALL.len()]);

impl Unlisted {
    /// Of what only sums are kept of; the ages of its blocks are not known.
    fn of_rest(rest: &Rest, settings: &Settings) -> Self {
        Self(Space::ALL.map(|space| {
            let sums = rest.sums.of(space);
            let counts = settings.older_than_ns == 0;
            OmittedSpace {
                space: space.name(),
                sites: if counts {
                    rest.live_sites.sum(|of| of == space)
                } else {
                    0
                },
                blocks: if counts { sums.live_blocks() } else { 0 },
                bytes: if counts { sums.live_bytes() } else { 0 },
            }
        }))
    }

    fn add(&mut self, group: &Group<'_>) {
        let rest = &mut self.0[group.space() as usize];
        rest.sites += 1;
        rest.blocks = rest.blocks.saturating_add(group.held.blocks);
        rest.bytes = rest.bytes.saturating_add(group.held.bytes);
    }

    fn spaces(&self) -> Vec<OmittedSpace> {
        let some = self.0.iter().filter(|rest| rest.sites > 0 || rest.blocks > 0);
        some.copied().collect()
    }
}

/// Each table sorted, and as long as it may be.
fn cut<'a>(mut groups: Vec<Group<'a>>, settings: &Settings, unlisted: &mut Unlisted) -> Vec<Group<'a>> {
    let table = |group: &Group<'_>| Table::of(group.space());
    groups.sort_unstable_by(|a, b| table(a).cmp(&table(b)).then_with(|| a.compare(b, settings.sort)));
    let mut listed: Vec<Group<'a>> = Vec::new();
    for of_table in groups
        .chunk_by(|a, b| table(a) == table(b))
        .map(<[_]>::len)
        .collect::<Vec<_>>()
    {
        let mut of_table = groups.drain(..of_table);
        listed.extend(of_table.by_ref().take(settings.top));
        of_table.for_each(|group| unlisted.add(&group));
    }
    listed
}

/// What is not in the list: of the host's memory in one sum, of GPUs' by its kind.
fn omitted(listed: &[SiteSnapshot], sums: &Spaces, live_sites: &SitesBySpace) -> Omitted {
    let rest = |of: &Sums, live_sites: u64, is_of: &dyn Fn(Space) -> bool| {
        let mut rest = OmittedSpace {
            space: "",
            sites: live_sites,
            blocks: of.live_blocks(),
            bytes: of.live_bytes(),
        };
        let shown = listed
            .iter()
            .filter(|site| is_of(space_of(site.site.key.process.space)));
        for site in shown {
            rest.sites = rest.sites.saturating_sub(1);
            rest.blocks = rest.blocks.saturating_sub(site.blocks);
            rest.bytes = rest.bytes.saturating_sub(site.bytes);
        }
        rest
    };
    let is_hosts = |space: Space| !space.is_gpus();
    let host = rest(&sums.listed_of_host(), live_sites.sum(is_hosts), &is_hosts);
    let gpus = Space::ALL.into_iter().filter(|space| space.is_gpus());
    let gpu = gpus.map(|space| OmittedSpace {
        space: space.name(),
        ..rest(sums.of(space), live_sites.sum(|of| of == space), &|of| {
            of == space
        })
    });
    Omitted {
        sites: host.sites,
        blocks: host.blocks,
        bytes: host.bytes,
        gpu: gpu
            .filter(|rest| rest.sites > 0 || rest.blocks > 0 || rest.bytes > 0)
            .collect(),
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
            life: None,
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
