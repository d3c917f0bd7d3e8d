//! What a report says of its own losses: the kernel side's counters and user space's. Must not know what is traced.

use std::collections::BTreeMap;

use leaktrace_common::counter::Counter;

use super::build::Sources;
use crate::{
    report::ledger::{self, Line},
    track::Snapshot,
};

/// The ledger, and a sentence for each number in it that means a loss.
pub(super) fn ledger(from: &Sources<'_>, snapshot: &Snapshot) -> (BTreeMap<&'static str, u64>, Vec<String>) {
    let mut warnings = from.traced.warnings.list();
    let unseen = from.traced.unseen;
    let missed = from.traced.missed();
    let mut ledger = BTreeMap::from([
        (ledger::OBJECTS_LATE.name, unseen.objects_late),
        (ledger::FORKS_FOLLOWED_LATE.name, unseen.forks_followed_late),
        (ledger::FORKS_NOT_FOLLOWED.name, unseen.forks_not_followed),
        (ledger::PROCESSES_UNNAMED.name, from.traced.members().unnamed),
        (ledger::PROCESSES_UNPROBED.name, from.traced.members().unprobed),
        (ledger::SIDEBAND_LOST.name, from.sideband.lost()),
        (ledger::STACKS_CUT.name, from.collector.stacks_cut),
        (ledger::UNWIND_TABLES_FULL.name, missed.tables_full),
        (ledger::UNWIND_MAPPINGS_LEFT_OUT.name, missed.mappings_left_out),
        (ledger::MAPPINGS_FULL.name, from.mappings_full),
        (ledger::PROCESSES_FORGOTTEN.name, from.collector.ended.forgotten),
        (ledger::TORN.name, snapshot.torn),
    ]);
    for &counter in Counter::ALL {
        match from.counters.read(counter) {
            Ok(count) => {
                ledger.insert(counter.name(), count);
            }
            Err(error) => warnings.push(format!("cannot read the counter {}: {error}", counter.name())),
        }
    }
    *ledger.entry(Counter::RawStacksLost.name()).or_default() += from.collector.stacks_dropped();
    let worth_saying = |line: &Line| line.is_loss || *line == ledger::FORKS_NOT_FOLLOWED;
    for line in ledger::lines().filter(worth_saying) {
        if let Some(count) = ledger.get(line.name).filter(|count| **count > 0) {
            warnings.push(format!("{}: {count}. {}", line.name, line.help));
        }
    }
    (ledger, warnings)
}
