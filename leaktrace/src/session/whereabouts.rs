//! Where processes run: in which container, and under which number there. Asked when they join, while they live.
//!
//! Must not know how a container is found or named: that is behind [`Containers`].

use std::{collections::HashMap, fmt::Debug, sync::Arc};

use crate::{probe::process, report::model::Container};

/// Who knows the containers of processes.
pub(super) trait Containers: Debug {
    /// That of a running process; none where it is in none.
    fn of(&mut self, pid: u32) -> Option<Arc<Container>>;
}

/// Nobody: no container is looked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct NoContainers;

impl Containers for NoContainers {
    fn of(&mut self, _pid: u32) -> Option<Arc<Container>> {
        None
    }
}

/// Where a process runs.
#[derive(Clone, Debug, Default)]
pub(super) struct Whereabout {
    /// Its container.
    pub container: Option<Arc<Container>>,
    /// Its pid in its own namespace, where that is another one.
    pub inner_pid: Option<u32>,
}

/// Those of all processes that are known, the ended ones included.
#[derive(Debug)]
pub(super) struct Whereabouts {
    containers: Box<dyn Containers>,
    of: HashMap<u32, Whereabout>,
}

impl Whereabouts {
    /// Nothing known yet.
    pub(super) fn new(containers: Box<dyn Containers>) -> Self {
        Self {
            containers,
            of: HashMap::new(),
        }
    }

    /// A process has joined.
    pub(super) fn joined(&mut self, pid: u32) {
        let whereabout = Whereabout {
            container: self.containers.of(pid),
            inner_pid: process::inner_pid(pid).filter(|&inner| inner != pid),
        };
        self.of.insert(pid, whereabout);
    }

    /// That of a process; nothing of one that has not joined.
    pub(super) fn get(&self, pid: u32) -> Option<&Whereabout> {
        self.of.get(&pid)
    }

    /// A process is not known any more.
    pub(super) fn forget(&mut self, pid: u32) {
        self.of.remove(&pid);
    }
}
