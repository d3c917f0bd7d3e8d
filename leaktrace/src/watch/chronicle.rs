//! Makes reports of what has been seen, and remembers what was armed and disarmed.
//!
//! Must not decide anything.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use super::{
    arm::Armory,
    growth::{Course, Growth},
    processes::{self, Id, Processes},
    session::Settings,
    tracer::Tracer,
    witness::Witness,
};
use crate::{
    kernel::{
        clock::{now_ns, own_cpu_ns},
        faults::{Call, FaultRings},
    },
    report::{
        units::{duration, size_change},
        watch::{Arming, Courses, Event, Faults, Grower, Own, Report, SCHEMA, Traced},
    },
    session::whereabouts::{Containers, Whereabout},
};

/// Events that a report has.
const EVENTS_MAX: usize = 20;

/// What a report is made from.
#[derive(Debug)]
pub struct Sources<'a> {
    /// What was asked for.
    pub settings: &'a Settings,
    /// Who is watched.
    pub processes: &'a Processes,
    /// How they go.
    pub growths: &'a HashMap<Id, Growth>,
    /// Who is traced.
    pub armory: Option<&'a Armory<Id>>,
    /// What the kernel has dropped.
    pub faults: &'a FaultRings,
    /// The same of calls.
    pub calls: &'a [(Call, FaultRings)],
}

/// Reports so far.
#[derive(Debug)]
pub struct Chronicle {
    start_ns: u64,
    sequence: u64,
    /// When the report before was made, and own CPU time by then; nanoseconds.
    before: (u64, u64),
    events: VecDeque<Event>,
    /// What is known of processes that are or were armed: they may have ended.
    known: HashMap<Id, Known>,
    containers: Box<dyn Containers>,
}

/// A process by name and place.
#[derive(Clone, Debug, Default)]
struct Known {
    comm: String,
    whereabout: Whereabout,
}

impl Chronicle {
    /// No report yet.
    pub fn new(now_ns: u64, containers: Box<dyn Containers>) -> Self {
        Self {
            start_ns: now_ns,
            sequence: 0,
            before: (now_ns, own_cpu_ns()),
            events: VecDeque::new(),
            known: HashMap::new(),
            containers,
        }
    }

    /// Something has happened to a process.
    pub fn note(&mut self, at_ns: u64, id: Id, processes: &Processes, what: &'static str, why: String) {
        if let Some(watched) = processes.get(id.pid).filter(|watched| watched.id == id) {
            let comm = watched.comm.clone();
            let whereabout = self.whereabout(id);
            self.known.insert(id, Known { comm, whereabout });
        }
        let comm = self.known.get(&id).map(|known| known.comm.clone());
        let comm = comm.unwrap_or_default();
        tracing::info!("{comm} ({}) {what}: {why}", id.pid);
        self.events.push_back(Event {
            at_s: seconds(at_ns.saturating_sub(self.start_ns)),
            pid: id.pid,
            comm,
            what,
            why,
        });
        if self.events.len() > EVENTS_MAX {
            self.events.pop_front();
        }
    }

    /// What is said of one that is armed.
    pub fn why_armed(&self, bytes: i64, window: Duration) -> String {
        format!("{} over {}", size_change(bytes), duration(window))
    }

    /// A report that lists `chosen`.
    pub fn report(
        &mut self,
        from: &Sources<'_>,
        chosen: &[Id],
        witness: &mut Witness,
        tracer: &mut dyn Tracer,
        last: bool,
    ) -> Report {
        self.sequence += 1;
        let now_ns = now_ns();
        let settings = from.settings;
        let processes = courses(from);
        let growers: Vec<Grower> = chosen
            .iter()
            .filter_map(|id| grower(from, *id, &self.whereabout(*id), witness))
            .collect();
        let listed = growers.iter().filter(|grower| rises(grower.course)).count() as u64;
        let traced = self.traced(from, tracer);
        Report {
            schema: SCHEMA,
            sequence: self.sequence,
            last,
            elapsed_s: seconds(now_ns.saturating_sub(self.start_ns)),
            window_s: settings.window.as_secs_f64(),
            arming: settings.arm.map(|condition| Arming {
                condition: condition.to_string(),
                bytes: condition.bytes,
                places: settings.max_armed,
                max_overhead: settings.max_overhead.to_f64(),
            }),
            processes,
            own: self.own(now_ns, tracer.cpu_ns()),
            faults: Faults {
                kept: witness.fate.kept,
                of_files: witness.fate.of_files,
                cut: witness.fate.cut,
                lost: from.faults.lost + from.calls.iter().map(|(_, rings)| rings.lost).sum::<u64>(),
                throttled: from.faults.throttled,
                page_sizes: from.faults.knows_page_sizes,
            },
            growers,
            omitted: (processes.growing + processes.returning).saturating_sub(listed),
            traced,
            events: self.events.iter().cloned().collect(),
            warnings: warnings(from.faults),
        }
    }

    fn own(&mut self, now_ns: u64, tracers_cpu_ns: u64) -> Own {
        let cpu_ns = own_cpu_ns();
        let (before_ns, cpu_before_ns) = std::mem::replace(&mut self.before, (now_ns, cpu_ns));
        let elapsed_ns = now_ns.saturating_sub(before_ns).max(1);
        Own {
            cpu_s: seconds(cpu_ns),
            cpu_share: cpu_ns.saturating_sub(cpu_before_ns) as f64 / elapsed_ns as f64,
            tracers_cpu_s: seconds(tracers_cpu_ns),
        }
    }

    fn traced(&self, from: &Sources<'_>, tracer: &mut dyn Tracer) -> Vec<Traced> {
        let reports = tracer.reports().into_iter();
        let traced = reports.map(|(id, budget, report)| {
            let Known { comm, whereabout } = self.known.get(&id).cloned().unwrap_or_default();
            Traced {
                pid: id.pid,
                inner_pid: whereabout.inner_pid,
                comm,
                container: whereabout.container.as_deref().cloned(),
                armed: from.armory.is_some_and(|armory| armory.is_armed(id)),
                max_overhead: budget.to_f64(),
                report,
            }
        });
        traced.collect()
    }

    /// Where a process runs, asked anew: a runtime that did not answer may do so by now.
    fn whereabout(&mut self, id: Id) -> Whereabout {
        if processes::is_same(id) {
            Whereabout::of(id.pid, None, self.containers.as_mut())
        } else {
            Whereabout::default()
        }
    }
}

fn rises(course: &str) -> bool {
    [Course::Growing, Course::Returning]
        .iter()
        .any(|rising| rising.name() == course)
}

fn courses(from: &Sources<'_>) -> Courses {
    let mut courses = Courses {
        watched: from.growths.len() as u64,
        ..Courses::default()
    };
    for growth in from.growths.values() {
        *match growth.course {
            Course::Idle => &mut courses.idle,
            Course::Flat => &mut courses.flat,
            Course::Returning => &mut courses.returning,
            Course::Growing => &mut courses.growing,
        } += 1;
    }
    courses
}

/// None if the process has ended since.
fn grower(from: &Sources<'_>, id: Id, whereabout: &Whereabout, witness: &mut Witness) -> Option<Grower> {
    let watched = from.processes.get(id.pid).filter(|watched| watched.id == id)?;
    let growth = from.growths.get(&id)?;
    let (sites, samples, sampled_bytes) = witness.sites(id, from.settings.top);
    Some(Grower {
        pid: id.pid,
        inner_pid: whereabout.inner_pid,
        start_ticks: id.start_ticks,
        comm: watched.comm.clone(),
        container: whereabout.container.as_deref().cloned(),
        course: growth.course.name(),
        armed: from.armory.is_some_and(|armory| armory.is_armed(id)),
        rss_bytes: watched.rss_bytes,
        anon_bytes: watched.history.bytes(),
        growth_bytes: growth.bytes,
        over_s: growth.covered.as_secs_f64(),
        samples,
        sampled_bytes,
        areas: witness.areas(id),
        sites,
        calls: witness.calls(id, from.settings.top),
    })
}

fn warnings(faults: &FaultRings) -> Vec<String> {
    let mut warnings = Vec::new();
    if !faults.knows_page_sizes {
        warnings.push(
            "this kernel does not tell the size of pages (5.11 does): a huge page counts as a small one"
                .to_owned(),
        );
    }
    warnings
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}
