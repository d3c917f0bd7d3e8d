//! Every map, with its bound and its lifetime. All hash maps allocate as they grow
//! (`BPF_F_NO_PREALLOC`), which is safe in uprobes since the BPF memory allocator of kernel 6.1
//! (commit fba1a1c6c912, "bpf: Convert hash map to bpf_mem_alloc").

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, ArrayOfMaps, HashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};
use leaktrace_common::{
    config::{FILTER_WORDS, LIVE_TIER_FIRST, LIVE_TIERS_MAX, LiveTiers},
    counter::Counter,
    gpu::{Context, GpuErrorKey, GpuErrors, GpuKey, GpuLive, GpuProcess, GpuThread, Mapping, TorchTotals},
    key::{LiveKey, Process, SiteKey},
    mapping::MapEvent,
    python::{INTERPRETERS, Interpreter, NewPart, PythonPart, PythonThread},
    record::{Control, HIT_SLOTS, Hits, Live, Site, Thread, Tracked},
    select::Property,
    stack::Stack,
    unwind::{
        CHUNK_ROWS, CHUNKS, CodeMapping, FOUND, Found, LAYOUTS, LayoutSlot, MAPPINGS, PAGES, Page, RULES,
        RawHeader, Row, Rule,
    },
};

const GROWS: usize = BPF_F_NO_PREALLOC as usize;

/// User space maps it.
const MAPPED: usize = BPF_F_MMAPABLE as usize;

/// Traced processes by tgid. User space adds and removes them, and so does the kernel side where it is told by what they
/// are chosen; `exec` counts the image up.
#[btf_map]
pub static PROCESSES: HashMap<u32, Tracked, 65_536, GROWS> = HashMap::new();

/// Slots of layouts by tgid, for processes that have one. Apart from [`PROCESSES`], whose values only the kernel side
/// changes.
#[btf_map]
pub static LAYOUT_SLOTS: HashMap<u32, u32, 65_536, GROWS> = HashMap::new();

/// By what processes are chosen, and what follows from it (a bit set of `select::verdict`).
#[btf_map]
pub static PROPERTIES: HashMap<Property, u32, 4096, GROWS> = HashMap::new();

/// Processes whose resident memory has changed since user space last looked.
#[btf_map]
pub static RESIDENT: HashMap<u32, u32, 65_536, GROWS> = HashMap::new();

/// Per-thread state by tid, from a thread's first traced call to its end.
#[btf_map]
pub static THREADS: HashMap<u32, Thread, 262_144, GROWS> = HashMap::new();

/// One thread state of zeros: what new entries of THREADS are copied from, since 2 KiB do not fit the
/// 512 bytes of a BPF stack.
#[btf_map]
pub static THREAD_ZERO: Array<Thread, 1> = Array::new();

/// One tier of the live table. See [`LIVE_TIER_FIRST`].
pub type LiveTier = HashMap<LiveKey, Live, { LIVE_TIER_FIRST as usize }, GROWS>;

/// The live blocks: from the return of their allocation to the entry of their free. Tiers are created by
/// user space; a slot that has none yet is empty.
#[btf_map]
pub static LIVE: ArrayOfMaps<LiveTier, { LIVE_TIERS_MAX as usize }> = ArrayOfMaps::new();

/// Which tier is being filled; written by user space.
#[btf_map]
pub static LIVE_TIERS: Array<LiveTiers, 1> = Array::new();

/// The tiers that blocks have been put into, a bit each, beside the first. Only the kernel side writes it, and a
/// bit is never taken back: a tier that user space has made ready and nothing is in need not be looked into.
#[btf_map]
pub static LIVE_USED: Array<u64, 1> = Array::new();

/// Which addresses may be in LIVE. See [`crate::filter`].
#[btf_map]
pub static FILTER: Array<[u64; FILTER_WORDS], 1> = Array::new();

/// Totals by site and shard; kept until user space removes a finished process. Four times as many as stacks, so
/// that the table of stacks is full first: that loses names, this one would lose blocks.
#[btf_map]
pub static SITES: HashMap<SiteKey, Site, 1_048_576, GROWS> = HashMap::new();

/// One site of zeros, for the same reason as [`THREAD_ZERO`].
#[btf_map]
pub static SITE_ZERO: Array<Site, 1> = Array::new();

/// Frames by stack id. Not `BPF_MAP_TYPE_STACK_TRACE`: its 32-bit buckets collide and mix stacks.
#[btf_map]
pub static STACKS: HashMap<u64, Stack, 262_144, GROWS> = HashMap::new();

/// Rows of the unwind tables, a chunk an element. This and the next four are written by user space through memory
/// that it maps.
#[btf_map]
pub static UNWIND_ROWS: Array<[Row; CHUNK_ROWS], CHUNKS, MAPPED> = Array::new();

/// Where the rows of each page of code are.
#[btf_map]
pub static UNWIND_PAGES: Array<Page, PAGES, MAPPED> = Array::new();

/// The rules.
#[btf_map]
pub static UNWIND_RULES: Array<Rule, RULES, MAPPED> = Array::new();

/// What is mapped where, layout by layout.
#[btf_map]
pub static UNWIND_MAPPINGS: Array<CodeMapping, MAPPINGS, MAPPED> = Array::new();

/// The layout of each process.
#[btf_map]
pub static UNWIND_LAYOUTS: Array<LayoutSlot, LAYOUTS, MAPPED> = Array::new();

/// Rules found before.
#[btf_map]
pub static UNWIND_FOUND: PerCpuArray<[Found; FOUND], 1> = PerCpuArray::new();

/// Stacks for user space to finish.
#[btf_map]
pub static RAW_STACKS: RingBuf<RawHeader, 16_777_216> = RingBuf::new();

/// The interpreter of each process, by the number of its layout. User space maps it.
#[btf_map]
pub static PYTHON_INTERPRETERS: Array<Interpreter, INTERPRETERS, MAPPED> = Array::new();

/// State of threads that run Python, by tid, beside that in THREADS: one value would not fit the kernel allocator's
/// largest size class.
#[btf_map]
pub static PYTHON_THREADS: HashMap<u32, PythonThread, 65_536, GROWS> = HashMap::new();

/// One of zeros, for the same reason as [`THREAD_ZERO`].
#[btf_map]
pub static PYTHON_THREAD_ZERO: Array<PythonThread, 1> = Array::new();

/// Python frames of stacks.
#[btf_map]
pub static PYTHON_PARTS: HashMap<u64, PythonPart, 131_072, GROWS> = HashMap::new();

/// What is new among them.
#[btf_map]
pub static PYTHON_NEW: RingBuf<NewPart, 1_048_576> = RingBuf::new();

/// Memory of GPUs, by identity: from the return of the call that made it to its end. Apart from [`LIVE`], because calls are
/// rare, and records that count references and mappings are larger.
#[btf_map]
pub static GPU_LIVE: HashMap<GpuKey, GpuLive, 262_144, GROWS> = HashMap::new();

/// Where handles of such memory are mapped, by address.
#[btf_map]
pub static GPU_MAPPINGS: HashMap<GpuKey, Mapping, 131_072, GROWS> = HashMap::new();

/// Contexts of GPUs, and primary ones by device.
#[btf_map]
pub static GPU_CONTEXTS: HashMap<GpuKey, Context, 16_384, GROWS> = HashMap::new();

/// What is known of process images that use a GPU.
#[btf_map]
pub static GPU_PROCESSES: HashMap<Process, GpuProcess, 65_536, GROWS> = HashMap::new();

/// State of threads that call CUDA, by tid, beside that in THREADS.
#[btf_map]
pub static GPU_THREADS: HashMap<u32, GpuThread, 65_536, GROWS> = HashMap::new();

/// One of zeros, for the same reason as [`THREAD_ZERO`].
#[btf_map]
pub static GPU_THREAD_ZERO: Array<GpuThread, 1> = Array::new();

/// Calls of CUDA that failed.
#[btf_map]
pub static GPU_ERRORS: HashMap<GpuErrorKey, GpuErrors, 16_384, GROWS> = HashMap::new();

/// What `PyTorch`'s allocator has last said of each device.
#[btf_map]
pub static TORCH_TOTALS: HashMap<GpuKey, TorchTotals, 16_384, GROWS> = HashMap::new();

/// The ledger.
#[btf_map]
pub static COUNTERS: PerCpuArray<u64, { Counter::ALL.len() }> = PerCpuArray::new();

/// How often each probe was hit: what tracing costs is reckoned from it.
#[btf_map]
pub static HITS: PerCpuArray<Hits, HIT_SLOTS> = PerCpuArray::new();

/// What user space changes during the run.
#[btf_map]
pub static CONTROL: Array<Control, 1> = Array::new();

/// What targets map by themselves: some 50 000 calls. Only where those tracepoints are attached.
#[btf_map]
pub static MAPPED_EVENTS: RingBuf<MapEvent, 4_194_304> = RingBuf::new();

/// Rare events for user space. Never an allocation.
#[btf_map]
pub static EVENTS: RingBuf<leaktrace_common::event::Event, 65_536> = RingBuf::new();
