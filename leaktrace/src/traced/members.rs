//! Targets that become so by themselves: taken in when they have something to show or, where each has probes of its own,
//! when they are told of; let go when they leave.
//!
//! The kernel side decides who is a member. Must not know by what.

use std::{
    collections::{BTreeSet, HashSet},
    rc::Rc,
};

use super::{
    host::{Part, Reach},
    newcomers::{Newcomer, Seen},
    process::Traced,
    set::{TraceError, TracedSet, code},
};
use crate::{
    kernel::{
        clock::now_ns,
        maps::{TableError, Tables},
    },
    probe::{
        attach::Links,
        gear::Gear,
        process::{self as proc, Mapping},
    },
    report::model::State,
    symbol::{mappings::Mappings, objects::ObjectId},
};

/// How often one that executes something just then is looked at.
const ATTEMPTS: usize = 3;

/// Which processes become targets by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Joins {
    /// None but the children of targets.
    None,
    /// Some.
    Some,
    /// All.
    All,
}

/// How many members there have been.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemberCounts {
    /// Taken in.
    pub joined: u64,
    /// Of those, ended or not members any more.
    pub left: u64,
    /// Refused, each with its reason among the warnings.
    pub refused: u64,
    /// Ended before their probes were in place.
    pub unprobed: u64,
    /// Ended before they were looked at, and nothing was told of what they mapped.
    pub unnamed: u64,
}

impl TracedSet {
    /// From here on processes join and leave by themselves: all that there are, or some of them.
    pub const fn follow_members(&mut self, all: bool) {
        self.joins = if all { Joins::All } else { Joins::Some };
    }

    /// Whether they do.
    pub const fn follows_members(&self) -> bool {
        !matches!(self.joins, Joins::None)
    }

    /// How many there have been.
    pub const fn members(&self) -> MemberCounts {
        self.members
    }

    /// Probes for all processes what these map, as far as it is probed for all.
    pub fn place_files_of(&mut self, members: &HashSet<u32>) {
        let mut objects = BTreeSet::new();
        for &pid in members {
            let mappings = proc::mappings(pid).unwrap_or_default();
            for mapping in mappings.iter().filter(|mapping| mapping.executable) {
                objects.extend(self.catalog.of_mapping(pid, mapping));
            }
        }
        let objects: Vec<ObjectId> = objects.into_iter().collect();
        self.place_many(&objects);
    }

    /// Notes what members are that run before they are taken in: it is gone when they have executed something else.
    pub fn note_running(&mut self, members: &HashSet<u32>) {
        for &pid in members {
            if !self.processes.contains_key(&pid)
                && let Some(seen) = self.look_at(pid)
            {
                self.newcomers.becomes(pid, seen);
            }
        }
    }

    /// Takes a member in, unless it is: it has recorded something, or is to have probes. `told` is the image up to which the
    /// side-band has told of it. Whether it is traced now.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn join(&mut self, pid: u32, told: u16, tables: &Tables) -> Result<bool, TableError> {
        let Some(mut image) = tables.image(pid)? else {
            return Ok(false);
        };
        if let Some(known) = self.processes.get(&pid)
            && known.state == State::Running
        {
            return Ok(false);
        }
        let slot = self.layout_slot(pid);
        tables.set_layout(pid, slot)?;
        // What the side-band tells from here on is of a process that is taken in.
        let from_ns = now_ns();
        self.confirm(pid);
        let newcomer = self.newcomers.take(pid);
        let known_image = told.min(image);
        let mut running = self.of_running(pid, image, tables);
        for _ in 1..ATTEMPTS {
            let now = tables.image(pid)?.unwrap_or(image);
            if now == image {
                break;
            }
            // An exec meanwhile.
            image = now;
            running = self.of_running(pid, image, tables);
        }
        // It has ended, perhaps while it was looked at, or its number is another's by now.
        let is_gone = match &running {
            Err(TraceError::Process(_) | TraceError::Reused { .. }) => true,
            Err(_) => !proc::is_alive(pid),
            Ok(_) => false,
        };
        self.members.unprobed += u64::from(is_gone && self.needs_own_probes());
        let outcome = match (running, newcomer) {
            (_, Some(newcomer)) if is_gone => Ok(Self::of_newcomer(pid, known_image, &newcomer, from_ns)),
            (_, None) if is_gone => {
                self.members.unnamed += 1;
                Ok(Self::of_newcomer(
                    pid,
                    image,
                    &Newcomer::new(Seen::default()),
                    from_ns,
                ))
            }
            // What it was before stays in the report. An exec that is under way may show before its image is counted.
            (Err(error @ TraceError::Refused(_)), Some(newcomer))
                if image > 0 || !self.needs_own_probes() =>
            {
                self.turn_away(pid, &error, tables)?;
                self.processes
                    .insert(pid, Self::of_newcomer(pid, known_image, &newcomer, from_ns));
                return Ok(true);
            }
            (Ok(mut traced), Some(newcomer)) => {
                remember(&mut traced, &newcomer, known_image);
                Ok(traced)
            }
            (running, _) => running,
        };
        match outcome {
            Ok(traced) => {
                self.members.joined += 1;
                tracing::info!("tracing {pid} ({}), a member", traced.comm);
                self.processes.insert(pid, traced);
                Ok(true)
            }
            Err(error) => {
                self.turn_away(pid, &error, tables)?;
                Ok(false)
            }
        }
    }

    /// It is not taken in: the kernel side records no more of it.
    fn turn_away(&mut self, pid: u32, error: &TraceError, tables: &Tables) -> Result<(), TableError> {
        self.forget(pid);
        if matches!(error, TraceError::Refused(_)) {
            self.members.refused += 1;
        }
        self.refused.insert(pid);
        if proc::is_alive(pid) {
            tracing::info!("{pid} is not traced: {error}");
            self.warnings.push(error.to_string());
        }
        self.turned_away.push(pid);
        tables.turn_away(pid)
    }

    /// Members that are traced no more because of what they are.
    pub fn take_turned_away(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.turned_away)
    }

    /// Takes one in that is gone, as far as it is known from the side-band. One that was turned away is not.
    pub fn join_gone(&mut self, pid: u32, image: u16) -> bool {
        if self.refused.remove(&pid) {
            return false;
        }
        self.confirm(pid);
        let newcomer = self.newcomers.take(pid).unwrap_or_else(|| {
            self.members.unnamed += 1;
            Newcomer::new(Seen::default())
        });
        self.members.joined += 1;
        self.processes
            .insert(pid, Self::of_newcomer(pid, image, &newcomer, now_ns()));
        true
    }

    /// One that runs.
    fn of_running(&mut self, pid: u32, image: u16, tables: &Tables) -> Result<Traced, TraceError> {
        let facts = proc::facts(pid)?;
        let maps = proc::mappings(pid)?;
        self.check(pid, &facts, &maps)?;
        let from_ns = now_ns();
        let mut traced = Traced::of_image_number(pid, facts.comm.clone(), facts.exe, image);
        traced.counted_from(from_ns);
        traced.known_from(from_ns);
        let objects = self.read_mappings(&mut traced)?;
        // One that ends loses them while they are read; it has no program any more then (kernel/exit.c: `exit_mm`).
        let after = proc::facts(pid)?;
        if after.start_ticks != facts.start_ticks || after.exe.is_none() {
            return Err(TraceError::Reused { pid });
        }
        // From here on the side-band tells of it.
        if tables.image(pid)?.is_some_and(|now| now != image) {
            return Err(TraceError::Reused { pid });
        }
        self.publish(&mut traced);
        for object in objects {
            self.probe_member(&mut traced, object)?;
        }
        if self.needs_own_probes() {
            self.probe_driver_ahead(&mut traced);
        }
        traced.rss_bytes = proc::rss_bytes(pid).ok();
        Ok(traced)
    }

    /// Probes an object of a member: one that is probed for all has been from before, or may have been used unseen.
    fn probe_member(&mut self, traced: &mut Traced, object: ObjectId) -> Result<(), TraceError> {
        let was_for_all = self.host.has(object, Part::Of(Gear::Heap));
        let probed = self.probe(traced, object)?;
        self.unseen.objects_late += u64::from(probed && !was_for_all);
        Ok(())
    }

    /// One that is gone: what it had mapped is known from the side-band.
    fn of_newcomer(pid: u32, image: u16, newcomer: &Newcomer, from_ns: u64) -> Traced {
        let now = newcomer.now();
        let mut traced = Traced::of_image_number(pid, now.comm.clone(), now.exe.clone(), image);
        traced.counted_from(from_ns);
        traced.known_from(from_ns);
        traced.set_mappings((*now.mappings).clone());
        remember(&mut traced, newcomer, image);
        traced
    }

    /// A process was forked that is not taken in.
    pub(super) fn newcomer_forked(&mut self, pid: u32, parent: u32, tables: &Tables) {
        // Told before the kernel side has judged it: what it is follows from its parent.
        if !self.is_member(parent, tables) && !self.is_member(pid, tables) {
            self.newcomers.take(pid);
            return;
        }
        let of_parent = match self.newcomers.get(parent) {
            Some(newcomer) => Some(newcomer.now().clone()),
            None => self.look_at_parent(parent),
        };
        if let Some(seen) = of_parent {
            self.newcomers.forked(pid, seen);
        }
    }

    /// What is known of a process that forks and is no newcomer.
    fn look_at_parent(&mut self, parent: u32) -> Option<Seen> {
        if let Some(traced) = self.processes.get(&parent) {
            let (comm, mappings) = traced.of_image(traced.image());
            return Some(Seen {
                comm: comm.to_owned(),
                exe: traced.exe.clone(),
                mappings: Rc::new(mappings.clone()),
                cgroups: cgroups(parent),
            });
        }
        // It runs from before the start. Looked at once, it is a newcomer as well: its next child costs nothing.
        let seen = self.look_at(parent)?;
        self.newcomers.becomes(parent, seen.clone());
        Some(seen)
    }

    /// A process as /proc shows it.
    fn look_at(&mut self, pid: u32) -> Option<Seen> {
        let facts = proc::facts(pid).ok()?;
        let mut mappings = Mappings::new();
        for mapping in proc::mappings(pid).ok()?.iter().filter(|one| one.executable) {
            let object = self.catalog.of_mapping(pid, mapping);
            mappings.insert(code(mapping, object));
        }
        Some(Seen {
            comm: facts.comm,
            exe: facts.exe,
            mappings: Rc::new(mappings),
            cgroups: cgroups(pid),
        })
    }

    /// A process that is not taken in has executed a program.
    pub(super) fn newcomer_executed(&mut self, pid: u32, comm: String, tables: &Tables) {
        self.newcomers.executed(pid, comm);
        if self.is_member(pid, tables) {
            self.read_cgroups(pid);
        }
    }

    /// Reads in which control groups a newcomer is, while it can be read.
    fn read_cgroups(&mut self, pid: u32) {
        if let Some(cgroups) = cgroups(pid) {
            self.newcomers.is_in(pid, cgroups);
        }
    }

    /// In which control groups a process was that is not taken in: the text of its `/proc/PID/cgroup`, if that was read.
    pub fn cgroups_of_newcomer(&self, pid: u32) -> Option<Rc<str>> {
        self.newcomers.get(pid)?.now().cgroups.clone()
    }

    /// A newcomer has mapped a file: one that is new is probed for all at once.
    pub(super) fn newcomer_mapped(&mut self, pid: u32, mapping: &Mapping, time_ns: u64, tables: &Tables) {
        if self.newcomers.get(pid).is_none() {
            return;
        }
        if !self.newcomers.is_member(pid) {
            if !self.is_member(pid, tables) {
                self.newcomers.hold(pid, mapping, time_ns);
                return;
            }
            self.confirm(pid);
        }
        self.map_of_newcomer(pid, mapping, time_ns);
    }

    /// A newcomer is a member: what it has mapped until now is looked at.
    fn confirm(&mut self, pid: u32) {
        if !self.newcomers.is_member(pid) && self.cgroups_of_newcomer(pid).is_none() {
            self.read_cgroups(pid);
        }
        for (mapping, time_ns) in self.newcomers.confirm(pid) {
            self.map_of_newcomer(pid, &mapping, time_ns);
        }
    }

    fn map_of_newcomer(&mut self, pid: u32, mapping: &Mapping, time_ns: u64) {
        let is_new = !self.catalog.is_known(mapping);
        let object = self.catalog.of_mapping(pid, mapping);
        self.newcomers.mapped(pid, code(mapping, object), time_ns);
        if is_new && let Some(object) = object {
            let had = self.host.has(object, Part::Of(Gear::Heap));
            self.place_many(&[object]);
            let late = !had && self.host.has(object, Part::Of(Gear::Heap));
            self.unseen.objects_late += u64::from(late);
        }
    }

    /// Whether a process is a member, or was one: the kernel side forgets those at once of which nothing was recorded.
    fn is_member(&self, pid: u32, tables: &Tables) -> bool {
        self.joins == Joins::All || tables.image(pid).is_ok_and(|image| image.is_some())
    }

    /// Forgets newcomers that have ended long ago.
    pub fn forget_newcomers(&mut self) {
        self.newcomers.forget_old(now_ns());
    }

    /// Whether members have probes of their own, so that they have to be taken in before they record anything.
    pub fn needs_own_probes(&self) -> bool {
        self.follows_members() && self.reaches() != Reach::Host
    }

    /// A member has ended or is none any more: its probes go, what is known of its memory stays for the report.
    pub fn leave(&mut self, pid: u32) {
        self.members.left += 1;
        self.refused.remove(&pid);
        self.forget(pid);
        if let Some(traced) = self.processes.get_mut(&pid) {
            traced.state = State::Exited;
            let links: Vec<Links> = traced.take_links().collect();
            self.release_aside(links);
        }
    }
}

/// The text of `/proc/PID/cgroup`. Of one that has ended and is not waited for yet version 1 says the root
/// (`proc_cgroup_show` in kernel/cgroup/cgroup.c, 6.12): that is not what it was in.
fn cgroups(pid: u32) -> Option<Rc<str>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let runs = std::fs::read_link(format!("/proc/{pid}/exe")).is_ok();
    runs.then(|| text.into())
}

/// Notes what a process was before its image of now; `newest` is the number of the last one that is known as a newcomer's.
fn remember(traced: &mut Traced, newcomer: &Newcomer, newest: u16) {
    let known = std::iter::once(newcomer.now()).chain(newcomer.earlier().rev());
    for (image, seen) in (0..=newest).rev().zip(known) {
        if image < traced.image() {
            traced.set_image(image, &seen.comm, seen.exe.clone(), (*seen.mappings).clone());
        }
    }
}
