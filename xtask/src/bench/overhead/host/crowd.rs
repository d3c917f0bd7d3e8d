//! Hundreds of processes: how long the attach to them and the detach take, and what it takes to watch them.

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{super::super::Running, run::Run};

/// What the processes are called, so that they are chosen by it.
const NAME: &str = "pairs-crowd";

/// Processes that wait, each with a heap and a C library that all of them share.
struct Crowd {
    members: Vec<Running>,
}

impl Crowd {
    /// Starts so many, and waits until each stands ready.
    fn start(directory: &Path, count: usize) -> Result<Self> {
        let program = program(directory)?;
        let mut members = Vec::new();
        for _ in 0..count {
            let mut command = Command::new(&program);
            command.arg("1").stdin(Stdio::piped()).stdout(Stdio::piped());
            members.push(Running::start(&mut command)?);
        }
        for member in &mut members {
            let stdout = member.0.stdout.as_mut().context("a pipe")?;
            let mut line = String::new();
            // What is buffered is lost: it says nothing more until it is asked.
            BufReader::new(stdout)
                .read_line(&mut line)
                .context("cannot read what a process says")?;
            ensure!(line == "ready\n", "a process said `{}`", line.trim_end());
        }
        Ok(Self { members })
    }

    /// Has the first `count` of them allocate for so long.
    fn busy(&mut self, count: usize, time: Duration) -> Result<()> {
        for member in self.members.iter_mut().take(count) {
            let stdin = member.0.stdin.as_mut().context("a pipe")?;
            writeln!(stdin, "{}", time.as_millis()).context("cannot write to a process")?;
        }
        Ok(())
    }
}

/// The program under the name of the crowd.
fn program(directory: &Path) -> Result<PathBuf> {
    let program = directory.join(NAME);
    fs::copy(directory.join("pairs"), &program)
        .with_context(|| format!("cannot write {}", program.display()))?;
    Ok(program)
}

/// How long the attach and the detach take.
pub(super) fn attach(directory: &Path, leaktrace: &Path, quick: bool) -> Result<String> {
    let counts: &[usize] = if quick { &[20] } else { &[1, 16, 100, 500] };
    let mut text = "From the start of leaktrace until all probes are in place, and from Ctrl-C to its end; \
                    processes that wait, all of one program.\n\n\
                    | processes | `--scope` | attach | detach |\n|---:|---|---:|---:|\n"
        .to_owned();
    for &count in counts {
        let _crowd = Crowd::start(directory, count)?;
        for scope in ["process", "host"] {
            let options = ["--comm", NAME, "--scope", scope, "-i", "0"];
            let run = Run::start(leaktrace, directory, &options, "leaktrace: tracing")?;
            let attach = run.attach;
            let ended = run.end()?;
            // Writing to a string cannot fail.
            let _written = writeln!(
                text,
                "| {count} | {scope} | {:.2} s | {:.2} s |",
                attach.as_secs_f64(),
                ended.detach.as_secs_f64()
            );
            eprintln!("host: {count} processes, {scope}");
        }
    }
    Ok(text)
}

/// What leaktrace itself takes to watch the machine.
pub(super) fn watch(directory: &Path, leaktrace: &Path, quick: bool) -> Result<String> {
    let (idle, busy, time) = if quick {
        (20, 2, Duration::from_secs(5))
    } else {
        (300, 5, Duration::from_mins(1))
    };
    let mut crowd = Crowd::start(directory, idle + busy)?;
    // Longer than it is looked at: how long the start takes is not known.
    crowd.busy(busy, time * 4)?;
    let run = Run::start(
        leaktrace,
        directory,
        &["watch", "-a", "-i", "5s"],
        "leaktrace: watching",
    )?;
    let (start_ns, started) = (cpu_ns(run.pid())?, Instant::now());
    thread::sleep(time);
    let (cpu_ns, wall_ns) = (cpu_ns(run.pid())? - start_ns, started.elapsed().as_nanos());
    let peak = peak_bytes(run.pid())?;
    let report = run.end()?.report;
    let share = 100.0 * cpu_ns as f64 / wall_ns as f64;
    Ok(format!(
        "`leaktrace watch -a`, {idle} idle and {busy} busy processes beside those of the machine, {} s:\n\n\
         | leaktrace's own CPU | as it says itself | its peak memory |\n|---:|---:|---:|\n| {share:.2} % | {} | {} MiB |\n",
        time.as_secs(),
        match report["own"]["cpu_s"].as_f64() {
            None => "-".to_owned(),
            // Over all of its run, the start included.
            Some(said) => format!("{said:.2} s in all"),
        },
        peak >> 20,
    ))
}

/// Processor time of a process and all of its threads, by the scheduler's own clock.
fn cpu_ns(pid: u32) -> Result<u64> {
    let folder = format!("/proc/{pid}/task");
    let threads =
        fs::read_dir(&folder).with_context(|| format!("cannot read {folder}; leaktrace has ended"))?;
    Ok(threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok())
        .filter_map(|line| line.split(' ').next()?.parse::<u64>().ok())
        .sum())
}

/// Its highest resident memory.
fn peak_bytes(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("leaktrace has ended")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kibibytes.context("no VmHWM")? * 1024)
}
