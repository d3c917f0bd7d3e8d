//! Sites of several processes that are one in the report, and images that are too many to be kept.

use proptest::prelude::*;

use super::frozen::Bounds;
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
        // Sites of which nothing is known are alike to none.
        tracker.shed(|_| None);
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
    let unlisted: Vec<_> = snapshot.unlisted.iter().map(|rest| rest.bytes).collect();
    assert_eq!(unlisted, [500, 50], "of the heap and of the device");
    assert_eq!(snapshot.places[0].live_blocks, ends);
}

/// A process that ends, or calls `exec`, with such sites.
#[derive(Clone, Debug)]
struct Ending {
    pid: u32,
    runs_on: bool,
    /// The code of each, of several stacks one; how often it was allocated, and of that freed; the size; the age.
    sites: Vec<(u64, u64, u64, u64, u64)>,
    /// Whether a snapshot is taken then.
    is_seen: bool,
}

fn ending(may_run_on: bool) -> impl Strategy<Value = Ending> {
    let site = (0u64..12, 1u64..5, 0u64..5, 1u64..2000, 0u64..90);
    let sites = prop::collection::vec(site, 0..6);
    (0u32..6, any::<bool>(), sites, prop::bool::weighted(0.2)).prop_map(
        move |(pid, runs_on, sites, is_seen)| Ending {
            pid,
            runs_on: runs_on && may_run_on,
            sites,
            is_seen,
        },
    )
}

/// By pid and code: what is the same throughout a run.
fn alike(site: &SiteRef) -> Alike {
    Alike {
        scope: Scope::Many(u64::from(site.image.tgid % 2)),
        code: [site.key.stack_id % 4, 0],
    }
}

/// All snapshots of a run within these bounds.
fn snapshots(endings: &[Ending], older_than_ns: u64, bounds: Option<Bounds>) -> Vec<Snapshot> {
    let settings = Settings {
        older_than_ns,
        top: usize::MAX,
        ..Settings::default()
    };
    let mut tracker = Tracker::new(settings, 0);
    if let Some(bounds) = bounds {
        tracker.frozen.bounds = bounds;
    }
    let mut images = [0; 6];
    let mut seen = Vec::new();
    for (end, ending) in endings.iter().enumerate() {
        let image = images[ending.pid as usize];
        let state = if ending.runs_on {
            State::Replaced
        } else {
            State::Exited
        };
        images[ending.pid as usize] = if ending.runs_on { image + 1 } else { 0 };
        let now_ns = (100 + end as u64) * SECOND;
        let mut freezing = tracker.freeze(ending.pid, image, state, now_ns);
        for (index, &(code, allocs, frees, bytes, age_s)) in ending.sites.iter().enumerate() {
            // Each of them is another stack.
            let site = SiteKey {
                process: process(ending.pid, image),
                ..key(0, code + 12 * (index as u64 + 1))
            };
            let frees = frees.min(allocs);
            freezing.add_totals(site, &totals(allocs, allocs * bytes, frees, frees * bytes));
            for nth in frees..allocs {
                freezing.add_block(&block(site, nth, bytes, now_ns - age_s * SECOND));
            }
        }
        let _end = freezing.finish();
        tracker.shed(|site| Some(alike(site)));
        assert!(tracker.frozen.images.len() <= tracker.frozen.bounds.images);
        if ending.is_seen || end + 1 == endings.len() {
            tracker.begin(now_ns + SECOND / 2);
            seen.push(tracker.finish(|site| (alike(site).scope, alike(site).code)));
        }
    }
    seen
}

/// What a snapshot says of each site, but for who is shown for it.
fn sums(snapshot: &Snapshot) -> BTreeMap<(Scope, [u64; 2]), SiteSnapshot> {
    let sites = snapshot.sites.iter().map(|site| {
        let Alike { scope, code } = alike(&site.site);
        let sums = SiteSnapshot {
            site: SiteRef {
                image: Image {
                    tgid: 0,
                    image: 0,
                    frozen: None,
                },
                key: key(0, 0),
            },
            pids: Vec::new(),
            state: State::Running,
            ..site.clone()
        };
        ((scope, code), sums)
    });
    sites.collect()
}

proptest! {
    #[test]
    fn a_site_of_forgotten_images_has_the_same_sums(
        endings in prop::collection::vec(ending(false), 1..40),
        older_than_s in prop::sample::select(vec![0u64, 30]),
        images in 0usize..6,
    ) {
        let bounds = Bounds { images, ..Bounds::default() };
        let kept = snapshots(&endings, older_than_s * SECOND, None);
        let gathered = snapshots(&endings, older_than_s * SECOND, Some(bounds));
        for (kept, gathered) in kept.iter().zip(&gathered) {
            prop_assert_eq!(sums(kept), sums(gathered));
            prop_assert_eq!(&kept.totals, &gathered.totals);
            prop_assert_eq!(&kept.omitted, &gathered.omitted);
            let of_images: u64 = gathered.images.iter().map(|image| image.live_bytes).sum();
            prop_assert_eq!(of_images + gathered.forgotten.live_bytes, gathered.totals.live_bytes);
        }
    }

    #[test]
    fn of_processes_that_go_in_parts_no_more_are_counted_than_there_are(
        endings in prop::collection::vec(ending(true), 1..40),
        images in 0usize..6,
        sites in 2usize..20,
    ) {
        let bounds = Bounds { images, sites, ..Bounds::default() };
        let kept = snapshots(&endings, 0, None);
        let gathered = snapshots(&endings, 0, Some(bounds));
        for (kept, gathered) in kept.iter().zip(&gathered) {
            let (kept, gathered) = (sums(kept), sums(gathered));
            prop_assert_eq!(kept.len(), gathered.len());
            for (place, of_kept) in &kept {
                let of_gathered = &gathered[place];
                prop_assert!(of_gathered.processes >= 1 && of_gathered.processes <= of_kept.processes);
                let processes = of_kept.processes;
                prop_assert_eq!(of_kept, &SiteSnapshot { processes, ..of_gathered.clone() });
            }
        }
    }

    #[test]
    fn sums_beyond_the_bound_are_omitted_and_nothing_is_lost(
        endings in prop::collection::vec(ending(true), 1..40),
        gathered in 1usize..6,
    ) {
        let bounds = Bounds { images: 1, gathered, ..Bounds::default() };
        let kept = snapshots(&endings, 0, None);
        let shed = snapshots(&endings, 0, Some(bounds));
        for (kept, shed) in kept.iter().zip(&shed) {
            prop_assert_eq!(&kept.totals, &shed.totals);
            let listed: u64 = shed.sites.iter().map(|site| site.bytes).sum();
            prop_assert_eq!(listed + shed.omitted.bytes, shed.totals.live_bytes);
        }
    }
}

#[test]
fn an_image_stands_for_others_until_its_sum_is_shed() {
    let mut tracker = Tracker::new(Settings::default(), 0);
    tracker.frozen.bounds = Bounds {
        images: 0,
        gathered: 2,
        ..Bounds::default()
    };
    // Two of the first code, and then one each of two others that hold more.
    for (pid, code) in [(1, 0), (2, 0), (3, 1), (4, 2)] {
        let mut freezing = tracker.freeze(pid, 0, State::Exited, SECOND);
        freezing.add_totals(key(pid, code), &totals(1, 10 + 100 * code, 0, 0));
        let _end = freezing.finish();
        tracker.shed(|site| {
            Some(Alike {
                scope: Scope::Many(0),
                code: [site.key.stack_id, 0],
            })
        });
        let forgotten: Vec<_> = tracker
            .take_forgotten()
            .into_iter()
            .map(|image| (image.tgid, tracker.stands(&image)))
            .collect();
        let wanted: &[(u32, bool)] = match pid {
            2 => &[(2, false)],
            4 => &[(4, true), (1, false)],
            _ => &[(pid, true)],
        };
        assert_eq!(forgotten, wanted, "{pid}");
    }
}
