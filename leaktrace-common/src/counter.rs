//! The ledger: everything that was not seen, not kept or not matched, one counter a cause.
//!
//! Append only: a name is part of the report format.

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $variant:ident => $name:literal, $loss:literal;)+) => {
        /// A counter of the ledger; its number is the index in the kernel's map.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Counter {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Counter {
            /// All counters, in the order of the report.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name in reports.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What it counts, in a sentence.
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }

            /// Whether a number above zero means that the report misses something it should have.
            pub const fn is_loss(self) -> bool {
                match self { $(Self::$variant => $loss,)+ }
            }
        }
    };
}

counters! {
    /// Allocations not recorded because the live table was full (raise --max-live).
    LiveFull => "live_full", true;
    /// Bytes of the allocations that `live_full` counts.
    LiveFullBytes => "live_full_bytes", true;
    /// Allocations not recorded because the kernel had no memory at hand for the record.
    LiveNoMemory => "live_no_memory", true;
    /// Allocations whose stack was not kept because the stack table was full or there was no memory at hand; they are reported without one.
    StacksFull => "stacks_full", true;
    /// Allocations not recorded because the site table was full or there was no memory at hand.
    SitesFull => "sites_full", true;
    /// Calls not seen because the table of threads was full or there was no memory at hand.
    ThreadsFull => "threads_full", true;
    /// Calls whose return was not seen: left by a longjmp or an exception, or the thread was killed inside.
    Abandoned => "abandoned", false;
    /// Calls made inside another traced call, which owns the record.
    Nested => "nested", false;
    /// Allocations that failed.
    Failed => "failed", false;
    /// Allocations of a size that --min-size or --max-size leaves out.
    FilteredSize => "filtered_size", false;
    /// Frees of blocks that are not in the live table: allocated before the attach or filtered out. Not counted where sampling is on: there it is the normal case.
    FreeUnknown => "free_unknown", false;
    /// Reallocations of blocks that are not in the live table. Not counted where sampling is on.
    ReallocUnknown => "realloc_unknown", false;
    /// Addresses handed out again while still recorded: their free was not seen, and is taken as done.
    FreeMissed => "free_missed", false;
    /// Results that could not be read from the target's memory.
    ResultUnreadable => "result_unreadable", true;
    /// Stacks with more frames than a report can hold.
    StacksTruncated => "stacks_truncated", false;
    /// Events dropped because the event ring was full.
    EventsLost => "events_lost", true;
    /// Calls of a process that is not a target, sharing memory with one (a vfork child).
    Untracked => "untracked", false;
    /// Allocations that sampling left out; the recorded ones stand for them.
    SampledOut => "sampled_out", false;
    /// Stacks that the kernel side could not finish and did not hand to user space: the ring was full or the process's share used up.
    RawStacksLost => "raw_stacks_lost", false;
    /// Stacks in a Python process whose Python frames could not be read to their end: the thread was starting or ending, or its memory could not be read.
    PythonUnreadable => "python_unreadable", false;
    /// Stacks with more Python frames than are kept.
    PythonTruncated => "python_truncated", false;
    /// Stacks whose Python frames were not kept because their table was full or there was no memory at hand.
    PythonFull => "python_full", true;
    /// Python stacks that user space was not told of at once: a function that has ended its life meanwhile has no name.
    PythonUntold => "python_untold", false;
    /// GPU memory given back that was not seen when it was made: before the attach, or by a call that is not followed.
    GpuFreeUnknown => "gpu_free_unknown", false;
    /// Tensors given back that were not seen when they were made.
    TensorFreeUnknown => "tensor_free_unknown", false;
    /// Calls of the GPU's driver that make memory which leaktrace does not follow: nodes of graphs, memory imported from other programs.
    GpuUntracked => "gpu_untracked", false;
    /// GPU memory, mappings or contexts not recorded because their table was full or there was no memory at hand.
    GpuFull => "gpu_full", true;
    /// Failed GPU calls that are in no list because their table was full.
    GpuErrorsFull => "gpu_errors_full", false;
    /// Records of GPU memory that went with their context, as the context ended.
    GpuContextFreed => "gpu_context_freed", false;
    /// Records of GPU memory whose context may have ended: which one theirs is was not seen.
    GpuContextUnsure => "gpu_context_unsure", false;
    /// Arrays of a format whose size is not known to leaktrace: they are recorded with 0 bytes.
    GpuSizeUnknown => "gpu_size_unknown", false;
    /// Calls of processes that are no targets in files that are probed for all: each cost them a trap.
    Outside => "outside", false;
    /// Allocations not recorded because their process had as many live blocks as one may have (raise --max-live).
    LiveProcessFull => "live_process_full", true;
    /// Stacks not kept because their process had as many as one may have; their allocations are reported without one.
    StacksProcessFull => "stacks_process_full", true;
    /// Processes that were targets and are not followed because the table of processes was full or there was no memory at hand.
    ProcessesFull => "processes_full", true;
    /// Calls that change what a process has mapped of which user space was not told because their ring was full; what is mapped is read from /proc/PID/maps again.
    MappingsLost => "mappings_lost", true;
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn counters_are_numbered_and_named_once() {
        let names: HashSet<_> = Counter::ALL.iter().map(|counter| counter.name()).collect();
        assert_eq!(names.len(), Counter::ALL.len());
        for (index, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, index);
            assert!(counter.help().ends_with('.'), "{}", counter.name());
        }
    }
}
