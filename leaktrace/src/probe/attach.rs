//! Putting the probes of one object into one process, and taking them out.
//!
//! A link is scoped to its process: breakpoints are placed in that process alone. (A child that it forks
//! has them in its copy of the memory until the link goes; they trap there and nothing runs.) Or it is for [`ALL`]
//! processes that map the file. Links are descriptors, so however leaktrace ends, the kernel removes the probes.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use leaktrace_common::call::{Op, Space};

use super::{
    elf::{Function, Returns},
    linker::Linker,
};
use crate::kernel::{
    caps::AttachKind,
    programs::{GpuProgram, Programs},
    sys::{self, PerfLink, PerfUprobe, Point},
};

/// In place of a process: all that map the file, now or later.
pub const ALL: u32 = 0;

/// Links that hold the probes of one object in one process, or in all.
///
/// Fields are dropped in this order: first no new call is seen, then no return, and frees last, so that
/// a block that was recorded is not missed when it goes.
#[derive(Debug, Default)]
pub struct Links {
    entries: Vec<Link>,
    returns: Vec<Link>,
    frees: Vec<Link>,
}

/// One link; the probe is there as long as it is.
#[derive(Debug)]
pub(crate) enum Link {
    /// One that may hold many points.
    Multi {
        /// Never read, only held.
        _link: OwnedFd,
    },
    /// One that holds one.
    Perf {
        /// Never read, only held.
        _link: PerfLink,
    },
}

/// A probe could not be placed.
#[derive(Debug, thiserror::Error)]
#[error("cannot probe {object} in {}: {source}; {}", whose(*.pid), way_out(source))]
pub struct AttachError {
    object: String,
    pid: u32,
    source: io::Error,
}

impl AttachError {
    /// The same with the name that the process has for the file.
    #[must_use]
    pub fn of_object(self, object: String) -> Self {
        Self { object, ..self }
    }
}

fn whose(pid: u32) -> String {
    if pid == ALL {
        "all processes that map it".to_owned()
    } else {
        format!("process {pid}")
    }
}

fn way_out(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "run as root or with CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE",
        Some(libc::ESRCH) => "the process has ended",
        Some(libc::EMFILE | libc::ENFILE) => "raise the limit of open files (ulimit -n)",
        Some(libc::ENOTSUP) => {
            "the kernel cannot probe one of these instructions; please report this with the output of -v"
        }
        _ => "`leaktrace doctor` tells what this kernel can do",
    }
}

/// Attaches with the programs of one mechanism.
#[derive(Debug)]
pub struct Attacher {
    programs: Programs,
    pmu: Option<PerfUprobe>,
}

/// Which program goes to some points of a file, and how.
pub(crate) struct Placement<'a> {
    /// The program.
    pub program: BorrowedFd<'a>,
    /// Its `expected_attach_type`.
    pub attach_type: u32,
    /// At the return of the functions that begin there.
    pub on_return: bool,
    /// By which mechanism.
    pub kind: AttachKind,
    /// Needed for [`AttachKind::Perf`].
    pub pmu: Option<PerfUprobe>,
}

impl Placement<'_> {
    /// Places it in process `pid`, or in [`ALL`].
    ///
    /// # Errors
    /// The errno of bpf(2) or `perf_event_open(2)`.
    pub(crate) fn place(&self, path: &Path, pid: u32, points: &[Point]) -> io::Result<Vec<Link>> {
        if points.is_empty() {
            return Ok(Vec::new());
        }
        if self.kind != AttachKind::Perf {
            let link = sys::link_multi(
                self.program,
                self.attach_type,
                path,
                points,
                pid as i32,
                self.on_return,
            )?;
            return Ok(vec![Link::Multi { _link: link }]);
        }
        let pmu = self
            .pmu
            .ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))?;
        points
            .iter()
            .map(|&point| {
                let link = sys::link_perf(self.program, pmu, path, point, pid, self.on_return)?;
                Ok(Link::Perf { _link: link })
            })
            .collect()
    }
}

impl Attacher {
    /// `pmu` is needed for [`AttachKind::Perf`].
    pub const fn new(programs: Programs, pmu: Option<PerfUprobe>) -> Self {
        Self { programs, pmu }
    }

    /// What is attached.
    pub const fn programs(&self) -> &Programs {
        &self.programs
    }

    /// The mechanism in use.
    pub const fn kind(&self) -> AttachKind {
        self.programs.kind
    }

    /// Probes `functions` of the file at `path` in process `pid`, or in [`ALL`]. All of them or, on an error, none.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn attach(&self, path: &Path, pid: u32, functions: &[Function]) -> Result<Links, AttachError> {
        self.place_all(path, pid, functions)
            .map_err(|source| AttachError {
                object: path.display().to_string(),
                pid,
                source,
            })
    }

    /// Probes what the dynamic linker in the file at `path` calls when it changes what is mapped.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn watch_linker(&self, path: &Path, pid: u32, linker: &Linker) -> Result<Links, AttachError> {
        let programs = &self.programs;
        let placement = self.placement(
            programs.linker_state.as_fd(),
            programs.kind.attach_type_of_multi(),
            false,
        );
        let point = Point {
            offset: linker.offset,
            cookie: linker.to_state,
        };
        let entries = placement
            .place(path, pid, &[point])
            .map_err(|source| AttachError {
                object: path.display().to_string(),
                pid,
                source,
            })?;
        Ok(Links {
            entries,
            ..Links::default()
        })
    }

    /// Functions of allocators and of GPUs by the programs of each.
    fn place_all(&self, path: &Path, pid: u32, functions: &[Function]) -> io::Result<Links> {
        let (gpu, heap): (Vec<&Function>, Vec<&Function>) =
            functions.iter().partition(|function| function.is_gpus());
        let mut links = self.place_heap(path, pid, &heap)?;
        let of_gpu = self.place_gpu(path, pid, &gpu)?;
        links.entries.extend(of_gpu.entries);
        links.returns.extend(of_gpu.returns);
        links.frees.extend(of_gpu.frees);
        Ok(links)
    }

    /// Frees first: a block recorded before its free is watched would look like a leak. Then returns:
    /// one without its entry is ignored, an entry without its return would count as abandoned.
    fn place_heap(&self, path: &Path, pid: u32, functions: &[&Function]) -> io::Result<Links> {
        let programs = &self.programs;
        let multi = programs.kind.attach_type_of_multi();
        let at_entry = |wanted: &dyn Fn(&Returns) -> bool| points(functions, |one| wanted(&one.returns));
        let place = |points: &[Point], program: BorrowedFd<'_>, attach_type: u32, on_return: bool| {
            self.placement(program, attach_type, on_return)
                .place(path, pid, points)
        };

        let mut links = Links::default();
        let frees = at_entry(&|returns| matches!(returns, Returns::None));
        links.frees = place(&frees, programs.free_enter.as_fd(), multi, false)?;

        let by_instruction = ret_instructions(functions);
        links.returns = place(&by_instruction, programs.alloc_exit.as_fd(), multi, false)?;
        let by_probe = at_entry(&|returns| matches!(returns, Returns::Probe));
        let throwing = at_entry(&|returns| matches!(returns, Returns::Instructions(_)));
        if programs.alloc_session.is_some() {
            links.entries = place(
                &by_probe,
                programs.alloc_entry(),
                AttachKind::SESSION_ATTACH_TYPE,
                false,
            )?;
        } else {
            links
                .returns
                .extend(place(&by_probe, programs.alloc_exit.as_fd(), multi, true)?);
            links.entries = place(&by_probe, programs.alloc_enter.as_fd(), multi, false)?;
        }
        links
            .entries
            .extend(place(&throwing, programs.alloc_enter.as_fd(), multi, false)?);
        Ok(links)
    }

    /// In the same order. A free of CUDA's may fail, so its return is probed too.
    fn place_gpu(&self, path: &Path, pid: u32, functions: &[&Function]) -> io::Result<Links> {
        let mut links = Links::default();
        if functions.is_empty() {
            return Ok(links);
        }
        let is_free = |one: &Function| one.shape.op == Op::Free;
        let place = |wanted: &dyn Fn(&Function) -> bool, (program, attach_type, on_return)| {
            let points = points(functions, wanted);
            if points.is_empty() {
                return Ok(Vec::new());
            }
            let program = self.programs.gpu(program).map_err(io::Error::other)?;
            self.placement(program, attach_type, on_return)
                .place(path, pid, &points)
        };
        let programs = &self.programs;
        let multi = programs.kind.attach_type_of_multi();
        let session = (GpuProgram::Session, AttachKind::SESSION_ATTACH_TYPE, false);
        let enter = (GpuProgram::Enter, multi, false);
        let (frees, returning) = (&is_free, |one: &Function| one.returns == Returns::Probe);
        let of_frees = |one: &Function| returning(one) && frees(one);
        let of_others = |one: &Function| returning(one) && !frees(one);
        if programs.has_sessions() {
            links.frees = place(&of_frees, session)?;
            links.entries = place(&of_others, session)?;
        } else {
            let exit = (GpuProgram::Exit, multi, true);
            let returns_of_frees = place(&of_frees, exit)?;
            links.frees = place(&of_frees, enter)?;
            links.frees.extend(returns_of_frees);
            links.returns = place(&of_others, exit)?;
            links.entries = place(&of_others, enter)?;
        }
        // By no session, even where there is one: its return probe would be in place for what another tracer's link sees.
        let is_tensor = |one: &Function| one.shape.space == Space::Tensor;
        let noted = |one: &Function| !returning(one) && !is_tensor(one);
        let tensors = |one: &Function| !returning(one) && is_tensor(one);
        links
            .entries
            .extend(place(&noted, (GpuProgram::Note, multi, false))?);
        links
            .entries
            .extend(place(&tensors, (GpuProgram::Tensor, multi, false))?);
        Ok(links)
    }

    const fn placement<'a>(
        &self,
        program: BorrowedFd<'a>,
        attach_type: u32,
        on_return: bool,
    ) -> Placement<'a> {
        Placement {
            program,
            attach_type,
            on_return,
            kind: self.programs.kind,
            pmu: self.pmu,
        }
    }
}

/// Where those functions are probed that are wanted.
fn points(functions: &[&Function], wanted: impl Fn(&Function) -> bool) -> Vec<Point> {
    let wanted = functions.iter().filter(|function| wanted(function));
    wanted
        .map(|function| Point {
            offset: function.probe_offset(),
            cookie: function.cookie.0,
        })
        .collect()
}

/// Links taken out at a time: the kernel waits for grace periods at each, and the waits overlap.
const RELEASED_AT_ONCE: usize = 16;

/// Takes probes out and returns when all are gone.
pub fn release(mut links: Vec<Links>) {
    std::thread::scope(|scope| {
        let share = links.len().div_ceil(RELEASED_AT_ONCE).max(1);
        while !links.is_empty() {
            let part = links.split_off(links.len().saturating_sub(share));
            scope.spawn(move || drop(part));
        }
    });
}

/// The `ret` instructions of functions that can throw. One shared by several functions is probed once: the
/// kernel side pairs by stack pointer, so whichever cookie comes along is right.
fn ret_instructions(functions: &[&Function]) -> Vec<Point> {
    let mut points: Vec<Point> = functions
        .iter()
        .filter_map(|function| match &function.returns {
            Returns::Instructions(offsets) => Some((function.cookie.0, offsets)),
            _ => None,
        })
        .flat_map(|(cookie, offsets)| offsets.iter().map(move |&offset| Point { offset, cookie }))
        .collect();
    points.sort_by_key(|point| point.offset);
    points.dedup_by_key(|point| point.offset);
    points
}
