//! Setting a run up: look at the kernel, load the kernel side, take the processes in. In an order that
//! leaves nothing behind and misses nothing: whatever fails, nothing is attached yet or everything goes
//! with the values that are dropped.

use std::{
    ffi::OsString,
    path::PathBuf,
    process::Child,
    sync::{Arc, Mutex},
};

use aya_log::EbpfLogger;
use leaktrace_common::{config as kernel_config, select::Rules};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::Notify;

use super::{
    collect::Collector,
    gpu::GpuMemory,
    keep::Keeper,
    mapped::Mapped,
    members::{self, Departed},
    stacks::Stacks,
    whereabouts::HostContainers,
};
use crate::{
    config::{Config, Gpu, Share, Sort, Target, Unwind, defaults},
    container::containers::Containers,
    doctor,
    error::{Error, system},
    kernel::{
        caps::{AttachKind, Caps},
        counters::{Counters, HitTable},
        events::EventReader,
        gpu::GpuTables,
        maps::{self as kernel_maps, LiveTable, TableError, Tables},
        object::{self, KernelSide, LoadError},
        python::{MappedInterpreters, PartTable, Parts},
        raw::RawStacks,
        sideband::Sideband,
        tables::{Room, UnwindArrays},
        version::KernelVersion,
    },
    launch::{self, Held},
    overhead::{calibrate::calibrate, meter::Meter},
    probe::{attach::Attacher, closure, process},
    python::{codes::Codes, resolver::Resolver},
    select::Selected,
    symbol::objects::ObjectId,
    traced::{
        catalog::Catalog,
        set::{self, TracedSet},
    },
    track::{self, Settings},
    unwind::{self, Unwinder, files::Files, library},
};

/// All that runs while tracing.
pub(super) struct Running {
    /// Who is traced.
    pub traced: TracedSet,
    /// What is read.
    pub collector: Collector,
    /// The ledger's kernel part.
    pub counters: Counters,
    /// What the targets map by themselves.
    pub mapped: Mapped,
    /// What tracing costs.
    pub meter: Meter,
    /// Holds it to `--max-overhead`.
    pub keeper: Option<Keeper>,
    /// New mappings, exec, fork.
    pub sideband: Sideband,
    /// Rare events of the kernel side.
    pub events: EventReader,
    /// Unwind tables have been loaded.
    pub loaded: Arc<Notify>,
    /// Members that have left and are still to be taken out of the tables.
    pub departed: Departed,
    /// The child of `leaktrace -- CMD`.
    pub child: Option<Child>,
    /// `uname -r`.
    pub kernel_release: String,
    /// The kernel side's own log, drained where `-vv` asks for it.
    pub log: Option<EbpfLogger<&'static dyn log::Log>>,
    /// Maps and tracepoints, which live as long as this does; dropped last.
    pub _kernel: aya::Ebpf,
}

impl Running {
    /// Takes everything from the targets that costs them anything.
    pub(super) fn release_all(&mut self) {
        self.traced.release_all();
        self.mapped.release();
    }
}

/// Stacks that one process may put into their table, of the 262 144 it has room for, where there are many.
pub(super) const STACKS_OF_PROCESS: u64 = 1 << 16;

/// Gets everything in place.
///
/// # Errors
/// [`Error`].
pub(super) fn start(config: &mut Config) -> Result<Running, Error> {
    let caps = Caps::probe();
    let kind = doctor::choose(&caps, config.attach).map_err(Error::Unable)?;
    let unwind = doctor::choose_unwind(&caps, config.unwind).map_err(Error::Unable)?;
    let mut catalog =
        Catalog::new(config.custom.clone(), config.probe_at).with_gpu(config.gpu, config.gpu_reservations);
    catalog.check_custom()?;
    // Before leaktrace raises its own limits, which the command would inherit.
    let held = match &config.target {
        Target::Command(line) => Some(hold_command(line, config.python_malloc)?),
        Target::Pids(_) | Target::Selected(_) => None,
    };
    let mut containers = Containers::here();
    let mut selected = match &config.target {
        Target::Selected(selection) => Some(Selected::resolve((**selection).clone(), &mut containers)?),
        Target::Pids(_) | Target::Command(_) => None,
    };
    raise_file_limit();
    // Before the kernel side is loaded: how much room it needs for them is said then.
    let mut files = Files::new(library::default_cache_dir());
    let loaded = files.wake();
    let paths = held.as_ref().map(|(_, paths)| paths.as_slice());
    let first = first_files(config, &mut catalog, caps.version, paths, selected.as_mut());
    if unwind == Unwind::Tables {
        files.prepare(&catalog.objects, first);
    }
    let config = &*config;
    let room = Room {
        row_chunks: unwind::row_chunks(files.rows(), config.max_unwind_bytes),
        mappings: unwind::MAPPINGS,
    };
    let (mut kernel, tier) = object::load(constants(config, &caps, unwind, selected.as_ref()), kind, room)?;
    let unwinder = match unwind {
        Unwind::Tables => Some(Unwinder::new(files, Box::new(UnwindArrays::new(&kernel)?))),
        Unwind::FramePointers => None,
    };
    let (interpreters, parts, new_parts) = python_maps(config, &mut kernel)?;
    let live = Arc::new(Mutex::new(LiveTable::new(&kernel, tier, config.max_live)?));
    let tables = Tables::new(&kernel)?;
    let gpu = gpu_memory(config, &kernel)?;
    // Before anything is attached: a thread draws its first gap at its first allocation.
    tables.set_mean(config.sample_bytes)?;
    let counters = Counters::new(&mut kernel.ebpf).map_err(LoadError::Maps)?;
    let pmu = caps.perf.as_ref().ok().copied();
    let costs = calibrate(kind, pmu)
        .map_err(|error| error.to_string())
        .inspect_err(|why| tracing::warn!("what tracing costs is unknown: {why}"));
    let hits = HitTable::new(&mut kernel.ebpf).map_err(LoadError::Maps)?;
    let events = EventReader::start(&mut kernel.ebpf, &live).map_err(LoadError::Maps)?;
    let raw = RawStacks::start(&mut kernel.ebpf).map_err(LoadError::Maps)?;
    judge(&tables, config, selected.as_ref())?;
    let (mapped, sideband) = listen(&mut kernel, config, selected.is_some())?;

    let KernelSide { mut ebpf, programs } = kernel;
    let log = kernel_log(&mut ebpf);
    let attacher = Attacher::new(programs, pmu);
    let mut traced = TracedSet::new(attacher, unwinder, catalog, caps.version, config.follow_forks);
    traced.no_frames = no_frames(&caps);
    let resolver = match interpreters {
        Some(interpreters) => Some(follow_python(&mut traced, interpreters, new_parts)?),
        None => None,
    };
    if config.python_pools {
        traced.probe_pools();
    }
    // It times the programs from their first run on.
    let meter = Meter::new(
        costs,
        hits,
        kind == AttachKind::Session,
        named(config).iter().copied(),
    );
    let keeper = keeper(config, &mut traced);
    let child = match &mut selected {
        Some(selected) => {
            members::take_in(&mut traced, config, selected, &tables)?;
            None
        }
        None => attach(&mut traced, config, held, &tables)?,
    };
    let of_all = selected.and_then(|selected| selected.container);
    let mut collector = Collector::new(
        tables,
        live,
        Stacks::new(raw, Box::new(parts), config.verify_stacks),
        settings(config),
        config.by,
        Box::new(HostContainers::new(containers, of_all)),
    );
    set_up(&mut collector, config, gpu, resolver);
    Ok(Running {
        traced,
        collector,
        counters,
        mapped,
        meter,
        keeper,
        sideband,
        events,
        loaded,
        child,
        departed: Departed::default(),
        kernel_release: caps.release,
        log,
        _kernel: ebpf,
    })
}

/// The files that are mapped first: of a command these, or those of targets that run.
fn first_files(
    config: &mut Config,
    catalog: &mut Catalog,
    kernel: KernelVersion,
    of_command: Option<&[PathBuf]>,
    selected: Option<&mut Selected>,
) -> Vec<ObjectId> {
    if let Some(paths) = of_command {
        return of_paths(catalog, paths);
    }
    let first = of_targets(catalog, kernel, &config.target, selected);
    bound_python(config, catalog, &first);
    first
}

/// What keeps the cost to a bound, where there is one.
fn keeper(config: &Config, traced: &mut TracedSet) -> Option<Keeper> {
    let share = config.max_overhead?;
    traced.allow_pauses();
    Some(Keeper::new(
        share.to_f64(),
        config.sample_bytes,
        config.bounds_python,
    ))
}

/// What tells of processes and of what they map. Before the first look at /proc/PID/maps, so that no mapping falls between
/// the two.
fn listen(kernel: &mut KernelSide, config: &Config, selects: bool) -> Result<(Mapped, Sideband), Error> {
    kernel.attach_tracepoints(selects)?;
    let mapped = Mapped::follow(kernel, config.mappings)?;
    Ok((mapped, open_sideband(selects)?))
}

/// Perf's side-band, read ahead where processes come and go.
fn open_sideband(ahead: bool) -> Result<Sideband, Error> {
    let mut sideband = Sideband::open()?;
    if ahead {
        sideband
            .read_ahead()
            .map_err(system("cannot start the thread that reads perf's side-band"))?;
    }
    Ok(sideband)
}

/// Why no frames of Python can be found on this kernel.
fn no_frames(caps: &Caps) -> Option<String> {
    caps.thread_pointer.as_ref().err().map(|error| {
        format!("{error}; a kernel with CONFIG_DEBUG_INFO_BTF says where it keeps what Python's frames are found by")
    })
}

/// The running processes that were named.
fn named(config: &Config) -> &[u32] {
    match &config.target {
        Target::Pids(pids) => pids,
        Target::Command(_) | Target::Selected(_) => &[],
    }
}

/// Tells the kernel side who is a member, and how much of the tables each process may have.
fn judge(tables: &Tables, config: &Config, selected: Option<&Selected>) -> Result<(), TableError> {
    for (property, &verdict) in selected.iter().flat_map(|selected| &selected.properties) {
        tables.judge(property, verdict)?;
    }
    tables.set_shares(config.max_live_per_process.into(), STACKS_OF_PROCESS)
}

/// What the kernel side is told once.
fn constants(
    config: &Config,
    caps: &Caps,
    unwind: Unwind,
    selected: Option<&Selected>,
) -> kernel_config::Config {
    kernel_config::Config {
        min_size_bytes: config.filters.min_size_bytes,
        max_size_bytes: config.filters.max_size_bytes,
        sampling: u64::from(config.samples()),
        site_shard_mask: u64::from(kernel_maps::site_shards() - 1),
        unwind: u64::from(unwind == Unwind::Tables),
        verify: u64::from(config.verify_stacks),
        // Where that is not known, stacks end at them.
        return_probes: caps.return_probes.clone().unwrap_or_default(),
        thread_pointer: match caps.thread_pointer {
            Ok(offset) if config.python => u64::from(offset),
            _ => 0,
        },
        rules: selected.map_or(Rules::NONE, |selected| selected.rules),
    }
}

/// Where the kernel side takes what it is to know of interpreters, unless they are not to be followed, and where it keeps
/// and tells of their frames.
fn python_maps(
    config: &Config,
    kernel: &mut KernelSide,
) -> Result<(Option<MappedInterpreters>, PartTable, Parts), LoadError> {
    let interpreters = config.python.then(|| MappedInterpreters::new(kernel));
    Ok((
        interpreters.transpose()?,
        PartTable::new(kernel)?,
        Parts::new(kernel)?,
    ))
}

/// What is read besides blocks of the heap.
fn set_up(collector: &mut Collector, config: &Config, gpu: Option<GpuMemory>, resolver: Option<Resolver>) {
    if config.python_pools {
        collector.follow_pools();
    }
    if let Some(gpu) = gpu {
        collector.follow_gpu(gpu);
    }
    if let Some(resolver) = resolver {
        collector.read_code(resolver);
    }
}

/// What reads of GPU memory, unless that is not to be followed.
fn gpu_memory(config: &Config, kernel: &KernelSide) -> Result<Option<GpuMemory>, LoadError> {
    Ok(match config.gpu {
        Gpu::Off => None,
        Gpu::WhereFound | Gpu::Always => Some(GpuMemory::new(Box::new(GpuTables::new(kernel)?))),
    })
}

/// Before anything is attached: code objects of the first frames are read, too.
fn follow_python(
    traced: &mut TracedSet,
    interpreters: MappedInterpreters,
    new_parts: Parts,
) -> Result<Resolver, Error> {
    let codes = Codes::default();
    traced.follow_python(Box::new(interpreters), codes.clone());
    Resolver::start(Box::new(new_parts), codes)
        .map_err(system("cannot start the thread that reads Python code"))
}

/// Takes the targets in, and lets a command go.
fn attach(
    traced: &mut TracedSet,
    config: &Config,
    held: Option<(Held, Vec<PathBuf>)>,
    tables: &Tables,
) -> Result<Option<Child>, Error> {
    if let Target::Pids(pids) = &config.target {
        for &pid in pids {
            traced.attach(pid, tables)?;
        }
    }
    let Some((held, objects)) = held else {
        return Ok(None);
    };
    traced.attach_held(held.pid, &objects, tables)?;
    Ok(Some(held.release()?))
}

/// The command, held before its `exec`, and the files it will map first.
fn hold_command(line: &[OsString], python_malloc: bool) -> Result<(Held, Vec<PathBuf>), Error> {
    let Some((program, args)) = line.split_first() else {
        return Err(Error::Unable("no command given; type it after --".to_owned()));
    };
    let objects = closure::objects_of_command(program, &|name| std::env::var_os(name))?;
    let environment: &[_] = if python_malloc {
        &[("PYTHONMALLOC", "malloc")]
    } else {
        &[]
    };
    Ok((launch::hold(program, args, environment)?, objects))
}

/// The files that the targets map, as far as those can be traced: why one cannot is said when it is attached to.
fn of_targets(
    catalog: &mut Catalog,
    kernel: KernelVersion,
    target: &Target,
    selected: Option<&mut Selected>,
) -> Vec<ObjectId> {
    let pids = match (target, selected) {
        (Target::Pids(pids), _) => pids.clone(),
        (_, Some(selected)) => selected.running(),
        _ => return Vec::new(),
    };
    let mut objects = Vec::new();
    for pid in pids {
        let (Ok(facts), Ok(maps)) = (process::facts(pid), process::mappings(pid)) else {
            continue;
        };
        if set::check(catalog, kernel, pid, &facts, &maps).is_err() {
            continue;
        }
        for mapping in maps.iter().filter(|mapping| mapping.executable) {
            objects.extend(catalog.of_mapping(pid, mapping));
        }
    }
    objects
}

/// Running Python processes are held to a bound unless something else was asked for.
fn bound_python(config: &mut Config, catalog: &mut Catalog, objects: &[ObjectId]) {
    let bounds = config.bounds_python && config.python;
    config.bounds_python = bounds
        && objects
            .iter()
            .any(|&object| catalog.python(object).interpreter.is_some());
    if config.bounds_python {
        config.max_overhead = Some(Share::of_percent(defaults::PYTHON_OVERHEAD_PERCENT));
    }
}

/// The same for the files of a command.
fn of_paths(catalog: &mut Catalog, paths: &[PathBuf]) -> Vec<ObjectId> {
    let mut objects = Vec::new();
    for path in paths {
        objects.extend(catalog.of_path(path).ok().flatten());
    }
    objects
}

fn settings(config: &Config) -> Settings {
    Settings {
        older_than_ns: config.filters.older_than.as_nanos() as u64,
        top: config.top,
        sort: sort(config.sort),
        blocks_per_site: config.show_blocks.then_some(track::BLOCKS_PER_SITE),
        largest_mean_bytes: config.samples().then_some(config.sample_bytes),
    }
}

pub(super) const fn sort(sort: Sort) -> track::Sort {
    match sort {
        Sort::Loss => track::Sort::Loss,
        Sort::Bytes => track::Sort::Bytes,
        Sort::Blocks => track::Sort::Blocks,
        Sort::Growth => track::Sort::Growth,
        Sort::Age => track::Sort::Age,
    }
}

/// The kernel side's log, if somebody wants to read it; without one, its level keeps it silent.
fn kernel_log(ebpf: &mut aya::Ebpf) -> Option<EbpfLogger<&'static dyn log::Log>> {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return None;
    }
    EbpfLogger::init(ebpf)
        .inspect_err(|error| tracing::debug!("no log of the kernel side: {error}"))
        .ok()
}

/// Every link and every mapped file is a descriptor: take as many as the hard limit gives.
fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::debug!("cannot raise the limit of open files: {error}");
    }
}

/// A runtime on this thread alone.
///
/// # Errors
/// [`Error::System`].
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("cannot set up the event loop"))
}
