//! The accounts of memory of a run: whose memory is followed, when it is looked at, and what of it a report has.
//!
//! Must not know how an account is made.

use std::collections::HashMap;

use leaktrace_common::{
    call::Space,
    key::{Process as Key, SiteKey},
    mapping::MapEvent,
    math::Weight,
};

use super::{Session, mapped::Sink};
use crate::{
    account::{
        Accounts, Occasion, Sweep,
        evidence::Rounding,
        line::{Name, line},
        mapped::Call,
    },
    error::Error,
    kernel::clock::now_ns,
    probe::{gear::Gear, mapped},
    report::{
        account::Account,
        model::{Report, State},
        short_names,
    },
    traced::{process::Traced, set::TracedSet},
    track::{Image, LiveBlock, MappingLevel as Level, SiteRef, Snapshot},
};

impl Sink for Accounts {
    fn apply(&mut self, event: &MapEvent) {
        Self::apply(self, event);
    }

    fn lost(&mut self) {
        self.miss();
    }
}

impl Session<'_> {
    /// From here on memory is followed: of a command from its beginning, of others from what they have.
    pub(super) fn begin_accounts(&mut self) {
        if let Some(child) = &self.running.child
            && let Some(process) = self.running.traced.get(child.id())
        {
            self.accounts.started(key(process.pid, process.image()), now_ns());
        }
        keep_up(&mut self.accounts, &self.running.traced);
    }

    /// Looks at memory, where it is time to.
    pub(super) fn look_at_memory(&mut self) -> Result<(), Error> {
        if !self.accounts.is_due(now_ns(), Occasion::Meanwhile) {
            return Ok(());
        }
        let mut sweep = look(&mut self.accounts, &self.running.traced, Occasion::Meanwhile);
        if sweep.is_empty() {
            return Ok(());
        }
        let begin_ns = now_ns();
        self.running.collector.sweep(&mut sweep)?;
        self.accounts.spend(begin_ns);
        settle(&mut self.accounts, &sweep);
        Ok(())
    }
}

/// Looks at the memory of those that run.
pub(super) fn look(accounts: &mut Accounts, traced: &TracedSet, occasion: Occasion) -> Sweep {
    keep_up(accounts, traced);
    accounts.look(now_ns(), occasion, |pid| rounding(traced, pid))
}

/// Takes what was swept.
pub(super) fn settle(accounts: &mut Accounts, sweep: &Sweep) {
    // An allocator that maps on a thread of its own is not told by its calls.
    accounts.settle(sweep, |_pid, _stack_id| false);
}

/// What processes have mapped by themselves, as sites, and how much of it there is.
pub(super) fn mapping_sites(accounts: &Accounts) -> impl Iterator<Item = (SiteKey, Level)> {
    accounts.mappings().map(|(process, call, stack_id, bytes)| {
        let key = SiteKey {
            stack_id,
            process: of_mapping(process),
            call: number(call).into(),
            shard: 0,
        };
        let level = Level {
            live_bytes: bytes.held_bytes,
            live_blocks: bytes.touched,
            allocs: bytes.made,
        };
        (key, level)
    })
}

/// The same one by one: the blocks of those sites. Their bytes are what is there of them.
pub(super) fn mapping_blocks(accounts: &Accounts) -> impl Iterator<Item = LiveBlock> {
    accounts.stretches().map(|(process, stretch)| LiveBlock {
        process: of_mapping(process),
        stack_id: stretch.stack_id,
        call: number(stretch.call).into(),
        address: stretch.start,
        size_bytes: stretch.held_bytes,
        time_ns: stretch.time_ns,
        weight: Weight::ONE,
        unsure: false,
    })
}

const fn of_mapping(process: Key) -> Key {
    Key {
        space: Space::Mapping as u8,
        ..process
    }
}

/// By what number a site has the call.
const fn number(call: Call) -> u16 {
    match call {
        Call::Map => mapped::MMAP,
        Call::Remap => mapped::MREMAP,
        Call::Break => mapped::BRK,
    }
}

/// The accounts of a report of this snapshot, without names.
pub(super) fn of_report(accounts: &Accounts, snapshot: &Snapshot) -> Vec<Account> {
    // Processes that were forked have the addresses of their parent, and so its stacks.
    let listed: HashMap<(u64, u32, u8), usize> = snapshot
        .sites
        .iter()
        .enumerate()
        .map(|(index, site)| (place(&site.site.key), index))
        .collect();
    let known = accounts.known().into_iter();
    known
        .filter_map(|pid| accounts.account(pid, |site| listed.get(&place(site)).copied()))
        .collect()
}

/// Where processes have mapped something by themselves: the mappings of all accounts, one after the other.
pub(super) fn mappers(accounts: &[Account], traced: &TracedSet) -> Vec<SiteRef> {
    let mappings = accounts.iter().flat_map(|account| {
        let image = traced.get(account.pid).map_or(0, Traced::image);
        account.mappings.iter().map(move |mapping| SiteRef {
            image: Image {
                tgid: account.pid,
                image,
                frozen: None,
            },
            key: SiteKey {
                stack_id: mapping.stack_id,
                process: key(account.pid, image),
                call: 0,
                shard: 0,
            },
        })
    });
    mappings.collect()
}

/// Writes the lines, when the sites have names.
pub(super) fn write_lines(report: &mut Report) {
    let labels = short_names(&report.survivors);
    let survivors = &report.survivors;
    let name = |index: usize| Name {
        label: labels.get(index).cloned().unwrap_or_default(),
        class: survivors
            .get(index)
            .and_then(|survivor| Some(survivor.verdict.as_ref()?.class)),
    };
    for account in &mut report.accounts {
        account.line = line(account, name);
    }
}

const fn place(site: &SiteKey) -> (u64, u32, u8) {
    (site.stack_id, site.call, site.process.space)
}

const fn key(tgid: u32, image: u16) -> Key {
    Key {
        tgid,
        image,
        space: 0,
        device: 0,
    }
}

/// Follows who has come, who runs another program and who has gone.
fn keep_up(accounts: &mut Accounts, traced: &TracedSet) {
    let now = now_ns();
    for process in traced.iter().filter(|process| process.state == State::Running) {
        let image = process.image();
        match accounts.image(process.pid) {
            Some(known) if known < image => accounts.started(key(process.pid, image), now),
            Some(_) => {}
            None => accounts.attach(key(process.pid, image), now),
        }
    }
    let runs = |pid: u32| {
        traced
            .get(pid)
            .is_some_and(|process| process.state == State::Running)
    };
    let ended: Vec<u32> = accounts.pids().filter(|&pid| !runs(pid)).collect();
    for pid in ended {
        accounts.end(pid);
    }
    for pid in accounts.known() {
        if traced.get(pid).is_none() {
            accounts.forget(pid);
        }
    }
}

/// What is added to each block where nothing but glibc hands out memory.
fn rounding(traced: &TracedSet, pid: u32) -> Rounding {
    /// Those that hand out what they have from glibc, and glibc's own.
    const OF_GLIBC: [&str; 5] = ["libc.so.6", "libc-2.", "libstdc++.so", "libc++.so", "ld-linux"];
    let Some(process) = traced.get(pid) else {
        return Rounding::Unknown;
    };
    let heap = process.probed_for().filter(|(_, gear)| *gear == Gear::Heap);
    let mut names = heap.map(|(object, _)| traced.catalog.name(object)).peekable();
    let is_of_glibc = |name: String| {
        let name = name.rsplit('/').next().unwrap_or_default();
        OF_GLIBC.iter().any(|prefix| name.starts_with(prefix))
    };
    if names.peek().is_some() && names.all(is_of_glibc) {
        Rounding::Glibc
    } else {
        Rounding::Unknown
    }
}
