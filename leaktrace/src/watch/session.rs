//! The loop of `leaktrace watch`: looks, takes samples, arms, reports. Wiring without logic.

use std::{
    collections::{HashMap, HashSet},
    io::Write as _,
    os::fd::OwnedFd,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    io::unix::AsyncFd,
    signal::unix::{SignalKind, signal},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::{Instant, MissedTickBehavior, interval, interval_at, sleep_until},
};

use super::{
    arm::{self, Armory, Condition, Order},
    chronicle::Chronicle,
    growth::{Course, Growth},
    marks::Marks,
    processes::{Dirty, Id, Processes, ReadAll},
    tracer::{Children, Tracer},
    witness::Witness,
};
use crate::{
    config::{self, Share},
    container::containers::Containers,
    error::{Error, system},
    kernel::{
        clock::now_ns,
        faults::{Call, FaultRings, Source},
        sys,
    },
    killswitch::{self, Killswitch, Thrown},
    report::output::Output,
    select::{Selected, Selection},
    session::whereabouts::HostContainers,
};

/// What `leaktrace watch` is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Which processes.
    pub selection: Selection,
    /// When they are traced; none where they are not.
    pub arm: Option<Condition>,
    /// Over which time growth is told; that of the condition, where there is one.
    pub window: Duration,
    /// Most that are traced at a time.
    pub max_armed: usize,
    /// What tracing may cost them of their CPU time, all together.
    pub max_overhead: Share,
    /// Time between reports; `None` reports only at the end.
    pub interval: Option<Duration>,
    /// When to stop; `None` is when interrupted.
    pub duration: Option<Duration>,
    /// Processes listed, and sites of each.
    pub top: usize,
    /// Where reports go, and in which form.
    pub output: config::Output,
    /// The file that ends all tracing.
    pub killswitch: PathBuf,
    /// Also sample the calls that enlarge what is mapped.
    pub calls: bool,
    /// Have the kernel mark whose memory changes.
    pub marks: bool,
    /// How much to say on stderr.
    pub verbose: u8,
}

/// Between two looks at most, and at least; in between, often enough for the window.
const LOOK_MAX: Duration = Duration::from_secs(5);
const LOOK_MIN: Duration = Duration::from_millis(250);

/// Looks in a window, at least.
const LOOKS_PER_WINDOW: u32 = 20;

/// Samples are taken from rings that have not filled, too.
const DRAIN_EVERY: Duration = Duration::from_millis(500);

/// How long a report waits for names: a first look at a large object takes seconds, and the next report has them.
const NAMES_WAIT: Duration = Duration::from_secs(2);

/// How long the last report waits for the last reports of tracers.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// Runs to the end.
///
/// # Errors
/// [`Error`] when watching cannot begin or go on.
pub fn run(settings: &Settings) -> Result<ExitCode, Error> {
    killswitch::check(&settings.killswitch)?;
    let output = Output::open(&settings.output)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("cannot set up the event loop"))?;
    runtime.block_on(async {
        let killswitch = Killswitch::watch(&settings.killswitch).map_err(system("cannot watch signals"))?;
        let mut watch = Watch::new(settings, output)?;
        watch.announce();
        let thrown = watch.run(killswitch).await?;
        if let Some(thrown) = thrown {
            say(&format!("{thrown}: all tracing has ended"));
        }
        Ok(ExitCode::SUCCESS)
    })
}

struct Watch<'a> {
    settings: &'a Settings,
    members: Selected,
    dirty: Box<dyn Dirty>,
    processes: Processes,
    looks: u64,
    /// How each process goes, as of the last look.
    growths: HashMap<Id, Growth>,
    /// Whose page faults are taken.
    rising: HashMap<u32, Id>,
    faults: FaultRings,
    calls: Vec<(Call, FaultRings)>,
    witness: Witness,
    armory: Option<Armory<Id>>,
    tracer: Box<dyn Tracer>,
    chronicle: Chronicle,
    output: Output,
    /// Until when the report that is due waits for names; none if no report is due.
    due: Option<Instant>,
}

/// Why the loop woke.
enum Wake {
    Look,
    Report,
    Named,
    Late,
    Samples,
    Stop,
    Thrown(Thrown),
}

impl<'a> Watch<'a> {
    fn new(settings: &'a Settings, output: Output) -> Result<Self, Error> {
        raise_file_limit();
        let faults = FaultRings::open(Source::Faults)?;
        let mut calls = Vec::new();
        if settings.calls {
            for call in [Call::Mmap, Call::Brk] {
                calls.push((call, FaultRings::open(Source::Calls(call))?));
            }
        }
        let interval = settings.interval.unwrap_or(LOOK_MAX);
        let mut containers = Containers::here();
        let mut watch = Self {
            settings,
            members: Selected::resolve_here(settings.selection.clone(), &mut containers)?,
            dirty: dirty(settings.marks),
            processes: Processes::new(settings.window),
            looks: 0,
            growths: HashMap::new(),
            rising: HashMap::new(),
            faults,
            calls,
            witness: Witness::new(),
            armory: settings
                .arm
                .map(|condition| Armory::new(condition, settings.max_armed)),
            tracer: Box::new(Children::new(interval, settings.killswitch.clone())),
            chronicle: Chronicle::new(now_ns(), Box::new(HostContainers::new(containers, None))),
            output,
            due: None,
        };
        watch.look()?;
        Ok(watch)
    }

    fn announce(&self) {
        let number = self.processes.len();
        let plural = if number == 1 { "" } else { "es" };
        say(&format!("watching {number} process{plural}"));
    }

    /// Until the time is up or a signal comes, or the switch is thrown. The last report is written.
    async fn run(&mut self, mut killswitch: Killswitch) -> Result<Option<Thrown>, Error> {
        let mut interrupts = signal(SignalKind::interrupt()).map_err(system("cannot watch signals"))?;
        let mut terminations = signal(SignalKind::terminate()).map_err(system("cannot watch signals"))?;
        let mut rings = self.watch_rings()?;
        let every = (self.settings.window / LOOKS_PER_WINDOW).clamp(LOOK_MIN, LOOK_MAX);
        let mut looks = steady(every);
        let mut drains = interval(DRAIN_EVERY);
        drains.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reports = self.settings.interval.map(steady);
        let deadline = self.settings.duration.map(|duration| Instant::now() + duration);
        loop {
            let wake = tokio::select! {
                biased;
                thrown = killswitch.thrown() => Wake::Thrown(thrown),
                _ = interrupts.recv() => Wake::Stop,
                _ = terminations.recv() => Wake::Stop,
                () = until(deadline) => Wake::Stop,
                _ = looks.tick() => Wake::Look,
                () = until(self.due) => Wake::Late,
                () = self.witness.answered(), if self.due.is_some() => Wake::Named,
                () = next(&mut reports), if self.due.is_none() => Wake::Report,
                Some(()) = rings.recv() => Wake::Samples,
                _ = drains.tick() => Wake::Samples,
            };
            match wake {
                Wake::Look => self.look()?,
                Wake::Samples => self.take_samples(),
                Wake::Report => {
                    self.begin_report();
                    self.write_if_named()?;
                }
                Wake::Named => self.write_if_named()?,
                Wake::Late => self.report(false)?,
                Wake::Stop => {
                    self.finish(&mut killswitch).await?;
                    return Ok(None);
                }
                Wake::Thrown(thrown) => {
                    // The probes first: what is left to do needs none.
                    self.tracer.disarm_all();
                    self.report(true)?;
                    return Ok(Some(thrown));
                }
            }
        }
    }

    /// Looks at all processes and decides what is to be done.
    fn look(&mut self) -> Result<(), Error> {
        self.take_samples();
        let now_ns = now_ns();
        self.looks += 1;
        let look = self
            .processes
            .look(self.looks, now_ns, &mut self.members, self.dirty.as_mut())
            .map_err(system("cannot list /proc"))?;
        for id in look.ended.iter().chain(&look.replaced) {
            self.witness.forget(*id);
        }
        for id in look.ended {
            if let Some(armory) = &mut self.armory {
                armory.forget(id);
            }
        }
        self.growths = self
            .processes
            .iter()
            .map(|watched| (watched.id, watched.history.growth()))
            .collect();
        let rises = |id: &Id, growth: &Growth| {
            let armed = self.armory.as_ref().is_some_and(|armory| armory.is_armed(*id));
            let watched = self.processes.get(id.pid);
            armed
                || matches!(growth.course, Course::Growing | Course::Returning)
                || watched.is_some_and(|watched| watched.history.is_above_start())
        };
        self.rising = self
            .growths
            .iter()
            .filter(|(id, growth)| rises(id, growth))
            .map(|(id, _)| (id.pid, *id))
            .collect();
        let rising = &self.rising;
        self.witness.settle(|id| rising.get(&id.pid) == Some(&id));
        self.arm(now_ns);
        Ok(())
    }

    /// Arms and disarms.
    fn arm(&mut self, now_ns: u64) {
        for (id, why) in self.tracer.ended() {
            if let Some(armory) = self.armory.as_mut().filter(|armory| armory.is_armed(id)) {
                armory.rest(id, now_ns);
                self.chronicle.note(now_ns, id, &self.processes, "failed", why);
            }
        }
        let Some(armory) = &mut self.armory else { return };
        let all: Vec<(Id, Growth)> = self.growths.iter().map(|(id, growth)| (*id, *growth)).collect();
        for order in armory.decide(now_ns, &all) {
            match order {
                Order::Disarm(id, why) => {
                    self.tracer.disarm(id);
                    let why = why.text().to_owned();
                    self.chronicle.note(now_ns, id, &self.processes, "disarmed", why);
                }
                Order::Arm(id) => {
                    let growth_of = |id: &Id| self.growths.get(id).map_or(0, |growth| growth.bytes);
                    let growths: Vec<i64> = armory.armed().map(|(id, _)| growth_of(&id)).collect();
                    let shares = arm::shares(self.settings.max_overhead, &growths);
                    let mine = armory.armed().zip(shares).find(|((armed, _), _)| *armed == id);
                    let budget = mine.map_or(Share::LEAST_OVERHEAD, |(_, share)| share);
                    let grown = growth_of(&id);
                    match self.tracer.arm(id, budget) {
                        Ok(()) => {
                            let why = self.chronicle.why_armed(grown, self.settings.window);
                            self.chronicle.note(now_ns, id, &self.processes, "armed", why);
                        }
                        Err(error) => {
                            armory.rest(id, now_ns);
                            self.chronicle
                                .note(now_ns, id, &self.processes, "failed", error.to_string());
                        }
                    }
                }
            }
        }
    }

    fn take_samples(&mut self) {
        let rising = &self.rising;
        for touch in self.faults.drain(|pid| rising.contains_key(&pid)) {
            if let Some(id) = rising.get(&touch.stack.tgid) {
                self.witness.take(*id, &touch);
            }
        }
        for (call, rings) in &mut self.calls {
            for touch in rings.drain(|pid| rising.contains_key(&pid)) {
                if let Some(id) = rising.get(&touch.stack.tgid) {
                    self.witness.take_call(*id, *call, &touch);
                }
            }
        }
    }

    /// Has the names for a report looked up.
    fn begin_report(&mut self) {
        self.take_samples();
        self.due = Some(Instant::now() + NAMES_WAIT);
        for id in self.chosen() {
            self.witness.ask(id);
        }
    }

    fn write_if_named(&mut self) -> Result<(), Error> {
        if self.due.is_some() && self.witness.has_names() {
            self.report(false)?;
        }
        Ok(())
    }

    /// Writes a report, with the names that are known.
    fn report(&mut self, last: bool) -> Result<(), Error> {
        self.due = None;
        self.take_samples();
        let chosen = self.chosen();
        let report = self.chronicle.report(
            &super::chronicle::Sources {
                settings: self.settings,
                processes: &self.processes,
                growths: &self.growths,
                armory: self.armory.as_ref(),
                faults: &self.faults,
                calls: &self.calls,
            },
            &chosen,
            &mut self.witness,
            self.tracer.as_mut(),
            last,
        );
        Ok(self.output.watch(&report)?)
    }

    /// The processes that a report lists, by growth; the armed in any case.
    fn chosen(&self) -> Vec<Id> {
        let is_armed = |id: &Id| self.armory.as_ref().is_some_and(|armory| armory.is_armed(*id));
        let mut chosen: Vec<(bool, i64, Id)> = self
            .rising
            .values()
            .filter_map(|id| Some((is_armed(id), self.growths.get(id)?.bytes, *id)))
            .collect();
        chosen.sort_by_key(|(armed, bytes, id)| (std::cmp::Reverse((*armed, *bytes)), *id));
        let shown = chosen.into_iter().enumerate();
        let shown = shown.filter(|(index, (armed, ..))| *armed || *index < self.settings.top);
        shown.map(|(_, (_, _, id))| id).collect()
    }

    /// Takes all probes out, waits a while for what was found by them, and writes the last report.
    async fn finish(&mut self, killswitch: &mut Killswitch) -> Result<(), Error> {
        let armed: HashSet<Id> = self
            .armory
            .iter()
            .flat_map(Armory::armed)
            .map(|(id, _)| id)
            .collect();
        for id in &armed {
            self.tracer.disarm(*id);
        }
        self.begin_report();
        let limit = Instant::now() + LAST_WAIT;
        while (self.tracer.is_busy() || !self.witness.has_names()) && Instant::now() < limit {
            tokio::select! {
                _ = killswitch.thrown() => break,
                () = self.witness.answered() => {}
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        }
        self.tracer.disarm_all();
        self.report(true)
    }

    fn watch_rings(&self) -> Result<UnboundedReceiver<()>, Error> {
        let (say, said) = unbounded_channel();
        let descriptors = self
            .faults
            .descriptors()
            .map_err(system("cannot watch a perf ring"))?;
        for descriptor in descriptors {
            let ring = sys::watch_readable(descriptor).map_err(system("cannot watch a descriptor"))?;
            tokio::spawn(tell(ring, say.clone()));
        }
        Ok(said)
    }
}

async fn tell(ring: AsyncFd<OwnedFd>, say: UnboundedSender<()>) {
    while let Ok(mut ready) = ring.readable().await {
        ready.clear_ready();
        if say.send(()).is_err() {
            return;
        }
    }
}

fn steady(every: Duration) -> tokio::time::Interval {
    let mut ticks = interval_at(Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

async fn next(ticks: &mut Option<tokio::time::Interval>) {
    match ticks {
        Some(ticks) => {
            ticks.tick().await;
        }
        None => std::future::pending().await,
    }
}

/// Each watched process keeps a descriptor: take as many as the hard limit gives.
fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::debug!("cannot raise the limit of open files: {error}");
    }
}

/// The kernel's marks, where they are wanted and it can.
fn dirty(marks: bool) -> Box<dyn Dirty> {
    if !marks {
        return Box::new(ReadAll);
    }
    match Marks::begin() {
        Ok(marks) => Box::new(marks),
        Err(error) => {
            say(&format!("{error}; all processes are read instead"));
            Box::new(ReadAll)
        }
    }
}

/// A line on standard error, at any verbosity. Nobody may be there to read it.
fn say(line: &str) {
    let _unheard: std::io::Result<()> = writeln!(std::io::stderr(), "leaktrace: {line}");
}
