//! CPython as the kernel side sees it: where a thread's Python frames are, and how they are handed to user space.
//!
//! User space finds the interpreter of a process, and says here where in its memory everything is; the kernel side
//! follows the frames of the thread that allocates and keeps their code objects by address, which user space turns
//! into names. Must not know names, lines or versions.

use crate::{stack::FRAMES_MAX, unwind::LAYOUTS};

/// Elements of the array of interpreters: one a traced process, at the index of its layout.
pub const INTERPRETERS: usize = LAYOUTS;

/// Most Python frames of a stack. The interpreter's own bound is 1000 by default.
pub const PYTHON_FRAMES_MAX: u32 = 1024;

/// Where the interpreter of a process image keeps what the kernel side reads. User space writes it, `state` last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Interpreter {
    /// [`Interpreter::of_image`] of the image that the rest is true for; 0 for none.
    pub state: u64,
    /// Address of the key of the thread state (`autoTSSkey`, a `Py_tss_t`: two 32-bit words, whether it is set and the
    /// key of `pthread_getspecific`).
    pub key: u64,
    /// Address of the pointer to the thread state that holds the lock, of which there is one up to Python 3.11
    /// (`gilstate.tstate_current`); 0 for none. It is the thread's own if its thread id is.
    pub current: u64,
    /// First address of the interpreter's code.
    pub code_begin: u64,
    /// First address after it.
    pub code_end: u64,
    /// Size of an arena of its object allocator, in bytes; 0 where it has none.
    pub arena_bytes: u64,
    /// Offset of the first key's value from the thread pointer, or of the pointer to the table of values.
    pub keys: u16,
    /// Bytes from one key's value to the next: 16 in glibc, 8 in musl.
    pub key_stride: u16,
    /// Not 0 where `keys` leads to a pointer to the table.
    pub keys_indirect: u16,
    /// Offset in the thread state of its thread id, which is the thread pointer.
    pub thread_id: u16,
    /// Offset in the thread state of the pointer to the innermost frame, or to the structure that has it.
    pub thread_frame: u16,
    /// Offset in that structure of the pointer to the innermost frame; [`NO_OFFSET`] where there is no structure.
    pub structure_frame: u16,
    /// Offset in a frame of the pointer to its code object. The lowest three bits of the pointer mean something else.
    pub frame_code: u16,
    /// Offset in a frame of the pointer to the frame that called it.
    pub frame_previous: u16,
    /// Offset in a frame of where it is.
    pub frame_position: u16,
    /// What is there: one of [`position`].
    pub position: u16,
    /// Offset in a frame of the byte that says whether C code has entered it.
    pub frame_entry: u16,
    /// What that means: one of [`entry`].
    pub entry: u16,
    /// The byte's value for a frame that was entered from C, or that is the mark of such a place.
    pub entry_value: u16,
    /// Offset in a code object of [`GUARD_WORDS`] words that do not change while it lives.
    pub code_guard: u16,
    /// Bytes below a frame that its callers' frames are likely to be in; 0 where frames lie anywhere.
    pub frames_below: u16,
    /// Always 0.
    pub pad: u16,
}

impl Interpreter {
    /// Nothing is known.
    pub const NONE: Self = Self {
        state: 0,
        key: 0,
        current: 0,
        code_begin: 0,
        code_end: 0,
        arena_bytes: 0,
        keys: 0,
        key_stride: 0,
        keys_indirect: 0,
        thread_id: 0,
        thread_frame: 0,
        structure_frame: 0,
        frame_code: 0,
        frame_previous: 0,
        frame_position: 0,
        position: 0,
        frame_entry: 0,
        entry: 0,
        entry_value: 0,
        code_guard: 0,
        frames_below: 0,
        pad: 0,
    };

    /// [`Self::state`] for an image.
    pub const fn of_image(image: u16) -> u64 {
        image as u64 + 1
    }
}

/// An [`Interpreter`]'s offset that is none.
pub const NO_OFFSET: u16 = u16::MAX;

/// Words of a code object that tell it from another at its address, as far as they can.
pub const GUARD_WORDS: usize = 4;

/// How [`Interpreter::frame_position`] is read.
pub mod position {
    /// A 32-bit number (`f_lasti`).
    pub const NUMBER: u16 = 0;
    /// The address of an instruction, kept as its distance from the code object's address.
    pub const ADDRESS: u16 = 1;
}

/// How [`Interpreter::frame_entry`] is read.
pub mod entry {
    /// C code has entered every frame.
    pub const ALL: u16 = 0;
    /// Those with the value.
    pub const FLAG: u16 = 1;
    /// A frame with the value is none of Python's: it stands behind the one that C code has entered.
    pub const MARK: u16 = 2;
}

/// A Python frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct PythonFrame {
    /// Address of its code object, with [`PythonFrame::ENTRY`]; without an address it is only a mark.
    pub code: u64,
    /// Where it is ([`position`]); [`PythonFrame::NO_POSITION`] if that does not fit.
    pub position: u32,
    /// [`guard`] of the code object at that moment.
    pub guard: u32,
}

impl PythonFrame {
    /// Bit of `code`: the frame was entered from C. Of a mark: the frame before it was.
    pub const ENTRY: u64 = 1;

    /// An instruction that is not within reach of its code object.
    pub const NO_POSITION: u32 = u32::MAX;

    /// Address of the code object; 0 for a mark.
    pub const fn code_address(self) -> u64 {
        self.code & !7
    }

    /// Whether C code has entered the frame, or it is the mark that says so of the frame before it.
    pub const fn is_entry(self) -> bool {
        self.code & Self::ENTRY != 0
    }
}

/// What tells a code object from another that later has its address.
#[inline(always)]
pub const fn guard(words: [u64; GUARD_WORDS]) -> u32 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let [a, b, c, d] = words;
    let mut hash = (a ^ 0x51_7c_c1_b7_27_22_0a_95).wrapping_mul(FACTOR);
    hash = ((hash ^ (hash >> 29)) ^ b).wrapping_mul(FACTOR);
    hash = ((hash ^ (hash >> 29)) ^ c).wrapping_mul(FACTOR);
    hash = ((hash ^ (hash >> 29)) ^ d).wrapping_mul(FACTOR);
    (hash >> 32) as u32
}

/// Frames of a part of a stack: as many as fit the kernel allocator's size class of 2 KiB.
pub const PART_FRAMES: usize = 120;

/// A part of the Python frames of a stack, innermost first. Its key is a hash of all frames up to its end and of the
/// process, so the outermost part stands for the whole stack.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct PythonPart {
    /// Key of the part with the frames inside of these; 0 for none.
    pub inner: u64,
    /// How many of `frames` are set.
    pub len: u32,
    /// Always 0.
    pub pad: u32,
    /// Only the first `len` have meaning.
    pub frames: [PythonFrame; PART_FRAMES],
}

/// How the walk along Python frames ended: [`crate::stack::Stack::python_end`].
pub mod python_end {
    /// No interpreter is known in the process.
    pub const NO_INTERPRETER: u16 = 0;
    /// At the outermost frame.
    pub const COMPLETE: u16 = 1;
    /// The thread runs no Python code: it has no thread state, or that has no frames.
    pub const NO_FRAMES: u16 = 2;
    /// Memory of the interpreter could not be read.
    pub const UNREADABLE: u16 = 3;
    /// At the bound of frames.
    pub const TOO_DEEP: u16 = 4;
    /// The table of Python frames is full, or that of threads.
    pub const FULL: u16 = 5;
}

/// A part that is new in the table: its code objects are to be read while they live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct NewPart {
    /// Its key.
    pub part: u64,
    /// Whose it is.
    pub tgid: u32,
    /// See [`crate::key::Process::image`].
    pub image: u32,
}

/// Where the walk along Python frames is, kept with the thread: see [`crate::stack::Walk`].
#[derive(Clone, Copy)]
#[repr(C)]
pub struct PythonWalk {
    /// Address of the frame it is at.
    pub frame: u64,
    /// Hash of the frames so far, and of the process.
    pub hash: u64,
    /// How it ended: one of [`python_end`].
    pub end: u64,
    /// The pthread key of the thread state, plus 1; 0 as long as it is not known.
    pub key: u64,
    /// The image that `key` is of.
    pub image: u64,
    /// Address of the first byte of the window.
    pub window_base: u64,
    /// Bytes of the window that have been read.
    pub window_len: u64,
}

/// Bytes of interpreter frames that are read at once.
pub const PYTHON_WINDOW_WORDS: usize = 128;

/// Bytes of a frame that are looked at: up to 3.10 its position lies behind the frame's other members.
pub const PYTHON_FRAME_BYTES: usize = 112;

/// What the kernel side keeps per thread that runs Python.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct PythonThread {
    /// The walk under way.
    pub walk: PythonWalk,
    /// The part that is being filled.
    pub part: PythonPart,
    /// A stretch of the interpreter's memory.
    pub window: [u64; PYTHON_WINDOW_WORDS],
}

const _: () = assert!(size_of::<Interpreter>() == 80);
const _: () = assert!(size_of::<PythonFrame>() == 16);
const _: () =
    assert!(size_of::<PythonPart>() == 16 + 16 * PART_FRAMES && size_of::<PythonPart>() + 64 <= 2048);
const _: () = assert!(size_of::<PythonThread>() <= 4030);
const _: () = assert!(FRAMES_MAX < PYTHON_FRAMES_MAX as usize);
