//! One behaviour a test, in simulated time; [`super::model_tests`] has all of them at once.

use super::*;
use crate::report::model::OmittedSpace;

pub(super) const SECOND: u64 = 1_000_000_000;

pub(super) fn process(tgid: u32, image: u16) -> Process {
    Process {
        tgid,
        image,
        space: 0,
        device: 0,
    }
}

pub(super) fn key(tgid: u32, stack_id: u64) -> SiteKey {
    SiteKey {
        stack_id,
        process: process(tgid, 0),
        call: 1,
        shard: 0,
    }
}

pub(super) fn totals(allocs: u64, alloc_bytes: u64, frees: u64, freed_bytes: u64) -> Site {
    Site {
        allocs,
        alloc_bytes,
        frees,
        freed_bytes,
        ..Site::EMPTY
    }
}

pub(super) fn block(site: SiteKey, address: u64, size_bytes: u64, time_ns: u64) -> LiveBlock {
    LiveBlock {
        process: site.process,
        stack_id: site.stack_id,
        call: site.call,
        address,
        size_bytes,
        time_ns,
        weight: Weight::ONE,
        unsure: false,
    }
}

fn by_stack(site: &SiteRef) -> (Scope, u64) {
    (Scope::Image(site.image), site.key.stack_id)
}

fn stacks(snapshot: &Snapshot) -> Vec<u64> {
    snapshot.sites.iter().map(|site| site.site.key.stack_id).collect()
}

#[test]
fn rates_and_growth_refer_to_the_snapshot_before() {
    let mut tracker = Tracker::new(Settings::default(), 10 * SECOND);
    tracker.begin(12 * SECOND);
    tracker.add_totals(key(1, 7), &totals(4, 400, 2, 200));
    let first = tracker.finish(by_stack);
    assert_eq!(first.interval_ns, 2 * SECOND);
    assert_eq!(
        (first.totals.allocs_per_s, first.totals.alloc_bytes_per_s),
        (2.0, 200.0)
    );
    assert_eq!(
        (first.totals.live_bytes_per_s, first.sites[0].bytes_per_s),
        (100.0, 100.0)
    );

    tracker.begin(16 * SECOND);
    tracker.add_totals(key(1, 7), &totals(5, 500, 4, 400));
    let second = tracker.finish(by_stack);
    assert_eq!(
        (second.totals.allocs_per_s, second.totals.alloc_bytes_per_s),
        (0.25, 25.0)
    );
    assert_eq!(
        (second.totals.live_bytes_per_s, second.sites[0].bytes_per_s),
        (-25.0, -25.0)
    );

    // No time, no rate: the last report may follow an interval report at once.
    tracker.begin(16 * SECOND);
    let third = tracker.finish(by_stack);
    assert_eq!(third.totals.allocs_per_s.to_bits(), 0);
    assert_eq!(
        third.totals.allocs, 5,
        "a site that was not read keeps its totals"
    );
}

#[test]
fn each_order_puts_its_measure_first_and_breaks_ties_the_same_way() {
    let orders = [
        (Sort::Bytes, [1, 2, 3, 4, 5]),
        (Sort::Blocks, [3, 1, 2, 4, 5]),
        (Sort::Growth, [4, 1, 2, 3, 5]),
        (Sort::Age, [5, 1, 2, 3, 4]),
    ];
    for (sort, expected) in orders {
        let settings = Settings {
            sort,
            ..Settings::default()
        };
        let mut tracker = Tracker::new(settings, 0);
        tracker.begin(50 * SECOND);
        for stack in [2, 1, 3, 5] {
            tracker.add_totals(key(1, stack), &totals(2, 100, 0, 0));
        }
        tracker.finish(by_stack);
        tracker.begin(100 * SECOND);
        tracker.add_totals(key(1, 5), &totals(2, 100, 1, 60));
        tracker.add_totals(key(1, 4), &totals(2, 90, 0, 0));
        tracker.add_totals(key(1, 3), &totals(3, 100, 0, 0));
        for stack in 1..=5 {
            tracker.add_block(&block(key(1, stack), stack, 1, (100 - stack / 5 * 20) * SECOND));
        }
        let snapshot = tracker.finish(by_stack);
        // By bytes 1, 2 and 3 are equal and 3 has more blocks.
        let expected = if sort == Sort::Blocks {
            expected.to_vec()
        } else {
            let mut expected = expected.to_vec();
            let three = expected.iter().position(|stack| *stack == 3).unwrap();
            let one = expected.iter().position(|stack| *stack == 1).unwrap();
            expected.remove(three);
            expected.insert(one, 3);
            expected
        };
        assert_eq!(stacks(&snapshot), expected, "{sort:?}");
    }
}

#[test]
fn the_filter_by_age_goes_by_blocks_and_the_rest_is_omitted() {
    let settings = Settings {
        older_than_ns: 30 * SECOND,
        blocks_per_site: Some(2),
        ..Settings::default()
    };
    let mut tracker = Tracker::new(settings, 0);
    tracker.begin(100 * SECOND);
    tracker.add_totals(key(1, 7), &totals(10, 1000, 5, 500));
    tracker.add_totals(key(1, 8), &totals(1, 50, 0, 0));
    for (address, age_s) in [(1, 5), (2, 29), (3, 30), (4, 90), (5, 60)] {
        tracker.add_block(&block(key(1, 7), address, 100, (100 - age_s) * SECOND));
    }
    tracker.add_block(&block(key(1, 8), 6, 50, 99 * SECOND));
    let snapshot = tracker.finish(by_stack);
    let site = &snapshot.sites[0];
    assert_eq!((snapshot.sites.len(), site.blocks, site.bytes), (1, 3, 300));
    assert_eq!((site.age_ms.min, site.age_ms.max), (30_000, 90_000));
    assert!((59_000..=61_000).contains(&site.age_ms.p50), "{:?}", site.age_ms);
    let oldest = site.oldest.as_ref().unwrap();
    let shown: Vec<_> = oldest.iter().map(|block| (block.address, block.age_ms)).collect();
    assert_eq!(shown, [(4, 90_000), (5, 60_000)]);
    assert_eq!(
        (
            snapshot.omitted.sites,
            snapshot.omitted.blocks,
            snapshot.omitted.bytes
        ),
        (1, 3, 250)
    );
    assert_eq!(snapshot.torn, 0);
}

#[test]
fn survivors_beyond_the_totals_are_clamped_and_counted() {
    let settings = Settings {
        older_than_ns: 1,
        ..Settings::default()
    };
    let mut tracker = Tracker::new(settings, 0);
    tracker.begin(100);
    tracker.add_totals(key(1, 7), &totals(1, 10, 0, 0));
    tracker.add_block(&block(key(1, 7), 1, 10, 0));
    tracker.add_block(&block(key(1, 7), 2, 10, 0));
    let snapshot = tracker.finish(by_stack);
    assert_eq!((snapshot.sites[0].blocks, snapshot.sites[0].bytes), (1, 10));
    assert_eq!((snapshot.torn, snapshot.omitted.blocks), (1, 0));
}

#[test]
fn sites_found_equal_are_one_before_the_list_is_cut() {
    let settings = Settings {
        top: 1,
        blocks_per_site: Some(10),
        ..Settings::default()
    };
    let mut tracker = Tracker::new(settings, 0);
    tracker.begin(10 * SECOND);
    // Alone, 30 is the largest; together 11 and 12 are.
    for (stack, bytes) in [(12, 60), (11, 50), (30, 100)] {
        let mut site = totals(2, 2 * bytes, 1, bytes);
        site.lifetimes[3] = 1;
        tracker.add_totals(key(1, stack), &site);
        tracker.add_block(&block(key(1, stack), stack, bytes, stack * SECOND / 10));
    }
    // The same answer for another process, another call and another image is another site.
    tracker.add_totals(key(2, 13), &totals(1, 1, 0, 0));
    tracker.add_totals(
        SiteKey {
            call: 9,
            ..key(1, 14)
        },
        &totals(1, 1, 0, 0),
    );
    let other_image = SiteKey {
        process: process(1, 1),
        ..key(1, 15)
    };
    tracker.add_totals(other_image, &totals(1, 1, 0, 0));
    let snapshot = tracker.finish(|site| (Scope::Image(site.image), site.key.stack_id / 10));
    let site = &snapshot.sites[0];
    assert_eq!(
        (snapshot.sites.len(), site.site.key.stack_id, site.merged),
        (1, 11, 2)
    );
    assert_eq!((site.bytes, site.blocks, site.allocs, site.frees), (110, 2, 4, 2));
    assert_eq!((site.lifetimes[3], snapshot.lifetimes[3]), (2, 3));
    assert_eq!((site.age_ms.min, site.age_ms.max), (8_800, 8_900));
    let addresses: Vec<_> = site
        .oldest
        .as_ref()
        .unwrap()
        .iter()
        .map(|block| block.address)
        .collect();
    assert_eq!(addresses, [11, 12]);
    assert_eq!((snapshot.omitted.sites, snapshot.omitted.bytes), (4, 103));
}

#[test]
fn the_smallest_stack_id_stands_for_the_sites_merged_with_it() {
    let mut tracker = Tracker::new(Settings::default(), 0);
    tracker.begin(SECOND);
    for index in 0..100u64 {
        // Every number below 100 once, in no order.
        let stack = index * 37 % 100;
        tracker.add_totals(key(1, stack), &totals(1, 1000 - stack / 10, 0, 0));
    }
    let snapshot = tracker.finish(|site| (Scope::Image(site.image), site.key.stack_id / 10));
    assert_eq!(stacks(&snapshot), [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]);
}

#[test]
fn what_passes_the_filters_and_is_not_listed_is_known_by_kind() {
    let settings = Settings {
        older_than_ns: 30 * SECOND,
        ..Settings::default()
    };
    let unlisted = |top: usize| {
        let mut tracker = Tracker::new(settings, 0);
        tracker.list_at_most(top);
        tracker.begin(100 * SECOND);
        for (stack, age_s) in [(1, 90), (2, 90), (3, 5)] {
            let of_gpu = SiteKey {
                process: Process {
                    space: Space::Device as u8,
                    ..process(1, 0)
                },
                ..key(1, stack)
            };
            for site in [key(1, stack), of_gpu] {
                tracker.add_totals(site, &totals(1, 100 * stack, 0, 0));
                tracker.add_block(&block(site, stack, 100 * stack, (100 - age_s) * SECOND));
            }
        }
        tracker.finish(by_stack).unlisted
    };
    let rest = |space: Space, sites, bytes| OmittedSpace {
        space: space.name(),
        sites,
        blocks: sites,
        bytes,
    };
    assert_eq!(unlisted(2), [], "what is younger does not pass");
    assert_eq!(
        unlisted(1),
        [rest(Space::Heap, 1, 100), rest(Space::Device, 1, 100)]
    );
    assert_eq!(
        unlisted(0),
        [rest(Space::Heap, 2, 300), rest(Space::Device, 2, 300)]
    );
}

#[test]
fn blocks_of_an_ended_image_do_not_age() {
    let settings = Settings {
        older_than_ns: 1,
        blocks_per_site: Some(5),
        ..Settings::default()
    };
    let mut tracker = Tracker::new(settings, 0);
    let mut freezing = tracker.freeze(1, 0, State::Exited, 15 * SECOND);
    freezing.add_totals(key(1, 7), &totals(1, 100, 0, 0));
    freezing.add_block(&block(key(1, 7), 0xa0, 100, 5 * SECOND));
    // Of another image: not even a contradiction.
    freezing.add_block(&block(key(2, 7), 0xb0, 100, 5 * SECOND));
    freezing.finish();
    tracker.begin(60 * SECOND);
    let snapshot = tracker.finish(by_stack);
    let oldest = snapshot.sites[0].oldest.as_deref().unwrap();
    assert_eq!(
        (oldest.len(), oldest[0].address, oldest[0].age_ms),
        (1, 0xa0, 10_000)
    );
    assert_eq!((snapshot.sites.len(), snapshot.torn), (1, 0));
}

#[test]
fn an_ended_image_stays_as_it_was_and_its_pid_may_come_back() {
    let mut tracker = Tracker::new(Settings::default(), 0);
    tracker.begin(10 * SECOND);
    tracker.add_totals(key(1, 7), &totals(1, 100, 0, 0));
    tracker.add_totals(key(2, 7), &totals(1, 1, 0, 0));
    let before = tracker.finish(by_stack);
    assert_eq!(before.sites.len(), 2);

    // In the middle of an interval, after something of it was read.
    tracker.begin(20 * SECOND);
    tracker.add_block(&block(key(1, 7), 1, 100, 0));
    let mut freezing = tracker.freeze(1, 0, State::Exited, 15 * SECOND);
    freezing.add_totals(key(1, 7), &totals(3, 300, 1, 100));
    freezing.add_totals(key(2, 7), &totals(9, 900, 0, 0));
    freezing.add_block(&block(key(1, 7), 1, 100, 5 * SECOND));
    freezing.add_block(&block(key(1, 7), 2, 100, 14 * SECOND));
    freezing.add_block(&block(key(2, 7), 3, 1, 0));
    let first = freezing.finish().id;
    // The pid comes back with the same stack before the interval is over.
    tracker.add_totals(key(1, 7), &totals(1, 40, 0, 0));
    let snapshot = tracker.finish(by_stack);
    let shown: Vec<_> = snapshot
        .sites
        .iter()
        .map(|site| {
            (
                site.site.image.frozen,
                site.state,
                site.bytes,
                site.bytes_per_s,
                site.age_ms.max,
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            (Some(first), State::Exited, 200, 10.0, 10_000),
            (None, State::Running, 40, 4.0, 0),
            (None, State::Running, 1, 0.0, 0),
        ]
    );
    assert_eq!(
        (
            snapshot.totals.allocs,
            snapshot.totals.frees,
            snapshot.totals.live_blocks
        ),
        (5, 1, 4)
    );

    // It ends too; both stay, neither grows nor ages, and both count.
    tracker.freeze(1, 0, State::Replaced, 25 * SECOND).finish();
    tracker.begin(30 * SECOND);
    tracker.finish(by_stack);
    tracker.begin(40 * SECOND);
    let last = tracker.finish(by_stack);
    assert_eq!(last.totals.live_bytes, 241);
    assert_eq!(
        (last.sites[0].age_ms.max, last.sites[0].bytes_per_s),
        (10_000, 0.0)
    );
    let images: Vec<_> = last
        .images
        .iter()
        .map(|image| (image.image.tgid, image.state, image.live_bytes))
        .collect();
    assert_eq!(
        images,
        [
            (1, State::Exited, 200),
            (1, State::Replaced, 40),
            (2, State::Running, 1)
        ]
    );
}

fn of_gpu(stack_id: u64, space: Space, device: u8) -> SiteKey {
    let mut site = key(1, stack_id);
    site.process.space = space as u8;
    site.process.device = device;
    site
}

#[test]
fn each_table_is_cut_by_itself_and_kinds_of_gpu_memory_are_never_one_sum() {
    let settings = Settings {
        top: 2,
        ..Settings::default()
    };
    let mut tracker = Tracker::new(settings, 0);
    tracker.begin(SECOND);
    for (site, bytes) in [
        (of_gpu(1, Space::Pinned, 1), 900),
        (of_gpu(2, Space::Device, 1), 100),
        (of_gpu(3, Space::Device, 2), 200),
        (of_gpu(4, Space::Tensor, 1), 7),
        (key(1, 5), 50),
        (key(1, 6), 60),
        (key(1, 7), 40),
    ] {
        tracker.add_totals(site, &totals(1, bytes, 0, 0));
    }
    let snapshot = tracker.finish(by_stack);
    // By bytes a device's memory comes before the host's that is for one.
    assert_eq!(stacks(&snapshot), [3, 2, 4, 6, 5]);
    let omitted = &snapshot.omitted;
    assert_eq!((omitted.sites, omitted.blocks, omitted.bytes), (1, 1, 40));
    assert_eq!(omitted.gpu.len(), 1);
    let pinned = omitted.gpu[0];
    assert_eq!(
        (pinned.space, pinned.sites, pinned.blocks, pinned.bytes),
        ("pinned", 1, 1, 900)
    );
    assert_eq!(
        (snapshot.totals.live_bytes, snapshot.images[0].live_bytes),
        (150, 150)
    );
    let places: Vec<_> = snapshot
        .places
        .iter()
        .map(|held| (held.space, held.device, held.live_bytes))
        .collect();
    assert_eq!(
        places,
        [
            (Space::Device, Some(0), 100),
            (Space::Device, Some(1), 200),
            (Space::Pinned, Some(0), 900),
            (Space::Tensor, Some(0), 7),
        ]
    );
}

#[test]
fn blocks_whose_context_may_have_ended_are_said_to_be_unsure() {
    let mut tracker = Tracker::new(Settings::default(), 0);
    let site = of_gpu(1, Space::Device, 0);
    let unsure = |address, size_bytes| LiveBlock {
        unsure: true,
        ..block(site, address, size_bytes, 0)
    };
    tracker.begin(SECOND);
    tracker.add_totals(site, &totals(3, 60, 0, 0));
    tracker.add_block(&block(site, 1, 10, 0));
    tracker.add_block(&unsure(2, 20));
    tracker.add_block(&unsure(3, 30));
    let snapshot = tracker.finish(by_stack);
    let held = snapshot.sites[0].unsure;
    assert_eq!((held.live_blocks, held.live_bytes), (2, 50));

    // They stay so when the process has ended, and are never more than there is.
    let mut freezing = tracker.freeze(1, 0, State::Exited, SECOND);
    freezing.add_totals(site, &totals(3, 60, 2, 40));
    for address in 1..4 {
        freezing.add_block(&unsure(address, 20));
    }
    freezing.finish();
    tracker.begin(2 * SECOND);
    let snapshot = tracker.finish(by_stack);
    let site = &snapshot.sites[0];
    assert_eq!((site.state, site.blocks, site.bytes), (State::Exited, 1, 20));
    assert_eq!((site.unsure.live_blocks, site.unsure.live_bytes), (1, 20));
    assert_eq!(snapshot.image_places[0].state, State::Exited);
}

#[test]
fn a_record_of_gpu_memory_is_a_block_of_its_space_and_device() {
    let live = GpuLive {
        block: Live {
            size_bytes: 4096,
            time_ns: 5,
            stack_id: 7,
            call: 0x4001,
            shard: 3,
            weight: Weight::ONE,
        },
        context: 0,
        holds: 1 << 32,
        space: Space::VmmHost as u8,
        device: 2,
        flags: gpu_flag::UNSURE,
        pad: [0; 5],
    };
    let address = 0x7f00_0000_0000;
    let mut process = process(1, 0);
    process.space = leaktrace_common::gpu::Domain::Handle as u8;
    let key = LiveKey { address, process };
    let block = LiveBlock::of_gpu(&key, &live).unwrap();
    assert_eq!(
        (block.process.space, block.process.device, block.unsure),
        (Space::VmmHost as u8, 2, true)
    );
    assert_eq!((block.stack_id, block.call, block.size_bytes), (7, 0x4001, 4096));
    let no_memory = GpuLive {
        flags: gpu_flag::UNCOUNTED,
        ..live
    };
    assert_eq!(LiveBlock::of_gpu(&key, &no_memory), None);
}

#[test]
fn memory_per_site_is_small() {
    let mut tracker = Tracker::new(Settings::default(), 0);
    let now_ns = 3600 * SECOND;
    tracker.begin(now_ns);
    for stack in 0..10_000u64 {
        tracker.add_totals(key(1, stack), &totals(100, 100, 0, 0));
        for index in 0..100 {
            let age_ns = (stack * 7919 + index * 104_729) % 3600 * SECOND;
            tracker.add_block(&block(key(1, stack), index, 1, now_ns - age_ns));
        }
    }
    let per_site = tracker.memory_bytes() / 10_000;
    assert!(per_site < 2304, "{per_site} bytes a site with 100 blocks");
}
