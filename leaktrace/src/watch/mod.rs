//! The gear without probes: who grows, and which stacks first touched the memory that grew, for any language and
//! allocator; tracing is armed for those that keep growing.
//!
//! [`growth`], [`arm`] and [`kept`] are pure: how a process goes, which ones are to be traced, what sampled page faults
//! stand for. [`processes`] and [`space`] read `/proc`, [`marks`] spares it some of that, [`witness`] puts stacks to page faults, [`tracer`] traces.
//! [`session`] is the loop, [`chronicle`] makes its reports, [`members`] says who is watched.

pub mod arm;
pub mod chronicle;
pub mod growth;
pub mod kept;
pub mod marks;
pub mod members;
pub mod processes;
pub mod session;
pub mod space;
pub mod tracer;
pub mod witness;
