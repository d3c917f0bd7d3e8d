//! How the gate ends a run: what is said on standard error, and the exit code.
//!
//! Must not know what the conditions are.

use std::process::ExitCode;

use super::say;
use crate::{
    config::Config,
    error::Error,
    report::{gate_findings, model::Report},
};

/// Exit status of a run in which a condition of `--fail-on` holds.
const EXIT_FAILED: u8 = 1;

/// What became of the conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// There are none.
    NotAsked,
    /// The last report has not come yet.
    Pending,
    /// None holds.
    Passed,
    /// One holds.
    Failed,
}

impl Judgement {
    /// Before the last report.
    pub(super) const fn new(config: &Config) -> Self {
        if config.fail_on.is_empty() {
            Self::NotAsked
        } else {
            Self::Pending
        }
    }

    /// Takes what the last report says, and says it on standard error too; others are passed over.
    pub(super) fn take(&mut self, report: &Report) {
        let Some(gate) = &report.gate else { return };
        *self = if gate.failed.is_empty() {
            Self::Passed
        } else {
            Self::Failed
        };
        for line in gate_findings(report) {
            say(&line);
        }
    }

    /// The end of a run as the gate has it. That nobody reads the report any more is an end only if there was a last one:
    /// a gate that was not judged must not pass.
    pub(super) fn settle(self, outcome: Result<(), Error>) -> Result<(), Error> {
        match (self, outcome) {
            (Self::Pending, Err(error)) if error.is_broken_pipe() => Err(Error::Unable(
                "--fail-on was not judged, because nobody reads the reports any more: write them to a file with -o"
                    .to_owned(),
            )),
            (Self::Passed | Self::Failed, Err(error)) if error.is_broken_pipe() => Ok(()),
            (_, outcome) => outcome,
        }
    }

    /// The exit code of a run without a command.
    pub(super) fn code(self) -> ExitCode {
        match self {
            Self::Failed => ExitCode::from(EXIT_FAILED),
            Self::NotAsked | Self::Pending | Self::Passed => ExitCode::SUCCESS,
        }
    }

    /// The exit code beside a command's: its own, if it has failed.
    pub(super) fn beside(self, command: ExitCode) -> ExitCode {
        if command == ExitCode::SUCCESS {
            return self.code();
        }
        if self == Self::Failed {
            say("the command has failed as well: the exit status is its own");
        }
        command
    }
}
