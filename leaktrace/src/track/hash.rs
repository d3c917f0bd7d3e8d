//! Hashing of site keys: the sweep looks one up per live block, up to ten million of them.

use std::hash::{BuildHasherDefault, Hasher};

/// For keys that carry a 64-bit hash of their own (the stack id), so that little mixing is needed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KeyHasher(u64);

/// What maps of sites use.
pub(super) type BuildKeyHasher = BuildHasherDefault<KeyHasher>;

/// Odd, with its bits spread evenly: 2^64 divided by the golden ratio.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

impl KeyHasher {
    const fn mix(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(MULTIPLIER);
        self.0 ^= self.0 >> 32;
    }
}

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.mix(u64::from(*byte));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.mix(u64::from(value));
    }

    fn write_u16(&mut self, value: u16) {
        self.mix(u64::from(value));
    }

    fn write_u32(&mut self, value: u32) {
        self.mix(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.mix(value);
    }
}
