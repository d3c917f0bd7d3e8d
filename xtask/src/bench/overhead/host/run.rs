//! One run of leaktrace over many processes: started, waited for until its probes are in place, ended, and its report.
//!
//! Must not know what is measured under it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use super::super::{
    super::{Running, create, wait_for},
    tracer::last_document,
};

/// leaktrace at work.
pub(super) struct Run {
    child: Running,
    log: PathBuf,
    report: PathBuf,
    /// From its start until its probes were in place.
    pub(super) attach: Duration,
}

/// What is left of one.
pub(super) struct Ended {
    /// The last report.
    pub(super) report: Value,
    /// From the signal to its end: the last report, and all probes out.
    pub(super) detach: Duration,
}

impl Run {
    /// Starts `leaktrace OPTIONS` with its reports as JSON, and waits until it says `sign`.
    pub(super) fn start(leaktrace: &Path, directory: &Path, options: &[&str], sign: &str) -> Result<Self> {
        let (log, report) = (directory.join("host.log"), directory.join("host.json"));
        let stderr = create(&log)?;
        let stdout = create(&report)?;
        let mut command = Command::new(leaktrace);
        command.args(options).args(["--format", "json"]);
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        let started = Instant::now();
        let mut run = Self {
            child: Running::start(&mut command)?,
            log,
            report,
            attach: Duration::ZERO,
        };
        wait_for("leaktrace to attach", || {
            let status = run.child.0.try_wait().context("cannot wait for leaktrace")?;
            if let Some(status) = status {
                bail!("leaktrace ended early ({status}): {}", run.text().trim_end());
            }
            Ok(run.text().contains(sign))
        })?;
        run.attach = started.elapsed();
        Ok(run)
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// Ends it as Ctrl-C does.
    pub(super) fn end(mut self) -> Result<Ended> {
        let started = Instant::now();
        let pid = Pid::from_raw(self.pid().cast_signed());
        kill(pid, Signal::SIGINT).context("cannot interrupt leaktrace")?;
        wait_for("leaktrace to end", || {
            let status = self.child.0.try_wait().context("cannot wait for leaktrace")?;
            Ok(status.is_some())
        })?;
        let detach = started.elapsed();
        let text =
            fs::read(&self.report).with_context(|| format!("cannot read {}", self.report.display()))?;
        let report = last_document(&text).with_context(|| self.text().trim_end().to_owned())?;
        Ok(Ended { report, detach })
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}
