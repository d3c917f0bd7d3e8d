//! Process images that have ended and what they still held.
//!
//! Must not know how it is shown. Kept apart from the running images because a pid comes back, and
//! because nothing about them changes any more.

use std::cmp::Reverse;

use leaktrace_common::key::{Process, SiteKey};
use leaktrace_common::record::Site;

use super::gathered::{Alike, GATHERED_MAX, GatheredSites};
use super::gpu::{ImagePlace, Places};
use super::group::Entry;
use super::history::Level;
use super::lifetimes::add_lifetimes;
use super::list::Rest;
use super::site::{SiteState, Sites};
use super::snapshot::is_of_sum;
use super::{Image, ImageTotals, LiveBlock, SiteRef, Tracker};
use crate::report::model::{Held, State};

/// Sites of ended images kept one by one: some 100 MiB. A command that forks ten thousand short-lived
/// children, each of which leaves all it had to the kernel, must not fill the memory.
pub(super) const SITES_MAX: usize = 1 << 18;

/// Ended images kept one by one. Each has the names and mappings of its process beside its sites, some 20 KiB in all: a
/// machine that is traced for weeks starts more processes than there is memory for.
pub const IMAGES_MAX: usize = 1000;

/// Number of an ended image, in order of their ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrozenId(pub u64);

/// What became of an image that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Its number.
    pub id: FrozenId,
    /// Whether it has outstanding blocks, and is in later snapshots.
    pub is_kept: bool,
}

#[derive(Debug)]
pub(super) struct FrozenImage {
    totals: ImageTotals,
    /// Of memory of GPUs.
    places: Places,
    /// What its process holds of all kinds of memory, as far as it has ended: those that hold least are forgotten first.
    held: Held,
    end_ns: u64,
    /// Those with outstanding blocks.
    sites: Vec<(SiteKey, SiteState)>,
}

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) images: usize,
    pub(super) sites: usize,
    pub(super) gathered: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            images: IMAGES_MAX,
            sites: SITES_MAX,
            gathered: GATHERED_MAX,
        }
    }
}

/// All images that have ended.
#[derive(Debug, Default)]
pub(super) struct Frozen {
    pub(super) bounds: Bounds,
    /// Those with outstanding blocks, in order of their ends.
    pub(super) images: Vec<FrozenImage>,
    /// How many have ended.
    ended: u64,
    sites: usize,
    /// Sites of images that are not kept.
    gathered: GatheredSites,
    rest: Rest,
    /// Those that are not kept any more, since this was last asked for.
    forgotten: Vec<Image>,
}

impl Frozen {
    pub(super) fn iter(&self) -> impl Iterator<Item = Entry<'_>> {
        let kept = self.images.iter().flat_map(|ended| {
            ended.sites.iter().map(|(key, site)| Entry {
                site: SiteRef {
                    image: ended.totals.image,
                    key: *key,
                },
                state: ended.totals.state,
                life: ended.totals.life,
                aged_at_ns: ended.end_ns,
                data: site,
                gathering: None,
            })
        });
        kept.chain(self.gathered.iter())
    }

    pub(super) fn images(&self) -> impl Iterator<Item = ImageTotals> {
        self.images.iter().map(|image| image.totals)
    }

    /// What they have of memory of GPUs.
    pub(super) fn places(&self) -> impl Iterator<Item = &Places> {
        let of_images = self.images.iter().map(|image| &image.places);
        of_images.chain([&self.rest.places])
    }

    /// The same of each.
    pub(super) fn image_places(&self) -> impl Iterator<Item = ImagePlace> {
        self.images
            .iter()
            .flat_map(|ended| ended.places.of_image(ended.totals.image, ended.totals.state))
    }

    /// Hands over which images are not kept any more, since the last call.
    pub(super) fn take_forgotten(&mut self) -> Vec<Image> {
        std::mem::take(&mut self.forgotten)
    }

    /// What is not kept site by site.
    pub(super) const fn rest(&self) -> &Rest {
        &self.rest
    }

    /// From the next snapshot on, nothing of this has grown.
    pub(super) fn end_interval(&mut self) {
        for (_, site) in self.images.iter_mut().flat_map(|image| &mut image.sites) {
            site.previous_live_bytes = site.sums.live_bytes();
        }
        self.gathered.end_interval();
    }

    /// Whether an image that is not kept stands for others.
    pub(super) fn stands(&self, image: &Image) -> bool {
        self.gathered.stands(image)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let sites = self.images.iter().flat_map(|image| &image.sites);
        let heap: usize = sites.map(|(_, site)| site.heap_bytes()).sum();
        heap + self.gathered.memory_bytes()
            + self.sites * size_of::<(SiteKey, SiteState)>()
            + self.images.len() * size_of::<FrozenImage>()
    }

    /// The number of the next end.
    const fn next_id(&mut self) -> FrozenId {
        let id = FrozenId(self.ended);
        self.ended += 1;
        id
    }

    /// Whether anything of it is kept.
    fn add(&mut self, image: Image, state: State, end_ns: u64, sites: Sites) -> bool {
        let life = image.frozen.filter(|_| state == State::Exited);
        let mut held = Held::default();
        let mut totals = ImageTotals {
            image,
            state,
            life,
            live_bytes: 0,
            live_blocks: 0,
        };
        let mut places = Places::default();
        let mut kept = Vec::new();
        for (key, mut site) in sites.map {
            places.add(key.process, &site.sums);
            held.live_bytes = held.live_bytes.saturating_add(site.sums.live_bytes());
            held.live_blocks = held.live_blocks.saturating_add(site.sums.live_blocks());
            if is_of_sum(key.process) {
                totals.live_bytes += site.sums.live_bytes();
                totals.live_blocks += site.sums.live_blocks();
            }
            if site.sums.live_blocks() == 0 {
                self.rest.add(key.process, &site);
            } else {
                site.survivors.ages.settle();
                kept.push((key, site));
            }
        }
        if let Some(life) = life {
            self.end(image.tgid, life, &mut held);
        }
        if kept.is_empty() {
            self.rest.places.merge(&places);
            return false;
        }
        kept.sort_unstable_by_key(|(key, _)| *key);
        self.sites += kept.len();
        self.images.push(FrozenImage {
            totals,
            places,
            held,
            end_ns,
            sites: kept,
        });
        true
    }

    /// A process has ended, with an image that holds so much: to which comes what its earlier ones do.
    fn end(&mut self, tgid: u32, life: FrozenId, held: &mut Held) {
        let is_its = |of: &&mut FrozenImage| of.totals.image.tgid == tgid && of.totals.life.is_none();
        let mut earlier: Vec<_> = self.images.iter_mut().filter(is_its).collect();
        for of in &earlier {
            held.live_bytes = held.live_bytes.saturating_add(of.held.live_bytes);
            held.live_blocks = held.live_blocks.saturating_add(of.held.live_blocks);
        }
        for of in &mut earlier {
            of.held = *held;
            of.totals.life = Some(life);
        }
        self.gathered.end(tgid, life);
    }

    /// Down to the bounds: see [`Tracker::shed`].
    pub(super) fn shed(&mut self, mut alike: impl FnMut(&SiteRef) -> Option<Alike>) {
        if self.sites > self.bounds.sites {
            self.keep_largest(self.bounds.sites / 2, &mut alike);
        }
        while self.images.len() > self.bounds.images {
            self.forget_least(&mut alike);
        }
        let (least, released) = self.gathered.shed(self.bounds.gathered);
        for (key, site) in &least {
            self.rest.add(key.process, site);
        }
        let is_kept = |image: &Image| self.images.iter().any(|of| of.totals.image == *image);
        let gone: Vec<Image> = released.into_iter().filter(|image| !is_kept(image)).collect();
        self.forgotten.extend(gone);
    }

    /// A site that is not kept becomes part of a sum.
    fn gather(
        &mut self,
        of: &ImageTotals,
        (key, site): &(SiteKey, SiteState),
        alike: &mut impl FnMut(&SiteRef) -> Option<Alike>,
        is_whole: bool,
    ) {
        let asked = SiteRef {
            image: of.image,
            key: *key,
        };
        // What the filters leave out is in no list.
        let alike = (site.survivors.held.blocks > 0).then(|| alike(&asked)).flatten();
        match alike {
            Some(alike) => self.gathered.add(of, key, site, alike, is_whole),
            None => self.rest.add(key.process, site),
        }
    }

    /// Of the process that holds least only sums stay; of several, the one that ended first. Those that have called
    /// `exec` and run come last.
    fn forget_least(&mut self, alike: &mut impl FnMut(&SiteRef) -> Option<Alike>) {
        let size = |of: &&FrozenImage| (of.totals.life.is_none(), of.held.live_bytes, of.held.live_blocks);
        let Some(least) = self.images.iter().min_by_key(size).map(|of| of.totals) else {
            return;
        };
        let is_its = |of: &mut FrozenImage| {
            let totals = &of.totals;
            totals.image == least.image
                || (totals.life.is_some()
                    && totals.life == least.life
                    && totals.image.tgid == least.image.tgid)
        };
        let images: Vec<_> = self.images.extract_if(.., is_its).collect();
        for image in images {
            self.sites -= image.sites.len();
            for site in &image.sites {
                self.gather(&image.totals, site, alike, true);
            }
            self.rest.places.merge(&image.places);
            self.rest.forgotten.live_bytes += image.totals.live_bytes;
            self.rest.forgotten.live_blocks += image.totals.live_blocks;
            self.forgotten.push(image.totals.image);
        }
    }

    /// Keeps so many sites, by bytes; of the others only sums stay.
    fn keep_largest(&mut self, count: usize, alike: &mut impl FnMut(&SiteRef) -> Option<Alike>) {
        let size = |site: &SiteState| (site.sums.live_bytes(), site.sums.live_blocks());
        let mut order: Vec<_> = self
            .images
            .iter()
            .enumerate()
            .flat_map(|(image, frozen)| {
                let sites = frozen.sites.iter();
                sites.map(move |(key, site)| (Reverse(size(site)), image, *key))
            })
            .collect();
        if order.len() <= count {
            return;
        }
        let (_, &mut last_kept, _) = order.select_nth_unstable(count.max(1) - 1);
        for index in 0..self.images.len() {
            let image = &mut self.images[index];
            let totals = image.totals;
            let is_beyond =
                |site: &mut (SiteKey, SiteState)| (Reverse(size(&site.1)), index, site.0) > last_kept;
            let beyond: Vec<_> = image.sites.extract_if(.., is_beyond).collect();
            image.sites.shrink_to_fit();
            for site in &beyond {
                self.gather(&totals, site, alike, false);
            }
        }
        self.sites = self.images.iter().map(|image| image.sites.len()).sum();
    }
}

impl Rest {
    /// Adds a site that will not be kept by itself.
    fn add(&mut self, process: Process, site: &SiteState) {
        self.sums.add(process.space, &site.sums);
        add_lifetimes(&mut self.lifetimes, site.lifetimes());
        self.live_sites
            .add(process.space, u64::from(site.sums.live_blocks() > 0));
    }
}

/// The end of an image under way: see [`Tracker::freeze`].
#[derive(Debug)]
#[must_use = "the image is frozen by `finish`"]
pub struct Freezing<'a> {
    tracker: &'a mut Tracker,
    of: (u32, u16),
    state: State,
    now_ns: u64,
    sites: Sites,
}

impl<'a> Freezing<'a> {
    pub(super) fn begin(tracker: &'a mut Tracker, of: (u32, u16), state: State, now_ns: u64) -> Self {
        let mut sites = Sites::new(&tracker.settings);
        let ended = tracker.sites.map.extract_if(|key, _| belongs(key.process, of));
        sites.map.extend(ended);
        sites.begin(&tracker.settings);
        Self {
            tracker,
            of,
            state,
            now_ns,
            sites,
        }
    }

    /// Adds the last totals of a site; of another image, they are passed over.
    pub fn add_totals(&mut self, key: SiteKey, totals: &Site) {
        if belongs(key.process, self.of) {
            self.sites.add_totals(key, totals);
        }
    }

    /// Adds a block that is live at the end; of another image, it is passed over.
    pub fn add_block(&mut self, block: &LiveBlock) {
        if belongs(block.process, self.of) {
            let older_than_ns = self.tracker.settings.older_than_ns;
            // What is younger than the last reading belongs to the end.
            let reading_ns = self.tracker.timeline.reading_of(block.time_ns).min(self.now_ns);
            self.sites
                .add_block(self.now_ns, older_than_ns, reading_ns, block);
        }
    }

    /// Keeps it all. Ages stay what they were at this moment. Of an image that holds nothing only the sums stay.
    pub fn finish(mut self) -> End {
        self.sites.settle(&self.tracker.settings);
        let readings = self.tracker.timeline.readings();
        for site in self.sites.map.values_mut() {
            site.history.push(self.now_ns, Level::of(&site.sums), readings);
        }
        self.tracker.sites.torn += self.sites.torn;
        let frozen = &mut self.tracker.frozen;
        let id = frozen.next_id();
        let image = Image {
            tgid: self.of.0,
            image: self.of.1,
            frozen: Some(id),
        };
        let is_kept = frozen.add(image, self.state, self.now_ns, self.sites);
        End { id, is_kept }
    }
}

const fn belongs(process: Process, of: (u32, u16)) -> bool {
    process.tgid == of.0 && process.image == of.1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::track::{Scope, Settings};

    fn key(stack_id: u64, tgid: u32) -> SiteKey {
        SiteKey {
            stack_id,
            process: Process {
                tgid,
                image: 0,
                space: 0,
                device: 0,
            },
            call: 0,
            shard: 0,
        }
    }

    #[test]
    fn beyond_the_bound_the_largest_sites_stay_and_the_sums_are_whole() {
        let mut tracker = Tracker::new(Settings::default(), 0);
        let per_image = SITES_MAX as u64 / 4;
        for tgid in 0..5 {
            let mut freezing = tracker.freeze(tgid, 0, State::Exited, 1);
            for stack_id in 0..per_image {
                let totals = Site {
                    allocs: 2,
                    alloc_bytes: 2 * (stack_id + 1),
                    frees: 1,
                    freed_bytes: stack_id + 1,
                    ..Site::EMPTY
                };
                freezing.add_totals(key(stack_id, tgid), &totals);
            }
            freezing.finish();
            tracker.shed(|_| None);
        }
        assert!(tracker.frozen.sites <= SITES_MAX / 2);
        tracker.begin(2);
        let snapshot = tracker.finish(|site| (Scope::Image(site.image), site.key.stack_id));
        let all = 5 * per_image;
        let bytes = 5 * per_image * (per_image + 1) / 2;
        assert_eq!(
            (snapshot.totals.live_blocks, snapshot.totals.live_bytes),
            (all, bytes)
        );
        assert_eq!((snapshot.totals.allocs, snapshot.totals.frees), (2 * all, all));
        assert_eq!(snapshot.sites.len(), 10);
        assert!(snapshot.sites[..5].iter().all(|site| site.bytes == per_image));
        let shown: u64 = snapshot.sites.iter().map(|site| site.bytes).sum();
        assert_eq!(snapshot.omitted.bytes, bytes - shown);
        assert_eq!(
            (snapshot.omitted.sites, snapshot.omitted.blocks),
            (all - 10, all - 10)
        );
        assert!(snapshot.images.iter().all(|image| image.live_blocks == per_image));
    }
}
