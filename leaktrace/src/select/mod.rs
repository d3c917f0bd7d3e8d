//! Which processes are meant, where they are not named one by one: by name, user, control group, container, or all of them.
//!
//! [`Selection`] is what was typed. [`resolve`](Selected::resolve) looks up what it refers to and makes of it the
//! properties that the kernel side decides by; [`Selected::names`] decides the same of a process that runs already.
//! Must not know probes or what is traced.

mod groups;
mod process;

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use leaktrace_common::select::{HIERARCHIES_MAX, Property, Rules, kind, verdict};

use self::groups::Groups;
pub use self::process::running;
use crate::{
    container::{
        cgroup::Cgroup,
        containers::{Container, ContainerError, Containers},
        hierarchies::{CgroupError, Hierarchies},
    },
    kernel::btf::{self, BtfError},
};

/// What was typed. Values of a kind are alternatives, and a process must be of each kind that has any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// All processes.
    pub all: bool,
    /// Processes that are meant whatever else holds.
    pub pids: Vec<u32>,
    /// Which are meant.
    pub wanted: Properties,
    /// Which are not, although they would be.
    pub left_out: Properties,
}

/// Properties of processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// Names; the kernel keeps 15 bytes of each.
    pub comms: Vec<String>,
    /// Real user ids.
    pub users: Vec<u32>,
    /// Control groups, as typed.
    pub cgroups: Vec<PathBuf>,
    /// Containers, by name or id.
    pub containers: Vec<String>,
    /// Process ids; only to leave them out.
    pub pids: Vec<u32>,
}

impl Properties {
    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.comms.is_empty()
            && self.users.is_empty()
            && self.cgroups.is_empty()
            && self.containers.is_empty()
            && self.pids.is_empty()
    }
}

impl Selection {
    /// Whether nothing was typed that means any process.
    pub const fn is_empty(&self) -> bool {
        !self.all && self.pids.is_empty() && self.wanted.is_empty()
    }

    /// Whether processes that start later can be meant.
    pub const fn is_open(&self) -> bool {
        self.all || !self.wanted.is_empty()
    }

    /// As it can be typed: an option each.
    pub fn words(&self) -> Vec<String> {
        let mut words: Vec<String> = self.all.then(|| "--all".to_owned()).into_iter().collect();
        let wanted = self.wanted.pairs();
        words.extend(wanted.map(|(kind, value)| format!("--{kind} {value}")));
        words.extend(self.pids.iter().map(|pid| format!("-p {pid}")));
        let left_out = self.left_out.pairs();
        words.extend(left_out.map(|(kind, value)| format!("--exclude {kind}={value}")));
        words
    }
}

impl Properties {
    /// Kinds and values.
    fn pairs(&self) -> impl Iterator<Item = (&'static str, String)> {
        let comms = self.comms.iter().map(|name| ("comm", name.clone()));
        let users = self.users.iter().map(|user| ("user", user.to_string()));
        let cgroups = self
            .cgroups
            .iter()
            .map(|path| ("cgroup", path.display().to_string()));
        let containers = self.containers.iter().map(|name| ("container", name.clone()));
        let pids = self.pids.iter().map(|pid| ("pid", pid.to_string()));
        comms.chain(users).chain(cgroups).chain(containers).chain(pids)
    }
}

/// A selection cannot be looked up.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// No such control group.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// No such container.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// The kernel does not say where it keeps what processes are chosen by.
    #[error("cannot choose processes on this kernel: {0}; name them by -p")]
    Kernel(#[from] BtfError),
    /// Groups of too many hierarchies.
    #[error(
        "the control groups named are in more than {HIERARCHIES_MAX} hierarchies; name groups of one controller, such as those below /sys/fs/cgroup/memory"
    )]
    Hierarchies,
}

/// A selection that has been looked up.
#[derive(Debug)]
pub struct Selected {
    /// As typed.
    pub selection: Selection,
    /// For the kernel side.
    pub rules: Rules,
    /// What it is told of each property, a bit set of [`verdict`].
    pub properties: HashMap<Property, u32>,
    /// The container that all of them are in, where that follows from what was typed.
    pub container: Option<Arc<Container>>,
    groups: Groups,
}

impl Selected {
    /// Looks up what a selection refers to. leaktrace itself is never meant.
    ///
    /// # Errors
    /// [`SelectError`].
    pub fn resolve(selection: Selection, containers: &mut Containers) -> Result<Self, SelectError> {
        let mut selected = Self {
            selection,
            rules: Rules {
                on: 1,
                offsets: btf::task_offsets()?,
                ..Rules::NONE
            },
            properties: HashMap::new(),
            container: None,
            groups: Groups::new(Hierarchies::here()),
        };
        let Selection { wanted, left_out, .. } = selected.selection.clone();
        let wanted = selected.add(&wanted, verdict::WANTED, containers)?;
        if selected.selection.pids.is_empty()
            && let [container] = &*wanted
        {
            selected.container = Some(Arc::clone(container));
        }
        selected.rules.required = selected.rules.looked_at;
        selected.add(&left_out, verdict::LEFT_OUT, containers)?;
        selected.judge(
            Property::number(kind::PID, 0, std::process::id().into()),
            verdict::LEFT_OUT,
        );
        if selected.selection.wanted.is_empty() && !selected.selection.all {
            // Only those named by number: nothing that starts is meant.
            selected.rules.required |= kind::PID;
        }
        Ok(selected)
    }

    /// Those that run and are meant, in order of their ids.
    pub fn running(&mut self) -> Vec<u32> {
        let mut meant = Vec::new();
        for process in running() {
            let by_number = self.selection.pids.contains(&process.pid);
            if by_number || self.names(process.pid, &process.comm, process.user) {
                meant.push(process.pid);
            }
        }
        meant
    }

    /// Whether a process that runs is meant; its name and user are given, its groups are looked up.
    pub fn names(&mut self, pid: u32, comm: &str, user: u32) -> bool {
        let mut properties = vec![
            Property::number(kind::PID, 0, pid.into()),
            Property::comm(comm.as_bytes()),
            Property::number(kind::USER, 0, user.into()),
        ];
        if self.rules.looked_at & kind::CGROUP != 0 {
            properties.extend(self.groups.of_pid(pid));
        }
        let mut wanted = 0;
        for property in properties {
            let verdict = self.properties.get(&property).copied().unwrap_or_default();
            if verdict & verdict::LEFT_OUT != 0 {
                return false;
            }
            if verdict & verdict::WANTED != 0 {
                wanted |= property.kind;
            }
        }
        wanted & self.rules.required == self.rules.required
    }

    /// Adds what properties refer to; the containers among that.
    fn add(
        &mut self,
        properties: &Properties,
        verdict: u32,
        containers: &mut Containers,
    ) -> Result<Vec<Arc<Container>>, SelectError> {
        let mut added = Vec::new();
        for comm in &properties.comms {
            self.judge(Property::comm(comm.as_bytes()), verdict);
        }
        for &user in &properties.users {
            self.judge(Property::number(kind::USER, 0, user.into()), verdict);
        }
        for &pid in &properties.pids {
            self.judge(Property::number(kind::PID, 0, pid.into()), verdict);
        }
        for path in &properties.cgroups {
            let group = self.groups.resolve(path)?;
            self.judge_group(&group, verdict)?;
        }
        for name in &properties.containers {
            for (container, groups) in containers.resolve(name)? {
                if let Some(group) = self.groups.best_of(&groups) {
                    self.judge_group(&group, verdict)?;
                    added.push(container);
                }
            }
        }
        Ok(added)
    }

    fn judge_group(&mut self, group: &Cgroup, verdict: u32) -> Result<(), SelectError> {
        let (index, number) = self.groups.ask_about(&group.hierarchy)?;
        let slot = self.rules.hierarchies.get_mut(index);
        *slot.ok_or(SelectError::Hierarchies)? = number;
        self.judge(Property::number(kind::CGROUP, number, group.inode), verdict);
        Ok(())
    }

    fn judge(&mut self, property: Property, verdict: u32) {
        self.rules.looked_at |= property.kind;
        *self.properties.entry(property).or_default() |= verdict;
    }
}
