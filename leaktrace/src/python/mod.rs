//! CPython from outside: what its memory says about the code that runs and the objects that live. Must not know
//! probes or reports.

pub mod memory;
