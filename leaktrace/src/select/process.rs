//! The processes that run, as far as they are chosen by it. Must not know what is chosen.

use std::fs;

/// A process that runs a program of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Process id.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// The real user that runs it.
    pub user: u32,
}

/// All of them, in order of pid; threads of the kernel and processes that have ended are left out.
pub fn running() -> Vec<Running> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut running: Vec<Running> = pids.filter_map(look).collect();
    running.sort_unstable_by_key(|process| process.pid);
    running
}

/// One of them; none if it is gone, or no program.
fn look(pid: u32) -> Option<Running> {
    // A thread of the kernel has no executable; nor has what has ended and waits for its parent.
    fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"))
    };
    let user = field("Uid")?.split_whitespace().next()?.parse().ok()?;
    Some(Running {
        pid,
        comm: field("Name")?.to_owned(),
        user,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_among_those_that_run() {
        let own = std::process::id();
        let all = running();
        let found = all.iter().find(|process| process.pid == own).unwrap();
        assert_eq!(found.user, nix::unistd::getuid().as_raw());
        let comm = fs::read_to_string("/proc/self/comm").unwrap();
        // Of a test it is that of its thread; the first thread's is in /proc/PID.
        assert!(!found.comm.is_empty() && !comm.is_empty());
        assert!(all.is_sorted_by_key(|process| process.pid));
    }
}
