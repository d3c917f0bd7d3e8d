//! What a run is asked to do: resolved, validated, and with every default in one place.
//!
//! Must not know how it was typed (that is `cli`), nor the kernel, a process or a terminal.

use leaktrace_common::{
    call::Space,
    math::{MEAN_MAX_BYTES, MEAN_MIN_BYTES},
};
use std::{ffi::OsString, path::PathBuf, time::Duration};

use crate::{
    gate::condition::Condition,
    killswitch,
    probe::custom::{self, CustomFunction, SpecError},
    report::{
        Format,
        units::{duration, size},
    },
    select::Selection,
};

/// The defaults, each written here and nowhere else.
pub mod defaults {
    use std::time::Duration;

    use super::{By, Sort};
    use crate::report::Format;

    /// Time between reports.
    pub const INTERVAL: Duration = Duration::from_secs(5);
    /// How long `leaktrace demo` traces.
    pub const DEMO_DURATION: Duration = Duration::from_secs(15);
    /// Age from which a block is a survivor.
    pub const OLDER_THAN: Duration = Duration::ZERO;
    /// Mean gap between samples: none, every allocation is recorded.
    pub const SAMPLE_BYTES: u64 = 0;
    /// The same where processes are not named one by one: what a host can be left traced with.
    pub const SAMPLE_BYTES_OF_MANY: u64 = 512 << 10;
    /// What tracing may cost running Python processes of their CPU time, in percent.
    pub const PYTHON_OVERHEAD_PERCENT: f64 = 5.0;
    /// Number of sites listed.
    pub const TOP: usize = 10;
    /// Order of the sites.
    pub const SORT: Sort = Sort::Loss;
    /// What sites are summed by where processes are named or started, and where they are selected.
    pub const BY: By = By::Process;
    /// See [`BY`].
    pub const BY_OF_SELECTIONS: By = By::Site;
    /// Format of the report.
    pub const FORMAT: Format = Format::Text;
    /// Bound on the blocks tracked at a time.
    pub const MAX_LIVE: u32 = 10_000_000;
    /// Share of it that one process may have, where there are many: one in this many.
    pub const PROCESS_SHARE: u32 = 4;
    /// Up to so many processes each has probes of its own; more have them in common.
    pub const PROCESSES_FEW: usize = 16;
    /// Bound on the rows of unwind tables: those of 10 GiB of code.
    pub const MAX_UNWIND_BYTES: u64 = 64 << 20;
}

/// What tracing may cost the targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Whatever it does.
    Off,
    /// A share of their CPU time.
    Share(Share),
}

/// One run of the tracer.
#[expect(clippy::struct_excessive_bools, reason = "independent choices")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What to trace.
    pub target: Target,
    /// Also trace the children that the targets fork.
    pub follow_forks: bool,
    /// Whose calls the probes of a selection see.
    pub scope: Scope,
    /// All tracing ends when this file is there.
    pub killswitch: PathBuf,
    /// Have the command's Python take every object from malloc.
    pub python_malloc: bool,
    /// Also probe where Python's object allocator takes pools into use.
    pub python_pools: bool,
    /// What to follow of the memory of GPUs.
    pub gpu: Gpu,
    /// Also follow where addresses are reserved for it.
    pub gpu_reservations: bool,
    /// Also follow what processes map by themselves.
    pub mappings: bool,
    /// Functions to trace beside the known allocators.
    pub custom: Option<CustomPair>,
    /// Which blocks count.
    pub filters: Filters,
    /// Mean of the bytes that a thread asks for between two samples; 0 records every allocation.
    pub sample_bytes: u64,
    /// What tracing may cost the targets of their CPU time; `None` is no bound.
    pub max_overhead: Option<Share>,
    /// Hold it to [`defaults::PYTHON_OVERHEAD_PERCENT`] where a running process has a Python interpreter.
    pub bounds_python: bool,
    /// Number of sites listed; 0 lists none.
    pub top: usize,
    /// Their order.
    pub sort: Sort,
    /// What sites of several processes are summed by.
    pub by: By,
    /// Also list every block of a site.
    pub show_blocks: bool,
    /// When the run has failed.
    pub fail_on: Vec<Condition>,
    /// Files that say which sites may be there.
    pub suppressions: Vec<PathBuf>,
    /// Time between reports; `None` reports only at the end.
    pub interval: Option<Duration>,
    /// When to stop; `None` is when interrupted or when the targets have ended.
    pub duration: Option<Duration>,
    /// Where the reports go, and in which form.
    pub output: Output,
    /// Bound on the blocks tracked at a time.
    pub max_live: u32,
    /// The same for each process of a selection.
    pub max_live_per_process: u32,
    /// The mechanism to attach by; `None` is the best one that the kernel has.
    pub attach: Option<AttachKind>,
    /// Where in a function its probe goes.
    pub probe_at: ProbeAt,
    /// How stacks are walked; `None` is the best way that the kernel has.
    pub unwind: Option<Unwind>,
    /// Follow Python: its lines in stacks, and its objects.
    pub python: bool,
    /// Count all objects of Python, those too that its collector does not know, and list all types.
    pub census: bool,
    /// Bound on the kernel's memory for the rows of unwind tables, in bytes.
    pub max_unwind_bytes: u64,
    /// Walk each stack once more by framehop, and compare.
    pub verify_stacks: bool,
    /// End when the process that has started this one does: this one.
    pub ends_with_parent: Option<u32>,
    /// How much to say on stderr.
    pub verbose: u8,
}

/// A share of something, in millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share {
    millionths: u32,
}

impl Share {
    /// The least that tracing can be held to: probes that are put in and taken out again cost something too.
    pub const LEAST_OVERHEAD: Self = Self { millionths: 1_000 };
    /// All of it.
    pub const ALL: Self = Self {
        millionths: 1_000_000,
    };

    /// From a number of hundredths, rounded.
    pub fn of_percent(percent: f64) -> Self {
        Self {
            millionths: (percent * 1e4).round() as u32,
        }
    }

    /// As a number from 0 to 1.
    pub fn to_f64(self) -> f64 {
        f64::from(self.millionths) / 1e6
    }
}

/// What to trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Running processes: none twice, none 0, in the order given.
    Pids(Vec<u32>),
    /// A command to start, with its arguments; never empty.
    Command(Vec<OsString>),
    /// All processes that it means, now and later.
    Selected(Box<Selection>),
}

/// Whose calls the probes of a selection see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Scope {
    /// Of all processes where there are many or where only targets map the file; else of each target.
    #[default]
    Auto,
    /// Each target has probes of its own: nobody else pays, and what starts later is probed a moment after its start.
    Process,
    /// The probes of a file are for all processes that map it: nothing is missed, and calls of others cost them a trap.
    Host,
}

impl Scope {
    /// The name, as typed and as reported.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Process => "process",
            Self::Host => "host",
        }
    }
}

/// Functions that hand out and take back blocks, in one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomPair {
    /// The executable or library that has them.
    pub object: PathBuf,
    /// The functions, those that allocate first.
    pub functions: Vec<CustomFunction>,
}

/// Which blocks count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filters {
    /// Younger blocks are not survivors.
    pub older_than: Duration,
    /// Smaller blocks are not recorded.
    pub min_size_bytes: u64,
    /// Larger blocks are not recorded; `u64::MAX` is no limit.
    pub max_size_bytes: u64,
}

impl Default for Filters {
    fn default() -> Self {
        Self {
            older_than: defaults::OLDER_THAN,
            min_size_bytes: 0,
            max_size_bytes: u64::MAX,
        }
    }
}

/// Order of the sites, the largest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Sort {
    /// Bytes that are expected to be lost in the next hour: what grows first, then what holds most.
    Loss,
    /// Outstanding bytes.
    Bytes,
    /// Outstanding blocks.
    Blocks,
    /// Growth of the outstanding bytes over the last interval.
    Growth,
    /// Age of the oldest outstanding block.
    Age,
}

impl Sort {
    /// The name, as typed and as reported.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::Bytes => "bytes",
            Self::Blocks => "blocks",
            Self::Growth => "growth",
            Self::Age => "age",
        }
    }
}

/// What sites of several processes are summed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum By {
    /// The place in the code, in all processes of one program.
    Site,
    /// Nothing: each process has its own sites.
    Process,
    /// The place in the code, in all processes of one container.
    Container,
    /// The place in the code, in all processes of one name.
    Comm,
}

impl By {
    /// The name, as typed and as reported.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Site => "site",
            Self::Process => "process",
            Self::Container => "container",
            Self::Comm => "comm",
        }
    }
}

/// Where in a function its probe goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ProbeAt {
    /// Where it costs least.
    #[default]
    Site,
    /// On the first instruction, for comparison.
    Entry,
}

/// How stacks are walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Unwind {
    /// By tables made from what compilers say of their code, whatever is in the frame pointer.
    Tables,
    /// By frame pointers: whole only where all code was built with them.
    FramePointers,
}

impl Unwind {
    /// The name, as typed and as reported.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tables => "tables",
            Self::FramePointers => "frame-pointers",
        }
    }
}

/// What is followed of the memory of GPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gpu {
    /// Nothing.
    Off,
    /// What there is; reports have it where functions of CUDA were found.
    #[default]
    WhereFound,
    /// The same; reports have it in any case.
    Always,
}

/// Where the reports go, and in which form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The form.
    pub format: Format,
    /// The file; `None` is standard output.
    pub path: Option<PathBuf>,
    /// Whether colour is welcome. It is used on a terminal only.
    pub color: bool,
    /// Whether frames of an interpreter itself are shown too.
    pub native: bool,
}

impl Default for Output {
    fn default() -> Self {
        Self {
            format: defaults::FORMAT,
            path: None,
            color: true,
            native: false,
        }
    }
}

pub use crate::kernel::caps::AttachKind;

/// A run that cannot be what was meant.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Neither a process nor a command.
    #[error(
        "nothing to trace: type 'leaktrace -p PID' for a running process, 'leaktrace -- CMD ARGS' to start one, \
         'leaktrace --container NAME' or '--comm NAME' for many, or 'leaktrace demo' to see it at work"
    )]
    NoTarget,
    /// `--exclude` or `--scope` without anything to choose from.
    #[error("{0} needs processes to choose from: type --all, --comm, --user, --cgroup or --container")]
    NotOpen(&'static str),
    /// No block can pass both size filters.
    #[error("--min-size {} is above --max-size {}, so that no block passes: swap them or leave one out", size(*.min), size(*.max))]
    SizesCrossed {
        /// `--min-size`, in bytes.
        min: u64,
        /// `--max-size`, in bytes.
        max: u64,
    },
    /// A mean gap between samples that the kernel side cannot draw.
    #[error(
        "--sample-bytes {} is not within {} and {}: give a size between them, such as 512KiB, or 0 to record every allocation",
        size(*.0), size(MEAN_MIN_BYTES), size(MEAN_MAX_BYTES)
    )]
    SampleBytes(u64),
    /// `--python-malloc` with `-p`.
    #[error(
        "--python-malloc works only where leaktrace starts the program, since Python reads PYTHONMALLOC once: type \
         'leaktrace --python-malloc -- CMD ARGS', or leave the option out"
    )]
    PythonMallocRunning,
    /// `--python-pools` with `--no-python`.
    #[error("--python-pools needs what --no-python turns off: leave one of them out")]
    PoolsWithoutPython,
    /// `--census` with `--no-python`.
    #[error("--census needs what --no-python turns off: leave one of them out")]
    CensusWithoutPython,
    /// `-d 0`.
    #[error(
        "--duration 0 traces nothing: give a time such as 30s, or leave the option out to trace until Ctrl-C"
    )]
    NoDuration,
    /// No block can grow as old as asked within the run.
    #[error(
        "--older-than {} is not below --duration {}, so that no block can grow that old: lower the one or raise the other",
        duration(*.older_than), duration(*.run)
    )]
    NeverOldEnough {
        /// `--older-than`.
        older_than: Duration,
        /// `--duration`.
        run: Duration,
    },
    /// `--show-blocks` with the folded format.
    #[error("--show-blocks does not fit --format folded, which has stacks only: use --format text or json")]
    BlocksFolded,
    /// A custom function that cannot be read.
    #[error("bad {option}: {source}")]
    Custom {
        /// `--alloc` or `--free`.
        option: &'static str,
        /// What is wrong with it.
        source: SpecError,
    },
}

impl Config {
    /// A run on `target` with the defaults for all else.
    pub fn new(target: Target) -> Self {
        Self {
            target,
            follow_forks: false,
            scope: Scope::Auto,
            killswitch: PathBuf::from(killswitch::DEFAULT),
            python_malloc: false,
            python_pools: false,
            gpu: Gpu::default(),
            gpu_reservations: false,
            mappings: true,
            custom: None,
            filters: Filters::default(),
            sample_bytes: defaults::SAMPLE_BYTES,
            max_overhead: None,
            bounds_python: true,
            top: defaults::TOP,
            sort: defaults::SORT,
            by: defaults::BY,
            show_blocks: false,
            fail_on: Vec::new(),
            suppressions: Vec::new(),
            interval: Some(defaults::INTERVAL),
            duration: None,
            output: Output::default(),
            max_live: defaults::MAX_LIVE,
            max_live_per_process: defaults::MAX_LIVE / defaults::PROCESS_SHARE,
            attach: None,
            probe_at: ProbeAt::Site,
            unwind: None,
            python: true,
            census: false,
            max_unwind_bytes: defaults::MAX_UNWIND_BYTES,
            verify_stacks: false,
            ends_with_parent: None,
            verbose: 0,
        }
    }

    /// Whether allocations may be left out of the record, so that numbers are estimates.
    pub const fn samples(&self) -> bool {
        self.sample_bytes > 0 || self.max_overhead.is_some()
    }

    /// Checks what concerns more than one value.
    ///
    /// # Errors
    /// When the values contradict each other; the message names the options and the way out.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let Filters {
            older_than,
            min_size_bytes: min,
            max_size_bytes: max,
        } = self.filters;
        let no_target = match &self.target {
            Target::Pids(pids) => pids.is_empty(),
            Target::Command(command) => command.is_empty(),
            Target::Selected(selection) => selection.is_empty(),
        };
        if no_target {
            return Err(ConfigError::NoTarget);
        }
        if self.python_malloc && !matches!(self.target, Target::Command(_)) {
            return Err(ConfigError::PythonMallocRunning);
        }
        if self.python_pools && !self.python {
            return Err(ConfigError::PoolsWithoutPython);
        }
        if self.census && !self.python {
            return Err(ConfigError::CensusWithoutPython);
        }
        if min > max {
            return Err(ConfigError::SizesCrossed { min, max });
        }
        if self.sample_bytes > 0 && !(MEAN_MIN_BYTES..=MEAN_MAX_BYTES).contains(&self.sample_bytes) {
            return Err(ConfigError::SampleBytes(self.sample_bytes));
        }
        if let Some(run) = self.duration {
            if run.is_zero() {
                return Err(ConfigError::NoDuration);
            }
            if older_than >= run {
                return Err(ConfigError::NeverOldEnough { older_than, run });
            }
        }
        if self.show_blocks && self.output.format == Format::Folded {
            return Err(ConfigError::BlocksFolded);
        }
        Ok(())
    }
}

/// Builds the custom pair from what was typed. Either list may be empty: a wrapper's blocks may go
/// back through plain `free`.
///
/// # Errors
/// When a spec cannot be parsed; the message names the option.
pub fn custom_pair(object: PathBuf, allocs: &[String], frees: &[String]) -> Result<CustomPair, ConfigError> {
    let allocs = allocs.iter().map(|spec| {
        custom::parse_alloc(spec).map_err(|source| ConfigError::Custom {
            option: "--alloc",
            source,
        })
    });
    let frees = frees.iter().map(|spec| {
        custom::parse_free(spec).map_err(|source| ConfigError::Custom {
            option: "--free",
            source,
        })
    });
    let is_pair = allocs.len() > 0 && frees.len() > 0;
    let mut functions: Vec<CustomFunction> = allocs.chain(frees).collect::<Result<_, _>>()?;
    if is_pair {
        // Its blocks are a space of their own: the first block of a pool has the address of the heap block
        // that the pool is cut from. One function alone passes heap blocks on.
        for function in &mut functions {
            function.shape.space = Space::Custom;
        }
    }
    Ok(CustomPair { object, functions })
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
