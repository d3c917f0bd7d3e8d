//! GPU memory of a session: what the kernel side's tables hold as blocks, what is said of it beside the blocks, and the
//! report's part about it.
//!
//! Must not know which functions are probed for it, nor how its numbers are shown.

use std::{collections::HashMap, fmt::Debug};

use leaktrace_common::{
    gpu::{GpuErrorKey, GpuErrors, GpuKey, GpuLive, TorchTotals},
    key::{Process, SiteKey},
};

use crate::{
    kernel::{gpu::GpuTables, maps::TableError},
    nvml,
    report::{
        gpu::{
            Failures, Gpu, GpuState, NotTracked, Nvml, NvmlDevice, NvmlProcess, PYTORCH, PlaceSums, Torch,
            code_name, takes_device_memory,
        },
        model::State,
    },
    symbol::mappings::Mappings,
    track::{FrozenId, Image, ImagePlace, LiveBlock, PlaceTotals, SiteRef, Snapshot},
};

/// The file of `PyTorch`'s caching allocator.
const CACHING_ALLOCATOR: &str = "libc10_cuda.so";

/// The calls by which it reserves memory.
const RESERVING: [&str; 3] = ["cudaMalloc", "cuMemAlloc_v2", "cuMemCreate"];

/// Why the driver's own count is not whole.
const UNTOLD: &str =
    "the driver does not tell what a process uses here: a part of a device (MIG), or a container";

/// The kernel side's tables of GPU memory.
pub(super) trait Tables: Debug {
    /// Hands every living record to `each`.
    ///
    /// # Errors
    /// [`TableError`].
    fn for_each(&self, each: &mut dyn FnMut(&GpuKey, &GpuLive)) -> Result<(), TableError>;

    /// Takes the records of an image that is gone, handing each to `each`, and forgets what else is known of it.
    ///
    /// # Errors
    /// [`TableError`].
    fn take_image(
        &self,
        tgid: u32,
        image: u16,
        each: &mut dyn FnMut(&GpuKey, &GpuLive),
    ) -> Result<(), TableError>;

    /// Forgets an image that is gone and has never used a GPU.
    ///
    /// # Errors
    /// [`TableError`].
    fn forget(&self, tgid: u32, image: u16) -> Result<(), TableError>;

    /// Failed calls, of images that are gone too.
    ///
    /// # Errors
    /// [`TableError`].
    fn errors(&self) -> Result<Vec<(GpuErrorKey, GpuErrors)>, TableError>;

    /// What `PyTorch` has last said of each device.
    ///
    /// # Errors
    /// [`TableError`].
    fn torch(&self) -> Result<Vec<(GpuKey, TorchTotals)>, TableError>;
}

impl Tables for GpuTables {
    fn for_each(&self, each: &mut dyn FnMut(&GpuKey, &GpuLive)) -> Result<(), TableError> {
        Self::for_each(self, each)
    }

    fn take_image(
        &self,
        tgid: u32,
        image: u16,
        each: &mut dyn FnMut(&GpuKey, &GpuLive),
    ) -> Result<(), TableError> {
        Self::take_image(self, tgid, image, each)
    }

    fn forget(&self, tgid: u32, image: u16) -> Result<(), TableError> {
        Self::forget(self, tgid, image)
    }

    fn errors(&self) -> Result<Vec<(GpuErrorKey, GpuErrors)>, TableError> {
        Self::errors(self)
    }

    fn torch(&self) -> Result<Vec<(GpuKey, TorchTotals)>, TableError> {
        Self::torch(self)
    }
}

/// What `PyTorch` has said of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Said {
    image: Image,
    state: State,
    device: u32,
    totals: TorchTotals,
}

/// Calls from one place that have failed with one result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failed {
    /// Where, and which call.
    pub site: SiteRef,
    code: u32,
    errors: GpuErrors,
}

/// Reads the tables, and keeps what is beside the blocks.
#[derive(Debug)]
pub(super) struct GpuMemory {
    tables: Box<dyn Tables>,
    /// What was said, as of the last reading.
    said: Vec<Said>,
    /// The same of images that are gone.
    said_ended: Vec<Said>,
    /// What has failed, as of the last reading.
    failed: Vec<Failed>,
    /// The images that are gone and of which something is kept, by pid and number; of a pid that came back the last.
    ended: HashMap<(u32, u16), FrozenId>,
}

/// What a process image leaves besides blocks.
#[derive(Debug, Default)]
pub(super) struct Left {
    said: Vec<(u32, TorchTotals)>,
    has_failed: bool,
}

impl Left {
    /// Whether anything of it is shown.
    pub(super) const fn is_something(&self) -> bool {
        self.has_failed || !self.said.is_empty()
    }
}

impl GpuMemory {
    /// Nothing read yet.
    pub(super) fn new(tables: Box<dyn Tables>) -> Self {
        Self {
            tables,
            said: Vec::new(),
            said_ended: Vec::new(),
            failed: Vec::new(),
            ended: HashMap::new(),
        }
    }

    /// Reads everything; hands each living block to `each`. `runs` says whether a pid runs that image.
    ///
    /// # Errors
    /// [`TableError`].
    pub(super) fn read(
        &mut self,
        runs: impl Fn(u32, u16) -> bool,
        mut each: impl FnMut(&LiveBlock),
    ) -> Result<(), TableError> {
        self.tables.for_each(&mut |key, live| {
            if let Some(block) = LiveBlock::of_gpu(key, live) {
                each(&block);
            }
        })?;
        self.said.clone_from(&self.said_ended);
        for (key, totals) in self.tables.torch()? {
            let Process { tgid, image, .. } = key.process;
            let image = Image {
                tgid,
                image,
                frozen: None,
            };
            self.said.push(Said {
                image,
                state: State::Running,
                device: key.address as u32,
                totals,
            });
        }
        self.said.sort_unstable_by_key(|said| (said.image, said.device));
        let ended = &self.ended;
        let image_of = |process: Process| {
            let of = (process.tgid, process.image);
            let frozen = ended.get(&of).copied().filter(|_| !runs(of.0, of.1));
            Image {
                tgid: of.0,
                image: of.1,
                frozen,
            }
        };
        let errors = self.tables.errors()?.into_iter();
        self.failed = errors
            .map(|(key, errors)| Failed {
                site: SiteRef {
                    image: image_of(key.process),
                    key: SiteKey {
                        stack_id: key.stack_id,
                        process: key.process,
                        call: key.call,
                        shard: 0,
                    },
                },
                code: key.code,
                errors,
            })
            .collect();
        // A failed request for 20 GiB before a thousand for a byte; then in an order that does not depend on the table's.
        self.failed.sort_unstable_by(|a, b| {
            let size = |failed: &Failed| (failed.errors.largest_bytes, failed.errors.count);
            let place = |failed: &Failed| (failed.site.image, failed.site.key, failed.code);
            size(b).cmp(&size(a)).then_with(|| place(a).cmp(&place(b)))
        });
        Ok(())
    }

    /// An image has ended: its blocks are handed to `each` and go from the tables; the rest is kept by
    /// [`Self::keep`].
    ///
    /// # Errors
    /// [`TableError`].
    pub(super) fn take_image(
        &self,
        tgid: u32,
        image: u16,
        mut each: impl FnMut(&LiveBlock),
    ) -> Result<Left, TableError> {
        let is_of = |process: Process| process.tgid == tgid && process.image == image;
        let torch = self.tables.torch()?.into_iter();
        let errors = self.tables.errors()?;
        let left = Left {
            said: torch
                .filter(|(key, _)| is_of(key.process))
                .map(|(key, totals)| (key.address as u32, totals))
                .collect(),
            has_failed: errors.iter().any(|(key, _)| is_of(key.process)),
        };
        self.tables.take_image(tgid, image, &mut |key, live| {
            if let Some(block) = LiveBlock::of_gpu(key, live) {
                each(&block);
            }
        })?;
        Ok(left)
    }

    /// An image has ended that has not used a GPU.
    ///
    /// # Errors
    /// [`TableError`].
    pub(super) fn forget(&self, tgid: u32, image: u16) -> Result<(), TableError> {
        self.tables.forget(tgid, image)
    }

    /// Keeps what an image has left, under the number of its end.
    pub(super) fn keep(&mut self, left: Left, tgid: u32, image: u16, state: State, id: FrozenId) {
        if !left.is_something() {
            return;
        }
        self.ended.insert((tgid, image), id);
        let image = Image {
            tgid,
            image,
            frozen: Some(id),
        };
        self.said_ended
            .extend(left.said.into_iter().map(|(device, totals)| Said {
                image,
                state,
                device,
                totals,
            }));
    }

    /// Forgets what an image has left.
    pub(super) fn forget_ended(&mut self, image: Image) {
        self.said_ended.retain(|said| said.image != image);
        self.ended.retain(|_, id| Some(*id) != image.frozen);
    }

    /// What has failed, as of the last reading, those that asked for most bytes first.
    pub(super) fn failed(&self) -> &[Failed] {
        &self.failed
    }

    /// Whether `PyTorch` has reported anything in an image, as of the last reading.
    fn has_torch(&self, image: Image) -> bool {
        self.said.iter().any(|said| said.image == image)
    }

    /// Who has the memory of a site to hand it on: `call` by name, `files` those that its stack leads through.
    pub(super) fn reserved_by<'a>(
        &self,
        site: &SiteRef,
        call: &str,
        mut files: impl Iterator<Item = &'a str>,
    ) -> Option<&'static str> {
        let is_segment = RESERVING.contains(&call) && self.has_torch(site.image);
        let is_allocator = |path: &str| path.rsplit('/').next().unwrap_or(path) == CACHING_ALLOCATOR;
        (is_segment && files.any(is_allocator)).then_some(PYTORCH)
    }

    /// The report's part. `names` gives the name of a site's process and that of its call.
    pub(super) fn report<'a>(
        &self,
        snapshot: &Snapshot,
        not_tracked: NotTracked,
        names: impl Fn(&SiteRef) -> (&'a str, &'a str),
    ) -> Gpu {
        let age_ms = |then_ns: u64| snapshot.now_ns.saturating_sub(then_ns) / 1_000_000;
        let failures = |failed: &Failed| {
            let (comm, call) = names(&failed.site);
            Failures {
                pid: failed.site.image.tgid,
                comm: comm.to_owned(),
                call: call.to_owned(),
                code: failed.code,
                name: code_name(failed.code),
                count: failed.errors.count,
                bytes: failed.errors.bytes,
                largest_bytes: failed.errors.largest_bytes,
                age_ms: age_ms(failed.errors.last_ns),
                frames: Vec::new(),
            }
        };
        let places = &snapshot.image_places;
        let torch = |said: &Said| torch(said, &self.said, places, age_ms(said.totals.time_ns));
        Gpu {
            state: GpuState::Followed,
            spaces: snapshot.places.iter().map(place).collect(),
            torch: self.said.iter().map(torch).collect(),
            errors: self.failed.iter().map(failures).collect(),
            nvml: None,
            not_tracked,
        }
    }
}

const fn place(totals: &PlaceTotals) -> PlaceSums {
    PlaceSums {
        space: totals.space.name(),
        device: totals.device,
        live_bytes: totals.live_bytes,
        live_blocks: totals.live_blocks,
        alloc_bytes: totals.alloc_bytes,
        allocs: totals.allocs,
        frees: totals.frees,
        freed_bytes: totals.freed_bytes,
        live_bytes_per_s: totals.live_bytes_per_s,
    }
}

/// Device memory that the driver has handed out to a process image: on one device, or on all where of some the device is
/// not known.
fn driver_live(places: &[ImagePlace], image: Image, device: u32) -> (u64, bool) {
    let of_image = places
        .iter()
        .filter(|place| place.image == image && takes_device_memory(place.space) && place.live_bytes > 0);
    let of_all_devices = of_image.clone().any(|place| place.device.is_none());
    let counted = of_image.filter(|place| of_all_devices || place.device.map(u32::from) == Some(device));
    let bytes = counted.map(|place| place.live_bytes).fold(0, u64::saturating_add);
    (bytes, of_all_devices)
}

fn torch(said: &Said, all: &[Said], places: &[ImagePlace], age_ms: u64) -> Torch {
    let (driver_live_bytes, of_all_devices) = driver_live(places, said.image, said.device);
    let reserved = all
        .iter()
        .filter(|other| other.image == said.image && (of_all_devices || other.device == said.device))
        .map(|other| other.totals.reserved_bytes)
        .fold(0, u64::saturating_add);
    Torch {
        pid: said.image.tgid,
        state: said.state,
        device: said.device,
        allocated_bytes: said.totals.allocated_bytes,
        reserved_bytes: said.totals.reserved_bytes,
        reports: said.totals.reports,
        age_ms,
        driver_live_bytes,
        of_all_devices,
        outside_bytes: driver_live_bytes
            .cast_signed()
            .wrapping_sub(reserved.cast_signed()),
    }
}

/// Paths of the files that a stack leads through.
pub(super) fn files<'a>(addresses: &'a [u64], mappings: &'a Mappings) -> impl Iterator<Item = &'a str> {
    addresses
        .iter()
        .filter_map(|address| Some(mappings.find(address.wrapping_sub(1))?.name.as_str()))
}

/// The driver's own count of what processes use, as soon as one uses a GPU.
#[derive(Debug, Default)]
pub(super) enum DriverCount {
    /// Nobody has asked.
    #[default]
    Unasked,
    /// It can be asked.
    Known(Box<nvml::Nvml>),
    /// There is no driver, or it tells nothing here.
    Absent,
}

impl DriverCount {
    /// What the driver says of these processes, beside what it was seen to hand out; none where it says nothing.
    pub(super) fn beside(&mut self, pids: &[u32], snapshot: &Snapshot) -> Option<Nvml> {
        if pids.is_empty() {
            return None;
        }
        if matches!(self, Self::Unasked) {
            *self = match nvml::Nvml::load() {
                Ok(library) => Self::Known(Box::new(library)),
                Err(why) => {
                    tracing::info!("{why}");
                    Self::Absent
                }
            };
        }
        let Self::Known(library) = self else { return None };
        let used = library.used(pids).into_iter().map(|used| {
            let device = NvmlDevice {
                index: used.device_index,
                name: used.device_name,
                used_bytes: used.used_bytes,
            };
            (used.pid, device)
        });
        let used: Vec<_> = used.collect();
        let is_silent = used.iter().any(|(_, device)| device.used_bytes.is_none());
        let why = is_silent.then(|| UNTOLD.to_owned());
        Some(beside(&used, why, pids, snapshot))
    }
}

/// What is used, by pid and device, beside what was seen to be handed out to these running processes.
fn beside(used: &[(u32, NvmlDevice)], why: Option<String>, running: &[u32], snapshot: &Snapshot) -> Nvml {
    let mut by_process: Vec<NvmlProcess> = Vec::new();
    for &pid in running {
        let devices: Vec<NvmlDevice> = used
            .iter()
            .filter(|(of, _)| *of == pid)
            .map(|(_, device)| device.clone())
            .collect();
        if devices.is_empty() {
            continue;
        }
        let used_bytes = devices
            .iter()
            .try_fold(0_u64, |sum, device| Some(sum.saturating_add(device.used_bytes?)));
        let of_process = snapshot.image_places.iter().filter(|place| {
            place.image.tgid == pid && place.state == State::Running && takes_device_memory(place.space)
        });
        let driver_live_bytes = of_process
            .map(|place| place.live_bytes)
            .fold(0, u64::saturating_add);
        by_process.push(NvmlProcess {
            pid,
            used_bytes,
            driver_live_bytes,
            more_bytes: used_bytes
                .map(|used| used.cast_signed().wrapping_sub(driver_live_bytes.cast_signed())),
            devices,
        });
    }
    Nvml {
        why,
        processes: by_process,
    }
}

#[cfg(test)]
#[path = "gpu_tests.rs"]
mod tests;
