//! The containers and services of this machine: which one a process is in, and which ones somebody means.
//!
//! What was found is kept, so that a process of a known container costs one read of `/proc`. Must not know what is traced.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    cgroup::{Cgroup, parse_memberships},
    hierarchies::{Hierarchies, is_populated},
    identity::{Identity, Runtime, identify},
    names::{Namer, Names, Places, Pod},
};

/// Digits of an id that people use.
const SHORT_ID: usize = 12;

/// The fewest digits that stand for an id.
const PREFIX_MIN: usize = 6;

/// Containers that an error lists.
const SHOWN_MAX: usize = 8;

/// Distinct texts of `/proc/PID/cgroup` that are kept.
const TEXTS_MAX: usize = 16 << 10;

/// How long a container without a name stays without one: its runtime may have been away.
const NAMELESS: Duration = Duration::from_secs(10);

/// A container, or a service of systemd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// The runtime's id: 64 hexadecimal digits, or a name where that is the id (LXC, machines, units).
    pub id: String,
    /// What runs it.
    pub runtime: Runtime,
    /// What people call it.
    pub name: Option<String>,
    /// Its image, as it was named when it was started.
    pub image: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its Kubernetes pod. Of one whose names cannot be had the uid alone, from the path.
    pub pod: Option<Pod>,
}

impl Container {
    /// The id as people write it: 12 digits of a long one.
    pub fn short_id(&self) -> &str {
        if self.id.len() == 64 {
            self.id.get(..SHORT_ID).unwrap_or(&self.id)
        } else {
            &self.id
        }
    }

    /// One short name for it: `NAMESPACE/POD/CONTAINER`, its name, its unit, or its short id.
    pub fn display_name(&self) -> String {
        let of_pod = self.pod.as_ref().and_then(|pod| {
            let parts = [
                pod.namespace.as_ref(),
                Some(pod.name.as_ref()?),
                pod.container.as_ref(),
            ];
            let parts: Vec<&str> = parts.into_iter().flatten().map(String::as_str).collect();
            Some(parts.join("/"))
        });
        of_pod
            .or_else(|| self.name.clone())
            .unwrap_or_else(|| self.short_id().to_owned())
    }

    /// How well a text names it: the lower, the better; none where it does not.
    fn is_meant(&self, text: &str) -> Option<u8> {
        let pod = self.pod.as_ref();
        let pod_name = pod.and_then(|pod| pod.name.as_deref());
        let of_pod = || {
            let namespaced = pod?
                .namespace
                .as_ref()
                .map(|space| format!("{space}/{}", pod_name.unwrap_or_default()));
            (pod_name? == text || namespaced.as_deref() == Some(text) || self.display_name() == text)
                .then_some(2)
        };
        let is_prefix = self.id.len() == 64 && text.len() >= PREFIX_MIN && self.id.starts_with(text);
        let unit = self
            .id
            .strip_suffix(".service")
            .filter(|_| self.runtime == Runtime::Systemd);
        if self.id == text || self.name.as_deref() == Some(text) {
            Some(0)
        } else if is_prefix {
            Some(1)
        } else {
            of_pod()
                .or_else(|| (pod?.container.as_deref() == Some(text)).then_some(3))
                .or_else(|| (unit == Some(text)).then_some(4))
        }
    }
}

/// A container is not there.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// Nothing here is called that.
    #[error("no container, pod or unit is called {text}; {}", listed(.there))]
    NotFound {
        /// What was typed.
        text: String,
        /// Some that are there.
        there: Vec<String>,
    },
    /// The digits begin more than one id.
    #[error("{text} begins the ids of {}; write more digits or a name", .meant.join(", "))]
    Ambiguous {
        /// What was typed.
        text: String,
        /// Those that it can mean.
        meant: Vec<String>,
    },
    /// It is known and does not run.
    #[error(
        "{runtime} container {name} has no processes: it has ended or is not started; start it and try again"
    )]
    Ended {
        /// Whose it is.
        runtime: Runtime,
        /// Its name.
        name: String,
    },
    /// It runs, and its groups cannot be seen.
    #[error(
        "{runtime} container {name} runs, but its control groups cannot be seen from here; run leaktrace on the host, or in a container with --pid=host --cgroupns=host -v /sys/fs/cgroup:/sys/fs/cgroup:ro"
    )]
    Hidden {
        /// Whose it is.
        runtime: Runtime,
        /// Its name.
        name: String,
    },
}

fn listed(names: &[String]) -> String {
    if names.is_empty() {
        "no container is to be seen from here; name a process with -p or a control group with --cgroup"
            .to_owned()
    } else {
        format!("there are {}; name one of those", names.join(", "))
    }
}

/// A container with the groups that are its own, one a hierarchy: those in which there are processes come first, and of
/// them version 2.
pub type Found = (Arc<Container>, Vec<Cgroup>);

/// The containers that have been seen.
#[derive(Debug)]
pub struct Containers {
    hierarchies: Hierarchies,
    namer: Namer,
    /// Who the processes with a text of `/proc/PID/cgroup` belong to.
    by_text: HashMap<String, Option<Identity>>,
    by_id: HashMap<String, Known>,
}

#[derive(Debug)]
struct Known {
    container: Arc<Container>,
    /// When its runtime is to be asked again.
    again: Option<Instant>,
}

impl Containers {
    /// Those of this machine.
    pub fn here() -> Self {
        Self::new(Hierarchies::here(), Places::here())
    }

    /// Those with groups in these trees and runtimes at these places.
    pub fn new(hierarchies: Hierarchies, places: Places) -> Self {
        Self {
            hierarchies,
            namer: Namer::new(places),
            by_text: HashMap::new(),
            by_id: HashMap::new(),
        }
    }

    /// The trees of control groups that it looks at.
    pub const fn hierarchies(&self) -> &Hierarchies {
        &self.hierarchies
    }

    /// The container or service that a process is in, by the text of its `/proc/PID/cgroup`; none for one in neither.
    ///
    /// The first process of a container makes its runtime be asked, for 300 ms a socket at the most.
    pub fn of_text(&mut self, text: &str) -> Option<Arc<Container>> {
        if let Some(known) = self.by_text.get(text) {
            let identity = known.clone()?;
            return Some(self.named(&identity));
        }
        let identity = self.identity_of(text);
        if self.by_text.len() >= TEXTS_MAX {
            self.by_text.clear();
        }
        self.by_text.insert(text.to_owned(), identity.clone());
        Some(self.named(&identity?))
    }

    fn identity_of(&self, text: &str) -> Option<Identity> {
        let lines = parse_memberships(text);
        let found = lines.iter().filter_map(|line| identify(&line.path));
        let (containers, units): (Vec<_>, Vec<_>) = found.partition(|found| found.runtime.is_container());
        let of_bare = || {
            let bare = self.namer.bare();
            lines.iter().find_map(|line| identify_bare(&bare, &line.path))
        };
        containers
            .into_iter()
            .next()
            .or_else(of_bare)
            .or_else(|| units.into_iter().next())
    }

    fn named(&mut self, identity: &Identity) -> Arc<Container> {
        let now = Instant::now();
        if let Some(known) = self.by_id.get(&identity.id)
            && known.again.is_none_or(|again| now < again)
        {
            return Arc::clone(&known.container);
        }
        let names = self.namer.of(identity.runtime, &identity.id);
        self.know(identity, names, now)
    }

    fn know(&mut self, identity: &Identity, names: Option<Names>, now: Instant) -> Arc<Container> {
        let is_nameless = names.is_none() && identity.id.len() == 64;
        let container = Arc::new(container(identity, names));
        let known = Known {
            container: Arc::clone(&container),
            again: is_nameless.then(|| now + NAMELESS),
        };
        self.by_id.insert(identity.id.clone(), known);
        container
    }

    /// All containers and services that have groups here, by their names.
    pub fn all(&mut self) -> Vec<Found> {
        let listed: HashMap<String, Names> = self.namer.all().into_iter().collect();
        self.all_with(&listed)
    }

    fn all_with(&mut self, listed: &HashMap<String, Names>) -> Vec<Found> {
        let now = Instant::now();
        let mut found: Vec<Found> = self
            .groups()
            .into_values()
            .map(|(identity, cgroups)| {
                let names = listed.get(&identity.id).cloned();
                let container = match names {
                    Some(names) => self.know(&identity, Some(names), now),
                    None => self.named(&identity),
                };
                (container, cgroups)
            })
            .collect();
        found.sort_by_cached_key(|(container, _)| {
            (
                !container.runtime.is_container(),
                container.display_name(),
                container.id.clone(),
            )
        });
        found
    }

    /// Everybody's own groups, by runtime and id.
    fn groups(&self) -> HashMap<(Runtime, String), (Identity, Vec<Cgroup>)> {
        let bare = self.namer.bare();
        let mut groups: HashMap<(Runtime, String), (Identity, Vec<Cgroup>)> = HashMap::new();
        let mut own = Vec::new();
        self.hierarchies.each(|hierarchy, path, _| {
            let identity = identify(path)
                .filter(|identity| identity.runtime.is_container())
                .or_else(|| identify_bare(&bare, path))
                .or_else(|| identify(path));
            // What a container has below its own group is in that.
            if let Some(identity) = identity.filter(|identity| identity.path == path) {
                own.push((hierarchy.clone(), identity));
            }
        });
        for (hierarchy, identity) in own {
            let Some(cgroup) = self.hierarchies.at(&hierarchy, &identity.path) else {
                continue;
            };
            let key = (identity.runtime, identity.id.clone());
            groups
                .entry(key)
                .or_insert_with(|| (identity, Vec::new()))
                .1
                .push(cgroup);
        }
        for (_, cgroups) in groups.values_mut() {
            cgroups.sort_by_cached_key(|cgroup| !is_populated(cgroup));
        }
        groups
    }

    /// The containers that somebody means by a name, an id, at least six digits that begin one, a pod
    /// (`POD`, `NAMESPACE/POD`), a container's name in pods, or a unit of systemd. A pod or a name used in many pods
    /// means several.
    ///
    /// # Errors
    /// [`ContainerError`].
    pub fn resolve(&mut self, text: &str) -> Result<Vec<Found>, ContainerError> {
        let listed: HashMap<String, Names> = self.namer.all().into_iter().collect();
        let all = self.all_with(&listed);
        let best = all.iter().filter_map(|(found, _)| found.is_meant(text)).min();
        let meant = |(found, _): &&Found| best.is_some() && found.is_meant(text) == best;
        let meant: Vec<Found> = all.iter().filter(meant).cloned().collect();
        if best == Some(1) && meant.len() > 1 {
            return Err(ContainerError::Ambiguous {
                text: text.to_owned(),
                meant: shown(&meant),
            });
        }
        if meant.is_empty() {
            return Err(without_groups(&listed, text).unwrap_or_else(|| {
                let is_container = |(found, _): &&Found| found.runtime.is_container();
                let there: Vec<Found> = all.iter().filter(is_container).cloned().collect();
                ContainerError::NotFound {
                    text: text.to_owned(),
                    there: shown(if there.is_empty() { &all } else { &there }),
                }
            }));
        }
        Ok(meant)
    }
}

/// What a runtime knows of a container that has no groups here.
fn without_groups(listed: &HashMap<String, Names>, text: &str) -> Option<ContainerError> {
    let (container, has_ended) = listed
        .iter()
        .map(|(id, names)| {
            let identity = Identity {
                runtime: Runtime::Unknown,
                id: id.clone(),
                pod_uid: None,
                path: String::new(),
            };
            (container(&identity, Some(names.clone())), names.has_ended)
        })
        .filter_map(|(found, has_ended)| Some((found.is_meant(text)?, found, has_ended)))
        .min_by_key(|(rank, found, has_ended)| (*rank, *has_ended, found.id.clone()))
        .map(|(_, found, has_ended)| (found, has_ended))?;
    let (runtime, name) = (container.runtime, container.display_name());
    Some(if has_ended {
        ContainerError::Ended { runtime, name }
    } else {
        ContainerError::Hidden { runtime, name }
    })
}

/// Names for an error, with ids where they are not the names.
fn shown(found: &[Found]) -> Vec<String> {
    let mut names: Vec<String> = found
        .iter()
        .take(SHOWN_MAX)
        .map(|(container, _)| {
            let name = container.display_name();
            let id = container.short_id();
            if name == id {
                name
            } else {
                format!("{name} ({id})")
            }
        })
        .collect();
    if found.len() > SHOWN_MAX {
        names.push(format!("{} more", found.len() - SHOWN_MAX));
    }
    names
}

fn container(identity: &Identity, names: Option<Names>) -> Container {
    let names = names.unwrap_or_default();
    let by_path = identity.pod_uid.as_ref().map(|uid| Pod {
        uid: Some(uid.clone()),
        ..Pod::default()
    });
    // A bare id is anybody's, and in a pod it need not be containerd's.
    let is_guess = matches!(identity.runtime, Runtime::Unknown | Runtime::Containerd);
    let said = names.runtime.filter(|_| is_guess);
    Container {
        id: identity.id.clone(),
        runtime: said.unwrap_or(identity.runtime),
        name: names
            .name
            .or_else(|| (identity.id.len() != 64).then(|| identity.id.clone())),
        image: names.image,
        labels: names.labels,
        pod: names.pod.or(by_path),
    }
}

/// A container of runc or crun whose group has a name of somebody's choice. `bare` are their groups: paths in a hierarchy,
/// or of folders, which end in one.
fn identify_bare(bare: &[(String, Runtime, String)], path: &str) -> Option<Identity> {
    let mut own = path;
    while !own.trim_matches('/').is_empty() {
        let is_own = |(group, _, _): &&(String, Runtime, String)| group.ends_with(own);
        if let Some((_, runtime, id)) = bare.iter().find(is_own) {
            return Some(Identity {
                runtime: *runtime,
                id: id.clone(),
                pod_uid: None,
                path: own.to_owned(),
            });
        }
        own = own.rsplit_once('/')?.0;
    }
    None
}

#[cfg(test)]
#[path = "containers_tests.rs"]
mod tests;
