//! Calls of CUDA: the records of GPU memory, by what the driver does, under the name and the stack of the outermost call.
//!
//! `enter` and `exit` are the moments of a call; what happens then is in `live` (records), `handle` (memory by references
//! and mappings), `context` (what goes with a context) and `failed`. Of some calls only the entry is probed: those in
//! `note`, and tensors in `torch`. Must not know how a stack is walked.

mod array;
mod context;
mod enter;
mod exit;
mod failed;
mod handle;
mod live;
mod note;
mod thread;
mod torch;

pub use enter::enter;
pub use exit::exit;
pub use note::note;
pub use thread::{end as end_thread, forget as forget_thread};
pub use torch::tensor;
