//! When the totals of all sites are read into their histories, and what is read of the run beside them.
//!
//! Must not know what a verdict is.

use std::time::Duration;

use leaktrace_common::counter::Counter;
use tokio::time::Instant;

use super::{Session, accounts, start::Running};
use crate::{
    config::Target, error::Error, kernel::object::LoadError, probe::process, report::model::State,
    track::RunReading,
};

impl Session<'_> {
    /// What there is at the attach, for histories to begin with.
    pub(super) fn begin_history(&mut self) -> Result<(), Error> {
        let run = self.read_run()?;
        if !matches!(self.config.target, Target::Command(_)) {
            self.running.collector.attached(run);
        }
        Ok(())
    }

    /// Reads the totals of all sites, and sets when that is due again.
    pub(super) fn note_history(&mut self) -> Result<(), Error> {
        let run = self.read_run()?;
        let collector = &mut self.running.collector;
        collector.set_mappings(accounts::mapping_sites(&self.accounts));
        let wait: Duration = collector.note(run)?;
        self.next_note = Instant::now() + wait;
        Ok(())
    }

    /// What is known of the run: of one process only.
    pub(super) fn read_run(&self) -> Result<RunReading, Error> {
        let Running { traced, counters, .. } = &self.running;
        let mut running = traced.iter().filter(|process| process.state == State::Running);
        let (Some(process), None) = (running.next(), running.next()) else {
            return Ok(RunReading::default());
        };
        Ok(RunReading {
            frees_unknown: counters.read(Counter::FreeUnknown).map_err(LoadError::Maps)?
                + counters.read(Counter::ReallocUnknown).map_err(LoadError::Maps)?,
            resident_bytes: process::resident_and_swapped_bytes(process.pid).unwrap_or(0),
        })
    }
}
