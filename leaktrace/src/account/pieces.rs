//! The address space of a process in pieces of one origin, and how much of each is there.
//!
//! Pure, but for the pages that it asks for. Must not know of outstanding blocks.

use super::{
    base::Base,
    mapped::{Mapped, Origin},
    pages::Pages,
    smaps::{Area, Backing},
};

/// What a piece is of, as far as the mappings themselves say it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum What {
    /// A file, shared memory, the kernel's own.
    File,
    /// The stack of a thread.
    Stack,
    /// Memory that is an allocator's by its name.
    Heap,
    /// Mapped since the attach, by this call.
    Mapped(Origin),
    /// Mapped since the attach: by whom is not known.
    New,
    /// There at the attach: the index of what it was part of then.
    Before(usize),
}

/// A stretch of addresses of one origin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Piece {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// What it is of.
    pub what: What,
    /// Bytes of it that are there, resident or in swap.
    pub held_bytes: u64,
}

impl Piece {
    /// Bytes of addresses.
    pub const fn length_bytes(&self) -> u64 {
        self.end - self.start
    }
}

/// Cuts the mappings into pieces. The pages of parts of a mapping are counted; where that cannot be done, the parts have
/// of what is there what they have of the addresses.
pub fn cut(areas: &[Area], mapped: &Mapped, base: &Base, pages: &mut impl Pages) -> Vec<Piece> {
    let mut pieces = Vec::with_capacity(areas.len());
    for area in areas {
        let first = pieces.len();
        let mut push = |start, end, what| {
            pieces.push(Piece {
                start,
                end,
                what,
                held_bytes: 0,
            });
        };
        match area.backing {
            Backing::File => push(area.start, area.end, What::File),
            Backing::Stack => push(area.start, area.end, What::Stack),
            Backing::Heap | Backing::Allocator => push(area.start, area.end, What::Heap),
            Backing::Anonymous => {
                for (start, end, origin) in mapped.pieces(area.start, area.end) {
                    match origin {
                        Some(origin) => push(start, end, What::Mapped(*origin)),
                        None => unmapped(start, end, base, &mut push),
                    }
                }
            }
        }
        share(&mut pieces[first..], area, pages);
    }
    pieces
}

/// What no call has mapped, as far as is known: it was there at the attach or it was not.
fn unmapped(start: u64, end: u64, base: &Base, push: &mut impl FnMut(u64, u64, What)) {
    let mut at = start;
    for (index, stood) in base.overlapping(start, end) {
        let (from, to) = (stood.start.max(at), stood.end.min(end));
        if from > at {
            push(at, from, What::New);
        }
        if to > from {
            push(from, to, What::Before(index));
        }
        at = at.max(to);
    }
    if at < end {
        push(at, end, What::New);
    }
}

/// Gives each piece of a mapping what it has of it.
fn share(pieces: &mut [Piece], area: &Area, pages: &mut impl Pages) {
    let held = area.held_bytes();
    let mut parts: Vec<u64> = pieces.iter().map(Piece::length_bytes).collect();
    if pieces.len() > 1 && held > 0 && held < area.length_bytes() {
        let counted = pieces
            .iter()
            .map(|piece| pages.held_bytes(piece.start, piece.end));
        let counted: Option<Vec<u64>> = counted.collect();
        // The zero page counts here, and pages come and go between the two readings: smaps says how many there are.
        if let Some(counted) = counted.filter(|counted| counted.iter().any(|&bytes| bytes > 0)) {
            parts = counted;
        }
    }
    distribute(held, &mut parts);
    for (piece, part) in pieces.iter_mut().zip(parts) {
        piece.held_bytes = part;
    }
}

/// Makes of weights parts of `total` that add up to it; zeros if all weights are. All are lengths of address spaces.
pub(super) fn distribute(total: u64, weights: &mut [u64]) {
    let sum: u128 = weights.iter().map(|&weight| u128::from(weight)).sum();
    if sum == 0 {
        return;
    }
    let (mut seen, mut given) = (0_u128, 0_u128);
    for weight in weights {
        seen += u128::from(*weight);
        let up_to = u128::from(total) * seen / sum;
        *weight = (up_to - given) as u64;
        given = up_to;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use leaktrace_common::{
        key::Process,
        mapping::{MapEvent, flag, kind},
    };
    use proptest::prelude::*;

    use super::*;

    /// Pages that are all there below an address.
    pub(in crate::account) struct Below(pub(in crate::account) u64);

    impl Pages for Below {
        fn held_bytes(&mut self, start: u64, end: u64) -> Option<u64> {
            Some(end.min(self.0).saturating_sub(start))
        }
    }

    /// Nothing is known.
    pub(in crate::account) struct Unseen;

    impl Pages for Unseen {
        fn held_bytes(&mut self, _start: u64, _end: u64) -> Option<u64> {
            None
        }
    }

    /// What was there at the attach.
    fn was(stretches: &[(u64, u64)]) -> Base {
        let areas = stretches.iter().map(|&(start, end)| area(start, end, 0));
        Base::new(&areas.collect::<Vec<_>>())
    }

    pub(in crate::account) fn map(start: u64, length_bytes: u64, stack_id: u64, flags: u32) -> MapEvent {
        MapEvent {
            process: Process {
                tgid: 7,
                image: 0,
                space: 0,
                device: 0,
            },
            time_ns: 5,
            began_ns: 5,
            stack_id,
            start,
            length_bytes,
            old_start: 0,
            old_length_bytes: 0,
            kind: kind::MAP,
            flags: flags | flag::ANONYMOUS,
        }
    }

    fn area(start: u64, end: u64, held_bytes: u64) -> Area {
        Area {
            rss_bytes: held_bytes,
            ..Area::empty(start, end, Backing::Anonymous)
        }
    }

    fn shape(pieces: &[Piece]) -> Vec<(u64, u64, &'static str, u64)> {
        let name = |what| match what {
            What::File => "file",
            What::Stack => "stack",
            What::Heap => "heap",
            What::Mapped(_) => "mapped",
            What::New => "new",
            What::Before(_) => "before",
        };
        let of = |piece: &Piece| (piece.start, piece.end, name(piece.what), piece.held_bytes);
        pieces.iter().map(of).collect()
    }

    #[test]
    fn a_mapping_is_cut_by_who_made_it() {
        let mut mapped = Mapped::new();
        mapped.apply(&map(0x4000, 0x2000, 1, 0));
        let areas = [area(0x1000, 0x8000, 0x3800)];
        let base = was(&[(0x0, 0x2000), (0x3000, 0x5000)]);
        let expected = [
            (0x1000, 0x2000, "before", 0x1000),
            (0x2000, 0x3000, "new", 0x1000),
            (0x3000, 0x4000, "before", 0x1000),
            (0x4000, 0x6000, "mapped", 0x800),
            (0x6000, 0x8000, "new", 0),
        ];
        assert_eq!(shape(&cut(&areas, &mapped, &base, &mut Below(0x4800))), expected);
        // Where pages cannot be counted, by addresses.
        let parts = shape(&cut(&areas, &mapped, &base, &mut Unseen));
        let held: Vec<u64> = parts.iter().map(|part| part.3).collect();
        assert_eq!(held, [0x800, 0x800, 0x800, 0x1000, 0x1000]);
    }

    #[test]
    fn names_say_what_a_mapping_is() {
        let of = |backing| Area {
            rss_bytes: 4096,
            swap_bytes: 100,
            ..Area::empty(0x1000, 0x3000, backing)
        };
        let base = was(&[(0x1000, 0x3000)]);
        for (backing, name) in [
            (Backing::File, "file"),
            (Backing::Stack, "stack"),
            (Backing::Heap, "heap"),
            (Backing::Allocator, "heap"),
            (Backing::Anonymous, "before"),
        ] {
            let pieces = cut(&[of(backing)], &Mapped::new(), &base, &mut Unseen);
            assert_eq!(shape(&pieces), [(0x1000, 0x3000, name, 4196)]);
        }
    }

    proptest! {
        #[test]
        fn pieces_cover_all_and_hold_all(
            areas in prop::collection::vec((1..50_u64, 0..30_u64, 0..=100_u64), 1..10),
            maps in prop::collection::vec((0..300_u64, 1..40_u64), 0..10),
            stood in prop::collection::vec((1..50_u64, 1..30_u64), 0..10),
            below in 0..300_u64,
        ) {
            let mut at = 0;
            let areas: Vec<Area> = areas.into_iter().map(|(length, gap, share)| {
                let start = at + gap * 4096;
                at = start + length * 4096;
                area(start, at, length * 4096 * share / 100)
            }).collect();
            let mut at = 0;
            let stretches: Vec<(u64, u64)> = stood.into_iter().map(|(length, gap)| {
                let start = at + gap * 4096;
                at = start + length * 4096;
                (start, at)
            }).collect();
            let base = was(&stretches);
            let mut mapped = Mapped::new();
            for (start, length) in maps {
                mapped.apply(&map(start * 4096, length * 4096, start, 0));
            }
            for pieces in [
                cut(&areas, &mapped, &base, &mut Below(below * 4096)),
                cut(&areas, &mapped, &base, &mut Unseen),
            ] {
                let mut rest = pieces.iter();
                for area in &areas {
                    let (mut at, mut held) = (area.start, 0);
                    while at < area.end {
                        let piece = rest.next().expect("a piece");
                        prop_assert_eq!(piece.start, at);
                        prop_assert!(piece.end > at);
                        at = piece.end;
                        held += piece.held_bytes;
                    }
                    prop_assert_eq!(at, area.end);
                    prop_assert_eq!(held, area.held_bytes());
                }
                prop_assert!(rest.next().is_none());
            }
        }

        #[test]
        fn parts_add_up(total in 0..1_u64 << 57, mut weights in prop::collection::vec(0..1_u64 << 57, 1..20)) {
            let some = weights.iter().any(|&weight| weight > 0);
            distribute(total, &mut weights);
            let sum: u128 = weights.iter().map(|&part| u128::from(part)).sum();
            prop_assert_eq!(sum, if some { u128::from(total) } else { 0 });
        }
    }
}
