//! Which container or service a control group belongs to, as far as its path tells.
//!
//! Pure: every runtime names its groups in a few ways, and these are all it knows. It must not look at any file, nor
//! know what a container is called by people.

use std::fmt;

/// What runs a container or service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Runtime {
    /// Docker.
    Docker,
    /// containerd without Docker: Kubernetes' CRI, nerdctl, ctr.
    Containerd,
    /// CRI-O.
    Crio,
    /// Podman.
    Podman,
    /// LXC, LXD and Incus.
    Lxc,
    /// A machine of systemd-nspawn or of systemd-machined.
    Machine,
    /// A service or scope of systemd.
    Systemd,
    /// runc used directly.
    Runc,
    /// crun used directly.
    Crun,
    /// A container by the form of its id; whose cannot be told.
    Unknown,
}

impl Runtime {
    /// As reports have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Containerd => "containerd",
            Self::Crio => "cri-o",
            Self::Podman => "podman",
            Self::Lxc => "lxc",
            Self::Machine => "machine",
            Self::Systemd => "systemd",
            Self::Runc => "runc",
            Self::Crun => "crun",
            Self::Unknown => "unknown",
        }
    }

    /// Whether it isolates what it runs: a service of systemd is found like a container and is none.
    pub const fn is_container(self) -> bool {
        !matches!(self, Self::Systemd)
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Who a control group belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// What runs it.
    pub runtime: Runtime,
    /// The runtime's id: 64 hexadecimal digits, or a name where that is the id (LXC, machines, units).
    pub id: String,
    /// Uid of the Kubernetes pod it is in, with dashes.
    pub pod_uid: Option<String>,
    /// The part of the path that is the container's own group; what it has below that is its own business.
    pub path: String,
}

/// What runs a container, and its id.
type Who = (Runtime, String);

/// The container or, where there is none, the systemd unit that a path in a hierarchy is in. Of containers in containers
/// the innermost.
pub fn identify(path: &str) -> Option<Identity> {
    let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
    let innermost = |who: fn(&[&str], usize) -> Option<Who>| {
        let (at, (runtime, id)) = (0..names.len())
            .rev()
            .find_map(|at| Some((at, who(&names, at)?)))?;
        Some(Identity {
            runtime,
            id,
            pod_uid: names[..=at].iter().rev().find_map(|name| pod_uid(name)),
            path: format!("/{}", names[..=at].join("/")),
        })
    };
    innermost(container).or_else(|| innermost(unit))
}

/// The container that the group `names[at]` is the group of.
fn container(names: &[&str], at: usize) -> Option<Who> {
    let name = names[at];
    let parent = at.checked_sub(1).map_or("", |above| names[above]);
    // `SLICE:PREFIX:ID`, where a runtime with the driver of files is given the parent of the systemd driver.
    let by_colons = name
        .rsplit_once(':')
        .and_then(|(rest, id)| Some((prefixed(rest.rsplit_once(':')?.1)?, id)));
    if let Some((runtime, id)) = by_colons.filter(|(_, id)| is_long_id(id)) {
        return Some((runtime, id.to_owned()));
    }
    machine(name, parent).or_else(|| scope(name, parent)).or_else(|| {
        let bare = is_long_id(name) || is_task_id(name) && is_within_ecs(&names[..at]);
        bare.then(|| (of_parents(&names[..at]), name.to_owned()))
    })
}

/// `PREFIX-ID.scope` of the systemd driver, `PREFIX-ID` of that of files.
fn scope(name: &str, parent: &str) -> Option<Who> {
    let bare = name.strip_suffix(".scope").unwrap_or(name);
    let (prefix, id) = bare.rsplit_once('-')?;
    if is_long_id(id) {
        // `libpod-conmon-ID` and `crio-conmon-ID` hold the monitor, which is not in the container.
        return Some((prefixed(prefix)?, id.to_owned()));
    }
    // `nerdctl-ID.scope` has a long id; runc and crun give names of people's choice.
    let (prefix, id) = bare.split_once('-')?;
    let runtime = match prefix {
        "runc" => Runtime::Runc,
        "crun" => Runtime::Crun,
        _ => return None,
    };
    (bare != name && is_slice(parent)).then(|| (runtime, unescaped(id)))
}

fn is_slice(name: &str) -> bool {
    name.strip_suffix(".slice").is_some()
}

/// What writes a prefix before ids.
fn prefixed(prefix: &str) -> Option<Runtime> {
    Some(match prefix {
        "docker" => Runtime::Docker,
        "cri-containerd" | "nerdctl" | "containerd" => Runtime::Containerd,
        "crio" => Runtime::Crio,
        "libpod" => Runtime::Podman,
        "runc" => Runtime::Runc,
        "crun" => Runtime::Crun,
        _ => return None,
    })
}

/// LXC and the machines of systemd, whose ids are names.
fn machine(name: &str, parent: &str) -> Option<Who> {
    let lxc = name
        .strip_prefix("lxc.payload.")
        .or_else(|| Some(name).filter(|_| matches!(parent, "lxc" | "lxc.payload")));
    if let Some(id) = lxc {
        return Some((Runtime::Lxc, id.to_owned()));
    }
    let nspawn = name
        .strip_prefix("systemd-nspawn@")
        .and_then(|name| name.strip_suffix(".service"));
    let registered = name
        .strip_prefix("machine-")
        .and_then(|name| name.strip_suffix(".scope"));
    nspawn.or(registered).map(|id| (Runtime::Machine, unescaped(id)))
}

/// Whose a group is that is named by its id alone, by the groups around it.
fn of_parents(parents: &[&str]) -> Runtime {
    let runtime = parents.iter().rev().find_map(|name| {
        Some(match *name {
            "docker" | "ecs" => Runtime::Docker,
            "default" | "k8s.io" | "nerdctl" => Runtime::Containerd,
            "libpod_parent" => Runtime::Podman,
            // Since Kubernetes 1.24 without Docker; CRI-O writes a prefix.
            name if name.starts_with("kubepods") || name.contains("-kubepods") => Runtime::Containerd,
            name if pod_uid(name).is_some() => Runtime::Containerd,
            _ => return None,
        })
    });
    runtime.unwrap_or(Runtime::Unknown)
}

fn is_long_id(text: &str) -> bool {
    text.len() == 64 && is_lower_hexadecimal(text)
}

fn is_lower_hexadecimal(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Of Amazon's ECS without machines (Fargate): the task's 32 digits, a dash and a number.
fn is_task_id(text: &str) -> bool {
    text.split_once('-').is_some_and(|(task, number)| {
        task.len() == 32
            && is_lower_hexadecimal(task)
            && !number.is_empty()
            && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

fn is_within_ecs(parents: &[&str]) -> bool {
    parents.contains(&"ecs")
}

/// The uid in `podUID` (driver of files) or `kubepods-burstable-podUID.slice` (systemd), which has underscores for
/// dashes. The pods of a kubelet's own files have 32 digits without any.
fn pod_uid(name: &str) -> Option<String> {
    // The group of a container may have the pod's slice before a colon.
    let name = name.split(':').next().unwrap_or(name);
    let name = name.strip_suffix(".slice").unwrap_or(name);
    let uid = match name.strip_prefix("pod") {
        Some(uid) => uid,
        None => name.rsplit_once("-pod")?.1,
    };
    let uid = uid.replace('_', "-");
    let digits: String = uid.chars().filter(|char| *char != '-').collect();
    let dashes = uid.len() - digits.len();
    (digits.len() == 32 && is_lower_hexadecimal(&digits) && matches!(dashes, 0 | 4)).then_some(uid)
}

/// A service, or a scope that is not merely a login or systemd itself.
fn unit(names: &[&str], at: usize) -> Option<Who> {
    let name = names[at];
    let is_scope = name
        .strip_suffix(".scope")
        .is_some_and(|bare| bare != "init" && !bare.starts_with("session-"));
    let is_unit = is_scope || name.strip_suffix(".service").is_some_and(|bare| !bare.is_empty());
    is_unit.then(|| (Runtime::Systemd, unescaped(name)))
}

/// systemd writes what a unit's name cannot hold as `\x2d` (systemd.unit(5)).
fn unescaped(name: &str) -> String {
    let mut text = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let digits = rest.strip_prefix(b"\\x").and_then(|tail| tail.get(..2));
        let code = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        text.push(code.unwrap_or(first));
        rest = if code.is_some() { &rest[4..] } else { tail };
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;
