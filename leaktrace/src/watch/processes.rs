//! The processes that are watched and how much memory each has, read as cheaply as `/proc` allows.
//!
//! A process keeps its `statm` open: one read says whether its memory has changed, and it fails when the process has
//! ended, even if another has its number by then. Only what has changed is read in full. Must not know what growth
//! means, nor what is done about it.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    time::Duration,
};

use super::growth::History;
use crate::probe::process;

/// A process: its number may come to mean another one, with its start it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id {
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    pub start_ticks: u64,
}

/// Decides which processes are watched.
pub trait Members {
    /// Whether a process is: by number, name and real user id. It may look at the process for more.
    fn names(&mut self, pid: u32, comm: &str, user: u32) -> bool;
}

/// What may have changed since the last look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Nothing is known: any process.
    Any,
    /// The memory of these processes, and of no others.
    Only(HashSet<u32>),
}

/// Tells whose memory has changed.
pub trait Dirty {
    /// What has changed since the last call.
    fn take(&mut self) -> Changed;
}

/// Knows nothing: every process is looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadAll;

impl Dirty for ReadAll {
    fn take(&mut self) -> Changed {
        Changed::Any
    }
}

/// A watched process.
#[derive(Debug)]
pub struct Watched {
    /// Which.
    pub id: Id,
    /// Its name.
    pub comm: String,
    /// Resident memory, in bytes.
    pub rss_bytes: u64,
    /// Anonymous memory, in RAM and in swap, in bytes, as it has gone.
    pub history: History,
    statm: Option<File>,
    /// As `statm` said last: resident pages and those of them that are of files or shared.
    pages: (u64, u64),
}

/// What a look has found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Watched processes that have ended.
    pub ended: Vec<Id>,
    /// Watched processes that run another program now.
    pub replaced: Vec<Id>,
}

/// All watched processes.
#[derive(Debug)]
pub struct Processes {
    window: Duration,
    watched: HashMap<u32, Watched>,
    /// Seen and not watched, until they are gone.
    others: HashSet<u32>,
}

/// `PF_KTHREAD` (include/linux/sched.h): a thread of the kernel.
const PF_KTHREAD: u64 = 0x0020_0000;

/// After this many looks a process that was not watched is asked for again: it may have another name by then, or be
/// another one under the same number.
const ASK_AGAIN: u64 = 12;

impl Processes {
    /// None yet. `window` is the time over which growth is asked for.
    pub fn new(window: Duration) -> Self {
        Self {
            window,
            watched: HashMap::new(),
            others: HashSet::new(),
        }
    }

    /// Looks at all processes there are.
    ///
    /// # Errors
    /// When `/proc` cannot be listed.
    pub fn look(
        &mut self,
        number: u64,
        now_ns: u64,
        members: &mut dyn Members,
        dirty: &mut dyn Dirty,
    ) -> io::Result<Look> {
        let changed = dirty.take();
        let pids = list()?;
        let mut look = Look::default();
        self.leave(&pids, &mut look);
        for pid in pids {
            let Some(watched) = self.watched.get_mut(&pid) else {
                self.meet(pid, number, now_ns, members);
                continue;
            };
            if matches!(&changed, Changed::Only(pids) if !pids.contains(&pid)) {
                watched.history.unchanged(now_ns);
                continue;
            }
            match watched.read(self.window, now_ns) {
                Ok(false) => {}
                Ok(true) => look.replaced.push(watched.id),
                Err(_gone) => {
                    look.ended.push(watched.id);
                    self.watched.remove(&pid);
                    // Its number may be another's already.
                    self.meet(pid, number, now_ns, members);
                }
            }
        }
        Ok(look)
    }

    /// All watched, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Watched> {
        self.watched.values()
    }

    /// A watched process.
    pub fn get(&self, pid: u32) -> Option<&Watched> {
        self.watched.get(&pid)
    }

    /// How many are watched.
    pub fn len(&self) -> usize {
        self.watched.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.watched.is_empty()
    }

    /// Those that are not listed any more.
    fn leave(&mut self, pids: &[u32], look: &mut Look) {
        let listed: HashSet<u32> = pids.iter().copied().collect();
        self.others.retain(|pid| listed.contains(pid));
        let gone = self.watched.extract_if(|pid, _| !listed.contains(pid));
        look.ended.extend(gone.map(|(_, watched)| watched.id));
    }

    /// Looks whether a process is to be watched; one that has ended meanwhile is not.
    fn meet(&mut self, pid: u32, number: u64, now_ns: u64, members: &mut dyn Members) {
        // Spread over the looks, so that none has to ask for all.
        let again = (number + u64::from(pid)).is_multiple_of(ASK_AGAIN);
        if self.others.contains(&pid) && !again {
            return;
        }
        let Some(stat) = Stat::read(pid) else { return };
        // A child is a tracer that leaktrace itself has started.
        let is_meant = !stat.is_kernel && stat.parent != std::process::id();
        let status = if is_meant { Status::read(pid) } else { None };
        let mut meant = |status: &Status| members.names(pid, &status.comm, status.user);
        let Some(status) = status.filter(|status| meant(status)) else {
            self.others.insert(pid);
            return;
        };
        self.others.remove(&pid);
        let id = Id {
            pid,
            start_ticks: stat.start_ticks,
        };
        let statm = File::open(format!("/proc/{pid}/statm")).ok();
        let watched = Watched {
            id,
            history: History::new(self.window, now_ns, status.anon_bytes),
            rss_bytes: status.rss_bytes,
            comm: status.comm,
            pages: (0, 0),
            statm,
        };
        self.watched.insert(pid, watched);
    }
}

impl Watched {
    /// Takes over what has changed. Whether it runs another program now, with which its memory begins anew.
    fn read(&mut self, window: Duration, now_ns: u64) -> io::Result<bool> {
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        let pages = self.statm()?;
        if pages == self.pages {
            self.history.unchanged(now_ns);
            return Ok(false);
        }
        self.pages = pages;
        let status = Status::read(self.id.pid).ok_or_else(gone)?;
        self.rss_bytes = status.rss_bytes;
        if status.comm == self.comm {
            self.history.push(now_ns, status.anon_bytes);
            return Ok(false);
        }
        self.comm = status.comm;
        self.history = History::new(window, now_ns, status.anon_bytes);
        Ok(true)
    }

    /// Resident pages, and those of them that are of files or shared.
    fn statm(&mut self) -> io::Result<(u64, u64)> {
        let mut text = [0; 128];
        let pid = self.id.pid;
        let len = if let Some(file) = &self.statm {
            file.read_at(&mut text, 0)?
        } else {
            // For want of descriptors; then it takes one more read to know that it is still the same.
            let same = Stat::read(pid).is_some_and(|stat| stat.start_ticks == self.id.start_ticks);
            let file = same.then(|| File::open(format!("/proc/{pid}/statm")));
            file.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))??
                .read_at(&mut text, 0)?
        };
        let text = std::str::from_utf8(&text[..len]).unwrap_or_default();
        let mut numbers = text
            .split_whitespace()
            .skip(1)
            .map_while(|word| word.parse().ok());
        let malformed = || io::Error::from(io::ErrorKind::InvalidData);
        Ok((
            numbers.next().ok_or_else(malformed)?,
            numbers.next().ok_or_else(malformed)?,
        ))
    }
}

/// The processes there are.
fn list() -> io::Result<Vec<u32>> {
    let names = fs::read_dir("/proc")?.flatten().map(|entry| entry.file_name());
    Ok(names.filter_map(|name| name.to_str()?.parse().ok()).collect())
}

/// What is wanted of `/proc/PID/stat`.
struct Stat {
    parent: u32,
    start_ticks: u64,
    is_kernel: bool,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        Self::parse(&fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Fields 4, 9 and 22, counted from 1. The name in field 2 may hold spaces and parentheses: the last one ends it.
    fn parse(stat: &[u8]) -> Option<Self> {
        let end = stat.iter().rposition(|byte| *byte == b')')?;
        let text = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
        let mut words = text.split_whitespace();
        let parent = words.nth(1)?.parse().ok()?;
        let flags: u64 = words.nth(4)?.parse().ok()?;
        Some(Self {
            parent,
            start_ticks: words.nth(12)?.parse().ok()?,
            is_kernel: flags & PF_KTHREAD != 0,
        })
    }
}

/// What is wanted of `/proc/PID/status`.
#[derive(Debug, PartialEq, Eq)]
struct Status {
    comm: String,
    user: u32,
    rss_bytes: u64,
    /// In RAM and in swap.
    anon_bytes: u64,
}

impl Status {
    /// None when the process has ended, or has no memory left.
    fn read(pid: u32) -> Option<Self> {
        let text = fs::read(format!("/proc/{pid}/status")).ok()?;
        Self::parse(&String::from_utf8_lossy(&text))
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            let mut lines = text.lines();
            lines
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(str::trim)
        };
        // In KiB, so that the page size need not be known.
        let bytes = |name| {
            let word = field(name)?.split_whitespace().next()?;
            Some(word.parse::<u64>().ok()?.saturating_mul(1024))
        };
        Some(Self {
            comm: field("Name")?.to_owned(),
            user: field("Uid")?.split_whitespace().next()?.parse().ok()?,
            rss_bytes: bytes("VmRSS")?,
            anon_bytes: bytes("RssAnon")?.saturating_add(bytes("VmSwap").unwrap_or(0)),
        })
    }
}

/// The name of a process as the kernel has it now, if it is still that one.
pub fn is_same(id: Id) -> bool {
    process::start_ticks(id.pid).is_ok_and(|ticks| ticks == id.start_ticks)
}

#[cfg(test)]
#[path = "processes_tests.rs"]
mod tests;
