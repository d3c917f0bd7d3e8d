//! The report of `leaktrace watch`, frozen: `leaktrace.watch/1` (docs/watch.md).
//!
//! Must not know where its numbers come from.

use serde::Serialize;

use super::model::{Container, Frame};

/// Name and version of the format.
pub const SCHEMA: &str = "leaktrace.watch/1";

/// A report.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// Number of the report in its run, from 1.
    pub sequence: u64,
    /// Whether it is the last.
    pub last: bool,
    /// Seconds since the first look.
    pub elapsed_s: f64,
    /// Seconds over which growth is told.
    pub window_s: f64,
    /// When processes are armed; none where none are.
    pub arming: Option<Arming>,
    /// How many processes go how.
    pub processes: Courses,
    /// What watching itself takes.
    pub own: Own,
    /// What became of the sampled page faults.
    pub faults: Faults,
    /// Processes that grow, and those that are armed; by growth.
    pub growers: Vec<Grower>,
    /// Processes that rise and are not in the list.
    pub omitted: u64,
    /// What tracing has found in those that are armed, or were.
    pub traced: Vec<Traced>,
    /// What was armed and disarmed, the newest last.
    pub events: Vec<Event>,
    /// What is to be known to read the numbers right.
    pub warnings: Vec<String>,
}

/// When processes are armed.
#[derive(Clone, Debug, Serialize)]
pub struct Arming {
    /// As it can be typed.
    pub condition: String,
    /// Growth above which a process is armed, in bytes, over `window_s`.
    pub bytes: u64,
    /// Most processes at a time.
    pub places: usize,
    /// What tracing may cost the armed of their CPU time, all together.
    pub max_overhead: f64,
}

/// How many processes go how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Courses {
    /// All that are watched.
    pub watched: u64,
    /// Nothing has changed over the window.
    pub idle: u64,
    /// Memory comes and goes.
    pub flat: u64,
    /// It rises to where it has been before.
    pub returning: u64,
    /// It keeps rising.
    pub growing: u64,
}

/// What watching itself takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Own {
    /// CPU time so far, in seconds, without that of tracers.
    pub cpu_s: f64,
    /// The same as a share of one CPU since the report before.
    pub cpu_share: f64,
    /// CPU time of the tracers of armed processes, in seconds.
    pub tracers_cpu_s: f64,
}

/// What became of the sampled page faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Faults {
    /// Kept for a process that grows.
    pub kept: u64,
    /// Of files and shared memory in such processes.
    pub of_files: u64,
    /// Of the kept, those whose stack ends early. In a process that is traced it ends at the first function whose return
    /// is probed.
    pub cut: u64,
    /// Dropped by the kernel because a ring was full. The others stand for them.
    pub lost: u64,
    /// How often the kernel has stopped sampling for the rest of a tick.
    pub throttled: u64,
    /// Whether the size of huge pages is known; if not, one counts as 4 KiB.
    pub page_sizes: bool,
}

/// A process that grows.
#[derive(Clone, Debug, Serialize)]
pub struct Grower {
    /// Its number.
    pub pid: u32,
    /// Its number in its own namespace, where that is another one.
    pub inner_pid: Option<u32>,
    /// When it started, in clock ticks since boot.
    pub start_ticks: u64,
    /// Its name.
    pub comm: String,
    /// Its container, if it runs in one that is known.
    pub container: Option<Container>,
    /// `idle`, `flat`, `returning` or `growing`.
    pub course: &'static str,
    /// Whether it is traced.
    pub armed: bool,
    /// Resident memory, in bytes.
    pub rss_bytes: u64,
    /// Anonymous memory in RAM and in swap, in bytes.
    pub anon_bytes: u64,
    /// By how much the floor of that has risen, in bytes.
    pub growth_bytes: i64,
    /// Over how many seconds.
    pub over_s: f64,
    /// Samples of first touches whose pages are still there.
    pub samples: u64,
    /// What they stand for, in bytes.
    pub sampled_bytes: u64,
    /// Where those pages lie.
    pub areas: Vec<Area>,
    /// The stacks that touched them, the most first.
    pub sites: Vec<Site>,
    /// The stacks that called for more, the most often first; empty without `--calls`.
    pub calls: Vec<Call>,
}

/// A stack that has called for more memory.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Call {
    /// `mmap` or `brk`.
    pub call: &'static str,
    /// Estimated calls.
    pub count: u64,
    /// Innermost first.
    pub frames: Vec<Frame>,
}

/// Memory of a mapping, or of mappings of one name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Area {
    /// `[heap]`, `[stack]`, `[anon]`, or as the program has named it.
    pub name: String,
    /// Estimated bytes.
    pub bytes: u64,
}

/// A stack that first touched memory that is still there.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Site {
    /// Estimated bytes.
    pub bytes: u64,
    /// Samples that this rests on.
    pub samples: u64,
    /// Innermost first: the function that touched the memory.
    pub frames: Vec<Frame>,
}

/// What tracing has found in a process.
#[derive(Clone, Debug, Serialize)]
pub struct Traced {
    /// Its number.
    pub pid: u32,
    /// Its number in its own namespace, where that is another one.
    pub inner_pid: Option<u32>,
    /// Its name.
    pub comm: String,
    /// Its container, if it runs in one that is known.
    pub container: Option<Container>,
    /// Whether it still is traced.
    pub armed: bool,
    /// What tracing it may cost, as a share of its CPU time.
    pub max_overhead: f64,
    /// The newest `leaktrace.report/1` of it; none before the first.
    pub report: Option<serde_json::Value>,
}

/// A process was armed or disarmed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// When, in seconds since the first look.
    pub at_s: f64,
    /// Its number.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// `armed`, `disarmed` or `failed`.
    pub what: &'static str,
    /// Why.
    pub why: String,
}
