//! How much of the live table one process may take, where there are many. Pure.
//!
//! A block that is recorded stays until it is freed: taking it out for another's sake would make its free one of an unknown
//! block, and the leak invisible. So it is what comes in that is bounded: as soon as the table fills, nobody who has more
//! than an equal part of it gets more.

/// Blocks that every process may have, however many there are.
const LEAST: u64 = 256;

/// Blocks that one process may have: at most `process_max`, and an equal part of the table once three quarters of its
/// `max` blocks are taken by `live` blocks of `processes`.
pub(super) fn share(max: u64, process_max: u64, live: u64, processes: u64) -> u64 {
    if live < max / 4 * 3 || processes == 0 {
        return process_max;
    }
    (max / processes).max(LEAST).min(process_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_parts_once_the_table_fills() {
        assert_eq!(share(10_000, 2_500, 0, 0), 2_500);
        assert_eq!(share(10_000, 2_500, 7_499, 50), 2_500);
        assert_eq!(share(10_000, 2_500, 7_500, 2), 2_500);
        assert_eq!(share(100_000, 25_000, 75_000, 50), 2_000);
        assert_eq!(share(10_000, 2_500, 10_000, 5_000), LEAST);
    }
}
