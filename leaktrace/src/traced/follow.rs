//! What the traced processes do is followed: what they map, fork and execute, and that they end.
//!
//! Must not know how an object is probed: that is `set`.

use std::{collections::BTreeSet, path::PathBuf};

use super::{
    process::Traced,
    set::{TraceError, TracedSet, code, jit_map},
};
use crate::{
    kernel::{
        clock::now_ns,
        maps::Tables,
        sideband::{Change, Entry},
    },
    probe::{
        attach::Links,
        process::{self as proc, Mapping},
        refuse,
    },
    report::model::State,
    symbol::objects::ObjectId,
};

/// What the caller has to do after [`TracedSet::apply`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Followed {
    /// A process joined: its end must be watched.
    Joined(u32),
    /// A process replaced its image; this is the number of the one that is gone.
    Replaced(u32, u16),
}

/// What is known of a new mapping.
struct Mapped {
    pid: u32,
    image: u16,
    object: Option<ObjectId>,
    path: Option<PathBuf>,
}

impl TracedSet {
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
                    // One that has ended may be kept under this number for what it has left.
                    if self.follows_members() && !self.runs(pid) {
                        self.newcomer_mapped(pid, &mapping, time_ns, tables);
                    }
                    mapped.extend(self.mapped(pid, mapping, time_ns, is_known));
                }
                _ if is_known => {}
                Change::Ended => self.newcomers.ended(pid, time_ns),
                Change::Exec { comm } if self.follows_members() && !self.runs(pid) => {
                    self.newcomer_executed(pid, comm, tables);
                }
                Change::Exec { comm } => {
                    self.clear_interpreter(pid);
                    let traced = self
                        .processes
                        .get_mut(&pid)
                        .filter(|traced| traced.state == State::Running);
                    if let Some(gone) = traced.and_then(|traced| traced.replace_image(comm, time_ns)) {
                        followed.push(Followed::Replaced(pid, gone));
                    }
                }
                Change::Forked { parent } if self.follows_members() => {
                    self.newcomer_forked(pid, parent, tables);
                    self.settle_mapped(std::mem::take(&mut mapped));
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

    /// Whether a process is traced and runs.
    fn runs(&self, pid: u32) -> bool {
        self.processes
            .get(&pid)
            .is_some_and(|traced| traced.state == State::Running)
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
                if !traced.refused {
                    // Its environment is another one, and with that its libraries.
                    self.probe_driver_ahead(&mut traced);
                }
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
            Err(error) if proc::is_alive(traced.pid) => self.warnings.push(error.to_string()),
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
            if self.follows_members() {
                self.turned_away.push(traced.pid);
            }
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
                if proc::is_alive(pid) {
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
        self.publish(&mut child);
        for object in objects {
            self.probe(&mut child, object)?;
        }
        self.probe_driver_ahead(&mut child);
        Ok(child)
    }

    /// A process has ended; its probes go, what is known of its memory stays for the report.
    pub fn exited(&mut self, pid: u32) {
        self.forget(pid);
        if let Some(traced) = self.processes.get_mut(&pid) {
            traced.state = State::Exited;
            let links: Vec<Links> = traced.take_links().collect();
            self.release_aside(links);
        }
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
            self.publish(&mut traced);
            for object in objects {
                self.probe_late(&mut traced, object);
            }
            self.probe_driver_ahead(&mut traced);
            tracing::info!("pid {pid}: all probes are in place again");
        }
        self.processes.insert(pid, traced);
    }
}
