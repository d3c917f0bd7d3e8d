//! The records of GPU memory.

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use leaktrace_common::{
    counter::Counter,
    gpu::{Domain, GpuKey, GpuLive, ONE_REFERENCE, gpu_flag},
    key::{LiveKey, Process, SiteKey},
    math::Weight,
    record::Live,
};

use crate::{counter::bump, live::now_ns, maps::GPU_LIVE, site};

const EEXIST: i32 = -17;

/// Values of `old_known` of a pending call: the record has been taken out,
pub const TAKEN: u32 = 1;
/// or there is one hold less on it.
pub const LESSENED: u32 = 2;

/// Nothing: what `take` writes over.
pub const NONE: GpuLive = GpuLive {
    block: Live {
        size_bytes: 0,
        time_ns: 0,
        stack_id: 0,
        call: 0,
        shard: 0,
        weight: Weight::ONE,
    },
    context: 0,
    holds: 0,
    space: 0,
    device: 0,
    flags: 0,
    pad: [0; 5],
};

/// Key of an identity.
#[inline(always)]
pub const fn key(process: Process, identity: u64, domain: u8) -> GpuKey {
    LiveKey {
        address: identity,
        process: Process {
            tgid: process.tgid,
            image: process.image,
            space: domain,
            device: 0,
        },
    }
}

/// Takes a record out of the table, into `record`; whether it was there.
#[inline(never)]
pub fn take(key: &GpuKey, record: &mut GpuLive) -> bool {
    // SAFETY: a copy; whoever gives back the same memory at the same time has a bug, and one of the two finds it gone.
    let Some(found) = (unsafe { GPU_LIVE.get(key) }) else {
        return false;
    };
    *record = *found;
    GPU_LIVE.remove(key).is_ok()
}

/// Puts a record back that `take` took out: its call has failed.
#[inline(never)]
pub fn put_back(key: &GpuKey, record: &GpuLive) {
    if GPU_LIVE.insert(key, record, u64::from(BPF_NOEXIST)).is_err() {
        bump(Counter::GpuFull);
        freed(key, record);
    }
}

/// Counts a record's memory as given back.
#[inline(always)]
pub fn freed(key: &GpuKey, record: &GpuLive) {
    if record.flags & gpu_flag::UNCOUNTED == 0 {
        site::freed(&site_process(key, record), &record.block);
    }
}

/// Under which process a record's site is.
#[inline(always)]
const fn site_process(key: &GpuKey, record: &GpuLive) -> Process {
    Process {
        tgid: key.process.tgid,
        image: key.process.image,
        space: record.space,
        device: record.device,
    }
}

/// Records memory, unless that fails, which is counted. `record` says what it is; its time, its shard and its hold are put
/// in here.
#[inline(never)]
pub fn insert(key: &GpuKey, record: &mut GpuLive) {
    let shard = site::shard();
    record.block.time_ns = now_ns();
    record.block.shard = shard;
    if record.holds == 0 {
        record.holds = ONE_REFERENCE;
    }
    if record.flags & gpu_flag::UNCOUNTED != 0 {
        let _full: bool = store(key, record);
        return;
    }
    let site_key = SiteKey {
        stack_id: record.block.stack_id,
        process: site_process(key, record),
        call: record.block.call.into(),
        shard: shard.into(),
    };
    let Some(site) = site::find_or_add(&site_key) else {
        bump(Counter::SitesFull);
        return;
    };
    // First the record, then the totals: memory that could not be recorded must not be counted.
    if store(key, record) {
        site::allocated(site, &record.block);
    }
}

#[inline(always)]
fn store(key: &GpuKey, record: &GpuLive) -> bool {
    let stored = match GPU_LIVE.insert(key, record, u64::from(BPF_NOEXIST)) {
        Err(EEXIST) => {
            replaced(key);
            GPU_LIVE.insert(key, record, u64::from(BPF_ANY))
        }
        stored => stored,
    };
    if stored.is_err() {
        bump(Counter::GpuFull);
    }
    stored.is_ok()
}

/// An identity has come again while it is recorded: its end was not seen, and is taken as done.
#[inline(always)]
fn replaced(key: &GpuKey) {
    let mut stale = NONE;
    if take(key, &mut stale) {
        // A handle without references ends with its last mapping, and its number may be back before that call returns.
        let awaited = key.process.space == Domain::Handle as u8 && stale.holds < ONE_REFERENCE;
        if !awaited && stale.flags & gpu_flag::UNCOUNTED == 0 {
            bump(Counter::FreeMissed);
        }
        freed(key, &stale);
    }
}
