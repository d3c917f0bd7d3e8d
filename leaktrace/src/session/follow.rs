//! What processes do: run another program, come and go. Must not know what is made of it.

use rustix::process::{PidfdFlags, pidfd_open};
use tokio::sync::mpsc::UnboundedSender;

use super::{Session, async_fd, census::Occasion, child::reap, start::Running};
use crate::{
    error::Error,
    kernel::{object::LoadError, sideband::Change},
    report::model::State,
    traced::follow::Followed,
};

impl Session<'_> {
    /// Follows what the processes have done since the last time.
    pub(super) fn follow(&mut self, ended: &UnboundedSender<u32>) -> Result<(), Error> {
        let Running {
            traced,
            collector,
            counters,
            mapped,
            sideband,
            log,
            ..
        } = &mut self.running;
        if let Some(log) = log {
            log.flush();
        }
        // Before the mappings: what a stack leads through is then known when it is walked.
        collector.receive_stacks();
        mapped
            .drain(counters, &mut self.accounts)
            .map_err(LoadError::Maps)?;
        traced.grant_stacks();
        traced.settle_interpreters();
        let entries = sideband.drain();
        for entry in &entries {
            if traced.get(entry.pid).is_some() {
                self.pace.hurry(matches!(entry.change, Change::Exec { .. }));
            }
        }
        for followed in traced.apply(entries, collector.tables()) {
            match followed {
                Followed::Joined(pid) => self.watch(pid, ended)?,
                Followed::Replaced(pid, image) => {
                    self.running
                        .collector
                        .freeze(&self.running.traced, pid, image, State::Replaced)?;
                    self.end_census(pid, image, State::Replaced);
                }
            }
        }
        self.turn_away()?;
        self.count(Occasion::Meanwhile);
        let Running {
            traced, collector, ..
        } = &mut self.running;
        Ok(collector.finish_stacks(traced)?)
    }

    pub(super) fn end_census(&mut self, pid: u32, image: u16, state: State) {
        if let Some(censuses) = &mut self.censuses {
            censuses.end(pid, image, state);
        }
    }

    /// Has the end of a process reported, also if it has come already.
    pub(super) fn watch(&mut self, pid: u32, ended: &UnboundedSender<u32>) -> Result<(), Error> {
        // Where processes come and go the kernel side tells of it.
        if self.running.traced.follows_members() {
            self.running.collector.whereabouts.joined_once(pid, None);
            return Ok(());
        }
        if !self.watched.insert(pid) {
            return Ok(());
        }
        self.running.collector.whereabouts.joined(pid, None);
        let Some(raw) = rustix::process::Pid::from_raw(pid as i32) else {
            return Ok(());
        };
        let ended = ended.clone();
        match pidfd_open(raw, PidfdFlags::NONBLOCK) {
            Ok(descriptor) => {
                let descriptor = async_fd(descriptor)?;
                tokio::spawn(async move {
                    let _woken: std::io::Result<_> = descriptor.readable().await;
                    let _receiver_gone: Result<_, _> = ended.send(pid);
                });
            }
            Err(_gone) => {
                let _receiver_gone: Result<_, _> = ended.send(pid);
            }
        }
        Ok(())
    }

    /// A process has ended: what it still held stays as "live at exit".
    pub(super) fn end(&mut self, pid: u32) -> Result<(), Error> {
        self.watched.remove(&pid);
        // Its CPU clock goes when it is reaped.
        self.measure()?;
        let exit = self
            .running
            .child
            .as_mut()
            .filter(|child| child.id() == pid)
            .and_then(reap);
        let Running {
            traced, collector, ..
        } = &mut self.running;
        let Some(process) = traced
            .get_mut(pid)
            .filter(|process| process.state == State::Running)
        else {
            return Ok(());
        };
        process.exit = exit;
        let known = process.image();
        traced.exited(pid);
        // One of the two may have counted an exec that the other has not.
        let counted = collector.tables().image(pid)?.unwrap_or(known);
        for image in known.min(counted)..=known.max(counted) {
            collector.freeze(traced, pid, image, State::Exited)?;
        }
        collector.tables().remove_process(pid)?;
        collector.ended.end(pid);
        self.end_census(pid, known, State::Exited);
        self.accounts.end(pid);
        self.forget();
        Ok(())
    }
}
