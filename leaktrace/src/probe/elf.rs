//! What one ELF file is to leaktrace: its kind, and which of its functions are probed, where, and how their returns
//! are seen.
//!
//! Pure discovery: takes the bytes of a file, gives file offsets, cookies and reasons. Must not know processes or the
//! kernel, nor how functions are found and judged: that is `finder`.

use std::fs::File;
use std::path::{Path, PathBuf};

use leaktrace_common::call::{CallId, Cookie, Shape};
use object::{ReadCache, ReadRef};

use super::custom::CustomFunction;
use super::finder::Finder;
use super::gear::{Gear, Group};
use super::image::Image;
use super::linker::{self, Linker};
use super::site::{Site, Why};
use crate::python::runtime;

pub use super::image::Segment;
pub use super::skipped::{Reason, Skipped};

/// `EM_X86_64`.
const MACHINE_X86_64: u16 = 62;

/// Why a file cannot be scanned.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// It could not be opened or read.
    #[error("cannot read {path}: {source}; run as root, or check that the file is still there")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It has no ELF header.
    #[error("{path} is not an ELF file; name a shared object or an executable")]
    NotElf {
        /// The file.
        path: PathBuf,
    },
    /// Its headers or tables are damaged.
    #[error("{path} is damaged: {problem}; reinstall the file it came from")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// The ELF class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// 32-bit pointers (i386, x32).
    Bits32,
    /// 64-bit pointers.
    Bits64,
}

/// What was found in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// GNU build id.
    pub build_id: Option<Vec<u8>>,
    /// Pointer width.
    pub class: Class,
    /// `e_machine`.
    pub machine: u16,
    /// Functions to probe, in order of their offset; no two at one offset.
    pub functions: Vec<Function>,
    /// Functions of the table that are not probed here.
    pub skipped: Vec<Skipped>,
    /// Those that matter in a process with a `CPython` interpreter only, and map its arenas.
    pub arenas: Group,
    /// Those that matter there and take pools in arenas into use; of an interpreter only.
    pub pools: Group,
    /// Those that make memory of GPUs or take it back.
    pub gpu: Group,
    /// It is an interpreter whose object allocator was copied into its callers (link-time optimisation): a probe on
    /// `PyObject_Malloc` would miss most objects.
    pub inlines_objects: bool,
    /// What it has to do with Python: the interpreter in it, if there is one.
    pub python: runtime::Facts,
    /// Built by the Go compiler.
    pub is_go: bool,
    /// The dynamic loader it asks for.
    pub interpreter: Option<PathBuf>,
    /// Its name for the dynamic loader.
    pub soname: Option<String>,
    /// Loadable segments: the way between addresses and file offsets.
    pub segments: Vec<Segment>,
    /// Where it tells debuggers of what it maps, if it is a dynamic linker.
    pub linker: Option<Linker>,
    /// Of a C library: `exit`, within which what a program has registered for its end is called.
    pub exit: Option<Function>,
}

impl Scan {
    /// Whether leaktrace can trace code of this kind.
    pub const fn is_supported(&self) -> bool {
        matches!(self.class, Class::Bits64) && self.machine == MACHINE_X86_64
    }

    /// Functions whose calls will not be seen: a report must say so.
    pub fn blind_spots(&self) -> impl Iterator<Item = &Skipped> {
        self.blind_spots_of(Gear::Heap)
    }

    /// The same of those that are probed for something else.
    pub fn blind_spots_of(&self, gear: Gear) -> impl Iterator<Item = &Skipped> {
        let (_, skipped) = self.of(gear);
        skipped.iter().filter(|skipped| skipped.reason.is_blind())
    }

    /// The functions that are probed for something, and those that are not.
    pub fn of(&self, gear: Gear) -> (&[Function], &[Skipped]) {
        match gear {
            Gear::Heap => (&self.functions, &self.skipped),
            Gear::Arenas => (&self.arenas.functions, &self.arenas.skipped),
            Gear::Pools => (&self.pools.functions, &self.pools.skipped),
            Gear::Gpu => (&self.gpu.functions, &self.gpu.skipped),
        }
    }

    /// Every function, whatever it is probed for.
    pub fn functions_mut(&mut self) -> impl Iterator<Item = &mut Function> {
        let beside = self.arenas.functions.iter_mut().chain(&mut self.pools.functions);
        self.functions
            .iter_mut()
            .chain(beside)
            .chain(&mut self.gpu.functions)
    }

    /// The same, to look at.
    pub fn all_functions(&self) -> impl Iterator<Item = &Function> {
        let beside = self.arenas.functions.iter().chain(&self.pools.functions);
        let gpu = self.gpu.functions.iter().chain(&self.exit);
        self.functions.iter().chain(beside).chain(gpu)
    }

    /// Moves every probe to the entry of its function, for tests.
    pub fn probe_entries(&mut self) {
        for function in self.functions_mut() {
            let hands_over = function.cookie.hands_over();
            function.site = Site::entry(&function.prologue, function.shape, Why::Forced);
            // Those of the GPU's are read at their entry in any case, from the same registers.
            if function.is_gpus() {
                continue;
            }
            function.cookie = cookie(&function.site, function.call, &function.returns, hands_over);
        }
    }

    /// The file offset of an address in the object's own numbering.
    pub fn offset_of_address(&self, address: u64) -> Option<u64> {
        self.segments.iter().find_map(|segment| {
            let distance = address.checked_sub(segment.address)?;
            (distance < segment.size_bytes).then(|| segment.offset.checked_add(distance))?
        })
    }
}

/// A function to probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its symbol in this file; of several at one address the one that comes first in the table.
    pub symbol: String,
    /// Number of the call; see `allocators::call_name`.
    pub call: CallId,
    /// How its arguments and result are read.
    pub shape: Shape,
    /// The same for the kernel side, as it is at the site.
    pub cookie: Cookie,
    /// File offset of its first instruction.
    pub offset: u64,
    /// Its size in bytes; 0 if unknown.
    pub size_bytes: u64,
    /// Where its result can be read.
    pub returns: Returns,
    /// Where its calls are seen.
    pub site: Site,
    /// Its first instructions, the probed one included.
    pub prologue: Vec<u8>,
}

impl Function {
    /// Whether it makes memory of GPUs or takes it back: its cookie is a [`GpuCookie`](leaktrace_common::gpu::GpuCookie).
    pub const fn is_gpus(&self) -> bool {
        self.shape.space.is_gpus()
    }

    /// File offset of the probed instruction.
    pub const fn probe_offset(&self) -> u64 {
        self.offset + self.site.offset_bytes
    }
}

/// How the end of a call is seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Returns {
    /// Not at all: a free is done with at its entry.
    None,
    /// By a return probe: nothing is thrown out of this function.
    Probe,
    /// By plain probes on these `ret` instructions (file offsets, ascending, at least one).
    ///
    /// The code is shared: functions of one file may have offsets in common, and other functions pass
    /// them too. A hit belongs to the call whose stack pointer at entry equals the one at the `ret`. A
    /// call that ends in a jump to another probed function passes none of them: that function's entry,
    /// at the same stack pointer, takes the call over. Neither does one that is left by an exception: its
    /// pending entry must be dropped at the next entry at or above its stack pointer, or a `ret` of some
    /// later call could be taken for its own.
    Instructions(Vec<u64>),
}

/// Scans an open file; reads only the parts it needs.
///
/// # Errors
/// [`ElfError`] when it is not an ELF file, damaged or unreadable. `path` only names it.
pub fn scan_file(file: File, path: &Path, custom: &[CustomFunction]) -> Result<Scan, ElfError> {
    let cache = ReadCache::new(file);
    scan(&cache, path, custom)
}

/// Opens and scans a file.
///
/// # Errors
/// As [`scan_file`].
pub fn scan_path(path: &Path, custom: &[CustomFunction]) -> Result<Scan, ElfError> {
    let file = File::open(path).map_err(|source| ElfError::Read {
        path: path.to_owned(),
        source,
    })?;
    scan_file(file, path, custom)
}

/// Scans the bytes of a file. A file of a machine or class that is not traced gives a [`Scan`] without
/// functions, for the refusal.
///
/// # Errors
/// As [`scan_file`].
pub fn scan<'d, R: ReadRef<'d>>(data: R, path: &Path, custom: &[CustomFunction]) -> Result<Scan, ElfError> {
    let damaged = |problem: object::Error| ElfError::Damaged {
        path: path.to_owned(),
        problem: problem.to_string(),
    };
    let (class, little_endian, machine) = identify(data).ok_or_else(|| ElfError::NotElf {
        path: path.to_owned(),
    })?;
    let mut scan = Scan {
        build_id: None,
        class,
        machine,
        functions: Vec::new(),
        skipped: Vec::new(),
        arenas: Group::default(),
        pools: Group::default(),
        gpu: Group::default(),
        inlines_objects: false,
        python: runtime::Facts::default(),
        is_go: false,
        interpreter: None,
        soname: None,
        segments: Vec::new(),
        linker: None,
        exit: None,
    };
    if class == Class::Bits32 || !little_endian {
        return Ok(scan);
    }
    let image = Image::open(data).map_err(damaged)?;
    scan.build_id = image.build_id();
    scan.interpreter = image.interpreter();
    scan.soname = image.soname();
    scan.segments = image.segments().to_vec();
    scan.is_go = [
        ".go.buildinfo",
        ".note.go.buildid",
        ".gopclntab",
        ".data.rel.ro.gopclntab",
    ]
    .iter()
    .any(|name| image.has_section(name));
    if image.machine() == MACHINE_X86_64 {
        scan.linker = linker::find(&image);
        scan.python = runtime::of_image(&image, path).unwrap_or_else(|error| {
            tracing::debug!("{} is not looked at for Python: {error}", path.display());
            runtime::Facts::default()
        });
        let finder = Finder {
            image: &image,
            custom,
            is_loader: is_loader(scan.soname.as_deref(), path),
        };
        finder.run(&mut scan).map_err(damaged)?;
    }
    Ok(scan)
}

/// Class, byte order and machine, from the first bytes.
fn identify<'d, R: ReadRef<'d>>(data: R) -> Option<(Class, bool, u16)> {
    let head: [u8; 20] = data.read_bytes_at(0, 20).ok()?.try_into().ok()?;
    if !head.starts_with(b"\x7fELF") {
        return None;
    }
    let little_endian = head[5] != 2;
    let machine = [head[18], head[19]];
    let machine = if little_endian {
        u16::from_le_bytes(machine)
    } else {
        u16::from_be_bytes(machine)
    };
    let class = if head[4] == 1 {
        Class::Bits32
    } else {
        Class::Bits64
    };
    Some((class, little_endian, machine))
}

/// glibc's loader has an allocator of its own for the time before libc is relocated. musl's loader is
/// its libc, so it is not meant.
fn is_loader(soname: Option<&str>, path: &Path) -> bool {
    let name = soname.or_else(|| path.file_name().and_then(|name| name.to_str()));
    // `ld-2.31.so` is the file name that older distributions used.
    name.is_some_and(|name| {
        name.starts_with("ld-linux") || name.starts_with("ld64.so") || name.starts_with("ld-2.")
    })
}

/// What the kernel side gets with every hit.
pub(super) const fn cookie(site: &Site, call: CallId, returns: &Returns, hands_over: bool) -> Cookie {
    let mut cookie = site.shape.cookie(call);
    if matches!(returns, Returns::Instructions(_)) {
        cookie = cookie.with_ret_instructions();
    }
    if hands_over {
        cookie = cookie.with_handing_over();
    }
    cookie
}

#[cfg(test)]
#[path = "elf_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "elf_site_tests.rs"]
mod site_tests;

#[cfg(test)]
#[path = "elf_python_tests.rs"]
mod python_tests;

#[cfg(test)]
#[path = "elf_gpu_tests.rs"]
mod gpu_tests;
