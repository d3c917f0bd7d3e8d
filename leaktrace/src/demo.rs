//! The program that `leaktrace demo` traces: itself, started with a hidden subcommand. A steady leak, a
//! bounded cache, a block from start-up and churn, through the C allocator, in known sizes.
//!
//! What leaktrace must say of it: `leak_a_session_every_tick` grows, `fill_a_bounded_cache` stays at
//! [`CACHE_SLOTS`] blocks, `load_the_start_up_table` is one block, `churn` holds nothing.

use std::{ffi::OsString, hint::black_box, thread, time::Duration};

use nix::unistd::getppid;

use crate::{
    cli::Demo,
    config::{Config, Target},
    error::{Error, system},
    kernel::sys::{CBlock, malloc},
};

/// The hidden subcommand.
const SUBCOMMAND: &str = "demo-target";
/// Size of each leaked block.
pub const LEAK_BYTES: usize = 4096;
/// Size of each cached block.
const CACHE_BYTES: usize = 1000;
/// Blocks that the cache keeps.
pub const CACHE_SLOTS: usize = 128;
/// Size of the block from start-up.
const TABLE_BYTES: usize = 64 << 10;
/// Pairs of malloc and free in a tick.
const CHURN_PAIRS: usize = 200;
/// Time between two leaked blocks.
const TICK: Duration = Duration::from_millis(5);

#[inline(never)]
fn leak_a_session_every_tick() {
    black_box(malloc(LEAK_BYTES));
}

#[inline(never)]
fn fill_a_bounded_cache(cache: &mut [Option<CBlock>], tick: usize) {
    let slot = tick % cache.len();
    cache[slot] = Some(CBlock::new(CACHE_BYTES));
}

#[inline(never)]
fn load_the_start_up_table() {
    black_box(malloc(TABLE_BYTES));
}

#[inline(never)]
fn churn() {
    for pair in 0..CHURN_PAIRS {
        drop(CBlock::new(black_box(16 + pair)));
    }
}

/// Whether this process is to be the program that is traced.
pub fn is_target(mut arguments: impl Iterator<Item = OsString>) -> bool {
    arguments.nth(1).is_some_and(|first| first == SUBCOMMAND)
}

/// The run that traces it.
///
/// # Errors
/// When this program cannot find its own executable.
pub fn config(options: &Demo) -> Result<Config, Error> {
    let program = std::env::current_exe().map_err(system("cannot find leaktrace's own executable"))?;
    let mut config = Config::new(Target::Command(vec![program.into(), SUBCOMMAND.into()]));
    config.duration = Some(options.duration);
    config.interval = None;
    config.output = options.output.clone();
    config.attach = options.attach;
    config.verbose = options.verbose;
    Ok(config)
}

/// Runs until it is ended, or its parent has.
pub fn run() {
    let parent = getppid();
    load_the_start_up_table();
    let mut cache: Vec<Option<CBlock>> = std::iter::repeat_with(|| None).take(CACHE_SLOTS).collect();
    for tick in 0.. {
        leak_a_session_every_tick();
        fill_a_bounded_cache(&mut cache, tick);
        churn();
        if getppid() != parent {
            break;
        }
        thread::sleep(TICK);
    }
    drop(cache);
}
