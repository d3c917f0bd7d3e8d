//! Conditions held against a report of all sites: which of them hold, and by which sites.
//!
//! Pure. Must not know suppressions beyond that what they meet is not in the list any more, nor how long the list may be.

use leaktrace_common::call::Space;

use super::condition::{Condition, Limit};
use crate::report::{
    gate::{Failed, Gate, Undecided},
    model::{OmittedSpace, Report, Sampled, Survivor},
    verdict::{Class, Verdict},
};

/// Sites that are named of one condition and one kind of memory.
pub(super) const NAMED_MAX: usize = 100;

/// The host's memory, as a name beside those of the kinds of GPU memory.
const HOST: &str = "host";

/// Judges a report that lists all sites but those that are suppressed. Indices are those of its lists.
///
/// `unlisted` passes the filters and is not in the list, by kind of memory.
pub(super) fn judge(conditions: &[Condition], report: &Report, unlisted: &[OmittedSpace]) -> Gate {
    let mut failed = Vec::new();
    for condition in conditions {
        match condition {
            Condition::Growing => failed.extend(growing(report)),
            Condition::Survivors(limit) => {
                failed.extend(above(condition, *limit, &BLOCKS, report, unlisted));
            }
            Condition::Bytes(limit) => failed.extend(above(condition, *limit, &BYTES, report, unlisted)),
        }
    }
    Gate {
        conditions: conditions.iter().map(ToString::to_string).collect(),
        failed,
        undecided: conditions
            .contains(&Condition::Growing)
            .then(|| undecided(report)),
        unnamed_sites: unlisted.iter().map(|rest| rest.sites).sum(),
    }
}

fn class(verdict: Option<&Verdict>) -> Class {
    verdict.map_or(Class::Undecided, |verdict| verdict.class)
}

/// Holds if anything grows; a site or a type of which nothing is known yet does not.
fn growing(report: &Report) -> Option<Failed> {
    let grows = |verdict: &Option<Verdict>| class(verdict.as_ref()) == Class::Growing;
    let mut sites: Vec<usize> = indices(&report.survivors, |survivor| grows(&survivor.verdict));
    let loss = |&index: &usize| {
        let verdict: Option<&Verdict> = report.survivors[index].verdict.as_ref();
        std::cmp::Reverse(verdict.map_or(0, |verdict| verdict.loss_bytes_per_h))
    };
    sites.sort_by_key(loss);
    let listed = report
        .types
        .as_ref()
        .map_or(&[][..], |types| types.list.as_slice());
    let types = indices(listed, |of_type| !of_type.suppressed && grows(&of_type.verdict));
    let value = (sites.len() + types.len()) as u64;
    (value > 0).then(|| Failed {
        condition: Condition::Growing.to_string(),
        memory: None,
        value,
        estimate: None,
        limit: 0,
        more_sites: shorten(&mut sites),
        sites,
        types,
    })
}

fn indices<T>(list: &[T], wanted: impl Fn(&T) -> bool) -> Vec<usize> {
    let all = list.iter().enumerate();
    all.filter(|(_, one)| wanted(one))
        .map(|(index, _)| index)
        .collect()
}

/// Cuts the list of named sites; how many are left out.
fn shorten(sites: &mut Vec<usize>) -> u64 {
    let more = sites.len().saturating_sub(NAMED_MAX);
    sites.truncate(NAMED_MAX);
    more as u64
}

fn undecided(report: &Report) -> Undecided {
    let types = report.types.iter().flat_map(|types| &types.list);
    let types = types
        .filter(|of_type| !of_type.suppressed)
        .map(|of_type| of_type.verdict.as_ref());
    let sites = report.survivors.iter().map(|survivor| survivor.verdict.as_ref());
    let mut undecided = Undecided::default();
    let mut add = |count: fn(&mut Undecided) -> &mut u64, verdict: Option<&Verdict>| {
        if class(verdict) != Class::Undecided {
            return;
        }
        *count(&mut undecided) += 1;
        let needs_s = verdict.and_then(|verdict| verdict.needs_s);
        undecided.needs_s = undecided.needs_s.into_iter().chain(needs_s).reduce(f64::max);
    };
    sites.for_each(|verdict| add(|undecided| &mut undecided.sites, verdict));
    types.for_each(|verdict| add(|undecided| &mut undecided.types, verdict));
    undecided
}

/// What of a site is held against a limit.
struct Amount {
    of_site: fn(&Survivor) -> u64,
    of_rest: fn(&OmittedSpace) -> u64,
    interval: fn(&Sampled) -> [u64; 2],
}

const BLOCKS: Amount = Amount {
    of_site: |survivor| survivor.blocks,
    of_rest: |rest| rest.blocks,
    interval: |sampled| sampled.blocks_interval,
};

const BYTES: Amount = Amount {
    of_site: |survivor| survivor.bytes,
    of_rest: |rest| rest.bytes,
    interval: |sampled| sampled.bytes_interval,
};

/// A condition on a sum, held against that of the host's memory and that of each kind of GPU memory.
fn above(
    condition: &Condition,
    limit: Limit,
    amount: &Amount,
    report: &Report,
    unlisted: &[OmittedSpace],
) -> Vec<Failed> {
    let gpus = Space::ALL.into_iter().filter_map(memory_of_gpu);
    let memories = std::iter::once(HOST).chain(gpus);
    let failed = memories.filter_map(|memory| {
        let listed: Vec<&Survivor> = report
            .survivors
            .iter()
            .filter(|survivor| is_of(memory, &survivor.space))
            .collect();
        let rest = unlisted.iter().filter(|rest| is_of(memory, rest.space));
        let of_listed = sum(listed.iter().map(|survivor| (amount.of_site)(survivor)));
        let whole = of_listed.saturating_add(sum(rest.map(amount.of_rest)));
        let lower = report
            .totals
            .sampled
            .filter(|_| memory == HOST)
            .map(|of_all| lower_bound(amount, report, &listed, &of_all));
        let value = lower.unwrap_or(whole);
        if !limit.is_passed_by(value) {
            return None;
        }
        let mut sites = culprits(limit, amount, report, memory, value);
        Some(Failed {
            condition: condition.to_string(),
            memory: Some(memory),
            value,
            estimate: lower.map(|_| whole),
            limit: limit.number,
            more_sites: shorten(&mut sites),
            sites,
            types: Vec::new(),
        })
    });
    failed.collect()
}

/// Addresses without memory are none.
fn memory_of_gpu(space: Space) -> Option<&'static str> {
    (space.is_gpus() && space != Space::Reservation).then(|| space.name())
}

/// Whether what is in a space is of the memory of that name. Pools of Python lie in its arenas and are of none.
fn is_of(memory: &str, space: &str) -> bool {
    let known = Space::ALL.into_iter().find(|known| known.name() == space);
    let of = known.map_or(Some(HOST), |space| {
        if space.is_of_sum() {
            Some(HOST)
        } else {
            memory_of_gpu(space)
        }
    });
    of == Some(memory)
}

fn sum(numbers: impl Iterator<Item = u64>) -> u64 {
    numbers.fold(0, u64::saturating_add)
}

/// What is outstanding at least, at 95 %, where allocations were sampled.
///
/// Of all sites it is that of the totals. Of some it is made of theirs: their errors are independent, so that their squares
/// add up; of an interval that is not symmetric, the mean of both sides is taken, which is more than the lower one. Nor is it less than
/// the sum of the sites' own lower bounds.
fn lower_bound(amount: &Amount, report: &Report, listed: &[&Survivor], of_all: &Sampled) -> u64 {
    let is_all =
        report.tracing.filters.older_than_ms == 0 && report.suppressed.iter().all(|one| one.held.sites == 0);
    if is_all {
        return (amount.interval)(of_all)[0];
    }
    let intervals = listed
        .iter()
        .map(|survivor| match &survivor.sampled {
            Some(sampled) => (amount.interval)(sampled),
            None => [(amount.of_site)(survivor); 2],
        })
        .collect::<Vec<_>>();
    let estimate = sum(listed.iter().map(|survivor| (amount.of_site)(survivor)));
    let squares = intervals.iter().map(|[low, high]| {
        let half = high.saturating_sub(*low) as f64 / 2.0;
        half * half
    });
    let together = estimate as f64 - squares.sum::<f64>().sqrt();
    let one_by_one = sum(intervals.iter().map(|[low, _]| *low));
    one_by_one.max(together.max(0.0) as u64)
}

/// As few sites of a memory as leave within the limit what is left of `value` without them, the largest first.
fn culprits(limit: Limit, amount: &Amount, report: &Report, memory: &str, value: u64) -> Vec<usize> {
    let mut sites = indices(&report.survivors, |survivor| is_of(memory, &survivor.space));
    sites.sort_by_key(|&index| std::cmp::Reverse((amount.of_site)(&report.survivors[index])));
    let mut left = value;
    let named = sites.into_iter().take_while(|&index| {
        let goes = limit.is_passed_by(left);
        left = left.saturating_sub((amount.of_site)(&report.survivors[index]));
        goes
    });
    named.collect()
}
