//! Sites of several processes that are one in the report, and images that are too many to be kept.

use super::tests::{SECOND, block, key, process, totals};
use super::*;

/// A site of a process with one block of so many bytes, and that block.
fn hold(tracker: &mut Tracker, site: SiteKey, bytes: u64, time_ns: u64) {
    tracker.add_totals(site, &totals(1, bytes, 0, 0));
    tracker.add_block(&block(site, bytes, bytes, time_ns));
}

#[test]
fn a_site_of_many_processes_is_that_of_the_one_that_holds_most() {
    let settings = Settings {
        blocks_per_site: Some(2),
        ..Settings::default()
    };
    let mut tracker = Tracker::new(settings, 0);
    tracker.begin(SECOND);
    for pid in 1..=12 {
        hold(
            &mut tracker,
            key(pid, 70 + u64::from(pid)),
            100 * u64::from(pid),
            0,
        );
    }
    // Of one process two stacks are equal.
    hold(&mut tracker, key(3, 90), 5000, SECOND);
    let snapshot = tracker.finish(|_| (Scope::Many(0), ()));
    let [site] = snapshot.sites.as_slice() else {
        panic!("{:?}", snapshot.sites)
    };
    assert_eq!((site.processes, site.merged, site.blocks), (12, 13, 13));
    assert_eq!(site.bytes, 100 * 78 + 5000);
    assert_eq!((site.site.image.tgid, site.site.key.stack_id), (3, 73));
    assert_eq!(site.pids, [3, 12, 11, 10, 9, 8, 7, 6, 5, 4]);
    // Of those that are equally old the smallest address.
    let oldest: Vec<_> = site
        .oldest
        .iter()
        .flatten()
        .map(|block| (block.tgid, block.age_ms))
        .collect();
    assert_eq!(oldest, [(1, 1000), (2, 1000)]);
    assert_eq!((snapshot.omitted.sites, snapshot.omitted.bytes), (0, 0));
}

#[test]
fn ages_of_ended_and_running_processes_are_put_together_as_they_are() {
    let settings = Settings {
        blocks_per_site: Some(3),
        older_than_ns: 1,
        ..Settings::default()
    };
    let mut tracker = Tracker::new(settings, 0);
    let mut freezing = tracker.freeze(1, 0, State::Exited, 10 * SECOND);
    freezing.add_totals(key(1, 7), &totals(1, 10, 0, 0));
    freezing.add_block(&block(key(1, 7), 1, 10, 4 * SECOND));
    assert!(freezing.finish().is_kept);
    tracker.begin(100 * SECOND);
    hold(&mut tracker, key(2, 8), 20, 98 * SECOND);
    hold(&mut tracker, key(3, 8), 30, 20 * SECOND);
    let snapshot = tracker.finish(|_| (Scope::Many(0), ()));
    let site = &snapshot.sites[0];
    assert_eq!((site.age_ms.min, site.age_ms.max), (2_000, 80_000));
    let oldest: Vec<_> = site
        .oldest
        .iter()
        .flatten()
        .map(|block| (block.tgid, block.age_ms))
        .collect();
    // Allocated first, and six seconds old when its process ended.
    assert_eq!(oldest, [(3, 80_000), (1, 6_000), (2, 2_000)]);
    assert_eq!(
        (site.state, site.pids.as_slice()),
        (State::Running, &[3, 2, 1][..])
    );
}

#[test]
fn a_process_that_has_called_exec_is_one_and_a_pid_that_came_back_another() {
    let all = |_: &SiteRef| (Scope::Many(0), ());
    let mut tracker = Tracker::new(Settings::default(), 0);
    let of_image = |image| SiteKey {
        process: process(1, image),
        ..key(1, 7)
    };
    let mut freezing = tracker.freeze(1, 0, State::Replaced, SECOND);
    freezing.add_totals(of_image(0), &totals(1, 10, 0, 0));
    assert!(freezing.finish().is_kept);
    tracker.begin(SECOND);
    tracker.add_totals(of_image(1), &totals(1, 20, 0, 0));
    assert_eq!(tracker.finish(all).sites[0].processes, 1);
    // It ends and leaves nothing more: what is kept of it is over, too.
    let mut freezing = tracker.freeze(1, 1, State::Exited, SECOND);
    freezing.add_totals(of_image(1), &totals(1, 20, 1, 20));
    assert!(!freezing.finish().is_kept);
    tracker.begin(2 * SECOND);
    tracker.add_totals(of_image(0), &totals(1, 40, 0, 0));
    let snapshot = tracker.finish(all);
    assert_eq!(snapshot.sites[0].processes, 2);
    assert_eq!(snapshot.sites[0].pids, [1, 1]);
    assert_eq!((snapshot.totals.live_bytes, snapshot.totals.allocs), (50, 3));
    assert_eq!(
        snapshot.images.len(),
        2,
        "what has ended and holds nothing is not listed"
    );
}

#[test]
fn of_images_beyond_the_bound_those_that_hold_least_become_sums() {
    let mut tracker = Tracker::new(Settings::default(), 0);
    let ends = IMAGES_MAX as u64 + 50;
    for end in 0..ends {
        // Every second one is large.
        let bytes = 10 + end % 2 * 1000;
        let mut freezing = tracker.freeze(end as u32, 0, State::Exited, SECOND);
        freezing.add_totals(key(end as u32, end), &totals(2, 2 * bytes, 1, bytes));
        freezing.add_totals(
            SiteKey {
                process: Process {
                    space: Space::Device as u8,
                    device: 1,
                    ..process(end as u32, 0)
                },
                ..key(0, end)
            },
            &totals(1, 1, 0, 0),
        );
        assert!(freezing.finish().is_kept);
    }
    let forgotten = tracker.take_forgotten();
    assert_eq!(forgotten.len(), 50);
    // Of those that hold the same, the first to end.
    assert!(
        forgotten
            .iter()
            .enumerate()
            .all(|(nth, image)| image.tgid == 2 * nth as u32)
    );
    assert!(tracker.take_forgotten().is_empty());
    tracker.begin(2 * SECOND);
    let snapshot = tracker.finish(|_| (Scope::Many(0), ()));
    assert_eq!(snapshot.images.len(), IMAGES_MAX);
    assert_eq!(snapshot.totals.live_bytes, ends * 10 + ends / 2 * 1000);
    assert_eq!((snapshot.totals.allocs, snapshot.totals.frees), (2 * ends, ends));
    assert_eq!(
        (snapshot.forgotten.live_blocks, snapshot.forgotten.live_bytes),
        (50, 500)
    );
    assert_eq!((snapshot.omitted.sites, snapshot.omitted.bytes), (50, 500));
    assert_eq!(snapshot.places[0].live_blocks, ends);
}
