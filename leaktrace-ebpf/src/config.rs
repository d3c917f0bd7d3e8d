//! The constants of this run, written into `.rodata` before the load.

use aya_ebpf::Global;
use leaktrace_common::config::Config;

#[unsafe(no_mangle)]
static CONFIG: Global<Config> = Global::new(Config::ALL);

/// The configuration. The verifier knows the values and drops what they make unreachable.
#[inline(always)]
pub fn config() -> Config {
    CONFIG.load()
}
