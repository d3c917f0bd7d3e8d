//! From pieces of an address space and the blocks that lie in them to what the memory of a process is of.
//!
//! A piece is an allocator's if its name says so, if an allocator has mapped it, or if a live block lies in it: once
//! known it stays so. Pure, but for the pages that it asks for. Must not know names, nor what is shown.

use std::collections::HashMap;

use leaktrace_common::key::SiteKey;

use super::{
    base::{Base, Levels},
    evidence::{Blocks, Large},
    mapped::Call,
    pages::Pages,
    pieces::{Piece, What, distribute},
};

/// What memory of the process's own mapping is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MappedBytes {
    /// Bytes that are there, resident or in swap.
    pub held_bytes: u64,
    /// Bytes of addresses.
    pub length_bytes: u64,
    /// In how many stretches.
    pub stretches: u64,
    /// Of those, where something is.
    pub touched: u64,
    /// How many mappings were made in all, those that are gone included.
    pub made: u64,
}

impl MappedBytes {
    const fn add(&mut self, piece: &Piece) {
        self.held_bytes += piece.held_bytes;
        self.length_bytes += piece.length_bytes();
        self.stretches += 1;
        self.touched += (piece.held_bytes > 0) as u64;
    }
}

/// What there is of a mapping that a process has made by itself, or a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// By which call.
    pub call: Call,
    /// From which stack.
    pub stack_id: u64,
    /// Its first address.
    pub start: u64,
    /// Bytes of it that are there, resident or in swap.
    pub held_bytes: u64,
    /// When it was mapped, nanoseconds of `CLOCK_BOOTTIME`.
    pub time_ns: u64,
}

/// Who has mapped something: the call and its stack; none where it is not known.
pub type Mapper = Option<(Call, u64)>;

/// What the memory of a process is of.
#[derive(Clone, Debug, Default)]
pub struct Split {
    /// By kind; their sum is all that is there.
    pub levels: Levels,
    /// Of the heap, what outstanding blocks of each site have of it, with what the allocator adds to each.
    pub sites: HashMap<SiteKey, u64>,
    /// What the process has mapped by itself since the attach.
    pub mappings: HashMap<Mapper, MappedBytes>,
    /// Stacks of threads that were started since the attach, by who has mapped them.
    pub stacks: HashMap<Mapper, MappedBytes>,
    /// Of both, that of which it is known who has mapped it and where something is, one by one.
    pub stretches: Vec<Stretch>,
}

impl Split {
    /// What is outstanding in all, bytes. More than the heap only where that was read earlier.
    pub fn outstanding_bytes(&self) -> u64 {
        self.sites.values().sum()
    }
}

/// Addresses that are known to be an allocator's, in order.
#[derive(Clone, Debug, Default)]
pub struct Known(Vec<(u64, u64)>);

impl Known {
    fn overlaps(&self, start: u64, end: u64) -> bool {
        let first = self.0.partition_point(|known| known.1 <= start);
        self.0.get(first).is_some_and(|known| known.0 < end)
    }

    /// Forgets what is mapped anew or not at all any more.
    pub fn forget(&mut self, start: u64, end: u64) {
        if !self.overlaps(start, end) {
            return;
        }
        let known = std::mem::take(&mut self.0).into_iter();
        let rest = known.flat_map(|(from, to)| [(from, to.min(start)), (from.max(end), to)]);
        self.0 = rest.filter(|(from, to)| from < to).collect();
    }
}

/// What is known of a process beside its pieces.
#[derive(Debug)]
pub struct Sources<'a, P> {
    /// Its outstanding blocks, by the same pieces.
    pub blocks: &'a Blocks,
    /// What was there at the attach.
    pub base: &'a mut Base,
    /// What is an allocator's, as of the last split.
    pub known: &'a mut Known,
    /// Its pages.
    pub pages: &'a mut P,
}

/// Kinds that a piece is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Heap,
    Mappings(Mapper),
    Stacks,
    Before,
    Files,
}

/// Says what the pieces are of. `leads_through_allocator` says it of a stack that something was mapped from.
pub fn split<P: Pages>(
    pieces: &[Piece],
    from: Sources<'_, P>,
    leads_through_allocator: impl Fn(u64) -> bool,
) -> Split {
    let Sources {
        blocks,
        base,
        known,
        pages,
    } = from;
    for (index, piece) in pieces.iter().enumerate() {
        if let What::Before(stood) = piece.what
            && blocks.has_block(index)
        {
            base.mark(stood);
        }
    }
    let mut split = Split::default();
    let mut heap: Vec<bool> = Vec::with_capacity(pieces.len());
    for (index, piece) in pieces.iter().enumerate() {
        let has_block = blocks.has_block(index);
        let is_allocators = || has_block || known.overlaps(piece.start, piece.end);
        let kind = match piece.what {
            What::File => Kind::Files,
            What::Stack => Kind::Stacks,
            What::Heap => Kind::Heap,
            What::Mapped(origin) if origin.stack => Kind::Stacks,
            What::Mapped(origin) if origin.by_allocator || is_allocators() => Kind::Heap,
            What::Mapped(origin) if origin.stack_id != 0 && leads_through_allocator(origin.stack_id) => {
                Kind::Heap
            }
            What::Mapped(origin) if origin.before => Kind::Before,
            What::Mapped(origin) => Kind::Mappings(Some((origin.call, origin.stack_id))),
            What::New if is_allocators() => Kind::Heap,
            What::New => Kind::Mappings(None),
            What::Before(stood) if base.is_allocators(stood) => Kind::Heap,
            What::Before(_) => Kind::Before,
        };
        heap.push(kind == Kind::Heap);
        split.add(kind, piece);
        if let (Kind::Mappings(_) | Kind::Stacks, What::Mapped(origin)) = (kind, piece.what) {
            let mapper = Some((origin.call, origin.stack_id));
            if kind == Kind::Stacks {
                split.stacks.entry(mapper).or_default().add(piece);
            }
            // Nothing of a guard page is there, nor of what is only reserved.
            split.stretches.extend((piece.held_bytes > 0).then_some(Stretch {
                call: origin.call,
                stack_id: origin.stack_id,
                start: piece.start,
                held_bytes: piece.held_bytes,
                time_ns: origin.time_ns,
            }));
        }
    }
    let of_heap = pieces.iter().zip(&heap).filter(|(_, is_heap)| **is_heap);
    known.0 = of_heap.map(|(piece, _)| (piece.start, piece.end)).collect();
    split.sites = outstanding(pieces, blocks, pages);
    split
}

impl Split {
    fn add(&mut self, kind: Kind, piece: &Piece) {
        let levels = &mut self.levels;
        let level = match kind {
            Kind::Heap => &mut levels.heap_bytes,
            Kind::Mappings(mapper) => {
                self.mappings.entry(mapper).or_default().add(piece);
                &mut levels.mappings_bytes
            }
            Kind::Stacks => &mut levels.stacks_bytes,
            Kind::Before => &mut levels.before_bytes,
            Kind::Files => &mut levels.files_bytes,
        };
        *level += piece.held_bytes;
    }
}

/// What the blocks of each site have of the memory that is there.
fn outstanding(pieces: &[Piece], blocks: &Blocks, pages: &mut impl Pages) -> HashMap<SiteKey, u64> {
    let mut sites: HashMap<SiteKey, u64> = HashMap::new();
    let mut of_large: HashMap<usize, Vec<(SiteKey, u64)>> = HashMap::new();
    for block in blocks.large() {
        let held = pieces
            .get(block.piece)
            .map_or(0, |piece| held(&block, piece, pages));
        of_large.entry(block.piece).or_default().push((block.site, held));
    }
    let (mut room_bytes, mut small_bytes, mut fitting_bytes) = (0_u64, 0_u64, 0_u64);
    for (index, piece) in pieces.iter().enumerate() {
        let large = of_large.get_mut(&index).map_or(&mut [][..], Vec::as_mut_slice);
        let mut parts: Vec<u64> = large.iter().map(|(_, bytes)| *bytes).collect();
        let sum: u64 = parts.iter().sum();
        // A block has no more than there is; samples stand for blocks elsewhere.
        if sum > piece.held_bytes && !blocks.is_sampled() {
            distribute(piece.held_bytes, &mut parts);
        }
        for ((site, _), bytes) in large.iter().zip(&parts) {
            *sites.entry(*site).or_default() += bytes;
        }
        let room = piece.held_bytes.saturating_sub(parts.iter().sum());
        let small = blocks.small_bytes(index);
        small_bytes = small_bytes.saturating_add(small);
        fitting_bytes += small.min(room);
        room_bytes += if blocks.has_block(index) { room } else { 0 };
    }
    if blocks.is_sampled() {
        fitting_bytes = small_bytes.min(room_bytes);
    }
    // What small blocks have of pages that were never touched is not known of each: all have the same part.
    let (mut keys, mut parts): (Vec<SiteKey>, Vec<u64>) = blocks.small().unzip();
    if fitting_bytes < small_bytes {
        distribute(fitting_bytes, &mut parts);
    }
    for (site, bytes) in keys.drain(..).zip(parts) {
        *sites.entry(site).or_default() += bytes;
    }
    sites
}

/// What is there of all that a large block stands for.
fn held(block: &Large, piece: &Piece, pages: &mut impl Pages) -> u64 {
    let scaled = |bytes: u64, of: u64| {
        let all = u128::from(block.stands_for_bytes) * u128::from(bytes);
        (all / u128::from(of.max(1))) as u64
    };
    if piece.held_bytes == 0 || piece.held_bytes >= piece.length_bytes() {
        return scaled(piece.held_bytes, piece.length_bytes());
    }
    let end = block.address.saturating_add(block.size_bytes);
    match pages.held_bytes(block.address, end) {
        Some(bytes) => scaled(bytes.min(block.size_bytes), block.size_bytes),
        None => scaled(piece.held_bytes, piece.length_bytes()),
    }
}

#[cfg(test)]
#[path = "split_tests.rs"]
mod tests;
