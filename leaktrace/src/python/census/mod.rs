//! Objects by type of a running CPython, from outside: what `collections.Counter(map(type, gc.get_objects()))` would
//! say, without a probe, a pause or a line of code in the target.
//!
//! [`Census::take`] walks the collector's lists (`lists`) in a snapshot of the target's memory (`snapshot`), and if
//! asked the pools of small objects (`pools`) for those that are in no list: strings, numbers, frozen objects. What an
//! object takes is in `sizes`, what its type is called in `types`. [`pace`] says how often that may be.
//!
//! Must not know of sites, reports or clocks of the session.

mod layout;
mod lists;
pub mod pace;
mod pools;
mod sizes;
mod snapshot;
#[cfg(test)]
mod tests;
mod types;

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::memory::Memory;
use super::offsets::Offsets;
use layout::{Collector, GENERATIONS, Layout};
use lists::{Heads, LISTS, Tally, Tools};
pub use pools::Pools;
use pools::Seeds;
use snapshot::Snapshot;
pub use types::TypeName;
use types::Types;

/// Interpreters of a process that are looked at.
const INTERPRETERS_MAX: usize = 256;

/// Times that the lists of an interpreter are begun.
const TRIES: u32 = 4;

/// What a census may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Time, all in all.
    pub time: Duration,
    /// Memory for what is read, in bytes; some 40 bytes a type and 4 MiB come on top.
    pub memory_bytes: usize,
    /// Objects, all in all.
    pub objects: u64,
    /// Whether the pools of small objects are read, too.
    pub pools: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            time: Duration::from_millis(250),
            memory_bytes: 256 << 20,
            objects: 1 << 30,
            pools: false,
        }
    }
}

/// Why there is no census, or not all of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// Its objects are in no lists.
    #[error(
        "a build without the global lock keeps no lists of its objects; run it with a build that has the lock"
    )]
    FreeThreaded,
    /// What was read is no interpreter's state.
    #[error("its interpreters are not where they should be; it may be starting or ending")]
    NoInterpreter,
    /// It took longer than it may.
    #[error("the census was not finished in its time")]
    Time,
    /// There are more objects than are counted.
    #[error("there are more objects than a census counts")]
    Objects,
    /// The program changed its lists faster than they could be read.
    #[error("the program changes its objects faster than they can be read")]
    Torn,
}

/// What a census has found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// By type, in the order of names; types of one name are one.
    pub types: Vec<TypeCount>,
    /// Objects that the collector knows, of all interpreters, without frozen ones.
    pub tracked: u64,
    /// Interpreters.
    pub interpreters: usize,
    /// Places that did not fit together when they were read first, and lists that were begun again.
    pub torn_reads: u64,
    /// Why something is missing; the counts are those of the lists that were finished.
    pub partial: Option<Why>,
    /// What the pools hold, if they were read.
    pub pools: Option<Pools>,
    /// What the census took.
    pub spent: Duration,
    /// Times that the target's memory was read, each of them one system call.
    pub reads: u64,
}

/// Living objects of a type.
#[derive(Clone, Debug, PartialEq)]
pub struct TypeCount {
    /// Its name.
    pub name: TypeName,
    /// Those that `gc.get_objects()` would name.
    pub tracked: u64,
    /// Their bytes: see `sizes`.
    pub tracked_bytes: u64,
    /// Others: frozen ones, and with the pools those that the collector does not know.
    pub others: u64,
    /// Their bytes.
    pub other_bytes: u64,
}

impl TypeCount {
    /// All of them.
    pub const fn objects(&self) -> u64 {
        self.tracked + self.others
    }

    /// Bytes of all.
    pub const fn bytes(&self) -> u64 {
        self.tracked_bytes + self.other_bytes
    }
}

/// Takes censuses of one process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Census {}

/// Living objects of a type, by its number.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    tracked: u64,
    tracked_bytes: u64,
    others: u64,
    other_bytes: u64,
}

/// Sums by number of the type.
#[derive(Debug, Default)]
struct Sums(Vec<Sum>);

impl Sums {
    fn at(&mut self, number: usize) -> &mut Sum {
        if self.0.len() <= number {
            self.0.resize(number + 1, Sum::default());
        }
        &mut self.0[number]
    }

    fn add(&mut self, tally: &Tally, are_tracked: bool) {
        for (number, (objects, bytes)) in tally.by_type.iter().enumerate() {
            let sum = self.at(number);
            if are_tracked {
                sum.tracked += objects;
                sum.tracked_bytes += bytes;
            } else {
                sum.others += objects;
                sum.other_bytes += bytes;
            }
        }
    }
}

impl Census {
    /// Counts the living objects of the interpreters of a process.
    ///
    /// `runtime` is the address of its `_PyRuntime`; `anonymous` its writable memory that is of no file, in which the
    /// allocator's arenas are: only looked at with [`Limits::pools`].
    ///
    /// # Errors
    /// [`Why`] there can be none. What could not be finished is in [`Counts::partial`] instead.
    pub fn take(
        &mut self,
        memory: &dyn Memory,
        offsets: &Offsets,
        runtime: u64,
        anonymous: &[Range<u64>],
        limits: &Limits,
    ) -> Result<Counts, Why> {
        let mut layout = Layout::new(offsets).ok_or(Why::FreeThreaded)?;
        let begin = Instant::now();
        let mut snapshot = Snapshot::new(memory, limits.memory_bytes);
        let mut types = Types::new(layout);
        let states = collectors(runtime, layout, &mut snapshot).ok_or(Why::NoInterpreter)?;
        let first = states.first().ok_or(Why::NoInterpreter)?;
        layout.lists = Heads::find(*first, layout, &mut snapshot).ok_or(Why::NoInterpreter)?;
        let mut tools = Tools {
            snapshot: &mut snapshot,
            types: &mut types,
            layout,
            deadline: begin + limits.time,
            objects_left: limits.objects,
            seeds: limits.pools.then(Seeds::default),
        };
        let mut sums = Sums::default();
        let mut counts = Counts {
            interpreters: states.len(),
            ..Counts::default()
        };
        for state in states {
            match count_all(state, &mut tools, &mut counts.torn_reads) {
                Ok(tallies) => {
                    for (list, tally) in tallies.iter().enumerate() {
                        sums.add(tally, list < GENERATIONS);
                    }
                }
                Err(why) => counts.partial = Some(why),
            }
        }
        if let Some(mut seeds) = tools.seeds.take()
            && counts.partial.is_none()
        {
            seeds.add_memory(anonymous, layout);
            match pools::count(seeds, &mut tools, &mut sums) {
                Ok(pools) => counts.pools = Some(pools),
                Err(why) => counts.partial = Some(why),
            }
        }
        counts.reads = tools.snapshot.reads();
        counts.tracked = sums.0.iter().map(|sum| sum.tracked).sum();
        counts.types = by_name(&sums, &types);
        counts.spent = begin.elapsed();
        Ok(counts)
    }
}

/// Addresses of the collectors' states; `None` if there are none that make sense.
fn collectors(runtime: u64, layout: Layout, snapshot: &mut Snapshot<'_>) -> Option<Vec<u64>> {
    let offset = match layout.collector {
        Collector::OfInterpreter(offset) => offset,
        Collector::OfRuntime(offset) => {
            let state = runtime.checked_add(offset)?;
            return Some(vec![state]);
        }
    };
    let mut states = Vec::new();
    let [mut interpreter] = snapshot.fresh(runtime.checked_add(layout.interpreters)?)?;
    while interpreter != 0 {
        let state = interpreter.checked_add(offset)?;
        states.push(state);
        if states.len() >= INTERPRETERS_MAX {
            break;
        }
        [interpreter] = snapshot.fresh(interpreter.checked_add(layout.next_interpreter)?)?;
    }
    Some(states)
}

/// Counts the objects of all lists of an interpreter.
fn count_all(state: u64, tools: &mut Tools<'_, '_>, torn_reads: &mut u64) -> Result<[Tally; LISTS], Why> {
    let mut tries = 1;
    loop {
        let heads = settled(state, tools)?;
        let left = tools.objects_left;
        let counted = count_once(&heads, tools);
        // While the collector goes through all objects, some of them are in no list.
        let is_undisturbed = settled(state, tools).is_ok_and(|after| after.collections == heads.collections);
        if let Ok(tallies) = &counted {
            *torn_reads += tallies.iter().map(|tally| tally.torn).sum::<u64>();
        }
        if tries == TRIES
            || matches!(counted, Err(Why::Time | Why::Objects))
            || counted.is_ok() && is_undisturbed
        {
            return counted;
        }
        tries += 1;
        *torn_reads += 1;
        tools.objects_left = left;
        tools.snapshot.forget();
    }
}

/// The lists, oldest objects last: what becomes old in the meantime is behind the end that the old list had.
fn count_once(heads: &Heads, tools: &mut Tools<'_, '_>) -> Result<[Tally; LISTS], Why> {
    let mut tallies: [Tally; LISTS] = Default::default();
    for (list, tally) in tallies.iter_mut().enumerate() {
        *tally = lists::count(list, heads, tools)?;
    }
    Ok(tallies)
}

/// The lists at a moment when the collector does not run.
fn settled(state: u64, tools: &mut Tools<'_, '_>) -> Result<Heads, Why> {
    loop {
        let heads = Heads::read(state, tools.layout, tools.snapshot).ok_or(Why::NoInterpreter)?;
        if !heads.is_collecting {
            return Ok(heads);
        }
        heads.wait(tools.snapshot, tools.deadline).ok_or(Why::Time)?;
    }
}

/// Types of one name are one.
fn by_name(sums: &Sums, types: &Types) -> Vec<TypeCount> {
    let mut by_name: BTreeMap<&TypeName, Sum> = BTreeMap::new();
    for (sum, of_type) in sums.0.iter().zip(types.list()) {
        let all = by_name.entry(&of_type.name).or_default();
        all.tracked += sum.tracked;
        all.tracked_bytes += sum.tracked_bytes;
        all.others += sum.others;
        all.other_bytes += sum.other_bytes;
    }
    by_name
        .into_iter()
        .filter(|(_, sum)| sum.tracked + sum.others > 0)
        .map(|(name, sum)| TypeCount {
            name: name.clone(),
            tracked: sum.tracked,
            tracked_bytes: sum.tracked_bytes,
            others: sum.others,
            other_bytes: sum.other_bytes,
        })
        .collect()
}
