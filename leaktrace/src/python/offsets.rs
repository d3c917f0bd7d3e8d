//! Where CPython keeps what is read from outside, by version. Pure numbers: must not know files or processes.
//!
//! [`Offsets::of_version`] has those of default builds for x86-64, from the headers of each version (Include/cpython and
//! Include/internal, which a test compiles where they are installed). From 3.13 on the interpreter itself says most of
//! them: [`Offsets::with_debug`] takes them from there, which also serves builds without the global lock.

use leaktrace_common::python::{Interpreter, NO_OFFSET, entry, position};

use super::{debug::DebugOffsets, version::Version};

/// Bytes of an object's head in default builds.
const HEAD_BYTES: u16 = 16;

/// Everything that depends on the version. Offsets and sizes are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// The version.
    pub version: Version,
    /// A build without the global lock: bytecode is per thread, and objects are not in the collector's lists.
    pub free_threaded: bool,
    /// Of code objects.
    pub code: CodeOffsets,
    /// Of `str` and `bytes`.
    pub text: TextOffsets,
    /// Of frames.
    pub frame: FrameOffsets,
    /// Of thread states.
    pub thread: ThreadOffsets,
    /// Of interpreter states.
    pub interpreter: InterpreterOffsets,
    /// Of `_PyRuntime`.
    pub runtime: RuntimeOffsets,
    /// Of the cyclic collector's state; `None` where its lists hold no objects.
    pub gc: Option<GcOffsets>,
    /// Of objects and their types.
    pub types: TypeOffsets,
    /// Of the object allocator, where its state is part of the interpreter's.
    pub pools: Option<PoolOffsets>,
}

/// Of a code object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeOffsets {
    /// Pointer to the name, a `str`.
    pub name: u16,
    /// Pointer to the qualified name, from 3.11 on.
    pub qualname: Option<u16>,
    /// Pointer to the file's name.
    pub filename: u16,
    /// 32-bit number of the first line.
    pub first_line: u16,
    /// Pointer to the line table, a `bytes`.
    pub line_table: u16,
    /// First instruction (`co_code_adaptive`); 0 where positions are no addresses.
    pub bytecode: u16,
    /// The words that do not change while it lives.
    pub guard: u16,
    /// Bytes that hold all of these, up to the first instruction.
    pub size: u16,
}

/// Of `str` and `bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextOffsets {
    /// Characters of a `str`, 64 bits.
    pub length: u16,
    /// Its state, 32 bits: see `kind_shift`.
    pub state: u16,
    /// Bit of the state from which on are: bytes a character (3 bits: 1, 2 or 4), whether it is compact (1 bit), whether
    /// it is ASCII (1 bit).
    pub kind_shift: u16,
    /// First character of a compact ASCII one.
    pub ascii: u16,
    /// First character of another compact one.
    pub compact: u16,
    /// Pointer to the characters of one that is not compact.
    pub data: u16,
    /// Bytes of a `bytes`, 64 bits.
    pub bytes_length: u16,
    /// Its first byte.
    pub bytes: u16,
}

/// Of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameOffsets {
    /// Pointer to its code object; the lowest three bits mean something else.
    pub code: u16,
    /// Pointer to the frame that called it.
    pub previous: u16,
    /// Where it is.
    pub position: u16,
    /// How to read that: one of [`position`].
    pub position_kind: u16,
    /// A byte that says whether C code entered it.
    pub entry: u16,
    /// How to read that: one of [`entry`].
    pub entry_kind: u16,
    /// The byte's value where it did.
    pub entry_value: u16,
    /// Bytes below a frame within which its callers' are likely to be; 0 where frames are objects of their own.
    pub below: u16,
}

/// Of a thread state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadOffsets {
    /// Pointer to the next one of the interpreter.
    pub next: u16,
    /// Pointer to its interpreter state.
    pub interpreter: u16,
    /// Its thread id: what `pthread_self` returns.
    pub id: u16,
    /// Pointer to the innermost frame, or to the structure that has it.
    pub frame: u16,
    /// In that structure, the pointer to the frame.
    pub structure_frame: Option<u16>,
}

/// Of an interpreter state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterpreterOffsets {
    /// Pointer to the next one.
    pub next: u32,
    /// Its 64-bit number; 0 is the main one's.
    pub id: u32,
    /// Pointer to the first thread state.
    pub threads: u32,
    /// The collector's state itself; `None` in 3.8, where it is the runtime's.
    pub gc: Option<u32>,
    /// Pointer to the dictionary of modules.
    pub modules: u32,
}

/// Of `_PyRuntime`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuntimeOffsets {
    /// Pointer to the first interpreter state.
    pub interpreters: u32,
    /// 32-bit word, not 0 once the interpreter is ready.
    pub initialized: u32,
    /// Pointer that is set once it ends.
    pub finalizing: u32,
    /// The key of the thread state (`autoTSSkey`): two 32-bit words.
    pub key: u32,
    /// Pointer to the thread state that holds the lock, up to 3.11.
    pub current: Option<u32>,
    /// The collector's state itself, in 3.8.
    pub gc: Option<u32>,
}

/// Of the cyclic collector's state. A list begins with a head of two pointers, next and previous, whose lowest two bits
/// mean something else; each object in it lies behind such a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GcOffsets {
    /// Head of the first generation's list.
    pub generations: u16,
    /// From one generation's head to the next.
    pub generation_stride: u16,
    /// How many there are.
    pub generation_count: u16,
    /// Head of the list of objects that are never looked at (`gc.freeze`).
    pub permanent: u16,
    /// 32-bit word, not 0 while the collector runs.
    pub collecting: u16,
    /// Bytes of a head: from there to its object.
    pub head_bytes: u16,
}

/// Of objects, and of types, which are objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeOffsets {
    /// In an object, the pointer to its type.
    pub object_type: u16,
    /// In an object that has a number of items, that number, 64 bits.
    pub items: u16,
    /// Pointer to the name, a C string.
    pub name: u16,
    /// Bytes of an object without items, 64 bits.
    pub basic_bytes: u16,
    /// Bytes of an item, 64 bits.
    pub item_bytes: u16,
    /// `tp_flags`, 64 bits.
    pub flags: u16,
    /// Pointer to the base type.
    pub base: u16,
    /// Pointer to the type's dictionary.
    pub dict: u16,
    /// Where its objects have the pointer to their dictionary, 64 bits, signed (`tp_dictoffset`).
    pub dict_offset: u16,
    /// In a type made by a `class` statement (flag 1 << 9): pointer to its name, a `str`.
    pub heap_name: u16,
    /// There: pointer to its qualified name.
    pub heap_qualname: u16,
    /// Pointer to the first item of a `list`.
    pub list_items: u16,
    /// Items that a `list` has room for, 64 bits.
    pub list_allocated: u16,
    /// First item of a `tuple`, a pointer.
    pub tuple_items: u16,
    /// Items of a `dict`, 64 bits.
    pub dict_used: u16,
    /// Pointer to the keys of a `dict`.
    pub dict_keys: u16,
    /// Pointer to its values, or none.
    pub dict_values: u16,
    /// Items of a `set`, 64 bits.
    pub set_used: u16,
    /// Slots of a `set`, less 1, 64 bits.
    pub set_mask: u16,
}

/// Of the object allocator's state from 3.12 on. Before that it is in variables of their own, `arenas` and `maxarenas`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolOffsets {
    /// In an interpreter state: the allocator's.
    pub state: u32,
    /// Whether there is but a pointer to it.
    pub indirect: bool,
    /// Pointer to the array of arenas.
    pub arenas: u16,
    /// Elements of the array, 32 bits.
    pub arena_count: u16,
    /// Bytes of an element. The arena's address is its first word, 0 for none.
    pub arena_stride: u16,
}

impl Offsets {
    /// Those of a default build of a version; `None` if they are not known.
    pub const fn of_version(version: Version) -> Option<Self> {
        let mut offsets = match (version.major, version.minor) {
            (3, 8) => V3_8,
            (3, 9) => V3_9,
            (3, 10) => V3_10,
            (3, 11) => V3_11,
            (3, 12) => V3_12,
            (3, 13) => V3_13,
            (3, 14) => V3_14,
            _ => return None,
        };
        offsets.version = version;
        Some(offsets)
    }

    /// The same with what the interpreter says of itself.
    #[must_use]
    pub fn with_debug(self, debug: &DebugOffsets) -> Self {
        let mut offsets = self.with_head(debug.object_bytes);
        offsets.free_threaded = debug.free_threaded;
        if debug.free_threaded {
            offsets.gc = None;
            offsets.pools = None;
            // `interned` is a byte of its own from 3.14 on.
            if self.version.minor >= 14 {
                offsets.text.kind_shift = 8;
            }
        }
        offsets.code = CodeOffsets {
            name: debug.code_name,
            qualname: Some(debug.code_qualname),
            filename: debug.code_filename,
            first_line: debug.code_first_line,
            line_table: debug.code_line_table,
            bytecode: debug.code_bytecode,
            // co_stacksize comes before co_firstlineno.
            guard: debug.code_first_line - 4,
            size: debug.code_bytecode,
        };
        offsets.text.length = debug.str_length;
        offsets.text.state = debug.str_state;
        offsets.text.ascii = debug.str_ascii;
        offsets.text.compact = debug.str_ascii + 16;
        offsets.text.data = debug.str_ascii + 16;
        offsets.text.bytes_length = debug.bytes_length;
        offsets.text.bytes = debug.bytes;
        offsets.frame.code = debug.frame_code;
        offsets.frame.previous = debug.frame_previous;
        offsets.frame.position = debug.frame_position;
        offsets.frame.entry = debug.frame_owner;
        offsets.thread.next = debug.thread_next;
        offsets.thread.interpreter = debug.thread_interpreter;
        offsets.thread.id = debug.thread_id;
        offsets.thread.frame = debug.thread_frame;
        offsets.interpreter.next = debug.interpreter_next;
        offsets.interpreter.id = debug.interpreter_id;
        offsets.interpreter.threads = debug.interpreter_threads;
        offsets.interpreter.gc = Some(debug.interpreter_gc);
        offsets.interpreter.modules = debug.interpreter_modules;
        offsets.runtime.interpreters = debug.runtime_interpreters;
        offsets.runtime.finalizing = debug.runtime_finalizing;
        offsets.types.object_type = debug.object_type;
        offsets.types.name = debug.type_name;
        offsets.types.flags = debug.type_flags;
        offsets
    }

    /// With another size of an object's head, behind which everything moves.
    fn with_head(mut self, head_bytes: u16) -> Self {
        let more = head_bytes.saturating_sub(HEAD_BYTES);
        let types = &mut self.types;
        for offset in [
            &mut types.items,
            &mut types.name,
            &mut types.basic_bytes,
            &mut types.item_bytes,
            &mut types.flags,
            &mut types.base,
            &mut types.dict,
            &mut types.dict_offset,
            &mut types.heap_name,
            &mut types.heap_qualname,
            &mut types.list_items,
            &mut types.list_allocated,
            &mut types.tuple_items,
            &mut types.dict_used,
            &mut types.dict_keys,
            &mut types.dict_values,
            &mut types.set_used,
            &mut types.set_mask,
        ] {
            *offset += more;
        }
        self
    }

    /// Bytes of an arena of the object allocator (`ARENA_BITS` in Objects/obmalloc.c, later `pycore_obmalloc.h`); 0 where
    /// it has none.
    pub const fn arena_bytes(&self) -> u64 {
        match self.version.minor {
            _ if self.free_threaded => 0,
            ..10 => 256 << 10,
            _ => 1 << 20,
        }
    }

    /// Bytes of a pool (`POOL_BITS` there).
    pub const fn pool_bytes(&self) -> u64 {
        match self.version.minor {
            ..10 => 4 << 10,
            _ => 16 << 10,
        }
    }

    /// What the kernel side needs of it.
    pub fn put_into(&self, interpreter: &mut Interpreter) {
        interpreter.thread_id = self.thread.id;
        interpreter.thread_frame = self.thread.frame;
        interpreter.structure_frame = self.thread.structure_frame.unwrap_or(NO_OFFSET);
        interpreter.frame_code = self.frame.code;
        interpreter.frame_previous = self.frame.previous;
        interpreter.frame_position = self.frame.position;
        interpreter.position = self.frame.position_kind;
        interpreter.frame_entry = self.frame.entry;
        interpreter.entry = self.frame.entry_kind;
        interpreter.entry_value = self.frame.entry_value;
        interpreter.frames_below = self.frame.below;
        interpreter.code_guard = self.code.guard;
        interpreter.arena_bytes = self.arena_bytes();
    }
}

const fn version(minor: u8) -> Version {
    Version {
        major: 3,
        minor,
        micro: 0,
    }
}

/// Frames of 3.11 and later lie one after the other in chunks of 16 KiB (`_PyThreadState_PushFrame`), inner ones above.
const BELOW: u16 = 1024;

const TYPES_3_8: TypeOffsets = TypeOffsets {
    object_type: 8,
    items: 16,
    name: 24,
    basic_bytes: 32,
    item_bytes: 40,
    flags: 168,
    base: 256,
    dict: 264,
    dict_offset: 288,
    heap_name: 848,
    heap_qualname: 864,
    list_items: 24,
    list_allocated: 32,
    tuple_items: 24,
    dict_used: 16,
    dict_keys: 32,
    dict_values: 40,
    set_used: 24,
    set_mask: 32,
};

const GC_3_8: GcOffsets = GcOffsets {
    generations: 24,
    generation_stride: 24,
    generation_count: 3,
    permanent: 104,
    collecting: 200,
    head_bytes: 16,
};

const V3_8: Offsets = Offsets {
    version: version(8),
    free_threaded: false,
    code: CodeOffsets {
        name: 112,
        qualname: None,
        filename: 104,
        first_line: 40,
        line_table: 120,
        bytecode: 0,
        // co_stacksize, co_flags, co_firstlineno, and the pointers co_code and co_consts.
        guard: 32,
        size: 128,
    },
    text: TextOffsets {
        length: 16,
        state: 32,
        kind_shift: 2,
        ascii: 48,
        compact: 72,
        data: 72,
        bytes_length: 16,
        bytes: 32,
    },
    frame: FrameOffsets {
        code: 32,
        previous: 24,
        position: 104,
        position_kind: position::NUMBER,
        entry: 0,
        entry_kind: entry::ALL,
        entry_value: 0,
        below: 0,
    },
    thread: ThreadOffsets {
        next: 8,
        interpreter: 16,
        id: 176,
        frame: 24,
        structure_frame: None,
    },
    interpreter: InterpreterOffsets {
        next: 0,
        id: 16,
        threads: 8,
        gc: None,
        modules: 56,
    },
    runtime: RuntimeOffsets {
        interpreters: 32,
        initialized: 12,
        finalizing: 16,
        key: 1392,
        current: Some(1368),
        gc: Some(344),
    },
    gc: Some(GC_3_8),
    types: TYPES_3_8,
    pools: None,
};

const V3_9: Offsets = Offsets {
    version: version(9),
    interpreter: InterpreterOffsets {
        next: 0,
        id: 24,
        threads: 8,
        gc: Some(616),
        modules: 856,
    },
    runtime: RuntimeOffsets {
        interpreters: 32,
        initialized: 12,
        finalizing: 16,
        key: 584,
        current: Some(568),
        gc: None,
    },
    types: TypeOffsets {
        heap_name: 840,
        heap_qualname: 856,
        ..TYPES_3_8
    },
    ..V3_8
};

const V3_10: Offsets = Offsets {
    version: version(10),
    frame: FrameOffsets {
        position: 96,
        ..V3_8.frame
    },
    types: TYPES_3_8,
    ..V3_9
};

const V3_11: Offsets = Offsets {
    version: version(11),
    code: CodeOffsets {
        name: 120,
        qualname: Some(128),
        filename: 112,
        first_line: 72,
        line_table: 136,
        bytecode: 184,
        // co_firstlineno to co_nfreevars and the pointer co_localsplusnames. co_warmup counts.
        guard: 72,
        size: 184,
    },
    frame: FrameOffsets {
        code: 32,
        previous: 48,
        position: 56,
        position_kind: position::ADDRESS,
        entry: 68,
        entry_kind: entry::FLAG,
        entry_value: 1,
        below: BELOW,
    },
    thread: ThreadOffsets {
        next: 8,
        interpreter: 16,
        id: 152,
        frame: 56,
        structure_frame: Some(8),
    },
    interpreter: InterpreterOffsets {
        next: 0,
        id: 48,
        threads: 16,
        gc: Some(648),
        modules: 888,
    },
    runtime: RuntimeOffsets {
        interpreters: 40,
        initialized: 16,
        finalizing: 24,
        key: 592,
        current: Some(576),
        gc: None,
    },
    ..V3_10
};

const V3_12: Offsets = Offsets {
    version: version(12),
    code: CodeOffsets {
        first_line: 68,
        bytecode: 192,
        // co_stacksize, co_firstlineno to co_version.
        guard: 64,
        size: 192,
        ..V3_11.code
    },
    text: TextOffsets {
        ascii: 40,
        compact: 56,
        data: 56,
        ..V3_8.text
    },
    frame: FrameOffsets {
        code: 0,
        previous: 8,
        position: 56,
        position_kind: position::ADDRESS,
        entry: 70,
        entry_kind: entry::MARK,
        entry_value: OWNED_BY_C_STACK,
        below: BELOW,
    },
    thread: ThreadOffsets {
        next: 8,
        interpreter: 16,
        id: 136,
        frame: 56,
        structure_frame: Some(0),
    },
    interpreter: InterpreterOffsets {
        next: 0,
        id: 8,
        threads: 72,
        gc: Some(112),
        modules: 944,
    },
    runtime: RuntimeOffsets {
        interpreters: 40,
        initialized: 16,
        finalizing: 24,
        key: 1544,
        current: None,
        gc: None,
    },
    types: TypeOffsets {
        heap_name: 856,
        heap_qualname: 872,
        ..TYPES_3_8
    },
    pools: Some(PoolOffsets {
        state: 3960,
        indirect: false,
        arenas: 512,
        arena_count: 520,
        arena_stride: 48,
    }),
    ..V3_11
};

/// `FRAME_OWNED_BY_CSTACK` of `enum _frameowner`, `FRAME_OWNED_BY_INTERPRETER` in 3.14.
const OWNED_BY_C_STACK: u16 = 3;

const V3_13: Offsets = Offsets {
    version: version(13),
    code: CodeOffsets {
        bytecode: 200,
        size: 200,
        ..V3_12.code
    },
    thread: ThreadOffsets {
        next: 8,
        interpreter: 16,
        id: 152,
        frame: 72,
        structure_frame: None,
    },
    interpreter: InterpreterOffsets {
        next: 7264,
        id: 7272,
        threads: 7344,
        gc: Some(7400),
        modules: 7656,
    },
    runtime: RuntimeOffsets {
        interpreters: 632,
        initialized: 600,
        finalizing: 608,
        key: 2160,
        current: None,
        gc: None,
    },
    pools: Some(PoolOffsets {
        state: 10800,
        indirect: true,
        arenas: 512,
        arena_count: 520,
        arena_stride: 48,
    }),
    ..V3_12
};

const V3_14: Offsets = Offsets {
    version: version(14),
    code: CodeOffsets {
        bytecode: 208,
        size: 208,
        ..V3_13.code
    },
    frame: FrameOffsets {
        entry: 74,
        ..V3_13.frame
    },
    interpreter: InterpreterOffsets {
        next: 7272,
        id: 7280,
        threads: 7344,
        gc: Some(7408),
        modules: 7664,
    },
    runtime: RuntimeOffsets {
        interpreters: 808,
        initialized: 776,
        finalizing: 784,
        key: 2336,
        current: None,
        gc: None,
    },
    // The pointer to the first generation is gone.
    gc: Some(GcOffsets {
        permanent: 96,
        collecting: 192,
        ..GC_3_8
    }),
    pools: Some(PoolOffsets {
        state: 10872,
        indirect: true,
        arenas: 512,
        arena_count: 520,
        arena_stride: 48,
    }),
    ..V3_13
};
