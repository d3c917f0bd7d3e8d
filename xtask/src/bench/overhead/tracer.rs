//! Putting a tracer on a running target and taking it off again, and seeing that it saw something.
//!
//! Must not know workloads, only a pid and the file with its malloc.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use super::{
    super::{Running, create, wait_for},
    setup::Setup,
    workload::Target,
};
use crate::{
    process::{cargo, find_program, output, run as run_command, workspace},
    test::{release_binary, target_dir},
};

/// The environment with memray, in the bench's folder.
const MEMRAY: &str = "memray-venv";

/// Installs memray from `PyPI`, unless it is there.
pub(super) fn install_memray(directory: &Path) -> Result<()> {
    let environment = directory.join(MEMRAY);
    let program = environment.join("bin/python");
    if output(Command::new(&program).args(["-m", "memray", "--version"])).is_ok() {
        return Ok(());
    }
    let debian = Path::new("/usr/bin/python3");
    let python = if debian.is_file() {
        debian
    } else {
        Path::new("python3")
    };
    run_command(
        Command::new(python)
            .args(["-m", "venv", "--clear"])
            .arg(&environment),
    )?;
    run_command(Command::new(&program).args(["-m", "pip", "install", "--quiet", "memray"]))
}

/// The last of the reports in a file: one a line when there are several.
pub(super) fn last_document(text: &[u8]) -> Result<Value> {
    let documents = serde_json::Deserializer::from_slice(text).into_iter::<Value>();
    let last = documents.last().context("there is no report")?;
    last.context("the report is not JSON")
}

/// How heaptrack may compress what it records, and what unpacks that.
const COMPRESSED: [(&str, &str); 2] = [("zst", "zstd"), ("gz", "gzip")];

/// The programs, built or found.
pub(super) struct Tracers {
    leaktrace: PathBuf,
    floor: PathBuf,
    directory: PathBuf,
}

impl Tracers {
    pub(super) fn build(directory: &Path) -> Result<Self> {
        run_command(cargo().args([
            "build",
            "--locked",
            "--release",
            "--package",
            "leaktrace",
            "--example",
            "floor",
        ]))?;
        Self::without_floor(directory)
    }

    /// For setups none of which is a floor.
    pub(super) fn without_floor(directory: &Path) -> Result<Self> {
        Ok(Self {
            leaktrace: release_binary()?,
            floor: target_dir().join("release/examples/floor"),
            directory: directory.to_owned(),
        })
    }

    /// leaktrace itself.
    pub(super) fn leaktrace(&self) -> &Path {
        &self.leaktrace
    }

    /// The report of the last leaktrace that was detached.
    pub(super) fn last_report(&self) -> Result<Value> {
        let path = self.report();
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        last_document(&text)
    }

    fn report(&self) -> PathBuf {
        self.directory.join("report.json")
    }

    /// The words before a target's own that start it under heaptrack: it is measured from the start, for
    /// attaching to a running process is called unstable by its own help. What it records is written
    /// compressed and interpreted by nobody meanwhile.
    pub(super) fn heaptrack(&self) -> Result<Vec<String>> {
        let program = find_program("heaptrack").context("not installed: `apt-get install heaptrack`")?;
        let record = self.directory.join("heaptrack");
        for (suffix, _) in COMPRESSED {
            let old = self.directory.join(format!("heaptrack.raw.{suffix}"));
            if old.exists() {
                fs::remove_file(&old).with_context(|| format!("cannot remove {}", old.display()))?;
            }
        }
        let words = [
            program.as_path(),
            Path::new("--raw"),
            Path::new("--output"),
            &record,
        ];
        Ok(words.iter().map(|word| word.display().to_string()).collect())
    }

    /// Fails unless heaptrack has recorded the `units` of work: a line of what it writes that begins with
    /// `+` is an allocation.
    pub(super) fn check_heaptrack(&self, units: u64) -> Result<()> {
        for (suffix, unpacker) in COMPRESSED {
            let record = self.directory.join(format!("heaptrack.raw.{suffix}"));
            if !record.exists() {
                continue;
            }
            let mut unpacker = Running::start(
                Command::new(unpacker)
                    .arg("-dcq")
                    .arg(&record)
                    .stdin(Stdio::null())
                    .stdout(Stdio::piped()),
            )?;
            let stdout = unpacker.0.stdout.take().context("no output to read")?;
            let seen = BufReader::new(stdout)
                .split(b'\n')
                .map_while(Result::ok)
                .filter(|line| line.starts_with(b"+"))
                .count() as u64;
            ensure!(
                seen >= units,
                "{units} units of work were done, and {seen} allocations are recorded"
            );
            return Ok(());
        }
        bail!(
            "recorded nothing: no heaptrack.raw.* in {}",
            self.directory.display()
        );
    }

    /// The interpreter with the options that have a Python program traced by one of Python's own tracers, from its start.
    pub(super) fn interpreter(&self, setup: Setup) -> Result<Vec<String>> {
        if let Some(frames) = setup.tracemalloc() {
            let program = find_program("python3").context("not installed: `apt-get install python3`")?;
            let debian = Path::new("/usr/bin/python3");
            let program = if debian.is_file() { debian } else { &program };
            return Ok(vec![
                program.display().to_string(),
                "-X".to_owned(),
                format!("tracemalloc={frames}"),
            ]);
        }
        let options = setup
            .memray()
            .with_context(|| format!("{} starts no program", setup.name()))?;
        let program = self.directory.join(MEMRAY).join("bin/python");
        ensure!(
            program.exists(),
            "not installed: `pip install memray` into {} failed",
            self.directory.join(MEMRAY).display()
        );
        let record = self.record();
        if record.exists() {
            fs::remove_file(&record).with_context(|| format!("cannot remove {}", record.display()))?;
        }
        let words = [program.display().to_string()]
            .into_iter()
            .chain(["-m", "memray", "run", "--quiet"].map(str::to_owned))
            .chain(options.iter().map(ToString::to_string))
            .chain(["--output".to_owned(), record.display().to_string()]);
        Ok(words.collect())
    }

    /// Fails unless one of Python's own tracers has recorded something.
    pub(super) fn check_interpreter(&self, setup: Setup) -> Result<()> {
        if setup.memray().is_some() {
            let record = self.record();
            let recorded = fs::metadata(&record).is_ok_and(|file| file.len() > 0);
            ensure!(recorded, "recorded nothing: {}", record.display());
        }
        Ok(())
    }

    fn record(&self) -> PathBuf {
        self.directory.join("memray.bin")
    }

    /// Traces the target as `setup` says; returns when every probe is in place.
    pub(super) fn attach(&self, setup: Setup, target: &Target) -> Result<Attached> {
        let report = self.report();
        let (mut command, sign) = self.command(setup, target, &report)?;
        let log = self.directory.join(format!("{}.log", setup.name()));
        let stdout = create(&log)?;
        let stderr = stdout.try_clone().context("cannot write the log twice")?;
        // The floor ends with its stdin.
        command.stdin(Stdio::piped()).stdout(stdout).stderr(stderr);
        let mut attached = Attached {
            setup,
            child: Running::start(&mut command)?,
            log,
            report,
        };
        wait_for("the tracer to attach", || {
            if let Some(status) = attached
                .child
                .0
                .try_wait()
                .context("cannot wait for the tracer")?
            {
                bail!("ended early ({status}): {}", attached.last_words());
            }
            Ok(attached.text().contains(sign))
        })?;
        Ok(attached)
    }

    /// The command, and what it says once it traces.
    fn command(&self, setup: Setup, target: &Target, report: &Path) -> Result<(Command, &'static str)> {
        let pid = target.pid.to_string();
        if let Some(options) = setup.options() {
            let mut command = Command::new(&self.leaktrace);
            command
                .args(["--pid", &pid, "--interval", setup.interval()])
                .args(["--format", "json", "--output"])
                .arg(report)
                .args(options);
            return Ok((command, "leaktrace: tracing"));
        }
        if let Some(options) = setup.floor() {
            let mut command = Command::new(&self.floor);
            command.args(["--pid", &pid]).args(options);
            return Ok((command, "ready"));
        }
        ensure!(setup == Setup::Bpftrace, "{} cannot be attached", setup.name());
        let program = find_program("bpftrace").context("not installed: `apt-get install bpftrace`")?;
        let template = fs::read_to_string(workspace().join("xtask/bench/bookkeeping.bt"))
            .context("cannot read xtask/bench/bookkeeping.bt")?;
        let script = self.directory.join("bookkeeping.bt");
        let text = template.replace("ALLOCATOR:", &format!("{}:", target.allocator.display()));
        fs::write(&script, text).with_context(|| format!("cannot write {}", script.display()))?;
        let mut command = Command::new(program);
        command
            .args(["-B", "line"])
            .arg(script)
            // Enough for every live block, so that it has all the work; the default is 4096.
            .env("BPFTRACE_MAP_KEYS_MAX", (1 << 20).to_string());
        Ok((command, "ready"))
    }
}

/// A tracer at work.
pub(super) struct Attached {
    setup: Setup,
    child: Running,
    log: PathBuf,
    report: PathBuf,
}

impl Attached {
    /// Ends it, and fails unless it saw the `units` of work that were done under it.
    pub(super) fn detach(mut self, units: u64) -> Result<()> {
        let pid = Pid::from_raw(self.child.0.id().cast_signed());
        kill(pid, Signal::SIGINT).context("cannot interrupt the tracer")?;
        wait_for("the tracer to end", || {
            let status = self.child.0.try_wait().context("cannot wait for the tracer")?;
            Ok(status.is_some())
        })?;
        match self.setup {
            Setup::Full
            | Setup::Sampled64
            | Setup::Sampled512
            | Setup::Filtered
            | Setup::Tables
            | Setup::FramePointers
            | Setup::NoPython
            | Setup::Bounded => {
                let text = fs::read(&self.report)
                    .with_context(|| format!("cannot read {}", self.report.display()))?;
                verify(self.setup, &last_document(&text)?, units)
            }
            Setup::Bpftrace => {
                ensure!(
                    self.text().contains("@bytes["),
                    "recorded nothing: {}",
                    self.last_words()
                );
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The first line that tells of an error, else the last one.
    fn last_words(&self) -> String {
        let text = self.text();
        let error = text.lines().find(|line| line.to_lowercase().contains("error"));
        error
            .or_else(|| text.lines().rfind(|line| !line.trim().is_empty()))
            .unwrap_or("it said nothing")
            .trim()
            .to_owned()
    }
}

/// A tracer that misses the work would be the fastest of all: each unit allocates once at least. Of samples
/// the total is an estimate, and half of it is many times what the estimate is off by in a batch.
fn verify(setup: Setup, report: &Value, units: u64) -> Result<()> {
    let (field, number, least) = match setup {
        Setup::Filtered => ("ledger.filtered_size", &report["ledger"]["filtered_size"], units),
        Setup::Sampled64 | Setup::Sampled512 => ("totals.allocs", &report["totals"]["allocs"], units / 2),
        _ => ("totals.allocs", &report["totals"]["allocs"], units),
    };
    let seen = number
        .as_u64()
        .with_context(|| format!("the report has no {field}"))?;
    ensure!(
        seen >= least,
        "{units} units of work were done, and {field} is only {seen}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tracer_that_missed_the_work_is_refused() {
        let report = serde_json::json!({"totals": {"allocs": 10}, "ledger": {"filtered_size": 3}});
        verify(Setup::Full, &report, 10).unwrap();
        assert!(verify(Setup::Full, &report, 11).is_err());
        verify(Setup::Sampled512, &report, 20).unwrap();
        assert!(verify(Setup::Sampled512, &report, 22).is_err());
        verify(Setup::Filtered, &report, 3).unwrap();
        assert!(verify(Setup::Filtered, &report, 4).is_err());
        assert!(verify(Setup::Full, &Value::Null, 0).is_err());
    }
}
