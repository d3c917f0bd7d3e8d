//! All that crosses the kernel boundary, and nothing else: map keys and values, the attach cookie, the
//! counters of the ledger, the configuration block.
//!
//! Both sides are built from this one source. It must not know eBPF helpers, maps, the operating
//! system or an allocator. Every shared struct is `repr(C)`, has its padding spelled out (the kernel
//! compares and copies padding bytes too) and a size that is asserted here.
#![no_std]

pub mod call;
pub mod config;
pub mod counter;
pub mod event;
pub mod gpu;
pub mod key;
pub mod mapping;
pub mod math;
pub mod python;
pub mod record;
pub mod select;
pub mod stack;
pub mod unwind;
