//! Processes that have been forked or have executed something since the start and are not taken in: what they have mapped
//! is kept, since they may be gone when it is asked for. Pure.
//!
//! Must not know who is a target.

use std::{
    collections::{HashMap, VecDeque},
    path::PathBuf,
    rc::Rc,
};

use crate::symbol::mappings::{Mapping, Mappings};

/// How long one that has ended is remembered: what tells of its blocks comes by another way, and a little later.
const REMEMBERED_NS: u64 = 2_000_000_000;

/// How many are kept at most; those that would be more are looked up in /proc.
const MAX: usize = 16_384;

/// What is known of one.
#[derive(Clone, Debug, Default)]
pub(super) struct Newcomer {
    /// Its name.
    pub(super) comm: String,
    /// Its program, once it has mapped that.
    pub(super) exe: Option<PathBuf>,
    /// What it has mapped since its last `exec`; shared with what it has forked.
    pub(super) mappings: Rc<Mappings>,
    /// When it ended, nanoseconds of `CLOCK_BOOTTIME`.
    ended_ns: Option<u64>,
}

impl Newcomer {
    /// One that runs.
    pub(super) const fn new(comm: String, exe: Option<PathBuf>, mappings: Rc<Mappings>) -> Self {
        Self {
            comm,
            exe,
            mappings,
            ended_ns: None,
        }
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
    pub(super) fn forked(&mut self, pid: u32, parent: &Newcomer) {
        let child = Newcomer {
            ended_ns: None,
            ..parent.clone()
        };
        self.put(pid, child);
    }

    /// One has executed a program.
    pub(super) fn executed(&mut self, pid: u32, comm: String) {
        self.put(pid, Newcomer::new(comm, None, Rc::default()));
    }

    /// One has mapped something, nanoseconds of `CLOCK_BOOTTIME`.
    pub(super) fn mapped(&mut self, pid: u32, mapping: Mapping, time_ns: u64) {
        if let Some(newcomer) = self.all.get_mut(&pid) {
            if newcomer.exe.is_none() && !mapping.name.is_empty() {
                // The first file an exec maps is the program.
                newcomer.exe = Some(PathBuf::from(&mapping.name));
            }
            Rc::make_mut(&mut newcomer.mappings).insert_at(mapping, time_ns);
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

    /// Takes one in.
    pub(super) fn put(&mut self, pid: u32, newcomer: Newcomer) {
        if self.all.len() < MAX || self.all.contains_key(&pid) {
            self.all.insert(pid, newcomer);
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
        newcomers.get(pid).unwrap().mappings.iter().count()
    }

    #[test]
    fn what_is_forked_has_what_its_parent_had_and_what_executes_starts_afresh() {
        let mut newcomers = Newcomers::default();
        newcomers.executed(1, "sh".to_owned());
        newcomers.mapped(1, mapping(0x1000), 10);
        let parent = newcomers.get(1).unwrap().clone();
        newcomers.forked(2, &parent);
        newcomers.mapped(1, mapping(0x3000), 20);
        let child = newcomers.get(2).unwrap();
        assert_eq!((child.comm.as_str(), mapped(&newcomers, 2)), ("sh", 1));
        assert_eq!(child.exe, Some(PathBuf::from("/bin/x")));
        newcomers.executed(2, "cat".to_owned());
        assert_eq!((mapped(&newcomers, 1), mapped(&newcomers, 2)), (2, 0));
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
        assert_eq!(newcomers.get(1).unwrap().comm, "a");
        newcomers.executed(1, "b".to_owned());
        newcomers.forget_old(100 + REMEMBERED_NS);
        assert_eq!(newcomers.get(1).unwrap().comm, "b");
        newcomers.ended(1, 200);
        newcomers.forget_old(200 + REMEMBERED_NS);
        assert!(newcomers.get(1).is_none());
    }
}
