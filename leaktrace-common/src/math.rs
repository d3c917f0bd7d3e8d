//! The arithmetic of sampling: when the next sample is due, and what a sampled block stands for.
//!
//! Integers only: BPF has no floating point. Pure, and tested here against `f64`. Must not know where
//! randomness comes from, nor maps.
//!
//! Every byte that a thread asks for is a sample point with probability 1/mean, so an allocation of s bytes
//! is taken with p = 1 - exp(-s/mean) and stands for 1/p allocations like it (Horvitz and Thompson, "A
//! generalization of sampling without replacement from a finite universe", JASA 47, 1952).

/// Smallest mean of the gaps between two sample points, in bytes.
pub const MEAN_MIN_BYTES: u64 = 1 << 10;

/// Largest one: products of it and the fixed-point numbers below fit 64 bits.
pub const MEAN_MAX_BYTES: u64 = 1 << 26;

/// Units of the sums of variances of bytes: squares of 64 bytes, so that sums of many samples of a large
/// mean fit 64 bits.
pub const VARIANCE_UNIT_BYTES: u64 = 64;

/// Fraction bits of [`Weight::blocks`].
pub const BLOCKS_FRACTION_BITS: u32 = 16;

/// Cells of the tables.
const CELLS: usize = 128;
const CELL_BITS: u32 = 7;

/// 1.0 in the fixed point of the tables.
const ONE_30: u64 = 1 << 30;

/// ln 2 and log2 e in that fixed point.
const LN_2_30: u64 = 744_261_118;
const LOG2_E_30: u64 = 1_549_082_005;

/// ln(1 + i/128).
static LN: [u32; CELLS] = {
    let mut table = [0; CELLS];
    let mut i = 0;
    while i < CELLS {
        table[i] = const_ln(i as u128);
        i += 1;
    }
    table
};

/// 2^(-i/128).
static EXP2_NEG: [u32; CELLS] = {
    let mut table = [0; CELLS];
    let mut i = 0;
    while i < CELLS {
        table[i] = const_exp2_neg(i as u128);
        i += 1;
    }
    table
};

/// ln(1 + i/128) = 2 artanh(i / (256 + i)), by its series, with 60 fraction bits.
const fn const_ln(i: u128) -> u32 {
    let y = (i << 60) / (256 + i);
    let square = (y * y) >> 60;
    let (mut power, mut sum, mut n) = (y, 0, 1);
    while power > 0 {
        sum += power / n;
        power = (power * square) >> 60;
        n += 2;
    }
    (((2 * sum) + (1 << 29)) >> 30) as u32
}

/// 2^(-i/128) = exp(-i ln 2 / 128), by its series, with 60 fraction bits.
const fn const_exp2_neg(i: u128) -> u32 {
    const LN_2_60: u128 = 799_144_290_325_165_979;
    let x = i * LN_2_60 / 128;
    let (mut term, mut positive, mut negative, mut n) = (1_u128 << 60, 0, 0, 0);
    while term > 0 {
        if n % 2 == 0 {
            positive += term;
        } else {
            negative += term;
        }
        n += 1;
        term = ((term * x) >> 60) / n;
    }
    ((positive - negative + (1 << 29)) >> 30) as u32
}

/// Bytes up to and including the next sample point: exponential with `mean_bytes`, rounded up to a whole
/// byte, so that P(gap <= s) = 1 - exp(-s / mean) for whole s.
///
/// `random` is uniform over all values. `mean_bytes` is at most [`MEAN_MAX_BYTES`].
#[inline(always)]
pub fn gap_bytes(random: u32, mean_bytes: u64) -> u64 {
    // v in (0, 1), in units of 2^-33; the gap is -ln(1 - v) means.
    let v = 2 * u64::from(random) + 1;
    if v < 1 << 27 {
        // Below 1/64 by the series: small blocks are taken by small v, and an interpolated logarithm would
        // be wrong in proportion there.
        let v2 = (v * v) >> 27;
        let v3 = (v2 * v) >> 27;
        let sum = mean_bytes * v + ((mean_bytes * v2) >> 7) + ((mean_bytes * v3 / 3) >> 12);
        (sum + (1 << 33) - 1) >> 33
    } else {
        let u = (1 << 33) - v;
        (mean_bytes * minus_ln(u) + ONE_30 - 1) >> 30
    }
}

/// -ln(u / 2^33) with 30 fraction bits, for u in 1..2^33.
#[inline(always)]
fn minus_ln(u: u64) -> u64 {
    let zeros = u.leading_zeros();
    // u = 2^(63 - zeros) * (1 + fraction), the fraction with 63 bits.
    let fraction = (u << zeros) & (u64::MAX >> 1);
    let cell = (fraction >> (63 - CELL_BITS)) as usize & (CELLS - 1);
    let rest_30 = (fraction & ((1 << (63 - CELL_BITS)) - 1)) >> 33;
    let node_30 = ONE_30 + ((cell as u64) << (30 - CELL_BITS));
    // ln(1 + t) = t - t^2/2 + t^3/3 for t < 1/128
    let t = quotient(rest_30 << 30, node_30);
    let t2 = (t * t) >> 30;
    let t3 = (t2 * t) >> 30;
    let ln_mantissa = at(&LN, cell) + t - t2 / 2 + t3 / 3;
    let halvings = u64::from(zeros - 30);
    (halvings * LN_2_30).saturating_sub(ln_mantissa)
}

/// a / b, for b that is not 0: the compiler cannot always see that, and a path to a panic would be in the way
/// of the verifier.
#[inline(always)]
fn quotient(a: u64, b: u64) -> u64 {
    a.checked_div(b).unwrap_or(0)
}

#[inline(always)]
fn at(table: &[u32; CELLS], cell: usize) -> u64 {
    // SAFETY: callers mask the cell to the table's length; indexing would add a panic path to the BPF code.
    unsafe { u64::from(*table.as_ptr().add(cell)) }
}

/// How many allocations a recorded one stands for: at least 1. Never 0 in a record.
///
/// 27 bits of mantissa above 5 bits of exponent: value = mantissa * 2^(exponent - 26).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Weight(pub u32);

impl Weight {
    /// Stands for itself: recorded without sampling.
    pub const ONE: Self = Self(1 << 31);

    /// Of a block of `size_bytes` that was taken with a mean gap of `mean_bytes`, 0 for no sampling.
    #[inline(always)]
    pub fn of(size_bytes: u64, mean_bytes: u64) -> Self {
        let size = if size_bytes == 0 { 1 } else { size_bytes };
        // Beyond 32 means 1/p differs from 1 by less than 1e-13.
        if mean_bytes == 0 || size >= 32 * mean_bytes {
            return Self::ONE;
        }
        // 1 / (1 - exp(-x)) with 26 fraction bits.
        let ratio = if 16 * size < mean_bytes {
            // 1/x + 1/2 + x/12; the next term is below 4e-7.
            quotient(mean_bytes << 26, size) + (1 << 25) + quotient(size << 26, 12 * mean_bytes)
        } else {
            let x_26 = quotient(size << 26, mean_bytes);
            quotient(1 << 56, ONE_30 - exp_neg(x_26))
        };
        Self::encode(ratio)
    }

    #[inline(always)]
    const fn encode(ratio_26: u64) -> Self {
        let bits = 64 - ratio_26.leading_zeros();
        let exponent = bits.saturating_sub(27);
        Self(((ratio_26 >> exponent) as u32) << 5 | exponent)
    }

    #[inline(always)]
    const fn mantissa(self) -> u64 {
        (self.0 >> 5) as u64
    }

    #[inline(always)]
    const fn exponent(self) -> u32 {
        self.0 & 31
    }

    /// Whether it stands for itself alone.
    #[inline(always)]
    pub const fn is_one(self) -> bool {
        self.0 == Self::ONE.0
    }

    /// Blocks it stands for, with [`BLOCKS_FRACTION_BITS`] fraction bits.
    #[inline(always)]
    pub const fn blocks(self) -> u64 {
        (self.mantissa() << self.exponent()) >> (26 - BLOCKS_FRACTION_BITS)
    }

    /// The same as a whole number, at least 1.
    #[inline(always)]
    pub const fn whole_blocks(self) -> u64 {
        (self.blocks() + (1 << (BLOCKS_FRACTION_BITS - 1))) >> BLOCKS_FRACTION_BITS
    }

    /// Bytes that a block of `size_bytes` stands for.
    #[inline(always)]
    pub const fn bytes(self, size_bytes: u64) -> u64 {
        if self.is_one() {
            return size_bytes;
        }
        // Sizes are below 32 means here, and weight times size below 33 of them: no overflow.
        ((((size_bytes * self.mantissa()) >> 5) << self.exponent()) + (1 << 20)) >> 21
    }

    /// What a block adds to the variance of the estimated bytes, size^2 w (w - 1), in squares of
    /// [`VARIANCE_UNIT_BYTES`].
    #[inline(always)]
    pub const fn variance_of_bytes(self, size_bytes: u64) -> u64 {
        let bytes = self.bytes(size_bytes);
        let more = bytes - if size_bytes < bytes { size_bytes } else { bytes };
        ((bytes + 32) >> 6) * ((more + 32) >> 6)
    }

    /// What it adds to the variance of the estimated blocks: w (w - 1).
    #[inline(always)]
    pub const fn variance_of_blocks(self) -> u64 {
        let blocks = self.blocks();
        let more = blocks - (1 << BLOCKS_FRACTION_BITS);
        if blocks < 1 << 31 {
            (blocks * more) >> 32
        } else {
            (blocks >> 16) * (more >> 16)
        }
    }

    /// As a number.
    pub fn to_f64(self) -> f64 {
        self.mantissa() as f64 * f64::from(1_u32 << self.exponent()) / f64::from(1_u32 << 26)
    }
}

/// exp(-x) with 30 fraction bits, for x with 26 of them, below 32.
#[inline(always)]
fn exp_neg(x_26: u64) -> u64 {
    // exp(-x) = 2^-y = 2^-whole * 2^-cell/128 * 2^-rest
    let y_26 = (x_26 * LOG2_E_30) >> 30;
    let whole = (y_26 >> 26) as u32;
    let cell = (y_26 >> (26 - CELL_BITS)) as usize & (CELLS - 1);
    let rest_26 = y_26 & ((1 << (26 - CELL_BITS)) - 1);
    let a = (rest_26 * LN_2_30) >> 26;
    let a2 = (a * a) >> 30;
    let a3 = (a2 * a) >> 30;
    let power = ONE_30 - a + a2 / 2 - a3 / 6;
    ((at(&EXP2_NEG, cell) * power) >> 30) >> (whole & 63)
}

/// A thread's countdown to its next sample point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Sampler {
    /// Bytes up to and including the next sample point.
    pub left_bytes: u64,
    /// Mean with which it was drawn; 0 for not yet.
    pub mean_bytes: u64,
}

impl Sampler {
    /// Nothing drawn yet.
    pub const NEW: Self = Self {
        left_bytes: 0,
        mean_bytes: 0,
    };

    /// Whether an allocation of `size_bytes` is taken, at a mean gap of `mean_bytes`, which is not 0.
    ///
    /// When the mean has changed the rest of the gap is drawn anew: what is left of an exponential gap does
    /// not depend on what has passed of it.
    #[inline(always)]
    pub fn takes(&mut self, size_bytes: u64, mean_bytes: u64, random: impl Fn() -> u32) -> bool {
        if self.mean_bytes != mean_bytes {
            self.mean_bytes = mean_bytes;
            self.left_bytes = gap_bytes(random(), mean_bytes);
        }
        // A block of no bytes counts as one of one byte, or it could never be taken.
        let size = if size_bytes == 0 { 1 } else { size_bytes };
        if self.left_bytes > size {
            self.left_bytes -= size;
            return false;
        }
        self.left_bytes = gap_bytes(random(), mean_bytes);
        true
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    const MEANS: [u64; 6] = [MEAN_MIN_BYTES, 4096, 65_536, 512 << 10, 3_000_001, MEAN_MAX_BYTES];

    fn sizes() -> Vec<u64> {
        let mut sizes: Vec<u64> = (0..30).map(|bit| 1 << bit).collect();
        sizes.extend([3, 7, 16, 24, 100, 1000, 12_345, 99_999, 1_000_003, 50_000_000]);
        sizes.sort_unstable();
        sizes
    }

    fn probability(size_bytes: u64, mean_bytes: u64) -> f64 {
        -(-(size_bytes.max(1) as f64) / mean_bytes as f64).exp_m1()
    }

    #[test]
    fn gaps_grow_with_the_random_number() {
        for mean in MEANS {
            let mut last = 0;
            for step in 0..1_u64 << 16 {
                let gap = gap_bytes((step << 16) as u32, mean);
                assert!(gap >= last && gap >= 1, "mean {mean}, step {step}");
                last = gap;
            }
            assert!(gap_bytes(u32::MAX, mean) < 24 * mean);
        }
    }

    #[test]
    fn blocks_are_taken_with_their_probability() {
        // Exact: gaps grow with the random number, so the share of numbers that give a gap within the size is
        // found by bisection.
        for mean in MEANS {
            for size in sizes() {
                let (mut low, mut high) = (0_u64, 1 << 32);
                while low < high {
                    let middle = u64::midpoint(low, high);
                    if gap_bytes(middle as u32, mean) <= size {
                        low = middle + 1;
                    } else {
                        high = middle;
                    }
                }
                let taken = low as f64 / 2_f64.powi(32);
                let wanted = probability(size, mean);
                // One step of the random number is the resolution.
                let tolerance = (2e-6 * wanted).max(2_f64.powi(-32));
                assert!(
                    (taken - wanted).abs() <= tolerance,
                    "size {size}, mean {mean}: {taken} for {wanted}"
                );
            }
        }
    }

    #[test]
    fn weight_is_one_over_the_probability() {
        for mean in MEANS {
            for size in sizes() {
                let weight = Weight::of(size, mean);
                let wanted = 1.0 / probability(size, mean);
                let error = (weight.to_f64() / wanted - 1.0).abs();
                assert!(
                    error < 1e-6,
                    "size {size}, mean {mean}: {} for {wanted}",
                    weight.to_f64()
                );
            }
        }
        assert_eq!(Weight::of(1 << 50, MEAN_MAX_BYTES), Weight::ONE);
        assert_eq!(Weight::of(77, 0), Weight::ONE);
    }

    #[test]
    fn what_a_weight_stands_for() {
        for mean in MEANS {
            for size in sizes() {
                let weight = Weight::of(size, mean);
                let w = weight.to_f64();
                let near = |got: f64, wanted: f64, slack: f64| {
                    assert!(
                        (got - wanted).abs() <= slack,
                        "size {size}, mean {mean}: {got} for {wanted} within {slack}"
                    );
                };
                let bytes = w * size as f64;
                near(weight.blocks() as f64 / 65_536.0, w, 1e-4);
                near(weight.whole_blocks() as f64, w, 0.501);
                near(weight.bytes(size) as f64, bytes, 1.0 + 1e-6 * bytes);
                // Rounded to units of 64 bytes before the product.
                let more = (w - 1.0) * size as f64;
                let unit = VARIANCE_UNIT_BYTES as f64;
                let slack = (bytes + more) / unit + 1.0 + 1e-4 * bytes * more / unit / unit;
                near(
                    weight.variance_of_bytes(size) as f64,
                    bytes * more / unit / unit,
                    slack,
                );
                near(
                    weight.variance_of_blocks() as f64,
                    w * (w - 1.0),
                    1.0 + w * 1e-4 + 1e-4 * w * w,
                );
            }
        }
        assert_eq!(Weight::ONE.blocks(), 1 << BLOCKS_FRACTION_BITS);
        assert_eq!(Weight::ONE.whole_blocks(), 1);
        assert_eq!(Weight::ONE.bytes(u64::MAX), u64::MAX);
        assert_eq!(Weight::ONE.variance_of_blocks(), 0);
    }

    #[test]
    fn sampler_takes_what_holds_a_sample_point() {
        let mut sampler = Sampler::NEW;
        // Gaps of mean_bytes * ln 2 each.
        let random = || 1 << 31;
        let gap = gap_bytes(1 << 31, 4096);
        assert!(!sampler.takes(gap - 1, 4096, random));
        assert_eq!(sampler.left_bytes, 1);
        assert!(
            sampler.takes(0, 4096, random),
            "a block of no bytes counts as one of one"
        );
        assert!(!sampler.takes(gap - 1, 4096, random));
        // Another mean: the gap begins anew.
        assert!(!sampler.takes(gap, 8192, random));
        assert!(sampler.takes(1 << 40, 8192, random));
    }
}
