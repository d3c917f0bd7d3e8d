//! The table of CUDA's functions: one row a function, the only place that knows their names.
//!
//! A row says under which names a function is known, what it is called in reports, and how its arguments and result are
//! read. Signatures and meanings are those of NVIDIA's documentation of the driver API and the runtime API (CUDA 13.0);
//! all functions are C functions, which no exception leaves. `PyTorch`'s one function may be left by one, so that its
//! return is never probed. Must not know ELF files, processes or probes.
//!
//! Left out on purpose: names of the first version whose sizes are of 32 bits (`cuMemAlloc`, `cuArrayCreate`, ...), which
//! nothing has been built against since CUDA 3.2; `cuMemPoolCreate` and `cuMemPoolDestroy`, which neither make memory
//! nor take it back; `cuModuleLoad` and its like, whose memory nobody can tell the size of, and which every program calls.

use std::collections::HashMap;
use std::sync::OnceLock;

use leaktrace_common::{
    call::{Arg, CallId, Op, ResultIn, Shape, Space},
    gpu::{Domain, GpuOp, GpuShape},
};

/// One function of CUDA, or of what stands on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Symbols that mean this function: the name in reports, and that for programs with a default stream a thread.
    pub names: &'static [&'static str],
    /// The name in reports.
    pub call: &'static str,
    /// How arguments and result are read.
    pub shape: GpuShape,
    /// Its return is probed: it may fail, or its result is read.
    pub returns: bool,
}

/// Number of the first row. Rows of the allocators are below it, custom functions above all of these.
pub const FIRST_GPU_CALL: CallId = 0x4000;

const NONE: Arg = Arg::NONE;

const fn arg(index: u8) -> Arg {
    Arg::new(index)
}

/// A call that makes or takes back nothing by itself.
const fn shape(op: GpuOp, domain: Domain, space: Space) -> GpuShape {
    GpuShape {
        op,
        size: NONE,
        device: NONE,
        domain,
        space,
        dies_with_context: false,
        allocates: false,
    }
}

/// A call that makes memory whose size is an argument, or none.
const fn makes(op: GpuOp, size: Arg, domain: Domain, space: Space) -> GpuShape {
    GpuShape {
        size,
        allocates: true,
        ..shape(op, domain, space)
    }
}

const fn alloc(size: Arg, domain: Domain, space: Space) -> GpuShape {
    makes(GpuOp::Alloc, size, domain, space)
}

/// Memory that goes with the context that it was made in.
const fn of_context(shape: GpuShape) -> GpuShape {
    GpuShape {
        dies_with_context: true,
        ..shape
    }
}

const fn array(op: GpuOp) -> GpuShape {
    of_context(makes(op, NONE, Domain::Array, Space::Array))
}

const fn free(domain: Domain, space: Space) -> GpuShape {
    shape(GpuOp::Free, domain, space)
}

/// A call about a handle of memory without an address.
const fn handle(op: GpuOp) -> GpuShape {
    shape(op, Domain::Handle, Space::Vmm)
}

const fn mapping(op: GpuOp) -> GpuShape {
    GpuShape {
        size: arg(1),
        ..shape(op, Domain::Mapping, Space::Vmm)
    }
}

const fn opens(op: GpuOp) -> GpuShape {
    makes(op, NONE, Domain::Device, Space::Ipc)
}

const fn context(op: GpuOp, device: Arg) -> GpuShape {
    GpuShape {
        device,
        ..shape(op, Domain::Context, Space::Device)
    }
}

const fn primary(op: GpuOp, device: Arg) -> GpuShape {
    GpuShape {
        device,
        ..shape(op, Domain::Primary, Space::Device)
    }
}

/// A call of the runtime library, with the space of what the driver's calls inside it make.
const fn runtime(size: Arg, space: Space) -> GpuShape {
    makes(GpuOp::Runtime, size, Domain::Device, space)
}

const UNTRACKED: GpuShape = shape(GpuOp::Untracked, Domain::Device, Space::Device);

const SET_DEVICE: GpuShape = GpuShape {
    device: arg(0),
    ..shape(GpuOp::SetDevice, Domain::Device, Space::Device)
};

const TENSOR: GpuShape = GpuShape {
    device: arg(4),
    ..makes(GpuOp::Tensor, arg(1), Domain::Tensor, Space::Tensor)
};

const fn row(names: &'static [&'static str], shape: GpuShape) -> Row {
    Row {
        names,
        call: names[0],
        shape,
        returns: true,
    }
}

impl Row {
    const fn entry_only(self) -> Self {
        Self {
            returns: false,
            ..self
        }
    }

    const fn named(self, call: &'static str) -> Self {
        Self { call, ..self }
    }

    /// How the function is read in the words of the allocators' calls, for all that does not read it: whether it takes
    /// something back, and the space.
    pub const fn plain_shape(&self) -> Shape {
        let op = if takes_back(self.shape.op) {
            Op::Free
        } else {
            Op::Alloc
        };
        Shape {
            op,
            size: self.shape.size,
            count: NONE,
            pointer: if matches!(op, Op::Free) { arg(0) } else { NONE },
            result: ResultIn::OutPointer,
            frees_on_failure: false,
            delegates: false,
            space: self.shape.space,
        }
    }

    /// Whether a call that goes unseen is one of memory, and not only a name for another's.
    pub const fn is_of_memory(&self) -> bool {
        !self.shape.cookie(0).is_of_runtime()
    }
}

/// By which a program ends.
const EXIT: &str = "exit";

/// Such calls are probed first: what is recorded before its end is watched would look like a leak.
const fn takes_back(op: GpuOp) -> bool {
    matches!(
        op,
        GpuOp::Free
            | GpuOp::Release
            | GpuOp::Unmap
            | GpuOp::CloseForeign
            | GpuOp::ContextDestroy
            | GpuOp::PrimaryRelease
            | GpuOp::PrimaryReset
    )
}

/// The table. Where several names share one address the first row wins.
pub static ROWS: &[Row] = &[
    // Device memory. The stream-ordered calls have a twin for programs whose default stream is the thread's.
    row(
        &["cuMemAlloc_v2"],
        of_context(alloc(arg(1), Domain::Device, Space::Device)),
    ),
    row(
        &["cuMemAllocPitch_v2"],
        of_context(makes(GpuOp::AllocPitch, NONE, Domain::Device, Space::Device)),
    ),
    row(
        &["cuMemAllocManaged"],
        of_context(alloc(arg(1), Domain::Device, Space::Managed)),
    ),
    row(
        &["cuMemAllocAsync", "cuMemAllocAsync_ptsz"],
        alloc(arg(1), Domain::Device, Space::Device),
    ),
    row(
        &["cuMemAllocFromPoolAsync", "cuMemAllocFromPoolAsync_ptsz"],
        alloc(arg(1), Domain::Device, Space::Device),
    ),
    row(&["cuMemFree_v2"], free(Domain::Device, Space::Device)),
    row(
        &["cuMemFreeAsync", "cuMemFreeAsync_ptsz"],
        free(Domain::Device, Space::Device),
    ),
    // Host memory: the driver's and, registered, the caller's.
    row(
        &["cuMemAllocHost_v2"],
        of_context(alloc(arg(1), Domain::Host, Space::Pinned)),
    ),
    row(
        &["cuMemHostAlloc"],
        of_context(alloc(arg(1), Domain::Host, Space::Pinned)),
    ),
    row(&["cuMemFreeHost"], free(Domain::Host, Space::Pinned)),
    row(&["cuMemHostRegister_v2"], REGISTER),
    // It differs from the second version in what its flags mean.
    row(&["cuMemHostRegister"], REGISTER),
    row(
        &["cuMemHostUnregister"],
        free(Domain::Registered, Space::Registered),
    ),
    // Arrays.
    row(&["cuArrayCreate_v2"], array(GpuOp::Array)),
    row(&["cuArray3DCreate_v2"], array(GpuOp::Array3d)),
    row(&["cuMipmappedArrayCreate"], array(GpuOp::Mipmap)),
    row(&["cuArrayDestroy"], free(Domain::Array, Space::Array)),
    row(&["cuMipmappedArrayDestroy"], free(Domain::Array, Space::Array)),
    // Memory apart from addresses.
    row(
        &["cuMemCreate"],
        makes(GpuOp::Create, arg(1), Domain::Handle, Space::Vmm),
    ),
    row(&["cuMemRelease"], handle(GpuOp::Release)),
    row(&["cuMemRetainAllocationHandle"], handle(GpuOp::Retain)),
    row(
        &["cuMemImportFromShareableHandle"],
        makes(GpuOp::Import, NONE, Domain::Handle, Space::Ipc),
    ),
    row(&["cuMemMap"], mapping(GpuOp::Map)),
    row(&["cuMemUnmap"], mapping(GpuOp::Unmap)),
    row(&["cuMulticastCreate"], handle(GpuOp::Multicast)),
    row(
        &["cuMemAddressReserve"],
        alloc(arg(1), Domain::Reservation, Space::Reservation),
    ),
    row(
        &["cuMemAddressFree"],
        free(Domain::Reservation, Space::Reservation),
    ),
    // Other processes' memory. Its handle, of 64 bytes, is on the stack and takes no register.
    row(&["cuIpcOpenMemHandle_v2"], opens(GpuOp::OpenForeign)),
    row(&["cuIpcOpenMemHandle"], opens(GpuOp::OpenForeign)),
    row(
        &["cuIpcCloseMemHandle"],
        shape(GpuOp::CloseForeign, Domain::Device, Space::Ipc),
    ),
    // What it opens goes back by cuMemFree.
    row(&["cuMemPoolImportPointer"], opens(GpuOp::OpenForeign)),
    row(&["cuGraphAddMemAllocNode"], UNTRACKED).entry_only(),
    row(&["cuGraphAddMemFreeNode"], UNTRACKED).entry_only(),
    row(&["cuImportExternalMemory"], UNTRACKED).entry_only(),
    row(&["cuExternalMemoryGetMappedBuffer"], UNTRACKED).entry_only(),
    // Not CUDA's: the C library's, of processes that use it. The runtime library ends its contexts from there.
    row(&[EXIT], shape(GpuOp::Exit, Domain::Context, Space::Device)).entry_only(),
    // Contexts: which is a thread's, of which device it is, and its end. Both versions of a name are in use: the
    // runtime library asks for cuDevicePrimaryCtxReset and Release of CUDA 7.0, which are the first ones.
    row(&["cuCtxCreate_v2"], context(GpuOp::ContextCreate, arg(2))),
    row(&["cuCtxCreate_v3"], context(GpuOp::ContextCreate, arg(4))),
    row(&["cuCtxCreate_v4"], context(GpuOp::ContextCreate, arg(3))),
    row(&["cuCtxSetCurrent"], context(GpuOp::ContextSet, NONE)).entry_only(),
    row(&["cuCtxPushCurrent_v2"], context(GpuOp::ContextPush, NONE)),
    row(&["cuCtxPopCurrent_v2"], context(GpuOp::ContextPop, NONE)),
    row(&["cuCtxDestroy_v2"], context(GpuOp::ContextDestroy, NONE)),
    row(&["cuCtxDestroy"], context(GpuOp::ContextDestroy, NONE)),
    row(
        &["cuDevicePrimaryCtxRetain"],
        primary(GpuOp::PrimaryRetain, arg(1)),
    ),
    row(
        &["cuDevicePrimaryCtxRelease_v2"],
        primary(GpuOp::PrimaryRelease, arg(0)),
    ),
    row(
        &["cuDevicePrimaryCtxRelease"],
        primary(GpuOp::PrimaryRelease, arg(0)),
    ),
    row(
        &["cuDevicePrimaryCtxReset_v2"],
        primary(GpuOp::PrimaryReset, arg(0)),
    ),
    row(&["cuDevicePrimaryCtxReset"], primary(GpuOp::PrimaryReset, arg(0))),
    // The runtime library, where it makes memory. It takes memory back by the driver, and nobody asks from where.
    row(&["cudaMalloc"], runtime(arg(1), Space::Device)),
    row(&["cudaMallocManaged"], runtime(arg(1), Space::Managed)),
    row(&["cudaMallocPitch"], runtime(NONE, Space::Device)),
    row(&["cudaMalloc3D"], runtime(NONE, Space::Device)),
    row(
        &["cudaMallocAsync", "cudaMallocAsync_ptsz"],
        runtime(arg(1), Space::Device),
    ),
    row(
        &["cudaMallocFromPoolAsync", "cudaMallocFromPoolAsync_ptsz"],
        runtime(arg(1), Space::Device),
    ),
    row(&["cudaMallocHost"], runtime(arg(1), Space::Pinned)),
    row(&["cudaHostAlloc"], runtime(arg(1), Space::Pinned)),
    row(&["cudaHostRegister"], runtime(arg(1), Space::Registered)),
    row(&["cudaMallocArray"], runtime(NONE, Space::Array)),
    row(&["cudaMalloc3DArray"], runtime(NONE, Space::Array)),
    row(&["cudaMallocMipmappedArray"], runtime(NONE, Space::Array)),
    row(&["cudaIpcOpenMemHandle"], runtime(NONE, Space::Ipc)),
    row(&["cudaMemPoolImportPointer"], runtime(NONE, Space::Ipc)),
    row(&["cudaSetDevice"], SET_DEVICE),
    // c10::reportMemoryUsageToProfiler(void*, int64_t, size_t, size_t, c10::Device) and, in older ones, with totals of
    // int64_t: PyTorch's allocator reports each tensor by it, whether or not it is being profiled.
    row(
        &[
            "_ZN3c1027reportMemoryUsageToProfilerEPvlmmNS_6DeviceE",
            "_ZN3c1027reportMemoryUsageToProfilerEPvlllNS_6DeviceE",
        ],
        TENSOR,
    )
    .entry_only()
    .named("tensor"),
];

const REGISTER: GpuShape = makes(GpuOp::Register, arg(1), Domain::Registered, Space::Registered);

fn index() -> &'static HashMap<&'static [u8], usize> {
    static INDEX: OnceLock<HashMap<&[u8], usize>> = OnceLock::new();
    INDEX.get_or_init(|| {
        let names = |(number, row): (usize, &'static Row)| {
            row.names.iter().map(move |name| (name.as_bytes(), number))
        };
        ROWS.iter().enumerate().flat_map(names).collect()
    })
}

/// The row of a symbol.
pub fn find(symbol: &[u8]) -> Option<&'static Row> {
    find_indexed(symbol).map(|(_, row)| row)
}

/// The row of a symbol and its place in the table (lower wins).
pub(super) fn find_indexed(symbol: &[u8]) -> Option<(usize, &'static Row)> {
    // An object can have a million symbols.
    if !symbol.starts_with(b"cu") && !symbol.starts_with(b"_ZN3c10") && symbol != EXIT.as_bytes() {
        return None;
    }
    let number = *index().get(symbol)?;
    ROWS.get(number).map(|row| (number, row))
}

/// The number that the cookie and the report key carry for a row.
pub fn call_id(row: &Row) -> CallId {
    ROWS.iter()
        .position(|other| other.call == row.call)
        .and_then(|position| CallId::try_from(position).ok())
        .unwrap_or(0)
        .saturating_add(FIRST_GPU_CALL)
}

/// The row of a number.
pub fn row_of(call: CallId) -> Option<&'static Row> {
    ROWS.get(usize::from(call.checked_sub(FIRST_GPU_CALL)?))
}

/// The name of a call in reports; `None` for a number that no row has.
pub fn call_name(call: CallId) -> Option<&'static str> {
    row_of(call).map(|row| row.call)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::{allocators, gear::Gear};
    use super::*;

    fn of(name: &str) -> &'static Row {
        find(name.as_bytes()).unwrap_or_else(|| panic!("{name}"))
    }

    #[test]
    fn every_name_belongs_to_one_row_and_every_row_has_a_call() {
        let mut names = HashSet::new();
        let mut calls = HashSet::new();
        for row in ROWS {
            assert!(calls.insert(row.call), "{} is in two rows", row.call);
            for name in row.names {
                assert!(names.insert(*name), "{name} is in two rows");
                assert_eq!(of(name), row);
                assert!(allocators::find(name).is_none(), "{name}");
            }
        }
        for name in [
            "cuMemAlloc",
            "cuMemAlloc_v2x",
            "cuda",
            "malloc",
            "cuModuleLoad",
            "",
        ] {
            assert!(find(name.as_bytes()).is_none(), "{name}");
        }
    }

    #[test]
    fn numbers_lead_back_to_the_names_and_are_nobody_elses() {
        for row in ROWS {
            let call = call_id(row);
            assert_eq!(call_name(call), Some(row.call));
            assert_eq!(allocators::call_name(call), row.call);
            assert!((FIRST_GPU_CALL..allocators::FIRST_CUSTOM_CALL).contains(&call));
        }
        assert!(allocators::ROWS.len() < usize::from(FIRST_GPU_CALL));
        for other in [0, FIRST_GPU_CALL - 1, FIRST_GPU_CALL + ROWS.len() as CallId] {
            assert_eq!(call_name(other), None);
        }
    }

    #[test]
    fn twins_carry_the_plain_name() {
        let twins: Vec<_> = ROWS.iter().filter(|row| row.names.len() > 1).collect();
        assert_eq!(twins.len(), 6);
        for row in twins.iter().filter(|row| row.call != "tensor") {
            assert_eq!(row.names, [row.call.to_owned(), format!("{}_ptsz", row.call)]);
        }
    }

    #[test]
    fn entries_alone_are_probed_where_nothing_is_read_at_the_return() {
        for row in ROWS {
            let entry_only = matches!(
                row.shape.op,
                GpuOp::ContextSet | GpuOp::Tensor | GpuOp::Untracked | GpuOp::Exit
            );
            assert_eq!(row.returns, !entry_only, "{}", row.call);
        }
    }

    #[test]
    fn what_makes_memory_has_a_space_and_what_dies_with_a_context_is_made_by_it() {
        for row in ROWS {
            let GpuShape {
                op,
                space,
                dies_with_context,
                allocates,
                ..
            } = row.shape;
            assert_eq!(Gear::of(space), Gear::Gpu, "{}", row.call);
            assert!(!dies_with_context || allocates, "{}", row.call);
            assert!(!allocates || !takes_back(op), "{}", row.call);
            assert_eq!(row.is_of_memory(), !row.call.starts_with("cuda"), "{}", row.call);
        }
        let dying: Vec<&str> = ROWS
            .iter()
            .filter(|row| row.shape.dies_with_context)
            .map(|row| row.call)
            .collect();
        let wanted = [
            "cuMemAlloc_v2",
            "cuMemAllocPitch_v2",
            "cuMemAllocManaged",
            "cuMemAllocHost_v2",
            "cuMemHostAlloc",
            "cuArrayCreate_v2",
            "cuArray3DCreate_v2",
            "cuMipmappedArrayCreate",
        ];
        assert_eq!(dying, wanted);
    }

    #[test]
    fn sizes_and_devices_are_where_the_headers_say() {
        let cookie = |name| of(name).shape.cookie(0);
        for (name, size, device) in [
            ("cuMemAlloc_v2", 1, 15),
            ("cuMemAllocPitch_v2", 15, 15),
            ("cuMemAllocFromPoolAsync_ptsz", 1, 15),
            ("cuMemCreate", 1, 15),
            ("cuMemMap", 1, 15),
            ("cuCtxCreate_v2", 15, 2),
            ("cuCtxCreate_v3", 15, 4),
            ("cuCtxCreate_v4", 15, 3),
            ("cuDevicePrimaryCtxRetain", 15, 1),
            ("cuDevicePrimaryCtxReset", 15, 0),
            ("cudaMallocHost", 1, 15),
            ("cudaMalloc3D", 15, 15),
            ("cudaSetDevice", 15, 0),
            ("_ZN3c1027reportMemoryUsageToProfilerEPvlllNS_6DeviceE", 1, 4),
        ] {
            let cookie = cookie(name);
            assert_eq!((cookie.size_arg(), cookie.device_arg()), (size, device), "{name}");
        }
        assert_eq!(cookie("cuMemFreeHost").domain(), Domain::Host as u8);
        assert_eq!(cookie("cuIpcOpenMemHandle").domain(), Domain::Device as u8);
    }

    #[test]
    fn what_takes_back_counts_as_a_free() {
        let frees = |name| of(name).plain_shape().op == Op::Free;
        for name in [
            "cuMemFree_v2",
            "cuMemRelease",
            "cuMemUnmap",
            "cuIpcCloseMemHandle",
            "cuCtxDestroy",
            "cuDevicePrimaryCtxReset_v2",
        ] {
            assert!(frees(name), "{name}");
        }
        for name in ["cuMemAlloc_v2", "cuMemMap", "cudaMalloc", "cuCtxSetCurrent"] {
            assert!(!frees(name), "{name}");
        }
        assert_eq!(of("cuMemHostAlloc").plain_shape().space, Space::Pinned);
    }
}
