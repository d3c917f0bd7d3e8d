//! What outstanding blocks say of the memory that they lie in: which stretches are an allocator's, how much of them is
//! outstanding, and which blocks are so large that they may never have been touched.
//!
//! Filled in the one pass over the table of live blocks. Pure; must not know how much of it is there.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
};

use leaktrace_common::{call::Space, key::SiteKey, math::Weight};

use super::pieces::Piece;

/// Blocks from this size on are asked for page by page: glibc maps them for themselves, and what nobody has touched of
/// them is not there. Smaller ones lie among others.
pub const LARGE_BYTES: u64 = 128 << 10;

/// The largest blocks that are kept of a process; all others count as smaller ones do.
const LARGE_MAX: usize = 4096;

/// What an allocator adds to a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rounding {
    /// A header of 8 bytes, then to 16, at least 32: glibc (`request2size` in malloc/malloc.c of 2.41).
    Glibc,
    /// Not known: what it adds counts as free.
    #[default]
    Unknown,
}

impl Rounding {
    /// Bytes that a block of `size_bytes` takes of the heap.
    pub const fn gross_bytes(self, size_bytes: u64) -> u64 {
        match self {
            Self::Glibc => {
                let chunk = size_bytes.saturating_add(8 + 15) & !15;
                if chunk < 32 { 32 } else { chunk }
            }
            Self::Unknown => size_bytes,
        }
    }
}

/// A block that is outstanding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its site, and in it whose it is and in which space.
    pub site: SiteKey,
    /// Its address.
    pub address: u64,
    /// Bytes asked for.
    pub size_bytes: u64,
    /// How many blocks it stands for.
    pub weight: Weight,
}

/// A block that may not be there as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Large {
    /// Bytes asked for.
    pub size_bytes: u64,
    /// Its address.
    pub address: u64,
    /// Its site.
    pub site: SiteKey,
    /// Which stretch it begins in.
    pub piece: usize,
    /// Bytes that it stands for.
    pub stands_for_bytes: u64,
}

/// A stretch, and what lies in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    start: u64,
    end: u64,
    /// Bytes of small blocks, with what the allocator adds.
    small_bytes: u64,
    has_block: bool,
}

/// The outstanding blocks of a process.
#[derive(Clone, Debug, Default)]
pub struct Blocks {
    /// What the allocator adds to each.
    rounding: Rounding,
    stretches: Vec<Stretch>,
    /// Bytes of the small blocks of each site, with what the allocator adds.
    small: HashMap<SiteKey, u64>,
    large: BinaryHeap<Reverse<Large>>,
    /// Bytes of blocks where nothing was mapped at the look: they are younger.
    elsewhere_bytes: u64,
    /// Whether a block stands for more than itself.
    sampled: bool,
}

impl Blocks {
    /// None yet, in these stretches, which are in order of address.
    pub fn new(pieces: &[Piece], rounding: Rounding) -> Self {
        let stretches = pieces.iter().map(|piece| Stretch {
            start: piece.start,
            end: piece.end,
            small_bytes: 0,
            has_block: false,
        });
        Self {
            rounding,
            stretches: stretches.collect(),
            ..Self::default()
        }
    }

    /// Adds a block. Those that are cut from other blocks, and those that are no memory of the process's own, are not
    /// counted.
    pub fn add(&mut self, block: &Block) {
        let space = Space::of(block.site.process.space);
        if !matches!(space, Some(Space::Heap | Space::PythonArena)) {
            return;
        }
        self.sampled |= !block.weight.is_one();
        let gross_bytes = self.rounding.gross_bytes(block.size_bytes);
        let Some(piece) = self.stretch(block.address) else {
            let bytes = block.weight.bytes(gross_bytes);
            self.elsewhere_bytes = self.elsewhere_bytes.saturating_add(bytes);
            return;
        };
        self.stretches[piece].has_block = true;
        if block.size_bytes < LARGE_BYTES {
            self.add_small(piece, block.site, block.weight.bytes(gross_bytes));
            return;
        }
        self.large.push(Reverse(Large {
            size_bytes: block.size_bytes,
            address: block.address,
            site: block.site,
            piece,
            stands_for_bytes: block.weight.bytes(block.size_bytes),
        }));
        if self.large.len() > LARGE_MAX
            && let Some(Reverse(least)) = self.large.pop()
        {
            self.add_small(least.piece, least.site, least.stands_for_bytes);
        }
    }

    /// Whether a block lies in a stretch.
    pub fn has_block(&self, piece: usize) -> bool {
        self.stretches.get(piece).is_some_and(|stretch| stretch.has_block)
    }

    /// Bytes of small blocks in a stretch, with what the allocator adds.
    pub fn small_bytes(&self, piece: usize) -> u64 {
        self.stretches.get(piece).map_or(0, |stretch| stretch.small_bytes)
    }

    /// Bytes of small blocks by site, with what the allocator adds, in no order.
    pub fn small(&self) -> impl Iterator<Item = (SiteKey, u64)> {
        self.small.iter().map(|(site, bytes)| (*site, *bytes))
    }

    /// The large ones, the largest first.
    pub fn large(&self) -> Vec<Large> {
        let mut large: Vec<Large> = self.large.iter().map(|Reverse(block)| *block).collect();
        large.sort_unstable_by_key(|&block| Reverse(block));
        large
    }

    /// Bytes of blocks that lie where nothing was mapped at the look.
    pub const fn elsewhere_bytes(&self) -> u64 {
        self.elsewhere_bytes
    }

    /// Whether blocks stand for others: what lies in one stretch is then an estimate, what lies in all a better one.
    pub const fn is_sampled(&self) -> bool {
        self.sampled
    }

    fn add_small(&mut self, piece: usize, site: SiteKey, bytes: u64) {
        let stretch = &mut self.stretches[piece];
        stretch.small_bytes = stretch.small_bytes.saturating_add(bytes);
        let of_site = self.small.entry(site).or_default();
        *of_site = of_site.saturating_add(bytes);
    }

    /// Which stretch an address lies in.
    fn stretch(&self, address: u64) -> Option<usize> {
        let after = self.stretches.partition_point(|stretch| stretch.start <= address);
        let index = after.checked_sub(1)?;
        (address < self.stretches[index].end).then_some(index)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use leaktrace_common::key::Process;

    use super::*;
    use crate::account::pieces::What;

    pub(in crate::account) fn site(stack_id: u64, space: Space) -> SiteKey {
        SiteKey {
            stack_id,
            process: Process {
                tgid: 7,
                image: 0,
                space: space as u8,
                device: 0,
            },
            call: 1,
            shard: 0,
        }
    }

    pub(in crate::account) fn block(stack_id: u64, address: u64, size_bytes: u64) -> Block {
        Block {
            site: site(stack_id, Space::Heap),
            address,
            size_bytes,
            weight: Weight::ONE,
        }
    }

    fn blocks() -> Blocks {
        let piece = |start, end| Piece {
            start,
            end,
            what: What::Heap,
            held_bytes: 0,
        };
        let pieces = [piece(0x1000, 0x4000), piece(0x10_0000, 0x1000_0000)];
        Blocks::new(&pieces, Rounding::Unknown)
    }

    #[test]
    fn blocks_count_where_they_lie() {
        let mut blocks = blocks();
        for (address, size) in [
            (0x1000, 10),
            (0x3fff, 20),
            (0x4000, 40),
            (0x10, 80),
            (0x10_0000, 160),
        ] {
            blocks.add(&block(1, address, size));
        }
        assert_eq!((blocks.small_bytes(0), blocks.small_bytes(1)), (30, 160));
        assert_eq!(blocks.elsewhere_bytes(), 120);
        assert_eq!(blocks.small().collect::<Vec<_>>(), [(site(1, Space::Heap), 190)]);
        assert!(blocks.has_block(0) && blocks.has_block(1) && !blocks.has_block(2));
        assert!(!blocks.is_sampled());
    }

    #[test]
    fn blocks_cut_from_others_do_not_count() {
        let mut blocks = blocks();
        for space in [Space::Custom, Space::PythonPool, Space::Device, Space::Tensor] {
            blocks.add(&Block {
                site: site(1, space),
                ..block(1, 0x1000, 10)
            });
        }
        assert!(!blocks.has_block(0));
        blocks.add(&Block {
            site: site(1, Space::PythonArena),
            ..block(1, 0x1000, 10)
        });
        assert!(blocks.has_block(0));
    }

    #[test]
    fn the_largest_are_kept() {
        let mut blocks = blocks();
        for number in 0..LARGE_MAX as u64 + 3 {
            blocks.add(&block(number % 2, 0x10_0000 + number, LARGE_BYTES + number));
        }
        let large = blocks.large();
        assert_eq!(large.len(), LARGE_MAX);
        assert_eq!(large[0].size_bytes, LARGE_BYTES + LARGE_MAX as u64 + 2);
        assert_eq!(large[LARGE_MAX - 1].size_bytes, LARGE_BYTES + 3);
        assert_eq!(blocks.small_bytes(1), 3 * LARGE_BYTES + 3);
    }

    #[test]
    fn samples_stand_for_others() {
        let mut blocks = blocks();
        let weight = Weight::of(1024, 64 << 10);
        blocks.add(&Block {
            weight,
            ..block(1, 0x1000, 1024)
        });
        assert!(blocks.is_sampled());
        assert_eq!(blocks.small_bytes(0), weight.bytes(1024));
    }

    #[test]
    fn glibc_adds_its_header() {
        for (size, chunk) in [
            (0, 32),
            (1, 32),
            (24, 32),
            (25, 48),
            (40, 48),
            (100, 112),
            (1000, 1008),
        ] {
            assert_eq!(Rounding::Glibc.gross_bytes(size), chunk, "{size}");
            assert_eq!(Rounding::Unknown.gross_bytes(size), size);
        }
    }
}
