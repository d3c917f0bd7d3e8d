//! What `/proc` says of a process: its mappings, what it is, how much memory it holds.
//!
//! Reads only; must not know symbols, probes or the kernel side. Every answer can be out of date when
//! it is returned; [`Facts::start_ticks`] tells whether a pid still means the same process.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};

/// Why a process cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// There is none with this number, or it ended meanwhile.
    #[error("no process has pid {pid}; `pgrep -a NAME` lists the running ones")]
    NoSuchProcess {
        /// The pid.
        pid: u32,
    },
    /// It belongs to somebody else.
    #[error("not allowed to look at process {pid}; run leaktrace as root (sudo leaktrace -p {pid})")]
    PermissionDenied {
        /// The pid.
        pid: u32,
    },
    /// It has ended and waits for its parent.
    #[error(
        "process {pid} ({comm}) has ended and waits for its parent (zombie); start it again and trace the new pid"
    )]
    Zombie {
        /// The pid.
        pid: u32,
        /// Its name.
        comm: String,
    },
    /// Its first thread has ended and others run.
    #[error(
        "the main thread of process {pid} ({comm}) has ended while other threads run, and the kernel scopes probes by it; start the process again to trace it"
    )]
    LeaderEnded {
        /// The pid.
        pid: u32,
        /// Its name.
        comm: String,
    },
    /// It has no user memory.
    #[error("process {pid} ({comm}) is a thread of the kernel and has no heap; name a program's pid")]
    KernelThread {
        /// The pid.
        pid: u32,
        /// Its name.
        comm: String,
    },
    /// The number is that of a thread.
    #[error("{pid} is a thread of process {process}; trace that (-p {process})")]
    Thread {
        /// The number given.
        pid: u32,
        /// The process it belongs to.
        process: u32,
    },
    /// A file of /proc has no such form, or the system refused to read it.
    #[error("cannot read {path}: {source}; check that /proc is mounted")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file of /proc lacks a field.
    #[error("{path} has no {field}; check that /proc is mounted and that the process has not just ended")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is missing.
        field: &'static str,
    },
}

/// A line of `/proc/PID/maps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// Offset of `start` in the file.
    pub offset: u64,
    /// Device of the file, major and minor.
    pub device: (u32, u32),
    /// Inode of the file; 0 for memory without one.
    pub inode: u64,
    /// The file, as the process sees it; `None` for anonymous memory and `[heap]`, `[stack]`, `[vdso]`.
    pub path: Option<PathBuf>,
    /// What the kernel calls memory that is of no file: `[heap]`, `[vdso]`; empty if it has no name for it.
    pub label: String,
    /// Whether code in it can run.
    pub executable: bool,
    /// The file has been unlinked.
    pub deleted: bool,
}

/// How system calls of a process are filtered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seccomp {
    /// Not at all.
    #[default]
    Off,
    /// Four system calls only.
    Strict,
    /// By a program: containers, systemd units, browsers.
    Filter,
}

/// What is to be known of a process before it is traced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its number.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// Path of its executable, as the process sees it.
    pub exe: Option<PathBuf>,
    /// When it started, in clock ticks since boot: with the pid, its identity.
    pub start_ticks: u64,
    /// The strictest filter of any of its threads.
    pub seccomp: Seccomp,
    /// Whether a thread runs on a user shadow stack.
    pub shadow_stack: bool,
    /// How many threads it has.
    pub threads: u32,
}

/// The mappings of a process, in order of address.
///
/// # Errors
/// [`ProcessError`].
pub fn mappings(pid: u32) -> Result<Vec<Mapping>, ProcessError> {
    let path = file_of(pid, "maps");
    let text = fs::read(&path).map_err(|source| failed(pid, path, source))?;
    Ok(text
        .split(|byte| *byte == b'\n')
        .filter_map(parse_mapping)
        .collect())
}

/// Parses one line of `/proc/PID/maps`; `None` if it has not that form.
pub fn parse_mapping(line: &[u8]) -> Option<Mapping> {
    let (range, rest) = word(line)?;
    let (permissions, rest) = word(rest)?;
    let (offset, rest) = word(rest)?;
    let (device, rest) = word(rest)?;
    let (inode, rest) = word(rest)?;
    let (start, end) = split_pair(range, '-')?;
    let device = split_pair(device, ':')?;
    let (path, deleted) = mapped_path(rest);
    let label = match path {
        Some(_) => String::new(),
        None => String::from_utf8_lossy(rest).trim().to_owned(),
    };
    Some(Mapping {
        start,
        end,
        offset: hexadecimal(offset)?,
        device: (u32::try_from(device.0).ok()?, u32::try_from(device.1).ok()?),
        inode: std::str::from_utf8(inode).ok()?.parse().ok()?,
        path,
        label,
        executable: permissions.get(2) == Some(&b'x'),
        deleted,
    })
}

/// The next word and what follows it; spaces before it are dropped, those after it kept.
fn word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let start = text.iter().position(|byte| *byte != b' ')?;
    let text = text.get(start..)?;
    let end = text.iter().position(|byte| *byte == b' ').unwrap_or(text.len());
    Some(text.split_at(end))
}

fn hexadecimal(text: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()
}

fn split_pair(text: &[u8], separator: char) -> Option<(u64, u64)> {
    let (first, second) = std::str::from_utf8(text).ok()?.split_once(separator)?;
    Some((
        u64::from_str_radix(first, 16).ok()?,
        u64::from_str_radix(second, 16).ok()?,
    ))
}

/// The name field: the kernel pads it with spaces, appends ` (deleted)` to unlinked files and writes a
/// newline in a name as `\012`; nothing else is escaped (`seq_file_path` in Linux 6.12).
fn mapped_path(field: &[u8]) -> (Option<PathBuf>, bool) {
    let start = field.iter().position(|byte| *byte != b' ').unwrap_or(field.len());
    let name = field.get(start..).unwrap_or_default();
    // Not a path: `[heap]`, `anon_inode:[perf_event]`, and with an absent name nothing at all.
    if name.first() != Some(&b'/') {
        return (None, false);
    }
    let (name, deleted) = name
        .strip_suffix(b" (deleted)")
        .map_or((name, false), |name| (name, true));
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((first, tail)) = rest.split_first() {
        if let Some(tail) = rest.strip_prefix(b"\\012") {
            bytes.push(b'\n');
            rest = tail;
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    (Some(PathBuf::from(OsString::from_vec(bytes))), deleted)
}

/// Opens the very file that is mapped, unlinked or replaced as its path may be.
///
/// `/proc/PID/map_files` leads to it as long as it is mapped, but following it needs `CAP_SYS_ADMIN` or
/// `CAP_CHECKPOINT_RESTORE` (5.9 and later). Otherwise the path is opened below `/proc/PID/root` (the process may
/// live in a container) and taken if it is the same file. There only the inode is compared: on overlayfs
/// and btrfs `maps` shows the device of the layer or of the volume, `stat` that of the mount.
///
/// # Errors
/// Those of `open`; [`io::ErrorKind::NotFound`] when the path leads to another file by now.
pub fn open_mapped(pid: u32, mapping: &Mapping) -> io::Result<File> {
    let link = format!("/proc/{pid}/map_files/{:x}-{:x}", mapping.start, mapping.end);
    let is_it = |file: &File| file.metadata().is_ok_and(|facts| facts.ino() == mapping.inode);
    // Something else may lie at these addresses by now: libraries that come and go take each other's place.
    let there = match File::open(&link) {
        Ok(file) if is_it(&file) => return Ok(file),
        other => other,
    };
    let Some(path) = mapping.path.as_deref() else {
        return there.and_then(|_| Err(replaced()));
    };
    if !mapping.deleted {
        match File::open(root_path(pid, path)) {
            Ok(file) if is_it(&file) => return Ok(file),
            Ok(_other) if there.is_err() => return Err(replaced()),
            Err(error) if there.is_err() => return Err(error),
            _ => {}
        }
    }
    // Some file systems (overlayfs) give a file one number where it is mapped and another where it is opened.
    let file = there?;
    let leads_to = fs::read_link(&link)?;
    let leads_to = leads_to.to_string_lossy();
    if leads_to.strip_suffix(" (deleted)").unwrap_or(&leads_to) == path.to_string_lossy() {
        Ok(file)
    } else {
        Err(replaced())
    }
}

fn replaced() -> io::Error {
    io::Error::new(
        io::ErrorKind::NotFound,
        "another file has taken the place of the mapped one",
    )
}

/// Where a path below an open folder is found from here.
pub fn below(root: &File, path: &Path) -> Option<PathBuf> {
    let path = path.strip_prefix("/").ok()?;
    Some(PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd())).join(path))
}

/// Where a path that a process sees is found from here.
pub fn root_path(pid: u32, path: &Path) -> PathBuf {
    let below = path.strip_prefix("/").unwrap_or(path);
    file_of(pid, "root").join(below)
}

/// The root of a process's file system, if it is another one than ours. It can be opened below, not read.
pub fn other_root(pid: u32) -> Option<File> {
    let path = file_of(pid, "root");
    let identity = |path: &Path| path.metadata().ok().map(|facts| (facts.dev(), facts.ino()));
    if identity(&path)? == identity(Path::new("/"))? {
        return None;
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::DIRECTORY;
    let root = rustix::fs::openat(CWD, &path, flags, Mode::empty()).ok()?;
    Some(File::from(root))
}

/// Whether the process is there, a zombie included.
pub fn is_alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// Whether the main thread has ended and others live on. A process that has ended as a whole counts one
/// thread, itself.
pub fn leader_has_ended(pid: u32) -> bool {
    Status::read(pid, file_of(pid, "status")).is_ok_and(|status| {
        let is_zombie = status.text("State").is_some_and(|state| state.starts_with('Z'));
        is_zombie && status.number("Threads").is_ok_and(|threads| threads > 1)
    })
}

/// Looks a process up.
///
/// # Errors
/// [`ProcessError`]; zombies, kernel threads and thread numbers are errors too.
pub fn facts(pid: u32) -> Result<Facts, ProcessError> {
    let status = Status::read(pid, file_of(pid, "status"))?;
    let comm = status.text("Name").unwrap_or_default().to_owned();
    let process = status.number("Tgid")?;
    if process != u64::from(pid) {
        return Err(ProcessError::Thread {
            pid,
            process: u32::try_from(process).unwrap_or(u32::MAX),
        });
    }
    if status
        .text("State")
        .is_some_and(|state| state.starts_with(['Z', 'X']))
    {
        // The thread count of a process that has ended is 1 as well: its own.
        let threads = status.number("Threads").unwrap_or(1);
        return Err(if threads > 1 {
            ProcessError::LeaderEnded { pid, comm }
        } else {
            ProcessError::Zombie { pid, comm }
        });
    }
    // `Kthread:` came in 2023 and older kernels lack it. There the only processes without memory are the kernel's: the
    // others are zombies.
    let kernel = status
        .text("Kthread")
        .map_or_else(|| status.text("VmSize").is_none(), |value| value == "1");
    if kernel {
        return Err(ProcessError::KernelThread { pid, comm });
    }
    let (seccomp, shadow_stack) = threads_facts(pid, &status);
    let exe = match fs::read_link(file_of(pid, "exe")) {
        Ok(path) => Some(without_deleted(path)),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(ProcessError::PermissionDenied { pid });
        }
        Err(_) => None,
    };
    Ok(Facts {
        pid,
        exe,
        start_ticks: start_ticks(pid)?,
        seccomp,
        shadow_stack,
        threads: u32::try_from(status.number("Threads")?).unwrap_or(u32::MAX),
        comm,
    })
}

/// Filters and shadow stacks are set for each thread, so each is asked; one that ends meanwhile has
/// nothing to lose.
fn threads_facts(pid: u32, leader: &Status) -> (Seccomp, bool) {
    let mut worst = (leader.seccomp(), leader.shadow_stack());
    let Ok(threads) = fs::read_dir(file_of(pid, "task")) else {
        return worst;
    };
    for thread in threads.flatten() {
        if let Ok(status) = Status::read(pid, thread.path().join("status")) {
            worst = (worst.0.max(status.seccomp()), worst.1 || status.shadow_stack());
        }
    }
    worst
}

/// The kernel appends the mark to the link's text.
fn without_deleted(path: PathBuf) -> PathBuf {
    use std::os::unix::ffi::OsStrExt as _;
    match path.as_os_str().as_bytes().strip_suffix(b" (deleted)") {
        Some(bare) => PathBuf::from(OsString::from_vec(bare.to_vec())),
        None => path,
    }
}

/// The pid by which the process knows itself: another one than `pid` in a pid namespace of its own. None when it is gone,
/// and before Linux 4.1, which does not say.
pub fn inner_pid(pid: u32) -> Option<u32> {
    let status = Status::read(pid, file_of(pid, "status")).ok()?;
    // From leaktrace's own namespace to the innermost.
    status.text("NSpid")?.split_whitespace().next_back()?.parse().ok()
}

/// When the process started, in clock ticks since boot: differs when a pid has been used again.
///
/// # Errors
/// [`ProcessError`].
pub fn start_ticks(pid: u32) -> Result<u64, ProcessError> {
    let path = file_of(pid, "stat");
    let text = fs::read(&path).map_err(|source| failed(pid, path.clone(), source))?;
    parse_start_ticks(&text).ok_or(ProcessError::Format {
        path,
        field: "start time",
    })
}

/// Field 22. The name in field 2 may hold spaces and parentheses: the last parenthesis ends it.
fn parse_start_ticks(stat: &[u8]) -> Option<u64> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    std::str::from_utf8(stat.get(end + 1..)?)
        .ok()?
        .split_whitespace()
        .nth(19)?
        .parse()
        .ok()
}

/// Resident memory in bytes.
///
/// # Errors
/// [`ProcessError`]; [`ProcessError::Format`] when it has none left, as while it exits.
pub fn rss_bytes(pid: u32) -> Result<u64, ProcessError> {
    // `VmRSS` is in KiB, so the page size need not be known.
    Ok(Status::read(pid, file_of(pid, "status"))?
        .number("VmRSS")?
        .saturating_mul(1024))
}

/// Resident memory and what of it was put into swap, in bytes.
///
/// # Errors
/// [`ProcessError`].
pub fn resident_and_swapped_bytes(pid: u32) -> Result<u64, ProcessError> {
    let status = Status::read(pid, file_of(pid, "status"))?;
    // Kernels without swap say nothing of it.
    let swapped = status.number("VmSwap").unwrap_or(0);
    Ok((status.number("VmRSS")? + swapped).saturating_mul(1024))
}

/// A `status` file.
struct Status {
    path: PathBuf,
    text: String,
}

impl Status {
    fn read(pid: u32, path: PathBuf) -> Result<Self, ProcessError> {
        match fs::read(&path) {
            Ok(bytes) => Ok(Self {
                text: String::from_utf8_lossy(&bytes).into_owned(),
                path,
            }),
            Err(source) => Err(failed(pid, path, source)),
        }
    }

    fn text(&self, field: &str) -> Option<&str> {
        self.text
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
            .map(str::trim)
    }

    fn number(&self, field: &'static str) -> Result<u64, ProcessError> {
        self.text(field)
            .and_then(|value| value.split_whitespace().next()?.parse().ok())
            .ok_or_else(|| ProcessError::Format {
                path: self.path.clone(),
                field,
            })
    }

    fn seccomp(&self) -> Seccomp {
        match self.text("Seccomp") {
            Some("1") => Seccomp::Strict,
            Some("2") => Seccomp::Filter,
            _ => Seccomp::Off,
        }
    }

    /// `x86_Thread_features:` lists what is on (6.6 and later; absent means none).
    fn shadow_stack(&self) -> bool {
        self.text("x86_Thread_features")
            .is_some_and(|features| features.split_whitespace().any(|feature| feature == "shstk"))
    }
}

fn file_of(pid: u32, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{name}"))
}

fn failed(pid: u32, path: PathBuf, source: io::Error) -> ProcessError {
    /// "No such process": reads of files that were opened while it still lived.
    const ESRCH: i32 = 3;
    match source.kind() {
        _ if source.raw_os_error() == Some(ESRCH) => ProcessError::NoSuchProcess { pid },
        io::ErrorKind::NotFound => ProcessError::NoSuchProcess { pid },
        io::ErrorKind::PermissionDenied => ProcessError::PermissionDenied { pid },
        _ => ProcessError::Read { path, source },
    }
}

#[cfg(test)]
#[path = "process_tests.rs"]
mod tests;
