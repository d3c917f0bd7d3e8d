//! A code object of CPython, read from outside: what it is called, where it is written, which line is where in it.
//!
//! It is read while its process runs, so it may be freed, and its memory used anew, at any time. What is taken for it
//! must be an object of type `code` whose guard ([`leaktrace_common::python::guard`]) is the one that the kernel side
//! saw, it must not look freed, and it must say the same after its strings were read as before. Freed memory keeps most
//! of what was in it, so without the look at the reference count a freed object would pass: pymalloc puts a link to
//! another block of its pool, or none, over the count (Objects/obmalloc.c, `pymalloc_free`), and glibc overwrites the
//! type too.
//!
//! Up to 3.10 a code object has no qualified name and the function object that has it is not known here: the name is
//! the bare one, which tracebacks show too.

use std::sync::Arc;

use leaktrace_common::python::{GUARD_WORDS, guard};

use super::{
    lines::{Form, LineTable},
    memory::Memory,
    offsets::Offsets,
    text::{self, Kind, LEN_MAX, TextError, Wanted},
};

/// Bytes of a line table that are read: what lies behind them has no line. A function of 10 000 lines has less.
const LINE_TABLE_BYTES_MAX: usize = 1 << 20;

/// Memory blocks of this size hold all of a pool, or several (`POOL_BITS` in Objects/obmalloc.c, `pycore_obmalloc.h`).
const POOL_BITS: u32 = 14;

/// What is known of a code object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Code {
    /// Its qualified name from 3.11 on, its name before.
    pub name: Arc<str>,
    /// Its file, as the interpreter names it.
    pub file: Arc<str>,
    /// Its first line, that of the first decorator.
    pub first_line: u32,
    lines: LineTable,
}

impl Code {
    /// Puts one together.
    pub fn new(name: &str, file: &str, first_line: u32, lines: LineTable) -> Self {
        Self {
            name: name.into(),
            file: file.into(),
            first_line,
            lines,
        }
    }

    /// The line at a frame's position ([`leaktrace_common::python::PythonFrame::position`]); `None` where there is none,
    /// or where the position is not in the code.
    pub fn line(&self, position: u32) -> Option<u32> {
        self.lines.line(position)
    }

    /// Whether it is none of a program's: what stands between a call of a class and its `__init__` from 3.12 on
    /// (`_Py_InitCleanup` in Python/specialize.c) has no first line, and its name for a file.
    pub fn is_trampoline(&self) -> bool {
        self.first_line == 0 && self.file == self.name
    }

    /// Bytes it takes, about.
    pub(super) fn len_bytes(&self) -> usize {
        size_of::<Self>() + self.name.len() + self.file.len() + self.lines.len_bytes()
    }
}

/// Why a code object was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// Its memory is not mapped any more, or its process has ended.
    #[error("its memory is gone")]
    Unmapped,
    /// What is there is no code object.
    #[error("it was freed and its memory used anew")]
    NoCode,
    /// It is there, but freed.
    #[error("it was freed")]
    Freed,
    /// Another code object is there.
    #[error("it was freed, and another has its address")]
    Replaced,
    /// One of its parts.
    #[error("a part of it could not be read: {0}")]
    Text(#[from] TextError),
}

/// A code object to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CodeId {
    /// Its address.
    pub address: u64,
    /// The guard it must have.
    pub guard: u32,
}

/// What code objects of a process have in common.
#[derive(Clone, Debug)]
pub struct Interpreted {
    /// Of its interpreter.
    pub offsets: Offsets,
    /// Address of `PyCode_Type`, if it is known; otherwise it is learned from the first code object.
    pub code_type: Option<u64>,
}

/// Reads code objects, all of them by five system calls. The result has one element for each, in order.
pub fn read_many(
    memory: &dyn Memory,
    interpreted: &mut Interpreted,
    wanted: &[CodeId],
) -> Vec<Result<Code, CodeError>> {
    let before = read_heads(memory, interpreted, wanted);
    let offsets = &interpreted.offsets;
    let texts: Vec<Wanted> = before.iter().flatten().flat_map(Head::texts).collect();
    let mut texts = text::read_many(memory, &offsets.text, &texts).into_iter();
    let codes: Vec<Result<Code, CodeError>> = before
        .iter()
        .map(|head| {
            let head = (*head)?;
            let mut next = || texts.next().unwrap_or(Err(TextError::NoText));
            let (name, file, table) = (next(), next(), next());
            let lines = LineTable::new(Form::of(offsets), head.first_line, table?.into_bytes());
            Ok(Code::new(
                &name?.into_string(),
                &file?.into_string(),
                head.first_line,
                lines,
            ))
        })
        .collect();
    let after = read_heads(memory, interpreted, wanted);
    codes
        .into_iter()
        .zip(before.iter().zip(after))
        .map(|(code, (before, after))| {
            // What is wrong with it now says more than what was wrong with its strings.
            if *before.as_ref().map_err(|&error| error)? == after? {
                code
            } else {
                Err(CodeError::Replaced)
            }
        })
        .collect()
}

/// Reads one.
///
/// # Errors
/// [`CodeError`].
pub fn read(memory: &dyn Memory, interpreted: &mut Interpreted, wanted: CodeId) -> Result<Code, CodeError> {
    let mut read = read_many(memory, interpreted, &[wanted]);
    read.pop().unwrap_or(Err(CodeError::Unmapped))
}

/// What is kept of the object's own bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    type_address: u64,
    name: u64,
    file: u64,
    table: u64,
    first_line: u32,
}

impl Head {
    /// Its name, its file and its line table.
    fn texts(&self) -> [Wanted; 3] {
        let text = |address, kind, len_max| Wanted {
            address,
            kind,
            len_max,
        };
        [
            text(self.name, Kind::Str, LEN_MAX),
            text(self.file, Kind::Str, LEN_MAX),
            text(self.table, Kind::Bytes, LINE_TABLE_BYTES_MAX),
        ]
    }
}

fn read_heads(
    memory: &dyn Memory,
    interpreted: &mut Interpreted,
    wanted: &[CodeId],
) -> Vec<Result<Head, CodeError>> {
    let mut heads = vec![vec![0; head_bytes(&interpreted.offsets)]; wanted.len()];
    let read = text::read_all(
        memory,
        wanted.iter().map(|wanted| wanted.address),
        heads.iter_mut(),
    );
    wanted
        .iter()
        .zip(heads.iter().zip(read))
        .map(|(wanted, (bytes, read))| {
            if !read {
                return Err(CodeError::Unmapped);
            }
            let head = head(&interpreted.offsets, *wanted, bytes)?;
            check_type(memory, interpreted, head.type_address)?;
            Ok(head)
        })
        .collect()
}

/// Bytes of a code object to read: up to the last that is looked at.
fn head_bytes(offsets: &Offsets) -> usize {
    let code = &offsets.code;
    let guard_end = usize::from(code.guard) + 8 * GUARD_WORDS;
    guard_end.max(code.size.into())
}

fn head(offsets: &Offsets, wanted: CodeId, bytes: &[u8]) -> Result<Head, CodeError> {
    let code = &offsets.code;
    // All of them lie within the bytes that were read.
    let word = |offset: u16| word(bytes, offset).ok_or(CodeError::NoCode);
    let mut words = [0; GUARD_WORDS];
    for (index, into) in words.iter_mut().enumerate() {
        *into = word(code.guard + 8 * index as u16)?;
    }
    if guard(words) != wanted.guard {
        return Err(CodeError::Replaced);
    }
    if !offsets.free_threaded && looks_freed(wanted.address, word(0)?) {
        return Err(CodeError::Freed);
    }
    Ok(Head {
        type_address: word(offsets.types.object_type)?,
        name: word(code.qualname.unwrap_or(code.name))?,
        file: word(code.filename)?,
        table: word(code.line_table)?,
        first_line: word(code.first_line)? as u32,
    })
}

/// Whether the word at the start of a block is a link to a free one, and no reference count.
const fn looks_freed(address: u64, first_word: u64) -> bool {
    first_word == 0 || first_word >> POOL_BITS == address >> POOL_BITS
}

/// Whether that is the type of code objects. The first that is called so is believed.
fn check_type(
    memory: &dyn Memory,
    interpreted: &mut Interpreted,
    type_address: u64,
) -> Result<(), CodeError> {
    const NAME: &[u8] = b"code";
    if interpreted.code_type.is_none() {
        let name_at = type_address.wrapping_add(interpreted.offsets.types.name.into());
        let name = memory
            .u64(name_at)
            .and_then(|name| memory.c_string(name, NAME.len() + 1));
        if name.is_ok_and(|name| name == NAME) {
            interpreted.code_type = Some(type_address);
        }
    }
    if interpreted.code_type == Some(type_address) {
        Ok(())
    } else {
        Err(CodeError::NoCode)
    }
}

fn word(bytes: &[u8], offset: u16) -> Option<u64> {
    let word = bytes.get(usize::from(offset)..)?.first_chunk()?;
    Some(u64::from_le_bytes(*word))
}

#[cfg(test)]
#[path = "code_tests.rs"]
pub(super) mod tests;
