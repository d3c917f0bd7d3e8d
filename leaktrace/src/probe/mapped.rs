//! The system calls by which a process maps memory itself, as calls of a report. They are not probed: the kernel side sees
//! them at their tracepoints. Must not know what was mapped.

use leaktrace_common::{call::CallId, mapping::kind};

/// Number of the first; table rows are below it, and those of [`super::cuda`] above.
const FIRST_CALL: CallId = 0x3f00;

/// `mmap`.
pub const MMAP: CallId = FIRST_CALL;
/// `mremap`: what was mapped grows by it.
pub const MREMAP: CallId = FIRST_CALL + 1;
/// `brk`: so does the heap.
pub const BRK: CallId = FIRST_CALL + 2;

/// The name of a call in reports; `None` for a number that none of them has.
pub const fn call_name(call: CallId) -> Option<&'static str> {
    match call {
        MMAP => Some("mmap"),
        MREMAP => Some("mremap"),
        BRK => Some("brk"),
        _ => None,
    }
}

/// The call that an event of the kernel side tells of ([`kind`]); `None` where it maps nothing.
pub const fn call_of(kind: u32) -> Option<CallId> {
    match kind {
        kind::MAP => Some(MMAP),
        kind::REMAP => Some(MREMAP),
        kind::BREAK => Some(BRK),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::allocators, *};

    #[test]
    fn calls_that_map_have_names_of_their_own() {
        for (kind, name) in [(kind::MAP, "mmap"), (kind::REMAP, "mremap"), (kind::BREAK, "brk")] {
            assert_eq!(call_of(kind).map(allocators::call_name), Some(name));
        }
        assert_eq!(call_of(kind::UNMAP), None);
        assert_eq!((call_name(FIRST_CALL - 1), call_name(BRK + 1)), (None, None));
        assert!(allocators::ROWS.len() < usize::from(FIRST_CALL));
        const { assert!(BRK < super::super::cuda::FIRST_GPU_CALL) };
    }
}
