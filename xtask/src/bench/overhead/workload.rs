//! The programs that are measured: starting one, having it work for a while, and what that took.
//!
//! A target lives through many batches of work and is idle in between, so that a tracer comes and goes
//! without it. Must not know tracers, but for the words that a command is started with.

use std::{
    fmt, fs,
    io::{BufRead as _, BufReader, Lines, Write as _},
    path::{Path, PathBuf},
    process::{ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::super::{Running, create, wait_for};
use crate::process::{find_program, output, run as run_command, workspace};

/// What is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Workload {
    Pairs {
        threads: u32,
    },
    Redis,
    Json,
    Sqlite,
    /// Pairs with so many frames on the stack, by a program with frame pointers or without.
    Deep {
        frames: u32,
        framed: bool,
    },
    /// Pairs below so many Python frames.
    PythonDeep {
        frames: u32,
    },
    /// A Python program that makes and drops small objects.
    PythonObjects(&'static str),
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pairs { threads: 1 } => f.write_str("malloc/free pairs of 64 to 575 bytes, 1 thread"),
            Self::Pairs { threads } => {
                write!(f, "malloc/free pairs of 64 to 575 bytes, {threads} threads")
            }
            Self::Redis => {
                f.write_str("redis-server under redis-benchmark (set, lpush, lpop, hset; 16 a pipeline)")
            }
            Self::Json => f.write_str("CPython (PYTHONMALLOC=malloc), a document to JSON and back"),
            Self::Sqlite => f.write_str("sqlite3, a table filled, indexed, changed, summed up"),
            Self::Deep { frames, .. } => write!(f, "malloc/free pairs below {frames} frames"),
            Self::PythonDeep { frames } => write!(f, "malloc/free pairs below {frames} Python frames"),
            Self::PythonObjects(what) => write!(f, "CPython, small objects: {what}"),
        }
    }
}

impl Workload {
    /// As typed after `--only`, and in the JSON.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Pairs { .. } => "pairs",
            Self::Redis => "redis",
            Self::Json => "json",
            Self::Sqlite => "sqlite",
            Self::Deep { .. } => "deep",
            Self::PythonDeep { .. } => "python-deep",
            Self::PythonObjects(what) => what,
        }
    }

    /// What is counted; what a table gives the cost of one in, and the nanoseconds of that.
    pub(super) const fn unit(self) -> (&'static str, &'static str, f64) {
        match self {
            Self::Pairs { .. } | Self::Deep { .. } | Self::PythonDeep { .. } => ("pair", "ns", 1.0),
            Self::Redis => ("request", "ns", 1.0),
            Self::Json | Self::PythonObjects(_) => ("loop", "µs", 1e3),
            Self::Sqlite => ("pass", "µs", 1e3),
        }
    }

    pub(super) const fn threads(self) -> u32 {
        match self {
            Self::Pairs { threads } => threads,
            _ => 1,
        }
    }

    fn program(self, directory: &Path) -> Result<PathBuf> {
        let name = match self {
            Self::Pairs { .. } => return Ok(directory.join("pairs")),
            Self::Deep { framed: true, .. } => return Ok(directory.join("recursion-framed")),
            Self::Deep { framed: false, .. } => return Ok(directory.join("recursion")),
            Self::Redis => "redis-server",
            Self::Sqlite => "sqlite3",
            Self::Json | Self::PythonDeep { .. } | Self::PythonObjects(_) => {
                // The distribution's own; one in PATH may be a script that picks another.
                let debian = PathBuf::from("/usr/bin/python3");
                if debian.is_file() {
                    return Ok(debian);
                }
                "python3"
            }
        };
        find_program(name)
            .with_context(|| format!("{name} is not installed; install the package of that name"))
    }

    /// Starts it, idle, after the words of `under`: a tracer that starts programs, or for Python's own tracers the
    /// interpreter with its options.
    pub(super) fn start(self, directory: &Path, under: &[String]) -> Result<Target> {
        let program = self.program(directory)?;
        let allocator = Allocator::copy(&program, directory)?;
        let is_interpreter =
            matches!(self, Self::PythonDeep { .. } | Self::PythonObjects(_)) && !under.is_empty();
        let program_word = (!is_interpreter).then(|| program.clone().into_os_string());
        let mut words = under.iter().map(Into::into).chain(program_word);
        let mut command = Command::new(words.next().context("no program")?);
        command
            .args(words)
            .env("LD_LIBRARY_PATH", &allocator.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(create(&directory.join("target.log"))?);
        // Two can live at a time: one by itself, one under something.
        let socket = directory.join(if under.is_empty() {
            "redis.sock"
        } else {
            "redis-under.sock"
        });
        match self {
            Self::Pairs { threads } => command.arg(threads.to_string()),
            Self::Deep { frames, .. } => command.arg(frames.to_string()),
            Self::PythonDeep { frames } => command
                .arg(workspace().join("xtask/bench/python_depth.py"))
                .arg(frames.to_string())
                .arg(directory.join(PYTHON_LIBRARY)),
            Self::PythonObjects(what) => command
                .arg(workspace().join("xtask/bench/python_objects.py"))
                .arg(what),
            Self::Json => command
                .arg(workspace().join("xtask/bench/json_loop.py"))
                .env("PYTHONMALLOC", "malloc"),
            Self::Sqlite => command.args(["-batch", ":memory:"]),
            Self::Redis => command
                .args(["--port", "0", "--save", "", "--appendonly", "no", "--dir"])
                .arg(directory)
                .arg("--unixsocket")
                .arg(&socket)
                // Its log is not read; the pipe would fill.
                .stdout(Stdio::null()),
        };
        if self == Self::Redis && socket.exists() {
            fs::remove_file(&socket).with_context(|| format!("cannot remove {}", socket.display()))?;
        }
        let child = Running::start(&mut command)?;
        let mut target = Target {
            workload: self,
            pid: child.0.id(),
            stdin: None,
            lines: None,
            socket,
            allocator: allocator.file,
            child,
        };
        target.stdin = target.child.0.stdin.take();
        target.lines = target
            .child
            .0
            .stdout
            .take()
            .map(|stdout| BufReader::new(stdout).lines());
        target.wait_until_ready()?;
        if !under.is_empty() && !is_interpreter {
            let name = program
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let parent = target.pid;
            target.pid = descendant(parent, &name)
                .with_context(|| format!("`{}` started no {name}", under.join(" ")))?;
        }
        Ok(target)
    }
}

/// What the Python workloads call.
const PYTHON_LIBRARY: &str = "python_depth.so";

/// Builds the workloads that are the bench's own.
pub(super) fn build(directory: &Path) -> Result<()> {
    run_command(
        Command::new("cc")
            .args(["-O2", "-g", "-Wall", "-fno-builtin", "-shared", "-fPIC", "-o"])
            .arg(directory.join(PYTHON_LIBRARY))
            .arg(workspace().join("xtask/bench/python_depth.c")),
    )?;
    for (name, source, frame_pointers) in [
        ("pairs", "pairs.c", "-fno-omit-frame-pointer"),
        ("recursion", "recursion.c", "-fomit-frame-pointer"),
        ("recursion-framed", "recursion.c", "-fno-omit-frame-pointer"),
    ] {
        run_command(
            Command::new("cc")
                .args([
                    "-O2",
                    "-g",
                    "-Wall",
                    frame_pointers,
                    "-fno-optimize-sibling-calls",
                ])
                .args(["-fno-builtin", "-std=gnu11", "-pthread", "-o"])
                .arg(directory.join(name))
                .arg(workspace().join("xtask/bench").join(source)),
        )?;
    }
    Ok(())
}

/// The library that defines a program's malloc, as a copy that nothing else maps: a tracer that probes a
/// file in all processes slows neither the rest of the machine nor what drives the target.
struct Allocator {
    file: PathBuf,
    folder: PathBuf,
}

impl Allocator {
    fn copy(program: &Path, directory: &Path) -> Result<Self> {
        let listing = output(Command::new("ldd").arg(program))?;
        let (name, from) = allocator_of(&listing)
            .with_context(|| format!("{} is linked to no library with malloc", program.display()))?;
        let folder = directory.join(format!("lib-{name}"));
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let file = folder.join(name);
        if !file.exists() {
            fs::copy(from, &file).with_context(|| format!("cannot copy {from} to {}", file.display()))?;
        }
        Ok(Self { file, folder })
    }
}

/// Name and path of the library, from what `ldd` prints: one that replaces malloc, else libc.
fn allocator_of(listing: &str) -> Option<(&str, &str)> {
    let libraries = || {
        listing.lines().filter_map(|line| {
            let (name, rest) = line.trim().split_once(" => ")?;
            Some((name, rest.split(" (").next()?))
        })
    };
    let replaces = |name: &str| {
        ["libjemalloc", "libtcmalloc", "libmimalloc"]
            .iter()
            .any(|own| name.starts_with(own))
    };
    libraries()
        .find(|(name, _)| replaces(name))
        .or_else(|| libraries().find(|(name, _)| name.starts_with("libc.so")))
}

/// What a batch took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    /// Pairs, loops, passes, requests.
    pub(super) units: u64,
    /// Processor time of the target, of all its threads.
    pub(super) cpu_ns: u64,
    /// Time gone by, summed over the threads that worked.
    pub(super) wall_ns: u64,
}

impl Sample {
    /// The line of pairs.c and `json_loop.py`.
    fn parse(line: &str) -> Option<Self> {
        let mut numbers = line.split_whitespace().map(str::parse);
        let mut next = || numbers.next()?.ok();
        let sample = Self {
            units: next()?,
            cpu_ns: next()?,
            wall_ns: next()?,
        };
        (sample.units > 0 && numbers.next().is_none()).then_some(sample)
    }

    pub(super) fn cpu_ns_per_unit(&self) -> f64 {
        self.cpu_ns as f64 / self.units as f64
    }

    pub(super) fn wall_ns_per_unit(&self) -> f64 {
        self.wall_ns as f64 / self.units as f64
    }
}

/// A workload that runs, idle between two batches.
pub(super) struct Target {
    workload: Workload,
    pub(super) pid: u32,
    stdin: Option<ChildStdin>,
    lines: Option<Lines<BufReader<ChildStdout>>>,
    socket: PathBuf,
    /// The file with its malloc.
    pub(super) allocator: PathBuf,
    child: Running,
}

impl Target {
    fn wait_until_ready(&mut self) -> Result<()> {
        match self.workload {
            Workload::Redis => wait_for("redis-server to listen", || {
                let status = self.child.0.try_wait().context("cannot wait for redis-server")?;
                ensure!(status.is_none(), "redis-server ended early");
                Ok(self.socket.exists() && self.redis(&["ping"]).is_ok_and(|answer| answer == "PONG\n"))
            }),
            Workload::Sqlite => self.until("ready", ".print ready\n"),
            _ => self.until("ready", ""),
        }
    }

    /// Has it work for about so long; whole units, at least one.
    pub(super) fn batch(&mut self, time: Duration) -> Result<Sample> {
        match self.workload {
            Workload::Sqlite => {
                let pass = fs::read_to_string(workspace().join("xtask/bench/pass.sql"))
                    .context("cannot read xtask/bench/pass.sql")?;
                let pass = format!("{pass}.print done\n");
                self.repeat(time, |target| target.until("done", &pass).map(|()| 1))
            }
            Workload::Redis => {
                self.redis(&["flushall", "sync"])?;
                self.repeat(time, Self::requests)
            }
            _ => {
                self.say(&format!("{}\n", time.as_millis()))?;
                let line = self.next_line()?;
                Sample::parse(&line).with_context(|| format!("the target said `{line}`, which is no result"))
            }
        }
    }

    /// Has it end by itself, so that what it runs under can finish its work, and waits for both.
    pub(super) fn finish(mut self) -> Result<()> {
        drop(self.stdin.take());
        if self.workload == Workload::Redis {
            self.redis(&["shutdown", "nosave"])?;
        }
        // Nobody else reads what may still be written.
        for _line in self.lines.take().into_iter().flatten() {}
        wait_for("the target to end", || {
            let status = self.child.0.try_wait().context("cannot wait for the target")?;
            Ok(status.is_some())
        })?;
        // It is gone: its number may mean another process.
        self.pid = self.child.0.id();
        Ok(())
    }

    /// Work that this side counts and measures.
    fn repeat(&mut self, time: Duration, mut work: impl FnMut(&mut Self) -> Result<u64>) -> Result<Sample> {
        let (cpu_ns, started) = (cpu_ns(self.pid)?, Instant::now());
        let mut units = 0;
        while units == 0 || started.elapsed() < time {
            units += work(self)?;
        }
        let wall_ns = started.elapsed().as_nanos() as u64;
        Ok(Sample {
            units,
            cpu_ns: self::cpu_ns(self.pid)?.saturating_sub(cpu_ns),
            wall_ns,
        })
    }

    /// Some requests of each kind; returns how many.
    fn requests(&mut self) -> Result<u64> {
        const EACH: u64 = 5000;
        const KINDS: &str = "set,lpush,lpop,hset";
        let program = find_program("redis-benchmark")
            .context("redis-benchmark is not installed; install the package redis-tools")?;
        output(
            Command::new(program)
                .arg("-s")
                .arg(&self.socket)
                .args(["-n", &EACH.to_string(), "-t", KINDS])
                .args(["-c", "16", "-P", "16", "-r", "100000", "-d", "100", "-q"]),
        )?;
        Ok(EACH * KINDS.split(',').count() as u64)
    }

    fn redis(&self, words: &[&str]) -> Result<String> {
        output(Command::new("redis-cli").arg("-s").arg(&self.socket).args(words))
    }

    fn say(&mut self, text: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("the target has no stdin")?;
        stdin
            .write_all(text.as_bytes())
            .context("cannot write to the target")?;
        stdin.flush().context("cannot write to the target")
    }

    fn next_line(&mut self) -> Result<String> {
        let lines = self.lines.as_mut().context("the target has no stdout")?;
        match lines.next() {
            Some(line) => line.context("cannot read what the target says"),
            None => bail!("the target ended early"),
        }
    }

    /// Says `text` and reads up to the line `last`; what it is run under may speak before it.
    fn until(&mut self, last: &str, text: &str) -> Result<()> {
        self.say(text)?;
        while self.next_line()? != last {}
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // What it was started under would leave it behind.
        if self.pid != self.child.0.id() {
            let _gone = kill(Pid::from_raw(self.pid.cast_signed()), Signal::SIGKILL);
        }
    }
}

/// Processor time of a process's living threads, by the scheduler's own clock: /proc/PID/stat counts in
/// hundredths of a second. None of the threads of these targets ends while it is measured.
fn cpu_ns(pid: u32) -> Result<u64> {
    let folder = format!("/proc/{pid}/task");
    let threads =
        fs::read_dir(&folder).with_context(|| format!("cannot read {folder}; the target has ended"))?;
    Ok(threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok())
        .filter_map(|line| line.split(' ').next()?.parse::<u64>().ok())
        .sum())
}

/// The first process of that name below `pid`.
fn descendant(pid: u32, name: &str) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().find_map(|child| {
        let child: u32 = child.parse().ok()?;
        let comm = fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
        (comm.trim_end() == name)
            .then_some(child)
            .or_else(|| descendant(child, name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_of_a_batch_is_three_numbers() {
        let sample = Sample::parse("10 2000 3000").unwrap();
        assert_eq!((sample.units, sample.cpu_ns, sample.wall_ns), (10, 2000, 3000));
        assert!((sample.cpu_ns_per_unit() - 200.0).abs() < f64::EPSILON);
        for bad in ["", "1 2", "1 2 x", "0 1 1", "1 2 3 4"] {
            assert_eq!(Sample::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn library_that_replaces_malloc_wins_over_libc() {
        let redis = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/libc.so.6 (0x2)\n\
                     \tlibjemalloc.so.2 => /lib/libjemalloc.so.2 (0x3)\n";
        assert_eq!(
            allocator_of(redis),
            Some(("libjemalloc.so.2", "/lib/libjemalloc.so.2"))
        );
        assert_eq!(
            allocator_of("\tlibc.so.6 => /lib/libc.so.6 (0x2)\n"),
            Some(("libc.so.6", "/lib/libc.so.6"))
        );
        assert_eq!(allocator_of("\tstatically linked\n"), None);
    }
}
