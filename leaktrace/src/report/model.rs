//! The report: plain data, already symbolized, filtered and sorted. It is what the JSON format shows,
//! field by field (docs/report-format.md); the other formats show less of it.
//!
//! Must not know where any of it came from: no kernel, no clock, no symbolizer. Addresses are text.

use std::collections::BTreeMap;

use leaktrace_common::call::Space;
use serde::{Serialize, Serializer};

use super::{
    account::Account,
    gate::{Gate, Suppressed},
    gpu,
    overhead::Overhead,
    python::Python,
    stacks::Stacks,
    types::Types,
    verdict::Verdict,
};

/// Version of the format. A new field does not change it; a changed or removed one does.
pub const SCHEMA: &str = "leaktrace.report/1";

/// One report, frozen.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// Number of this report in its run, from 1.
    pub sequence: u64,
    /// Whether it is the last of the run.
    pub last: bool,
    /// Seconds since the probes were in place.
    pub elapsed_s: f64,
    /// Seconds that rates and growth refer to: since the report before, or since the attach.
    pub interval_s: f64,
    /// What the sites of several processes are summed by: `site`, `process`, `container` or `comm`.
    pub by: &'static str,
    /// What was traced.
    pub target: Target,
    /// How.
    pub tracing: Tracing,
    /// What tracing has cost.
    pub overhead: Overhead,
    /// Sums over all processes and all sites, those not shown included.
    pub totals: Totals,
    /// Where the memory of each running process is, by pid; empty where nobody has looked.
    pub accounts: Vec<Account>,
    /// The sites with outstanding blocks: of GPU memory, of tensors, of the host's memory; of each first the one that
    /// matters most.
    pub survivors: Vec<Survivor>,
    /// What the filters and `--top` left out.
    pub omitted: Omitted,
    /// The suppressions, each with what it left out besides; those that left out nothing too.
    pub suppressed: Vec<Suppressed>,
    /// Whether the conditions of `--fail-on` hold; none without, and but in the last report.
    pub gate: Option<Gate>,
    /// GPU memory; none where no process uses a GPU and none was to be followed.
    pub gpu: Option<gpu::Gpu>,
    /// Living Python objects by type; none where there was no census.
    pub types: Option<Types>,
    /// How whole the stacks are.
    pub stacks: Stacks,
    /// Everything not seen, not kept or not matched; zeros included.
    pub ledger: BTreeMap<&'static str, u64>,
    /// Sentences for the reader: what went wrong and which option mends it.
    pub warnings: Vec<String>,
}

/// What was traced.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Target {
    /// The command line of `leaktrace -- CMD ARGS`, if that is how it was started.
    pub command: Option<Vec<String>>,
    /// The options that have selected the processes, if that is how they were chosen.
    pub selection: Option<Vec<String>>,
    /// How many processes there are and were.
    pub members: Members,
    /// The processes, in order of pid. Of those that have ended only the ones with outstanding blocks, those that have
    /// ended since the report before, and those that were named or started.
    pub processes: Vec<Process>,
    /// What those hold that have ended and were one too many to be listed.
    pub forgotten: Held,
}

/// Numbers of processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Members {
    /// Those that run.
    pub running: u64,
    /// Those that have been traced up to now.
    pub joined: u64,
    /// Those of them that have ended.
    pub ended: u64,
    /// Those in the list that have outstanding blocks.
    pub with_blocks: u64,
}

/// A container, or what else a machine's processes are grouped into.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Container {
    /// Its id, whole.
    pub id: String,
    /// What runs it: `docker`, `containerd`, `podman`, `systemd` and so on.
    pub runtime: String,
    /// Its name, if that is known.
    pub name: Option<String>,
    /// Its image, if that is known.
    pub image: Option<String>,
    /// The pod that it is of, `namespace/name` or a uid.
    pub pod: Option<String>,
    /// Its labels, as far as they are known.
    pub labels: BTreeMap<String, String>,
}

impl Container {
    /// What it is called in a line: its name, else the first 12 characters of its id, as its runtime shows it.
    pub fn short(&self) -> &str {
        let of_id = || {
            self.id
                .char_indices()
                .nth(12)
                .map_or(&*self.id, |(end, _)| &self.id[..end])
        };
        self.name
            .as_deref()
            .filter(|name| !name.is_empty())
            .unwrap_or_else(of_id)
    }
}

/// A traced process.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Its pid in its own namespace, where that is another one.
    pub inner_pid: Option<u32>,
    /// Its name.
    pub comm: String,
    /// Its container, if it runs in one that is known.
    pub container: Option<Container>,
    /// Path of its executable.
    pub exe: Option<String>,
    /// Whether it still runs.
    pub state: State,
    /// Resident memory in bytes; the last known value if it has exited.
    pub rss_bytes: Option<u64>,
    /// Bytes of its blocks of the host's memory that are outstanding.
    pub live_bytes: u64,
    /// Number of those blocks.
    pub live_blocks: u64,
    /// How it ended, if it did and leaktrace started it.
    pub exit: Option<Exit>,
    /// Its Python interpreter, if it has one.
    pub python: Option<Python>,
}

/// State of a process or of the program image that a survivor belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Running.
    Running,
    /// It has exited; what it held was live at exit.
    Exited,
    /// It has replaced its image by `exec`; what the old one held was live at that moment.
    Replaced,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Exit {
    /// Exit code, if it exited.
    pub code: Option<i32>,
    /// Signal, if one ended it.
    pub signal: Option<i32>,
}

/// How it was traced.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Tracing {
    /// `session`, `multi` or `perf`: which of the kernel's mechanisms.
    pub attach: String,
    /// The running kernel's release.
    pub kernel: String,
    /// The probes.
    pub sites: Vec<ProbeSite>,
    /// Functions that were found and not probed, with the reason.
    pub skipped: Vec<SkippedSite>,
    /// The filters in force.
    pub filters: Filters,
    /// Whose calls the probes see, where processes are selected: `process`, `private` (all processes that map a file which
    /// only targets map) or `host`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<&'static str>,
    /// What the kernel side's tables hold, where processes are selected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tables: Option<Tables>,
    /// How allocations were sampled; none where all were recorded.
    pub sampling: Option<Sampling>,
}

/// How many entries the kernel side's tables have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tables {
    /// Targets.
    pub processes: u64,
    /// Threads of theirs that have called an allocator.
    pub threads: u64,
    /// Live blocks.
    pub live: u64,
    /// Sites.
    pub sites: u64,
    /// Stacks.
    pub stacks: u64,
}

/// Allocations were sampled: numbers are estimates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Sampling {
    /// Mean of the bytes that a thread asks for between two samples.
    pub mean_bytes: u64,
}

/// One probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProbeSite {
    /// Path of the object, as the process sees it.
    pub object: String,
    /// Symbol.
    pub function: String,
    /// What it counts as: the allocator interface's name for it.
    pub call: String,
    /// File offset of the probed instruction, hexadecimal: the cheapest one at which every call is seen.
    pub offset: String,
    /// File offset of the function, hexadecimal.
    pub function_offset: String,
    /// What the probed instruction is to the kernel: `nop`, `push`, `call`, `jump` or `branch`, which it emulates, or
    /// `single-stepped`, which costs a second trap.
    pub instruction: String,
    /// `entry`, `entry+return` or `entry+ret-instructions`.
    pub kind: String,
    /// Processes it is attached to.
    pub pids: Vec<u32>,
}

/// A function that was found and not probed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SkippedSite {
    /// Path of the object.
    pub object: String,
    /// Symbol.
    pub function: String,
    /// Why.
    pub reason: String,
}

/// The filters in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Filters {
    /// Only blocks at least this old are survivors.
    pub older_than_ms: u64,
    /// Smaller blocks were not recorded.
    pub min_size_bytes: u64,
    /// Larger blocks were not recorded.
    pub max_size_bytes: Option<u64>,
    /// At most so many survivors are listed.
    pub top: usize,
    /// What they are sorted by.
    pub sort: String,
}

/// Sums over everything recorded of the host's memory but pools of Python. `allocs - frees = live_blocks`, exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Totals {
    /// Outstanding bytes.
    pub live_bytes: u64,
    /// Outstanding blocks.
    pub live_blocks: u64,
    /// How far to trust the two, where allocations were sampled: fields beside them.
    #[serde(flatten)]
    pub sampled: Option<Sampled>,
    /// Bytes handed out since the attach.
    pub alloc_bytes: u64,
    /// Blocks handed out since the attach.
    pub allocs: u64,
    /// Of those, blocks taken back.
    pub frees: u64,
    /// Their bytes.
    pub freed_bytes: u64,
    /// Bytes handed out per second, over the interval.
    pub alloc_bytes_per_s: f64,
    /// Blocks handed out per second, over the interval.
    pub allocs_per_s: f64,
    /// Change of the outstanding bytes per second, over the interval.
    pub live_bytes_per_s: f64,
    /// The outstanding bytes and blocks by kind of memory. The sum above is of the host's, without the pools of Python,
    /// which lie in its arenas. Kinds of GPU memory are in no sum.
    pub by_space: BySpace,
    /// Resident memory of the running processes, in bytes; none if none runs.
    pub rss_bytes: Option<u64>,
}

/// What is outstanding of each kind of memory; zeros included. A field each, by the name of the kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BySpace([Held; Space::ALL.len()]);

impl BySpace {
    /// Each as `held` says.
    pub fn from_fn(held: impl FnMut(Space) -> Held) -> Self {
        Self(Space::ALL.map(held))
    }

    /// Of one kind.
    pub const fn of(&self, space: Space) -> Held {
        self.0[space as usize]
    }

    /// The same, to be changed.
    pub const fn of_mut(&mut self, space: Space) -> &mut Held {
        &mut self.0[space as usize]
    }
}

impl Serialize for BySpace {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(Space::ALL.map(|space| (space.name(), self.of(space))))
    }
}

/// Outstanding memory of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Held {
    /// Outstanding bytes.
    pub live_bytes: u64,
    /// Outstanding blocks.
    pub live_blocks: u64,
}

/// What an estimate of outstanding bytes and blocks rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Sampled {
    /// Recorded blocks among the outstanding ones.
    pub samples: u64,
    /// Lower and upper bound of the bytes, at 95 %.
    pub bytes_interval: [u64; 2],
    /// Lower and upper bound of the blocks, at 95 %.
    pub blocks_interval: [u64; 2],
}

/// A site with outstanding blocks.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Survivor {
    /// Process id; of several processes, that of the one that holds most.
    pub pid: u32,
    /// Its pid in its own namespace; absent where that is no other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inner_pid: Option<u32>,
    /// The process's name.
    pub comm: String,
    /// Its container, by name or short id; absent where it runs in none that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// How many processes the site was summed up over.
    pub processes: u64,
    /// Those of them that hold most, the one that holds most first; at most 10.
    pub pids: Vec<u32>,
    /// Whether its image still runs; of several, whether one does.
    pub state: State,
    /// The allocator call.
    pub call: String,
    /// Which memory.
    pub space: String,
    /// Of GPU memory: the number that CUDA gives the device in the process; absent where it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<u8>,
    /// Whose allocator has it to hand it on; absent if it is not one's that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reserved_by: Option<&'static str>,
    /// What of it may be gone; absent if nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsure: Option<gpu::Unsure>,
    /// Of pools of Python: bytes of an object in most of them. Absent of other memory, and of pools that were gone before
    /// they were looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_bytes: Option<u32>,
    /// Outstanding bytes that pass the filters.
    pub bytes: u64,
    /// Outstanding blocks that pass the filters.
    pub blocks: u64,
    /// How far to trust the two, where allocations were sampled: fields beside them.
    #[serde(flatten)]
    pub sampled: Option<Sampled>,
    /// Share of the targets' own CPU time in which its function was probed; absent if it always was. What the
    /// site did in the rest is not in its numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seen_share: Option<f64>,
    /// Their mean size.
    pub mean_bytes: f64,
    /// Growth of the site's outstanding bytes per second, over the interval.
    pub bytes_per_s: f64,
    /// What the site is taken for; none where its history is not kept.
    pub verdict: Option<Verdict>,
    /// Blocks the site has handed out since the attach.
    pub allocs: u64,
    /// Of those, blocks taken back.
    pub frees: u64,
    /// Ages of the outstanding blocks.
    pub age_ms: Age,
    /// How long those lived that were taken back; none where nothing was.
    pub lifetime_ms: Option<Lifetime>,
    /// The stack, from the allocator call outwards. Inlined functions are frames of their own.
    pub frames: Vec<Frame>,
    /// Whether Python's frames do not fit to the native ones although both are whole; absent if they do. The order of
    /// the two is then not certain.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub mismatch: bool,
    /// The blocks themselves, oldest first, with `--show-blocks`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_list: Option<Vec<Block>>,
}

/// Ages in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Age {
    /// The youngest.
    pub min: u64,
    /// The median.
    pub p50: u64,
    /// The oldest.
    pub max: u64,
}

/// How long freed blocks lived, in milliseconds: bounds that are powers of two of nanoseconds, since no more is known.
/// Where blocks are samples, large ones count for more than they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Lifetime {
    /// Half of them lived less.
    pub p50: f64,
    /// Nine of ten lived less.
    pub p90: f64,
    /// 99 of 100 lived less.
    pub p99: f64,
}

/// What a frame's function is written in, as far as it matters to where it is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Lang {
    /// Machine code.
    #[default]
    Native,
    /// Python.
    Python,
}

/// One frame.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Frame {
    /// Address in the process, hexadecimal. For callers it is the return address, for Python that of the code object.
    pub address: String,
    /// Of what language it is.
    pub lang: Lang,
    /// Path of the mapped object, if the address lies in one.
    pub object: Option<String>,
    /// Offset in the object's file, hexadecimal.
    pub offset: Option<String>,
    /// Build id of the object, hexadecimal.
    pub build_id: Option<String>,
    /// Function, demangled.
    pub symbol: Option<String>,
    /// Source file.
    pub file: Option<String>,
    /// Line in it.
    pub line: Option<u32>,
    /// Whether the function was inlined into the next frame that is not.
    pub inlined: bool,
    /// Whether it is only how an interpreter runs its programs; absent if not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub plumbing: bool,
}

/// An outstanding block.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Block {
    /// The process that it is in.
    pub pid: u32,
    /// Address, hexadecimal.
    pub address: String,
    /// Bytes asked for.
    pub bytes: u64,
    /// How many blocks it stands for, where allocations were sampled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// Age.
    pub age_ms: u64,
}

/// What is not in the list, of the host's memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Omitted {
    /// Sites.
    pub sites: u64,
    /// Their outstanding blocks.
    pub blocks: u64,
    /// Their outstanding bytes.
    pub bytes: u64,
    /// The same of GPU memory, by kind; kinds that are all in the list are left out.
    pub gpu: Vec<OmittedSpace>,
}

/// What is not in the list, of a kind of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OmittedSpace {
    /// Which memory.
    pub space: &'static str,
    /// Sites.
    pub sites: u64,
    /// Their outstanding blocks.
    pub blocks: u64,
    /// Their outstanding bytes.
    pub bytes: u64,
}
