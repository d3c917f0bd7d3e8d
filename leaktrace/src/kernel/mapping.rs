//! What targets map by themselves, as the kernel side tells it: its programs at the tracepoints of four system calls, and
//! the ring of what they have seen. Must not know what becomes of a mapping.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::{
    maps::{MapData, RingBuf},
    programs::{TracePoint, trace_point::TracePointLink},
};
use leaktrace_common::mapping::MapEvent;

use super::{
    object::{KernelSide, LoadError, chain},
    sys,
};

/// Programs and their tracepoints of the group `syscalls`. The entries first: a return without its entry does not know when
/// it began.
const POINTS: [(&str, &[&str]); 2] = [
    ("unmapping_enter", &["sys_enter_munmap", "sys_enter_mremap"]),
    (
        "mapping_exit",
        &[
            "sys_exit_mmap",
            "sys_exit_munmap",
            "sys_exit_mremap",
            "sys_exit_brk",
        ],
    ),
];

/// Mappings cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum MappingError {
    /// The kernel refused a program.
    #[error(
        "mappings that processes make themselves are not followed, since the kernel refused the program {program}: \
         {reason}; a kernel with CONFIG_DEBUG_INFO_BTF takes it, --no-mappings leaves it out"
    )]
    Program {
        /// Its name.
        program: &'static str,
        /// aya's words.
        reason: String,
    },
    /// There is no such tracepoint, or it must not be used.
    #[error(
        "mappings that processes make themselves are not followed, since the tracepoint syscalls:{name} cannot be used: \
         {reason}; mount tracefs on /sys/kernel/tracing (the kernel needs CONFIG_FTRACE_SYSCALLS), or leave them out \
         with --no-mappings"
    )]
    Tracepoint {
        /// Its name.
        name: &'static str,
        /// aya's words.
        reason: String,
    },
}

/// The attached programs. From when this is dropped on, no system call of the machine costs anything more.
#[derive(Debug)]
pub struct Attached {
    _links: Vec<TracePointLink>,
}

impl Attached {
    /// Attaches them, for all processes that are or become targets.
    ///
    /// # Errors
    /// [`MappingError`]. Nothing is attached then.
    pub fn new(kernel: &mut KernelSide) -> Result<Self, MappingError> {
        let mut links = Vec::new();
        for (program, names) in POINTS {
            let refused = |reason| MappingError::Program { program, reason };
            let loaded = kernel
                .ebpf
                .program_mut(program)
                .ok_or_else(|| refused("there is none of that name".to_owned()))?;
            let loaded = <&mut TracePoint>::try_from(loaded).map_err(|error| refused(chain(&error)))?;
            loaded.load().map_err(|error| refused(chain(&error)))?;
            for &name in names {
                let link = loaded
                    .attach("syscalls", name)
                    .and_then(|link| loaded.take_link(link));
                links.push(link.map_err(|error| MappingError::Tracepoint {
                    name,
                    reason: chain(&error),
                })?);
            }
        }
        Ok(Self { _links: links })
    }
}

/// The ring of events.
pub struct Ring(RingBuf<MapData>);

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").finish_non_exhaustive()
    }
}

impl Ring {
    /// Takes the ring out of the object.
    ///
    /// # Errors
    /// [`LoadError::Maps`] when the object has no such map.
    pub fn new(kernel: &mut KernelSide) -> Result<Self, LoadError> {
        const NAME: &str = "MAPPED_EVENTS";
        let ring = kernel.ebpf.take_map(NAME);
        let ring = ring.ok_or_else(|| LoadError::Maps(format!("no map {NAME}")))?;
        let ring = RingBuf::try_from(ring).map_err(|error| LoadError::Maps(error.to_string()))?;
        Ok(Self(ring))
    }

    /// A descriptor of its own that becomes readable when a quarter of the ring is full: with less it is to be looked at now
    /// and then.
    ///
    /// # Errors
    /// That of dup(2).
    pub fn wake(&self) -> io::Result<OwnedFd> {
        self.0.as_fd().try_clone_to_owned()
    }

    /// Hands out what has been told since the last time. Of one process, see [`MapEvent`] for their order.
    pub fn drain(&mut self, mut each: impl FnMut(&MapEvent)) {
        while let Some(item) = self.0.next() {
            if let Some(event) = sys::from_bytes::<MapEvent>(&item) {
                each(&event);
            }
        }
    }
}

#[cfg(test)]
#[path = "mapping_tests.rs"]
mod tests;
