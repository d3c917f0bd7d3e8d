//! The only module with `unsafe`: raw bpf(2), `perf_event_open(2)` and what a child does before `exec`.
//!
//! aya 0.14 has no multi or session links, no batch reads and no way to return a value from a uprobe
//! program; newer versions need Rust 1.98. What they gain later is deleted here. Must not know what the
//! maps and programs mean.

mod links;
mod mapped;
mod maps;
pub mod probed;
mod process;
mod programs;

use std::{
    io,
    mem::{MaybeUninit, size_of},
    os::fd::{FromRawFd as _, OwnedFd, RawFd},
};

use aya_obj::generated::{bpf_attr, bpf_cmd};
use leaktrace_common::{config, event, gpu, key, mapping, python, record, select, stack, unwind};

pub use self::{links::*, mapped::*, maps::*, process::*, programs::*};

/// Types that the kernel may fill with any bytes and that have no padding of the compiler's.
///
/// # Safety
/// Every bit pattern is a value, and every byte belongs to a field.
pub unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($type:ty),+ $(,)?) => {
        $(
            // SAFETY: `repr(C)` integers and arrays of them, padding spelled out as fields.
            unsafe impl Plain for $type {}
        )+
    };
}

plain!(
    u32,
    u64,
    config::LiveTiers,
    event::Event,
    gpu::Context,
    gpu::GpuErrorKey,
    gpu::GpuErrors,
    gpu::GpuLive,
    gpu::Mapping,
    gpu::TorchTotals,
    key::LiveKey,
    key::Process,
    key::SiteKey,
    mapping::MapEvent,
    python::Interpreter,
    python::NewPart,
    python::PythonPart,
    record::Control,
    record::Live,
    record::Site,
    record::Tracked,
    select::Property,
    stack::Stack,
    unwind::CodeMapping,
    unwind::LayoutSlot,
    unwind::Page,
    unwind::RawHeader,
    unwind::Row,
    unwind::Rule,
);

/// Like [`Plain`], for aya.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct PodConfig(pub config::Config);

// SAFETY: u64s without padding.
unsafe impl aya::Pod for PodConfig {}

/// Copies a `T` out of bytes from the kernel; `None` when there are too few.
pub fn from_bytes<T: Plain>(bytes: &[u8]) -> Option<T> {
    // SAFETY: long enough, unaligned read, any bytes are a value.
    (bytes.len() >= size_of::<T>()).then(|| unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i64> {
    // SAFETY: the pointers in `attr` live until the call returns; callers build it from references.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_int,
            std::ptr::from_mut(attr),
            size_of::<bpf_attr>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn bpf_fd(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

const fn attr() -> bpf_attr {
    // SAFETY: a union of plain integers; zero is the documented value of unused fields.
    unsafe { MaybeUninit::<bpf_attr>::zeroed().assume_init() }
}

fn address_of<T>(items: &[T]) -> u64 {
    items.as_ptr() as u64
}
