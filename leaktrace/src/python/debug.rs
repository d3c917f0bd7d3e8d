//! What CPython says of itself from 3.13 on: `struct _Py_DebugOffsets` at the start of `_PyRuntime`, in the file as in
//! memory (`Include/internal/pycore_runtime.h` in 3.13, `pycore_debug_offsets.h` in 3.14). It is not the same in the two.
//! Must not know files or processes.

use super::version::Version;

/// Bytes to read for [`DebugOffsets::read`].
pub const DEBUG_BYTES: usize = 1024;

/// What it begins with.
const COOKIE: &[u8; 8] = b"xdebugpy";

/// Where each structure's words begin in it, counted in words.
struct Places {
    runtime: usize,
    interpreter: usize,
    /// In the interpreter's words, that of `gc`.
    gc: usize,
    thread: usize,
    frame: usize,
    code: usize,
    object: usize,
    types: usize,
    bytes: usize,
    unicode: usize,
}

const PLACES_3_13: Places = Places {
    runtime: 3,
    interpreter: 6,
    gc: 4,
    thread: 19,
    frame: 28,
    code: 34,
    object: 44,
    types: 46,
    bytes: 64,
    unicode: 67,
};

/// There are more words of the interpreter (3), of frames (2), of code objects (1), and those of sets (4).
const PLACES_3_14: Places = Places {
    runtime: 3,
    interpreter: 6,
    gc: 5,
    thread: 22,
    frame: 31,
    code: 39,
    object: 50,
    types: 52,
    bytes: 74,
    unicode: 77,
};

/// Offsets in bytes, as [`super::offsets::Offsets`] names them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is explained by the offset it becomes")]
pub struct DebugOffsets {
    pub free_threaded: bool,
    pub runtime_interpreters: u32,
    pub runtime_finalizing: u32,
    pub interpreter_id: u32,
    pub interpreter_next: u32,
    pub interpreter_threads: u32,
    pub interpreter_gc: u32,
    pub interpreter_modules: u32,
    pub thread_next: u16,
    pub thread_interpreter: u16,
    pub thread_frame: u16,
    pub thread_id: u16,
    pub frame_previous: u16,
    pub frame_code: u16,
    pub frame_position: u16,
    pub frame_owner: u16,
    pub code_filename: u16,
    pub code_name: u16,
    pub code_qualname: u16,
    pub code_line_table: u16,
    pub code_first_line: u16,
    pub code_bytecode: u16,
    pub object_bytes: u16,
    pub object_type: u16,
    pub type_name: u16,
    pub type_flags: u16,
    pub bytes_length: u16,
    pub bytes: u16,
    pub str_state: u16,
    pub str_length: u16,
    pub str_ascii: u16,
}

impl DebugOffsets {
    /// The version that they say, if there are any.
    pub fn version(data: &[u8]) -> Option<Version> {
        data.starts_with(COOKIE).then_some(())?;
        Some(Version::of_hex(u32::try_from(word(data, 1)?).ok()?))
    }

    /// Reads them; `None` where there are none, or those of a version whose layout is not known.
    pub fn read(data: &[u8]) -> Option<Self> {
        let version = Self::version(data)?;
        let places = match (version.major, version.minor) {
            (3, 13) => PLACES_3_13,
            (3, 14) => PLACES_3_14,
            _ => return None,
        };
        let small = |place: usize| u16::try_from(word(data, place)?).ok();
        let large = |place: usize| u32::try_from(word(data, place)?).ok();
        let (interpreter, gc) = (places.interpreter, places.interpreter + places.gc);
        let read = Self {
            free_threaded: word(data, 2)? != 0,
            runtime_finalizing: large(places.runtime + 1)?,
            runtime_interpreters: large(places.runtime + 2)?,
            interpreter_id: large(interpreter + 1)?,
            interpreter_next: large(interpreter + 2)?,
            interpreter_threads: large(interpreter + 3)?,
            interpreter_gc: large(gc)?,
            interpreter_modules: large(gc + 1)?,
            thread_next: small(places.thread + 2)?,
            thread_interpreter: small(places.thread + 3)?,
            thread_frame: small(places.thread + 4)?,
            thread_id: small(places.thread + 5)?,
            frame_previous: small(places.frame + 1)?,
            frame_code: small(places.frame + 2)?,
            frame_position: small(places.frame + 3)?,
            frame_owner: small(places.frame + 5)?,
            code_filename: small(places.code + 1)?,
            code_name: small(places.code + 2)?,
            code_qualname: small(places.code + 3)?,
            code_line_table: small(places.code + 4)?,
            code_first_line: small(places.code + 5)?,
            code_bytecode: small(places.code + 9)?,
            object_bytes: small(places.object)?,
            object_type: small(places.object + 1)?,
            type_name: small(places.types + 1)?,
            type_flags: small(places.types + 3)?,
            bytes_length: small(places.bytes + 1)?,
            bytes: small(places.bytes + 2)?,
            str_state: small(places.unicode + 1)?,
            str_length: small(places.unicode + 2)?,
            str_ascii: small(places.unicode + 3)?,
        };
        read.is_sound().then_some(read)
    }

    /// Whether the numbers can be what they are said to be: a layout that is not the one that was meant shows here.
    const fn is_sound(&self) -> bool {
        let head = self.object_bytes;
        (head == 16 || head == 32)
            && self.object_type + 8 == head
            && self.bytes_length == head
            && self.bytes == head + 16
            && self.str_length == head
            && self.str_state == head + 16
            && self.str_ascii == head + 24
            && self.type_name == head + 8
            && self.code_first_line > head
            && self.code_filename > self.code_first_line
            && self.code_bytecode > self.code_line_table
            && self.code_bytecode < 1024
            && self.frame_position < 128
            && self.frame_owner < 128
            && self.thread_id < 4096
            && self.thread_frame < 4096
    }
}

fn word(data: &[u8], place: usize) -> Option<u64> {
    let word = data.get(8 * place..)?.first_chunk()?;
    Some(u64::from_le_bytes(*word))
}
