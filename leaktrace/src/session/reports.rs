//! Reports: made from what was read, written when their names are known and what is counted for them has come.
//!
//! Must not know what else the loop waits for.

use std::time::Duration;

use tokio::{
    sync::mpsc::UnboundedSender,
    time::{Instant, sleep_until},
};

use super::{
    Session, Waiting, accounts,
    build::Sources,
    census::Occasion,
    child::Signals,
    costs, next_census,
    start::{self, Running},
    until,
};
use crate::{account, error::Error, report::model::State};

/// How long the last report waits for debug files from servers.
const FETCH_WAIT: Duration = Duration::from_secs(10);

/// How long a report and the last report wait for censuses that have begun for them.
const CENSUS_WAIT: Duration = Duration::from_millis(300);
const LAST_CENSUS_WAIT: Duration = Duration::from_secs(2);

impl Session<'_> {
    /// Makes a report; it is written when its names are known.
    pub(super) fn report(&mut self, ended: &UnboundedSender<u32>, last: bool) -> Result<(), Error> {
        // A report is of what has happened, not of what has been looked at.
        self.follow(ended)?;
        self.look_for_members()?;
        self.settle_departed()?;
        // Only now: of those that have ended long ago some had been told of and not been looked at yet.
        self.running.traced.forget_newcomers();
        self.measure()?;
        // While the names are looked up.
        let (occasion, look, wait) = if last {
            (
                Occasion::LastReport,
                account::Occasion::LastReport,
                LAST_CENSUS_WAIT,
            )
        } else {
            (Occasion::Report, account::Occasion::Report, CENSUS_WAIT)
        };
        self.count(occasion);
        let run = self.read_run()?;
        let Running {
            traced, collector, ..
        } = &mut self.running;
        traced.refresh_memory();
        collector.list_at_most(self.gate.sites(last));
        let mut sweep = accounts::look(&mut self.accounts, traced, look);
        let known = &mut self.accounts;
        let snapshot = collector.snapshot(traced, run, &mut sweep, |sweep, mapped| {
            accounts::settle(known, sweep);
            mapped.set_mappings(accounts::mapping_sites(known));
            accounts::mapping_blocks(known).for_each(|block| mapped.add_stretch(&block));
        })?;
        let accounts = accounts::of_report(&self.accounts, &snapshot);
        collector.read_stacks(&accounts::mappers(&accounts, traced))?;
        self.share_tables()?;
        let Running {
            traced,
            collector,
            counters,
            sideband,
            meter,
            keeper,
            ..
        } = &mut self.running;
        let budget = keeper
            .as_mut()
            .map(|keeper| keeper.budget(&traced.catalog.slots, collector));
        let sources = Sources {
            accounts,
            config: self.config,
            traced,
            collector,
            counters,
            sideband,
            overhead: costs::overhead(meter, &traced.catalog, keeper.as_ref(), budget),
            mappings_full: self.accounts.dropped(),
            largest_mean_bytes: keeper
                .as_ref()
                .map_or(self.config.sample_bytes, |keeper| keeper.largest_mean_bytes),
        };
        let (mut report, unnamed) = self.builder.report(&sources, &snapshot, last);
        if let Some(gpu) = &mut report.gpu {
            let users = traced
                .iter()
                .filter(|process| process.gpu.probed().next().is_some());
            let running = users.filter(|process| process.state == State::Running);
            let pids: Vec<u32> = running.map(|process| process.pid).collect();
            gpu.nvml = if pids.is_empty() {
                None
            } else {
                self.driver_count.beside(&pids, &snapshot)
            };
        }
        collector.ended.reported();
        meter.begin_interval();
        self.unnamed = Some(Waiting {
            report,
            unnamed,
            unlisted: snapshot.unlisted,
            counted_until: Instant::now() + wait,
        });
        Ok(())
    }

    /// Writes the report that is waiting for names, if it has them and what is counted for it.
    pub(super) fn write_if_named(&mut self) -> Result<(), Error> {
        if self.builder.has_names() && self.waits_for_census().is_none() {
            self.write()?;
        }
        Ok(())
    }

    /// Until when the report that is waiting, which has its names, does so for a census; none if for none.
    pub(super) fn waits_for_census(&self) -> Option<Instant> {
        let limit = self.unnamed.as_ref()?.counted_until;
        (self.is_counting() && self.builder.has_names() && Instant::now() < limit).then_some(limit)
    }

    /// Writes the report that is waiting, with the names that it has.
    fn write(&mut self) -> Result<(), Error> {
        let Some(Waiting {
            mut report,
            unnamed,
            unlisted,
            ..
        }) = self.unnamed.take()
        else {
            return Ok(());
        };
        let Running {
            traced, collector, ..
        } = &self.running;
        self.builder.name(&mut report, traced, collector, &unnamed);
        if let Some(censuses) = &mut self.censuses {
            report.types = censuses.report(start::sort(self.config.sort), self.gate.types(report.last));
        }
        self.gate.apply(&mut report, &unlisted);
        // They name sites, and which ones are there is known now only.
        accounts::write_lines(&mut report);
        self.judgement.take(&report);
        self.output.report(&report)?;
        self.forget();
        Ok(())
    }

    /// Lets go what is known of processes that have ended and are in no report any more; later, if one is waiting.
    pub(super) fn forget(&mut self) {
        if self.unnamed.is_none() {
            let Running {
                traced, collector, ..
            } = &mut self.running;
            collector.forget(traced);
        }
    }

    /// The last report waits a while for debug files that are being fetched and for the last census; a signal ends that.
    pub(super) async fn last_report(
        &mut self,
        ended: &UnboundedSender<u32>,
        signals: &mut Signals,
    ) -> Result<(), Error> {
        self.write()?;
        self.report(ended, true)?;
        // What is left to do needs no probes.
        self.running.release_all();
        let limit = Instant::now() + FETCH_WAIT;
        loop {
            if self.builder.take_better()
                && let Some(waiting) = &self.unnamed
            {
                let Running {
                    traced, collector, ..
                } = &self.running;
                self.builder.ask(traced, collector, &waiting.unnamed);
            }
            let has_names = self.builder.has_names();
            let late = self.waits_for_census();
            if has_names && late.is_none() && (self.builder.fetching() == 0 || Instant::now() >= limit) {
                break;
            }
            tokio::select! {
                biased;
                _ = signals.next() => break,
                () = self.builder.answered() => {}
                taken = next_census(&mut self.censuses) => self.note_census(taken),
                () = until(late) => {}
                () = sleep_until(limit), if has_names && late.is_none() => {}
            }
        }
        self.write()
    }
}
