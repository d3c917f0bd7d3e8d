//! Whether a file has a Python interpreter in it, which one, and where in it everything is. Must not know processes.

#[cfg(test)]
use std::fs::File;
use std::{ops::Range, path::Path, sync::Arc};

use object::ReadRef;

use super::{
    debug::{DEBUG_BYTES, DebugOffsets},
    evaluator,
    keys::{self, KeySlots},
    offsets::Offsets,
    version::Version,
};
use crate::probe::image::{Image, Segment};

/// Bytes of `_PyRuntime` where the file does not say: what is read of it lies within.
const RUNTIME_BYTES: u64 = 4096;

/// The variable that everything is found from.
const RUNTIME: &[u8] = b"_PyRuntime";

/// What a file has to do with Python.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The interpreter in it.
    pub interpreter: Option<Interpreter>,
    /// How its C library keeps what threads have under their keys, if it is one.
    pub keys: Option<KeySlots>,
}

impl Facts {
    /// The CPython in it.
    pub const fn runtime(&self) -> Option<&Arc<Runtime>> {
        match &self.interpreter {
            Some(Interpreter::CPython(runtime)) => Some(runtime),
            Some(Interpreter::Other(_)) | None => None,
        }
    }

    /// Bytes of an arena of its object allocator; 0 where it has none, or nothing is known of it.
    pub fn arena_bytes(&self) -> u64 {
        let offsets = self.runtime().and_then(|runtime| runtime.offsets);
        offsets.map_or(0, |offsets| offsets.arena_bytes())
    }
}

/// An interpreter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interpreter {
    /// The one that can be followed, if its version is known.
    CPython(Arc<Runtime>),
    /// Another one, by its name: its stacks stay native.
    Other(&'static str),
}

/// CPython in a file. Addresses are the file's own (ELF virtual addresses).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtime {
    /// Its version, if there is any trace of it.
    pub version: Option<Version>,
    /// Where everything is; `None` for a version that is not known.
    pub offsets: Option<Offsets>,
    /// `_PyRuntime`.
    pub address: u64,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// All code of the file.
    pub code: Range<u64>,
    /// The code that runs Python's: `_PyEval_EvalFrameDefault` with the parts of it that lie elsewhere, in order of
    /// address, none overlapping.
    pub evaluator: Vec<Range<u64>>,
    /// Executable segments: the way from a mapping to the addresses.
    segments: Vec<Segment>,
}

impl Runtime {
    /// What to add to its addresses in a process that maps the file's bytes from `file_offset` on, code among them,
    /// at `start`; modulo 2^64. Segments are mapped by whole pages.
    pub fn bias(&self, start: u64, file_offset: u64) -> Option<u64> {
        const PAGE_MASK: u64 = 0xfff;
        let segment = self.segments.iter().find(|segment| {
            let end = segment.offset.saturating_add(segment.size_bytes);
            (segment.offset & !PAGE_MASK..end).contains(&file_offset)
        })?;
        let file_to_address = segment.address.wrapping_sub(segment.offset);
        Some(start.wrapping_sub(file_offset).wrapping_sub(file_to_address))
    }

    /// Whether an address of the file is in the code that runs Python's.
    pub fn evaluates(&self, address: u64) -> bool {
        let after = self.evaluator.partition_point(|part| part.start <= address);
        after > 0 && self.evaluator[after - 1].contains(&address)
    }

    /// Why nothing of it can be followed, if so.
    pub fn why_not(&self) -> Option<String> {
        match (self.offsets, self.version) {
            (Some(_), _) => None,
            (None, Some(version)) => Some(format!("CPython {version} is not known; 3.8 to 3.14 are")),
            (None, None) => Some("nothing in the file says which version of CPython it is".to_owned()),
        }
    }
}

/// Looks at an open file.
#[cfg(test)]
pub(super) fn of_file(file: File, path: &Path) -> object::Result<Facts> {
    let cache = object::ReadCache::new(file);
    of_image(&Image::open(&cache)?, path)
}

/// The same of a file's bytes.
#[cfg(test)]
fn of_bytes(data: &[u8], path: &Path) -> object::Result<Facts> {
    of_image(&Image::open(data)?, path)
}

/// Looks at a file; reads only what it needs. `path` is what its processes call it.
///
/// # Errors
/// What is wrong with the file.
pub(crate) fn of_image<'d, R: ReadRef<'d>>(image: &Image<'d, R>, path: &Path) -> object::Result<Facts> {
    let names = Names {
        soname: image.soname(),
        file: path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
    };
    let interpreter = match names.other() {
        Some(other) => Some(Interpreter::Other(other)),
        None => runtime(image, &names)?.map(|runtime| Interpreter::CPython(Arc::new(runtime))),
    };
    Ok(Facts {
        interpreter,
        keys: keys::of_image(image, names.soname.as_deref()),
    })
}

/// What a file is called.
struct Names {
    soname: Option<String>,
    file: String,
}

impl Names {
    fn iter(&self) -> impl Iterator<Item = &str> {
        self.soname.as_deref().into_iter().chain([self.file.as_str()])
    }

    /// Interpreters that have no `_PyRuntime`, or one that means something else.
    fn other(&self) -> Option<&'static str> {
        let is = |part: &str| self.iter().any(|name| name.contains(part));
        if is("libpypy") {
            Some("PyPy")
        } else if is("libpythonvm") || is("libgraalpy") || is("graalpy") {
            Some("GraalPy")
        } else {
            None
        }
    }
}

fn runtime<'d, R: ReadRef<'d>>(image: &Image<'d, R>, names: &Names) -> object::Result<Option<Runtime>> {
    // From 3.11 on it has a section of its own, so that debuggers find it in stripped files.
    let section = || {
        let extent = image.section_extent(".PyRuntime")?;
        Some((extent.start, extent.end - extent.start))
    };
    // A program that has it for itself alone is no place for extension modules; of those that do without them, only
    // the ones that are called so are worth the reading of all their symbols.
    let local = || {
        names
            .iter()
            .any(|name| name.contains("python"))
            .then(|| image.symbol(RUNTIME))?
    };
    let found = image
        .sized_dynamic_symbol(RUNTIME)
        .or_else(section)
        .or_else(local);
    let Some((address, size_bytes)) = found else {
        return Ok(None);
    };
    let debug = image.bytes(address, DEBUG_BYTES as u64).unwrap_or_default();
    let version = version(image, debug, names);
    let segments: Vec<Segment> = image
        .segments()
        .iter()
        .filter(|segment| segment.executable)
        .copied()
        .collect();
    let starts = segments.iter().map(|segment| segment.address).min();
    let ends = segments
        .iter()
        .map(|segment| segment.address.saturating_add(segment.size_bytes));
    Ok(Some(Runtime {
        version,
        offsets: version.and_then(|version| offsets(version, debug)),
        address,
        size_bytes: if size_bytes == 0 {
            RUNTIME_BYTES
        } else {
            size_bytes
        },
        code: starts.unwrap_or(0)..ends.max().unwrap_or(0),
        evaluator: evaluator::find(image)?,
        segments,
    }))
}

/// From what is surest to what is a guess.
fn version<'d, R: ReadRef<'d>>(image: &Image<'d, R>, debug: &[u8], names: &Names) -> Option<Version> {
    let symbol = || {
        let (address, _) = image.symbol(b"Py_Version")?;
        let bytes = image.bytes(address, 4)?.first_chunk()?;
        Some(Version::of_hex(u32::from_le_bytes(*bytes)))
    };
    let is_sane = |version: &Version| version.major == 3;
    symbol()
        .or_else(|| DebugOffsets::version(debug))
        .filter(is_sane)
        .or_else(|| {
            let name = names.iter().find_map(Version::of_name).filter(is_sane);
            let strings = image.section_bytes(".rodata").unwrap_or_default();
            Version::of_strings(strings, name).or(name)
        })
}

fn offsets(version: Version, debug: &[u8]) -> Option<Offsets> {
    let offsets = Offsets::of_version(version)?;
    match DebugOffsets::read(debug) {
        Some(debug) => Some(offsets.with_debug(&debug)),
        // From 3.13 on it is the interpreter that says whether it has a global lock.
        None if version.minor >= 13 => None,
        None => Some(offsets),
    }
}

#[cfg(test)]
#[path = "runtime_tests.rs"]
mod tests;
