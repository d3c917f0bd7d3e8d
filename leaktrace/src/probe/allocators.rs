//! The table of allocator functions: one row a function, the only place that knows their names.
//!
//! A row says under which names a function is known, what it is called in reports, how its arguments
//! and result are read, and whether an exception may leave it. Adding an allocator means adding rows
//! here and nothing else. Must not know ELF files, processes or probes.
//!
//! Left out on purpose, since no [`Shape`] describes them: `strdup` and its like (the size is not an
//! argument; they call the allocator beneath), `xallocx` (resizes in place, returns a size),
//! `mi_reallocarr` (pointer to pointer), `mi_heap_destroy` (frees a whole heap at once).

use std::collections::HashMap;
use std::sync::OnceLock;

use leaktrace_common::call::{Arg, CallId, Op, ResultIn, Shape, Space};

use super::cuda;
use super::custom::CustomFunction;
use super::mapped;

/// When a function that carries a row's name is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Wherever it is defined.
    Always,
    /// Only in an object that also defines a function of an [`Taken::Always`] row which allocates:
    /// libstdc++'s `operator new` is nothing but a call of `malloc`, which is probed itself.
    WithOwnAllocator,
    /// A libc-internal name: only in an object without the public function of the same call. In glibc
    /// the two are one address; in static musl the public one calls the internal one, which would then
    /// be seen twice.
    Fallback,
    /// Only in processes with a `CPython` interpreter, whose object allocator maps its arenas by it. Everywhere else
    /// what it hands out is no block.
    WithInterpreter,
}

/// One function of an allocator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Symbols that mean this function, before any prefix.
    pub names: &'static [&'static str],
    /// The name in reports.
    pub call: &'static str,
    /// How arguments and result are read.
    pub shape: Shape,
    /// An exception may leave the function: a return probe on it would kill the process.
    pub may_throw: bool,
    /// When it is probed.
    pub taken: Taken,
    /// Which prefixes its names are also known under.
    family: Family,
}

/// Which renaming prefixes apply to the names of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    /// Exactly as written.
    Plain,
    /// Also with the prefixes of jemalloc builds.
    Jemalloc,
    /// Also with the prefixes of jemalloc and with `tc_`.
    Any,
}

/// Prefixes of jemalloc builds: `--with-jemalloc-prefix=je_` (redis and others), the Rust crates
/// (`_rjem_`, with their private namespace), those inside Arrow and `DuckDB`.
const JEMALLOC_PREFIXES: &[&str] = &[
    "_rjem_je_",
    "_rjem_",
    "je_arrow_private_je_",
    "je_arrow_",
    "duckdb_je_",
    "je_",
];

/// gperftools exports each function under its own name too.
const TCMALLOC_PREFIX: &str = "tc_";

/// Number of the first custom function; table rows are below it, and those of [`super::mapped`] and [`super::cuda`].
pub const FIRST_CUSTOM_CALL: CallId = 0x8000;

const NONE: Arg = Arg::NONE;

const fn arg(index: u8) -> Arg {
    Arg::new(index)
}

const fn alloc(size: Arg, count: Arg) -> Shape {
    Shape {
        op: Op::Alloc,
        size,
        count,
        pointer: NONE,
        result: ResultIn::ReturnValue,
        frees_on_failure: false,
        delegates: false,
        space: Space::Heap,
    }
}

const fn alloc_out(out: Arg, size: Arg) -> Shape {
    Shape {
        pointer: out,
        result: ResultIn::OutPointer,
        ..alloc(size, NONE)
    }
}

const fn realloc(pointer: Arg, size: Arg, count: Arg) -> Shape {
    Shape {
        op: Op::Realloc,
        pointer,
        ..alloc(size, count)
    }
}

const fn reallocf(pointer: Arg, size: Arg) -> Shape {
    Shape {
        frees_on_failure: true,
        ..realloc(pointer, size, NONE)
    }
}

const FREE: Shape = Shape {
    op: Op::Free,
    pointer: arg(0),
    ..alloc(NONE, NONE)
};

/// For every free that is, in one build or another, a wrapper of the plain one.
const DELEGATING_FREE: Shape = Shape {
    delegates: true,
    ..FREE
};

/// `CPython`'s arenas, which it maps without wishes: `mmap(NULL, size, ...)` (`_PyObject_ArenaMmap` in
/// `Objects/obmalloc.c`, 3.8 to 3.14).
const ARENA: Shape = Shape {
    space: Space::PythonArena,
    ..alloc(arg(1), NONE)
};

const ARENA_FREE: Shape = Shape {
    space: Space::PythonArena,
    ..FREE
};

/// `CPython`'s pools: the kernel side knows their size and rounds the block that is returned down to it. When a pool is
/// given back is not seen by a probe.
const POOL: Shape = Shape {
    space: Space::PythonPool,
    ..alloc(NONE, NONE)
};

const fn row(names: &'static [&'static str], shape: Shape) -> Row {
    Row {
        names,
        call: names[0],
        shape,
        may_throw: false,
        taken: Taken::Always,
        family: Family::Plain,
    }
}

impl Row {
    const fn any_prefix(self) -> Self {
        Self {
            family: Family::Any,
            ..self
        }
    }

    const fn jemalloc_prefix(self) -> Self {
        Self {
            family: Family::Jemalloc,
            ..self
        }
    }

    const fn throws(self) -> Self {
        Self {
            may_throw: true,
            ..self
        }
    }

    const fn fallback(self, call: &'static str) -> Self {
        Self {
            taken: Taken::Fallback,
            call,
            ..self
        }
    }

    const fn operator(self, call: &'static str) -> Self {
        Self {
            taken: Taken::WithOwnAllocator,
            call,
            ..self
        }
    }

    const fn with_interpreter(self) -> Self {
        Self {
            taken: Taken::WithInterpreter,
            ..self
        }
    }

    const fn named(self, call: &'static str) -> Self {
        Self { call, ..self }
    }
}

/// The table. Where several names share one address the first row wins, so a standard name is reported
/// before an allocator's own.
pub static ROWS: &[Row] = &[
    // ISO C, POSIX, BSD and GNU. Their return is safe to probe: C functions that no exception leaves.
    row(&["malloc"], alloc(arg(0), NONE)).any_prefix(),
    row(&["calloc"], alloc(arg(1), arg(0))).any_prefix(),
    row(&["realloc"], realloc(arg(0), arg(1), NONE)).any_prefix(),
    row(&["reallocarray"], realloc(arg(0), arg(2), arg(1))).any_prefix(),
    row(&["free"], FREE).any_prefix(),
    row(&["posix_memalign"], alloc_out(arg(0), arg(2))).any_prefix(),
    row(&["aligned_alloc"], alloc(arg(1), NONE)).any_prefix(),
    row(&["memalign"], alloc(arg(1), NONE)).any_prefix(),
    row(&["valloc"], alloc(arg(0), NONE)).any_prefix(),
    row(&["pvalloc"], alloc(arg(0), NONE)).any_prefix(),
    row(&["cfree"], DELEGATING_FREE).any_prefix(),
    row(&["free_sized"], DELEGATING_FREE).any_prefix(),
    row(&["free_aligned_sized"], DELEGATING_FREE).any_prefix(),
    row(&["reallocf"], reallocf(arg(0), arg(1))).any_prefix(),
    // (pointer, old count, new count, size)
    row(&["recallocarray"], realloc(arg(0), arg(3), arg(2))),
    row(&["freezero"], DELEGATING_FREE),
    row(&["vfree"], DELEGATING_FREE),
    // glibc's and musl's internal names.
    row(&["__libc_malloc", "__malloc"], alloc(arg(0), NONE)).fallback("malloc"),
    row(&["__libc_calloc", "__calloc"], alloc(arg(1), arg(0))).fallback("calloc"),
    row(&["__libc_realloc", "__realloc"], realloc(arg(0), arg(1), NONE)).fallback("realloc"),
    row(&["__libc_reallocarray"], realloc(arg(0), arg(2), arg(1))).fallback("reallocarray"),
    row(&["__libc_free", "__free"], FREE).fallback("free"),
    row(&["__libc_cfree"], DELEGATING_FREE).fallback("cfree"),
    row(&["__posix_memalign"], alloc_out(arg(0), arg(2))).fallback("posix_memalign"),
    row(&["__libc_memalign"], alloc(arg(1), NONE)).fallback("memalign"),
    row(&["__libc_valloc"], alloc(arg(0), NONE)).fallback("valloc"),
    row(&["__libc_pvalloc"], alloc(arg(0), NONE)).fallback("pvalloc"),
    // jemalloc's own interface. dallocx and sdallocx free inline in some versions, call free in others.
    row(&["mallocx"], alloc(arg(0), NONE)).jemalloc_prefix(),
    row(&["rallocx"], realloc(arg(0), arg(1), NONE)).jemalloc_prefix(),
    row(&["dallocx"], DELEGATING_FREE).jemalloc_prefix(),
    row(&["sdallocx"], DELEGATING_FREE).jemalloc_prefix(),
    // C++. jemalloc, tcmalloc and mimalloc inline their fast path in these. The plain and the aligned
    // operator new throw std::bad_alloc, and may throw whatever the new handler throws; the nothrow
    // forms are noexcept: what is thrown inside them ends the process with or without a probe.
    row(&["_Znwm", "_ZnwmSt11align_val_t"], alloc(arg(0), NONE))
        .operator("operator new")
        .throws(),
    row(&["_Znam", "_ZnamSt11align_val_t"], alloc(arg(0), NONE))
        .operator("operator new[]")
        .throws(),
    row(
        &["_ZnwmRKSt9nothrow_t", "_ZnwmSt11align_val_tRKSt9nothrow_t"],
        alloc(arg(0), NONE),
    )
    .operator("operator new"),
    row(
        &["_ZnamRKSt9nothrow_t", "_ZnamSt11align_val_tRKSt9nothrow_t"],
        alloc(arg(0), NONE),
    )
    .operator("operator new[]"),
    row(
        &[
            "_ZdlPv",
            "_ZdlPvm",
            "_ZdlPvRKSt9nothrow_t",
            "_ZdlPvSt11align_val_t",
            "_ZdlPvmSt11align_val_t",
            "_ZdlPvSt11align_val_tRKSt9nothrow_t",
        ],
        DELEGATING_FREE,
    )
    .operator("operator delete"),
    row(
        &[
            "_ZdaPv",
            "_ZdaPvm",
            "_ZdaPvRKSt9nothrow_t",
            "_ZdaPvSt11align_val_t",
            "_ZdaPvmSt11align_val_t",
            "_ZdaPvSt11align_val_tRKSt9nothrow_t",
        ],
        DELEGATING_FREE,
    )
    .operator("operator delete[]"),
    // tcmalloc's names for the operators, and a malloc that ignores the new handler.
    row(&["tc_new", "tc_new_aligned"], alloc(arg(0), NONE))
        .named("operator new")
        .throws(),
    row(&["tc_newarray", "tc_newarray_aligned"], alloc(arg(0), NONE))
        .named("operator new[]")
        .throws(),
    row(&["tc_new_nothrow", "tc_new_aligned_nothrow"], alloc(arg(0), NONE)).named("operator new"),
    row(
        &["tc_newarray_nothrow", "tc_newarray_aligned_nothrow"],
        alloc(arg(0), NONE),
    )
    .named("operator new[]"),
    row(
        &[
            "tc_delete",
            "tc_delete_sized",
            "tc_delete_nothrow",
            "tc_delete_aligned",
            "tc_delete_sized_aligned",
            "tc_delete_aligned_nothrow",
        ],
        DELEGATING_FREE,
    )
    .named("operator delete"),
    row(
        &[
            "tc_deletearray",
            "tc_deletearray_sized",
            "tc_deletearray_nothrow",
            "tc_deletearray_aligned",
            "tc_deletearray_sized_aligned",
            "tc_deletearray_aligned_nothrow",
        ],
        DELEGATING_FREE,
    )
    .named("operator delete[]"),
    row(&["tc_malloc_skip_new_handler"], alloc(arg(0), NONE)).named("malloc"),
    // mimalloc.
    row(&["mi_malloc"], alloc(arg(0), NONE)),
    row(&["mi_zalloc"], alloc(arg(0), NONE)),
    row(&["mi_malloc_small"], alloc(arg(0), NONE)),
    row(&["mi_zalloc_small"], alloc(arg(0), NONE)),
    row(&["mi_calloc"], alloc(arg(1), arg(0))),
    row(&["mi_mallocn"], alloc(arg(1), arg(0))),
    row(&["mi_realloc"], realloc(arg(0), arg(1), NONE)),
    row(&["mi_reallocn"], realloc(arg(0), arg(2), arg(1))),
    row(&["mi_reallocarray"], realloc(arg(0), arg(2), arg(1))),
    row(&["mi_reallocf"], reallocf(arg(0), arg(1))),
    row(&["mi_rezalloc"], realloc(arg(0), arg(1), NONE)),
    row(&["mi_recalloc"], realloc(arg(0), arg(2), arg(1))),
    row(&["mi_malloc_aligned"], alloc(arg(0), NONE)),
    row(&["mi_malloc_aligned_at"], alloc(arg(0), NONE)),
    row(&["mi_zalloc_aligned"], alloc(arg(0), NONE)),
    row(&["mi_zalloc_aligned_at"], alloc(arg(0), NONE)),
    row(&["mi_calloc_aligned"], alloc(arg(1), arg(0))),
    row(&["mi_calloc_aligned_at"], alloc(arg(1), arg(0))),
    row(&["mi_realloc_aligned"], realloc(arg(0), arg(1), NONE)),
    row(&["mi_realloc_aligned_at"], realloc(arg(0), arg(1), NONE)),
    row(&["mi_rezalloc_aligned"], realloc(arg(0), arg(1), NONE)),
    row(&["mi_rezalloc_aligned_at"], realloc(arg(0), arg(1), NONE)),
    row(&["mi_recalloc_aligned"], realloc(arg(0), arg(2), arg(1))),
    row(&["mi_recalloc_aligned_at"], realloc(arg(0), arg(2), arg(1))),
    row(&["mi_aligned_recalloc"], realloc(arg(0), arg(2), arg(1))),
    row(&["mi_aligned_offset_recalloc"], realloc(arg(0), arg(2), arg(1))),
    row(&["mi_posix_memalign"], alloc_out(arg(0), arg(2))),
    row(&["mi_memalign"], alloc(arg(1), NONE)),
    row(&["mi_aligned_alloc"], alloc(arg(1), NONE)),
    row(&["mi_valloc"], alloc(arg(0), NONE)),
    row(&["mi_pvalloc"], alloc(arg(0), NONE)),
    row(&["mi_free"], FREE),
    row(&["mi_cfree"], DELEGATING_FREE),
    row(&["mi_free_size"], DELEGATING_FREE),
    row(&["mi_free_size_aligned"], DELEGATING_FREE),
    row(&["mi_free_aligned"], DELEGATING_FREE),
    // The same with the heap as first argument.
    row(&["mi_heap_malloc"], alloc(arg(1), NONE)),
    row(&["mi_heap_zalloc"], alloc(arg(1), NONE)),
    row(&["mi_heap_malloc_small"], alloc(arg(1), NONE)),
    row(&["mi_heap_calloc"], alloc(arg(2), arg(1))),
    row(&["mi_heap_mallocn"], alloc(arg(2), arg(1))),
    row(&["mi_heap_realloc"], realloc(arg(1), arg(2), NONE)),
    row(&["mi_heap_reallocn"], realloc(arg(1), arg(3), arg(2))),
    row(&["mi_heap_reallocf"], reallocf(arg(1), arg(2))),
    row(&["mi_heap_rezalloc"], realloc(arg(1), arg(2), NONE)),
    row(&["mi_heap_recalloc"], realloc(arg(1), arg(3), arg(2))),
    row(&["mi_heap_malloc_aligned"], alloc(arg(1), NONE)),
    row(&["mi_heap_malloc_aligned_at"], alloc(arg(1), NONE)),
    row(&["mi_heap_zalloc_aligned"], alloc(arg(1), NONE)),
    row(&["mi_heap_zalloc_aligned_at"], alloc(arg(1), NONE)),
    row(&["mi_heap_calloc_aligned"], alloc(arg(2), arg(1))),
    row(&["mi_heap_calloc_aligned_at"], alloc(arg(2), arg(1))),
    row(&["mi_heap_realloc_aligned"], realloc(arg(1), arg(2), NONE)),
    row(&["mi_heap_realloc_aligned_at"], realloc(arg(1), arg(2), NONE)),
    row(&["mi_heap_rezalloc_aligned"], realloc(arg(1), arg(2), NONE)),
    row(&["mi_heap_rezalloc_aligned_at"], realloc(arg(1), arg(2), NONE)),
    row(&["mi_heap_recalloc_aligned"], realloc(arg(1), arg(3), arg(2))),
    row(&["mi_heap_recalloc_aligned_at"], realloc(arg(1), arg(3), arg(2))),
    // mimalloc's C++ forms. Built as C they end the process where they cannot throw, but they call the
    // new handler, which may throw through them.
    row(&["mi_new"], alloc(arg(0), NONE)).throws(),
    row(&["mi_new_aligned"], alloc(arg(0), NONE)).throws(),
    row(&["mi_new_nothrow"], alloc(arg(0), NONE)),
    row(&["mi_new_aligned_nothrow"], alloc(arg(0), NONE)),
    row(&["mi_new_n"], alloc(arg(1), arg(0))).throws(),
    row(&["mi_new_realloc"], realloc(arg(0), arg(1), NONE)).throws(),
    row(&["mi_new_reallocn"], realloc(arg(0), arg(2), arg(1))).throws(),
    row(&["mi_heap_alloc_new"], alloc(arg(1), NONE)).throws(),
    row(&["mi_heap_alloc_new_n"], alloc(arg(2), arg(1))).throws(),
    // The C library's way to the kernel, for the arenas of CPython. The kernel side looks at the size and the caller:
    // the C library maps thread stacks, large blocks and files by the same functions.
    row(&["mmap", "mmap64"], ARENA).with_interpreter(),
    row(&["munmap"], ARENA_FREE).with_interpreter(),
    // Found by what it does, with or without this name.
    row(&[NEW_POOL], POOL).with_interpreter(),
];

/// Where `CPython` takes a pool into use.
pub(super) const NEW_POOL: &str = "allocate_from_new_pool";

/// No name in the table, prefix included, is longer: a cheap test before the hash, since an object can
/// have a million symbols.
const LONGEST_NAME_BYTES: usize = 64;

fn index() -> &'static HashMap<Box<[u8]>, usize> {
    static INDEX: OnceLock<HashMap<Box<[u8]>, usize>> = OnceLock::new();
    INDEX.get_or_init(|| {
        let mut index = HashMap::new();
        for (number, row) in ROWS.iter().enumerate() {
            for name in row.names {
                index.entry(name.as_bytes().into()).or_insert(number);
            }
        }
        // After all plain names, so that `tc_delete` stays the row of its own.
        for (number, row) in ROWS.iter().enumerate() {
            let prefixes = match row.family {
                Family::Plain => continue,
                Family::Jemalloc | Family::Any => JEMALLOC_PREFIXES,
            };
            let tcmalloc = (row.family == Family::Any).then_some(TCMALLOC_PREFIX);
            for prefix in prefixes.iter().copied().chain(tcmalloc) {
                for name in row.names {
                    index
                        .entry(format!("{prefix}{name}").into_bytes().into())
                        .or_insert(number);
                }
            }
        }
        index
    })
}

/// The row of a symbol, with any prefix of an allocator build taken off.
pub fn find(symbol: &str) -> Option<&'static Row> {
    find_indexed(symbol.as_bytes()).map(|(_, row)| row)
}

/// The row of a symbol and its place in the table (lower wins).
pub(crate) fn find_indexed(symbol: &[u8]) -> Option<(usize, &'static Row)> {
    if symbol.len() > LONGEST_NAME_BYTES {
        return None;
    }
    let number = *index().get(symbol)?;
    ROWS.get(number).map(|row| (number, row))
}

/// The number that the cookie and the report key carry for a row: the same for all rows of one name.
pub fn call_id(row: &Row) -> CallId {
    ROWS.iter()
        .position(|other| other.call == row.call)
        .and_then(|position| CallId::try_from(position + 1).ok())
        .unwrap_or(0)
}

/// The name of a call in reports, those of CUDA and the system calls included; `custom` for a number of [`custom_call_id`], `unknown` for one
/// that no row has.
pub fn call_name(call: CallId) -> &'static str {
    if call >= FIRST_CUSTOM_CALL {
        return "custom";
    }
    if let Some(name) = cuda::call_name(call) {
        return name;
    }
    if let Some(name) = mapped::call_name(call) {
        return name;
    }
    usize::from(call)
        .checked_sub(1)
        .and_then(|position| ROWS.get(position))
        .map_or("unknown", |row| row.call)
}

/// The number of the custom function at `position` of the list given to the scan.
pub fn custom_call_id(position: usize) -> CallId {
    CallId::try_from(position)
        .unwrap_or(CallId::MAX)
        .saturating_add(FIRST_CUSTOM_CALL)
}

/// As [`call_name`], with the names of the custom functions too.
pub fn call_name_with(call: CallId, custom: &[CustomFunction]) -> &str {
    call.checked_sub(FIRST_CUSTOM_CALL)
        .and_then(|position| custom.get(usize::from(position)))
        .map_or_else(|| call_name(call), |function| function.symbol.as_str())
}

#[cfg(test)]
#[path = "allocators_tests.rs"]
mod tests;
