//! The constants of this run, written into `.rodata` before the load, and what user space changes later.

use aya_ebpf::Global;
use leaktrace_common::config::Config;

use crate::maps::CONTROL;

#[unsafe(no_mangle)]
static CONFIG: Global<Config> = Global::new(Config::ALL);

/// The configuration. The verifier knows the values and drops what they make unreachable.
#[inline(always)]
pub fn config() -> Config {
    CONFIG.load()
}

/// Mean gap between two samples of a thread; 0 records every allocation.
#[inline(always)]
pub fn mean_bytes() -> u64 {
    CONTROL.get(0).map_or(0, |control| control.mean_bytes)
}
