//! Empty programs on the functions that leaktrace would probe: the least that tracing a process can cost.
//!
//! `floor --pid PID [--at sites|symbols] [--returns take|skip] [--copy]`, as root. Says `ready` and what it probes
//! on stdout, and takes the probes out when its stdin ends or SIGINT comes. `cargo xtask bench overhead` measures with it.
//! With `--copy` the programs on allocating functions are not empty: they copy 4 KiB of the stack and drop them, the
//! least that a tracer pays that walks stacks elsewhere.
//! Functions, files and links are the library's own, so that the floor is leaktrace's; must not know what
//! is recorded of a call.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "an example: what it prints is what it is for"
)]

use std::{
    io::{self, Read as _},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd},
    path::Path,
    process::ExitCode,
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::MapData;
use aya_obj::generated::{bpf_insn, bpf_map_type};
use clap::{Parser, ValueEnum};
use leaktrace::{
    kernel::{
        caps::{AttachKind, constant_program},
        sys::{self, Point, ProgramImage},
    },
    probe::{
        elf::{Function, Returns},
        process,
    },
    traced::catalog::Catalog,
};

/// Attach empty programs where leaktrace would attach its own
#[derive(Parser)]
struct Args {
    /// The process
    #[arg(long)]
    pid: u32,
    /// At which instruction of a function
    #[arg(long, value_enum, default_value_t = At::Sites)]
    at: At,
    /// Whether the entry run asks for the return
    #[arg(long, value_enum, default_value_t = Take::Take)]
    returns: Take,
    /// Copy 4 KiB of the stack at each entry of an allocating function; without its return
    #[arg(long)]
    copy: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum At {
    /// The one that leaktrace chooses
    Sites,
    /// The first
    Symbols,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Take {
    /// It does: two traps a call
    Take,
    /// It does not: one
    Skip,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("floor: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let programs = if args.copy {
        Programs::load_copying()?
    } else {
        Programs::load(args.returns)?
    };
    let mut catalog = Catalog::default();
    let mut objects = Vec::new();
    for mapping in process::mappings(args.pid)?
        .iter()
        .filter(|mapping| mapping.executable)
    {
        let object = catalog.of_mapping(args.pid, mapping);
        objects.extend(object.filter(|object| !objects.contains(object)));
    }
    let mut links = Vec::new();
    for object in objects {
        let Some(scan) = catalog.scanned(object).filter(|scan| !scan.functions.is_empty()) else {
            continue;
        };
        let path = catalog.usable_path(object).unwrap_or_default();
        links.extend(programs.attach(&path, args, &scan.functions)?);
        println!("{}: {} functions", catalog.name(object), scan.functions.len());
    }
    ensure!(
        !links.is_empty(),
        "process {} maps no file with a function that leaktrace knows; name another process",
        args.pid
    );
    println!("ready");
    // SIGINT ends the process, and the kernel takes the links out with their descriptors.
    io::stdin()
        .read_to_end(&mut Vec::new())
        .context("cannot read stdin")?;
    Ok(())
}

/// The instruction of a function that is probed.
const fn point(function: &Function, at: At) -> Point {
    Point {
        offset: match at {
            At::Sites => function.probe_offset(),
            At::Symbols => function.offset,
        },
        cookie: 0,
    }
}

/// What runs in place of leaktrace's programs.
struct Programs {
    /// Entry and return of an allocating function.
    session: OwnedFd,
    /// A single moment.
    plain: OwnedFd,
    /// Where stacks are copied to.
    _room: Option<MapData>,
}

/// Bytes of stack that are copied.
const COPIED_BYTES: i32 = 4096;

impl Programs {
    fn load(returns: Take) -> Result<Self> {
        // What the entry run of a session returns: 0 asks for the return, 1 skips it.
        let skip = i32::from(returns == Take::Skip);
        Ok(Self {
            session: constant_program(AttachKind::SESSION_ATTACH_TYPE, skip)
                .context("no session program (Linux 6.13 and root are needed)")?,
            plain: constant_program(AttachKind::MULTI_ATTACH_TYPE, 0)?,
            _room: None,
        })
    }

    fn load_copying() -> Result<Self> {
        let kind = bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY as u32;
        let room = aya_obj::Map::new_from_params(kind, size_of::<u32>() as u32, COPIED_BYTES as u32, 1, 0);
        let room = MapData::create(room, "copied", None).context("no map of 4 KiB a CPU")?;
        let session = sys::load_program(&ProgramImage {
            name: "copy_stack",
            instructions: &copy_stack(room.fd().as_fd().as_raw_fd()),
            attach_type: AttachKind::SESSION_ATTACH_TYPE,
            btf: None,
            functions: &[],
            lines: &[],
        });
        Ok(Self {
            session: session
                .map_err(|(error, log)| anyhow::anyhow!("the copying program is refused: {error}\n{log}"))?,
            plain: constant_program(AttachKind::MULTI_ATTACH_TYPE, 0)?,
            _room: Some(room),
        })
    }

    /// As `Attacher::attach` with session links does.
    fn attach(&self, path: &Path, args: &Args, functions: &[Function]) -> Result<Vec<OwnedFd>> {
        let at_entry = |wanted: &dyn Fn(&Returns) -> bool| -> Vec<Point> {
            let wanted = functions.iter().filter(|function| wanted(&function.returns));
            wanted.map(|function| point(function, args.at)).collect()
        };
        let calls = at_entry(&|returns| matches!(returns, Returns::Probe));
        let others = at_entry(&|returns| !matches!(returns, Returns::Probe));
        let rets = match args.returns {
            Take::Take => ret_instructions(functions),
            Take::Skip => Vec::new(),
        };
        let session = (&self.session, AttachKind::SESSION_ATTACH_TYPE);
        let plain = (&self.plain, AttachKind::MULTI_ATTACH_TYPE);
        [(session, calls), (plain, others), (plain, rets)]
            .into_iter()
            .filter(|(_, points)| !points.is_empty())
            .map(|((program, attach_type), points)| {
                sys::link_multi(
                    program.as_fd(),
                    attach_type,
                    path,
                    &points,
                    args.pid as i32,
                    false,
                )
                .with_context(|| format!("cannot probe {} in process {}", path.display(), args.pid))
            })
            .collect()
    }
}

/// `room = lookup(map, 0); if (room) probe_read_user(room, 4096, regs->sp); return 1`
fn copy_stack(map: RawFd) -> [bpf_insn; 14] {
    // Classes, sizes and modes of include/uapi/linux/bpf.h put together.
    const LOAD: u8 = 0x79;
    const LOAD_IMM64: u8 = 0x18;
    const STORE_IMM32: u8 = 0x62;
    const MOV: u8 = 0xbf;
    const MOV_IMM: u8 = 0xb7;
    const ADD_IMM: u8 = 0x07;
    const CALL: u8 = 0x85;
    const JUMP_IF_ZERO: u8 = 0x15;
    const EXIT: u8 = 0x95;
    const PSEUDO_MAP_FD: u8 = 1;
    /// Of `sp` in `struct pt_regs`, arch/x86/include/asm/ptrace.h.
    const SP: i16 = 152;
    const LOOKUP: i32 = 1;
    const PROBE_READ_USER: i32 = 112;
    let step = |code, to, from, off, imm| bpf_insn {
        code,
        _bitfield_align_1: [],
        _bitfield_1: bpf_insn::new_bitfield_1(to, from),
        off,
        imm,
    };
    [
        step(LOAD, 6, 1, SP, 0),
        step(STORE_IMM32, 10, 0, -4, 0),
        step(MOV, 2, 10, 0, 0),
        step(ADD_IMM, 2, 0, 0, -4),
        step(LOAD_IMM64, 1, PSEUDO_MAP_FD, 0, map),
        step(0, 0, 0, 0, 0),
        step(CALL, 0, 0, 0, LOOKUP),
        step(JUMP_IF_ZERO, 0, 0, 4, 0),
        step(MOV, 1, 0, 0, 0),
        step(MOV_IMM, 2, 0, 0, COPIED_BYTES),
        step(MOV, 3, 6, 0, 0),
        step(CALL, 0, 0, 0, PROBE_READ_USER),
        // Of a session: the return is skipped.
        step(MOV_IMM, 0, 0, 0, 1),
        step(EXIT, 0, 0, 0, 0),
    ]
}

/// Where the returns of functions are seen that take no return probe; each instruction once.
fn ret_instructions(functions: &[Function]) -> Vec<Point> {
    let mut offsets: Vec<u64> = functions
        .iter()
        .filter_map(|function| match &function.returns {
            Returns::Instructions(offsets) => Some(offsets),
            _ => None,
        })
        .flatten()
        .copied()
        .collect();
    offsets.sort_unstable();
    offsets.dedup();
    let points = offsets.into_iter();
    points.map(|offset| Point { offset, cookie: 0 }).collect()
}
