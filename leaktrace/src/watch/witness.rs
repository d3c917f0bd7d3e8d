//! Who first touched the memory of processes that grow: takes sampled page faults, walks their stacks, keeps them by
//! process as long as their pages are there, and has their names looked up.
//!
//! Must not know which processes grow, nor what a report looks like.

use std::collections::{BTreeMap, HashMap};

use super::{
    kept::Kept,
    processes::Id,
    space::{Kind, Space},
};
use crate::{
    kernel::{
        clock::now_ns,
        faults::{Call, Touch},
    },
    report::{
        self, innermost_user,
        model::Frame,
        watch::{Area, Site},
    },
    symbol::{SymbolFrame, blaze::Blaze, mappings::Mappings},
    traced::catalog::Catalog,
    unwind::finish::{End, Finisher},
};

/// How long a look at what is mapped holds; an address in no mapping has it looked at again sooner.
const LOOK_NS: u64 = 1_000_000_000;
const LOOK_SOON_NS: u64 = 50_000_000;

/// Most frames of a stack.
const FRAMES_MAX: usize = 127;

/// Most stacks of a process that are named for a report, before those are joined that differ inside a function only.
const NAMED_MAX: usize = 64;

/// Most stacks of a process whose calls are counted.
const CALLS_MAX: usize = 1024;

/// What became of the samples; part of the report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    /// Walked and kept.
    pub kept: u64,
    /// Of files and of shared memory: no growth of anonymous memory.
    pub of_files: u64,
    /// Kept with a stack that ends early. In a process that is traced it ends at the first function with a return probe:
    /// where that returns to, only the kernel knows.
    pub cut: u64,
}

/// One process.
#[derive(Debug)]
struct Observed {
    start_ticks: u64,
    space: Space,
    kept: Kept,
    /// Calls that enlarge what is mapped, by stack; how many they are by now.
    calls: BTreeMap<(Call, Box<[u64]>), f64>,
}

impl Observed {
    fn new(id: Id, catalog: &mut Catalog, now_ns: u64) -> Self {
        Self {
            start_ticks: id.start_ticks,
            space: Space::read(id.pid, catalog, now_ns),
            kept: Kept::default(),
            calls: BTreeMap::new(),
        }
    }
}

/// All that has been seen.
pub struct Witness {
    catalog: Catalog,
    finisher: Finisher,
    names: Blaze,
    observed: HashMap<u32, Observed>,
    /// See [`Fate`].
    pub fate: Fate,
}

impl std::fmt::Debug for Witness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Witness")
            .field("observed", &self.observed.len())
            .field("fate", &self.fate)
            .finish_non_exhaustive()
    }
}

impl Witness {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Self {
            catalog: Catalog::default(),
            finisher: Finisher::new(),
            names: Blaze::new(),
            observed: HashMap::new(),
            fate: Fate::default(),
        }
    }

    /// Takes a sampled page fault of a process.
    pub fn take(&mut self, id: Id, touch: &Touch) {
        let Self {
            catalog,
            finisher,
            observed,
            fate,
            ..
        } = self;
        let Observed { space, kept, .. } = look(observed, id, touch, catalog, finisher);
        if space.kind(touch.address) == Kind::File {
            fate.of_files += 1;
            return;
        }
        let (frames, end) = walk(touch, space, catalog, finisher);
        let bytes = (touch.stands_for * touch.page_bytes as f64) as u64;
        kept.push(touch.address, bytes, frames);
        fate.kept += 1;
        fate.cut += u64::from(end != End::Outermost);
    }

    /// Takes a sampled call of a process.
    pub fn take_call(&mut self, id: Id, call: Call, touch: &Touch) {
        let Self {
            catalog,
            finisher,
            observed,
            ..
        } = self;
        let Observed { space, calls, .. } = look(observed, id, touch, catalog, finisher);
        let (frames, _) = walk(touch, space, catalog, finisher);
        let key = (call, frames.into_boxed_slice());
        if calls.len() < CALLS_MAX || calls.contains_key(&key) {
            *calls.entry(key).or_default() += touch.stands_for;
        }
    }

    /// Leaves out what is not there any more, and processes that are not `wanted`.
    pub fn settle(&mut self, mut wanted: impl FnMut(Id) -> bool) {
        let Self {
            catalog,
            finisher,
            observed,
            ..
        } = self;
        let now_ns = now_ns();
        observed.retain(|pid, observed| {
            let id = Id {
                pid: *pid,
                start_ticks: observed.start_ticks,
            };
            if !wanted(id) {
                finisher.forget(*pid, 0);
                return false;
            }
            observed.space.read_again(*pid, catalog, now_ns);
            let Observed { space, kept, .. } = observed;
            kept.retain(|address| space.kind(address) == Kind::Anonymous && space.has_page(address));
            true
        });
    }

    /// The process runs another program now.
    pub fn forget(&mut self, id: Id) {
        self.observed.remove(&id.pid);
        self.finisher.forget(id.pid, 0);
    }

    /// Has the names of a process's stacks looked up, for [`Self::sites`] to find them.
    pub fn ask(&mut self, id: Id) {
        let Some(observed) = self.observed.get(&id.pid) else {
            return;
        };
        for touched in observed.kept.by_stack().iter().take(NAMED_MAX) {
            self.names
                .ask(&observed.space.code, &self.catalog.objects, touched.frames);
        }
        for (_, frames, _) in most_called(observed, NAMED_MAX) {
            self.names
                .ask(&observed.space.code, &self.catalog.objects, frames);
        }
    }

    /// Whether all names that were asked for are known.
    pub fn has_names(&self) -> bool {
        self.names.unanswered() == 0
    }

    /// Ends when more names are known.
    pub async fn answered(&mut self) {
        self.names.answered().await;
    }

    /// What a process's stacks have touched, the most first, and how many samples and bytes that is in all.
    pub fn sites(&mut self, id: Id, top: usize) -> (Vec<Site>, u64, u64) {
        let Some(observed) = self.observed.get(&id.pid) else {
            return (Vec::new(), 0, 0);
        };
        let touched = observed.kept.by_stack();
        let samples = touched.iter().map(|touched| touched.samples).sum();
        let bytes = touched.iter().map(|touched| touched.bytes).sum();
        // What differs in how an allocator or a library comes to touch memory, or at which place of a function, is one site.
        let mut joined: BTreeMap<(String, Vec<String>), Site> = BTreeMap::new();
        for touched in touched.iter().take(NAMED_MAX) {
            let frames = named(
                &mut self.names,
                &observed.space.code,
                &self.catalog,
                touched.frames,
            );
            let frames: Vec<Frame> = frames.iter().map(SymbolFrame::to_report).collect();
            let own = innermost_user(&frames).unwrap_or(0);
            let Some(innermost) = frames.get(own) else {
                continue;
            };
            let function = innermost.symbol.as_ref().unwrap_or(&innermost.address).clone();
            let callers = frames[own + 1..]
                .iter()
                .map(|frame| frame.address.clone())
                .collect();
            let site = joined.entry((function, callers)).or_default();
            // The most comes first, and stands for all.
            if site.samples == 0 {
                site.frames = frames;
            }
            site.bytes += touched.bytes;
            site.samples += touched.samples;
        }
        let mut sites: Vec<Site> = joined.into_values().collect();
        sites.sort_by_key(|site| std::cmp::Reverse(site.bytes));
        sites.truncate(top);
        (sites, samples, bytes)
    }

    /// Which stacks of a process have called for more memory, the most often first.
    pub fn calls(&mut self, id: Id, top: usize) -> Vec<report::watch::Call> {
        let Some(observed) = self.observed.get(&id.pid) else {
            return Vec::new();
        };
        let mut calls = Vec::new();
        for (call, frames, count) in most_called(observed, top) {
            let frames = named(&mut self.names, &observed.space.code, &self.catalog, frames);
            calls.push(report::watch::Call {
                call: call.name(),
                count: count.round() as u64,
                frames: frames.iter().map(SymbolFrame::to_report).collect(),
            });
        }
        calls
    }

    /// In which mappings of a process the touched pages lie, the most first.
    pub fn areas(&self, id: Id) -> Vec<Area> {
        let Some(observed) = self.observed.get(&id.pid) else {
            return Vec::new();
        };
        let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
        for (address, bytes) in observed.kept.pages() {
            *sums.entry(observed.space.label(address)).or_default() += bytes;
        }
        let area = |(name, bytes): (&str, u64)| Area {
            name: name.to_owned(),
            bytes,
        };
        let mut areas: Vec<Area> = sums.into_iter().map(area).collect();
        areas.sort_by_key(|area| std::cmp::Reverse(area.bytes));
        areas
    }
}

impl Default for Witness {
    fn default() -> Self {
        Self::new()
    }
}

/// The calls of a process by stack, the most first.
fn most_called(observed: &Observed, top: usize) -> Vec<(Call, &[u64], f64)> {
    let calls = observed.calls.iter();
    let mut calls: Vec<_> = calls
        .map(|((call, frames), count)| (*call, &**frames, *count))
        .collect();
    calls.sort_by(|a, b| b.2.total_cmp(&a.2));
    calls.truncate(top);
    calls
}

/// What is known of a process, its mappings as of now if the sample lies in none that is known.
fn look<'a>(
    observed: &'a mut HashMap<u32, Observed>,
    id: Id,
    touch: &Touch,
    catalog: &mut Catalog,
    finisher: &mut Finisher,
) -> &'a mut Observed {
    let now_ns = now_ns();
    let observed = observed
        .entry(id.pid)
        .or_insert_with(|| Observed::new(id, catalog, now_ns));
    if observed.start_ticks != id.start_ticks {
        finisher.forget(id.pid, 0);
        *observed = Observed::new(id, catalog, now_ns);
    }
    let space = &mut observed.space;
    // A call has no address.
    let of_none = touch.address != 0 && space.kind(touch.address) == Kind::Unknown;
    let unknown = of_none || space.code.find_code(touch.stack.address).is_none();
    let age_ns = now_ns.saturating_sub(space.read_ns());
    if age_ns > LOOK_NS || unknown && age_ns > LOOK_SOON_NS {
        space.read_again(id.pid, catalog, now_ns);
    }
    observed
}

fn walk(touch: &Touch, space: &Space, catalog: &Catalog, finisher: &mut Finisher) -> (Vec<u64>, End) {
    let walk = finisher.walk(&touch.stack, &space.code, &catalog.objects, FRAMES_MAX - 1);
    let mut frames = Vec::with_capacity(walk.frames.len() + 1);
    frames.push(touch.stack.address);
    frames.extend(walk.frames);
    (frames, walk.end)
}

/// The frames of a stack, functions that were inlined too.
fn named(names: &mut Blaze, code: &Mappings, catalog: &Catalog, addresses: &[u64]) -> Vec<SymbolFrame> {
    names
        .frames_so_far(code, &catalog.objects, addresses)
        .into_iter()
        .flatten()
        .collect()
}
