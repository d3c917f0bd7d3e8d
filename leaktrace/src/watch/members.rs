//! Which processes are watched, by what was typed: values of a kind are alternatives, kinds must all hold.
//!
//! Must not know how processes are listed.

use std::{fs, path::Path};

use super::processes::Members;

/// Bytes that the kernel keeps of a name (`TASK_COMM_LEN` less one, include/linux/sched.h).
const COMM_BYTES: usize = 15;

/// What was typed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// All processes.
    pub all: bool,
    /// These, whatever else holds.
    pub pids: Vec<u32>,
    /// Of one of these names.
    pub comms: Vec<String>,
    /// Of one of these real users.
    pub users: Vec<u32>,
    /// In one of these control groups, or below it, as `/proc/PID/cgroup` names them.
    pub cgroups: Vec<String>,
}

impl Wanted {
    /// Whether nothing was typed.
    pub const fn is_empty(&self) -> bool {
        !self.all && self.pids.is_empty() && !self.has_kinds()
    }

    const fn has_kinds(&self) -> bool {
        !(self.comms.is_empty() && self.users.is_empty() && self.cgroups.is_empty())
    }
}

impl Members for Wanted {
    fn names(&mut self, pid: u32, comm: &str, user: u32) -> bool {
        if self.pids.contains(&pid) {
            return true;
        }
        if !self.has_kinds() {
            return self.all;
        }
        let cut = |name: &str| name.as_bytes()[..name.len().min(COMM_BYTES)].to_vec();
        let of_name = self.comms.is_empty() || self.comms.iter().any(|name| cut(name) == comm.as_bytes());
        let of_user = self.users.is_empty() || self.users.contains(&user);
        of_name && of_user && (self.cgroups.is_empty() || is_in(pid, &self.cgroups))
    }
}

/// Whether a process is in one of the control groups, in any hierarchy.
fn is_in(pid: u32, cgroups: &[String]) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let mut paths = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.any(|path| {
        let below = |cgroup: &String| Path::new(path).starts_with(Path::new("/").join(cgroup));
        cgroups.iter().any(below)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_must_all_hold_and_pids_need_none() {
        let mut wanted = Wanted {
            pids: vec![7],
            comms: vec!["nginx".to_owned(), "a-name-of-more-than-15".to_owned()],
            users: vec![33],
            ..Wanted::default()
        };
        assert!(wanted.names(1, "nginx", 33));
        assert!(wanted.names(1, "a-name-of-more-", 33));
        assert!(!wanted.names(1, "nginx", 0));
        assert!(!wanted.names(1, "redis", 33));
        assert!(wanted.names(7, "redis", 0));
        assert!(Wanted::default().is_empty() && !wanted.is_empty());
    }

    #[test]
    fn without_a_kind_all_means_all() {
        let mut wanted = Wanted {
            all: true,
            ..Wanted::default()
        };
        assert!(wanted.names(1, "init", 0));
        assert!(!Wanted::default().names(1, "init", 0));
    }

    #[test]
    fn a_cgroup_holds_what_is_below_it() {
        let own = std::process::id();
        assert!(is_in(own, &["/".to_owned()]));
        assert!(!is_in(own, &["/no/such/group".to_owned()]));
    }
}
