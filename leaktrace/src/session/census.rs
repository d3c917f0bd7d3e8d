//! Censuses of the targets' Python objects: when each is taken, by a thread of its own, and what has come of them.
//!
//! Must not know how objects are found in memory ([`crate::python::census`]), nor how a report shows them.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    ops::Range,
    sync::mpsc,
};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::{
    kernel::clock::now_ns,
    probe::process,
    python::{
        census::{Census, Counts, Limits, TypeName, Why, pace::Pace},
        memory::Process as ProcessMemory,
        offsets::Offsets,
    },
    report::{
        model::State,
        types::{TypeSurvivors, Types},
    },
    traced::{interpreters::Proof, set::TracedSet},
    track::{
        Image, Sort,
        types::{Held, TypeSnapshot, TypeTracker},
    },
};

/// Between two censuses of a process that no report asks for, at most, nanoseconds.
const EVERY_NS: u64 = 5_000_000_000;

/// They follow each other faster at first: after this part of the time since the first.
const PART: u64 = 4;

/// Processes whose last counts are kept after they have ended: the latest.
const ENDED_MAX: usize = 64;

/// Why a census is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Occasion {
    /// None in particular.
    Meanwhile,
    /// A report.
    Report,
    /// The last report of the run.
    LastReport,
}

/// A census that is to be taken.
#[derive(Clone, Debug)]
struct Job {
    image: Image,
    offsets: Offsets,
    /// Address of `_PyRuntime`.
    runtime: u64,
    limits: Limits,
}

/// A census that has been taken.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    image: Image,
    /// When it ended.
    now_ns: u64,
    /// What came of it.
    counts: Result<Counts, Why>,
}

/// Takes censuses. What is still to be counted when this is dropped is not.
#[derive(Debug)]
pub(super) struct Censuses {
    jobs: mpsc::Sender<Job>,
    taken: UnboundedReceiver<Taken>,
    book: Book,
}

impl Censuses {
    /// Nothing counted yet. `whole` also counts what the collector does not know.
    ///
    /// # Errors
    /// The kernel's, when there is no thread left.
    pub(super) fn start(whole: bool) -> io::Result<Self> {
        let (jobs, to_take) = mpsc::channel();
        let (sender, taken) = unbounded_channel();
        // One after another: each may keep much of the target's memory. Nobody waits for the thread to end.
        std::thread::Builder::new()
            .name("python census".to_owned())
            .spawn(move || take_all(&to_take, &sender))?;
        Ok(Self {
            jobs,
            taken,
            book: Book::new(whole),
        })
    }

    /// Has all processes counted that can be and whose turn it is.
    pub(super) fn ask(&mut self, traced: &TracedSet, occasion: Occasion) {
        let now_ns = now_ns();
        for process in traced.iter().filter(|process| process.state == State::Running) {
            let Some(known) = process.interpreter().filter(|known| {
                // Without the global lock there are no lists of objects: that is said of the interpreter.
                known.proof == Proof::Verified && known.lines()
            }) else {
                continue;
            };
            let (Some(offsets), Some(runtime)) = (known.offsets(), known.runtime_address()) else {
                continue;
            };
            let image = running(process.pid, process.image());
            let Some(limits) = self.book.due(image, now_ns, occasion) else {
                continue;
            };
            let job = Job {
                image,
                offsets: *offsets,
                runtime,
                limits,
            };
            if self.jobs.send(job).is_ok() {
                self.book.asked(image);
            }
        }
    }

    /// The next that has been taken; never ends if there will be none.
    pub(super) async fn next(&mut self) -> Taken {
        match self.taken.recv().await {
            Some(taken) => taken,
            None => std::future::pending().await,
        }
    }

    /// Notes what was counted. What its process has done meanwhile is to be known.
    pub(super) fn note(&mut self, taken: Taken, traced: &TracedSet) {
        let Image { tgid, image, .. } = taken.image;
        let is_its = traced.get(tgid).is_some_and(|process| process.image() == image);
        self.book.note(taken, is_its);
    }

    /// Whether one is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.book.under_way > 0 && !self.taken.is_closed()
    }

    /// A process image has ended; `State::Exited` keeps its last counts.
    pub(super) fn end(&mut self, pid: u32, image: u16, state: State) {
        self.book.end(running(pid, image), state);
    }

    /// What there is to report, at most `top` types of it; none where nothing was to be counted. Rates count from here on.
    pub(super) fn report(&mut self, sort: Sort, top: usize) -> Option<Types> {
        let types = self.book.types(sort, top, now_ns());
        self.book.tracker.begin_interval();
        types
    }
}

/// The thread.
fn take_all(jobs: &mpsc::Receiver<Job>, taken: &UnboundedSender<Taken>) {
    while let Ok(job) = jobs.recv() {
        let pid = job.image.tgid;
        let anonymous = if job.limits.pools {
            anonymous(pid)
        } else {
            Vec::new()
        };
        let memory = ProcessMemory::new(pid);
        let counts = Census::default().take(&memory, &job.offsets, job.runtime, &anonymous, &job.limits);
        tracing::debug!("pid {pid}: {}", in_words(&counts));
        let taken_now = Taken {
            image: job.image,
            now_ns: now_ns(),
            counts,
        };
        if taken.send(taken_now).is_err() {
            return;
        }
    }
}

/// Memory of a process that is of no file.
fn anonymous(pid: u32) -> Vec<Range<u64>> {
    let mappings = process::mappings(pid).unwrap_or_default();
    mappings
        .iter()
        .filter(|mapping| mapping.inode == 0 && mapping.label.is_empty())
        .map(|mapping| mapping.start..mapping.end)
        .collect()
}

fn in_words(counts: &Result<Counts, Why>) -> String {
    match counts {
        Ok(counts) => format!(
            "{} objects of {} types in {:?}, {} reads, {} torn{}",
            counts.tracked,
            counts.types.len(),
            counts.spent,
            counts.reads,
            counts.torn_reads,
            counts.partial.map_or_else(String::new, |why| format!(": {why}"))
        ),
        Err(why) => why.to_string(),
    }
}

const fn running(pid: u32, image: u16) -> Image {
    Image {
        tgid: pid,
        image,
        frozen: None,
    }
}

/// What is known of the censuses of a process image.
#[derive(Clone, Copy, Debug)]
struct Of {
    pace: Pace,
    /// When it was first asked for.
    since_ns: u64,
    /// When the last ended.
    last_ns: Option<u64>,
    /// The same of the last that was finished.
    finished_ns: Option<u64>,
    under_way: usize,
    /// Why the last was not finished.
    why: Option<Why>,
    has_ended: bool,
}

/// Which censuses there were and what they have counted, by process image.
#[derive(Debug, Default)]
struct Book {
    whole: bool,
    images: BTreeMap<Image, Of>,
    /// Those that have ended, the latest last.
    ended: VecDeque<Image>,
    tracker: TypeTracker<TypeName>,
    under_way: usize,
    torn_reads: u64,
    spent_s: f64,
}

impl Book {
    fn new(whole: bool) -> Self {
        Self {
            whole,
            ..Self::default()
        }
    }

    /// What a census of a running image may take that begins at `now_ns`; `None` if it is too early for one.
    fn due(&mut self, image: Image, now_ns: u64, occasion: Occasion) -> Option<Limits> {
        if self.images.get(&image).is_some_and(|of| of.has_ended) {
            // The number has come back.
            self.forget(image);
        }
        let of = self.images.entry(image).or_insert_with(|| Of {
            pace: Pace::default(),
            since_ns: now_ns,
            last_ns: None,
            finished_ns: None,
            under_way: 0,
            why: None,
            has_ended: false,
        });
        let since_last_ns = of.last_ns.map_or(u64::MAX, |last| now_ns.saturating_sub(last));
        let gap_ns = EVERY_NS.min(now_ns.saturating_sub(of.since_ns) / PART);
        let time = match occasion {
            // There will be no more.
            Occasion::LastReport => of.pace.time(u64::MAX),
            _ if of.under_way > 0 => None,
            Occasion::Meanwhile if since_last_ns < gap_ns => None,
            Occasion::Meanwhile | Occasion::Report => of.pace.time(now_ns),
        }?;
        Some(Limits {
            time,
            pools: self.whole,
            ..Limits::default()
        })
    }

    fn asked(&mut self, image: Image) {
        self.under_way += 1;
        if let Some(of) = self.images.get_mut(&image) {
            of.under_way += 1;
        }
    }

    /// `is_its`: the process has not become another program.
    fn note(&mut self, taken: Taken, is_its: bool) {
        self.under_way = self.under_way.saturating_sub(1);
        let Some(of) = self.images.get_mut(&taken.image).filter(|_| is_its) else {
            return;
        };
        of.under_way = of.under_way.saturating_sub(1);
        of.last_ns = Some(taken.now_ns);
        let counts = match taken.counts {
            Ok(counts) => counts,
            Err(why) => {
                of.why = Some(why).filter(|_| !of.has_ended);
                return;
            }
        };
        let is_late = matches!(counts.partial, Some(Why::Time | Why::Torn));
        of.pace.taken(taken.now_ns, counts.spent, is_late);
        self.torn_reads += counts.torn_reads;
        self.spent_s += counts.spent.as_secs_f64();
        of.why = counts.partial.filter(|_| !of.has_ended);
        if counts.partial.is_some() {
            self.tracker.add_partial(taken.image);
            return;
        }
        of.finished_ns = Some(taken.now_ns);
        let held = counts.types.into_iter().map(|count| {
            let held = Held {
                objects: count.objects(),
                bytes: count.bytes(),
            };
            (count.name, held)
        });
        self.tracker.add(taken.image, taken.now_ns, held);
    }

    fn end(&mut self, image: Image, state: State) {
        let Some(of) = self.images.get_mut(&image) else {
            return;
        };
        // What a program has held that another replaces is gone, and so is what was never counted.
        if state == State::Replaced || of.finished_ns.is_none() {
            self.forget(image);
            return;
        }
        // What was torn by its end was not finished for no other reason.
        of.why = None;
        if !std::mem::replace(&mut of.has_ended, true) {
            self.ended.push_back(image);
        }
        while self.ended.len() > ENDED_MAX
            && let Some(oldest) = self.ended.front().copied()
        {
            self.forget(oldest);
        }
    }

    fn forget(&mut self, image: Image) {
        self.images.remove(&image);
        self.ended.retain(|ended| *ended != image);
        self.tracker.remove(image);
    }

    fn types(&self, sort: Sort, top: usize, now_ns: u64) -> Option<Types> {
        let why = self
            .images
            .iter()
            .find_map(|(image, of)| Some(format!("process {}: {}", image.tgid, of.why?)));
        let top = if self.whole { usize::MAX } else { top };
        let snapshot = self.tracker.snapshot(sort, top);
        if snapshot.is_none() && why.is_none() {
            return None;
        }
        let types = Types {
            whole: self.whole,
            torn_reads: self.torn_reads,
            spent_s: self.spent_s,
            partial: self.images.values().filter(|of| of.why.is_some()).count() as u64,
            why,
            ..Types::default()
        };
        let Some(snapshot) = snapshot else {
            return Some(types);
        };
        Some(Types {
            interval_s: seconds(snapshot.interval_ns),
            censuses: snapshot.censuses,
            objects: snapshot.held.objects,
            bytes: snapshot.held.bytes,
            list: (snapshot.list.iter())
                .map(|of_type| self.row(of_type, now_ns))
                .collect(),
            omitted: snapshot.omitted,
            ..types
        })
    }

    fn row(&self, of_type: &TypeSnapshot<TypeName>, now_ns: u64) -> TypeSurvivors {
        let of = self.images.get(&of_type.image);
        let counted_ns = of.and_then(|of| of.finished_ns).unwrap_or(now_ns);
        TypeSurvivors {
            pid: of_type.image.tgid,
            state: if of.is_some_and(|of| of.has_ended) {
                State::Exited
            } else {
                State::Running
            },
            name: of_type.key.name.as_ref().to_owned(),
            module: of_type.key.module.as_deref().map(str::to_owned),
            age_s: seconds(now_ns.saturating_sub(counted_ns)),
            objects: of_type.now.objects,
            bytes: of_type.now.bytes,
            grown_objects: of_type.grown_objects,
            grown_bytes: of_type.grown_bytes,
            objects_per_s: of_type.objects_per_s,
            bytes_per_s: of_type.bytes_per_s,
            verdict: of_type.verdict.clone(),
            suppressed: false,
        }
    }
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
#[path = "census_tests.rs"]
mod tests;
