//! What recorded blocks stand for: themselves where every allocation is recorded, a share of all where
//! they are samples.
//!
//! Must not know where the blocks are or which site they belong to.

use leaktrace_common::math::{BLOCKS_FRACTION_BITS, VARIANCE_UNIT_BYTES, Weight};
use leaktrace_common::record::Estimate;

use super::interval::{Known, interval};
use crate::report::model::Sampled;

/// The smallest blocks that a bound on the blocks of a whole program allows for. Many that are smaller and
/// were never hit would not show.
const SMALL_BYTES: f64 = 16.0;

/// What outstanding blocks add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outstanding {
    /// Bytes.
    pub(super) bytes: u64,
    /// Blocks.
    pub(super) blocks: u64,
    /// Recorded blocks that say so.
    pub(super) samples: u64,
    /// Their own bytes.
    pub(super) recorded_bytes: u64,
    /// Variance of `bytes`, in squares of [`VARIANCE_UNIT_BYTES`].
    pub(super) variance_of_bytes: u64,
    /// Variance of `blocks`.
    pub(super) variance_of_blocks: u64,
}

/// Which sizes the blocks may have that no sample has hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unseen {
    /// Those of a site: they are taken to be like those that were seen.
    LikeSeen,
    /// Those of a whole program: any.
    Any,
}

impl Outstanding {
    /// Adds another's; stays at the largest number rather than start again from 0.
    pub(super) const fn add(&mut self, other: &Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.blocks = self.blocks.saturating_add(other.blocks);
        self.samples = self.samples.saturating_add(other.samples);
        self.recorded_bytes = self.recorded_bytes.saturating_add(other.recorded_bytes);
        self.variance_of_bytes = self.variance_of_bytes.saturating_add(other.variance_of_bytes);
        self.variance_of_blocks = self.variance_of_blocks.saturating_add(other.variance_of_blocks);
    }

    /// How far to trust it. `mean_bytes` is the largest mean gap between samples that was in force.
    pub(super) fn sampled(&self, mean_bytes: u64, unseen: Unseen) -> Sampled {
        Sampled {
            samples: self.samples,
            bytes_interval: self.bytes_interval(mean_bytes as f64, unseen),
            blocks_interval: self.blocks_interval(mean_bytes as f64, unseen),
        }
    }

    fn bytes_interval(&self, mean_bytes: f64, unseen: Unseen) -> [u64; 2] {
        let known = Known {
            recorded: self.recorded_bytes as f64,
            estimate: self.bytes as f64,
            variance: self.variance_of_bytes as f64 * (VARIANCE_UNIT_BYTES * VARIANCE_UNIT_BYTES) as f64,
        };
        // A small block stands for one mean, and so do all that a sample has missed together.
        let unit = match unseen {
            Unseen::LikeSeen if self.variance_of_bytes == 0 => 0.0,
            _ => mean_bytes,
        };
        interval(&known, unit, unit)
    }

    fn blocks_interval(&self, mean_bytes: f64, unseen: Unseen) -> [u64; 2] {
        let (samples, blocks) = (self.samples as f64, self.blocks as f64);
        let rest = (blocks - samples).max(0.0);
        // The kernel side sums whole numbers, which loses what weights near 1 add. The sum of w (w - 1) is
        // never below that of equal weights.
        let least = if samples > 0.0 {
            blocks * rest / samples
        } else {
            0.0
        };
        let known = Known {
            recorded: samples,
            estimate: blocks,
            variance: (self.variance_of_blocks as f64).max(least),
        };
        let like_seen = if rest > 0.0 { known.variance / rest } else { 0.0 };
        let smallest = match unseen {
            Unseen::LikeSeen => like_seen,
            Unseen::Any => mean_bytes / SMALL_BYTES,
        };
        interval(&known, like_seen, smallest)
    }
}

/// Sums over blocks as the sweep of the live table meets them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Swept {
    samples: u64,
    recorded_bytes: u64,
    estimate: Estimate,
}

impl Swept {
    /// Adds a block.
    pub(super) const fn add(&mut self, size_bytes: u64, weight: Weight) {
        self.samples += 1;
        self.recorded_bytes = self.recorded_bytes.saturating_add(size_bytes);
        let sum = &mut self.estimate;
        sum.bytes = sum.bytes.saturating_add(weight.bytes(size_bytes));
        sum.blocks = sum.blocks.saturating_add(weight.blocks());
        if !weight.is_one() {
            sum.variance_of_bytes = sum
                .variance_of_bytes
                .saturating_add(weight.variance_of_bytes(size_bytes));
            sum.variance_of_blocks = sum.variance_of_blocks.saturating_add(weight.variance_of_blocks());
        }
    }

    /// As whole numbers, never above what the totals say is outstanding, and whether it had to be cut.
    pub(super) fn within(&self, live: &Outstanding, round: Rounding) -> (Outstanding, bool) {
        let bytes = self.estimate.bytes;
        let blocks = round.whole(self.estimate.blocks);
        // Where all samples are among them it is all of it, however the rest is rounded.
        let all = self.samples == live.samples && bytes == live.bytes;
        let swept = Outstanding {
            bytes: bytes.min(live.bytes),
            blocks: if all { live.blocks } else { blocks.min(live.blocks) },
            samples: self.samples.min(live.samples),
            recorded_bytes: self.recorded_bytes.min(live.recorded_bytes),
            variance_of_bytes: self.estimate.variance_of_bytes.min(live.variance_of_bytes),
            variance_of_blocks: self.estimate.variance_of_blocks.min(live.variance_of_blocks),
        };
        (swept, self.samples > live.samples || bytes > live.bytes)
    }
}

/// How the fractions of the blocks of a site become whole numbers.
///
/// The nearest number would be wrong in one direction for all sites whose single block stands for 1.3. Each
/// site rounds up in its own share of all cases, so that sums over sites are right; and always the same way,
/// so that its numbers never fall.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rounding(u16);

impl Rounding {
    /// Of the site with this stack. Stack ids are hashes: any 16 bits of them are as good as random.
    pub(super) const fn of(stack_id: u64) -> Self {
        Self(stack_id as u16)
    }

    /// Blocks with [`BLOCKS_FRACTION_BITS`] fraction bits, as a whole number.
    pub(super) const fn whole(self, blocks: u64) -> u64 {
        blocks.saturating_add(self.0 as u64) >> BLOCKS_FRACTION_BITS
    }
}
