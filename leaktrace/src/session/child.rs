//! The child of `leaktrace -- CMD`, and the signals that may be meant for it.

use std::{
    fs::File,
    os::unix::process::ExitStatusExt as _,
    process::{Child, ExitCode, ExitStatus},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, getpgrp, tcgetpgrp},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc::unbounded_channel,
};

use super::Session;
use crate::{
    error::{Error, system},
    report::model::Exit,
};

/// What becomes of the child of `leaktrace -- CMD` when tracing ends before it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildFate {
    /// leaktrace waits for it and passes its status on.
    Outlives,
    /// It is ended: the demo's.
    Ends,
}

/// From now on a signal ends this process in good order when the one that has started it is gone.
///
/// # Errors
/// [`Error::System`].
pub(super) fn end_with_parent(parent: u32) -> Result<(), Error> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(|error| system("cannot ask to be told of the parent's end")(error.into()))?;
    // It may have gone before it was asked for.
    if getppid().is_none_or(|pid| pid.as_raw_nonzero().get() as u32 != parent) {
        return Err(Error::Unable(
            "the process that has started leaktrace has ended; start it again".to_owned(),
        ));
    }
    Ok(())
}

/// The signals that end a run.
pub(super) struct Signals {
    interrupts: tokio::signal::unix::Signal,
    terminations: tokio::signal::unix::Signal,
}

impl Signals {
    pub(super) fn watch() -> std::io::Result<Self> {
        Ok(Self {
            interrupts: signal(SignalKind::interrupt())?,
            terminations: signal(SignalKind::terminate())?,
        })
    }

    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupts.recv() => Signal::SIGINT,
            _ = self.terminations.recv() => Signal::SIGTERM,
        }
    }
}

impl Session<'_> {
    /// Whether the signal is the child's business: then its end will end the run, and a second signal ends
    /// leaktrace alone. It is passed on, unless it is a Ctrl-C that the terminal has sent to both.
    pub(super) fn passes_on(&self, signal: Signal) -> bool {
        let Some(child) = &self.running.child else {
            return false;
        };
        if signal == Signal::SIGINT && in_foreground() {
            return true;
        }
        if let Err(error) = kill(Pid::from_raw(child.id() as i32), signal) {
            tracing::warn!("cannot pass {signal} on to the command: {error}");
        }
        true
    }

    /// The exit code: the child's, as a shell would give it. Until the child ends, signals are still its
    /// business; the second one lets leaktrace go without it.
    pub(super) async fn settle_child(
        &mut self,
        fate: ChildFate,
        signals: &mut Signals,
    ) -> Result<ExitCode, Error> {
        let Some(child) = &mut self.running.child else {
            return Ok(ExitCode::SUCCESS);
        };
        if fate == ChildFate::Ends {
            child
                .kill()
                .and_then(|()| child.wait())
                .map_err(system("cannot end the demo's program"))?;
            return Ok(ExitCode::SUCCESS);
        }
        let (ended, mut ending) = unbounded_channel();
        let pid = child.id();
        self.watched.remove(&pid);
        self.watch(pid, &ended)?;
        let mut count = 0;
        loop {
            tokio::select! {
                Some(_) = ending.recv() => break,
                signal = signals.next() => {
                    count += 1;
                    if count > 1 {
                        return Ok(ExitCode::SUCCESS);
                    }
                    self.passes_on(signal);
                }
            }
        }
        let Some(child) = &mut self.running.child else {
            return Ok(ExitCode::SUCCESS);
        };
        let status = child.wait().map_err(system("cannot wait for the command"))?;
        Ok(ExitCode::from(shell_code(status)))
    }
}

/// Whether leaktrace's process group is the one that the terminal sends Ctrl-C to.
fn in_foreground() -> bool {
    let group = File::open("/dev/tty")
        .ok()
        .and_then(|terminal| tcgetpgrp(terminal).ok());
    group == Some(getpgrp())
}

/// As a shell has it: 128 and the number of the signal.
fn shell_code(status: ExitStatus) -> u8 {
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(2) as u8
}

/// How a child has ended, if it has.
pub(super) fn reap(child: &mut Child) -> Option<Exit> {
    let status = child.try_wait().ok().flatten()?;
    Some(Exit {
        code: status.code(),
        signal: status.signal(),
    })
}
