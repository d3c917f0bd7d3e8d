//! Programs: their BTF, loading them, how long they ran.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
};

use aya_obj::generated::{bpf_cmd, bpf_func_info, bpf_insn, bpf_line_info, bpf_prog_info, bpf_prog_type};

use super::{address_of, attr, bpf, bpf_fd};

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
