//! What the totals and the live blocks of each interval mean: sites, growth, ages, the top of the list.
//!
//! Pure. It must not read a clock (time comes in, nanoseconds of `CLOCK_BOOTTIME`), do I/O, or know the
//! kernel's maps, addresses of code or symbols.
//!
//! Each interval: [`Tracker::begin`], any number of [`Tracker::add_totals`], [`Tracker::note`], any number of
//! [`Tracker::add_block`], [`Tracker::finish`]. In between, totals alone may be added and noted, for histories. When a process image ends: [`Tracker::freeze`], in place of further intervals.

mod ages;
pub mod ends;
mod estimate;
mod frozen;
mod gathered;
mod gpu;
mod group;
mod hash;
mod history;
mod interval;
pub mod lifetimes;
mod list;
mod past;
mod site;
mod snapshot;
mod sums;
mod timeline;
pub mod types;

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use leaktrace_common::call::{CallId, Space};
use leaktrace_common::gpu::{GpuKey, GpuLive, gpu_flag};
use leaktrace_common::key::{LiveKey, Process, SiteKey};
use leaktrace_common::math::Weight;
use leaktrace_common::record::{Live, Site};

use crate::report::model::State;
use frozen::Frozen;
pub use frozen::{End, Freezing, FrozenId, IMAGES_MAX};
pub use gathered::Alike;
use gpu::Places;
pub use gpu::{ImagePlace, PlaceTotals};
use group::Entry;
pub use lifetimes::Lifetimes;
use past::Past;
use site::Sites;
use snapshot::Before;
pub use timeline::RunReading;
use timeline::{READINGS_MAX, Timeline};

pub use snapshot::{BlockAge, ImageTotals, PIDS_MAX, SiteSnapshot, Snapshot};

/// Points in the histories of all running sites: 48 MiB. Beyond it the time seen is kept more coarsely.
const POINTS_MAX: usize = 1 << 20;

/// What the list of survivors is sorted by; more comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// Bytes that are expected to be lost in an hour; of equal ones the outstanding bytes.
    Loss,
    /// Outstanding bytes.
    #[default]
    Bytes,
    /// Outstanding blocks.
    Blocks,
    /// Growth of the outstanding bytes over the interval.
    Growth,
    /// Age of the oldest block.
    Age,
}

/// What to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Only blocks at least this old are survivors, nanoseconds.
    pub older_than_ns: u64,
    /// At most so many sites are listed.
    pub top: usize,
    /// In which order.
    pub sort: Sort,
    /// How many of its oldest blocks to list with each site; `None` for no list.
    pub blocks_per_site: Option<usize>,
    /// Where blocks are samples: the largest mean gap between two samples of a thread, bytes; 0 until any
    /// allocation may be left out. `None` where every allocation is recorded.
    pub largest_mean_bytes: Option<u64>,
}

impl Settings {
    /// The mean gap that numbers are estimates for; `None` where all allocations were recorded up to now.
    fn estimates_from(&self) -> Option<u64> {
        self.largest_mean_bytes.filter(|&mean_bytes| mean_bytes > 0)
    }
}

/// Blocks listed with a site if blocks are listed.
pub const BLOCKS_PER_SITE: usize = 1000;

impl Default for Settings {
    fn default() -> Self {
        Self {
            older_than_ns: 0,
            top: 10,
            sort: Sort::Bytes,
            blocks_per_site: None,
            largest_mean_bytes: None,
        }
    }
}

/// A block of the live table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveBlock {
    /// Whose, and in which space.
    pub process: Process,
    /// The stack that allocated it.
    pub stack_id: u64,
    /// By which call.
    pub call: u32,
    /// Its address.
    pub address: u64,
    /// Bytes asked for.
    pub size_bytes: u64,
    /// When, nanoseconds of `CLOCK_BOOTTIME`.
    pub time_ns: u64,
    /// How many allocations it stands for.
    pub weight: Weight,
    /// Whether it may be gone: a context has ended that may have been its own.
    pub unsure: bool,
}

/// What a process has mapped by itself by one call from one stack, and has not given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MappingLevel {
    /// Bytes that are there, resident or in swap.
    pub live_bytes: u64,
    /// In how many stretches of which something is there.
    pub live_blocks: u64,
    /// How many mappings were made in all, those that are gone included.
    pub allocs: u64,
}

impl LiveBlock {
    /// The block of an entry of the kernel's live table.
    pub const fn new(key: &LiveKey, live: &Live) -> Self {
        Self {
            process: key.process,
            stack_id: live.stack_id,
            call: live.call as u32,
            address: key.address,
            size_bytes: live.size_bytes,
            time_ns: live.time_ns,
            weight: live.weight,
            unsure: false,
        }
    }

    /// The block of a record of GPU memory; `None` of one that is no memory. Its site goes by its kind of memory and its
    /// device.
    pub const fn of_gpu(key: &GpuKey, live: &GpuLive) -> Option<Self> {
        if live.flags & gpu_flag::UNCOUNTED != 0 {
            return None;
        }
        let process = Process {
            space: live.space,
            device: live.device,
            ..key.process
        };
        let key = LiveKey { process, ..*key };
        Some(Self {
            unsure: live.flags & gpu_flag::UNSURE != 0,
            ..Self::new(&key, &live.block)
        })
    }

    /// Its site, as all shards of it are known.
    pub const fn site_key(&self) -> SiteKey {
        SiteKey {
            stack_id: self.stack_id,
            process: self.process,
            call: self.call,
            shard: 0,
        }
    }
}

/// A process image: a pid between two `exec`s. A pid that comes back after its image was frozen is
/// another image with the same numbers, told apart by `frozen`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Image {
    /// Process id.
    pub tgid: u32,
    /// How often it had called `exec`.
    pub image: u16,
    /// Which of the ended images it is; `None` while it runs.
    pub frozen: Option<FrozenId>,
}

/// A site as the caller of [`Tracker::finish`] is asked about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SiteRef {
    /// Its process image: says which mappings its addresses belong to.
    pub image: Image,
    /// Its stack and call.
    pub key: SiteKey,
}

impl SiteRef {
    /// The call's number, as the attach cookie carries it.
    pub const fn call(&self) -> CallId {
        self.key.call as CallId
    }
}

/// Whose sites may be one site in the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Those of one process image.
    Image(Image),
    /// Those of all images that the caller gives this number, the same throughout a run: of a program, of a container.
    Many(u64),
}

/// Follows all sites of a run.
#[derive(Debug)]
pub struct Tracker {
    settings: Settings,
    now_ns: u64,
    sites: Sites,
    frozen: Frozen,
    before: Before,
    timeline: Timeline,
    /// The last reading before anything was seen of an image that runs.
    since: HashMap<(u32, u16), u64>,
    ran_before: bool,
}

impl Tracker {
    /// Nothing seen yet; the first rates refer to `start_ns`, when the probes were in place.
    pub fn new(settings: Settings, start_ns: u64) -> Self {
        Self {
            settings,
            now_ns: start_ns,
            sites: Sites::new(&settings),
            frozen: Frozen::default(),
            before: Before::new(start_ns),
            timeline: Timeline::new(start_ns),
            since: HashMap::new(),
            ran_before: false,
        }
    }

    /// The targets ran before the trace began, and hold what nobody knows of; `run` is what they were then.
    pub fn attached(&mut self, run: RunReading) {
        self.ran_before = true;
        self.timeline.set_start(run);
    }

    /// Sets how much a site holds of which calls and frees are not counted: pages of a mapping come and go by themselves.
    pub fn set_level(&mut self, key: SiteKey, level: &MappingLevel) {
        self.sites.set_level(key, level);
    }

    /// Ends a reading of all totals, and notes it in the histories. In an interval it comes before the blocks.
    pub fn note(&mut self, now_ns: u64, run: RunReading) {
        let before_ns = self.timeline.last_ns();
        for key in self.sites.map.keys() {
            let image = (key.process.tgid, key.process.image);
            self.since.entry(image).or_insert(before_ns);
        }
        self.timeline.push(now_ns, run);
        self.sites.note(self.timeline.readings());
        if self.sites.points() > POINTS_MAX {
            self.timeline.halve();
            self.sites.compact(self.timeline.readings());
        }
    }

    /// How long the time seen is, nanoseconds, and how many readings of it can be kept: reading more often than that says
    /// nothing.
    pub fn seen(&self) -> (u64, usize) {
        let timeline = &self.timeline;
        (timeline.last_ns() - timeline.start_ns(), READINGS_MAX)
    }

    /// Another mean gap between samples is in force. What a larger one has left out before stays unknown,
    /// so the largest counts. Of no effect where blocks are no samples.
    pub fn sample_mean(&mut self, mean_bytes: u64) {
        if let Some(largest) = &mut self.settings.largest_mean_bytes {
            *largest = mean_bytes.max(*largest);
        }
    }

    /// Lists so many sites of each table from now on.
    pub const fn list_at_most(&mut self, top: usize) {
        self.settings.top = top;
    }

    /// Begins an interval's reading. `now_ns` is taken before the first map is read.
    pub fn begin(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        self.sites.begin(&self.settings);
    }

    /// Adds the totals of a site. A site not mentioned in an interval keeps its last totals.
    pub fn add_totals(&mut self, key: SiteKey, totals: &Site) {
        self.sites.add_totals(key, totals);
    }

    /// Adds a block of the live table. Without blocks, sites have no ages, and with a filter by age no
    /// survivors.
    pub fn add_block(&mut self, block: &LiveBlock) {
        let reading_ns = self.timeline.reading_of(block.time_ns);
        self.sites
            .add_block(self.now_ns, self.settings.older_than_ns, reading_ns, block);
    }

    /// Ends the interval.
    ///
    /// `group` is asked once for every site with survivors, shown or not: sites of one space, device and
    /// call with equal answers are one site in the report. The answer says whose sites may be one, and which of
    /// their stacks are equal: within an image those that differ only in frames which turned out to be garbage,
    /// beyond it those that lead through the same code. It should be cheap: no symbols. Where stacks of an image are
    /// taken as they are, it is `|site| (Scope::Image(site.image), site.key.stack_id)`.
    pub fn finish<K: Hash + Eq>(&mut self, group: impl FnMut(&SiteRef) -> (Scope, K)) -> Snapshot {
        self.sites.settle(&self.settings);
        let interval_ns = self.now_ns.saturating_sub(self.before.now_ns);
        let all = self.running().chain(self.frozen.iter());
        let rest = self.frozen.rest();
        let past = Past {
            timeline: &self.timeline,
            since: &self.since,
            ran_before: self.ran_before,
            sample_bytes: self.settings.estimates_from(),
        };
        let mut listed = list::list(&self.settings, interval_ns, &past, all, rest, group);
        snapshot::set_rates(&mut listed.totals, &self.before.totals, interval_ns);
        let (places, image_places) = self.places();
        let snapshot = Snapshot {
            now_ns: self.now_ns,
            interval_ns,
            totals: listed.totals,
            lifetimes: listed.lifetimes,
            images: snapshot::images(self.running(), self.frozen.images()),
            places: places.totals(&self.before.places, interval_ns),
            image_places,
            forgotten: self.frozen.rest().forgotten,
            sites: listed.sites,
            omitted: listed.omitted,
            unlisted: listed.unlisted,
            torn: self.sites.torn,
        };
        self.before = Before {
            now_ns: self.now_ns,
            totals: snapshot.totals,
            places: places.before(),
        };
        for site in self.sites.map.values_mut() {
            site.previous_live_bytes = site.sums.live_bytes();
        }
        self.frozen.end_interval();
        snapshot
    }

    /// Ends a process image: what it still holds stays in all later snapshots as it is now.
    ///
    /// The returned [`Freezing`] takes the image's last totals and blocks (those of other images are
    /// passed over) and must be finished. What the open interval had for this image is dropped. Purge
    /// the kernel's records of the image before anything is added under the same key again: that will
    /// be taken for a new process with the same pid. `state` is `Exited` or `Replaced`.
    pub fn freeze(&mut self, tgid: u32, image: u16, state: State, now_ns: u64) -> Freezing<'_> {
        self.since.remove(&(tgid, image));
        Freezing::begin(self, (tgid, image), state, now_ns)
    }

    /// Keeps no more ended images one by one than [`IMAGES_MAX`]: of those processes that hold least, which go first, only
    /// sums stay. To be called when an image has ended.
    ///
    /// `alike` is asked about each site with survivors that goes. Those with equal answers of one space, device and call
    /// stay a site: where [`Self::finish`] makes sites of these one with others, it has all of them. Of those without
    /// an answer nothing stays but their part in the totals.
    pub fn shed(&mut self, alike: impl FnMut(&SiteRef) -> Option<Alike>) {
        self.frozen.shed(alike);
    }

    /// Whether what is known of an ended image is needed although it is not kept any more: [`Self::finish`] asks about one
    /// of its sites, which stands for those of many.
    pub fn stands(&self, image: &Image) -> bool {
        self.frozen.stands(image)
    }

    /// Hands over which ended images are not kept one by one any more, and which of these [stand](Self::stands) for others
    /// no more, since the last call.
    pub fn take_forgotten(&mut self) -> Vec<Image> {
        self.frozen.take_forgotten()
    }

    /// All stacks that later snapshots may have sites of.
    pub fn stack_ids(&self) -> impl Iterator<Item = u64> {
        let running = self.sites.map.keys().map(|key| key.stack_id);
        running.chain(self.frozen.iter().map(|entry| entry.site.key.stack_id))
    }

    /// Bytes of memory the sites take now: with the table, the ages and the blocks kept for display.
    pub fn memory_bytes(&self) -> usize {
        self.sites.memory_bytes() + self.frozen.memory_bytes()
    }

    /// Memory of GPUs: of all images, and of each.
    fn places(&self) -> (Places, Vec<ImagePlace>) {
        let mut running: BTreeMap<Image, Places> = BTreeMap::new();
        for entry in self.running() {
            let process = entry.site.key.process;
            if Space::of(process.space).is_some_and(Space::is_gpus) {
                let places = running.entry(entry.site.image).or_default();
                places.add(process, &entry.data.sums);
            }
        }
        let mut all = Places::default();
        for places in running.values().chain(self.frozen.places()) {
            all.merge(places);
        }
        let of_running = running
            .iter()
            .flat_map(|(&image, places)| places.of_image(image, State::Running));
        (all, of_running.chain(self.frozen.image_places()).collect())
    }

    fn running(&self) -> impl Iterator<Item = Entry<'_>> {
        self.sites.map.iter().map(|(key, site)| {
            let image = Image {
                tgid: key.process.tgid,
                image: key.process.image,
                frozen: None,
            };
            Entry {
                site: SiteRef { image, key: *key },
                state: State::Running,
                life: None,
                aged_at_ns: self.now_ns,
                data: site,
                gathering: None,
            }
        })
    }
}

#[cfg(test)]
mod group_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod sampling_tests;
#[cfg(test)]
mod tests;
