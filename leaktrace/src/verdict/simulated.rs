//! Made-up sites: blocks that come and go by chance, read and counted as the kernel side would, on a clock of its own.

use fastrand::Rng;

use super::evidence::{Cohort, Evidence, Level, Run};

/// A block of a site: when it came, when it goes, and its size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    pub(super) born_s: f64,
    pub(super) dies_s: f64,
    pub(super) bytes: f64,
}

/// How long blocks live.
#[derive(Clone, Copy, Debug)]
pub(super) enum Life {
    /// For ever.
    Ever,
    /// By chance, as decay: mean seconds.
    Exponential(f64),
    /// Most for a short time, a few for long: the least, and how steeply longer ones get rare.
    Pareto(f64, f64),
    /// One of two, the first with this probability.
    Bimodal(f64, f64, f64),
}

impl Life {
    pub(super) fn draw(self, rng: &mut Rng) -> f64 {
        match self {
            Self::Ever => f64::INFINITY,
            Self::Exponential(mean_s) => -mean_s * (1.0 - rng.f64()).ln(),
            Self::Pareto(least_s, alpha) => least_s * (1.0 - rng.f64()).powf(-1.0 / alpha),
            Self::Bimodal(first, short_s, long_s) => {
                let mean_s = if rng.f64() < first { short_s } else { long_s };
                Self::Exponential(mean_s).draw(rng)
            }
        }
    }
}

/// Blocks that come by chance at this rate, from `from_s` until `to_s`.
pub(super) fn arrivals(
    rng: &mut Rng,
    (from_s, to_s): (f64, f64),
    per_s: f64,
    bytes: f64,
    life: Life,
) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut now_s = from_s;
    loop {
        now_s += -(1.0 - rng.f64()).ln() / per_s;
        if now_s >= to_s {
            return blocks;
        }
        blocks.push(Block {
            born_s: now_s,
            dies_s: now_s + life.draw(rng),
            bytes,
        });
    }
}

/// A cache that holds so many and lets the oldest go, or one by chance.
pub(super) fn cache(
    rng: &mut Rng,
    span_s: f64,
    per_s: f64,
    bytes: f64,
    entries: usize,
    by_chance: bool,
) -> Vec<Block> {
    let mut blocks = arrivals(rng, (0.0, span_s), per_s, bytes, Life::Ever);
    let mut held: std::collections::VecDeque<usize> = std::collections::VecDeque::new();
    for index in 0..blocks.len() {
        if held.len() >= entries {
            let out = if by_chance { rng.usize(..held.len()) } else { 0 };
            if let Some(gone) = held.remove(out) {
                blocks[gone].dies_s = blocks[index].born_s;
            }
        }
        held.push_back(index);
    }
    blocks
}

/// What is read of these blocks at `readings` times until `span_s`; with `mean_bytes` of every so many bytes one block.
pub(super) fn read(
    rng: &mut Rng,
    blocks: &[Block],
    span_s: f64,
    readings: usize,
    mean_bytes: Option<f64>,
) -> Evidence {
    let times_s: Vec<f64> = (0..=readings)
        .map(|index| span_s * index as f64 / readings as f64)
        .collect();
    let mut levels = vec![Level::default(); times_s.len()];
    let mut cohorts = vec![Cohort::default(); times_s.len()];
    for block in blocks {
        let weight = match mean_bytes {
            None => 1.0,
            Some(mean) => {
                let taken = 1.0 - (-block.bytes / mean).exp();
                if rng.f64() >= taken {
                    continue;
                }
                1.0 / taken
            }
        };
        let birth = times_s.partition_point(|time| *time < block.born_s);
        let death = times_s.partition_point(|time| *time < block.dies_s);
        // Changes first; they are added up below.
        if let Some(level) = levels.get_mut(birth) {
            level.alloc_bytes += block.bytes * weight;
            level.allocs += weight;
            level.live_bytes += block.bytes * weight;
            level.live_blocks += weight;
        }
        if let Some(level) = levels.get_mut(death.max(birth)) {
            level.live_bytes -= block.bytes * weight;
            level.live_blocks -= weight;
        }
        if death == times_s.len() && birth < times_s.len() {
            let cohort = &mut cohorts[birth];
            cohort.live_bytes += block.bytes * weight;
            cohort.live_blocks += weight;
            cohort.samples += 1.0;
        }
    }
    for index in 1..levels.len() {
        let before = levels[index - 1];
        let level = &mut levels[index];
        level.alloc_bytes += before.alloc_bytes;
        level.allocs += before.allocs;
        // What is left of sums and differences of fractions is nothing.
        let left = |value: f64| if value.abs() < 1e-6 { 0.0 } else { value };
        level.live_bytes = left(level.live_bytes + before.live_bytes);
        level.live_blocks = left(level.live_blocks + before.live_blocks);
    }
    Evidence {
        runs: vec![Run::default(); times_s.len()],
        times_s,
        levels,
        cohorts: Some(cohorts),
        sample_bytes: mean_bytes,
        ran_before: false,
    }
}
