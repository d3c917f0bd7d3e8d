//! Which objects of a process carry which allocator functions, where each is probed, and putting the
//! probes there.

pub mod allocators;
pub mod attach;
mod body;
mod branch;
mod candidate;
pub mod closure;
pub mod cuda;
pub mod custom;
pub mod dlopen;
pub mod elf;
mod finder;
pub mod gear;
mod gpu;
mod handover;
pub(crate) mod image;
pub mod linker;
pub mod listing;
pub mod mapped;
mod pools;
pub mod process;
pub mod refuse;
mod returns;
pub mod site;
mod skipped;
