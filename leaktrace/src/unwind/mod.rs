//! How to get from a frame to its caller without frame pointers: tables made from the unwind information of files.

pub mod build;
pub mod library;
pub mod listing;
pub mod store;
pub mod table;
