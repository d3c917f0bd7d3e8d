//! The whole of it, on this very process.

use leaktrace_common::{call::Space, math::Weight};

use super::{evidence::Rounding, *};
use crate::report::account::{Kind, Part};

fn own() -> Key {
    Key {
        tgid: std::process::id(),
        image: 0,
        space: 0,
        device: 0,
    }
}

fn block(address: u64, size_bytes: u64) -> Block {
    Block {
        site: SiteKey {
            stack_id: 1,
            process: own(),
            call: 1,
            shard: 0,
        },
        address,
        size_bytes,
        weight: Weight::ONE,
    }
}

fn part(account: &Account, kind: Kind) -> Option<&Part> {
    account.parts.iter().find(|part| part.kind == kind)
}

#[test]
fn what_is_outstanding_is_told_from_what_is_only_reserved() {
    const LENGTH: u64 = 64 << 20;
    let mut accounts = Accounts::new();
    accounts.attach(own(), now_ns());
    assert!(accounts.account(own().tgid, |_| None).is_none());
    let touched = vec![1_u8; LENGTH as usize];
    let reserved: Vec<u8> = Vec::with_capacity(LENGTH as usize);
    let mut sweep = accounts.look(now_ns(), Occasion::LastReport, |_| Rounding::Glibc);
    assert!(!sweep.is_empty());
    sweep.add(&block(touched.as_ptr() as u64, LENGTH));
    sweep.add(&block(reserved.as_ptr() as u64, LENGTH));
    let others = Key { image: 1, ..own() };
    assert_eq!(Space::of(others.space), Some(Space::Heap));
    let mut foreign = block(touched.as_ptr() as u64, LENGTH);
    foreign.site.process = others;
    sweep.add(&foreign);
    accounts.settle(&sweep, |_, _| false);
    let account = accounts.account(own().tgid, |_| Some(3)).expect("an account");
    let site = part(&account, Kind::Site).expect("the site");
    assert_eq!(site.site, Some(3));
    // Other tests run beside this one, and huge pages are of two megabytes.
    let held = site.amount.bytes;
    assert!((LENGTH..LENGTH + (8 << 20)).contains(&held), "{held}");
    assert!(account.rss.bytes >= LENGTH && account.anonymous.bytes >= LENGTH);
    let explained: i64 = account.parts.iter().map(|part| part.amount.change_bytes).sum();
    let change = account.rss.change_bytes + account.swap.change_bytes;
    assert_eq!(explained + account.unexplained_bytes, change);
    drop((touched, reserved));
    // What was known last stays.
    accounts.end(own().tgid);
    assert_eq!(accounts.account(own().tgid, |_| Some(3)), Some(account));
    accounts.forget(own().tgid);
    assert_eq!(accounts.account(own().tgid, |_| Some(3)), None);
}

#[test]
fn looks_have_their_share_of_the_time() {
    let mut accounts = Accounts::new();
    let now = now_ns();
    accounts.attach(own(), now);
    // Just looked at.
    assert!(
        accounts
            .look(now, Occasion::Meanwhile, |_| Rounding::Glibc)
            .is_empty()
    );
    accounts.due_ns = 0;
    assert!(
        !accounts
            .look(now + BETWEEN_NS, Occasion::Meanwhile, |_| Rounding::Glibc)
            .is_empty()
    );
    accounts.due_ns = now + 3 * BETWEEN_NS;
    assert!(
        accounts
            .look(now + 2 * BETWEEN_NS, Occasion::Meanwhile, |_| Rounding::Glibc)
            .is_empty()
    );
    assert!(
        !accounts
            .look(now + 2 * BETWEEN_NS, Occasion::LastReport, |_| Rounding::Glibc)
            .is_empty()
    );
}

#[test]
fn who_is_not_there_has_no_account() {
    let mut accounts = Accounts::new();
    let nobody = Key {
        tgid: u32::MAX,
        ..own()
    };
    accounts.attach(nobody, 1);
    assert!(
        accounts
            .look(now_ns(), Occasion::LastReport, |_| Rounding::Glibc)
            .is_empty()
    );
    assert!(accounts.account(nobody.tgid, |_| None).is_none());
}

#[test]
fn what_began_with_nothing_has_all_of_it_since() {
    let mut accounts = Accounts::new();
    let started = Key { image: 2, ..own() };
    accounts.attach(own(), now_ns());
    accounts.started(started, now_ns());
    let sweep = accounts.look(now_ns(), Occasion::LastReport, |_| Rounding::Glibc);
    accounts.settle(&sweep, |_, _| false);
    let account = accounts.account(own().tgid, |_| None).expect("an account");
    assert_eq!(account.rss.change_bytes, account.rss.bytes as i64);
    assert!(part(&account, Kind::Before).is_none());
    // A program that an event tells of first.
    let event = MapEvent {
        process: Key { image: 3, ..own() },
        time_ns: now_ns(),
        began_ns: now_ns(),
        stack_id: 0,
        start: 0,
        length_bytes: 0,
        old_start: 0,
        old_length_bytes: 0,
        kind: leaktrace_common::mapping::kind::UNMAP,
        flags: 0,
    };
    accounts.apply(&event);
    assert!(accounts.account(own().tgid, |_| None).is_none());
}
