//! Process images that have ended and what they still held.
//!
//! Must not know how it is shown. Kept apart from the running images because a pid comes back, and
//! because nothing about them changes any more.

use std::cmp::Reverse;

use leaktrace_common::key::{Process, SiteKey};
use leaktrace_common::record::Site;

use super::gpu::{ImagePlace, Places};
use super::site::{SiteState, Sites};
use super::snapshot::{Entry, Rest, add_lifetimes, is_of_sum};
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
struct FrozenImage {
    totals: ImageTotals,
    /// Of memory of GPUs.
    places: Places,
    /// What it holds of all kinds of memory: those that hold least are forgotten first.
    held: Held,
    end_ns: u64,
    /// Those with outstanding blocks.
    sites: Vec<(SiteKey, SiteState)>,
}

/// All images that have ended.
#[derive(Debug, Default)]
pub(super) struct Frozen {
    /// Those with outstanding blocks, in order of their ends.
    images: Vec<FrozenImage>,
    /// How many have ended.
    ended: u64,
    sites: usize,
    rest: Rest,
    /// Those that are not kept any more, since this was last asked for.
    forgotten: Vec<Image>,
}

impl Frozen {
    pub(super) fn iter(&self) -> impl Iterator<Item = Entry<'_>> {
        self.images.iter().flat_map(|ended| {
            ended.sites.iter().map(|(key, site)| Entry {
                site: SiteRef {
                    image: ended.totals.image,
                    key: *key,
                },
                state: ended.totals.state,
                life: ended.totals.life,
                aged_at_ns: ended.end_ns,
                data: site,
            })
        })
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
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let heap: usize = self.iter().map(|entry| entry.data.heap_bytes()).sum();
        heap + self.sites * size_of::<(SiteKey, SiteState)>() + self.images.len() * size_of::<FrozenImage>()
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
        if life.is_some() {
            let is_its =
                |of: &&mut FrozenImage| of.totals.image.tgid == image.tgid && of.totals.life.is_none();
            self.images
                .iter_mut()
                .filter(is_its)
                .for_each(|of| of.totals.life = life);
        }
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
        if self.sites > SITES_MAX {
            self.keep_largest(SITES_MAX / 2);
        }
        if self.images.len() > IMAGES_MAX {
            self.forget_least();
        }
        true
    }

    /// Of the image that holds least only the sums stay; of several, the one that ended first.
    fn forget_least(&mut self) {
        let size = |(_, image): &(usize, &FrozenImage)| (image.held.live_bytes, image.held.live_blocks);
        let Some((least, _)) = self.images.iter().enumerate().min_by_key(size) else {
            return;
        };
        let image = self.images.remove(least);
        self.sites -= image.sites.len();
        for (key, site) in &image.sites {
            self.rest.add(key.process, site);
        }
        self.rest.places.merge(&image.places);
        self.rest.forgotten.live_bytes += image.totals.live_bytes;
        self.rest.forgotten.live_blocks += image.totals.live_blocks;
        self.forgotten.push(image.totals.image);
    }

    /// Keeps so many sites, by bytes; of the rest only the sums stay.
    fn keep_largest(&mut self, count: usize) {
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
        for (index, image) in self.images.iter_mut().enumerate() {
            let rest = &mut self.rest;
            image.sites.retain(|(key, site)| {
                let kept = (Reverse(size(site)), index, *key) <= last_kept;
                if !kept {
                    rest.add(key.process, site);
                }
                kept
            });
            image.sites.shrink_to_fit();
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
        let mut sites = Sites::default();
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
            self.sites.add_block(self.now_ns, older_than_ns, block);
        }
    }

    /// Keeps it all. Ages stay what they were at this moment. Of an image that holds nothing only the sums stay.
    pub fn finish(mut self) -> End {
        self.sites.settle(&self.tracker.settings);
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
