//! An account in a sentence: `RSS +512.0 MiB in 10m 00s: 64 % heap held but free; 31 % load_rows, growing; 5 % unexplained`.
//!
//! Pure. Must not know where names come from.

use crate::report::{
    account::{Account, Kind, Part},
    units::{duration_s, size, size_change},
    verdict::Class,
};

/// Changes below this, and below a thousandth of what there is, are none.
const CHANGE_BYTES: u64 = 1 << 20;

/// Parts below this share of all that has changed are summed up.
const LEAST_SHARE: f64 = 0.03;

/// Parts that are named at most.
const PARTS_MAX: usize = 6;

/// Shares are said where what rises and what falls together is at most so many times what has changed in the end.
const MIXED: f64 = 1.5;

/// A site in a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// What it is called, shortly.
    pub label: String,
    /// What it is taken for.
    pub class: Option<Class>,
}

/// A part in the sentence.
struct Item {
    bytes: i64,
    name: String,
}

/// The sentence. `name` is asked for the name of a survivor of the report.
pub fn line(account: &Account, name: impl Fn(usize) -> Name) -> String {
    let change = account.rss.change_bytes.saturating_add(account.swap.change_bytes);
    let least = CHANGE_BYTES.max(account.rss.bytes / 1000);
    let over = duration_s(account.over_s);
    let is_steady = |bytes: i64| bytes.unsigned_abs() < least;
    let steady =
        is_steady(account.rss.change_bytes) && is_steady(account.swap.change_bytes) && is_steady(change);
    let head = if steady {
        format!("RSS {}, unchanged in {over}", size(account.rss.bytes))
    } else {
        let swap = match account.swap.change_bytes {
            bytes if is_steady(bytes) => String::new(),
            bytes => format!(" and swap {}", size_change(bytes)),
        };
        format!("RSS {}{swap} in {over}", size_change(account.rss.change_bytes))
    };
    let mut items: Vec<Item> = account
        .parts
        .iter()
        .map(|part| Item {
            bytes: part.amount.change_bytes,
            name: named(part, &name, true),
        })
        .collect();
    items.push(Item {
        bytes: account.unexplained_bytes,
        name: "unexplained".to_owned(),
    });
    let moved: f64 = items.iter().map(|item| item.bytes.unsigned_abs() as f64).sum();
    if steady && moved < 2.0 * least as f64 {
        return format!("{head}{}", levels(account, name));
    }
    let shares = change > 0 && !steady && moved <= MIXED * change as f64;
    let said = |bytes: i64| {
        if shares {
            format!("{:.0} %", 100.0 * bytes as f64 / change as f64)
        } else {
            size_change(bytes)
        }
    };
    match listed(items, moved, said) {
        list if list.is_empty() => head,
        list => format!("{head}: {list}"),
    }
}

/// What there is, where nothing has changed.
fn levels(account: &Account, name: impl Fn(usize) -> Name) -> String {
    let items: Vec<Item> = account
        .parts
        .iter()
        .map(|part| Item {
            bytes: part.amount.bytes as i64,
            name: named(part, &name, false),
        })
        .collect();
    let sum: f64 = items.iter().map(|item| item.bytes as f64).sum();
    let list = listed(items, sum, |bytes| {
        format!("{:.0} %", 100.0 * bytes as f64 / sum.max(1.0))
    });
    if list.is_empty() {
        return String::new();
    }
    format!("; of it {list}")
}

/// Those of one name are one: a line of Python by several ways through its interpreter.
fn merged(items: Vec<Item>) -> Vec<Item> {
    let mut merged: Vec<Item> = Vec::with_capacity(items.len());
    for item in items {
        match merged.iter_mut().find(|other| other.name == item.name) {
            Some(other) => other.bytes += item.bytes,
            None => merged.push(item),
        }
    }
    merged
}

/// Parts in a row, the largest first; what is small in one, and what is not known last.
fn listed(items: Vec<Item>, all: f64, said: impl Fn(i64) -> String) -> String {
    let size_of = |item: &Item| item.bytes.unsigned_abs();
    let is_large = |item: &Item| item.bytes != 0 && size_of(item) as f64 >= LEAST_SHARE * all;
    let (mut large, mut small): (Vec<Item>, Vec<Item>) = merged(items).into_iter().partition(is_large);
    // The order of the report is kept where two are alike.
    large.sort_by_key(|item| std::cmp::Reverse(size_of(item)));
    small.extend(large.drain(PARTS_MAX.min(large.len())..));
    let last = large
        .iter()
        .position(|item| item.name == "unexplained")
        .map(|index| large.remove(index));
    let other = Item {
        bytes: small.iter().map(|item| item.bytes).sum(),
        name: "other".to_owned(),
    };
    // Half of one in a hundred is said to be none.
    let other = (size_of(&other) as f64 >= 0.005 * all && other.bytes != 0).then_some(other);
    let said: Vec<String> = large
        .iter()
        .chain(&last)
        .chain(&other)
        .map(|item| format!("{} {}", said(item.bytes), item.name))
        .collect();
    said.join("; ")
}

/// What a part is called. Of the heap only the change is free: what was handed out before the attach is in it.
fn named(part: &Part, name: impl Fn(usize) -> Name, change: bool) -> String {
    let text = match (part.kind, part.site) {
        (Kind::Site, Some(index)) => {
            let Name { label, class } = name(index);
            return match class {
                Some(class) => format!("{label}, {}", class.name()),
                None => label,
            };
        }
        (Kind::Site | Kind::OtherSites, _) => "other sites",
        (Kind::HeapFree, _) if change => "heap held but free",
        (Kind::HeapFree, _) => "heap that is free or was handed out before the attach",
        (Kind::Mappings, _) => "mapped by the process itself",
        (Kind::Stacks, _) => "stacks",
        (Kind::Before, _) => "mapped before the attach",
        (Kind::Files, _) => "files and shared memory",
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::account::Amount;

    const MIB: i64 = 1 << 20;

    /// Of parts: their changes in MiB, what there is of them now.
    fn account(rss: i64, swap: i64, parts: &[(Kind, Option<usize>, i64)]) -> Account {
        let parts: Vec<Part> = parts
            .iter()
            .map(|&(kind, site, change)| Part {
                kind,
                site,
                amount: Amount {
                    bytes: change.max(0) as u64 * MIB as u64,
                    change_bytes: change * MIB,
                },
            })
            .collect();
        let explained: i64 = parts.iter().map(|part| part.amount.change_bytes).sum();
        let amount = |change: i64| Amount {
            bytes: 1 << 30,
            change_bytes: change * MIB,
        };
        Account {
            pid: 7,
            over_s: 600.0,
            rss: amount(rss),
            pss: None,
            anonymous: amount(rss),
            file: Amount::default(),
            swap: amount(swap),
            unexplained_bytes: (rss + swap) * MIB - explained,
            mappings: Vec::new(),
            parts,
            line: String::new(),
        }
    }

    fn said(rss: i64, swap: i64, parts: &[(Kind, Option<usize>, i64)]) -> String {
        line(&account(rss, swap, parts), |index| Name {
            label: ["load_rows", "parse"][index].to_owned(),
            class: [Some(Class::Growing), None][index],
        })
    }

    #[test]
    fn a_rise_is_told_by_its_shares() {
        let parts = [(Kind::Site, Some(0), 159), (Kind::HeapFree, None, 328)];
        assert_eq!(
            said(512, 0, &parts),
            "RSS +512.0 MiB in 10m 00s: 64 % heap held but free; 31 % load_rows, growing; 5 % unexplained"
        );
    }

    #[test]
    fn what_is_small_is_one() {
        let parts = [
            (Kind::Site, Some(0), 900),
            (Kind::Site, Some(1), 24),
            (Kind::OtherSites, None, 25),
            (Kind::Stacks, None, 20),
            (Kind::Mappings, None, 31),
        ];
        assert_eq!(
            said(1000, 0, &parts),
            "RSS +1000.0 MiB in 10m 00s: 90 % load_rows, growing; 3 % mapped by the process itself; 7 % other"
        );
    }

    #[test]
    fn sites_of_one_name_are_one() {
        let parts = [
            (Kind::Site, Some(0), 300),
            (Kind::HeapFree, None, 350),
            (Kind::Site, Some(0), 200),
        ];
        assert_eq!(
            said(850, 0, &parts),
            "RSS +850.0 MiB in 10m 00s: 59 % load_rows, growing; 41 % heap held but free"
        );
    }

    #[test]
    fn what_rises_and_falls_is_told_in_bytes() {
        let parts = [(Kind::Site, Some(1), 40), (Kind::HeapFree, None, -28)];
        assert_eq!(
            said(12, 0, &parts),
            "RSS +12.0 MiB in 10m 00s: +40.0 MiB parse; -28.0 MiB heap held but free"
        );
        assert_eq!(
            said(-20, 0, &[(Kind::Mappings, None, -20)]),
            "RSS -20.0 MiB in 10m 00s: -20.0 MiB mapped by the process itself"
        );
        // A leak into what was free.
        let parts = [(Kind::Site, Some(0), 40), (Kind::HeapFree, None, -40)];
        assert_eq!(
            said(0, 0, &parts),
            "RSS 1.0 GiB, unchanged in 10m 00s: +40.0 MiB load_rows, growing; -40.0 MiB heap held but free"
        );
    }

    #[test]
    fn what_is_swapped_out_is_not_gone() {
        assert_eq!(
            said(-20, 25, &[(Kind::Site, Some(0), 5)]),
            "RSS -20.0 MiB and swap +25.0 MiB in 10m 00s: 100 % load_rows, growing"
        );
    }

    #[test]
    fn where_nothing_changes_it_is_said_what_there_is() {
        let mut account = account(0, 0, &[]);
        assert_eq!(
            line(&account, |_| unreachable!()),
            "RSS 1.0 GiB, unchanged in 10m 00s"
        );
        for (kind, bytes) in [(Kind::HeapFree, 600), (Kind::Files, 400)] {
            account.parts.push(Part {
                kind,
                site: None,
                amount: Amount {
                    bytes,
                    change_bytes: 0,
                },
            });
        }
        assert_eq!(
            line(&account, |_| unreachable!()),
            "RSS 1.0 GiB, unchanged in 10m 00s; of it 60 % heap that is free or was handed out before the attach; \
             40 % files and shared memory"
        );
    }
}
