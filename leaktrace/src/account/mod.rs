//! Where the memory of a process is: what is outstanding, what it has mapped by itself, what its allocator holds and has
//! not handed out, and what cannot be known.
//!
//! [`mapped`], [`pieces`], [`base`], [`evidence`], [`split`], [`change`] and [`mod@line`] are pure; [`smaps`] and [`pages`]
//! read `/proc`. Must not know the kernel's tables, names, or how a report is written.
//!
//! A look: [`Accounts::look`], then every live block into [`Sweep::add`], then [`Accounts::settle`]. Whatever is mapped
//! between these is the next look's.

pub mod base;
pub mod change;
pub mod evidence;
pub mod line;
pub mod mapped;
pub mod pages;
pub mod pieces;
pub mod smaps;
pub mod split;

mod process;

use std::collections::{BTreeMap, HashMap};

use leaktrace_common::{
    key::{Process as Key, SiteKey},
    mapping::MapEvent,
};

use self::{
    evidence::{Block, Blocks, Rounding},
    mapped::Call,
    process::Process,
    split::{MappedBytes, Stretch},
};
use crate::{kernel::clock::now_ns, report::account::Account};

/// Bytes of a page: leaktrace runs where that is all there is.
const PAGE_BYTES: u64 = 4096;

/// Looks take no more than one part in so many of a CPU's time, for all processes together.
const SHARE: u64 = 100;

/// Time that looks may take at once where none has been for a while, nanoseconds.
const BURST_NS: u64 = 500_000_000;

/// Least time between two looks at a process, nanoseconds.
const BETWEEN_NS: u64 = 1_000_000_000;

/// What a look is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// Nobody waits: it keeps within its share.
    Meanwhile,
    /// A report: it may be late, and is made up for.
    Report,
    /// The last report: all are shown as they are, however long that takes.
    LastReport,
}

impl Occasion {
    /// How much more time than [`BURST_NS`] may have been taken, nanoseconds.
    const fn more_ns(self) -> u64 {
        match self {
            Self::Meanwhile => 0,
            Self::Report => 4 * BURST_NS,
            Self::LastReport => u64::MAX / SHARE,
        }
    }
}

/// The memory of all processes that are traced.
#[derive(Debug, Default)]
pub struct Accounts {
    processes: HashMap<u32, Process>,
    /// Those that have ended: looked at no more.
    ended: HashMap<u32, Process>,
    /// Those that wait for their first look.
    new: BTreeMap<u32, Key>,
    /// When looks are within their share again.
    due_ns: u64,
    /// Mappings that were not kept, of processes that are not followed any more.
    dropped_ended: u64,
}

/// The outstanding blocks of the processes that were looked at, while they are counted.
#[derive(Debug, Default)]
pub struct Sweep {
    processes: HashMap<u32, (Key, Blocks)>,
}

impl Sweep {
    /// Whether no process was looked at: blocks need not be added.
    pub fn is_empty(&self) -> bool {
        self.processes.is_empty()
    }

    /// Adds a block; those of other processes are left out.
    pub fn add(&mut self, block: &Block) {
        let of = block.site.process;
        if let Some((key, blocks)) = self.processes.get_mut(&of.tgid)
            && key.image == of.image
        {
            blocks.add(block);
        }
    }
}

impl Accounts {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A process image is followed from here on, at `now`, or from when there is time for it: where processes come by the
    /// thousand, looks have no more than their share. Once is enough. One that cannot be looked at is not followed.
    pub fn attach(&mut self, key: Key, now: u64) {
        if self.image(key.tgid) == Some(key.image) {
            return;
        }
        if now < self.due_ns {
            self.new.insert(key.tgid, key);
            return;
        }
        self.new.remove(&key.tgid);
        let begin_ns = now_ns();
        match Process::attach(key, now) {
            Ok(process) => {
                self.ended.remove(&key.tgid);
                self.processes.insert(key.tgid, process);
            }
            Err(error) => tracing::debug!("{}: its memory is not accounted for: {error}", key.tgid),
        }
        self.spend(begin_ns);
    }

    /// Which image of a process is followed, if it is.
    pub fn image(&self, pid: u32) -> Option<u16> {
        self.processes.get(&pid).map(|process| process.key().image)
    }

    /// The processes that are followed, in no order.
    pub fn pids(&self) -> impl Iterator<Item = u32> {
        self.processes.keys().copied()
    }

    /// Those that are known, ended ones included, in order.
    pub fn known(&self) -> Vec<u32> {
        let mut pids: Vec<u32> = self.processes.keys().chain(self.ended.keys()).copied().collect();
        pids.sort_unstable();
        pids
    }

    /// A process has begun to run a program at `now`: all that it had before is gone.
    pub fn started(&mut self, key: Key, now: u64) {
        self.new.remove(&key.tgid);
        self.ended.remove(&key.tgid);
        let before = self.processes.insert(key.tgid, Process::started(key, now));
        self.dropped_ended += before.map_or(0, |process| process.dropped());
    }

    /// A process has ended: what was last known of it stays.
    pub fn end(&mut self, pid: u32) {
        self.new.remove(&pid);
        if let Some(mut process) = self.processes.remove(&pid) {
            self.dropped_ended += process.dropped();
            process.end();
            self.ended.insert(pid, process);
        }
    }

    /// What is known of a process is not needed any more.
    pub fn forget(&mut self, pid: u32) {
        self.end(pid);
        self.ended.remove(&pid);
    }

    /// Follows a system call.
    pub fn apply(&mut self, event: &MapEvent) {
        let Some(process) = self.processes.get_mut(&event.process.tgid) else {
            return;
        };
        // It may be told of before the exec itself is.
        if event.process.image > process.key().image {
            self.dropped_ended += process.dropped();
            *process = Process::started(event.process, event.time_ns.saturating_sub(1));
        }
        if event.process.image == process.key().image {
            process.apply(event);
        }
    }

    /// Some system calls were not told of, of whichever process.
    pub fn miss(&mut self) {
        self.processes.values_mut().for_each(Process::miss);
    }

    /// Mappings that were not kept for want of room.
    pub fn dropped(&self) -> u64 {
        self.dropped_ended + self.processes.values().map(Process::dropped).sum::<u64>()
    }

    /// Whether it is time to look.
    pub const fn is_due(&self, now: u64, occasion: Occasion) -> bool {
        now.saturating_add(occasion.more_ns() * SHARE) >= self.due_ns
    }

    /// Looks at the processes for which it is time to, those first that were not for longest. The blocks of these are to be
    /// added to what is returned. `rounding` is what a process's allocator adds to a block.
    pub fn look(&mut self, now: u64, occasion: Occasion, rounding: impl Fn(u32) -> Rounding) -> Sweep {
        let mut sweep = Sweep::default();
        if !self.is_due(now, occasion) {
            return sweep;
        }
        for key in std::mem::take(&mut self.new).into_values() {
            self.attach(key, now);
        }
        let begin_ns = now_ns();
        let waits = |looked_ns: u64| now.saturating_sub(looked_ns) < BETWEEN_NS;
        let mut pids: Vec<(u64, u32)> = self
            .processes
            .iter()
            .map(|(pid, process)| (process.looked_ns(), *pid))
            .filter(|(looked_ns, _)| occasion != Occasion::Meanwhile || !waits(*looked_ns))
            .collect();
        pids.sort_unstable();
        for (_, pid) in pids {
            if now_ns().saturating_sub(begin_ns) > BURST_NS.saturating_add(occasion.more_ns()) {
                break;
            }
            let Some(process) = self.processes.get_mut(&pid) else {
                continue;
            };
            match process.look(now) {
                Ok(()) => {
                    sweep
                        .processes
                        .insert(pid, (process.key(), process.blocks(rounding(pid))));
                }
                // It has ended, which will be told of.
                Err(error) => tracing::debug!("{pid}: its memory cannot be looked at: {error}"),
            }
        }
        self.spend(begin_ns);
        sweep
    }

    /// Takes the blocks that were added. `leads_through_allocator` says it of a stack of a process.
    pub fn settle(&mut self, sweep: &Sweep, leads_through_allocator: impl Fn(u32, u64) -> bool) {
        let begin_ns = now_ns();
        for (pid, (key, blocks)) in &sweep.processes {
            if let Some(process) = self.processes.get_mut(pid)
                && process.key() == *key
                && process.waits()
            {
                process.settle(blocks, |stack_id| leads_through_allocator(*pid, stack_id));
            }
        }
        self.spend(begin_ns);
    }

    /// What has become of the memory of a process, as of the last look; none where there was none. `listed` says which
    /// survivor of the report a site belongs to.
    pub fn account(&self, pid: u32, listed: impl Fn(&SiteKey) -> Option<usize>) -> Option<Account> {
        let process = self.processes.get(&pid).or_else(|| self.ended.get(&pid))?;
        let (first, now) = process.both()?;
        Some(change::account(pid, &first, &now, listed))
    }

    /// What running processes have mapped by themselves since the attach, by the stack it was mapped from, as of their
    /// last looks: whose, by which call, and how much.
    pub fn mappings(&self) -> impl Iterator<Item = (Key, Call, u64, MappedBytes)> {
        self.processes.values().flat_map(|process| {
            let of = process.mappings();
            of.map(|(call, stack_id, bytes)| (process.key(), call, stack_id, bytes))
        })
    }

    /// The same, one by one: whose, and what it is.
    pub fn stretches(&self) -> impl Iterator<Item = (Key, &Stretch)> {
        self.processes.values().flat_map(|process| {
            let key = process.key();
            process.stretches().map(move |stretch| (key, stretch))
        })
    }

    /// Since `begin_ns` time went into looks: the next is due when that is one part in a hundred.
    pub fn spend(&mut self, begin_ns: u64) {
        let end_ns = now_ns();
        let taken_ns = end_ns.saturating_sub(begin_ns);
        let credit_ns = end_ns.saturating_sub(BURST_NS * SHARE);
        self.due_ns = self.due_ns.max(credit_ns) + taken_ns * SHARE;
    }
}

#[cfg(test)]
mod tests;
