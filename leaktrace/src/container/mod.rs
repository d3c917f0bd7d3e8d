//! Containers and services: which one a process is in, what people call it, and where its control groups are.
//!
//! [`cgroup`] reads what the kernel says, [`hierarchies`] finds the folders of groups, [`identity`] tells a container by
//! its path, [`names`] asks its runtime what it is called, and [`containers`] keeps what was found. Must not know what is
//! traced, nor probes, blocks or reports.

pub mod cgroup;
pub mod containers;
pub mod hierarchies;
mod http;
pub mod identity;
pub mod names;
mod sockets;
mod state;
