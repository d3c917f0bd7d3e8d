//! CPython from outside: which interpreter a process runs, where its frames are, and what its memory says about the code
//! that runs and the objects that live. Must not know probes or reports; it is given files and [`memory`].
//!
//! [`runtime`] says what a file has: a [`version`], which decides the [`offsets`] (from 3.13 on the interpreter itself
//! says them, [`debug`]), `_PyRuntime`, and the code that runs Python's ([`evaluator`]). [`discover`] proves it on a
//! living process, with the help of how its C library keeps [`keys`].
//!
//! A code object becomes a name, a file and lines by [`code`], which reads [`text`] and [`lines`] through [`memory`];
//! [`codes`] keeps them, and [`resolver`] has them read as soon as a stack shows them. [`merge`] makes one stack of the
//! native frames and Python's.

pub mod code;
pub mod codes;
pub mod debug;
pub mod discover;
pub mod evaluator;
#[cfg(test)]
mod installed;
pub mod keys;
pub mod lines;
mod machinery;
pub mod memory;
pub mod merge;
pub mod offsets;
#[cfg(test)]
mod offsets_tests;
pub mod pools;
pub mod resolver;
pub mod runtime;
#[cfg(test)]
mod speaking;
pub mod text;
pub mod version;
