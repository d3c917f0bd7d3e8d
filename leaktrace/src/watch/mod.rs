//! The gear without probes: who grows, and which stacks first touched the memory that grew, for any language and
//! allocator; tracing is armed for those that keep growing.
//!
//! [`growth`] and [`arm`] are pure: they say how a process goes and which ones are to be traced.

pub mod arm;
pub mod growth;
pub mod processes;
