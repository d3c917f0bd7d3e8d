//! The only module with `unsafe`: raw bpf(2), `perf_event_open(2)` and what a child does before `exec`.
//!
//! aya 0.14 has no multi or session links, no batch reads and no way to return a value from a uprobe
//! program; newer versions need Rust 1.98. What they gain later is deleted here. Must not know what the
//! maps and programs mean.

use std::{
    ffi::CString,
    io,
    mem::{MaybeUninit, size_of},
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::{ffi::OsStrExt as _, process::CommandExt as _},
    },
    path::Path,
    process::Command,
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use aya_obj::generated::{
    bpf_attach_type, bpf_attr, bpf_cmd, bpf_func_info, bpf_insn, bpf_line_info, bpf_prog_info, bpf_prog_type,
};
use leaktrace_common::{config, event, gpu, key, mapping, python, record, select, stack, unwind};
use tokio::io::{Interest, unix::AsyncFd};

/// Types that the kernel may fill with any bytes and that have no padding of the compiler's.
///
/// # Safety
/// Every bit pattern is a value, and every byte belongs to a field.
pub unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($type:ty),+ $(,)?) => {
        $(
            // SAFETY: `repr(C)` integers and arrays of them, padding spelled out as fields.
            unsafe impl Plain for $type {}
        )+
    };
}

plain!(
    u32,
    u64,
    config::LiveTiers,
    event::Event,
    gpu::Context,
    gpu::GpuErrorKey,
    gpu::GpuErrors,
    gpu::GpuLive,
    gpu::Mapping,
    gpu::TorchTotals,
    key::LiveKey,
    key::Process,
    key::SiteKey,
    mapping::MapEvent,
    python::Interpreter,
    python::NewPart,
    python::PythonPart,
    record::Control,
    record::Live,
    record::Site,
    record::Tracked,
    select::Property,
    stack::Stack,
    unwind::CodeMapping,
    unwind::LayoutSlot,
    unwind::Page,
    unwind::RawHeader,
    unwind::Row,
    unwind::Rule,
);

/// Like [`Plain`], for aya.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct PodConfig(pub config::Config);

// SAFETY: u64s without padding.
unsafe impl aya::Pod for PodConfig {}

/// Copies a `T` out of bytes from the kernel; `None` when there are too few.
pub fn from_bytes<T: Plain>(bytes: &[u8]) -> Option<T> {
    // SAFETY: long enough, unaligned read, any bytes are a value.
    (bytes.len() >= size_of::<T>()).then(|| unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i64> {
    // SAFETY: the pointers in `attr` live until the call returns; callers build it from references.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_int,
            std::ptr::from_mut(attr),
            size_of::<bpf_attr>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn bpf_fd(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

const fn attr() -> bpf_attr {
    // SAFETY: a union of plain integers; zero is the documented value of unused fields.
    unsafe { MaybeUninit::<bpf_attr>::zeroed().assume_init() }
}

fn address_of<T>(items: &[T]) -> u64 {
    items.as_ptr() as u64
}

/// Loads BTF.
pub fn load_btf(btf: &[u8]) -> io::Result<OwnedFd> {
    let mut attr = attr();
    // SAFETY: the union's member for this command.
    let u = unsafe { &mut attr.__bindgen_anon_7 };
    u.btf = address_of(btf);
    u.btf_size = btf.len() as u32;
    bpf_fd(bpf_cmd::BPF_BTF_LOAD, &mut attr)
}

/// A uprobe program ready to load: relocated instructions and what describes them.
pub struct ProgramImage<'a> {
    /// Shown by `bpftool prog`; cut to 15 bytes.
    pub name: &'a str,
    /// Relocated, calls resolved.
    pub instructions: &'a [bpf_insn],
    /// Value of `expected_attach_type`; 0 for a probe attached through a perf event.
    pub attach_type: u32,
    /// BTF of the object, with function and line records.
    pub btf: Option<BorrowedFd<'a>>,
    /// Function records.
    pub functions: &'a [bpf_func_info],
    /// Line records: they put source lines into the verifier's log.
    pub lines: &'a [bpf_line_info],
}

/// Loads a program. On failure the verifier's log comes with the error.
pub fn load_program(image: &ProgramImage<'_>) -> Result<OwnedFd, (io::Error, String)> {
    match load_program_with(image, &mut []) {
        Ok(fd) => Ok(fd),
        Err(error) => {
            // The log costs time, so it is asked for only once the load has failed.
            let mut log = vec![0_u8; 1 << 20];
            if let Ok(fd) = load_program_with(image, &mut log) {
                Ok(fd)
            } else {
                let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
                Err((error, String::from_utf8_lossy(&log[..end]).into_owned()))
            }
        }
    }
}

fn load_program_with(image: &ProgramImage<'_>, log: &mut [u8]) -> io::Result<OwnedFd> {
    const LICENSE: &[u8] = b"Dual MIT/GPL\0";
    let mut attr = attr();
    // SAFETY: the union's member for this command.
    let u = unsafe { &mut attr.__bindgen_anon_3 };
    u.prog_type = bpf_prog_type::BPF_PROG_TYPE_KPROBE as u32;
    u.insns = address_of(image.instructions);
    u.insn_cnt = image.instructions.len() as u32;
    u.license = address_of(LICENSE);
    u.expected_attach_type = image.attach_type;
    for (to, from) in u.prog_name[..15].iter_mut().zip(image.name.bytes()) {
        *to = from as libc::c_char;
    }
    if let Some(btf) = image.btf {
        u.prog_btf_fd = btf.as_raw_fd() as u32;
        u.func_info = address_of(image.functions);
        u.func_info_cnt = image.functions.len() as u32;
        u.func_info_rec_size = size_of::<bpf_func_info>() as u32;
        u.line_info = address_of(image.lines);
        u.line_info_cnt = image.lines.len() as u32;
        u.line_info_rec_size = size_of::<bpf_line_info>() as u32;
    }
    if !log.is_empty() {
        u.log_level = 1;
        u.log_buf = log.as_mut_ptr() as u64;
        u.log_size = log.len() as u32;
    }
    bpf_fd(bpf_cmd::BPF_PROG_LOAD, &mut attr)
}

/// Has the kernel time every run of every BPF program on the machine while the descriptor is open (kernel
/// 5.8). Needs `CAP_SYS_ADMIN`.
///
/// # Errors
/// The errno of bpf(2) `BPF_ENABLE_STATS`.
pub fn enable_run_stats() -> io::Result<OwnedFd> {
    // BPF_STATS_RUN_TIME, include/uapi/linux/bpf.h.
    const RUN_TIME: u32 = 0;
    let mut attr = attr();
    // SAFETY: the union's member for this command.
    let u = unsafe { &mut attr.enable_stats };
    u.type_ = RUN_TIME;
    bpf_fd(bpf_cmd::BPF_ENABLE_STATS, &mut attr)
}

/// How often a program has run while runs were timed, and for how long in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunStats {
    /// Runs.
    pub runs: u64,
    /// Nanoseconds in them.
    pub run_ns: u64,
}

/// See [`RunStats`]; it only grows, and only under [`enable_run_stats`].
///
/// # Errors
/// The errno of bpf(2) `BPF_OBJ_GET_INFO_BY_FD`.
pub fn run_stats(program: BorrowedFd<'_>) -> io::Result<RunStats> {
    let info = program_info(program)?;
    Ok(RunStats {
        runs: info.run_cnt,
        run_ns: info.run_time_ns,
    })
}

/// Length of a program in instructions, and how many the verifier has looked at on all its paths (kernel 5.16;
/// 0 before).
///
/// # Errors
/// The errno of bpf(2) `BPF_OBJ_GET_INFO_BY_FD`.
pub fn program_size(program: BorrowedFd<'_>) -> io::Result<(u32, u32)> {
    let info = program_info(program)?;
    Ok((
        info.xlated_prog_len / size_of::<bpf_insn>() as u32,
        info.verified_insns,
    ))
}

fn program_info(program: BorrowedFd<'_>) -> io::Result<bpf_prog_info> {
    let mut info = MaybeUninit::<bpf_prog_info>::zeroed();
    let mut attr = attr();
    // SAFETY: the union's member for this command.
    let u = unsafe { &mut attr.info };
    u.bpf_fd = program.as_raw_fd() as u32;
    u.info_len = size_of::<bpf_prog_info>() as u32;
    u.info = info.as_mut_ptr() as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    // SAFETY: integers and arrays of them, zeroed, of which the kernel has written those that it knows.
    Ok(unsafe { info.assume_init() })
}

/// Functions to measure probes on: nothing but an instruction to probe and a return. They are assembly,
/// because the first instruction decides what a probe on it costs.
pub mod probed {
    use core::arch::naked_asm;

    /// Begins with `push`, which the kernel emulates.
    #[unsafe(naked)]
    pub extern "C" fn emulated() {
        naked_asm!("push rbp", "pop rbp", "ret")
    }

    /// The same once more, to be probed in another way at the same time.
    #[unsafe(naked)]
    pub extern "C" fn returning() {
        naked_asm!("push rbp", "pop rbp", "nop", "ret")
    }

    /// Begins with an instruction that the kernel has to single-step.
    #[unsafe(naked)]
    pub extern "C" fn single_stepped() {
        naked_asm!("xor eax, eax", "ret")
    }
}

/// One probed instruction.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// File offset.
    pub offset: u64,
    /// What the program gets from `bpf_get_attach_cookie`.
    pub cookie: u64,
}

/// `BPF_F_UPROBE_MULTI_RETURN`.
const MULTI_RETURN: u32 = 1;

/// Attaches a program to many instructions of a file by one link (kernel 6.6).
///
/// # Errors
/// The errno of bpf(2) `BPF_LINK_CREATE`.
pub fn link_multi(
    program: BorrowedFd<'_>,
    attach_type: u32,
    path: &Path,
    points: &[Point],
    pid: i32,
    on_return: bool,
) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let offsets: Vec<u64> = points.iter().map(|point| point.offset).collect();
    let cookies: Vec<u64> = points.iter().map(|point| point.cookie).collect();
    let mut attr = attr();
    // SAFETY: the union's member for this command and its member for this link.
    let u = unsafe { &mut attr.link_create };
    u.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
    u.attach_type = attach_type;
    // SAFETY: as above.
    let multi = unsafe { &mut u.__bindgen_anon_3.uprobe_multi };
    multi.path = path.as_ptr() as u64;
    multi.offsets = address_of(&offsets);
    multi.cookies = address_of(&cookies);
    multi.cnt = points.len() as u32;
    multi.flags = if on_return { MULTI_RETURN } else { 0 };
    multi.pid = pid as u32;
    bpf_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

/// A uprobe made through perf, for kernels without multi links. Both descriptors keep it in place.
#[derive(Debug)]
pub struct PerfLink {
    _link: OwnedFd,
    _event: OwnedFd,
}

/// Attaches a program to one instruction through a perf event (cookie: kernel 5.15): in process `pid`, or where that is 0 in
/// all.
///
/// # Errors
/// The errno of `perf_event_open(2)` or of bpf(2) `BPF_LINK_CREATE`.
pub fn link_perf(
    program: BorrowedFd<'_>,
    pmu: PerfUprobe,
    path: &Path,
    point: Point,
    pid: u32,
    on_return: bool,
) -> io::Result<PerfLink> {
    let event = perf_uprobe(pmu, path, point.offset, pid, on_return)?;
    let mut attr = attr();
    // SAFETY: the union's member for this command and its member for this link.
    let u = unsafe { &mut attr.link_create };
    u.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
    u.__bindgen_anon_2.target_fd = event.as_raw_fd() as u32;
    u.attach_type = bpf_attach_type::BPF_PERF_EVENT as u32;
    u.__bindgen_anon_3.perf_event.bpf_cookie = point.cookie;
    let link = bpf_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr)?;
    Ok(PerfLink {
        _link: link,
        _event: event,
    })
}

/// The uprobe PMU as sysfs describes it.
#[derive(Clone, Copy, Debug)]
pub struct PerfUprobe {
    /// `/sys/bus/event_source/devices/uprobe/type`.
    pub pmu_type: u32,
    /// The bit of `config` that makes it a return probe: `.../format/retprobe`.
    pub return_bit: u32,
}

/// `struct perf_event_attr` up to `config2`, `PERF_ATTR_SIZE_VER1`. The kernel takes any published size.
#[repr(C)]
struct PerfAttr {
    pmu_type: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    /// `config1`: address of the path.
    uprobe_path: u64,
    /// `config2`: offset of the instruction.
    probe_offset: u64,
}

const _: () = assert!(size_of::<PerfAttr>() == 72);

fn perf_uprobe(pmu: PerfUprobe, path: &Path, offset: u64, pid: u32, on_return: bool) -> io::Result<OwnedFd> {
    const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attr = PerfAttr {
        pmu_type: pmu.pmu_type,
        size: size_of::<PerfAttr>() as u32,
        config: if on_return { 1 << pmu.return_bit } else { 0 },
        sample_period: 0,
        sample_type: 0,
        read_format: 0,
        flags: 0,
        wakeup_events: 0,
        bp_type: 0,
        uprobe_path: path.as_ptr() as u64,
        probe_offset: offset,
    };
    // An event of all processes is one of a CPU; its programs run on every one (kernel/trace/trace_uprobe.c:
    // `__uprobe_perf_func` calls them before it looks for events of this CPU).
    let (pid, cpu) = if pid == 0 {
        (-1, 0)
    } else {
        (pid as libc::pid_t, -1)
    };
    // SAFETY: `attr` and the path it points to live until the call returns.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attr,
            pid,
            cpu as libc::c_int,
            -1 as libc::c_int,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Looks an element up.
pub fn map_lookup<K: Plain, V: Plain>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    let mut value = MaybeUninit::<V>::uninit();
    let mut attr = attr();
    // SAFETY: the union's member for this command.
    let u = unsafe { &mut attr.__bindgen_anon_2 };
    u.map_fd = map.as_raw_fd() as u32;
    u.key = std::ptr::from_ref(key) as u64;
    u.__bindgen_anon_1.value = value.as_mut_ptr() as u64;
    match bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr) {
        // SAFETY: the kernel has written the whole value.
        Ok(_) => Ok(Some(unsafe { value.assume_init() })),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes an element.
pub fn map_update<K: Plain, V: Plain>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<()> {
    let mut attr = attr();
    // SAFETY: the union's member for this command.
    let u = unsafe { &mut attr.__bindgen_anon_2 };
    u.map_fd = map.as_raw_fd() as u32;
    u.key = std::ptr::from_ref(key) as u64;
    u.__bindgen_anon_1.value = std::ptr::from_ref(value) as u64;
    bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// How many elements a map has, by its keys alone.
///
/// # Errors
/// The errno of bpf(2) `BPF_MAP_GET_NEXT_KEY`.
pub fn map_count<K: Plain>(map: BorrowedFd<'_>) -> io::Result<u64> {
    let mut count = 0;
    let mut key: Option<K> = None;
    loop {
        let mut next = MaybeUninit::<K>::uninit();
        let mut attr = attr();
        // SAFETY: the union's member for this command.
        let u = unsafe { &mut attr.__bindgen_anon_2 };
        u.map_fd = map.as_raw_fd() as u32;
        u.key = key.as_ref().map_or(0, |key| std::ptr::from_ref(key) as u64);
        u.__bindgen_anon_1.next_key = next.as_mut_ptr() as u64;
        match bpf(bpf_cmd::BPF_MAP_GET_NEXT_KEY, &mut attr) {
            Ok(_) => count += 1,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(count),
            Err(error) => return Err(error),
        }
        // SAFETY: written by the kernel.
        key = Some(unsafe { next.assume_init() });
    }
}

/// Removes an element; an absent one is no error.
pub fn map_delete<K: Plain>(map: BorrowedFd<'_>, key: &K) -> io::Result<()> {
    let mut attr = attr();
    // SAFETY: the union's member for this command.
    let u = unsafe { &mut attr.__bindgen_anon_2 };
    u.map_fd = map.as_raw_fd() as u32;
    u.key = std::ptr::from_ref(key) as u64;
    match bpf(bpf_cmd::BPF_MAP_DELETE_ELEM, &mut attr) {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
        _ => Ok(()),
    }
}

/// Removes elements in one call (kernel 5.6); absent ones are no error.
pub fn map_delete_all<K: Plain>(map: BorrowedFd<'_>, mut keys: &[K]) -> io::Result<()> {
    while let Some(first) = keys.first() {
        let mut attr = attr();
        // SAFETY: the union's member for this command.
        let u = unsafe { &mut attr.batch };
        u.map_fd = map.as_raw_fd() as u32;
        u.keys = address_of(keys);
        u.count = keys.len() as u32;
        if bpf(bpf_cmd::BPF_MAP_DELETE_BATCH, &mut attr).is_ok() {
            return Ok(());
        }
        // It stops at a key that it cannot remove and says how many it has: that one by itself.
        // SAFETY: the kernel reports how far it came.
        let removed = unsafe { attr.batch.count } as usize;
        keys = keys.get(removed.min(keys.len())..).unwrap_or_default();
        map_delete(map, keys.first().unwrap_or(first))?;
        keys = keys.get(1..).unwrap_or_default();
    }
    Ok(())
}

/// Reads a whole hash map in batches (kernel 5.6). Elements that stay while it runs are seen exactly once.
///
/// # Errors
/// The errno of bpf(2) `BPF_MAP_LOOKUP_BATCH`.
pub fn map_for_each<K: Plain, V: Plain>(map: BorrowedFd<'_>, mut each: impl FnMut(&K, &V)) -> io::Result<()> {
    let mut capacity = 4096;
    let mut keys: Vec<MaybeUninit<K>> = Vec::new();
    let mut values: Vec<MaybeUninit<V>> = Vec::new();
    // The kernel's position: opaque, 4 bytes for a hash map.
    let mut position: Option<u64> = None;
    loop {
        keys.resize_with(capacity, MaybeUninit::uninit);
        values.resize_with(capacity, MaybeUninit::uninit);
        let mut next = 0_u64;
        let mut attr = attr();
        // SAFETY: the union's member for this command.
        let u = unsafe { &mut attr.batch };
        u.in_batch = position
            .as_ref()
            .map_or(0, |position| std::ptr::from_ref(position) as u64);
        u.out_batch = std::ptr::from_mut(&mut next) as u64;
        u.keys = keys.as_mut_ptr() as u64;
        u.values = values.as_mut_ptr() as u64;
        u.count = capacity as u32;
        u.map_fd = map.as_raw_fd() as u32;
        let end = match bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr) {
            Ok(_) => false,
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOENT) => true,
                // A bucket with more elements than the buffer takes: nothing was read.
                Some(libc::ENOSPC) => {
                    capacity *= 2;
                    continue;
                }
                Some(libc::EINTR | libc::EAGAIN) => continue,
                _ => return Err(error),
            },
        };
        // SAFETY: the kernel reports how many it has written.
        let count = unsafe { attr.batch.count } as usize;
        for (key, value) in keys.iter().zip(&values).take(count) {
            // SAFETY: written by the kernel.
            each(unsafe { key.assume_init_ref() }, unsafe {
                value.assume_init_ref()
            });
        }
        if end {
            return Ok(());
        }
        position = Some(next);
    }
}

/// An array of the kernel side's in this process's memory: user space writes it by plain stores, and the kernel
/// side may read at any time.
#[derive(Debug)]
pub struct MappedArray<T: Plain> {
    base: NonNull<T>,
    len: usize,
    mapped_bytes: usize,
}

impl<T: Plain> MappedArray<T> {
    /// Maps the first `len` elements. Those of the map itself must be multiples of 8 bytes, or the kernel rounds each
    /// of them up (`array_map_alloc` in kernel/bpf/arraymap.c, 6.1).
    ///
    /// # Errors
    /// The errno of mmap(2): EINVAL also when the array is shorter, EACCES when it is not `BPF_F_MMAPABLE`.
    pub fn new(map: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        let page_bytes = rustix::param::page_size();
        let mapped_bytes = len
            .checked_mul(size_of::<T>())
            .and_then(|bytes| bytes.checked_next_multiple_of(page_bytes))
            .filter(|&bytes| bytes > 0)
            .ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a new mapping, where the kernel likes.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapped_bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self {
            base,
            len,
            mapped_bytes,
        })
    }

    /// How many elements there are.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Writes elements from `index` on.
    ///
    /// # Panics
    /// Beyond the end of the array.
    pub fn write(&mut self, index: usize, items: &[T]) {
        let end = index.checked_add(items.len());
        assert!(
            end.is_some_and(|end| end <= self.len),
            "write beyond a mapped array"
        );
        for (position, item) in (index..).zip(items) {
            // SAFETY: within the mapping, as just checked. Volatile, because the kernel reads it.
            unsafe { self.base.add(position).write_volatile(*item) };
        }
    }

    /// Reads an element.
    ///
    /// # Panics
    /// Beyond the end of the array.
    pub fn read(&self, index: usize) -> T {
        assert!(index < self.len, "read beyond a mapped array");
        // SAFETY: within the mapping, and any bytes are a value.
        unsafe { self.base.add(index).read_volatile() }
    }

    /// Stores a word at `offset` bytes into an element, at once and after all that was written before.
    ///
    /// # Panics
    /// Beyond the end of the array or of the element, or where the word is not aligned.
    pub fn store_u64(&self, index: usize, offset: usize, value: u64) {
        let word = self.field(index, offset, size_of::<u64>()).cast::<u64>();
        // SAFETY: within the mapping and aligned, as just checked; shared with the kernel alone.
        unsafe { AtomicU64::from_ptr(word.as_ptr()) }.store(value, Ordering::Release);
    }

    /// The same for half a word.
    ///
    /// # Panics
    /// As [`Self::store_u64`].
    pub fn store_u32(&self, index: usize, offset: usize, value: u32) {
        let word = self.field(index, offset, size_of::<u32>()).cast::<u32>();
        // SAFETY: as above.
        unsafe { AtomicU32::from_ptr(word.as_ptr()) }.store(value, Ordering::Release);
    }

    /// Reads 32 bits of an element at once, `offset` bytes into it; what the kernel side wrote before them is seen as well.
    ///
    /// # Panics
    /// As [`Self::store_u64`].
    pub fn load_u32(&self, index: usize, offset: usize) -> u32 {
        let word = self.field(index, offset, size_of::<u32>()).cast::<u32>();
        // SAFETY: as above.
        unsafe { AtomicU32::from_ptr(word.as_ptr()) }.load(Ordering::Acquire)
    }

    fn field(&self, index: usize, offset: usize, size_bytes: usize) -> NonNull<u8> {
        let in_element = offset
            .checked_add(size_bytes)
            .is_some_and(|end| end <= size_of::<T>());
        assert!(index < self.len && in_element, "store beyond a mapped array");
        let offset_bytes = index * size_of::<T>() + offset;
        assert!(
            offset_bytes.is_multiple_of(size_bytes),
            "store across words of a mapped array"
        );
        // SAFETY: within the mapping, as just checked.
        unsafe { self.base.cast::<u8>().add(offset_bytes) }
    }
}

impl<T: Plain> Drop for MappedArray<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and nothing borrowed from it is left.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.mapped_bytes) };
    }
}

/// A page of a file in this process's memory, to be looked at by its address alone: reading it would be fatal where the
/// file has been cut short.
#[derive(Debug)]
pub struct MappedPage {
    base: NonNull<libc::c_void>,
}

impl MappedPage {
    /// Maps the first page. It is in memory as soon as it is mapped, if the file has one and it can be read.
    ///
    /// # Errors
    /// The errno of mmap(2).
    pub fn first_of(file: BorrowedFd<'_>) -> io::Result<Self> {
        // SAFETY: a new mapping, where the kernel likes; nobody reads it.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                rustix::param::page_size(),
                libc::PROT_READ,
                libc::MAP_PRIVATE | libc::MAP_POPULATE,
                file.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { base })
    }

    /// Where it is.
    pub fn address(&self) -> u64 {
        self.base.as_ptr() as u64
    }
}

impl Drop for MappedPage {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and nothing is borrowed from it.
        unsafe { libc::munmap(self.base.as_ptr(), rustix::param::page_size()) };
    }
}

/// A command whose child writes its pid to `report` and then waits for a byte on `gate` before it
/// executes the program. `other_end` is leaktrace's end of the gate: the child closes its copy, or it
/// would keep its own gate open when leaktrace is gone.
pub fn hold_before_exec(command: &mut Command, report: OwnedFd, gate: OwnedFd, other_end: RawFd) {
    let held = move || {
        // SAFETY: the child's own copy, which nothing else in the child uses.
        unsafe { libc::close(other_end) };
        let pid = std::process::id().to_ne_bytes();
        write_all(report.as_fd(), &pid)?;
        let mut byte = [0_u8; 1];
        loop {
            // SAFETY: a plain read into a buffer of that size; async-signal-safe.
            let read = unsafe { libc::read(gate.as_raw_fd(), byte.as_mut_ptr().cast(), 1) };
            match read {
                1 => return Ok(()),
                // leaktrace is gone or gave up.
                0 => return Err(io::Error::from_raw_os_error(libc::ECANCELED)),
                _ => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
    };
    // SAFETY: between fork and exec it only calls close, write and read and allocates nothing.
    unsafe { command.pre_exec(held) };
}

fn write_all(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: a plain write of a live buffer; async-signal-safe.
    let written = unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
    if written == bytes.len() as isize {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Registers a descriptor with the event loop.
pub fn watch_readable(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the `AsyncFd` owns the descriptor, so it stays open and the same until it is dropped.
    unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }.map_err(io::Error::from)
}

// SAFETY: malloc takes any size and touches nothing of the caller's.
unsafe extern "C" {
    /// The C allocator, for the program that `leaktrace demo` traces. What it returns can only be lost:
    /// to give a block back, take a [`CBlock`].
    pub safe fn malloc(size_bytes: usize) -> *mut libc::c_void;
}

/// A block of the C allocator that goes back to it, for the same program.
#[derive(Debug)]
pub struct CBlock(*mut libc::c_void);

impl CBlock {
    /// `malloc(size_bytes)`
    #[inline(always)]
    pub fn new(size_bytes: usize) -> Self {
        Self(std::hint::black_box(malloc(size_bytes)))
    }
}

impl Drop for CBlock {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: from malloc, and freed only here.
        unsafe { libc::free(self.0) }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::unix::fs::FileExt as _};

    use super::*;

    fn array(len: usize) -> (MappedArray<unwind::CodeMapping>, File) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(64 << 10).unwrap();
        (MappedArray::new(file.as_fd(), len).unwrap(), file)
    }

    #[test]
    fn what_is_written_to_a_mapped_array_is_in_the_file() {
        let (mut array, file) = array(100);
        let mapping = unwind::CodeMapping {
            begin: 7,
            kind: 9,
            ..unwind::CodeMapping::default()
        };
        array.write(98, &[mapping; 2]);
        array.store_u64(97, 8, 0x1122_3344_5566_7788);
        array.store_u32(97, 36, 5);
        assert_eq!(array.load_u32(97, 36), 5);
        assert_eq!(array.read(99), mapping);
        assert_eq!(
            (array.read(97).end, array.read(97).kind),
            (0x1122_3344_5566_7788, 5)
        );
        let mut word = [0; 8];
        file.read_exact_at(&mut word, 98 * 40).unwrap();
        assert_eq!(u64::from_ne_bytes(word), 7);
    }

    #[test]
    fn nothing_is_written_beyond_a_mapped_array() {
        let out_of_bounds = |f: &dyn Fn(&mut MappedArray<unwind::CodeMapping>)| {
            let (mut array, _file) = array(100);
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| f(&mut array))).is_err()
        };
        let mapping = unwind::CodeMapping::default();
        assert!(out_of_bounds(&|array| array.write(99, &[mapping; 2])));
        assert!(out_of_bounds(&|array| array.write(usize::MAX, &[mapping])));
        assert!(out_of_bounds(&|array| assert_eq!(array.read(100), mapping)));
        assert!(out_of_bounds(&|array| array.store_u64(100, 0, 1)));
        assert!(out_of_bounds(&|array| array.store_u64(0, 40, 1)));
        assert!(out_of_bounds(&|array| array.store_u64(0, 36, 1)));
        assert!(out_of_bounds(&|array| array.store_u64(0, usize::MAX, 1)));
        assert!(out_of_bounds(&|array| array.store_u32(0, 2, 1)));
        assert!(out_of_bounds(&|array| assert_eq!(array.load_u32(100, 0), 0)));
        assert!(!out_of_bounds(&|array| array.write(100, &[])));
    }

    #[test]
    fn an_array_without_elements_or_too_large_for_memory_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        assert!(MappedArray::<u64>::new(file.as_fd(), 0).is_err());
        assert!(MappedArray::<u64>::new(file.as_fd(), usize::MAX).is_err());
    }
}
