//! All traced processes: taking one in, probing what it maps, letting it go.
//!
//! Must not know what the side-band tells: that is `follow`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    thread::JoinHandle,
};

use leaktrace_common::record::tracked;

use super::{
    catalog::Catalog,
    host::Host,
    members::{Joins, MemberCounts},
    newcomers::Newcomers,
    pauser::Pauser,
    process::Traced,
    warnings::Warnings,
};
use crate::{
    kernel::{
        clock::now_ns,
        maps::{TableError, Tables},
        python::Interpreters,
        version::KernelVersion,
    },
    probe::{
        attach::{self, AttachError, Attacher, Links},
        elf::{ElfError, Scan},
        gear::Gear,
        listing,
        process::{self as proc, Mapping, ProcessError},
        refuse::{self, Refusal},
    },
    python::codes::Codes,
    report::model::State,
    symbol::{mappings, objects::ObjectId},
    unwind::{Unwinder, slots::NO_SLOT},
};

/// A process cannot be traced.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// It could not be looked at.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// Tracing it would endanger it or see nothing.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A probe could not be placed.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// A file could not be read.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// A kernel table could not be written.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The number went to another process meanwhile.
    #[error(
        "process {pid} has ended and its pid went to another process while leaktrace attached; look its pid up again"
    )]
    Reused {
        /// The pid.
        pid: u32,
    },
    /// Nothing to probe.
    #[error(
        "no allocator found in process {pid} ({comm}): none of the {objects} files it maps defines malloc or another function leaktrace knows; name your allocator's with --alloc, --free and --object"
    )]
    NoAllocator {
        /// The process.
        pid: u32,
        /// Its name.
        comm: String,
        /// Files looked at.
        objects: usize,
    },
}

/// What following the processes has cost in sight; part of the ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unseen {
    /// Objects with allocator functions that were probed only after the process had mapped them.
    pub objects_late: u64,
    /// Children that were forked and not traced.
    pub forks_not_followed: u64,
    /// Children that were traced only after they had begun to run.
    pub forks_followed_late: u64,
}

/// The processes.
#[derive(Debug)]
pub struct TracedSet {
    pub(super) attacher: Arc<Attacher>,
    /// Present where functions can be paused one by one.
    pub(super) pauser: Option<Pauser>,
    /// Those that are paused, by slot.
    pub(super) out: BTreeSet<u16>,
    /// Present where stacks are walked by unwind tables.
    pub(super) unwinder: Option<Unwinder>,
    /// Present where Python is followed.
    pub(super) interpreters: Option<Box<dyn Interpreters>>,
    /// Why none of them can be followed on this kernel.
    pub no_frames: Option<String>,
    /// The code objects that they run.
    pub codes: Codes,
    /// Their files.
    pub catalog: Catalog,
    pub(super) kernel: KernelVersion,
    pub(super) follow_forks: bool,
    /// Probes that all processes have in common.
    pub(super) host: Host,
    pub(super) python_pools: bool,
    pub(super) processes: BTreeMap<u32, Traced>,
    /// Which processes become targets by themselves, and how many have.
    pub(super) joins: Joins,
    /// Members that have become programs that must not be probed.
    pub(super) turned_away: Vec<u32>,
    /// Members that must not be probed, until they have left.
    pub(super) refused: BTreeSet<u32>,
    pub(super) members: MemberCounts,
    pub(super) newcomers: Newcomers,
    /// Threads that take probes out.
    pub(super) releasing: Vec<JoinHandle<()>>,
    /// See [`Unseen`].
    pub unseen: Unseen,
    /// Sentences for the report.
    pub warnings: Warnings,
}

impl TracedSet {
    /// Nothing traced yet.
    pub fn new(
        attacher: Attacher,
        unwinder: Option<Unwinder>,
        catalog: Catalog,
        kernel: KernelVersion,
        follow_forks: bool,
    ) -> Self {
        let warnings = kernel.return_probes_break_seccomp().then(|| {
            format!(
                "kernel {kernel} kills a traced process that begins to filter its system calls (seccomp) while it is \
                 traced (CVE-2025-21834); boot Linux 6.12.14, 6.13.3, 6.14 or newer"
            )
        });
        Self {
            attacher: Arc::new(attacher),
            pauser: None,
            out: BTreeSet::new(),
            unwinder,
            interpreters: None,
            no_frames: None,
            codes: Codes::default(),
            catalog,
            kernel,
            follow_forks,
            host: Host::default(),
            python_pools: false,
            processes: BTreeMap::new(),
            joins: Joins::None,
            turned_away: Vec::new(),
            refused: BTreeSet::new(),
            releasing: Vec::new(),
            members: MemberCounts::default(),
            newcomers: Newcomers::default(),
            unseen: Unseen::default(),
            warnings: warnings.into_iter().collect(),
        }
    }

    /// From here on pools of Python are probed too.
    pub const fn probe_pools(&mut self) {
        self.python_pools = true;
    }

    /// Takes a running process in: checks it, probes what it maps.
    ///
    /// # Errors
    /// [`TraceError`]; the process is then untouched.
    pub fn attach(&mut self, pid: u32, tables: &Tables) -> Result<(), TraceError> {
        let facts = proc::facts(pid)?;
        let maps = proc::mappings(pid)?;
        self.check(pid, &facts, &maps)?;
        let mut traced = Traced::new(pid, facts.comm.clone(), facts.exe.clone());
        // First the kernel side, then the look at what is mapped: an exec in between is told by both.
        self.count(pid, tables)?;
        if let Err(error) = self.probe_all(&mut traced, &facts) {
            self.let_go(pid, tables)?;
            return Err(error);
        }
        traced.rss_bytes = proc::rss_bytes(pid).ok();
        self.processes.insert(pid, traced);
        Ok(())
    }

    /// Probes what a process maps, once its stacks can be walked.
    fn probe_all(&mut self, traced: &mut Traced, facts: &proc::Facts) -> Result<(), TraceError> {
        let pid = traced.pid;
        traced.counted_from(now_ns());
        traced.known_from(now_ns());
        let objects = self.read_mappings(traced)?;
        self.prepare(&objects);
        self.publish(traced);
        let looked_at = objects.len();
        for object in objects {
            self.probe(traced, object)?;
        }
        self.probe_driver_ahead(traced);
        if traced.probed().next().is_none() {
            return Err(TraceError::NoAllocator {
                pid,
                comm: facts.comm.clone(),
                objects: looked_at,
            });
        }
        if proc::start_ticks(pid)? != facts.start_ticks {
            return Err(TraceError::Reused { pid });
        }
        Ok(())
    }

    /// Tells the kernel side of a process.
    pub(super) fn count(&mut self, pid: u32, tables: &Tables) -> Result<(), TableError> {
        let slot = self.layout_slot(pid);
        tables.set_layout(pid, slot)?;
        tables.add_process(pid, tracked::TOLD | tracked::NAMED)
    }

    /// A slot for the layout of a process.
    pub(super) fn layout_slot(&mut self, pid: u32) -> u32 {
        self.unwinder
            .as_mut()
            .map_or(NO_SLOT, |unwinder| unwinder.join(pid, now_ns()))
    }

    /// Takes back [`Self::count`].
    pub(super) fn let_go(&mut self, pid: u32, tables: &Tables) -> Result<(), TableError> {
        self.forget(pid);
        tables.remove_process(pid)
    }

    /// Takes over what `/proc` says is mapped; the objects, each once for each of its mappings.
    pub(super) fn read_mappings(&mut self, traced: &mut Traced) -> Result<Vec<ObjectId>, ProcessError> {
        if let Some(path) = jit_map(traced.pid) {
            traced.set_jit_map(path);
        }
        let mut objects = Vec::new();
        for mapping in proc::mappings(traced.pid)?
            .iter()
            .filter(|mapping| mapping.executable)
        {
            let object = self.catalog.of_mapping(traced.pid, mapping);
            traced.map(code(mapping, object));
            objects.extend(object);
        }
        Ok(objects)
    }

    /// Takes in a child of ours that has not executed its program yet: `objects` are the files that it
    /// will map first.
    ///
    /// # Errors
    /// [`TraceError`].
    pub fn attach_held(&mut self, pid: u32, objects: &[PathBuf], tables: &Tables) -> Result<(), TraceError> {
        let mut traced = Traced::new(pid, "leaktrace".to_owned(), None);
        self.count(pid, tables)?;
        traced.counted_from(now_ns());
        traced.known_from(now_ns());
        for (index, path) in objects.iter().enumerate() {
            let Some(object) = self.catalog.of_path(path)? else {
                continue;
            };
            if index == 0 {
                let facts = proc::facts(pid)?;
                refuse::check(
                    pid,
                    &facts,
                    self.catalog.scanned(object).as_deref(),
                    self.kernel,
                    true,
                )?;
            }
            self.probe(&mut traced, object)?;
            if self.interpreters.is_some() {
                // Looked at now, it is known as soon as it is mapped.
                self.catalog.python(object);
            }
        }
        self.probe_driver_ahead(&mut traced);
        self.processes.insert(pid, traced);
        Ok(())
    }

    pub(super) fn check(
        &mut self,
        pid: u32,
        facts: &proc::Facts,
        maps: &[Mapping],
    ) -> Result<(), TraceError> {
        Ok(check(&mut self.catalog, self.kernel, pid, facts, maps)?)
    }

    /// Probes an object in a process, once. Whether it has anything to probe that was not probed.
    pub(super) fn probe(&mut self, traced: &mut Traced, object: ObjectId) -> Result<bool, AttachError> {
        let Some(scan) = self.catalog.scanned(object) else {
            return Ok(false);
        };
        self.watch_linker(traced, object, &scan);
        let unseen = self.probe_for_python(traced, object, &scan)? | self.probe_gpu(traced, object, &scan);
        if scan.functions.is_empty() || traced.is_probed(object) {
            return Ok(unseen);
        }
        for (slot, links) in self.links_of(traced.pid, object, Gear::Heap, &scan.functions)? {
            traced.keep(object, Gear::Heap, slot, links);
        }
        self.log(traced.pid, object, &scan, Gear::Heap);
        traced.place(object);
        Ok(true)
    }

    /// The kernel side's programs.
    pub fn programs(&self) -> &crate::kernel::programs::Programs {
        self.attacher.programs()
    }

    pub(super) fn log(&self, pid: u32, object: ObjectId, scan: &Scan, gear: Gear) {
        let (functions, skipped) = scan.of(gear);
        let name = self.catalog.name(object);
        for function in functions {
            tracing::info!(
                "pid {pid}: {name} {} at {:#x}: {}",
                function.symbol,
                function.offset,
                listing::placement(function)
            );
        }
        for skipped in skipped {
            tracing::info!(
                "pid {pid}: {name} {} not probed: {}",
                skipped.function,
                skipped.reason
            );
        }
    }

    /// Looks at the resident memory of those that run.
    pub fn refresh_memory(&mut self) {
        for traced in self
            .processes
            .values_mut()
            .filter(|traced| traced.state == State::Running)
        {
            if let Ok(rss_bytes) = proc::rss_bytes(traced.pid) {
                traced.rss_bytes = Some(rss_bytes);
            }
            if !traced.leader_gone && proc::leader_has_ended(traced.pid) {
                traced.leader_gone = true;
                self.warnings.push(format!(
                    "the main thread of process {} has ended while others run: the kernel scopes probes by it, so \
                     calls may go unseen from now on; start the process again to trace it",
                    traced.pid
                ));
            }
        }
    }

    /// Takes probes out in a thread of its own: the kernel waits for a grace period or two for each link, and nobody else has
    /// to.
    pub(super) fn release_aside(&mut self, links: Vec<Links>) {
        self.releasing.retain(|thread| !thread.is_finished());
        if !links.is_empty() {
            self.releasing.push(std::thread::spawn(move || drop(links)));
        }
    }

    /// Takes every probe out. Returns when all are gone: a thread that ended with leaktrace while it takes one out might
    /// leave it.
    pub fn release_all(&mut self) {
        for thread in self.releasing.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread that takes probes out has failed");
            }
        }
        self.settle_all();
        let mut links: Vec<Links> = self.processes.values_mut().flat_map(Traced::take_links).collect();
        links.extend(self.host.take());
        attach::release(links);
        self.settle_all();
    }

    /// Whether any of them still runs.
    pub fn any_running(&self) -> bool {
        self.processes
            .values()
            .any(|traced| traced.state == State::Running)
    }

    /// All of them, the ended ones included, by pid.
    pub fn iter(&self) -> impl Iterator<Item = &Traced> {
        self.processes.values()
    }

    /// One of them.
    pub fn get(&self, pid: u32) -> Option<&Traced> {
        self.processes.get(&pid)
    }

    /// One of them, to note how it ended.
    pub fn get_mut(&mut self, pid: u32) -> Option<&mut Traced> {
        self.processes.get_mut(&pid)
    }

    /// Forgets a process that has ended, if it has. What it had mapped is not known any more.
    pub fn forget_ended(&mut self, pid: u32) -> bool {
        let has_ended = self.get(pid).is_some_and(|traced| traced.state == State::Exited);
        has_ended && self.processes.remove(&pid).is_some()
    }

    /// The mechanism in use.
    pub fn attach_kind(&self) -> crate::kernel::caps::AttachKind {
        self.attacher.kind()
    }
}

/// Whether a process can be traced, from what is known of it and what it maps.
///
/// # Errors
/// [`Refusal`].
pub fn check(
    catalog: &mut Catalog,
    kernel: KernelVersion,
    pid: u32,
    facts: &proc::Facts,
    maps: &[Mapping],
) -> Result<(), Refusal> {
    // The executable is the file that /proc/PID/exe names; it is mapped, if not always first.
    let executable = maps
        .iter()
        .find(|mapping| mapping.executable && mapping.path.is_some() && mapping.path == facts.exe)
        .or_else(|| {
            maps.iter()
                .find(|mapping| mapping.executable && mapping.inode != 0)
        });
    let object = executable.and_then(|mapping| catalog.of_mapping(pid, mapping));
    let scan = object.and_then(|object| catalog.scanned(object));
    refuse::check(pid, facts, scan.as_deref(), kernel, true)
}

pub(super) fn code(mapping: &Mapping, object: Option<ObjectId>) -> mappings::Mapping {
    mappings::Mapping {
        start: mapping.start,
        end: mapping.end,
        file_offset: mapping.offset,
        object,
        name: mapping
            .path
            .as_ref()
            .map_or_else(|| mapping.label.clone(), |path| path.display().to_string()),
        executable: true,
    }
}

/// Where a JIT compiler in the process writes its symbols: under the pid that the process itself sees.
pub(super) fn jit_map(pid: u32) -> Option<PathBuf> {
    let inner = proc::inner_pid(pid)?;
    Some(PathBuf::from(format!("/proc/{pid}/root/tmp/perf-{inner}.map")))
}
