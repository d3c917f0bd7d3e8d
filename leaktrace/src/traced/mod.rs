//! The processes that are traced, kept true while they map, fork, exec and exit.
//!
//! Owns what connects a process with the objects it maps and the probes it carries. Must not know
//! blocks, stacks or reports beyond what a process is called there.

pub mod catalog;
pub mod follow;
pub mod gpu;
pub mod host;
pub mod interpreters;
pub mod members;
mod newcomers;
mod pause;
mod pauser;
pub mod process;
pub mod python;
pub mod set;
pub mod slots;
mod unwinding;
mod warnings;
