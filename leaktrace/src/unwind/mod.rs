//! How to get from a frame to its caller without frame pointers: tables made from the unwind information of files, and
//! framehop where the kernel side cannot go on by them.

pub mod build;
pub mod finish;
pub mod library;
pub mod listing;
mod sections;
pub mod store;
pub mod table;
pub mod verify;
