//! Which objects of a process carry which allocator functions, and where each is probed.

pub mod allocators;
pub mod elf;
pub mod process;
