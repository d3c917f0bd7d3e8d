//! CPython from outside: which interpreter a process runs, where its frames are, and what its memory says about the code
//! that runs and the objects that live. Must not know probes or reports; it is given files and [`memory`].
//!
//! [`runtime`] says what a file has: a [`version`], which decides the [`offsets`] (from 3.13 on the interpreter itself
//! says them, [`debug`]), `_PyRuntime`, and the code that runs Python's ([`evaluator`]). [`discover`] proves it on a
//! living process, with the help of how its C library keeps [`keys`].

pub mod debug;
pub mod discover;
pub mod evaluator;
#[cfg(test)]
mod installed;
pub mod keys;
pub mod memory;
pub mod offsets;
#[cfg(test)]
mod offsets_tests;
pub mod runtime;
pub mod version;
