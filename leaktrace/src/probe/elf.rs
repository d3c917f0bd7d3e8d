//! Which functions of one ELF file are probed, where, and how their returns are seen.
//!
//! Pure discovery: takes the bytes of a file and the table of [`super::allocators`], gives file offsets,
//! cookies and reasons. Must not know processes or the kernel.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use leaktrace_common::call::{CallId, Cookie, Op, Shape};
use object::{ReadCache, ReadRef};

use super::allocators::{self, Taken};
use super::body::Body;
use super::candidate::{Candidate, imported_taker, reads_alike, settle, taker_at};
use super::custom::CustomFunction;
use super::gear::{Gear, Group};
use super::handover;
use super::image::{Extent, FunctionSymbol, Image};
use super::linker::{self, Linker};
use super::pools;
use super::returns::{self, Handover, Taker, Unproven};
use super::site::{self, Site, Why};
use super::skipped::name_last_takers;

pub use super::image::Segment;
pub use super::skipped::{Reason, Skipped};

/// Bytes kept of each function up to its probed instruction, and from there on.
const PROLOGUE_BYTES: u64 = 16;

/// `EM_X86_64`.
const MACHINE_X86_64: u16 = 62;

/// What every `CPython` since 3.7 exports (`Include/internal/pycore_runtime.h`), be it a program or a library.
const INTERPRETER: &[u8] = b"_PyRuntime";

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
    /// It is an interpreter whose object allocator was copied into its callers (link-time optimisation): a probe on
    /// `PyObject_Malloc` would miss most objects.
    pub inlines_objects: bool,
    /// It is a `CPython` interpreter, or a library that has one.
    pub has_interpreter: bool,
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
        }
    }

    /// Every function, whatever it is probed for.
    pub fn functions_mut(&mut self) -> impl Iterator<Item = &mut Function> {
        let beside = self.arenas.functions.iter_mut().chain(&mut self.pools.functions);
        self.functions.iter_mut().chain(beside)
    }

    /// The same, to look at.
    pub fn all_functions(&self) -> impl Iterator<Item = &Function> {
        let beside = self.arenas.functions.iter().chain(&self.pools.functions);
        self.functions.iter().chain(beside)
    }

    /// Moves every probe to the entry of its function, for tests.
    pub fn probe_entries(&mut self) {
        for function in self.functions_mut() {
            let hands_over = function.cookie.hands_over();
            function.site = Site::entry(&function.prologue, function.shape, Why::Forced);
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
    /// Number of the call; see [`allocators::call_name`].
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
        inlines_objects: false,
        has_interpreter: false,
        is_go: false,
        interpreter: None,
        soname: None,
        segments: Vec::new(),
        linker: None,
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
        scan.has_interpreter = image.dynamic_symbol(INTERPRETER).is_some();
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

/// glibc and musl.
fn is_libc(soname: Option<&str>) -> bool {
    soname.is_some_and(|name| {
        name.starts_with("libc.so") || name.starts_with("libc.musl") || name.starts_with("ld-musl")
    })
}

/// What a search has found of a group.
#[derive(Default)]
struct Found {
    candidates: Vec<Candidate>,
    skipped: Vec<Skipped>,
}

struct Finder<'a, 'd, R: ReadRef<'d>> {
    image: &'a Image<'d, R>,
    custom: &'a [CustomFunction],
    is_loader: bool,
}

impl<'d, R: ReadRef<'d>> Finder<'_, 'd, R> {
    fn run(&self, scan: &mut Scan) -> object::Result<()> {
        let mut found = Found::default();
        let mut arenas = Found::default();
        self.image.for_each_function(|symbol| {
            if let Some(candidate) = self.candidate(&symbol) {
                match Gear::of(candidate.shape.space) {
                    Gear::Heap => self.consider(&symbol, candidate, &mut found),
                    Gear::Arenas => self.consider(&symbol, candidate, &mut arenas),
                    // Found in another way.
                    Gear::Pools => {}
                }
            }
        })?;
        self.note_missing(&mut found);
        let in_libc = is_libc(scan.soname.as_deref());
        // Apart from each other: malloc maps memory, and is not covered for it.
        scan.arenas = self.judge(arenas, in_libc);
        if scan.has_interpreter {
            scan.pools = self.judge(self.new_pool(), in_libc);
            scan.inlines_objects = pools::inlines_objects(self.image);
        }
        let group = self.judge(found, in_libc);
        scan.functions = group.functions;
        scan.skipped = group.skipped;
        Ok(())
    }

    /// A symbol that the user or the table names.
    fn candidate(&self, symbol: &FunctionSymbol<'d>) -> Option<Candidate> {
        let custom = self
            .custom
            .iter()
            .position(|function| function.symbol.as_bytes() == symbol.name);
        if let Some(position) = custom
            && let Some(function) = self.custom.get(position)
        {
            return Some(Candidate {
                symbol: function.symbol.clone(),
                rank: position,
                call: allocators::custom_call_id(position),
                shape: function.shape,
                may_throw: false,
                taken: None,
                address: symbol.address,
                size_bytes: symbol.size_bytes,
                offset: 0,
            });
        }
        let (place, row) = allocators::find_indexed(symbol.name)?;
        Some(Candidate {
            symbol: String::from_utf8_lossy(symbol.name).into_owned(),
            rank: self.custom.len() + place,
            call: allocators::call_id(row),
            shape: row.shape,
            may_throw: row.may_throw,
            taken: Some(row.taken),
            address: symbol.address,
            size_bytes: symbol.size_bytes,
            offset: 0,
        })
    }

    /// The function that takes a pool of Python into use, or why there is none.
    fn new_pool(&self) -> Found {
        let mut found = Found::default();
        let pool = pools::find(self.image).map_err(|why| why.to_string());
        let offset = |extent: &Extent| self.image.code_offset(extent.start);
        match pool.map(|extent| (extent, offset(&extent))) {
            Ok((extent, Some(offset))) => {
                let symbol = FunctionSymbol {
                    name: allocators::NEW_POOL.as_bytes(),
                    address: extent.start,
                    size_bytes: extent.end - extent.start,
                    indirect: false,
                };
                let candidate = self.candidate(&symbol).into_iter();
                found
                    .candidates
                    .extend(candidate.map(|candidate| Candidate { offset, ..candidate }));
            }
            Ok((_, None)) => {}
            Err(why) => found.skipped.push(Skipped {
                function: allocators::NEW_POOL.to_owned(),
                reason: Reason::Unrecognised(why),
            }),
        }
        found
    }

    /// Takes a candidate up, or says why not.
    fn consider(&self, symbol: &FunctionSymbol<'d>, mut candidate: Candidate, found: &mut Found) {
        let reason = if self.is_loader && candidate.taken.is_some() {
            Reason::Loader
        } else if symbol.indirect {
            Reason::Indirect
        } else if let Some(offset) = self.image.code_offset(symbol.address) {
            candidate.offset = offset;
            found.candidates.push(candidate);
            return;
        } else {
            Reason::NotCode
        };
        found.skipped.push(Skipped {
            function: candidate.symbol,
            reason,
        });
    }

    fn note_missing(&self, found: &mut Found) {
        for function in self.custom {
            let candidates = &found.candidates;
            let known = candidates
                .iter()
                .any(|candidate| candidate.symbol == function.symbol)
                || found
                    .skipped
                    .iter()
                    .any(|other| other.function == function.symbol);
            if !known {
                found.skipped.push(Skipped {
                    function: function.symbol.clone(),
                    reason: Reason::NotFound,
                });
            }
        }
    }

    /// Decides for each candidate how its returns are seen, or that it is not probed.
    fn judge(&self, found: Found, in_libc: bool) -> Group {
        let mut names = HashMap::new();
        for candidate in &found.candidates {
            // The first of a name: the dynamic symbols come before the local ones.
            names.entry(candidate.symbol.clone()).or_insert(candidate.address);
        }
        let candidates = &settle(found.candidates);
        let (mut functions, mut skipped) = (Vec::new(), found.skipped);
        // Who hands its calls to whom: a function whose taker is itself not probed is not covered.
        let mut handed: HashMap<u64, u64> = HashMap::new();
        for candidate in candidates {
            let extent = self.extent_of(candidate);
            let others = |address: u64| taker_at(candidates, candidate, &handed, address);
            // A name may be bound to another object's function, but then that one is in the table too.
            let imports = |name: &[u8]| match std::str::from_utf8(name).ok().and_then(|name| names.get(name))
            {
                Some(address) => others(*address),
                None => imported_taker(candidate.shape, name),
            };
            let handover = Handover {
                by_address: &others,
                by_name: &imports,
            };
            if let Some(taker) = self.handed_to(candidates, candidate, extent, &handover) {
                handed.extend(taker.address.map(|address| (candidate.address, address)));
                skipped.push(Skipped {
                    function: candidate.symbol.clone(),
                    reason: Reason::Covered { by: taker.name },
                });
                continue;
            }
            match self.returns_of(candidate, extent, &handover) {
                Ok(returns) => {
                    let hands_over = self.hands_over(candidates, &names, candidate, extent);
                    functions.push(self.function(candidate, extent, returns, in_libc, hands_over));
                }
                Err(why) => skipped.push(Skipped {
                    function: candidate.symbol.clone(),
                    reason: Reason::ReturnsUnproven(why),
                }),
            }
        }
        name_last_takers(&mut skipped);
        let mut seen = HashSet::new();
        skipped.retain(|skipped| seen.insert(skipped.function.clone()));
        functions.sort_by_key(|function| function.offset);
        Group { functions, skipped }
    }

    /// The probed function that sees all calls of a candidate. What the user named is probed as named.
    fn handed_to(
        &self,
        all: &[Candidate],
        candidate: &Candidate,
        extent: Extent,
        handover: &Handover<'_>,
    ) -> Option<Taker> {
        let taken = candidate.taken?;
        // The rest is called by its own name often enough that the report should tell it.
        if taken == Taken::WithOwnAllocator || candidate.may_throw {
            let taker = returns::covered_by(self.image, extent, handover);
            if taker.is_some() {
                return taker;
            }
        }
        returns::thunk_to(self.image, extent, handover, |taker| {
            reads_alike(all, candidate, taker)
        })
    }

    fn returns_of(
        &self,
        candidate: &Candidate,
        extent: Extent,
        handover: &Handover<'_>,
    ) -> Result<Returns, String> {
        if candidate.shape.op == Op::Free {
            return Ok(Returns::None);
        }
        // What the user names is unknown code: nothing says that no exception leaves it.
        if !candidate.may_throw && candidate.taken.is_some() {
            return Ok(Returns::Probe);
        }
        returns::instructions(self.image, extent, handover)
            .map(Returns::Instructions)
            .map_err(|why| why.to_string())
    }

    /// Whether a call may get its block from another function that is probed, here or in another file.
    fn hands_over(
        &self,
        all: &[Candidate],
        names: &HashMap<String, u64>,
        candidate: &Candidate,
        extent: Extent,
    ) -> bool {
        // No call that maps an arena is left out.
        if candidate.shape.op == Op::Free || candidate.taken == Some(Taken::WithInterpreter) {
            return false;
        }
        let at = |address: u64| {
            let other = all.iter().find(|other| other.address == address)?;
            (other.shape.op != Op::Free).then(|| Taker {
                name: other.symbol.clone(),
                address: Some(address),
            })
        };
        let named = |name: &[u8]| match std::str::from_utf8(name).ok().and_then(|name| names.get(name)) {
            Some(address) => at(*address),
            None => allocators::find_indexed(name)
                .filter(|(_, row)| row.shape.op != Op::Free && row.shape.layer() == candidate.shape.layer())
                .map(|_| Taker {
                    name: String::from_utf8_lossy(name).into_owned(),
                    address: None,
                }),
        };
        let handover = Handover {
            by_address: &at,
            by_name: &named,
        };
        handover::may_hand_over(self.image, extent, &handover)
    }

    fn function(
        &self,
        candidate: &Candidate,
        extent: Extent,
        returns: Returns,
        in_libc: bool,
        hands_over: bool,
    ) -> Function {
        // Outside the C library a free may be a wrapper of the C library's.
        let delegates = candidate.shape.delegates || (candidate.shape.op == Op::Free && !in_libc);
        let shape = Shape {
            delegates,
            ..candidate.shape
        };
        let size_bytes = extent.end - extent.start;
        // Without a size nothing is proven, but the first instruction may be a cheap one.
        let known_bytes = if size_bytes == 0 {
            PROLOGUE_BYTES
        } else {
            size_bytes
        };
        let code = self
            .image
            .code(candidate.address, known_bytes)
            .unwrap_or_default();
        let site = site::choose(candidate.address, code, shape, || self.landings(extent));
        Function {
            symbol: candidate.symbol.clone(),
            call: candidate.call,
            shape,
            cookie: cookie(&site, candidate.call, &returns, hands_over),
            offset: candidate.offset,
            size_bytes: candidate.size_bytes,
            returns,
            prologue: code
                .iter()
                .take((PROLOGUE_BYTES + site.offset_bytes) as usize)
                .copied()
                .collect(),
            site,
        }
    }

    /// Where the code of a function can go on, and where others begin.
    fn landings(&self, function: Extent) -> Result<BTreeSet<u64>, Unproven> {
        let mut landings = Body::read(self.image, function)?.landings(self.image)?;
        landings.extend(self.image.symbols_within(function));
        Ok(landings)
    }

    fn extent_of(&self, candidate: &Candidate) -> Extent {
        let by_size = candidate
            .address
            .checked_add(candidate.size_bytes)
            .filter(|_| candidate.size_bytes > 0);
        by_size.map_or_else(
            || {
                self.image
                    .extent(candidate.address)
                    .filter(|extent| extent.start == candidate.address)
                    .unwrap_or(Extent {
                        start: candidate.address,
                        end: candidate.address,
                    })
            },
            |end| Extent {
                start: candidate.address,
                end,
            },
        )
    }
}

/// What the kernel side gets with every hit.
const fn cookie(site: &Site, call: CallId, returns: &Returns, hands_over: bool) -> Cookie {
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
