//! leaktrace on a program: attached, or starting it, until its report.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    machine::{Machine, file_name},
    report::Report,
    target::{Read, Target},
};

/// A running leaktrace.
pub(super) struct Tracer {
    target: Target,
    name: String,
    report: PathBuf,
    rest: PathBuf,
}

impl Tracer {
    fn options(machine: &Machine, name: &str, options: &[&str]) -> (Command, PathBuf) {
        let report = machine.work.join(format!("{}.json", file_name(name)));
        let mut command = machine.leaktrace();
        command
            .args(["--gpu", "--format", "json", "-i", "0", "--top", "30", "-o"])
            .arg(&report)
            .args(options);
        (command, report)
    }

    /// Attaches, and waits until the probes are in place.
    pub(super) fn attach(machine: &mut Machine, name: &str, pid: u32, options: &[&str]) -> Result<Self> {
        let (mut command, report) = Self::options(machine, name, options);
        command.args(["-p", &pid.to_string()]);
        let mut tracer = Self::start(machine, name, command, report, Read::Stderr)?;
        tracer
            .target
            .line("its line `leaktrace: tracing`", machine.patience(), |line| {
                line.starts_with("leaktrace: tracing")
            })?;
        Ok(tracer)
    }

    /// Starts a command. What is read of it is the command's own standard output.
    pub(super) fn command(
        machine: &mut Machine,
        name: &str,
        words: &[&str],
        set: impl Fn(&mut Command),
    ) -> Result<Self> {
        let (mut command, report) = Self::options(machine, name, &[]);
        command.arg("--").args(words);
        set(&mut command);
        Self::start(machine, name, command, report, Read::Stdout)
    }

    fn start(
        machine: &mut Machine,
        name: &str,
        mut command: Command,
        report: PathBuf,
        read: Read,
    ) -> Result<Self> {
        let name = format!("leaktrace on {name}");
        let rest = machine.work.join(format!("{}.rest", file_name(&name)));
        machine.log(&format!("{name}: {command:?}"), "");
        Ok(Self {
            target: Target::start(&mut command, &name, read, &rest)?,
            name,
            report,
            rest,
        })
    }

    /// The program that is driven: leaktrace, whose standard input is its command's.
    pub(super) const fn target(&mut self) -> &mut Target {
        &mut self.target
    }

    /// Ends it as a user does, and reads its report.
    pub(super) fn stop(self, machine: &mut Machine) -> Result<Report> {
        kill(Pid::from_raw(self.target.pid().cast_signed()), Signal::SIGINT)
            .with_context(|| format!("{} cannot be ended", self.name))?;
        self.end(machine)
    }

    /// Waits for its end, and reads its report.
    pub(super) fn end(mut self, machine: &mut Machine) -> Result<Report> {
        let status = self.target.wait(machine.patience())?;
        let text = fs::read_to_string(&self.report).unwrap_or_default();
        let said = self.target.unread().join("\n") + &fs::read_to_string(&self.rest).unwrap_or_default();
        machine.log(&format!("{}: {status}", self.name), &said);
        machine.log(&format!("{}: report", self.name), &text);
        ensure!(status.success(), "{}: {status}", self.name);
        Report::last(&text).with_context(|| format!("{} gave no report", self.name))
    }
}

/// What a program has done, and what leaktrace made of it.
pub(super) struct Traced {
    pub(super) pid: u32,
    pub(super) truth: serde_json::Value,
    pub(super) report: Report,
}

/// Attaches to a program that stands at "ready", has it do its work, and takes the report while it still lives.
pub(super) fn trace(
    machine: &mut Machine,
    name: &str,
    target: &mut Target,
    options: &[&str],
) -> Result<Traced> {
    let tracer = Tracer::attach(machine, name, target.pid(), options)?;
    target.go();
    let truth = target.truth(machine.patience())?;
    machine.log(&format!("{name}: its truth"), &truth.to_string());
    let report = tracer.stop(machine)?;
    Ok(Traced {
        pid: target.pid(),
        truth,
        report,
    })
}
