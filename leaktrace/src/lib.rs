//! leaktrace: which stacks hold the memory that a running process does not give back.
//!
//! A [`config`] says which processes. [`probe`] finds the allocator functions in the files they map and
//! puts probes on them; the kernel side, loaded by [`kernel`], matches every allocation with its free and
//! keeps totals by site. [`traced`] follows the processes while they map, fork, exec and exit. Each
//! interval [`session`] has the tables read, [`track`] sums them up, [`symbol`] names the stacks that are
//! shown, and a renderer of [`report`] writes the frozen result.

pub mod account;
pub mod cli;
pub mod config;
pub mod container;
pub mod demo;
pub mod doctor;
pub mod error;
pub mod gate;
pub mod kernel;
pub mod killswitch;
pub mod launch;
pub mod nvml;
pub mod overhead;
pub mod probe;
pub mod python;
pub mod report;
pub mod select;
pub mod session;
pub mod symbol;
pub mod traced;
pub mod track;
pub mod unwind;
pub mod verdict;
pub mod watch;
