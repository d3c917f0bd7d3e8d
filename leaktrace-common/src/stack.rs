//! A call stack as the kernel side takes it.

/// Frames a stack can hold: as many as fit the kernel allocator's size class of 2 KiB with the 64 bytes that an element
/// of a hash map has before its value (kernel/bpf/hashtab.c: `struct htab_elem` and the key).
pub const FRAMES_MAX: usize = 246;

/// Addresses from the inside out: the probed function first, then its caller.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Stack {
    /// How many of `frames` are set, 0 to [`FRAMES_MAX`].
    pub len: u32,
    /// Not 0 when the walk stopped at the depth limit and the stack goes on.
    pub truncated: u16,
    /// What became of the Python frames: one of [`crate::python::python_end`].
    pub python_end: u16,
    /// Key of the outermost part of the Python frames ([`crate::python::PythonPart`]); 0 for none.
    pub python: u64,
    /// Only the first `len` have meaning.
    pub frames: [u64; FRAMES_MAX],
}

/// Where a walk by unwind tables is. Kept with the thread's state and not on the BPF stack: there the verifier would
/// follow every value through every turn of the loop.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Walk {
    /// The process's layout ([`crate::unwind::Layout`]).
    pub layout: u64,
    /// What stood on the stack as the probed function's return address; 0 if it could not be read.
    pub caller: u64,
    /// Return address in the frame the walk is at.
    pub ip: u64,
    /// Stack pointer there, just after the return to `ip`.
    pub sp: u64,
    /// rbp there.
    pub bp: u64,
    /// Hash of the frames so far.
    pub hash: u64,
    /// How it ended: one of [`crate::unwind::end`].
    pub end: u64,
    /// Not 0 when the last step went by frame pointer where no table says that there is one.
    pub guessed: u64,
    /// Not 0 when it ended at a frame that a signal has interrupted: `ip` is then an instruction.
    pub interrupted: u64,
    /// Replaced return addresses: where in the kernel's list of them the walk is; 0 at its start.
    pub instance: u64,
    /// Address of the first word of the window.
    pub window_base: u64,
    /// Bytes of the window that have been read.
    pub window_len: u64,
    /// Bytes of the stack that a hash has been made of, from `sp` upwards.
    pub hashed_len: u64,
}

const _: () = assert!(size_of::<Stack>() == 16 + 8 * FRAMES_MAX && size_of::<Stack>() + 64 <= 2048);
