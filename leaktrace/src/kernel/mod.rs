//! The kernel as seen from user space: what it can do, the loaded object, its maps, its side-band.

pub mod btf;
pub mod caps;
pub mod clock;
pub mod counters;
pub mod events;
pub mod faults;
pub mod gpu;
pub mod mapping;
pub mod maps;
pub mod object;
pub mod pages;
pub mod programs;
pub mod python;
pub mod raw;
pub mod resident;
pub mod sideband;
pub mod sys;
pub mod tables;
pub mod version;
