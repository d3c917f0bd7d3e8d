//! Processes that have been forked or have executed something since the start and are not taken in: what they have mapped
//! is kept, since they may be gone when it is asked for. Pure.
//!
//! Must not know who is a target.

use std::{
    collections::{HashMap, VecDeque},
    path::PathBuf,
    rc::Rc,
};

use crate::{
    probe::process as proc,
    symbol::mappings::{Mapping, Mappings},
};

/// How long one that has ended is remembered: what tells of its blocks comes by another way, and a little later; on a busy
/// machine by seconds.
const REMEMBERED_NS: u64 = 10_000_000_000;

/// Images of one before the last that are kept.
const EARLIER_MAX: usize = 8;

/// Mappings of one that are kept until it is known to be a target.
const UNJUDGED_MAX: usize = 256;

/// How many are kept at most; those that would be more are looked up in /proc.
const MAX: usize = 16_384;

/// What one was between two `exec`s.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Its name.
    pub(super) comm: String,
    /// Its program, once it has mapped that.
    pub(super) exe: Option<PathBuf>,
    /// What it has mapped; shared with what it has forked.
    pub(super) mappings: Rc<Mappings>,
    /// The text of its `/proc/PID/cgroup`, if it was read in time; that of its parent until then.
    pub(super) cgroups: Option<Rc<str>>,
}

/// What is known of one: of its images, and of those of a process that had its number before it, the last one is at the end.
#[derive(Clone, Debug)]
pub(super) struct Newcomer {
    earlier: VecDeque<Seen>,
    now: Seen,
    /// What it has mapped while it is not known to be a target, and when: the kernel side judges an exec a moment after
    /// perf has told of it.
    unjudged: Vec<(proc::Mapping, u64)>,
    is_member: bool,
    /// When it ended, nanoseconds of `CLOCK_BOOTTIME`.
    ended_ns: Option<u64>,
}

impl Newcomer {
    /// One of which only this is known.
    pub(super) const fn new(now: Seen) -> Self {
        Self {
            earlier: VecDeque::new(),
            now,
            unjudged: Vec::new(),
            is_member: false,
            ended_ns: None,
        }
    }

    /// What it is.
    pub(super) const fn now(&self) -> &Seen {
        &self.now
    }

    /// What it was before, the oldest first.
    pub(super) fn earlier(&self) -> impl DoubleEndedIterator<Item = &Seen> {
        self.earlier.iter()
    }

    fn becomes(&mut self, next: Seen) {
        self.earlier.push_back(std::mem::replace(&mut self.now, next));
        if self.earlier.len() > EARLIER_MAX {
            self.earlier.pop_front();
        }
        self.unjudged.clear();
        self.ended_ns = None;
    }
}

/// All of them, by process id.
#[derive(Debug, Default)]
pub(super) struct Newcomers {
    all: HashMap<u32, Newcomer>,
    /// Those that have ended, in order.
    ended: VecDeque<(u64, u32)>,
}

impl Newcomers {
    /// One was forked: it has what its parent has.
    pub(super) fn forked(&mut self, pid: u32, parent: Seen) {
        self.becomes(pid, parent);
    }

    /// One has executed a program. It stays in its control groups.
    pub(super) fn executed(&mut self, pid: u32, comm: String) {
        let cgroups = self.get(pid).and_then(|newcomer| newcomer.now.cgroups.clone());
        let seen = Seen {
            comm,
            cgroups,
            ..Seen::default()
        };
        self.becomes(pid, seen);
    }

    /// The control groups of one have been read.
    pub(super) fn is_in(&mut self, pid: u32, cgroups: Rc<str>) {
        if let Some(newcomer) = self.all.get_mut(&pid) {
            newcomer.now.cgroups = Some(cgroups);
        }
    }

    /// One runs, or has begun another image.
    pub(super) fn becomes(&mut self, pid: u32, seen: Seen) {
        if let Some(known) = self.all.get_mut(&pid) {
            known.becomes(seen);
        } else if self.all.len() < MAX {
            self.all.insert(pid, Newcomer::new(seen));
        }
    }

    /// Whether one is known to be a target.
    pub(super) fn is_member(&self, pid: u32) -> bool {
        self.all.get(&pid).is_some_and(|newcomer| newcomer.is_member)
    }

    /// One is: what it has mapped until now.
    pub(super) fn confirm(&mut self, pid: u32) -> Vec<(proc::Mapping, u64)> {
        let Some(newcomer) = self.all.get_mut(&pid) else {
            return Vec::new();
        };
        newcomer.is_member = true;
        std::mem::take(&mut newcomer.unjudged)
    }

    /// One that is not known to be a target has mapped something.
    pub(super) fn hold(&mut self, pid: u32, mapping: &proc::Mapping, time_ns: u64) {
        if let Some(newcomer) = self.all.get_mut(&pid)
            && newcomer.unjudged.len() < UNJUDGED_MAX
        {
            newcomer.unjudged.push((mapping.clone(), time_ns));
        }
    }

    /// One has mapped something, nanoseconds of `CLOCK_BOOTTIME`.
    pub(super) fn mapped(&mut self, pid: u32, mapping: Mapping, time_ns: u64) {
        if let Some(newcomer) = self.all.get_mut(&pid) {
            let now = &mut newcomer.now;
            if now.exe.is_none() && !mapping.name.is_empty() {
                // The first file an exec maps is the program.
                now.exe = Some(PathBuf::from(&mapping.name));
            }
            Rc::make_mut(&mut now.mappings).insert_at(mapping, time_ns);
        }
    }

    /// One has ended.
    pub(super) fn ended(&mut self, pid: u32, time_ns: u64) {
        if let Some(newcomer) = self.all.get_mut(&pid) {
            newcomer.ended_ns = Some(time_ns);
            self.ended.push_back((time_ns, pid));
        }
    }

    /// One of them.
    pub(super) fn get(&self, pid: u32) -> Option<&Newcomer> {
        self.all.get(&pid)
    }

    /// One is taken in: nothing more has to be kept here.
    pub(super) fn take(&mut self, pid: u32) -> Option<Newcomer> {
        self.all.remove(&pid)
    }

    /// Forgets those that have ended long ago.
    pub(super) fn forget_old(&mut self, now_ns: u64) {
        let is_old = |(ended_ns, _): &mut (u64, u32)| *ended_ns + REMEMBERED_NS <= now_ns;
        while let Some((ended_ns, pid)) = self.ended.pop_front_if(is_old) {
            // Its number may have gone to another.
            if self
                .all
                .get(&pid)
                .is_some_and(|one| one.ended_ns == Some(ended_ns))
            {
                self.all.remove(&pid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(start: u64) -> Mapping {
        Mapping {
            start,
            end: start + 0x1000,
            file_offset: 0,
            object: None,
            name: "/bin/x".to_owned(),
            executable: true,
        }
    }

    fn mapped(newcomers: &Newcomers, pid: u32) -> usize {
        newcomers.get(pid).unwrap().now().mappings.iter().count()
    }

    #[test]
    fn what_is_forked_has_what_its_parent_had_and_what_executes_starts_afresh() {
        let mut newcomers = Newcomers::default();
        newcomers.executed(1, "sh".to_owned());
        newcomers.mapped(1, mapping(0x1000), 10);
        newcomers.is_in(1, "0::/web\n".into());
        let parent = newcomers.get(1).unwrap().now().clone();
        newcomers.forked(2, parent);
        newcomers.mapped(1, mapping(0x3000), 20);
        let child = newcomers.get(2).unwrap().now();
        assert_eq!((child.comm.as_str(), mapped(&newcomers, 2)), ("sh", 1));
        assert_eq!(child.exe, Some(PathBuf::from("/bin/x")));
        let cgroups = |newcomers: &Newcomers| newcomers.get(2).unwrap().now().cgroups.clone();
        assert_eq!(cgroups(&newcomers).as_deref(), Some("0::/web\n"));
        newcomers.executed(2, "cat".to_owned());
        assert_eq!(cgroups(&newcomers).as_deref(), Some("0::/web\n"));
        assert_eq!((mapped(&newcomers, 1), mapped(&newcomers, 2)), (2, 0));
        let earlier: Vec<_> = newcomers
            .get(2)
            .unwrap()
            .earlier()
            .map(|seen| &*seen.comm)
            .collect();
        assert_eq!(earlier, ["sh"]);
        // Of what was never heard of nothing is kept.
        newcomers.mapped(4, mapping(0x1000), 30);
        assert!(newcomers.get(4).is_none());
    }

    #[test]
    fn those_that_have_ended_are_remembered_for_a_while_and_a_number_that_comes_again_is_another() {
        let mut newcomers = Newcomers::default();
        newcomers.executed(1, "a".to_owned());
        newcomers.ended(1, 100);
        newcomers.forget_old(100 + REMEMBERED_NS - 1);
        assert_eq!(newcomers.get(1).unwrap().now().comm, "a");
        newcomers.executed(1, "b".to_owned());
        newcomers.forget_old(100 + REMEMBERED_NS);
        assert_eq!(newcomers.get(1).unwrap().now().comm, "b");
        newcomers.ended(1, 200);
        newcomers.forget_old(200 + REMEMBERED_NS);
        assert!(newcomers.get(1).is_none());
    }
}
