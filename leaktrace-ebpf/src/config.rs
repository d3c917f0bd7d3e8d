//! The constants of this run, written into `.rodata` before the load, and what user space changes later.

use aya_ebpf::Global;
use leaktrace_common::{config::Config, select::Rules, unwind::ReturnProbes};

use crate::maps::CONTROL;

#[unsafe(no_mangle)]
static CONFIG: Global<Config> = Global::new(Config::ALL);

/// The configuration. The verifier knows the values and drops what they make unreachable.
#[inline(always)]
fn config() -> Config {
    CONFIG.load()
}

/// Whether --min-size or --max-size leaves a size out.
#[inline(always)]
pub fn is_filtered(size_bytes: u64) -> bool {
    let config = config();
    size_bytes < config.min_size_bytes || size_bytes > config.max_size_bytes
}

/// See [`Config::site_shard_mask`].
#[inline(always)]
pub fn site_shard_mask() -> u64 {
    config().site_shard_mask
}

/// Whether this run may sample.
#[inline(always)]
pub fn samples() -> bool {
    config().sampling != 0
}

/// Mean gap between two samples of a thread; 0 records every allocation.
#[inline(always)]
pub fn mean_bytes() -> u64 {
    if !samples() {
        return 0;
    }
    CONTROL.get(0).map_or(0, |control| control.mean_bytes)
}

/// Whether stacks are walked by unwind tables.
#[inline(always)]
pub fn unwinds() -> bool {
    config().unwind != 0
}

/// Whether user space walks each new stack once more.
#[inline(always)]
pub fn verifies() -> bool {
    config().verify != 0
}

/// Offset in `task_struct` of the thread pointer; 0 where Python frames are not walked.
#[inline(always)]
pub fn thread_pointer() -> u64 {
    config().thread_pointer
}

/// Whether processes become targets by themselves.
#[inline(always)]
pub fn selects() -> bool {
    config().rules.on != 0
}

/// By what.
#[inline(always)]
pub fn rules() -> Rules {
    config().rules
}

/// Where replaced return addresses are found, if that is known.
#[inline(always)]
pub fn return_probes() -> Option<ReturnProbes> {
    let offsets = config().return_probes;
    (offsets.task_utask != 0).then_some(offsets)
}
