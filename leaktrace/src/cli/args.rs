//! What can be typed: options, subcommands and their help, for clap.
//!
//! Nothing is decided here; `cli` turns it into an `Invocation`. Defaults come from `config::defaults`.
//! The first paragraph of a doc comment is the short help (`-h`), all of it the long one (`--help`).

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use super::{
    parse::{self, Excluded, Size, Time},
    watch::WatchArgs,
};
use crate::{
    config::{AttachKind, Bound, By, ProbeAt, Scope, Sort, Unwind, defaults},
    gate::condition::Condition,
    killswitch,
    report::Format,
};

const EXAMPLES: &str = "\
Examples:
  leaktrace demo                         trace a small program that leaks, to see a report
  sudo leaktrace -p 4242                 trace a running process, a report every 5s until Ctrl-C
  sudo leaktrace -p 4242 -d 10m --older-than 1m
                                         what was allocated in ten minutes and is a minute old at least
  sudo leaktrace -- ./server --port 80   trace a command from before its first allocation
  sudo leaktrace -p 4242 -i 0 -d 1m --format folded | flamegraph.pl --countname bytes > leak.svg
  sudo leaktrace --container web         trace a container, what starts in it later too
  sudo leaktrace --comm postgres --older-than 1m
                                         all backends, sampled; sites summed over processes
  sudo leaktrace -i 0 --fail-on 'survivors>0' --suppressions known.supp -- ./tests
                                         fails if anything is left but what is known
  leaktrace doctor                       what this kernel and user can do, and what is missing

Exit status: 0, 1 when --fail-on holds, or 2 when leaktrace could not run. With -- CMD it is the command's own (128+N when
signal N ended it), and 1 only if that is 0.";

/// Names the stacks whose allocations survive, in any running process.
///
/// leaktrace follows every allocation and free of a process in the kernel (eBPF uprobes) and reports
/// the call stacks whose blocks are still outstanding. Its memory is not touched but for the kernel's
/// breakpoints, which go when leaktrace ends, and it is never stopped. Tracing needs root; 'leaktrace doctor' says whether it will work here.
#[derive(Debug, Parser)]
#[command(
    name = "leaktrace",
    version,
    after_help = "'--help' says more than '-h'. 'leaktrace demo' is a good start.",
    after_long_help = EXAMPLES,
    override_usage = "leaktrace [OPTIONS] -p PID[,PID...]\n       leaktrace [OPTIONS] --all|--comm|--user|--cgroup|--container ...\n       leaktrace [OPTIONS] -- CMD [ARGS...]\n       leaktrace <COMMAND>",
    max_term_width = 110
)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) target: TargetArgs,
    #[command(flatten)]
    pub(super) filter: FilterArgs,
    #[command(flatten)]
    pub(super) sampling: SamplingArgs,
    #[command(flatten)]
    pub(super) report: ReportArgs,
    #[command(flatten)]
    pub(super) gate: GateArgs,
    #[command(flatten)]
    pub(super) output: OutputArgs,
    #[command(flatten)]
    pub(super) bounds: BoundArgs,
    #[command(flatten)]
    pub(super) general: GeneralArgs,
    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

/// What to trace.
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent switches of the command line"
)]
#[derive(Debug, Args)]
#[command(next_help_heading = "Target")]
#[group(skip)]
#[command(group = clap::ArgGroup::new("custom_functions").multiple(true).args(["alloc", "free"]))]
pub(super) struct TargetArgs {
    /// Trace these running processes, by id.
    ///
    /// Ids separated by commas; may be given several times. Example: -p 4242,4243
    #[arg(
        short = 'p',
        long = "pid",
        value_name = "PIDS",
        value_delimiter = ',',
        value_parser = parse::pid,
        allow_negative_numbers = true,
        conflicts_with = "argv"
    )]
    pub(super) pids: Vec<u32>,

    #[command(flatten)]
    pub(super) selection: SelectionArgs,

    /// Also trace the children that the traced processes fork.
    ///
    /// With --comm and its like children are always traced. A child starts with nothing outstanding: what it inherits belongs to its parent.
    #[arg(long)]
    pub(super) follow_forks: bool,

    /// Do not look into Python interpreters.
    ///
    /// CPython 3.8 to 3.14 is otherwise recognised wherever it runs, embedded too, and its stacks show the lines of
    /// Python that led to an allocation; its objects are counted by type. The interpreter is not changed for that.
    #[arg(long)]
    pub(super) no_python: bool,

    /// Report the memory of GPUs even if nothing of CUDA is found.
    ///
    /// It is followed wherever CUDA's functions are mapped or can be loaded: device, managed, pinned, registered, array
    /// and virtual memory by the driver's calls, named after those of the runtime library around them, and tensors where
    /// their allocator reports them. With this option reports have its section before a program has come that far.
    /// Example: leaktrace -p 4242 --gpu
    #[arg(long, conflicts_with = "no_gpu")]
    pub(super) gpu: bool,

    /// Do not follow the memory of GPUs.
    #[arg(long)]
    pub(super) no_gpu: bool,

    /// Also trace where addresses are reserved for GPU memory.
    ///
    /// By cuMemAddressReserve: they are no memory, and programs reserve far more of them than they fill. They are counted
    /// by themselves. Example: --gpu-reservations
    #[arg(long, conflicts_with = "no_gpu")]
    pub(super) gpu_reservations: bool,

    /// Do not follow what processes map by themselves, by mmap, munmap, mremap and brk.
    ///
    /// It is followed with -p and -- CMD: for each call of the system, of whatever process, the kernel then takes some
    /// nanoseconds more. Example: --no-mappings
    #[arg(long)]
    pub(super) no_mappings: bool,

    /// Follow that of selections, too: of processes that come and go by themselves.
    ///
    /// Each of them then maps its libraries under leaktrace's eyes, which is work for leaktrace. Example: --mappings
    #[arg(long, conflicts_with = "no_mappings")]
    pub(super) mappings: bool,

    /// Also trace this function as one that allocates; needs --object.
    ///
    /// For pools and allocators that leaktrace does not know. Arguments are counted from 0:
    /// size=argN is the size in bytes, count=argN multiplies it, and the block's address is returned
    /// (->ret) or stored through a pointer (out=argN, where the call returns 0 on success).
    /// May be given several times.
    /// Example: --alloc 'pool_get(size=arg1)->ret' --alloc '`pool_make(size=arg0,out=arg1)`'
    #[arg(long, value_name = "SPEC", requires = "object")]
    pub(super) alloc: Vec<String>,

    /// Also trace this function as one that takes a block back; needs --object.
    ///
    /// ptr=argN is the block, counted from 0. May be given several times. Leave it out when the
    /// blocks of --alloc go back through plain free. Example: --free '`pool_put(ptr=arg0)`'
    #[arg(long, value_name = "SPEC", requires = "object")]
    pub(super) free: Vec<String>,

    /// The executable or library with the functions of --alloc and --free.
    ///
    /// Its path as the traced process sees it. Example: --object /usr/lib/libpool.so.1
    #[arg(long, value_name = "PATH", requires = "custom_functions")]
    pub(super) object: Option<PathBuf>,

    /// Also trace the pools that Python takes into use for small objects.
    ///
    /// Python cuts its arenas (1 MiB; 256 KiB up to 3.9) into pools of 16 KiB (4 KiB), each for objects of one size.
    /// Arenas are always traced and name a leak from megabytes on; pools name it from kilobytes on, at the
    /// price of some thousand events a second in a busy program. Example: --python-pools
    #[arg(long)]
    pub(super) python_pools: bool,

    /// Have the command's Python take every object from malloc; needs -- CMD.
    ///
    /// Sets PYTHONMALLOC=malloc for it. Small objects, of which Python otherwise takes a million from one arena, are
    /// then blocks of their own, each with its stack; tracing them costs far more, and --sample-bytes helps. The program
    /// itself runs up to 1.5 times slower. No effect on Python that is started with -E or -I.
    /// Example: leaktrace --python-malloc -- python3 app.py
    #[arg(long)]
    pub(super) python_malloc: bool,

    /// Start this command and trace it from before its first allocation.
    ///
    /// Its input, output and exit status are passed through. Example: leaktrace -- ./server --port 80
    #[arg(conflicts_with_all = ["all", "comm", "user", "cgroup", "container", "exclude"], last = true, value_name = "CMD")]
    pub(super) argv: Vec<OsString>,
}

/// Which processes, where they are not named one by one.
#[derive(Debug, Args)]
#[command(next_help_heading = "Target")]
#[group(skip)]
pub(super) struct SelectionArgs {
    /// All processes, those too that start later.
    #[arg(short = 'a', long)]
    pub(super) all: bool,

    /// Processes of this name, those too that start later.
    ///
    /// The name as `ps -o comm` has it: 15 bytes at most. May be given several times, as may --user, --cgroup and
    /// --container: values of one option are alternatives, and a process must suit each option that is given.
    /// Where they are traced, what they fork is traced too. Example: --comm postgres
    #[arg(long, value_name = "NAME", value_parser = parse::comm)]
    pub(super) comm: Vec<String>,

    /// Processes that this user runs, by name or number: the real user.
    ///
    /// Example: --user www-data
    #[arg(long, value_name = "USER", value_parser = parse::user)]
    pub(super) user: Vec<u32>,

    /// Processes in this control group or below it, of version 1 or 2.
    ///
    /// Its folder, or its path within the hierarchy. Example: --cgroup /sys/fs/cgroup/system.slice/nginx.service
    #[arg(long, value_name = "PATH")]
    pub(super) cgroup: Vec<PathBuf>,

    /// Processes of this container, pod or systemd unit.
    ///
    /// By its name or id (or the id's beginning), as docker, podman, containerd and CRI-O know it.
    /// Example: --container web
    #[arg(long, value_name = "NAME|ID")]
    pub(super) container: Vec<String>,

    /// Leave out processes that would be chosen: comm=, user=, cgroup=, container= or pid=.
    ///
    /// May be given several times; a bare NAME is comm=NAME. Example: --all --exclude comm=java --exclude user=root
    #[arg(long, value_name = "KIND=VALUE", value_parser = parse::exclude)]
    pub(super) exclude: Vec<Excluded>,
}

/// Which blocks count.
#[derive(Debug, Args)]
#[command(next_help_heading = "Filter")]
pub(super) struct FilterArgs {
    /// Report only blocks at least this old.
    ///
    /// Hides what is merely in use for the moment. A time: 500ms, 30s, 5m, 1h; a bare number counts
    /// seconds. Example: --older-than 30s
    #[arg(long, value_name = "DUR", default_value_t = Time(defaults::OLDER_THAN))]
    pub(super) older_than: Time,

    /// Ignore smaller blocks.
    ///
    /// They are not recorded at all, which saves memory and time. A size: 512, 4KiB, 1.5MiB (powers
    /// of 1024), 1KB (of 1000). The default is no limit. Example: --min-size 1KiB
    #[arg(long, value_name = "SIZE")]
    pub(super) min_size: Option<Size>,

    /// Ignore larger blocks.
    ///
    /// A size, as for --min-size. The default is no limit. Example: --max-size 64MiB
    #[arg(long, value_name = "SIZE")]
    pub(super) max_size: Option<Size>,
}

/// Which allocations are recorded.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub(super) struct SamplingArgs {
    /// Record a sample: one allocation in this many bytes of a thread, on average; 0 records all.
    ///
    /// For programs that allocate so often that recording everything costs too much. Large blocks are
    /// more likely to be taken than small ones, and each one that is stands for those that are not:
    /// bytes and blocks become estimates, with the range that holds the true number in 95 of 100 runs.
    /// A size from 1KiB to 64MiB, as for --min-size. The default is 0 with -p and -- CMD, and 512KiB where processes are
    /// chosen by --all, --comm and their like. Example: --sample-bytes 512KiB
    #[arg(long, value_name = "SIZE")]
    pub(super) sample_bytes: Option<Size>,

    /// Hold what tracing costs the targets to this share of their CPU time.
    ///
    /// leaktrace measures its cost all the time. Above the bound it first records fewer allocations, as if by a
    /// larger --sample-bytes, and then stops probing the functions that are called most for a while at a
    /// time. The report says what was paused, and what cannot be known because of it. Every report
    /// states the cost, also without this option. A percentage from 0.1% to 100%, or off. Example: --max-overhead 2%
    ///
    /// The default is off, but for running Python processes (-p), where it is 5% unless --sample-bytes is given: their
    /// programs call malloc millions of times a second at times. As long as tracing costs less, all is recorded.
    #[arg(
        long,
        value_name = "PERCENT",
        value_parser = parse::overhead,
        allow_hyphen_values = true,
        overrides_with = "max_overhead"
    )]
    pub(super) max_overhead: Option<Bound>,
}

/// When to report, and what.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub(super) struct ReportArgs {
    /// Time between reports; 0 reports only at the end.
    ///
    /// On a terminal each report replaces the one before, otherwise it is appended. A time: 500ms,
    /// 30s, 5m, 1h; a bare number counts seconds. Example: -i 1m
    #[arg(short, long, value_name = "DUR", default_value_t = Time(defaults::INTERVAL))]
    pub(super) interval: Time,

    /// Stop after this time.
    ///
    /// The traced processes keep running. A time, as for --interval. The default is to trace until
    /// Ctrl-C or until all traced processes have ended. Example: -d 10m
    #[arg(short, long, value_name = "DUR")]
    pub(super) duration: Option<Time>,

    /// List this many sites, those that matter most.
    ///
    /// The totals count all of them, and what is not listed is summed up below. 0 lists none.
    /// Example: --top 25
    #[arg(long, value_name = "N", default_value_t = defaults::TOP, value_parser = parse::count, allow_negative_numbers = true)]
    pub(super) top: usize,

    /// What the sites are sorted by, largest first.
    #[arg(long, value_enum, value_name = "KEY", default_value_t = defaults::SORT)]
    pub(super) sort: Sort,

    /// Sum the sites of several processes up by this.
    ///
    /// Processes of one program allocate at the same places in its code. By site, such a place is one entry, with the
    /// sum over all processes that run the program; by container or comm, it is the sum over the processes of one
    /// container or of one name. By process each has its own: that is the default. GPU memory is always listed by process.
    #[arg(long, value_enum, value_name = "KEY")]
    pub(super) by: Option<By>,

    /// Also list the blocks of each site, the 1000 oldest: address, size and age.
    #[arg(long)]
    pub(super) show_blocks: bool,

    /// Count all objects of Python, and list all types.
    ///
    /// Reports have the types of which there are more than at the attach, and count the objects that Python's garbage
    /// collector knows: containers and objects of classes. With this option they also count strings, numbers and
    /// whatever else lies in the pools of small objects, which takes longer. Objects are read from outside: no probe,
    /// no pause, some 2 % of a CPU at most. Example: leaktrace -p 4242 --census
    #[arg(long)]
    pub(super) census: bool,

    /// Also show the frames of the Python interpreter itself.
    ///
    /// They lie between a program's Python lines and say only how these are run. --format json always
    /// has them, marked as plumbing.
    #[arg(long)]
    pub(super) native: bool,
}

/// When the run has failed, and what may be there all the same.
#[derive(Debug, Args)]
#[command(next_help_heading = "Gate")]
pub(super) struct GateArgs {
    /// Exit with status 1 if this holds at the end: growing, 'survivors>N' or 'bytes>SIZE'.
    ///
    /// growing: a site, or a type of Python, is taken for a leak; what is undecided is not. survivors and bytes: so many
    /// blocks or bytes are outstanding that pass the filters, of the host's memory or of one kind of GPU memory, those not listed
    /// included; of samples the lower bound counts. >= works too. Separated by commas, or given several times: one is
    /// enough. The sites are named. Example: --fail-on growing --fail-on 'bytes>10MiB'
    #[arg(long, value_name = "COND", value_delimiter = ',')]
    pub(super) fail_on: Vec<Condition>,

    /// Leave out the sites that this file names, in LeakSanitizer's syntax.
    ///
    /// A line leak:PATTERN leaves out each site that has PATTERN in the name of a function, source file or library of its
    /// stack: * is anything, ^ the beginning of the name, $ its end. # begins a comment. Totals still have them. May
    /// be given several times. Example: --suppressions known.supp
    #[arg(long, value_name = "FILE")]
    pub(super) suppressions: Vec<PathBuf>,
}

/// Where the reports go, and in which form.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub(super) struct OutputArgs {
    /// Format of the report.
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = defaults::FORMAT)]
    pub(super) format: Format,

    /// Write the reports to this file instead of standard output.
    ///
    /// It is created or emptied before anything is traced. '-' is standard output.
    /// Example: -o leak.json --format json
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
}

/// How much to keep.
#[derive(Debug, Args)]
#[command(next_help_heading = "Bounds")]
pub(super) struct BoundArgs {
    /// Track at most this many blocks at a time.
    ///
    /// The kernel's memory for them grows only as they are used, by some 100 bytes a block. Blocks
    /// beyond the bound are not recorded: the report counts them as `live_full` and warns.
    /// Example: --max-live 50000000
    #[arg(long, value_name = "N", default_value_t = defaults::MAX_LIVE, value_parser = parse::bound, allow_negative_numbers = true)]
    pub(super) max_live: u32,

    /// Track at most this many blocks of one process at a time, where there are many.
    ///
    /// One that holds more cannot push out the others: its blocks beyond the bound are not recorded, and the report
    /// counts them as `live_process_full`. The default is a quarter of --max-live. Example: --max-live-per-process 100000
    #[arg(long, value_name = "N", value_parser = parse::bound, allow_negative_numbers = true)]
    pub(super) max_live_per_process: Option<u32>,

    /// Whose calls the probes see, where processes are chosen by --all, --comm and their like.
    ///
    /// process: each target has probes of its own. Nobody else pays, and what a process does in the first moments after
    /// its start goes unseen. host: the probes of a file are for all processes that map it. Nothing is missed, and each
    /// call of a process that is no target costs it a trap. auto: host with --all, for more than 16 processes and for files
    /// that only targets map; else process.
    #[arg(long, value_enum, value_name = "SCOPE", default_value_t = Scope::Auto)]
    pub(super) scope: Scope,

    /// End all tracing when this file is there, and do not begin.
    ///
    /// So that one command can end it on many hosts; SIGUSR1 does the same. Example: --killswitch /run/tracing.off
    #[arg(long, value_name = "FILE", default_value = killswitch::DEFAULT)]
    pub(super) killswitch: PathBuf,

    /// Attach by this mechanism and no other, for tests.
    #[arg(long, value_enum, value_name = "KIND", hide = true)]
    pub(super) attach: Option<AttachKind>,

    /// Probe functions at this place, for tests.
    #[arg(long, value_enum, value_name = "PLACE", default_value_t = ProbeAt::Site, hide = true)]
    pub(super) probe_at: ProbeAt,

    /// Walk stacks in this way and no other, for tests.
    #[arg(long, value_enum, value_name = "WAY", hide = true)]
    pub(super) unwind: Option<Unwind>,

    /// Give unwind tables at most this much of the kernel's memory.
    ///
    /// It is taken as needed when tracing begins, from 2 MiB on. What does not fit is counted as
    /// `unwind_tables_full`. Example: --max-unwind 256MiB
    #[arg(long, value_name = "SIZE", default_value_t = Size(defaults::MAX_UNWIND_BYTES))]
    pub(super) max_unwind: Size,

    /// Walk each stack once more in another way and report where the two differ, for tests.
    #[arg(long, hide = true)]
    pub(super) verify_stacks: bool,

    /// End when the process that has started this one does: this one, for 'leaktrace watch'.
    #[arg(long, value_name = "PID", hide = true)]
    pub(super) ends_with_parent: Option<u32>,
}

/// What every subcommand takes.
#[derive(Debug, Args)]
pub(super) struct GeneralArgs {
    /// Say more on standard error: -v each probe and what is not probed and why, -vv the kernel's log too.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,

    /// Use no colour.
    ///
    /// It is used on a terminal only, and not if `NO_COLOR` is set.
    #[arg(long, global = true)]
    pub(super) no_color: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Trace a small built-in program that leaks, to see a report.
    ///
    /// The program holds a steady leak, a bounded cache, a start-up block and churn, of known sizes.
    Demo(DemoArgs),
    /// Say which processes grow and which stacks first touched the memory that grew, without a probe.
    ///
    /// For any language and allocator: by page faults that the kernel samples. With --arm, those that keep growing are
    /// traced, and not any more when they stop. Example: leaktrace watch -a --arm 'rss>10MiB/10min'
    Watch(Box<WatchArgs>),
    /// Say what this kernel and user can do, and what to do about what is missing.
    ///
    /// Exit status 2 when tracing is impossible.
    Doctor,
    /// Print a completion script for a shell.
    ///
    /// Example: leaktrace completions bash > /`etc/bash_completion.d/leaktrace`
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Print the manual page, in roff.
    ///
    /// Example: leaktrace man > /usr/local/share/man/man1/leaktrace.1
    Man,
    /// Print at which instruction each allocator function of these files is probed, as a Markdown table.
    #[command(hide = true)]
    Probes {
        /// Libraries and executables.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Print what the unwind tables of these files hold, as a Markdown table.
    #[command(hide = true)]
    Tables {
        /// Libraries and executables.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// The program that 'leaktrace demo' traces.
    #[command(hide = true)]
    DemoTarget,
}

/// Options of `leaktrace demo`.
#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Stop after this time.
    ///
    /// A time: 500ms, 30s, 5m; a bare number counts seconds. Example: -d 20s
    #[arg(short, long, value_name = "DUR", default_value_t = Time(defaults::DEMO_DURATION))]
    pub(super) duration: Time,

    #[command(flatten)]
    pub(super) output: OutputArgs,

    /// Attach by this mechanism and no other, for tests.
    #[arg(long, value_enum, value_name = "KIND", hide = true)]
    pub(super) attach: Option<AttachKind>,
}
