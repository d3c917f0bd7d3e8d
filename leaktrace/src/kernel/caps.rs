//! What this kernel and this user can do, found out once at start by trying, not by version numbers.

use std::{
    fmt, fs, io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use aya::maps::MapData;
use aya_obj::generated::{bpf_insn, bpf_map_type};

use leaktrace_common::unwind::ReturnProbes;

use super::{
    btf,
    object::chain,
    sideband::Sideband,
    sys::{self, PerfUprobe, Point, ProgramImage},
    version::KernelVersion,
};

/// The kernel's mechanisms for a uprobe with a return, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum AttachKind {
    /// One program for entry and return, which may skip the return (kernel 6.13).
    Session,
    /// Many instructions by one link, entry and return apart (kernel 6.6).
    Multi,
    /// A perf event for each instruction.
    Perf,
}

impl AttachKind {
    /// `BPF_TRACE_UPROBE_MULTI` (include/uapi/linux/bpf.h, 6.6).
    pub const MULTI_ATTACH_TYPE: u32 = 48;
    /// `BPF_TRACE_UPROBE_SESSION` (include/uapi/linux/bpf.h, 6.13).
    pub const SESSION_ATTACH_TYPE: u32 = 57;

    /// The name, as typed and as reported.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Multi => "multi",
            Self::Perf => "perf",
        }
    }

    /// The attach type of programs that are no session, where this mechanism is in use.
    pub const fn attach_type_of_multi(self) -> u32 {
        match self {
            Self::Session | Self::Multi => Self::MULTI_ATTACH_TYPE,
            Self::Perf => 0,
        }
    }
}

impl fmt::Display for AttachKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Caps {
    /// `uname -r`.
    pub release: String,
    /// The same, parsed; zeros when it cannot be.
    pub version: KernelVersion,
    /// Where the kernel keeps return addresses under return probes, from its BTF; else why that is not known.
    pub return_probes: Result<ReturnProbes, String>,
    /// Where it keeps a thread's thread pointer, by which Python's frames are found.
    pub thread_pointer: Result<u32, String>,
    /// leaktrace sees the pids that the kernel sees; else why not.
    pub pids: Result<(), String>,
    /// A uprobe program can be loaded; else why not.
    pub load: Result<(), String>,
    /// Multi links with a process filter that works.
    pub multi: Result<(), String>,
    /// Session links.
    pub session: Result<(), String>,
    /// The uprobe PMU.
    pub perf: Result<PerfUprobe, String>,
    /// Batch reads of maps.
    pub batch: Result<(), String>,
    /// `bpf_loop`, by which the kernel side follows a stack by tables.
    pub bpf_loop: Result<(), String>,
    /// perf's side-band.
    pub sideband: Result<(), String>,
    /// Effective capabilities that matter, each with whether it is held.
    pub capabilities: Vec<(&'static str, bool)>,
}

impl Caps {
    /// Tries everything. Loads a two-instruction program a few times and attaches nothing.
    pub fn probe() -> Self {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease")
            .unwrap_or_default()
            .trim()
            .to_owned();
        let program = empty_program(0);
        let perf = perf_uprobe();
        Self {
            version: KernelVersion::parse(&release).unwrap_or(KernelVersion::new(0, 0, 0)),
            release,
            thread_pointer: btf::thread_pointer().map_err(|error| error.to_string()),
            return_probes: btf::return_probes().map_err(|error| error.to_string()),
            pids: first_pid_namespace(),
            load: program.as_ref().map(drop).map_err(ToString::to_string),
            multi: multi(),
            session: session(),
            perf,
            batch: batch(),
            bpf_loop: bpf_loop(),
            sideband: Sideband::open().map(drop).map_err(|error| error.to_string()),
            capabilities: capabilities(),
        }
    }

    /// The best mechanism there is.
    pub const fn best(&self) -> Option<AttachKind> {
        if self.load.is_err() {
            return None;
        }
        match (&self.session, &self.multi, &self.perf) {
            (Ok(()), Ok(()), _) => Some(AttachKind::Session),
            (_, Ok(()), _) => Some(AttachKind::Multi),
            (_, _, Ok(_)) => Some(AttachKind::Perf),
            _ => None,
        }
    }

    /// Whether `kind` can be used here; else why not.
    pub fn check(&self, kind: AttachKind) -> Result<(), String> {
        match kind {
            AttachKind::Session => self.session.clone().and(self.multi.clone()),
            AttachKind::Multi => self.multi.clone(),
            AttachKind::Perf => self.perf.clone().map(drop),
        }
    }
}

fn empty_program(attach_type: u32) -> io::Result<OwnedFd> {
    constant_program(attach_type, 0)
}

/// A program that does nothing: `r0 = value; exit`.
///
/// # Errors
/// The errno of bpf(2) `BPF_PROG_LOAD`.
pub fn constant_program(attach_type: u32, value: i32) -> io::Result<OwnedFd> {
    const MOV64_IMM: u8 = 0xb7;
    const EXIT: u8 = 0x95;
    load_instructions(attach_type, &[(MOV64_IMM, value), (EXIT, 0)]).map_err(|(error, _log)| error)
}

/// Loads a program of instructions that have only an operation and a constant. With the error comes the verifier's log.
fn load_instructions(attach_type: u32, instructions: &[(u8, i32)]) -> Result<OwnedFd, (io::Error, String)> {
    let instructions = instructions.iter().map(|&(code, imm)| bpf_insn {
        code,
        _bitfield_align_1: [],
        _bitfield_1: bpf_insn::new_bitfield_1(0, 0),
        off: 0,
        imm,
    });
    let instructions: Vec<bpf_insn> = instructions.collect();
    sys::load_program(&ProgramImage {
        name: "leaktrace_try",
        instructions: &instructions,
        attach_type,
        btf: None,
        functions: &[],
        lines: &[],
    })
}

/// Whether a probe may call `bpf_loop` (kernel 5.17).
///
/// The program gives it no arguments, so it is refused in any case: a verifier that knows the helper speaks of the
/// arguments (as libbpf asks, `libbpf_probe_bpf_helper` in its `libbpf_probes.c`).
fn bpf_loop() -> Result<(), String> {
    const CALL: u8 = 0x85;
    const EXIT: u8 = 0x95;
    // BPF_FUNC_loop, include/uapi/linux/bpf.h.
    const BPF_LOOP: i32 = 181;
    let Err((error, log)) = load_instructions(0, &[(CALL, BPF_LOOP), (EXIT, 0)]) else {
        return Ok(());
    };
    let unknown = [
        "invalid func ",
        "unknown func ",
        "program of this type cannot use helper ",
    ];
    if unknown.iter().any(|words| log.contains(words)) {
        Err("no bpf_loop (kernel 5.17 has it)".to_owned())
    } else if log.is_empty() {
        Err(error.to_string())
    } else {
        Ok(())
    }
}

/// Asks for a link to `/`, which is no file that could be probed: the errno tells how far the kernel came.
fn try_link(program: BorrowedFd<'_>, attach_type: u32, pid: i32) -> Option<i32> {
    let point = Point { offset: 0, cookie: 0 };
    sys::link_multi(program, attach_type, Path::new("/"), &[point], pid, false)
        .err()?
        .raw_os_error()
}

/// The pid filter of the first multi links went by thread, not by process (fixed in 6.10 by commit
/// 46ba0e49b642, "bpf: fix multi-uprobe PID filtering logic"). A fixed kernel refuses pid -1 with EINVAL
/// before it looks at the path.
fn multi() -> Result<(), String> {
    let attach_type = AttachKind::MULTI_ATTACH_TYPE;
    let program = empty_program(attach_type).map_err(|error| error.to_string())?;
    if try_link(program.as_fd(), attach_type, 0) != Some(libc::EBADF) {
        return Err("no uprobe_multi links (kernel 6.6 has them)".to_owned());
    }
    if try_link(program.as_fd(), attach_type, -1) != Some(libc::EINVAL) {
        return Err(
            "uprobe_multi links filter by thread instead of process (fixed in kernel 6.10)".to_owned(),
        );
    }
    Ok(())
}

fn session() -> Result<(), String> {
    let attach_type = AttachKind::SESSION_ATTACH_TYPE;
    let program = empty_program(attach_type).map_err(|error| error.to_string())?;
    if try_link(program.as_fd(), attach_type, 0) != Some(libc::EBADF) {
        return Err("no uprobe_session links (kernel 6.13 has them)".to_owned());
    }
    Ok(())
}

fn perf_uprobe() -> Result<PerfUprobe, String> {
    let folder = "/sys/bus/event_source/devices/uprobe";
    let read = |file: &str| {
        let path = format!("{folder}/{file}");
        fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))
    };
    let pmu_type = read("type")?
        .trim()
        .parse()
        .map_err(|error| format!("{folder}/type: {error}"))?;
    let format = read("format/retprobe")?;
    let return_bit = format
        .trim()
        .strip_prefix("config:")
        .and_then(|bit| bit.parse().ok())
        .ok_or_else(|| format!("{folder}/format/retprobe: {format:?}"))?;
    Ok(PerfUprobe { pmu_type, return_bit })
}

fn batch() -> Result<(), String> {
    let definition = aya_obj::Map::new_from_params(bpf_map_type::BPF_MAP_TYPE_HASH as u32, 4, 4, 4, 0);
    let map = MapData::create(definition, "leaktrace_try", None).map_err(|error| chain(&error))?;
    sys::map_for_each(map.fd().as_fd(), |_: &u32, _: &u32| ())
        .map_err(|error| format!("no batch reads of maps: {error}"))
}

/// The kernel side knows processes by their pids in the first pid namespace.
fn first_pid_namespace() -> Result<(), String> {
    // PROC_PID_INIT_INO, include/linux/proc_ns.h.
    const FIRST: &str = "pid:[4026531836]";
    match fs::read_link("/proc/self/ns/pid") {
        Ok(link) if link.as_os_str() == FIRST => Ok(()),
        Ok(_) => {
            Err("leaktrace runs in a pid namespace of its own, where pids are not the kernel's".to_owned())
        }
        Err(error) => Err(format!("/proc/self/ns/pid: {error}")),
    }
}

fn capabilities() -> Vec<(&'static str, bool)> {
    // include/uapi/linux/capability.h
    const WANTED: [(&str, u32); 4] = [
        ("CAP_BPF", 39),
        ("CAP_PERFMON", 38),
        ("CAP_SYS_PTRACE", 19),
        ("CAP_SYS_ADMIN", 21),
    ];
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    WANTED
        .map(|(name, bit)| (name, effective >> bit & 1 == 1))
        .to_vec()
}
