//! A call stack as the kernel side takes it.

/// Frames a stack can hold.
pub const FRAMES_MAX: usize = 127;

/// Addresses from the inside out: the probed function first, then its caller.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Stack {
    /// How many of `frames` are set, 0 to [`FRAMES_MAX`].
    pub len: u32,
    /// Not 0 when the walk stopped at the depth limit and the stack goes on.
    pub truncated: u32,
    /// Only the first `len` have meaning.
    pub frames: [u64; FRAMES_MAX],
}

const _: () = assert!(size_of::<Stack>() == 8 + 8 * FRAMES_MAX);
