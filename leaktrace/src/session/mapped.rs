//! What the targets map by themselves, on its way from the kernel side's ring to whoever keeps account of it. Must not know
//! what becomes of a mapping.

use std::{io, os::fd::OwnedFd};

use leaktrace_common::{
    counter::Counter,
    mapping::{MapEvent, kind},
};

use crate::kernel::{
    counters::Counters,
    mapping::{Attached, Ring},
    object::{KernelSide, LoadError},
};

/// Keeps account of mappings.
pub(super) trait Sink {
    /// A system call has changed what is mapped.
    fn apply(&mut self, event: &MapEvent);

    /// Some events before the next one are missing: what is mapped is to be read from `/proc/PID/maps` again.
    fn lost(&mut self);
}

/// The ring.
#[derive(Debug)]
pub(super) struct Mapped {
    /// None where nothing is followed.
    ring: Option<Ring>,
    attached: Option<Attached>,
    /// What the counter of lost events said last.
    lost: u64,
}

impl Mapped {
    /// Follows what targets map from here on, if that is wanted. Where it cannot be, a warning says why.
    ///
    /// # Errors
    /// [`LoadError`] when the object lacks the ring.
    pub(super) fn follow(kernel: &mut KernelSide, wanted: bool) -> Result<Self, LoadError> {
        let attached = if wanted {
            Attached::new(kernel)
                .inspect_err(|error| tracing::warn!("{error}"))
                .ok()
        } else {
            None
        };
        let ring = attached.is_some().then(|| Ring::new(kernel)).transpose()?;
        Ok(Self {
            ring,
            attached,
            lost: 0,
        })
    }

    /// What becomes readable when the ring fills; none where nothing is followed.
    ///
    /// # Errors
    /// When it cannot be duplicated.
    pub(super) fn wake(&self) -> io::Result<Option<OwnedFd>> {
        self.ring.as_ref().map(Ring::wake).transpose()
    }

    /// Hands `sink` what has been told up to now.
    ///
    /// # Errors
    /// aya's words when the counters cannot be read.
    pub(super) fn drain(&mut self, counters: &Counters, sink: &mut impl Sink) -> Result<(), String> {
        let Some(ring) = &mut self.ring else {
            return Ok(());
        };
        ring.drain(|event| {
            say(event);
            sink.apply(event);
        });
        let lost = counters.read(Counter::MappingsLost)?;
        if lost > self.lost {
            self.lost = lost;
            sink.lost();
        }
        Ok(())
    }

    /// Follows nothing any more: system calls cost what they did before. What has been told up to now can still be had.
    ///
    /// The kernel waits for all CPUs at each tracepoint that nobody uses any more (`tracepoint_synchronize_unregister` in
    /// `kernel/trace/trace_event_perf.c`): meanwhile the last report is made.
    pub(super) fn release(&mut self) {
        let released = self.attached.take();
        let thread = std::thread::Builder::new().name("detach".to_owned());
        // Where there is no thread to be had, it is let go here.
        let _not_awaited: io::Result<_> = thread.spawn(move || drop(released));
    }
}

fn say(event: &MapEvent) {
    let name = match event.kind {
        kind::MAP => "mmap",
        kind::UNMAP => "munmap",
        kind::REMAP => "mremap",
        kind::BREAK => "brk",
        _ => "unknown",
    };
    tracing::debug!(
        "{name} of {}.{}: {:#x}+{:#x} from {:#x}+{:#x}, flags {:#x}, stack {:#x}, {} ns",
        event.process.tgid,
        event.process.image,
        event.start,
        event.length_bytes,
        event.old_start,
        event.old_length_bytes,
        event.flags,
        event.stack_id,
        event.time_ns - event.began_ns,
    );
}
