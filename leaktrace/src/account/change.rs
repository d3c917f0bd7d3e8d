//! From what the memory of a process was at first and is now to an account of what has changed. Pure.
//!
//! Must not know how either was found out.

use std::collections::BTreeMap;

use leaktrace_common::key::SiteKey;

use super::{
    base::Levels,
    smaps::Area,
    split::{MappedBytes, Mapper, Split},
};
use crate::report::account::{Account, Amount, Kind, Mapping, Part};

/// Mappings that are listed.
const MAPPINGS_MAX: usize = 10;

/// Memory of a process in numbers, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Resident, as the kernel counts it.
    pub rss_bytes: u64,
    /// What the mappings have of that, and so the parts; read at almost the same time.
    pub mapped_rss_bytes: u64,
    /// Resident, what is shared counted in part.
    pub pss_bytes: u64,
    /// Of no file, resident or in swap.
    pub anonymous_bytes: u64,
    /// In swap.
    pub swap_bytes: u64,
}

impl Figures {
    /// Of all mappings of a process that has `rss_bytes`.
    pub fn new(rss_bytes: u64, areas: &[Area]) -> Self {
        let sum = |of: fn(&Area) -> u64| areas.iter().map(of).sum::<u64>();
        let swap_bytes = sum(|area| area.swap_bytes);
        Self {
            rss_bytes,
            mapped_rss_bytes: sum(|area| area.rss_bytes),
            pss_bytes: sum(|area| area.pss_bytes),
            anonymous_bytes: sum(|area| area.anonymous_bytes) + swap_bytes,
            swap_bytes,
        }
    }

    /// Resident pages of files and shared memory.
    const fn file_bytes(&self) -> u64 {
        let resident = self.anonymous_bytes.saturating_sub(self.swap_bytes);
        self.mapped_rss_bytes.saturating_sub(resident)
    }
}

/// A process at first.
#[derive(Clone, Copy, Debug, Default)]
pub struct First {
    /// When, nanoseconds of `CLOCK_BOOTTIME`.
    pub time_ns: u64,
    /// In numbers.
    pub figures: Figures,
    /// By kind, by what is known by now.
    pub levels: Levels,
}

/// A process now.
#[derive(Clone, Copy, Debug)]
pub struct Now<'a> {
    /// When, nanoseconds of `CLOCK_BOOTTIME`.
    pub time_ns: u64,
    /// In numbers.
    pub figures: Figures,
    /// By kind, by site, by mapping.
    pub split: &'a Split,
}

/// What has changed. `listed` says which survivor of the report a site belongs to. The line is left empty: it has names.
pub fn account(
    pid: u32,
    first: &First,
    now: &Now<'_>,
    listed: impl Fn(&SiteKey) -> Option<usize>,
) -> Account {
    let (was, is) = (&first.figures, &now.figures);
    let rss = Amount::since(was.rss_bytes, is.rss_bytes);
    let swap = Amount::since(was.swap_bytes, is.swap_bytes);
    let parts = parts(&first.levels, now.split, listed);
    let explained: i64 = parts.iter().map(|part| part.amount.change_bytes).sum();
    Account {
        pid,
        over_s: now.time_ns.saturating_sub(first.time_ns) as f64 / 1e9,
        rss,
        pss: Some(Amount::since(was.pss_bytes, is.pss_bytes)),
        anonymous: Amount::since(was.anonymous_bytes, is.anonymous_bytes),
        file: Amount::since(was.file_bytes(), is.file_bytes()),
        swap,
        unexplained_bytes: rss.change_bytes + swap.change_bytes - explained,
        mappings: mappings(now.split),
        parts,
        line: String::new(),
    }
}

/// Sites that are listed first, in the report's order.
fn parts(first: &Levels, split: &Split, listed: impl Fn(&SiteKey) -> Option<usize>) -> Vec<Part> {
    let (mut sites, mut others) = (BTreeMap::<usize, u64>::new(), 0_u64);
    for (site, bytes) in &split.sites {
        match listed(site) {
            Some(index) => *sites.entry(index).or_default() += bytes,
            None => others += bytes,
        }
    }
    let now = &split.levels;
    // What is outstanding has been handed out since the attach: at first nothing was. What it has more than the heap was
    // handed out after the heap was looked at: no part has it.
    let free = now.heap_bytes.saturating_sub(split.outstanding_bytes());
    let part = |kind, amount| Part {
        kind,
        site: None,
        amount,
    };
    let mut parts: Vec<Part> = sites
        .into_iter()
        .map(|(index, bytes)| Part {
            site: Some(index),
            ..part(Kind::Site, Amount::since(0, bytes))
        })
        .collect();
    parts.extend([
        part(Kind::OtherSites, Amount::since(0, others)),
        part(Kind::HeapFree, Amount::since(first.heap_bytes, free)),
        part(
            Kind::Mappings,
            Amount::since(first.mappings_bytes, now.mappings_bytes),
        ),
        part(Kind::Stacks, Amount::since(first.stacks_bytes, now.stacks_bytes)),
        part(Kind::Before, Amount::since(first.before_bytes, now.before_bytes)),
        part(Kind::Files, Amount::since(first.files_bytes, now.files_bytes)),
    ]);
    parts.retain(|part| part.amount != Amount::default());
    parts
}

/// What holds most first; what is only reserved comes last, however much that is.
fn mappings(split: &Split) -> Vec<Mapping> {
    let mut all: Vec<(Mapper, MappedBytes)> =
        split.mappings.iter().map(|(by, bytes)| (*by, *bytes)).collect();
    all.sort_unstable_by(|(a, of_a), (b, of_b)| {
        let by = |of: &MappedBytes| (of.held_bytes, of.length_bytes);
        by(of_b).cmp(&by(of_a)).then(a.cmp(b))
    });
    let listed = all.into_iter().take(MAPPINGS_MAX);
    let listed = listed.map(|(mapper, bytes)| Mapping {
        call: mapper.map(|(call, _)| call.name()),
        held_bytes: bytes.held_bytes,
        mapped_bytes: bytes.length_bytes,
        stretches: bytes.stretches,
        stack_id: mapper.map_or(0, |(_, stack_id)| stack_id),
        frames: Vec::new(),
    });
    listed.collect()
}

#[cfg(test)]
mod tests {
    use leaktrace_common::call::Space;
    use proptest::prelude::*;

    use super::{super::evidence::tests::site, *};

    fn split(levels: Levels, sites: &[(u64, u64)]) -> Split {
        Split {
            levels,
            sites: sites
                .iter()
                .map(|(stack, bytes)| (site(*stack, Space::Heap), *bytes))
                .collect(),
            ..Split::default()
        }
    }

    fn of(kind: Kind, account: &Account) -> Amount {
        let part = account.parts.iter().find(|part| part.kind == kind);
        part.map_or(Amount::default(), |part| part.amount)
    }

    const MIB: u64 = 1 << 20;

    #[test]
    fn free_heap_that_is_used_again_is_a_fall_of_it() {
        let first = First {
            levels: Levels {
                heap_bytes: 100 * MIB,
                ..Levels::default()
            },
            figures: Figures {
                rss_bytes: 100 * MIB,
                ..Figures::default()
            },
            time_ns: 1_000_000_000,
        };
        let split = split(first.levels, &[(1, 30 * MIB), (2, 10 * MIB), (3, 5 * MIB)]);
        let now = Now {
            time_ns: 11_000_000_000,
            figures: first.figures,
            split: &split,
        };
        let account = account(7, &first, &now, |site| {
            (site.stack_id < 3).then_some(site.stack_id as usize)
        });
        assert_eq!(
            (account.over_s.to_bits(), account.unexplained_bytes),
            (10_f64.to_bits(), 0)
        );
        assert_eq!(of(Kind::HeapFree, &account), Amount::since(100 * MIB, 55 * MIB));
        assert_eq!(of(Kind::OtherSites, &account), Amount::since(0, 5 * MIB));
        let sites: Vec<_> = account
            .parts
            .iter()
            .filter_map(|part| Some((part.site?, part.amount.bytes)))
            .collect();
        assert_eq!(sites, [(1, 30 * MIB), (2, 10 * MIB)]);
        // What has not changed and is nothing is not listed.
        assert_eq!(account.parts.len(), 4);
    }

    #[test]
    fn what_is_only_reserved_comes_last() {
        let bytes = |held_bytes, length_bytes| MappedBytes {
            held_bytes,
            length_bytes,
            stretches: 1,
            touched: 1,
            made: 1,
        };
        let mut split = Split::default();
        split.mappings.insert(None, bytes(5, 10));
        split
            .mappings
            .insert(Some((super::super::mapped::Call::Map, 9)), bytes(4, 1 << 30));
        let listed = mappings(&split);
        assert_eq!((listed[0].call, listed[0].held_bytes), (None, 5));
        assert_eq!((listed[1].call, listed[1].stack_id), (Some("mmap"), 9));
    }

    fn levels() -> impl Strategy<Value = Levels> {
        prop::array::uniform5(0..1_u64 << 40).prop_map(|bytes| Levels {
            heap_bytes: bytes[0],
            mappings_bytes: bytes[1],
            stacks_bytes: bytes[2],
            before_bytes: bytes[3],
            files_bytes: bytes[4],
        })
    }

    fn figures() -> impl Strategy<Value = Figures> {
        prop::array::uniform5(0..1_u64 << 42).prop_map(|bytes| Figures {
            rss_bytes: bytes[0],
            mapped_rss_bytes: bytes[1],
            pss_bytes: bytes[2],
            anonymous_bytes: bytes[3],
            swap_bytes: bytes[4],
        })
    }

    proptest! {
        #[test]
        fn the_changes_add_up(
            was in levels(),
            is in levels(),
            first in figures(),
            now in figures(),
            sites in prop::collection::vec((0..9_u64, 0..1_u64 << 38), 0..9),
        ) {
            let first = First { time_ns: 5, figures: first, levels: was };
            let split = split(is, &sites);
            let now = Now { time_ns: 6, figures: now, split: &split };
            let account = account(7, &first, &now, |site| (site.stack_id % 2 == 0).then_some(site.stack_id as usize));
            let sum: i64 = account.parts.iter().map(|part| part.amount.change_bytes).sum();
            prop_assert_eq!(
                sum + account.unexplained_bytes,
                account.rss.change_bytes + account.swap.change_bytes
            );
            // If all that is there is mapped, and nothing is outstanding that the heap has not, all is explained.
            if split.outstanding_bytes() <= is.heap_bytes {
                let change = is.sum() as i64 - was.sum() as i64;
                prop_assert_eq!(sum, change);
            }
        }
    }
}
