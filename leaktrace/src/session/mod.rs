//! A run from attach to last report: the event loop. Wiring without logic; the only module that knows all
//! others.

mod accounts;
mod build;
mod census;
mod child;
mod collect;
mod costs;
mod ended;
mod follow;
mod gate;
mod gpu;
mod history;
mod keep;
mod ledger;
mod mapped;
mod members;
mod pace;
mod pools;
mod python;
mod reports;
mod same;
mod shares;
mod stacks;
mod start;
pub mod whereabouts;

use std::{
    collections::HashSet, io::Write as _, os::fd::OwnedFd, process::ExitCode, sync::Arc, time::Duration,
};

use leaktrace_common::event::{Event, kind};
use nix::sys::signal::Signal;
use tokio::{
    io::unix::AsyncFd,
    sync::mpsc::{UnboundedSender, unbounded_channel},
    time::{Instant, MissedTickBehavior, interval_at, sleep_until},
};

pub use self::child::ChildFate;
use self::{
    build::{Builder, Unnamed},
    census::{Censuses, Occasion, Taken},
    child::Signals,
    gate::Judgement,
    gpu::DriverCount,
    pace::Pace,
    start::Running,
};
use crate::{
    account::Accounts,
    cli::EXIT_UNUSABLE,
    config::{Config, Target},
    error::{Error, system},
    gate::Gate,
    kernel::{clock::now_ns, object::LoadError, sys},
    killswitch::{self, Killswitch, Thrown},
    report::{
        model::{OmittedSpace, Report, State},
        output::Output,
        units::counted,
    },
    traced::host::Reach,
};

/// Runs to the end. The exit code is the child's, or 0; if that is 0 and the gate fails, 1.
///
/// # Errors
/// [`Error`] when tracing cannot begin or go on.
pub fn run(config: &Config, fate: ChildFate) -> Result<ExitCode, Error> {
    if let Some(parent) = config.ends_with_parent {
        child::end_with_parent(parent)?;
    }
    killswitch::check(&config.killswitch)?;
    let gate = Gate::open(config)?;
    let output = Output::open(&config.output)?;
    start::runtime()?.block_on(async {
        // First of all: a signal that comes while the probes are put in place ends the run in good order.
        let mut signals = Signals::watch().map_err(system("cannot watch signals"))?;
        let mut killswitch = Killswitch::watch(&config.killswitch).map_err(system("cannot watch signals"))?;
        let mut config = config.clone();
        let running = start::start(&mut config)?;
        let mut session = Session::new(&config, running, output, gate)?;
        session.begin_history()?;
        // What looking at a process for the first time makes resident of its files is none of its own doing.
        session.first_census().await;
        session.begin_accounts();
        session.announce();
        let outcome = session.trace(&mut signals, &mut killswitch).await;
        // The probes go first, whatever happened: no target pays for an error of ours.
        session.running.release_all();
        let outcome = outcome.and_then(|()| session.output.finish().map_err(Error::from));
        let judgement = session.judgement;
        let outcome = judgement.settle(outcome);
        if session.running.child.is_none() {
            return outcome.map(|()| judgement.code());
        }
        // Said at once: the command may run for days.
        let failed = outcome.err().filter(|error| !error.is_broken_pipe());
        if let Some(error) = &failed {
            say(&error.to_string());
        }
        let code = session.settle_child(fate, &mut signals).await?;
        Ok(failed.map_or_else(|| judgement.beside(code), |_| ExitCode::from(EXIT_UNUSABLE)))
    })
}

struct Session<'a> {
    config: &'a Config,
    running: Running,
    builder: Builder,
    output: Output,
    /// Processes whose end is watched.
    watched: HashSet<u32>,
    /// When the cost is looked at next.
    next_reading: Instant,
    /// When histories are read next.
    next_note: Instant,
    /// Counts the objects of Python; none where that is not followed.
    censuses: Option<Censuses>,
    /// A report whose names are being looked up.
    unnamed: Option<Waiting>,
    /// How soon what the rings have is looked at.
    pace: Arc<Pace>,
    /// What the driver itself says of GPU memory.
    driver_count: DriverCount,
    /// Where the memory of the processes is.
    accounts: Accounts,
    /// What may be outstanding.
    gate: Gate,
    /// Whether more was.
    judgement: Judgement,
}

/// A report without names, and whose they are.
struct Waiting {
    report: Report,
    unnamed: Unnamed,
    /// What passes the filters and is not in it.
    unlisted: Vec<OmittedSpace>,
    /// How long it waits for a census at most.
    counted_until: Instant,
}

/// Why the loop woke.
enum Wake {
    Interval,
    Named,
    Measure,
    Note,
    Deadline,
    Thrown(Thrown),
    Stop(Signal),
    Changes,
    Event(Event),
    Loaded,
    LookAgain,
    Ended(u32),
    Counted(Taken),
    Late,
    Departed,
}

impl<'a> Session<'a> {
    fn new(config: &'a Config, mut running: Running, output: Output, gate: Gate) -> Result<Self, Error> {
        let builder = Builder::new(now_ns(), running.kernel_release.clone());
        let named = match &config.target {
            Target::Pids(pids) => pids.as_slice(),
            Target::Command(_) | Target::Selected(_) => &[],
        };
        let child = running.child.as_ref().map(std::process::Child::id);
        for pid in named.iter().copied().chain(child) {
            running.collector.ended.name(pid);
        }
        let censuses = config.python.then(|| Censuses::start(config.census));
        Ok(Self {
            config,
            running,
            builder,
            output,
            watched: HashSet::new(),
            next_reading: Instant::now() + READ_SOON,
            next_note: Instant::now(),
            censuses: censuses
                .transpose()
                .map_err(system("cannot start the thread that counts Python objects"))?,
            unnamed: None,
            pace: Arc::default(),
            driver_count: DriverCount::default(),
            accounts: Accounts::new(),
            gate,
            judgement: Judgement::new(config),
        })
    }

    /// What is there already is counted before it is said that anything is traced: growth is from then on.
    async fn first_census(&mut self) {
        self.count(Occasion::Meanwhile);
        let limit = Instant::now() + FIRST_CENSUS_WAIT;
        while self.is_counting() {
            tokio::select! {
                taken = next_census(&mut self.censuses) => self.note_census(taken),
                () = sleep_until(limit) => return,
            }
        }
    }

    /// Has Python objects counted, where it is time for that.
    fn count(&mut self, occasion: Occasion) {
        if let Some(censuses) = &mut self.censuses {
            censuses.ask(&self.running.traced, occasion);
        }
    }

    fn is_counting(&self) -> bool {
        self.censuses.as_ref().is_some_and(Censuses::is_busy)
    }

    fn note_census(&mut self, taken: Taken) {
        if let Some(censuses) = &mut self.censuses {
            censuses.note(taken, &self.running.traced);
        }
    }

    /// The line that says that the probes are in place.
    fn announce(&self) {
        let traced = &self.running.traced;
        let names: Vec<String> = traced
            .iter()
            .map(|process| format!("{} ({})", process.pid, process.comm))
            .collect();
        let objects: HashSet<_> = traced
            .iter()
            .flat_map(|process| process.probed().collect::<Vec<_>>())
            .collect();
        let probed: HashSet<_> = traced
            .iter()
            .flat_map(|process| process.probed_for().collect::<Vec<_>>())
            .collect();
        let functions: usize = probed
            .iter()
            .filter_map(|&(object, gear)| Some(traced.catalog.scan(object)?.of(gear).0.len()))
            .sum();
        let for_all = traced.files_for_all();
        if traced.reaches() == Reach::Host {
            say(&format!(
                "the probes of {} are for all processes that map {}: calls of those that are no targets cost them a trap \
                 each; --scope process spares them",
                counted(for_all as u64, "file"),
                if for_all == 1 { "it" } else { "them" },
            ));
        }
        let names = match &self.config.target {
            Target::Command(line) => line[0].to_string_lossy().into_owned(),
            Target::Pids(_) => names.join(", "),
            Target::Selected(selection) => selection.words().join(" "),
        };
        if traced.follows_members() {
            let running = traced.iter().count();
            let files = counted(traced.files_for_all() as u64, "file");
            say(&format!(
                "tracing {names}: {files} for all, {running} taken in, attach {}",
                traced.attach_kind()
            ));
            return;
        }
        say(&format!(
            "tracing {names}: {functions} functions in {} object{}, attach {}",
            objects.len(),
            if objects.len() == 1 { "" } else { "s" },
            traced.attach_kind()
        ));
    }

    /// Until the targets have ended, the time is up or a signal comes. The last report is written.
    async fn trace(&mut self, watched: &mut Signals, killswitch: &mut Killswitch) -> Result<(), Error> {
        let now = Instant::now();
        let mut ticks = self.config.interval.map(|interval| {
            let mut ticks = interval_at(now + interval, interval);
            // A report that took longer than the interval is not followed by a burst.
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        let deadline = self.config.duration.map(|duration| now + duration);
        let (ended, mut endings) = unbounded_channel();
        let (changed, mut changes) = unbounded_channel();
        self.watch_all(&ended, &changed)?;
        let mut signals = 0;
        loop {
            // Signals and the end of the run wait for nothing. Ends of processes come before reports, because a
            // report may take longer than the interval, and then one is always due.
            let look_again = self.look_again();
            let late = self.waits_for_census();
            let departed = self.running.departed.due();
            let wake = tokio::select! {
                biased;
                signal = watched.next() => Wake::Stop(signal),
                thrown = killswitch.thrown() => Wake::Thrown(thrown),
                () = until(deadline) => Wake::Deadline,
                Some(pid) = endings.recv() => Wake::Ended(pid),
                Some(event) = self.running.events.events.recv() => Wake::Event(event),
                () = self.running.loaded.notified() => Wake::Loaded,
                () = until(look_again) => Wake::LookAgain,
                () = sleep_until(self.next_reading) => Wake::Measure,
                () = sleep_until(self.next_note) => Wake::Note,
                taken = next_census(&mut self.censuses) => Wake::Counted(taken),
                () = until(late) => Wake::Late,
                () = until(departed) => Wake::Departed,
                () = self.builder.answered(), if self.unnamed.is_some() => Wake::Named,
                () = next(&mut ticks), if self.unnamed.is_none() => Wake::Interval,
                Some(()) = changes.recv() => Wake::Changes,
            };
            match wake {
                Wake::Interval => {
                    self.report(&ended, false)?;
                    self.write_if_named()?;
                }
                Wake::Named | Wake::Late => self.write_if_named()?,
                Wake::Counted(taken) => {
                    // Whether the process is still the one that was counted.
                    self.follow(&ended)?;
                    self.note_census(taken);
                    self.write_if_named()?;
                }
                Wake::Measure => {
                    // Stacks that are to be walked on wait in a queue of bounded length.
                    self.follow(&ended)?;
                    self.measure()?;
                    self.look_at_pools()?;
                    self.look_at_memory()?;
                    // Reports may be far between.
                    self.settle_departed()?;
                    self.running.traced.forget_newcomers();
                }
                Wake::Note => self.note_history()?,
                Wake::Thrown(thrown) => {
                    // The probes first: the report can be made without.
                    self.running.release_all();
                    say(&format!("{thrown}: all tracing has ended"));
                    return self.last_report(&ended, watched).await;
                }
                Wake::Deadline => return self.last_report(&ended, watched).await,
                Wake::Changes => {
                    // One look answers for all that have been announced.
                    while changes.try_recv().is_ok() {}
                    self.follow(&ended)?;
                }
                Wake::Departed => {
                    self.follow(&ended)?;
                    self.settle_departed()?;
                }
                Wake::Event(event) => self.take_event(&event, &ended)?,
                Wake::Loaded => self.running.traced.settle_tables(),
                Wake::LookAgain => {
                    self.follow(&ended)?;
                    let Running {
                        traced, collector, ..
                    } = &mut self.running;
                    traced.look_again(collector.tables());
                }
                Wake::Ended(pid) => {
                    self.follow(&ended)?;
                    self.end(pid)?;
                    if !self.running.traced.any_running() {
                        return self.last_report(&ended, watched).await;
                    }
                }
                Wake::Stop(signal) => {
                    signals += 1;
                    if signals > 1 || !self.passes_on(signal) {
                        return self.last_report(&ended, watched).await;
                    }
                }
            }
        }
    }

    /// The ends of all traced processes and the side-band's rings become readable as `ended` and `changed`.
    fn watch_all(
        &mut self,
        ended: &UnboundedSender<u32>,
        changed: &UnboundedSender<()>,
    ) -> Result<(), Error> {
        for descriptor in self
            .running
            .sideband
            .descriptors()
            .map_err(system("cannot watch a perf ring"))?
        {
            watch_ring(descriptor, changed.clone(), Arc::clone(&self.pace))?;
        }
        let mapped = self.running.mapped.wake();
        if let Some(descriptor) = mapped.map_err(system("cannot watch the ring of mappings"))? {
            watch_ring(descriptor, changed.clone(), Arc::clone(&self.pace))?;
        }
        let pids: Vec<u32> = self.running.traced.iter().map(|process| process.pid).collect();
        for pid in pids {
            self.watch(pid, ended)?;
        }
        Ok(())
    }

    /// The kernel side has told of something.
    fn take_event(&mut self, event: &Event, ended: &UnboundedSender<u32>) -> Result<(), Error> {
        match event.kind {
            kind::UNKNOWN_ADDRESS => self.running.traced.unknown_address(event.tgid),
            kind::UNMAPPED => self.running.traced.unmapped(event.tgid),
            kind::LEFT => self.member_left(event.tgid, event.value as u16),
            kind::JOINED => self.member_joined(event.tgid, ended)?,
            kind => {
                self.follow(ended)?;
                if kind == kind::EXEC_BY_THREAD {
                    self.running.traced.attach_again(event.tgid);
                }
            }
        }
        Ok(())
    }

    /// When to look again at what processes have mapped.
    fn look_again(&self) -> Option<Instant> {
        let due_ns = self.running.traced.look_again_ns()?;
        Some(Instant::now() + Duration::from_nanos(due_ns.saturating_sub(now_ns())))
    }

    /// Looks for pools of Python that are not in use any more.
    fn look_at_pools(&mut self) -> Result<(), Error> {
        let Running {
            traced, collector, ..
        } = &mut self.running;
        Ok(collector.look_at_pools(traced, false)?)
    }

    /// Looks at what tracing costs, and does what follows from it.
    fn measure(&mut self) -> Result<(), Error> {
        let Running {
            traced,
            collector,
            meter,
            keeper,
            ..
        } = &mut self.running;
        let running = traced.iter().filter(|process| process.state == State::Running);
        let pids: Vec<u32> = running.map(|process| process.pid).collect();
        let reading = meter
            .read(traced.programs(), &traced.catalog.slots, pids)
            .map_err(LoadError::Maps)?;
        let soon = meter.is_timing() || keeper.is_some();
        if let Some(keeper) = keeper {
            keeper.step(&reading, meter, traced, collector)?;
        }
        self.next_reading = Instant::now() + if soon { READ_SOON } else { READ_LATER };
        Ok(())
    }
}

/// A line on standard error, at any verbosity. Nobody may be there to read it.
fn say(line: &str) {
    let _unheard: std::io::Result<()> = writeln!(std::io::stderr(), "leaktrace: {line}");
}

fn async_fd(descriptor: OwnedFd) -> Result<AsyncFd<OwnedFd>, Error> {
    sys::watch_readable(descriptor).map_err(system("cannot watch a descriptor"))
}

/// Between two looks at the cost: while it is kept to a budget or runs are timed, and otherwise.
const READ_SOON: Duration = Duration::from_millis(50);
const READ_LATER: Duration = Duration::from_secs(1);

/// How long the beginning waits for the census that has begun for it.
const FIRST_CENSUS_WAIT: Duration = Duration::from_millis(500);

/// Reports when a ring has something.
fn watch_ring(descriptor: OwnedFd, changed: UnboundedSender<()>, pace: Arc<Pace>) -> Result<(), Error> {
    let ring = async_fd(descriptor)?;
    tokio::spawn(async move {
        while let Ok(mut ready) = ring.readable().await {
            ready.clear_ready();
            if changed.send(()).is_err() {
                return;
            }
            pace.wait().await;
        }
    });
    Ok(())
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

async fn next_census(censuses: &mut Option<Censuses>) -> Taken {
    match censuses {
        Some(censuses) => censuses.next().await,
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
