//! What a snapshot holds.
//!
//! Must not know where the sites come from, nor how they are listed.

use std::collections::BTreeMap;

use leaktrace_common::key::Process;
use leaktrace_common::math::Weight;

use super::estimate::Unseen;
use super::frozen::FrozenId;
use super::gpu::{ImagePlace, PlaceTotals, PlacesBefore};
use super::group::Entry;
use super::lifetimes::Lifetimes;
use super::sums::Spaces;
use super::{Image, Settings, SiteRef};
use crate::report::model::{Age, Held, Omitted, OmittedSpace, Sampled, State, Totals};
use crate::report::verdict::Verdict;
use leaktrace_common::call::Space;

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

/// Zero when no time has passed.
pub(super) fn per_second(change: f64, interval_ns: u64) -> f64 {
    if interval_ns == 0 {
        return 0.0;
    }
    change * 1e9 / interval_ns as f64
}

pub(super) fn totals_of(spaces: &Spaces, settings: &Settings) -> Totals {
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
