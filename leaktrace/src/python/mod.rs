//! CPython from outside: which interpreter a process runs, where its frames are, and what its memory says about the code
//! that runs and the objects that live. Must not know probes or reports; it is given files and [`memory`].
//!
//! Its objects are counted by the [`census`].
//!
//! A [`version`] decides the [`offsets`], which from 3.13 on the interpreter itself says ([`debug`]).

pub mod census;
pub mod debug;
pub mod memory;
pub mod offsets;
#[cfg(test)]
mod offsets_tests;
pub mod version;
