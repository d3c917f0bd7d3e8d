//! What tracing costs the target, and how it is held to what the user allows.
//!
//! [`calibrate`] measures what a trap costs here, [`meter`] counts traps, run time and the target's CPU time,
//! [`cost`] makes a share of them. [`controller`] decides from it what the sampling mean is and which
//! functions are probed for the moment. Must not know blocks, stacks or sites.

pub mod calibrate;
pub mod controller;
pub mod cost;
pub mod coverage;
mod ladder;
pub mod meter;
mod pacer;
