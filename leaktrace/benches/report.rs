//! What a report costs the tracer: a sweep of a million blocks from ten thousand sites, the snapshot,
//! and the document. No kernel, no symbols.
//!
//! `cargo bench -p leaktrace --bench report`. The bytes that divan prints as `max alloc` are what the
//! step adds to the tracer's memory.

use divan::{AllocProfiler, Bencher, counter::ItemsCount};
use leaktrace::report::model::{
    Filters, Frame, Held, Members, Process as ProcessRow, Report, SCHEMA, State, Survivor, Target, Totals,
    Tracing,
};
use leaktrace::report::overhead::Overhead;
use leaktrace::report::stacks::Stacks;
use leaktrace::track::{LiveBlock, Scope, Settings, SiteRef, SiteSnapshot, Snapshot, Sort, Tracker};
use leaktrace_common::key::{Process, SiteKey};
use leaktrace_common::math::Weight;
use leaktrace_common::record::Site;

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

const SITES: u64 = 10_000;
const BLOCKS: u64 = 1_000_000;
const SECOND_NS: u64 = 1_000_000_000;
/// Ages are spread over so many seconds.
const SPREAD_S: u64 = 3600;
const NOW_NS: u64 = 2 * SPREAD_S * SECOND_NS;

fn main() {
    divan::main();
}

const fn key(site: u64) -> SiteKey {
    SiteKey {
        // Stack ids are hashes.
        stack_id: (site + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        process: Process {
            tgid: 4242,
            image: 0,
            space: 0,
            device: 0,
        },
        call: 1,
        shard: 0,
    }
}

/// The blocks in the order of a hash map: that of nothing.
fn blocks() -> Vec<LiveBlock> {
    (0..BLOCKS)
        .map(|index| {
            let mixed = index.wrapping_mul(0xd134_2543_de82_ef95) >> 20;
            LiveBlock {
                process: key(0).process,
                stack_id: key(mixed % SITES).stack_id,
                call: 1,
                address: 0x5555_0000_0000 + index * 64,
                size_bytes: 16 + mixed % 4096,
                time_ns: NOW_NS - mixed % (SPREAD_S * SECOND_NS),
                weight: Weight::ONE,
                unsure: false,
            }
        })
        .collect()
}

const fn settings(top: usize) -> Settings {
    Settings {
        older_than_ns: 0,
        top,
        sort: Sort::Bytes,
        blocks_per_site: None,
        largest_mean_bytes: None,
    }
}

fn add_totals(tracker: &mut Tracker) {
    for site in 0..SITES {
        let totals = Site {
            allocs: 300,
            alloc_bytes: 300 * (site + 1),
            frees: 200,
            freed_bytes: 200 * (site + 1),
            ..Site::EMPTY
        };
        tracker.add_totals(key(site), &totals);
    }
}

fn filled(blocks: &[LiveBlock], top: usize) -> Tracker {
    let mut tracker = Tracker::new(settings(top), 0);
    tracker.begin(NOW_NS);
    add_totals(&mut tracker);
    for block in blocks {
        tracker.add_block(block);
    }
    tracker
}

/// The first interval: the table grows.
#[divan::bench(sample_count = 10)]
fn sweep_first(bencher: Bencher<'_, '_>) {
    let blocks = blocks();
    bencher
        .counter(ItemsCount::new(BLOCKS))
        .bench_local(|| filled(&blocks, 10));
}

/// Every later interval: the table is there.
#[divan::bench(sample_count = 10)]
fn sweep_again(bencher: Bencher<'_, '_>) {
    let blocks = blocks();
    let mut tracker = filled(&blocks, 10);
    tracker.finish(by_stack);
    bencher.counter(ItemsCount::new(BLOCKS)).bench_local(|| {
        tracker.begin(NOW_NS);
        add_totals(&mut tracker);
        for block in &blocks {
            tracker.add_block(block);
        }
    });
}

/// Merging by cleaned stacks of 32 frames, sorting, cutting; the argument is the length of the list.
#[divan::bench(args = [10, 10_000], sample_count = 20)]
fn snapshot(bencher: Bencher<'_, '_>, top: usize) {
    let mut tracker = filled(&blocks(), top);
    bencher
        .counter(ItemsCount::new(SITES))
        .bench_local(|| tracker.finish(|site| (Scope::Image(site.image), vec![site.key.stack_id; 32])));
}

/// The report of ten thousand survivors of sixteen frames each, as JSON.
#[divan::bench(sample_count = 10)]
fn json(bencher: Bencher<'_, '_>) {
    let snapshot = filled(&blocks(), SITES as usize).finish(by_stack);
    let report = report(&snapshot);
    let mut document = Vec::new();
    bencher.counter(ItemsCount::new(SITES)).bench_local(|| {
        document.clear();
        serde_json::to_writer(&mut document, &report).map(|()| document.len())
    });
}

const fn by_stack(site: &SiteRef) -> (Scope, u64) {
    (Scope::Image(site.image), site.key.stack_id)
}

fn report(snapshot: &Snapshot) -> Report {
    Report {
        schema: SCHEMA,
        sequence: 1,
        last: true,
        elapsed_s: 10.0,
        interval_s: 5.0,
        by: "process",
        target: Target {
            command: None,
            selection: None,
            members: Members::default(),
            processes: vec![ProcessRow {
                pid: 4242,
                inner_pid: None,
                container: None,
                comm: "bench".to_owned(),
                exe: None,
                state: State::Running,
                rss_bytes: Some(1 << 30),
                live_bytes: snapshot.totals.live_bytes,
                live_blocks: snapshot.totals.live_blocks,
                exit: None,
                python: None,
            }],
            forgotten: Held::default(),
        },
        tracing: Tracing {
            filters: Filters::default(),
            ..Tracing::default()
        },
        overhead: Overhead::default(),
        totals: Totals { ..snapshot.totals },
        accounts: Vec::new(),
        survivors: snapshot.sites.iter().map(survivor).collect(),
        omitted: snapshot.omitted.clone(),
        suppressed: Vec::new(),
        gate: None,
        gpu: None,
        types: None,
        stacks: Stacks::default(),
        ledger: [("live_full", 0)].into(),
        warnings: Vec::new(),
    }
}

fn survivor(site: &SiteSnapshot) -> Survivor {
    let frame = |depth: u64| Frame {
        address: format!("{:#x}", 0x7f00_0000_0000 + depth),
        object: Some("/usr/lib/x86_64-linux-gnu/libexample.so.1".to_owned()),
        offset: Some(format!("{:#x}", 0x1000 + depth)),
        build_id: Some("0123456789abcdef0123456789abcdef01234567".to_owned()),
        symbol: Some(format!("example::module::function_{depth}")),
        file: Some("/usr/src/example/src/module.cc".to_owned()),
        line: Some(depth as u32),
        ..Frame::default()
    };
    Survivor {
        pid: site.site.image.tgid,
        inner_pid: None,
        comm: "bench".to_owned(),
        container: None,
        processes: site.processes as u64,
        pids: site.pids.clone(),
        state: site.state,
        call: "malloc".to_owned(),
        space: "heap".to_owned(),
        device: None,
        reserved_by: None,
        unsure: None,
        object_bytes: None,
        bytes: site.bytes,
        blocks: site.blocks,
        sampled: site.sampled,
        seen_share: None,
        mean_bytes: site.bytes as f64 / site.blocks.max(1) as f64,
        verdict: None,
        bytes_per_s: site.bytes_per_s,
        allocs: site.allocs,
        frees: site.frees,
        age_ms: site.age_ms,
        lifetime_ms: None,
        frames: (0..16).map(frame).collect(),
        mismatch: false,
        block_list: None,
    }
}
