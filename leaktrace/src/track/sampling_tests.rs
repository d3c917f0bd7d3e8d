//! Estimates against the truth, over thousands of simulated runs: no bias, and intervals that hold what they
//! promise.
//!
//! A machine with threads draws samples and keeps totals as the kernel side does, with the same arithmetic;
//! the tracker makes a snapshot of it. Everything comes from the seed. The bounds are those of the statistic
//! (5 % of the intervals miss; of 2000 runs that share itself scatters by 0.5 %), and the last tests show that
//! wrong ways of sampling do not keep them.

use std::collections::BTreeMap;

use fastrand::Rng;
use leaktrace_common::{
    math::{BLOCKS_FRACTION_BITS, Sampler},
    record::Estimate,
};

use super::tests::{SECOND, key};
use super::*;

/// Runs of each mix.
const RUNS: u64 = 2000;
const MEAN_BYTES: u64 = 64 << 10;
const THREADS: usize = 4;

/// How allocations are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    /// As the kernel side does.
    ByBytes,
    /// The same, but each sample stands for itself alone.
    Unweighted,
    /// Every 64th call stands for 64.
    EveryNth,
}

/// Stands for 2^6 allocations.
const WEIGHT_64: Weight = Weight(Weight::ONE.0 | 6);

struct Block {
    site: SiteKey,
    size_bytes: u64,
    /// If it was taken.
    weight: Option<Weight>,
    live: bool,
}

/// A machine: the truth, and what the kernel side has of it.
struct Machine {
    scheme: Scheme,
    rng: Rng,
    samplers: [Sampler; THREADS],
    calls: u64,
    blocks: Vec<Block>,
    sites: BTreeMap<SiteKey, Site>,
}

impl Machine {
    fn new(scheme: Scheme, seed: u64) -> Self {
        Self {
            scheme,
            rng: Rng::with_seed(seed),
            samplers: [Sampler::NEW; THREADS],
            calls: 0,
            blocks: Vec::new(),
            sites: BTreeMap::new(),
        }
    }

    /// By any thread, from the site with this stack.
    fn alloc(&mut self, stack: u64, size_bytes: u64) -> usize {
        let weight = self.take(size_bytes);
        self.record(stack, size_bytes, weight)
    }

    fn take(&mut self, size_bytes: u64) -> Option<Weight> {
        self.calls += 1;
        if self.scheme == Scheme::EveryNth {
            return self.calls.is_multiple_of(64).then_some(WEIGHT_64);
        }
        let thread = self.rng.usize(..THREADS);
        let draws = std::cell::RefCell::new(&mut self.rng);
        let random = || draws.borrow_mut().u32(..);
        let taken = self.samplers[thread].takes(size_bytes, MEAN_BYTES, random);
        let weight = match self.scheme {
            Scheme::Unweighted => Weight::ONE,
            _ => Weight::of(size_bytes, MEAN_BYTES),
        };
        taken.then_some(weight)
    }

    fn record(&mut self, stack: u64, size_bytes: u64, weight: Option<Weight>) -> usize {
        let site = key(1, stack);
        if let Some(weight) = weight {
            let totals = self.sites.entry(site).or_insert(Site::EMPTY);
            totals.allocs += 1;
            totals.alloc_bytes += size_bytes;
            add(&mut totals.allocated, size_bytes, weight);
        }
        self.blocks.push(Block {
            site,
            size_bytes,
            weight,
            live: true,
        });
        self.blocks.len() - 1
    }

    /// Whichever thread does it: a block is known by its record.
    fn free(&mut self, block: usize) {
        let block = &mut self.blocks[block];
        block.live = false;
        if let Some(weight) = block.weight {
            let totals = self.sites.entry(block.site).or_insert(Site::EMPTY);
            totals.frees += 1;
            totals.freed_bytes += block.size_bytes;
            add(&mut totals.freed, block.size_bytes, weight);
        }
    }

    /// A new draw for the new size; the old block's record goes with its own weight.
    fn realloc(&mut self, block: usize, size_bytes: u64) -> usize {
        let stack = self.blocks[block].site.stack_id;
        let weight = self.take(size_bytes);
        self.free(block);
        self.record(stack, size_bytes, weight)
    }

    /// Frees each outstanding block with this probability.
    fn churn(&mut self, share: f64) {
        for block in 0..self.blocks.len() {
            if self.blocks[block].live && self.rng.f64() < share {
                self.free(block);
            }
        }
    }

    /// Evenly spread over the powers of two.
    fn log_uniform(&mut self, from_bytes: u64, to_bytes: u64) -> u64 {
        let ratio = to_bytes as f64 / from_bytes as f64;
        (from_bytes as f64 * ratio.powf(self.rng.f64())) as u64
    }

    /// Outstanding (bytes, blocks) of all sites, or of one.
    fn truth(&self, stack: Option<u64>) -> (u64, u64) {
        let counted = |block: &&Block| block.live && stack.is_none_or(|stack| block.site.stack_id == stack);
        let counted = self.blocks.iter().filter(counted);
        counted.fold((0, 0), |(bytes, blocks), block| {
            (bytes + block.size_bytes, blocks + 1)
        })
    }

    /// Hands over what the kernel's maps hold.
    fn fill(&self, mut site: impl FnMut(SiteKey, &Site), mut block: impl FnMut(&LiveBlock)) {
        for (key, totals) in &self.sites {
            site(*key, totals);
        }
        for (address, held) in self.blocks.iter().enumerate().filter(|(_, held)| held.live) {
            if let Some(weight) = held.weight {
                block(&LiveBlock {
                    weight,
                    ..tests::block(held.site, address as u64, held.size_bytes, 0)
                });
            }
        }
    }

    fn snapshot(&self) -> Snapshot {
        let settings = Settings {
            top: usize::MAX,
            largest_mean_bytes: Some(MEAN_BYTES),
            ..Settings::default()
        };
        let mut tracker = Tracker::new(settings, 0);
        tracker.begin(SECOND);
        self.fill(|key, totals| tracker.add_totals(key, totals), |_| {});
        tracker.finish(|site| (Scope::Image(site.image), site.key.stack_id))
    }
}

/// As the kernel side adds to a site.
fn add(sum: &mut Estimate, size_bytes: u64, weight: Weight) {
    sum.blocks += weight.blocks();
    sum.bytes += weight.bytes(size_bytes);
    sum.variance_of_bytes += weight.variance_of_bytes(size_bytes);
    sum.variance_of_blocks += weight.variance_of_blocks();
}

/// The site whose own interval is looked at as well; its blocks are of similar size in every mix.
const ALIKE: u64 = 0x1234_5678_9abc_0001;
const OTHERS: u64 = 0x0fed_cba9_8765_0002;

type Mix = (&'static str, fn(&mut Machine));

/// What programs do, with enough samples that 2000 runs tell a bias of 1 %.
const MIXES: &[Mix] = &[
    ("one small size, most of it freed", |machine| {
        for _ in 0..machine.rng.usize(15_000..20_000) {
            machine.alloc(ALIKE, 640);
        }
        machine.churn(0.6);
    }),
    ("16 B to 16 MiB", |machine| {
        for _ in 0..machine.rng.usize(6_000..9_000) {
            let size = machine.log_uniform(16, 16 << 20);
            machine.alloc(OTHERS ^ u64::from(size.ilog2()) << 20, size);
        }
        for _ in 0..machine.rng.usize(1_000..2_000) {
            let size = machine.log_uniform(512, 2048);
            machine.alloc(ALIKE, size);
        }
        machine.churn(0.2);
    }),
    ("tiny and huge", |machine| {
        for _ in 0..machine.rng.usize(8_000..12_000) {
            machine.alloc(ALIKE, 200);
            if machine.rng.u32(..100) == 0 {
                let size = machine.rng.u64(40_000..200_000);
                machine.alloc(OTHERS, size);
            }
        }
    }),
    ("buffers that grow by realloc", |machine| {
        for _ in 0..machine.rng.usize(700..1_000) {
            let mut block = machine.alloc(OTHERS, 1024);
            for _ in 0..machine.rng.u32(..9) {
                let size = machine.blocks[block].size_bytes * 2;
                block = machine.realloc(block, size);
            }
            let last = machine.blocks[block].size_bytes;
            machine.realloc(block, last * 3 / 4);
        }
    }),
    ("long-lived beneath churn", |machine| {
        for _ in 0..machine.rng.usize(1_500..2_500) {
            machine.alloc(ALIKE, 4096);
        }
        let mut young = Vec::new();
        for _ in 0..8_000 {
            let size = machine.log_uniform(32, 32 << 10);
            young.push(machine.alloc(OTHERS, size));
            if young.len() > 100 {
                let nth = machine.rng.usize(..young.len());
                let block = young.swap_remove(nth);
                machine.free(block);
            }
        }
    }),
    ("pages", |machine| {
        for _ in 0..machine.rng.usize(600..1_200) {
            let size = machine.rng.u64(16 << 10..64 << 10);
            machine.alloc(ALIKE, size);
        }
        machine.churn(0.5);
    }),
];

/// So few samples that the normal distribution would not do.
const FEW: &[Mix] = &[
    ("a few samples", |machine| {
        for _ in 0..machine.log_uniform(512, 12_000) {
            machine.alloc(ALIKE, 100);
        }
    }),
    ("a few samples beside what is certain", |machine| {
        for _ in 0..machine.log_uniform(512, 12_000) {
            machine.alloc(ALIKE, 100);
        }
        for _ in 0..machine.rng.usize(1..5) {
            machine.alloc(OTHERS, 16 << 20);
        }
    }),
    ("a few of all sizes", |machine| {
        for _ in 0..machine.rng.usize(10..60) {
            let size = machine.log_uniform(1 << 10, 4 << 20);
            machine.alloc(OTHERS, size);
        }
        for _ in 0..machine.rng.usize(50..400) {
            machine.alloc(ALIKE, 2000);
        }
    }),
];

/// Of all runs of a mix.
#[derive(Debug, Default)]
struct Verdict {
    true_bytes: f64,
    true_blocks: f64,
    bytes: f64,
    blocks: f64,
    runs: f64,
    /// How often each interval held the truth.
    bytes_held: f64,
    blocks_held: f64,
    /// Of the site `ALIKE`, and how often it was seen.
    site_seen: f64,
    site_bytes_held: f64,
    site_blocks_held: f64,
}

impl Verdict {
    fn bias_of_bytes(&self) -> f64 {
        self.bytes / self.true_bytes - 1.0
    }

    fn bias_of_blocks(&self) -> f64 {
        self.blocks / self.true_blocks - 1.0
    }

    fn coverage_of_bytes(&self) -> f64 {
        self.bytes_held / self.runs
    }

    fn coverage_of_blocks(&self) -> f64 {
        self.blocks_held / self.runs
    }

    fn add(&mut self, machine: &Machine) {
        let snapshot = machine.snapshot();
        assert_eq!(snapshot.torn, 0);
        let (bytes, blocks) = machine.truth(None);
        let totals = &snapshot.totals;
        let sampled = totals.sampled.expect("it samples");
        self.runs += 1.0;
        self.true_bytes += bytes as f64;
        self.true_blocks += blocks as f64;
        self.bytes += totals.live_bytes as f64;
        self.blocks += totals.live_blocks as f64;
        self.bytes_held += holds(sampled.bytes_interval, bytes);
        self.blocks_held += holds(sampled.blocks_interval, blocks);
        let site = snapshot.sites.iter().find(|site| site.site.key.stack_id == ALIKE);
        if let Some(sampled) = site.and_then(|site| site.sampled) {
            let (bytes, blocks) = machine.truth(Some(ALIKE));
            self.site_seen += 1.0;
            self.site_bytes_held += holds(sampled.bytes_interval, bytes);
            self.site_blocks_held += holds(sampled.blocks_interval, blocks);
        }
    }
}

fn holds([low, high]: [u64; 2], truth: u64) -> f64 {
    f64::from(u8::from((low..=high).contains(&truth)))
}

fn judge(mix: &Mix, scheme: Scheme, runs: u64) -> Verdict {
    let mut verdict = Verdict::default();
    for seed in 0..runs {
        let mut machine = Machine::new(scheme, seed);
        mix.1(&mut machine);
        verdict.add(&machine);
    }
    verdict
}

/// What is wrong with it. `few` allows for counts so small that being whole numbers moves the coverage.
fn faults(verdict: &Verdict, few: bool) -> Vec<String> {
    let mut faults = Vec::new();
    let mut check = |name: &str, value: f64, low: f64, high: f64| {
        if !(low..=high).contains(&value) {
            faults.push(format!("{name}: {value:.4} is not within {low} and {high}"));
        }
    };
    check("bias of bytes", verdict.bias_of_bytes(), -0.01, 0.01);
    check("bias of blocks", verdict.bias_of_blocks(), -0.01, 0.01);
    let high = if few { 0.99 } else { 0.97 };
    check(
        "bytes within their interval",
        verdict.coverage_of_bytes(),
        0.93,
        high,
    );
    // This one allows for small blocks of which none was hit, whether there are any or not.
    check(
        "blocks within their interval",
        verdict.coverage_of_blocks(),
        0.93,
        1.0,
    );
    if verdict.site_seen > 0.0 {
        let of_site = |held: f64| held / verdict.site_seen;
        check("bytes of a site", of_site(verdict.site_bytes_held), 0.93, 0.97);
        check("blocks of a site", of_site(verdict.site_blocks_held), 0.93, 0.97);
    }
    faults
}

fn assert_sound(mixes: &[Mix], few: bool) {
    for mix in mixes {
        let verdict = judge(mix, Scheme::ByBytes, RUNS);
        let faults = faults(&verdict, few);
        assert!(faults.is_empty(), "{}: {faults:?}", mix.0);
    }
}

#[test]
fn estimates_of_steady_blocks_are_unbiased_and_their_intervals_hold() {
    assert_sound(&MIXES[..3], false);
}

#[test]
fn estimates_of_moving_blocks_are_unbiased_and_their_intervals_hold() {
    assert_sound(&MIXES[3..], false);
}

#[test]
fn intervals_hold_also_where_samples_are_few() {
    assert_sound(FEW, true);
}

#[test]
fn a_sample_that_stands_for_itself_alone_is_found_out() {
    for mix in MIXES {
        let verdict = judge(mix, Scheme::Unweighted, 20);
        assert!(verdict.bias_of_blocks() < -0.2, "{}: {verdict:?}", mix.0);
        assert!(!faults(&verdict, false).is_empty());
    }
}

/// A loop whose turns each make 64 calls: either its large block is always taken or it never is.
const LOOP: Mix = ("a loop", |machine| {
    for call in 0..6400 {
        let size = if call % 64 == 10 { 100_000 } else { 1000 };
        machine.alloc(OTHERS, size);
    }
});

#[test]
fn every_nth_call_is_found_out() {
    let verdict = judge(&LOOP, Scheme::EveryNth, 20);
    assert!(verdict.bias_of_bytes() < -0.5, "{verdict:?}");
    assert!(!faults(&verdict, false).is_empty());
    let verdict = judge(&LOOP, Scheme::ByBytes, RUNS);
    assert_eq!(faults(&verdict, false), Vec::<String>::new());
}

#[test]
fn what_the_sweep_adds_up_is_what_the_totals_say() {
    let mut machine = Machine::new(Scheme::ByBytes, 7);
    (MIXES[1].1)(&mut machine);
    let by_totals = machine.snapshot();
    let settings = Settings {
        older_than_ns: 1,
        top: usize::MAX,
        largest_mean_bytes: Some(MEAN_BYTES),
        ..Settings::default()
    };
    let mut tracker = Tracker::new(settings, 0);
    tracker.begin(SECOND);
    machine.fill(|key, totals| tracker.add_totals(key, totals), |_| {});
    machine.fill(|_, _| {}, |block| tracker.add_block(block));
    let by_sweep = tracker.finish(|site| (Scope::Image(site.image), site.key.stack_id));
    let numbers = |snapshot: &Snapshot| -> Vec<_> {
        let sites = snapshot.sites.iter();
        sites
            .map(|site| (site.site.key, site.bytes, site.blocks, site.sampled))
            .collect()
    };
    assert_eq!(numbers(&by_sweep), numbers(&by_totals));
    assert_eq!((by_sweep.torn, by_sweep.omitted.blocks), (0, 0));

    // The same of an image that has ended.
    let mut tracker = Tracker::new(settings, 0);
    let mut freezing = tracker.freeze(1, 0, State::Exited, SECOND);
    machine.fill(|key, totals| freezing.add_totals(key, totals), |_| {});
    machine.fill(|_, _| {}, |block| freezing.add_block(block));
    freezing.finish();
    tracker.begin(2 * SECOND);
    let ended = tracker.finish(|site| (Scope::Image(site.image), site.key.stack_id));
    assert_eq!(numbers(&ended), numbers(&by_totals));
    assert_eq!(ended.totals.sampled, by_totals.totals.sampled);
    assert_eq!(ended.images[0].live_bytes, by_totals.totals.live_bytes);
}

#[test]
fn sums_over_sites_are_the_totals() {
    let mut machine = Machine::new(Scheme::ByBytes, 11);
    (MIXES[1].1)(&mut machine);
    let snapshot = machine.snapshot();
    let sum = |of: fn(&SiteSnapshot) -> u64| snapshot.sites.iter().map(of).sum::<u64>();
    let totals = &snapshot.totals;
    assert_eq!(sum(|site| site.bytes), totals.live_bytes);
    assert_eq!(sum(|site| site.blocks), totals.live_blocks);
    assert_eq!(totals.allocs - totals.frees, totals.live_blocks);
    assert_eq!(totals.alloc_bytes - totals.freed_bytes, totals.live_bytes);
    let samples = totals.sampled.expect("it samples").samples;
    assert_eq!(sum(|site| site.sampled.expect("it samples").samples), samples);
    for site in &snapshot.sites {
        let sampled = site.sampled.expect("it samples");
        let [low, high] = sampled.bytes_interval;
        assert!(low <= site.bytes && site.bytes <= high, "{site:?}");
        let [low, high] = sampled.blocks_interval;
        assert!(
            sampled.samples <= low && low <= site.blocks && site.blocks <= high,
            "{site:?}"
        );
    }
}

#[test]
fn a_mean_that_was_larger_once_still_counts_and_none_is_exact() {
    let settings = Settings {
        largest_mean_bytes: Some(0),
        ..Settings::default()
    };
    let mut tracker = Tracker::new(settings, 0);
    tracker.begin(SECOND);
    let exact = tracker
        .finish(|site| (Scope::Image(site.image), site.key.stack_id))
        .totals
        .sampled;
    assert_eq!(exact, None);
    tracker.sample_mean(100_000);
    tracker.sample_mean(0);
    tracker.begin(2 * SECOND);
    let unknown = tracker
        .finish(|site| (Scope::Image(site.image), site.key.stack_id))
        .totals
        .sampled;
    assert_eq!(unknown.map(|sampled| sampled.bytes_interval), Some([0, 299_574]));
}

#[test]
fn histories_are_of_estimates_before_the_first_snapshot_too() {
    let settings = Settings {
        largest_mean_bytes: Some(1000),
        ..Settings::default()
    };
    let mut tracker = Tracker::new(settings, 0);
    let totals = Site {
        allocs: 1,
        alloc_bytes: 10,
        allocated: Estimate {
            blocks: 100 << BLOCKS_FRACTION_BITS,
            bytes: 1000,
            ..Estimate::ZERO
        },
        ..Site::EMPTY
    };
    for second in 1..=20 {
        tracker.add_totals(key(1, 1), &totals);
        tracker.note(second * SECOND, RunReading::default());
    }
    tracker.begin(21 * SECOND);
    tracker.add_totals(key(1, 1), &totals);
    tracker.note(21 * SECOND, RunReading::default());
    let snapshot = tracker.finish(|site| (Scope::Image(site.image), site.key.stack_id));
    let verdict = snapshot.sites[0].verdict.as_ref().unwrap();
    assert!(verdict.slope_bytes_per_s.abs() < 1e-9, "{verdict:?}");
}
