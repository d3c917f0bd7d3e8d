//! What a child does before `exec`, descriptors that are waited for, and C's allocator.

use std::{
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd},
        unix::process::CommandExt as _,
    },
    process::Command,
};

use tokio::io::{Interest, unix::AsyncFd};

/// A command whose child writes its pid to `report` and then waits for a byte on `gate` before it
/// executes the program. `other_end` is leaktrace's end of the gate: the child closes its copy, or it
/// would keep its own gate open when leaktrace is gone.
pub fn hold_before_exec(command: &mut Command, report: OwnedFd, gate: OwnedFd, other_end: RawFd) {
    let held = move || {
        // SAFETY: the child's own copy, which nothing else in the child uses.
        unsafe { libc::close(other_end) };
        let pid = std::process::id().to_ne_bytes();
        write_all(report.as_fd(), &pid)?;
        let mut byte = [0_u8; 1];
        loop {
            // SAFETY: a plain read into a buffer of that size; async-signal-safe.
            let read = unsafe { libc::read(gate.as_raw_fd(), byte.as_mut_ptr().cast(), 1) };
            match read {
                1 => return Ok(()),
                // leaktrace is gone or gave up.
                0 => return Err(io::Error::from_raw_os_error(libc::ECANCELED)),
                _ => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
    };
    // SAFETY: between fork and exec it only calls close, write and read and allocates nothing.
    unsafe { command.pre_exec(held) };
}

fn write_all(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: a plain write of a live buffer; async-signal-safe.
    let written = unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
    if written == bytes.len() as isize {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Registers a descriptor with the event loop.
pub fn watch_readable(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the `AsyncFd` owns the descriptor, so it stays open and the same until it is dropped.
    unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }.map_err(io::Error::from)
}

// SAFETY: malloc takes any size and touches nothing of the caller's.
unsafe extern "C" {
    /// The C allocator, for the program that `leaktrace demo` traces. What it returns can only be lost:
    /// to give a block back, take a [`CBlock`].
    pub safe fn malloc(size_bytes: usize) -> *mut libc::c_void;
}

/// A block of the C allocator that goes back to it, for the same program.
#[derive(Debug)]
pub struct CBlock(*mut libc::c_void);

impl CBlock {
    /// `malloc(size_bytes)`
    #[inline(always)]
    pub fn new(size_bytes: usize) -> Self {
        Self(std::hint::black_box(malloc(size_bytes)))
    }
}

impl Drop for CBlock {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: from malloc, and freed only here.
        unsafe { libc::free(self.0) }
    }
}
