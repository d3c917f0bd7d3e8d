//! From the kernel's tables to a snapshot: one reading an interval, and one at the end of each process
//! image.

mod freeze;
mod mappings;
mod walks;

use std::{
    collections::{HashMap, HashSet},
    rc::Rc,
    sync::PoisonError,
    time::Duration,
};

use leaktrace_common::{
    key::SiteKey,
    math::BLOCKS_FRACTION_BITS,
    record::{Live, Site, Tracked, tracked},
    unwind::{end, end_of},
};

use self::walks::Walks;
use super::{
    ended::EndedImages,
    gpu::GpuMemory,
    pools::PoolEnds,
    python::{PythonStack, of_targets},
    same::{About, Same},
    stacks::Stacks,
    whereabouts::{Containers, Whereabouts},
};
use crate::{
    account::{Sweep, evidence::Block},
    config::By,
    kernel::{
        clock::now_ns,
        events::SharedLiveTable,
        maps::{TableError, Tables},
    },
    python::resolver::Resolver,
    report::{
        model::{State, Tables as Sizes},
        python::{Outcome, PythonStacks},
        stacks,
    },
    symbol::{self, mappings::Mappings},
    traced::set::TracedSet,
    track::{Image, LiveBlock, RunReading, Settings, SiteRef, Snapshot, Tracker, ends::Ends},
};

/// Between two readings of histories.
const READ_SOON: Duration = Duration::from_millis(500);
const READ_LATE: Duration = Duration::from_mins(1);

/// So many times as long as a reading took passes until the next.
const READING_SHARE: u64 = 50;

/// Reads and keeps what was read.
#[derive(Debug)]
pub(super) struct Collector {
    tables: Tables,
    live: SharedLiveTable,
    tracker: Tracker,
    stacks: Stacks,
    /// Reads the code objects of Python frames; none where those are not followed.
    resolver: Option<Resolver>,
    /// Where pools of Python are probed: their ends.
    pools: Option<PoolEnds>,
    /// Memory of GPUs; none where that is not followed.
    gpu: Option<GpuMemory>,
    /// How their walks ended; images that have ended included.
    ends: Ends,
    ends_ended: Ends,
    /// What became of their Python frames; images that have ended included.
    python: PythonStacks,
    python_ended: PythonStacks,
    /// The same by stack, where it does not change any more.
    outcomes: HashMap<u64, Outcome>,
    /// Images that are gone, for their survivors.
    pub ended: EndedImages,
    /// Where processes run.
    pub whereabouts: Whereabouts,
    /// Which sites are one.
    same: Same,
    /// Stacks whose garbage tail was cut; part of the ledger.
    pub stacks_cut: u64,
    /// Blocks handed out before this time (nanoseconds of `CLOCK_BOOTTIME`) may have been freed unseen; 0 for none.
    pub unsure_before_ns: u64,
    /// Outstanding blocks of that kind when last looked at.
    pub unsure: HandedOut,
    /// The same of images that have ended.
    unsure_ended: HandedOut,
    /// What each call has handed out, as far as it was recorded; images that have ended included.
    pub handed_out: HashMap<u32, HandedOut>,
    handed_out_ended: HashMap<u32, HandedOut>,
    /// Stacks of images that have ended, where processes come and go.
    doomed: HashSet<u64>,
    /// Sites of mappings.
    mappings: HashSet<SiteKey>,
    /// What the tables held at the last snapshot, where processes come and go.
    pub sizes: Option<Sizes>,
    /// Members that ran then, as the kernel side knows them.
    pub members_running: u64,
}

/// Blocks and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct HandedOut {
    /// Blocks.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl HandedOut {
    /// What a site has handed out: what its samples stand for, where they are samples.
    const fn of_site(site: &Site) -> Self {
        if site.allocated.bytes == 0 {
            Self {
                blocks: site.allocs,
                bytes: site.alloc_bytes,
            }
        } else {
            Self {
                blocks: site.allocated.blocks >> BLOCKS_FRACTION_BITS,
                bytes: site.allocated.bytes,
            }
        }
    }

    const fn add(&mut self, more: Self) {
        self.blocks += more.blocks;
        self.bytes += more.bytes;
    }

    /// Counts a block that was handed out before `before_ns`.
    const fn add_older(&mut self, before_ns: u64, block: &Live) {
        if block.time_ns < before_ns {
            self.blocks += block.weight.whole_blocks();
            self.bytes += block.weight.bytes(block.size_bytes);
        }
    }
}

impl Collector {
    /// Nothing read yet.
    pub(super) fn new(
        tables: Tables,
        live: SharedLiveTable,
        stacks: Stacks,
        settings: Settings,
        by: By,
        containers: Box<dyn Containers>,
    ) -> Self {
        Self {
            tables,
            live,
            tracker: Tracker::new(settings, now_ns()),
            stacks,
            resolver: None,
            pools: None,
            gpu: None,
            ends: Ends::default(),
            ends_ended: Ends::default(),
            python: PythonStacks::default(),
            python_ended: PythonStacks::default(),
            outcomes: HashMap::new(),
            ended: EndedImages::default(),
            whereabouts: Whereabouts::new(containers),
            same: Same::new(by),
            stacks_cut: 0,
            unsure_before_ns: 0,
            unsure: HandedOut::default(),
            unsure_ended: HandedOut::default(),
            handed_out: HashMap::new(),
            handed_out_ended: HashMap::new(),
            doomed: HashSet::new(),
            mappings: HashSet::new(),
            sizes: None,
            members_running: 0,
        }
    }

    /// From here on ends of Python's pools are looked for.
    pub(super) fn follow_pools(&mut self) {
        self.pools = Some(PoolEnds::default());
    }

    /// From here on GPU memory is read, too.
    pub(super) fn follow_gpu(&mut self, gpu: GpuMemory) {
        self.gpu = Some(gpu);
    }

    /// What is known of GPU memory, as of the last snapshot; none where that is not followed.
    pub(super) const fn gpu(&self) -> Option<&GpuMemory> {
        self.gpu.as_ref()
    }

    /// Has the code objects of Python frames read.
    pub(super) fn read_code(&mut self, resolver: Resolver) {
        self.resolver = Some(resolver);
    }

    /// Another mean gap between samples is in force.
    pub(super) fn sample_mean(&mut self, mean_bytes: u64) {
        self.tracker.sample_mean(mean_bytes);
    }

    /// Snapshots list so many sites of each table from now on.
    pub(super) const fn list_at_most(&mut self, top: usize) {
        self.tracker.list_at_most(top);
    }

    /// The tables of processes, sites and stacks.
    pub(super) const fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Takes the stacks that the kernel side could not finish. Their walks need what was mapped by now to be known.
    pub(super) fn receive_stacks(&mut self) {
        self.stacks.receive();
    }

    /// Reads the code objects of all frames up to now.
    fn catch_up(&self) {
        if let Some(resolver) = &self.resolver {
            resolver.catch_up();
        }
    }

    /// Walks on those that have been received.
    ///
    /// # Errors
    /// [`TableError`].
    pub(super) fn finish_stacks(&mut self, traced: &TracedSet) -> Result<(), TableError> {
        self.stacks.finish(&self.tables, traced)
    }

    /// Such stacks that were lost for want of room.
    pub(super) fn stacks_dropped(&self) -> u64 {
        self.stacks.dropped()
    }

    /// Looks which pools of Python have ended: now, or only if it is time to.
    ///
    /// # Errors
    /// [`TableError`].
    pub(super) fn look_at_pools(&mut self, traced: &TracedSet, now: bool) -> Result<(), TableError> {
        let begin_ns = now_ns();
        if let Some(pools) = &mut self.pools
            && (now || pools.is_due(begin_ns))
        {
            let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
            pools.look(&live, traced, begin_ns)?;
            pools.looked(begin_ns, now_ns());
        }
        Ok(())
    }

    /// The targets ran before the trace.
    pub(super) fn attached(&mut self, run: RunReading) {
        self.tracker.attached(run);
    }

    /// Reads the totals of all sites into their histories. When the next such reading is of use: it takes no more than a
    /// fiftieth of the time.
    ///
    /// # Errors
    /// [`TableError`].
    pub(super) fn note(&mut self, run: RunReading) -> Result<Duration, TableError> {
        let begin_ns = now_ns();
        let pools = self.pools.as_ref();
        let tracker = &mut self.tracker;
        self.tables
            .for_each_site(|key, totals| tracker.add_totals(*key, &with_freed(pools, key, totals)))?;
        tracker.note(begin_ns, run);
        let (seen_ns, readings) = tracker.seen();
        let took_ns = now_ns() - begin_ns;
        let wait_ns = (seen_ns / readings as u64).max(READING_SHARE * took_ns);
        Ok(Duration::from_nanos(wait_ns).clamp(READ_SOON, READ_LATE))
    }

    /// Reads everything and sums it up; adds every block of the host's memory to `sweep`. When it has them all, `settle` says
    /// what processes have mapped by themselves.
    ///
    /// # Errors
    /// [`TableError`].
    pub(super) fn snapshot(
        &mut self,
        traced: &TracedSet,
        run: RunReading,
        sweep: &mut Sweep,
        settle: impl FnOnce(&Sweep, &mut Self),
    ) -> Result<Snapshot, TableError> {
        let begin_ns = now_ns();
        self.tracker.begin(begin_ns);
        self.catch_up();
        self.look_at_pools(traced, true)?;
        let pools = self.pools.as_ref();
        self.handed_out.clone_from(&self.handed_out_ended);
        self.ends.clone_from(&self.ends_ended);
        self.python.clone_from(&self.python_ended);
        let interpreters = of_targets(traced);
        let mut failed = None;
        let mut sizes = Sizes::default();
        self.tables.for_each_site(|key, totals| {
            sizes.sites += 1;
            // What was forked has its parent's addresses, and so its stacks.
            self.doomed.remove(&key.stack_id);
            let handed_out = self.handed_out.entry(key.call).or_default();
            handed_out.add(HandedOut::of_site(totals));
            self.tracker.add_totals(*key, &with_freed(pools, key, totals));
            let mut of_ends = Walks {
                ends: &mut self.ends,
                stacks: &mut self.stacks,
                python: &mut self.python,
                outcomes: &mut self.outcomes,
                interpreters: &interpreters,
            };
            failed = of_ends
                .add(&self.tables, traced, key, totals)
                .err()
                .or(failed.take());
        })?;
        self.tracker.note(begin_ns, run);
        let gone: Vec<u64> = self.doomed.drain().collect();
        self.tables.remove_stacks(&gone)?;
        self.unsure = self.unsure_ended;
        {
            let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
            live.for_each(|key, block| {
                sizes.live += 1;
                self.unsure.add_older(self.unsure_before_ns, block);
                let block = LiveBlock::new(key, block);
                sweep.add(&of_account(&block));
                self.tracker.add_block(&block);
            })?;
        }
        settle(sweep, self);
        if traced.follows_members() {
            let processes = self.tables.processes()?;
            let runs = |(_, process): &&(u32, Tracked)| process.state & tracked::LEFT == 0;
            self.members_running = processes.iter().filter(runs).count() as u64;
            sizes.processes = processes.len() as u64;
            (sizes.threads, sizes.stacks) = self.tables.threads_and_stacks()?;
            self.sizes = Some(sizes);
        }
        self.read_gpu(traced)?;
        let Self {
            tables,
            tracker,
            stacks,
            ended,
            whereabouts,
            same,
            stacks_cut,
            ..
        } = self;
        *stacks_cut = 0;
        same.begin();
        let snapshot = tracker.finish(|site| {
            let id = site.key.stack_id;
            let stack = stacks.read(tables, id).unwrap_or_else(|error| {
                failed = Some(error);
                Rc::default()
            });
            let about = about(&site.image, traced, ended, whereabouts);
            let (kept, cut) = clean(id, &stack.frames, about.mappings);
            *stacks_cut += u64::from(cut);
            same.group(site, &stack, kept, &about, &traced.catalog.objects, &interpreters)
        });
        same.end();
        self.sweep_stacks();
        failed.map_or(Ok(snapshot), Err)
    }

    /// Adds every block of the host's memory to `sweep`.
    ///
    /// # Errors
    /// [`TableError`].
    pub(super) fn sweep(&self, sweep: &mut Sweep) -> Result<(), TableError> {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.for_each(|key, block| sweep.add(&of_account(&LiveBlock::new(key, block))))
    }

    /// Reads the stacks of these, which are no sites of the snapshot.
    ///
    /// # Errors
    /// [`TableError`].
    pub(super) fn read_stacks(&mut self, of: &[SiteRef]) -> Result<(), TableError> {
        for site in of {
            self.stacks.read(&self.tables, site.key.stack_id)?;
        }
        Ok(())
    }

    /// Throws away stacks that no site has any more, now and then.
    fn sweep_stacks(&mut self) {
        if !self.stacks.is_to_sweep() {
            return;
        }
        let failed = self.gpu.iter().flat_map(GpuMemory::failed);
        let failed = failed.map(|failed| failed.site.key.stack_id);
        let needed: HashSet<u64> = self.tracker.stack_ids().chain(failed).collect();
        self.stacks.sweep(&needed);
        self.outcomes.retain(|id, _| needed.contains(id));
    }

    /// Images that are one too many are kept no more: of their sites only sums stay.
    fn shed(&mut self, traced: &TracedSet) -> Result<(), TableError> {
        let interpreters = of_targets(traced);
        let mut failed = None;
        let Self {
            tables,
            tracker,
            stacks,
            ended,
            whereabouts,
            same,
            ..
        } = self;
        tracker.shed(|site| {
            let id = site.key.stack_id;
            let stack = stacks.read(tables, id).unwrap_or_else(|error| {
                failed = Some(error);
                Rc::default()
            });
            let about = about(&site.image, traced, ended, whereabouts);
            let (kept, _) = clean(id, &stack.frames, about.mappings);
            same.alike(site, &stack, kept, &about, &traced.catalog.objects, &interpreters)
        });
        failed.map_or(Ok(()), Err)
    }

    /// Lets go what is known of processes that have ended and are not shown any more. Nothing may be waiting to be shown.
    pub(super) fn forget(&mut self, traced: &mut TracedSet) {
        let (standing, gone): (Vec<Image>, Vec<Image>) = self
            .tracker
            .take_forgotten()
            .into_iter()
            .partition(|image| self.tracker.stands(image));
        for image in standing {
            self.ended.stand(image);
            if let Some(gpu) = &mut self.gpu {
                gpu.forget_ended(image);
            }
        }
        for image in self.ended.forget(gone) {
            if let Some(gpu) = &mut self.gpu {
                gpu.forget_ended(image);
            }
            // Under its number there may be another process by now.
            if traced
                .get(image.tgid)
                .is_none_or(|process| process.state == State::Exited)
            {
                traced.codes.forget(image.tgid, image.image);
            }
        }
        for pid in self.ended.take_gone() {
            if traced.forget_ended(pid) {
                self.whereabouts.forget(pid);
            }
        }
    }

    /// Blocks of GPUs, and the stacks of the calls that have failed.
    fn read_gpu(&mut self, traced: &TracedSet) -> Result<(), TableError> {
        let Some(gpu) = &mut self.gpu else { return Ok(()) };
        let runs = |pid, image| {
            let process = traced.get(pid);
            process.is_some_and(|process| process.state == State::Running && process.image() == image)
        };
        gpu.read(runs, |block| self.tracker.add_block(block))?;
        for failed in gpu.failed() {
            self.stacks.read(&self.tables, failed.site.key.stack_id)?;
        }
        Ok(())
    }

    /// How whole the stacks are.
    pub(super) fn stacks(&self) -> stacks::Stacks {
        stacks::Stacks {
            verified: self.stacks.verified().cloned(),
            python: self.python.clone().with_share(),
            ..self.ends.report()
        }
    }

    /// The frames of a site's stack without a garbage tail, and where they are mapped.
    pub(super) fn stack<'a>(
        &'a self,
        site: &SiteRef,
        traced: &'a TracedSet,
    ) -> (&'a [u64], Option<&'a Mappings>) {
        let id = site.key.stack_id;
        let stack = self.stacks.known(id).map_or(&[][..], |stack| &stack.frames);
        let mappings = self.about(&site.image, traced).mappings;
        (&stack[..clean(id, stack, mappings).0], mappings)
    }

    /// The Python frames of a site's stack, if that has been read.
    pub(super) fn python(&self, site: &SiteRef) -> Option<&PythonStack> {
        self.stacks.known(site.key.stack_id).map(|stack| &stack.python)
    }

    /// Whether a site's native frames reach to the outermost.
    pub(super) fn is_whole(&self, site: &SiteRef) -> bool {
        let id = site.key.stack_id;
        id != 0 && (end_of(id) == end::COMPLETE || self.stacks.is_finished(id))
    }

    /// Bytes of an object in most of the pools of a site, as far as they have been looked at.
    pub(super) fn object_bytes(&self, site: &SiteRef) -> Option<u32> {
        self.pools.as_ref()?.object_bytes(&site.key)
    }

    /// Who a process image is or was.
    pub(super) fn about<'a>(&'a self, image: &Image, traced: &'a TracedSet) -> About<'a> {
        about(image, traced, &self.ended, &self.whereabouts)
    }

    /// Name of the process that a site belongs or belonged to.
    pub(super) fn comm<'a>(&'a self, site: &SiteRef, traced: &'a TracedSet) -> &'a str {
        self.about(&site.image, traced).comm
    }
}

const fn of_account(block: &LiveBlock) -> Block {
    Block {
        site: block.site_key(),
        address: block.address,
        size_bytes: block.size_bytes,
        weight: block.weight,
    }
}

fn with_freed(pools: Option<&PoolEnds>, key: &SiteKey, totals: &Site) -> Site {
    pools.map_or(*totals, |pools| pools.with_freed(key, totals))
}

/// How many addresses of a stack to keep, and whether that is not all: only frame pointers lead astray.
fn clean(id: u64, stack: &[u64], mappings: Option<&Mappings>) -> (usize, bool) {
    match mappings {
        Some(mappings) if end_of(id) == end::FRAME_POINTERS => symbol::clean(stack, mappings),
        _ => (stack.len(), false),
    }
}

fn about<'a>(
    of: &Image,
    traced: &'a TracedSet,
    ended: &'a EndedImages,
    whereabouts: &'a Whereabouts,
) -> About<'a> {
    let process = traced.get(of.tgid);
    let Some(id) = of.frozen else {
        let known = process.map(|process| (process.of_image(of.image), process.exe_of_image(of.image)));
        let Some(((comm, mappings), exe)) = known else {
            return About::default();
        };
        return About {
            comm,
            exe,
            whereabout: whereabouts.get(of.tgid),
            mappings: Some(mappings),
        };
    };
    match ended.get(id) {
        Some(ended) => About {
            comm: &ended.comm,
            exe: ended.exe.as_deref(),
            whereabout: Some(&ended.whereabout),
            mappings: Some(&ended.mappings),
        },
        None => About {
            comm: process.map_or("", |process| &process.comm),
            ..About::default()
        },
    }
}
