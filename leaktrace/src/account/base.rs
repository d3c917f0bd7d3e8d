//! What a process had mapped at the attach and how much of it was there: what all changes refer to.
//!
//! What is found out later of memory that is an allocator's is true of what stood there, too: then nothing changes its
//! kind, and sums stay right. Pure.

use super::smaps::{Area, Backing};

/// A stretch that was mapped at the attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stood {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// What it was of.
    pub backing: Backing,
    /// Bytes of it that were there, resident or in swap.
    pub held_bytes: u64,
    /// Whether it is known by now to have been an allocator's.
    pub is_allocators: bool,
}

/// All that was mapped, in order of address.
#[derive(Clone, Debug, Default)]
pub struct Base(Vec<Stood>);

/// Bytes that are there, resident or in swap, by what they are of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Levels {
    /// An allocator's.
    pub heap_bytes: u64,
    /// Mapped by the process since the attach.
    pub mappings_bytes: u64,
    /// Stacks.
    pub stacks_bytes: u64,
    /// Of no file, from before the attach and nobody's.
    pub before_bytes: u64,
    /// Of files, shared, the kernel's.
    pub files_bytes: u64,
}

impl Levels {
    /// All of it.
    pub const fn sum(&self) -> u64 {
        self.heap_bytes + self.mappings_bytes + self.stacks_bytes + self.before_bytes + self.files_bytes
    }
}

impl Base {
    /// What these mappings are, in order of address.
    pub fn new(areas: &[Area]) -> Self {
        let stood = areas.iter().map(|area| Stood {
            start: area.start,
            end: area.end,
            backing: area.backing,
            held_bytes: area.held_bytes(),
            is_allocators: matches!(area.backing, Backing::Heap | Backing::Allocator),
        });
        Self(stood.collect())
    }

    /// The stretches that overlap `start..end`, with their indices, in order.
    pub fn overlapping(&self, start: u64, end: u64) -> impl Iterator<Item = (usize, &Stood)> {
        let first = self.0.partition_point(|stood| stood.end <= start);
        let rest = self.0.iter().enumerate().skip(first);
        rest.take_while(move |(_, stood)| stood.start < end)
    }

    /// Notes that a stretch is an allocator's.
    pub fn mark(&mut self, index: usize) {
        if let Some(stood) = self.0.get_mut(index) {
            stood.is_allocators = true;
        }
    }

    /// Whether a stretch is known to be an allocator's.
    pub fn is_allocators(&self, index: usize) -> bool {
        self.0.get(index).is_some_and(|stood| stood.is_allocators)
    }

    /// Notes that `start..end` was an allocator's: it has unmapped or moved it. Where that is a part of what stood there,
    /// it is taken to have had a part of what was there. Indices are other ones then.
    pub fn mark_range(&mut self, start: u64, end: u64) {
        let at = |stood: &Stood, from: u64, to: u64| {
            let share = |address: u64| {
                let all = u128::from(stood.held_bytes) * u128::from(address - stood.start);
                (all / u128::from(stood.end - stood.start)) as u64
            };
            Stood {
                start: from,
                end: to,
                held_bytes: share(to) - share(from),
                ..*stood
            }
        };
        let mut cut = Vec::with_capacity(self.0.len());
        for stood in &self.0 {
            let (from, to) = (start.max(stood.start), end.min(stood.end));
            if from >= to || stood.is_allocators || stood.backing != Backing::Anonymous {
                cut.push(*stood);
                continue;
            }
            let inside = Stood {
                is_allocators: true,
                ..at(stood, from, to)
            };
            let parts = [at(stood, stood.start, from), inside, at(stood, to, stood.end)];
            cut.extend(parts.into_iter().filter(|part| part.start < part.end));
        }
        self.0 = cut;
    }

    /// What was there, by what is known by now.
    pub fn levels(&self) -> Levels {
        let mut levels = Levels::default();
        for stood in &self.0 {
            let level = match stood.backing {
                _ if stood.is_allocators => &mut levels.heap_bytes,
                Backing::Heap | Backing::Allocator => &mut levels.heap_bytes,
                Backing::Stack => &mut levels.stacks_bytes,
                Backing::File => &mut levels.files_bytes,
                Backing::Anonymous => &mut levels.before_bytes,
            };
            *level += stood.held_bytes;
        }
        levels
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Base {
        let area = |start, end, backing, held| Area {
            rss_bytes: held,
            ..Area::empty(start, end, backing)
        };
        Base::new(&[
            area(0x1000, 0x2000, Backing::File, 1),
            area(0x2000, 0x3000, Backing::Heap, 2),
            area(0x4000, 0x8000, Backing::Anonymous, 1000),
            area(0x9000, 0xa000, Backing::Stack, 8),
        ])
    }

    fn levels(base: &Base) -> [u64; 4] {
        let levels = base.levels();
        assert_eq!(levels.mappings_bytes, 0);
        [
            levels.heap_bytes,
            levels.before_bytes,
            levels.stacks_bytes,
            levels.files_bytes,
        ]
    }

    #[test]
    fn what_is_learned_is_true_of_the_past() {
        let mut base = base();
        assert_eq!(levels(&base), [2, 1000, 8, 1]);
        let overlapping: Vec<usize> = base.overlapping(0x2fff, 0x4001).map(|(index, _)| index).collect();
        assert_eq!(overlapping, [1, 2]);
        assert_eq!(base.overlapping(0x3000, 0x4000).count(), 0);
        base.mark(2);
        assert!(
            base.is_allocators(2)
                && base.is_allocators(1)
                && !base.is_allocators(0)
                && !base.is_allocators(9)
        );
        assert_eq!(levels(&base), [1002, 0, 8, 1]);
    }

    #[test]
    fn a_part_of_a_mapping_has_a_part_of_its_pages() {
        let mut base = base();
        base.mark_range(0x1000, 0x5000);
        assert_eq!(levels(&base), [252, 750, 8, 1]);
        base.mark_range(0x6000, 0x7000);
        assert_eq!(levels(&base), [502, 500, 8, 1]);
        let all: Vec<(u64, u64)> = base
            .overlapping(0, 0x8000)
            .map(|(_, stood)| (stood.start, stood.end))
            .collect();
        let anonymous = [
            (0x4000, 0x5000),
            (0x5000, 0x6000),
            (0x6000, 0x7000),
            (0x7000, 0x8000),
        ];
        assert_eq!(all[2..], anonymous);
        base.mark_range(0, u64::MAX);
        assert_eq!(levels(&base), [1002, 0, 8, 1]);
    }
}
