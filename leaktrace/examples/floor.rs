//! Empty programs on the functions that leaktrace would probe: the least that tracing a process can cost.
//!
//! `floor --pid PID [--at sites|symbols] [--returns take|skip]`, as root. Says `ready` and what it probes
//! on stdout, and takes the probes out when its stdin ends or SIGINT comes. `cargo xtask bench overhead` measures with it.
//! Functions, files and links are the library's own, so that the floor is leaktrace's; must not know what
//! is recorded of a call.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "an example: what it prints is what it is for"
)]

use std::{
    io::{self, Read as _},
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    process::ExitCode,
};

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum};
use leaktrace::{
    kernel::{
        caps::{AttachKind, constant_program},
        sys::{self, Point},
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
    let programs = Programs::load(args.returns)?;
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
        let Some(scan) = catalog.scan(object).filter(|scan| !scan.functions.is_empty()) else {
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
}

impl Programs {
    fn load(returns: Take) -> Result<Self> {
        // What the entry run of a session returns: 0 asks for the return, 1 skips it.
        let skip = i32::from(returns == Take::Skip);
        Ok(Self {
            session: constant_program(AttachKind::SESSION_ATTACH_TYPE, skip)
                .context("no session program (Linux 6.13 and root are needed)")?,
            plain: constant_program(AttachKind::MULTI_ATTACH_TYPE, 0)?,
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
