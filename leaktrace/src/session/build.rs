//! From a snapshot to a report: names for what is shown, and what was traced and how.

use std::collections::BTreeMap;

use super::{
    accounts,
    collect::Collector,
    gpu::{GpuMemory, files},
    ledger::ledger,
    python::{Interpreters as _, NativeStack, PythonStack, merged, of_targets},
};
use crate::{
    config::Config,
    kernel::{counters::Counters, sideband::Sideband},
    probe::{
        cuda,
        elf::{Function, Returns},
        gear::Gear,
    },
    report::{
        account::Account,
        gpu::{Gpu, NotTracked, NotTrackedFunction, Unsure},
        model::{
            Block, Filters, Frame, Held, Members, ProbeSite, Process, Report, SCHEMA, Sampling, SkippedSite,
            State, Survivor, Target, Tracing,
        },
        overhead::Overhead,
        units::{counted, percent, size},
    },
    symbol::{Symbolizer as _, blaze::Blaze, mappings::Mappings, objects::ObjectId},
    traced::{process::Traced, set::TracedSet},
    track::{FrozenId, Image, SiteRef, SiteSnapshot, Snapshot, lifetimes},
};
use leaktrace_common::{
    call::Space,
    counter::Counter,
    gpu::{GpuOp, device_ordinal},
};

/// Makes the reports of a run.
#[derive(Debug)]
pub(super) struct Builder {
    symbolizer: Blaze,
    sequence: u64,
    start_ns: u64,
    kernel_release: String,
}

/// All that a report is made of.
pub(super) struct Sources<'a> {
    /// Where the memory of the processes is, without names.
    pub accounts: Vec<Account>,
    /// What was asked for.
    pub config: &'a Config,
    /// Who is traced.
    pub traced: &'a TracedSet,
    /// What was read.
    pub collector: &'a Collector,
    /// The kernel's counters.
    pub counters: &'a Counters,
    /// For what it lost.
    pub sideband: &'a Sideband,
    /// What tracing has cost.
    pub overhead: Overhead,
    /// Largest mean gap between samples so far; 0 while every allocation was recorded.
    pub largest_mean_bytes: u64,
    /// Mappings that were not kept for want of room.
    pub mappings_full: u64,
}

/// The stacks of a report that are to be given names, in its order.
#[derive(Debug)]
pub(super) struct Unnamed {
    survivors: Vec<SiteRef>,
    failures: Vec<SiteRef>,
    mappings: Vec<SiteRef>,
}

impl Unnamed {
    fn all(&self) -> impl Iterator<Item = &SiteRef> {
        self.survivors.iter().chain(&self.failures).chain(&self.mappings)
    }
}

/// What `--python-malloc` makes of the numbers.
const PYTHON_MALLOC: &str = "PYTHONMALLOC=malloc was set for the command (--python-malloc): its Python takes every object \
                             from malloc, so that time, memory and addresses are not those of a run without";

impl Builder {
    /// `start_ns` is when the probes were in place.
    pub(super) fn new(start_ns: u64, kernel_release: String) -> Self {
        Self {
            symbolizer: Blaze::new(),
            sequence: 0,
            start_ns,
            kernel_release,
        }
    }

    /// The report of a snapshot, without the names of its stacks: those are asked for, and put in by
    /// [`Self::name`] when they are known.
    pub(super) fn report(
        &mut self,
        from: &Sources<'_>,
        snapshot: &Snapshot,
        last: bool,
    ) -> (Report, Unnamed) {
        self.sequence += 1;
        let (ledger, mut warnings) = ledger(from, snapshot);
        warnings.extend(unsure(&from.overhead));
        warnings.extend(from.config.python_malloc.then(|| PYTHON_MALLOC.to_owned()));
        let stacks = from.collector.stacks();
        warnings.extend(stacks.warning());
        let rss_bytes = running_rss(from.traced);
        let failed = from.collector.gpu().map_or(&[][..], GpuMemory::failed);
        let unnamed = Unnamed {
            survivors: snapshot.sites.iter().map(|site| site.site).collect(),
            failures: failed.iter().map(|failed| failed.site).collect(),
            mappings: accounts::mappers(&from.accounts, from.traced),
        };
        self.ask(from.traced, from.collector, &unnamed);
        let survivors = snapshot.sites.iter().map(|site| survivor(from, site)).collect();
        let report = Report {
            schema: SCHEMA,
            sequence: self.sequence,
            last,
            elapsed_s: seconds(snapshot.now_ns.saturating_sub(self.start_ns)),
            interval_s: seconds(snapshot.interval_ns),
            by: from.config.by.name(),
            target: target(from, snapshot),
            tracing: tracing(from, &self.kernel_release),
            overhead: from.overhead.clone(),
            totals: crate::report::model::Totals {
                rss_bytes,
                ..snapshot.totals
            },
            accounts: from.accounts.clone(),
            survivors,
            omitted: snapshot.omitted.clone(),
            suppressed: Vec::new(),
            gate: None,
            gpu: gpu(from, snapshot, ledger.get(Counter::GpuUntracked.name()).copied()),
            types: None,
            stacks,
            ledger,
            warnings,
        };
        (report, unnamed)
    }

    /// Has the names of these sites looked up, as far as they are not known.
    pub(super) fn ask(&mut self, traced: &TracedSet, collector: &Collector, unnamed: &Unnamed) {
        let nothing = Mappings::new();
        for site in unnamed.all() {
            let (addresses, mappings) = collector.stack(site, traced);
            self.symbolizer
                .ask(mappings.unwrap_or(&nothing), &traced.catalog.objects, addresses);
        }
    }

    /// Whether all names that were asked for are known.
    pub(super) fn has_names(&self) -> bool {
        self.symbolizer.unanswered() == 0
    }

    /// Debug files on their way here.
    pub(super) fn fetching(&self) -> usize {
        self.symbolizer.fetching()
    }

    /// Whether, since the last call, a debug file has come: names can be asked for again.
    pub(super) const fn take_better(&mut self) -> bool {
        self.symbolizer.take_better()
    }

    /// Ends when more names are known, or a debug file has come.
    pub(super) async fn answered(&mut self) {
        self.symbolizer.answered().await;
    }

    /// Puts the names into a report of these sites; waits for those that are still looked up.
    pub(super) fn name(
        &mut self,
        report: &mut Report,
        traced: &TracedSet,
        collector: &Collector,
        unnamed: &Unnamed,
    ) {
        for (survivor, site) in report.survivors.iter_mut().zip(&unnamed.survivors) {
            (survivor.frames, survivor.mismatch) = self.frames(traced, collector, site);
        }
        let failures = report.gpu.iter_mut().flat_map(|gpu| &mut gpu.errors);
        for (failures, site) in failures.zip(&unnamed.failures) {
            (failures.frames, _) = self.frames(traced, collector, site);
        }
        let mappings = report
            .accounts
            .iter_mut()
            .flat_map(|account| &mut account.mappings);
        for (mapping, site) in mappings.zip(&unnamed.mappings) {
            (mapping.frames, _) = self.frames(traced, collector, site);
        }
        let fetching = self.fetching();
        if fetching > 0 {
            report.warnings.push(format!(
                "{} being fetched from the servers in DEBUGINFOD_URLS: the names of some functions, files and lines \
                 are missing until then",
                if fetching == 1 { "1 debug file is".to_owned() } else { format!("{fetching} debug files are") }
            ));
        }
    }

    /// The frames of a site's stack, and whether its Python frames do not fit to the native ones.
    fn frames(&mut self, traced: &TracedSet, collector: &Collector, site: &SiteRef) -> (Vec<Frame>, bool) {
        let (addresses, mappings) = collector.stack(site, traced);
        let nothing = Mappings::new();
        let mappings = mappings.unwrap_or(&nothing);
        let mut frames = self
            .symbolizer
            .frames(mappings, &traced.catalog.objects, addresses);
        if let Some(function) = probed_function(traced, mappings, addresses)
            && let Some(frame) = frames.first_mut().and_then(|frames| frames.last_mut())
        {
            frame.symbol = Some(function.symbol.into());
        }
        let native = NativeStack {
            tgid: site.image.tgid,
            image: site.key.process.image,
            frames,
            is_whole: collector.is_whole(site),
        };
        let none = PythonStack::default();
        let python = collector.python(site).unwrap_or(&none);
        let (frames, mismatch) = merged(native, python, &of_targets(traced));
        let shown = frames.iter().map(crate::symbol::SymbolFrame::to_report);
        (shown.collect(), mismatch)
    }
}

/// A site as the report shows it, but for the names of its stack.
fn survivor(from: &Sources<'_>, site: &SiteSnapshot) -> Survivor {
    let (addresses, mappings) = from.collector.stack(&site.site, from.traced);
    let nothing = Mappings::new();
    let mappings = mappings.unwrap_or(&nothing);
    let probed = probed_function(from.traced, mappings, addresses);
    let call = from.traced.catalog.call_name(site.site.key.call);
    let seen_share = probed.as_ref().and_then(|function| seen_share(from, function));
    let blocks = site.oldest.as_ref().map(|blocks| {
        let shown = blocks.iter().map(|block| Block {
            pid: block.tgid,
            address: format!("{:#x}", block.address),
            bytes: block.size_bytes,
            weight: from.config.samples().then(|| block.weight.to_f64()),
            age_ms: block.age_ms,
        });
        shown.collect()
    });
    let about = from.collector.about(&site.site.image, from.traced);
    Survivor {
        pid: site.site.image.tgid,
        inner_pid: about.inner_pid(),
        comm: about.comm.to_owned(),
        container: about.container().map(|container| container.short().to_owned()),
        processes: site.processes as u64,
        pids: site.pids.clone(),
        state: site.state,
        call: call.to_owned(),
        space: Space::of(site.site.key.process.space)
            .map_or("unknown", Space::name)
            .to_owned(),
        device: device_ordinal(site.site.key.process.device),
        reserved_by: from
            .collector
            .gpu()
            .and_then(|gpu| gpu.reserved_by(&site.site, call, files(addresses, mappings))),
        unsure: (site.unsure.live_blocks > 0).then_some(Unsure {
            bytes: site.unsure.live_bytes,
            blocks: site.unsure.live_blocks,
            why: Unsure::CONTEXT,
        }),
        object_bytes: from.collector.object_bytes(&site.site),
        bytes: site.bytes,
        blocks: site.blocks,
        sampled: site.sampled,
        seen_share,
        mean_bytes: if site.blocks == 0 {
            0.0
        } else {
            site.bytes as f64 / site.blocks as f64
        },
        bytes_per_s: site.bytes_per_s,
        verdict: site.verdict.clone(),
        allocs: site.allocs,
        frees: site.frees,
        age_ms: site.age_ms,
        lifetime_ms: lifetimes::summary(&site.lifetimes),
        frames: Vec::new(),
        mismatch: false,
        block_list: blocks,
    }
}

/// What there is to say of GPU memory; none where nothing of it was found, unless it was asked for.
fn gpu(from: &Sources<'_>, snapshot: &Snapshot, untracked: Option<u64>) -> Option<Gpu> {
    let gpu = from.collector.gpu()?;
    let is_probed = from
        .traced
        .iter()
        .any(|process| process.gpu.probed().next().is_some());
    if !is_probed && snapshot.places.is_empty() && gpu.failed().is_empty() {
        let waits = from.config.gpu == crate::config::Gpu::Always;
        return waits.then(Gpu::default);
    }
    let is_untracked =
        |function: &str| cuda::find(function.as_bytes()).is_some_and(|row| row.shape.op == GpuOp::Untracked);
    let called = from.overhead.functions.iter();
    let not_tracked = NotTracked {
        calls: untracked.unwrap_or(0),
        functions: called
            .filter(|cost| cost.entries > 0 && is_untracked(&cost.function))
            .map(|cost| NotTrackedFunction {
                function: cost.function.clone(),
                calls: cost.entries,
            })
            .collect(),
    };
    let names = |site: &SiteRef| {
        let call = from.traced.catalog.call_name(site.key.call);
        (from.collector.comm(site, from.traced), call)
    };
    Some(gpu.report(snapshot, not_tracked, names))
}

/// The function whose probe took the stack, by the symbol it was found under: a symbolizer may know the
/// address by another of its names (`__GI___libc_malloc`).
fn probed_function(traced: &TracedSet, mappings: &Mappings, addresses: &[u64]) -> Option<Probed> {
    let address = *addresses.first()?;
    let mapping = mappings.find(address)?;
    let object = mapping.object?;
    let scan = traced.catalog.scan(object)?;
    let offset = mapping.offset_of(address);
    let function = scan
        .all_functions()
        .find(|function| function.probe_offset() == offset)?;
    Some(Probed {
        object,
        symbol: function.symbol.clone(),
    })
}

/// A probed function.
struct Probed {
    object: ObjectId,
    symbol: String,
}

/// The part of the time that a function was probed for, if not all of it.
fn seen_share(from: &Sources<'_>, probed: &Probed) -> Option<f64> {
    let object = from.traced.catalog.name(probed.object);
    let functions = &from.overhead.functions;
    let cost = functions
        .iter()
        .find(|cost| cost.function == probed.symbol && cost.object == object)?;
    (cost.seen_share < 1.0).then_some(cost.seen_share)
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

fn running_rss(traced: &TracedSet) -> Option<u64> {
    let running = traced.iter().filter(|process| process.state == State::Running);
    running
        .filter_map(|process| process.rss_bytes)
        .reduce(|sum, bytes| sum + bytes)
}

fn target(from: &Sources<'_>, snapshot: &Snapshot) -> Target {
    let command = match &from.config.target {
        crate::config::Target::Command(line) => Some(
            line.iter()
                .map(|word| word.to_string_lossy().into_owned())
                .collect(),
        ),
        crate::config::Target::Pids(_) | crate::config::Target::Selected(_) => None,
    };
    let processes = processes(from, snapshot);
    let ended = from.collector.ended.count;
    let (running, joined) = if from.traced.follows_members() {
        (from.collector.members_running, from.traced.members().joined)
    } else {
        let runs = |process: &&Traced| process.state == State::Running;
        let running = from.traced.iter().filter(runs).count() as u64;
        (running, running + ended)
    };
    let with_blocks = processes.iter().filter(|process| process.live_blocks > 0);
    Target {
        command,
        selection: match &from.config.target {
            crate::config::Target::Selected(selection) => Some(selection.words()),
            crate::config::Target::Pids(_) | crate::config::Target::Command(_) => None,
        },
        members: Members {
            running,
            joined,
            ended,
            with_blocks: with_blocks.count() as u64,
        },
        processes,
        forgotten: snapshot.forgotten,
    }
}

/// Those that are known, and those that have left something and whose pid has gone to another since.
fn processes(from: &Sources<'_>, snapshot: &Snapshot) -> Vec<Process> {
    let mut held: BTreeMap<(u32, Option<FrozenId>), (Image, Held)> = BTreeMap::new();
    for totals in &snapshot.images {
        let of = (totals.image.tgid, totals.life);
        let (_, held) = held.entry(of).or_insert((totals.image, Held::default()));
        held.live_bytes += totals.live_bytes;
        held.live_blocks += totals.live_blocks;
    }
    let standing = from.collector.ended.standing();
    let is_listed = |process: &&Traced| process.state != State::Exited || !standing.contains(&process.pid);
    let of_traced = from.traced.iter().filter(is_listed).map(|process| {
        let pid = process.pid;
        let life = match process.state {
            State::Exited => {
                let lives = held.range((pid, Some(FrozenId(0)))..=(pid, Some(FrozenId(u64::MAX))));
                lives.map(|(&(_, life), _)| life).next_back().flatten()
            }
            State::Running | State::Replaced => None,
        };
        let of = (pid, life);
        (process, of)
    });
    let of_traced: Vec<_> = of_traced.collect();
    let mut processes = Vec::with_capacity(of_traced.len());
    for (process, of) in of_traced {
        let held = held.remove(&of).map_or_else(Held::default, |(_, held)| held);
        let whereabout = from.collector.whereabouts.get(process.pid);
        processes.push(Process {
            pid: process.pid,
            inner_pid: whereabout.and_then(|whereabout| whereabout.inner_pid),
            comm: process.comm.clone(),
            container: whereabout.and_then(|whereabout| whereabout.container.as_deref().cloned()),
            exe: process.exe.as_ref().map(|path| path.display().to_string()),
            state: process.state,
            rss_bytes: process.rss_bytes,
            live_bytes: held.live_bytes,
            live_blocks: held.live_blocks,
            exit: process.exit,
            python: of_targets(from.traced).of_image(process.pid, process.image()),
        });
    }
    for (image, held) in held.into_values().filter(|(_, held)| held.live_blocks > 0) {
        let about = from.collector.about(&image, from.traced);
        processes.push(Process {
            pid: image.tgid,
            inner_pid: about.inner_pid(),
            comm: about.comm.to_owned(),
            container: about.container().cloned(),
            exe: about.exe.map(|path| path.display().to_string()),
            state: State::Exited,
            rss_bytes: None,
            live_bytes: held.live_bytes,
            live_blocks: held.live_blocks,
            exit: None,
            python: None,
        });
    }
    // Stable: of one pid the one that runs comes first.
    processes.sort_by_key(|process| process.pid);
    processes
}

/// Probes by object: a function that several processes share is one entry with all their pids. What is probed for a
/// Python interpreter counts where there is one.
fn tracing(from: &Sources<'_>, kernel_release: &str) -> Tracing {
    let mut pids_of: BTreeMap<(ObjectId, Gear), Vec<u32>> = BTreeMap::new();
    for process in from.traced.iter() {
        for probed in process.probed_for() {
            pids_of.entry(probed).or_default().push(process.pid);
        }
    }
    let mut sites = Vec::new();
    let mut skipped = Vec::new();
    for ((object, gear), pids) in pids_of {
        let Some(scan) = from.traced.catalog.scan(object) else {
            continue;
        };
        let name = from.traced.catalog.name(object);
        sites.extend(probe_sites(from, scan.of(gear).0, &name, &pids));
        skipped.extend(scan.blind_spots_of(gear).map(|skipped| SkippedSite {
            object: name.clone(),
            function: skipped.function.clone(),
            reason: skipped.reason.to_string(),
        }));
    }
    let config = from.config;
    Tracing {
        attach: from.traced.attach_kind().to_string(),
        kernel: kernel_release.to_owned(),
        sites,
        skipped,
        filters: Filters {
            older_than_ms: config.filters.older_than.as_millis() as u64,
            min_size_bytes: config.filters.min_size_bytes,
            max_size_bytes: Some(config.filters.max_size_bytes).filter(|&max| max != u64::MAX),
            top: config.top,
            sort: config.sort.name().to_owned(),
        },
        scope: from
            .traced
            .follows_members()
            .then(|| from.traced.reaches().name()),
        tables: from.collector.sizes,
        sampling: (from.largest_mean_bytes > 0).then_some(Sampling {
            mean_bytes: from.largest_mean_bytes,
        }),
    }
}

fn probe_sites(from: &Sources<'_>, functions: &[Function], object: &str, pids: &[u32]) -> Vec<ProbeSite> {
    let site = |function: &Function| ProbeSite {
        object: object.to_owned(),
        function: function.symbol.clone(),
        call: from.traced.catalog.call_name(u32::from(function.call)).to_owned(),
        offset: format!("{:#x}", function.probe_offset()),
        function_offset: format!("{:#x}", function.offset),
        instruction: function.site.kind.name().to_owned(),
        kind: match function.returns {
            Returns::None => "entry",
            Returns::Probe => "entry+return",
            Returns::Instructions(_) => "entry+ret-instructions",
        }
        .to_owned(),
        pids: pids.to_vec(),
    };
    functions.iter().map(site).collect()
}

/// What a budget has made unknowable.
fn unsure(overhead: &Overhead) -> Vec<String> {
    let Some(budget) = &overhead.budget else {
        return Vec::new();
    };
    let mut warnings = Vec::new();
    if overhead.calibration.is_none() {
        warnings.push(
            "--max-overhead cannot be kept, because what a trap costs could not be measured; use --sample-bytes"
                .to_owned(),
        );
    }
    if budget.unsure_blocks > 0 {
        warnings.push(format!(
            "frees were unseen for {} of the target's CPU time to keep to --max-overhead: {} of the outstanding in {} \
             may have been freed since; raise --max-overhead to be sure",
            percent(budget.frees_unseen_share),
            size(budget.unsure_bytes),
            counted(budget.unsure_blocks, "block"),
        ));
    }
    warnings
}
