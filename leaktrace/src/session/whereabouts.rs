//! Where processes run: in which container, and under which number there. Asked when they join, while they live.
//!
//! Must not know how a container is found or named: that is behind [`Containers`].

use std::{collections::HashMap, fmt::Debug, fs, sync::Arc};

use crate::{container::containers, probe::process, report::model::Container};

/// Who knows the containers of processes.
pub(super) trait Containers: Debug {
    /// That of a process with this text in `/proc/PID/cgroup`; none where it is in none.
    fn of(&mut self, cgroups: &str) -> Option<Arc<Container>>;

    /// That in which every process is that is traced; none where they can be elsewhere.
    fn of_all(&mut self) -> Option<Arc<Container>>;
}

/// Those of this machine.
#[derive(Debug)]
pub(super) struct HostContainers {
    found: containers::Containers,
    /// The one that was chosen, if nothing else was.
    of_all: Option<Arc<containers::Container>>,
    /// As reports have them.
    shown: HashMap<String, Arc<Container>>,
}

impl HostContainers {
    /// Nothing shown yet. In `of_all` every process is that is traced.
    pub(super) fn new(found: containers::Containers, of_all: Option<Arc<containers::Container>>) -> Self {
        Self {
            found,
            of_all,
            shown: HashMap::new(),
        }
    }

    fn show(&mut self, container: &containers::Container) -> Arc<Container> {
        if let Some(shown) = self.shown.get(&container.id)
            && (shown.name.is_some() || container.name.is_none())
        {
            return Arc::clone(shown);
        }
        let pod = container.pod.as_ref();
        let pod = pod.and_then(|pod| match (&pod.namespace, &pod.name) {
            (Some(namespace), Some(name)) => Some(format!("{namespace}/{name}")),
            (None, Some(name)) => Some(name.clone()),
            _ => pod.uid.clone(),
        });
        let is_named = container.name.is_some() || pod.is_some();
        let shown = Arc::new(Container {
            id: container.id.clone(),
            runtime: container.runtime.name().to_owned(),
            name: is_named.then(|| container.display_name()),
            image: container.image.clone(),
            pod,
            labels: container.labels.clone(),
        });
        self.shown.insert(container.id.clone(), Arc::clone(&shown));
        shown
    }
}

impl Containers for HostContainers {
    fn of(&mut self, cgroups: &str) -> Option<Arc<Container>> {
        let container = self.found.of_text(cgroups)?;
        Some(self.show(&container))
    }

    fn of_all(&mut self) -> Option<Arc<Container>> {
        let container = self.of_all.clone()?;
        Some(self.show(&container))
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

    /// A process has joined. `cgroups` is what its `/proc/PID/cgroup` said before, if that was read: it may be gone by now.
    pub(super) fn joined(&mut self, pid: u32, cgroups: Option<&str>) {
        let now = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok();
        let mut texts = now.as_deref().into_iter().chain(cgroups);
        let container = texts
            .find_map(|text| self.containers.of(text))
            .or_else(|| self.containers.of_all());
        let whereabout = Whereabout {
            container,
            inner_pid: process::inner_pid(pid).filter(|&inner| inner != pid),
        };
        self.of.insert(pid, whereabout);
    }

    /// The same of one that may have been looked at while it lived.
    pub(super) fn joined_once(&mut self, pid: u32, cgroups: Option<&str>) {
        if !self.of.contains_key(&pid) {
            self.joined(pid, cgroups);
        }
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
