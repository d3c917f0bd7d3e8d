//! Sites of images that are not kept one by one, summed up with those that lead through the same code.
//!
//! Thousands of short processes leave the same few sites. Must not know which images are kept, nor how code is told
//! apart: what is asked about a site says so.

use std::cmp::Reverse;
use std::collections::HashMap;

use leaktrace_common::key::SiteKey;

use super::frozen::FrozenId;
use super::group::{Entry, Gathering};
use super::site::SiteState;
use super::{Image, ImageTotals, Scope, SiteRef};
use crate::report::model::State;

/// Sums kept at most: some 2 KiB each, and for those that no running process has the names and mappings of an image.
pub(super) const GATHERED_MAX: usize = 4096;

/// What sites are gathered by: two that a report shows as one have equal ones, throughout a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Alike {
    /// Whose they are.
    pub scope: Scope,
    /// Two hashes of the code that their stacks lead through.
    pub code: [u64; 2],
}

/// With the kind of memory, its device and the call.
type Key = (Alike, u8, u8, u32);

/// A process: its pid and its end.
type Life = (u32, Option<FrozenId>);

/// Sites that are one.
#[derive(Debug)]
struct Gathered {
    /// The first of them stands for all: its image says what its addresses mean.
    site: SiteRef,
    state: State,
    life: Option<FrozenId>,
    gathering: Gathering,
    /// The process that was counted last.
    counted: Life,
    sum: SiteState,
}

/// All such sums.
#[derive(Debug, Default)]
pub(super) struct GatheredSites {
    sums: HashMap<Key, Gathered>,
    /// Images whose sites stand for others, and how many of them do.
    standing: HashMap<Image, usize>,
}

impl GatheredSites {
    /// Adds a site of an ended image. A process counts when all that is left of it is added, one after the other, and
    /// it has ended: those of which parts are added are fewer than they are rather than more.
    pub(super) fn add(
        &mut self,
        of: &ImageTotals,
        key: &SiteKey,
        site: &SiteState,
        alike: Alike,
        is_whole: bool,
    ) {
        let process = key.process;
        let life = (of.image.tgid, of.life);
        let image = of.image;
        let gathered = self
            .sums
            .entry((alike, process.space, process.device, key.call))
            .or_insert_with(|| {
                *self.standing.entry(image).or_default() += 1;
                Gathered {
                    site: SiteRef { image, key: *key },
                    state: of.state,
                    life: of.life,
                    gathering: Gathering::default(),
                    counted: life,
                    sum: SiteState::default(),
                }
            });
        let own = (gathered.site.image.tgid, gathered.life);
        if own == life {
            gathered.gathering.own.add(&site.survivors.held);
        } else if is_whole && of.life.is_some() && gathered.counted != life {
            gathered.gathering.others += 1;
            gathered.counted = life;
        }
        gathered.gathering.sites += 1;
        gathered.sum.gather(site);
    }

    /// A process has ended of which images may stand for others.
    pub(super) fn end(&mut self, tgid: u32, life: FrozenId) {
        let is_its = |of: &&mut Gathered| of.site.image.tgid == tgid && of.life.is_none();
        for of in self.sums.values_mut().filter(is_its) {
            if of.counted == (tgid, None) {
                of.counted = (tgid, Some(life));
            }
            of.life = Some(life);
        }
    }

    /// Hands over what holds least, if there are more than `max`, and the images that stand for nothing any more. It is a
    /// quarter at a time: what has just begun to grow stays for a while.
    pub(super) fn shed(&mut self, max: usize) -> (Vec<(SiteKey, SiteState)>, Vec<Image>) {
        let (mut least, mut released) = (Vec::new(), Vec::new());
        if self.sums.len() <= max {
            return (least, released);
        }
        let size = |of: &Gathered| {
            (
                of.sum.sums.live_bytes(),
                of.sum.sums.live_blocks(),
                Reverse((of.site.image, of.site.key)),
            )
        };
        let mut sizes: Vec<_> = self.sums.values().map(size).collect();
        let count = (sizes.len() - (max - max / 4)).clamp(1, sizes.len());
        let (_, &mut largest, _) = sizes.select_nth_unstable(count - 1);
        for (_, of) in self.sums.extract_if(|_, of| size(of) <= largest) {
            if let Some(stands) = self.standing.get_mut(&of.site.image) {
                *stands -= 1;
                if *stands == 0 {
                    self.standing.remove(&of.site.image);
                    released.push(of.site.image);
                }
            }
            least.push((of.site.key, of.sum));
        }
        (least, released)
    }

    /// Whether a site of the image stands for others.
    pub(super) fn stands(&self, image: &Image) -> bool {
        self.standing.contains_key(image)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Entry<'_>> {
        self.sums.values().map(|of| Entry {
            site: of.site,
            state: of.state,
            life: of.life,
            // No block of theirs is kept.
            aged_at_ns: 0,
            data: &of.sum,
            gathering: Some(of.gathering),
        })
    }

    /// From the next snapshot on, nothing of this has grown.
    pub(super) fn end_interval(&mut self) {
        for of in self.sums.values_mut() {
            of.sum.previous_live_bytes = of.sum.sums.live_bytes();
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let heap: usize = self.sums.values().map(|of| of.sum.heap_bytes()).sum();
        heap + self.sums.capacity() * size_of::<(Key, Gathered)>()
            + self.standing.capacity() * size_of::<(Image, usize)>()
    }
}
