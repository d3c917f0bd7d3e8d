//! Unwinding without frame pointers.

pub mod finish;
mod sections;
pub mod verify;
