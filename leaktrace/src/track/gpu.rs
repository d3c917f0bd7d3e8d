//! Sums over memory of GPUs, by kind and device: never over two kinds, each of which is another memory.
//!
//! Must not know what a device is, nor single blocks.

use std::collections::BTreeMap;

use leaktrace_common::call::Space;
use leaktrace_common::gpu::device_ordinal;
use leaktrace_common::key::Process;

use super::snapshot::per_second;
use super::sums::Sums;
use super::{Image, State};

/// A kind of memory and the code of its device.
type Place = (Space, u8);

/// Sums by kind and device. Of other memory than GPUs' nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(BTreeMap<Place, Sums>);

/// What there is of a kind of memory on a device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlaceTotals {
    /// Which memory.
    pub space: Space,
    /// The device's number; none where it is not known.
    pub device: Option<u8>,
    /// Outstanding bytes.
    pub live_bytes: u64,
    /// Outstanding blocks.
    pub live_blocks: u64,
    /// Bytes handed out since the attach.
    pub alloc_bytes: u64,
    /// Blocks handed out since the attach.
    pub allocs: u64,
    /// Of those, blocks taken back.
    pub frees: u64,
    /// Their bytes.
    pub freed_bytes: u64,
    /// Change of the outstanding bytes per second, over the interval.
    pub live_bytes_per_s: f64,
}

/// What a process image holds of a kind of memory on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImagePlace {
    /// The image.
    pub image: Image,
    /// Whether it still runs.
    pub state: State,
    /// Which memory.
    pub space: Space,
    /// The device's number; none where it is not known.
    pub device: Option<u8>,
    /// Outstanding bytes.
    pub live_bytes: u64,
}

/// Outstanding bytes at the snapshot before.
#[derive(Clone, Debug, Default)]
pub(super) struct PlacesBefore(BTreeMap<Place, u64>);

impl Places {
    /// Adds a site's.
    pub(super) fn add(&mut self, process: Process, sums: &Sums) {
        if let Some(space) = Space::of(process.space).filter(|space| space.is_gpus()) {
            self.0.entry((space, process.device)).or_default().add(sums);
        }
    }

    /// Adds another's.
    pub(super) fn merge(&mut self, other: &Self) {
        for (place, sums) in &other.0 {
            self.0.entry(*place).or_default().add(sums);
        }
    }

    /// Each, with how it has grown.
    pub(super) fn totals(&self, before: &PlacesBefore, interval_ns: u64) -> Vec<PlaceTotals> {
        let totals = self.0.iter().map(|(place, sums)| {
            let then = before.0.get(place).copied().unwrap_or(0);
            let change = i128::from(sums.live_bytes()) - i128::from(then);
            PlaceTotals {
                space: place.0,
                device: device_ordinal(place.1),
                live_bytes: sums.live_bytes(),
                live_blocks: sums.live_blocks(),
                alloc_bytes: sums.alloc_bytes,
                allocs: sums.allocs,
                frees: sums.frees,
                freed_bytes: sums.freed_bytes,
                live_bytes_per_s: per_second(change as f64, interval_ns),
            }
        });
        totals.collect()
    }

    /// What the next snapshot has to know of this one.
    pub(super) fn before(&self) -> PlacesBefore {
        PlacesBefore(
            self.0
                .iter()
                .map(|(place, sums)| (*place, sums.live_bytes()))
                .collect(),
        )
    }

    /// Each as that of an image.
    pub(super) fn of_image(&self, image: Image, state: State) -> impl Iterator<Item = ImagePlace> {
        self.0.iter().map(move |(place, sums)| ImagePlace {
            image,
            state,
            space: place.0,
            device: device_ordinal(place.1),
            live_bytes: sums.live_bytes(),
        })
    }
}
