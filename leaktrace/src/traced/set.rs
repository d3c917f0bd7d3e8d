//! All traced processes: taking one in, following what the side-band says of it, letting it go.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
};

use super::{catalog::Catalog, pauser::Pauser, process::Traced};
use crate::{
    kernel::{
        clock::now_ns,
        maps::{TableError, Tables},
        sideband::{Change, Entry},
        version::KernelVersion,
    },
    probe::{
        attach::{self, AttachError, Attacher, Links},
        elf::ElfError,
        listing,
        process::{self as proc, Mapping, ProcessError},
        refuse::{self, Refusal},
    },
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
    /// Their files.
    pub catalog: Catalog,
    kernel: KernelVersion,
    follow_forks: bool,
    pub(super) processes: BTreeMap<u32, Traced>,
    /// See [`Unseen`].
    pub unseen: Unseen,
    /// Sentences for the report.
    pub warnings: Vec<String>,
}

/// What the caller has to do after [`TracedSet::apply`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Followed {
    /// A process joined: its end must be watched.
    Joined(u32),
    /// A process replaced its image; this is the number of the one that is gone.
    Replaced(u32, u16),
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
            catalog,
            kernel,
            follow_forks,
            processes: BTreeMap::new(),
            unseen: Unseen::default(),
            warnings: warnings.into_iter().collect(),
        }
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
    fn count(&mut self, pid: u32, tables: &Tables) -> Result<(), TableError> {
        let slot = self
            .unwinder
            .as_mut()
            .map_or(NO_SLOT, |unwinder| unwinder.join(pid, now_ns()));
        tables.add_process(pid, slot)
    }

    /// Takes back [`Self::count`].
    fn let_go(&mut self, pid: u32, tables: &Tables) -> Result<(), TableError> {
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

    /// The probes of a process are gone while it lives on: puts them in place again.
    ///
    /// A thread other than the first has called `exec`. The kernel scopes probes by the task of the first
    /// thread (`uprobe_multi_link_filter` in the kernel's `bpf_trace.c`), and that task has ended.
    pub fn attach_again(&mut self, pid: u32) {
        let Some(mut traced) = self.processes.remove(&pid) else {
            return;
        };
        traced.release();
        if traced.state == State::Running && !traced.refused {
            traced.known_from(now_ns());
            let objects = self.read_mappings(&mut traced).unwrap_or_default();
            self.publish(&traced);
            for object in objects {
                self.probe_late(&mut traced, object);
            }
            tracing::info!("pid {pid}: all probes are in place again");
        }
        self.processes.insert(pid, traced);
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
        }
        self.processes.insert(pid, traced);
        Ok(())
    }

    fn check(&mut self, pid: u32, facts: &proc::Facts, maps: &[Mapping]) -> Result<(), TraceError> {
        // The executable is the file that /proc/PID/exe names; it is mapped, if not always first.
        let executable = maps
            .iter()
            .find(|mapping| mapping.executable && mapping.path.is_some() && mapping.path == facts.exe)
            .or_else(|| {
                maps.iter()
                    .find(|mapping| mapping.executable && mapping.inode != 0)
            });
        let object = executable.and_then(|mapping| self.catalog.of_mapping(pid, mapping));
        let scan = object.and_then(|object| self.catalog.scanned(object));
        Ok(refuse::check(pid, facts, scan.as_deref(), self.kernel, true)?)
    }

    /// Probes an object in a process, once. Whether it has anything to probe.
    pub(super) fn probe(&mut self, traced: &mut Traced, object: ObjectId) -> Result<bool, AttachError> {
        let Some(scan) = self.catalog.scanned(object) else {
            return Ok(false);
        };
        self.watch_linker(traced, object, &scan)?;
        if scan.functions.is_empty() || traced.is_probed(object) {
            return Ok(false);
        }
        let path = self.catalog.usable_path(object).unwrap_or_default();
        if self.pauser.is_some() {
            self.probe_singly(traced, object, &path, &scan.functions)?;
        } else {
            let links = self.attacher.attach(&path, traced.pid, &scan.functions)?;
            traced.keep(object, None, links);
        }
        self.log(traced.pid, object, &scan);
        traced.place(object);
        Ok(true)
    }

    /// The kernel side's programs.
    pub fn programs(&self) -> &crate::kernel::object::Programs {
        self.attacher.programs()
    }

    fn log(&self, pid: u32, object: ObjectId, scan: &Rc<crate::probe::elf::Scan>) {
        let name = self.catalog.name(object);
        for function in &scan.functions {
            tracing::info!(
                "pid {pid}: {name} {} at {:#x}: {}",
                function.symbol,
                function.offset,
                listing::placement(function)
            );
        }
        for skipped in &scan.skipped {
            tracing::info!(
                "pid {pid}: {name} {} not probed: {}",
                skipped.function,
                skipped.reason
            );
        }
    }

    /// Follows what the side-band reports, in its order.
    pub fn apply(&mut self, entries: Vec<Entry>, tables: &Tables) -> Vec<Followed> {
        let mut followed = Vec::new();
        let mut mapped = Vec::new();
        for Entry { pid, change, time_ns } in entries {
            // What was looked at since says more; but not what has come and gone before.
            let is_known = self
                .processes
                .get(&pid)
                .is_some_and(|traced| traced.knows(time_ns));
            match change {
                Change::Mapped {
                    start,
                    end,
                    offset,
                    device,
                    inode,
                    path,
                } => {
                    let path = Some(path).filter(|path| !path.as_os_str().is_empty());
                    let mapping = Mapping {
                        start,
                        end,
                        offset,
                        device,
                        inode,
                        path,
                        label: String::new(),
                        executable: true,
                        deleted: false,
                    };
                    mapped.extend(self.mapped(pid, mapping, time_ns, is_known));
                }
                _ if is_known => {}
                Change::Exec { comm } => {
                    let traced = self
                        .processes
                        .get_mut(&pid)
                        .filter(|traced| traced.state == State::Running);
                    if let Some(gone) = traced.and_then(|traced| traced.replace_image(comm, time_ns)) {
                        followed.push(Followed::Replaced(pid, gone));
                    }
                }
                Change::Forked { parent } => {
                    self.settle_mapped(std::mem::take(&mut mapped));
                    if self.forked(pid, parent, tables) {
                        followed.push(Followed::Joined(pid));
                    }
                }
            }
        }
        self.settle_mapped(mapped);
        followed
    }

    /// Notes a mapping. What is to be done about it is left to [`Self::settle_mapped`].
    fn mapped(&mut self, pid: u32, mapping: Mapping, time_ns: u64, is_known: bool) -> Option<Mapped> {
        let traced = self
            .processes
            .get_mut(&pid)
            .filter(|traced| traced.state == State::Running)?;
        let object = self.catalog.of_mapping(pid, &mapping);
        if is_known {
            traced.remember(code(&mapping, object), time_ns);
            return None;
        }
        traced.map_at(code(&mapping, object), time_ns);
        Some(Mapped {
            pid,
            image: traced.image(),
            object,
            path: mapping.path,
        })
    }

    /// Does what new mappings ask for. First the kernel side is told of all of them, since stacks lead through them
    /// at once; then they are probed, for which the kernel waits tens of milliseconds each time.
    fn settle_mapped(&mut self, mapped: Vec<Mapped>) {
        let pids: BTreeSet<u32> = mapped.iter().map(|mapped| mapped.pid).collect();
        for pid in pids {
            self.publish_again(pid);
        }
        for mapped in mapped {
            self.settle_tables();
            self.probe_mapped(mapped);
        }
    }

    fn probe_mapped(&mut self, mapped: Mapped) {
        let Mapped {
            pid, image, object, ..
        } = mapped;
        let Some(mut traced) = self.processes.remove(&pid) else {
            return;
        };
        // It may have become another program since.
        if traced.state == State::Running && traced.image() == image {
            if traced.exe.is_none()
                && let Some(path) = mapped.path
            {
                // The first file an exec maps is the program.
                traced.exe = Some(path);
                if let Some(path) = jit_map(pid) {
                    traced.set_jit_map(path);
                }
                self.check_again(&mut traced, object);
            }
            if !traced.refused
                && let Some(object) = object
            {
                self.probe_late(&mut traced, object);
            }
        }
        self.processes.insert(pid, traced);
    }

    /// Probes an object that its process may have used already.
    pub(super) fn probe_late(&mut self, traced: &mut Traced, object: ObjectId) {
        match self.probe(traced, object) {
            Ok(probed) => self.unseen.objects_late += u64::from(probed),
            Err(error) if is_alive(traced.pid) => self.warnings.push(error.to_string()),
            Err(_) => {}
        }
    }

    /// A process that was traced has become another program: one that must not be probed is let go at once.
    fn check_again(&mut self, traced: &mut Traced, program: Option<ObjectId>) {
        let scan = program.and_then(|object| self.catalog.scanned(object));
        let refusal = proc::facts(traced.pid)
            .ok()
            .and_then(|facts| refuse::check(traced.pid, &facts, scan.as_deref(), self.kernel, true).err());
        traced.refused = refusal.is_some();
        if let Some(refusal) = refusal {
            traced.release();
            let warning = format!("no longer traced after its exec: {refusal}");
            tracing::warn!("{warning}");
            self.warnings.push(warning);
        }
    }

    /// Whether the child is traced from now on.
    fn forked(&mut self, pid: u32, parent: u32, tables: &Tables) -> bool {
        let is_target = |parent: &Traced| parent.state == State::Running;
        if !self.processes.get(&parent).is_some_and(is_target) {
            return false;
        }
        if !self.follow_forks {
            self.unseen.forks_not_followed += 1;
            return false;
        }
        match self.attach_forked(pid, tables) {
            Ok(child) => {
                self.unseen.forks_followed_late += 1;
                tracing::info!("tracing {pid}, forked by {parent}");
                self.processes.insert(pid, child);
                true
            }
            Err(reason) => {
                self.unseen.forks_not_followed += 1;
                if let Err(error) = self.let_go(pid, tables) {
                    tracing::warn!("{error}");
                }
                if is_alive(pid) {
                    self.warnings.push(reason.to_string());
                }
                false
            }
        }
    }

    fn attach_forked(&mut self, pid: u32, tables: &Tables) -> Result<Traced, TraceError> {
        self.count(pid, tables)?;
        let now_ns = now_ns();
        // It may have called `exec` since: what it is and maps is asked, not taken from its parent.
        let facts = proc::facts(pid)?;
        self.check(pid, &facts, &proc::mappings(pid)?)?;
        let mut child = Traced::new(pid, facts.comm, facts.exe);
        child.counted_from(now_ns);
        child.known_from(now_ns);
        let objects = self.read_mappings(&mut child)?;
        self.publish(&child);
        for object in objects {
            self.probe(&mut child, object)?;
        }
        Ok(child)
    }

    /// A process has ended; its probes go, what is known of its memory stays for the report.
    pub fn exited(&mut self, pid: u32) {
        self.forget(pid);
        if let Some(traced) = self.processes.get_mut(&pid) {
            traced.state = State::Exited;
            // The kernel waits for a grace period or two for each link; nobody else has to.
            let links: Vec<Links> = traced.take_links().collect();
            std::thread::spawn(move || drop(links));
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

    /// Takes every probe out.
    pub fn release_all(&mut self) {
        self.settle_all();
        let links: Vec<Links> = self.processes.values_mut().flat_map(Traced::take_links).collect();
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

    /// The mechanism in use.
    pub fn attach_kind(&self) -> crate::kernel::caps::AttachKind {
        self.attacher.kind()
    }
}

/// What is known of a new mapping.
struct Mapped {
    pid: u32,
    image: u16,
    object: Option<ObjectId>,
    path: Option<PathBuf>,
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

pub(super) fn is_alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// Where a JIT compiler in the process writes its symbols: under the pid that the process itself sees.
fn jit_map(pid: u32) -> Option<PathBuf> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let inner = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?
        .split_whitespace()
        .next_back()?;
    Some(PathBuf::from(format!("/proc/{pid}/root/tmp/perf-{inner}.map")))
}
