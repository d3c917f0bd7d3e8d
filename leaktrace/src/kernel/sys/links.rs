//! Links: where programs are attached.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya_obj::generated::{bpf_attach_type, bpf_cmd};

use super::{address_of, attr, bpf_fd};

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
