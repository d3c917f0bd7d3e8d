//! Small objects that the collector does not know: read out of the pools of CPython's allocator (Objects/obmalloc.c).
//!
//! Pools are found from the objects in the collector's lists, which lie in them, from a look at each arena's length of
//! anonymous memory, and from one pool to the next; nothing of the allocator's own tables is needed, so a stripped build
//! makes no difference. Which blocks of a pool live says its head, and that has to agree with
//! its list of free blocks. A living block is an object if where an object has its type there is one, and its size is
//! what the type says; all else, such as the tables of dictionaries, is counted by its bytes.
//!
//! Must not know lists.

use std::collections::HashSet;
use std::ops::Range;
use std::time::Instant;

use super::layout::{GC_HEAD_BYTES, Layout, flags};
use super::lists::Tools;
use super::snapshot::{ByAddress, Snapshot};
use super::types::{Kind, Types};
use super::{Sums, Why, sizes};
use crate::python::memory::Piece;

/// Bytes of a pool's head (`struct pool_header`).
const HEAD_BYTES: u64 = 48;

/// Sizes of blocks are multiples of this.
const ALIGNMENT: u64 = 16;

/// Size classes.
const CLASSES: u64 = 32;

/// Pools that are read at once.
const BATCH: usize = 64;

/// Looks at each arena's length of memory.
const LOOKS_AN_ARENA: u64 = 4;

/// Looks at one mapping: 256 GiB of it from 3.10.
const LOOKS_MAX: usize = 1 << 20;

/// Counts of references are below this, except those of objects that never die, which are a little below it.
const REFERENCES_END: u64 = 1 << 32;

/// What the pools hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pools {
    /// Pools with living blocks.
    pub pools: u64,
    /// Pools that contradicted themselves, twice: their blocks are not counted.
    pub torn: u64,
    /// Bytes of all pools.
    pub bytes: u64,
    /// Bytes of the living blocks.
    pub live_bytes: u64,
    /// Of those, bytes of blocks that are no objects, or are unused ones that the interpreter keeps.
    pub other_bytes: u64,
}

/// Addresses that lie in pools, as they come by.
#[derive(Debug, Default)]
pub(super) struct Seeds {
    last: u64,
    pools: HashSet<u64, ByAddress>,
}

impl Seeds {
    /// Memory that may have arenas: a pool may be anywhere in it, and an arena that is in use is full of them.
    pub(super) fn add_memory(&mut self, memory: &[Range<u64>], layout: Layout) {
        let step = layout.arena_bytes() / LOOKS_AN_ARENA;
        for range in memory {
            let Some(first) = range.start.checked_next_multiple_of(layout.pool_bytes()) else {
                continue;
            };
            for address in (first..range.end).step_by(step as usize).take(LOOKS_MAX) {
                self.pools.insert(address);
            }
        }
    }

    /// An object is there.
    pub(super) fn add(&mut self, address: u64, layout: Layout) {
        let pool = address & !(layout.pool_bytes() - 1);
        if pool != self.last {
            self.last = pool;
            self.pools.insert(pool);
        }
    }
}

/// A pool's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    living: u64,
    free: u64,
    block_bytes: u64,
    /// Offset of the first block that never lived.
    next: u64,
}

impl Head {
    const fn of(words: [u64; 6], pool_bytes: u64) -> Option<Self> {
        let [living, free, _, _, arena_and_class, offsets] = words;
        let (class, next, last) = (arena_and_class >> 32, offsets & 0xffff_ffff, offsets >> 32);
        let block_bytes = (class + 1) * ALIGNMENT;
        let living = living & 0xffff_ffff;
        let is_head = class < CLASSES
            && last == pool_bytes - block_bytes
            && next > HEAD_BYTES
            && next <= pool_bytes
            && (next - HEAD_BYTES).is_multiple_of(block_bytes)
            && living <= (next - HEAD_BYTES) / block_bytes;
        if !is_head {
            return None;
        }
        Some(Self {
            living,
            free,
            block_bytes,
            next,
        })
    }
}

/// Counts the objects of all pools that can be found.
pub(super) fn count(seeds: Seeds, tools: &mut Tools<'_, '_>, sums: &mut Sums) -> Result<Pools, Why> {
    let layout = tools.layout;
    let pools = find(seeds, tools)?;
    let mut found = Pools::default();
    let pool_bytes = layout.pool_bytes() as usize;
    let mut buffer = vec![0; BATCH * pool_bytes];
    for batch in pools.chunks(BATCH) {
        if Instant::now() >= tools.deadline {
            return Err(Why::Time);
        }
        let done = read(batch, &mut buffer, layout, tools.snapshot);
        for ((pool, bytes), is_read) in batch.iter().zip(buffer.chunks_exact_mut(pool_bytes)).zip(done) {
            // The arena has been given back meanwhile.
            if !is_read {
                continue;
            }
            let living = Living::of(*pool, bytes).or_else(|| {
                read(&[*pool], bytes, layout, tools.snapshot);
                Living::of(*pool, bytes)
            });
            match living {
                Some(living) => living.count(bytes, layout, tools, sums, &mut found),
                None => found.torn += 1,
            }
        }
    }
    Ok(found)
}

/// Reads pools, one after the other in the buffer; says which could be read.
fn read(pools: &[u64], buffer: &mut [u8], layout: Layout, snapshot: &mut Snapshot<'_>) -> Vec<bool> {
    let each = layout.pool_bytes() as usize;
    let mut pieces: Vec<Piece<'_>> = pools
        .iter()
        .zip(buffer.chunks_exact_mut(each))
        .map(|(pool, into)| Piece::new(*pool, into))
        .collect();
    snapshot.read_many(&mut pieces);
    pieces.iter().map(|piece| piece.done).collect()
}

/// Whether heads of pools are at these addresses.
fn are_heads(addresses: &[u64], layout: Layout, snapshot: &mut Snapshot<'_>) -> Vec<bool> {
    let mut heads = vec![[0; HEAD_BYTES as usize]; addresses.len()];
    let mut pieces: Vec<Piece<'_>> = addresses
        .iter()
        .zip(&mut heads)
        .map(|(address, into)| Piece::new(*address, into))
        .collect();
    snapshot.read_many(&mut pieces);
    let done: Vec<bool> = pieces.iter().map(|piece| piece.done).collect();
    heads
        .iter()
        .zip(done)
        .map(|(head, done)| done && Head::of(words(head), layout.pool_bytes()).is_some())
        .collect()
}

fn words(bytes: &[u8]) -> [u64; 6] {
    let mut words = [0; 6];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}

/// All pools within an arena's length of one another.
fn find(seeds: Seeds, tools: &mut Tools<'_, '_>) -> Result<Vec<u64>, Why> {
    let layout = tools.layout;
    let mut known = seeds.pools;
    let mut new: Vec<u64> = known.iter().copied().collect();
    let mut pools = Vec::new();
    let mut reach = Vec::new();
    while !new.is_empty() {
        if Instant::now() >= tools.deadline {
            return Err(Why::Time);
        }
        new.sort_unstable();
        reach.clear();
        for batch in new.chunks(1024) {
            for (pool, is_pool) in batch.iter().zip(are_heads(batch, layout, tools.snapshot)) {
                if is_pool {
                    pools.push(*pool);
                    reach.push(*pool);
                }
            }
        }
        new.clear();
        let far = layout.arena_bytes() / layout.pool_bytes();
        for pool in &reach {
            // Both ways, up to what is known already: from there it has been looked at.
            for step in 1..=far {
                let Some(next) = pool.checked_add(step * layout.pool_bytes()) else {
                    break;
                };
                if !known.insert(next) {
                    break;
                }
                new.push(next);
            }
            for step in 1..=far {
                let Some(next) = pool.checked_sub(step * layout.pool_bytes()) else {
                    break;
                };
                if !known.insert(next) {
                    break;
                }
                new.push(next);
            }
        }
    }
    pools.sort_unstable();
    Ok(pools)
}

/// The blocks of a pool that live.
struct Living {
    pool: u64,
    head: Head,
    /// One bit a block that is free.
    free: [u64; 16],
}

impl Living {
    /// `None` if head and free blocks contradict each other.
    fn of(pool: u64, bytes: &[u8]) -> Option<Self> {
        let head = Head::of(words(bytes), bytes.len() as u64)?;
        let blocks = (head.next - HEAD_BYTES) / head.block_bytes;
        let mut free = [0; 16];
        let mut free_count = 0;
        let mut at = head.free;
        while at != 0 {
            let offset = at.checked_sub(pool)?;
            let in_blocks = offset.checked_sub(HEAD_BYTES)?;
            let block = in_blocks / head.block_bytes;
            if offset >= head.next || !in_blocks.is_multiple_of(head.block_bytes) {
                return None;
            }
            let bit = 1 << (block % 64);
            let word: &mut u64 = free.get_mut(block as usize / 64)?;
            if *word & bit != 0 {
                return None;
            }
            *word |= bit;
            free_count += 1;
            at = word_at(bytes, offset as usize)?;
        }
        (blocks - free_count == head.living).then_some(Self { pool, head, free })
    }

    fn count(
        &self,
        bytes: &[u8],
        layout: Layout,
        tools: &mut Tools<'_, '_>,
        sums: &mut Sums,
        found: &mut Pools,
    ) {
        if self.head.living == 0 {
            return;
        }
        let block_bytes = self.head.block_bytes as usize;
        found.pools += 1;
        found.bytes += layout.pool_bytes();
        found.live_bytes += self.head.living * self.head.block_bytes;
        let blocks = (HEAD_BYTES as usize..self.head.next as usize).step_by(block_bytes);
        for (number, offset) in blocks.enumerate() {
            if self.free[number / 64] >> (number % 64) & 1 == 1 {
                continue;
            }
            let block = Block {
                address: self.pool + offset as u64,
                bytes: &bytes[offset..offset + block_bytes],
            };
            match block.object(layout, tools.types, tools.snapshot) {
                Some(Object::Tracked) => {}
                Some(Object::Other(number, size)) => {
                    let sum = sums.at(number);
                    sum.others += 1;
                    sum.other_bytes += size;
                }
                None => found.other_bytes += self.head.block_bytes,
            }
        }
    }
}

fn word_at(bytes: &[u8], offset: usize) -> Option<u64> {
    let word = bytes.get(offset..)?.first_chunk()?;
    Some(u64::from_le_bytes(*word))
}

/// A block that lives.
#[derive(Clone, Copy)]
struct Block<'a> {
    address: u64,
    bytes: &'a [u8],
}

/// What it is.
enum Object {
    /// In a list, which has counted it.
    Tracked,
    /// In none: its type and its bytes.
    Other(usize, u64),
}

impl Block<'_> {
    /// Where an object may begin: at the block's begin, or behind the heads.
    fn object(&self, layout: Layout, types: &mut Types, snapshot: &mut Snapshot<'_>) -> Option<Object> {
        for heads_bytes in [0, GC_HEAD_BYTES, 2 * GC_HEAD_BYTES] {
            let begin = heads_bytes as usize;
            let (Some(references), Some(of_type)) =
                (word_at(self.bytes, begin), word_at(self.bytes, begin + 8))
            else {
                return None;
            };
            let references = if layout.flags_in_references() {
                references & (REFERENCES_END - 1)
            } else {
                references
            };
            // An unused object that is kept has none.
            if references == 0 || references >= REFERENCES_END {
                continue;
            }
            let Some(number) = types.number(of_type, snapshot) else {
                continue;
            };
            let of_type = &types.list()[number];
            if sizes::heads(of_type, layout) != heads_bytes {
                continue;
            }
            let address = self.address + heads_bytes;
            let own = sizes::own_in(&self.bytes[begin..], of_type, layout)?;
            let room = self.bytes.len() as u64 - heads_bytes;
            // A string may be shorter than its block, and an instance have its attributes behind it.
            let may_be_shorter =
                matches!(of_type.kind, Kind::Str) || of_type.flags & (flags::HEAP_TYPE | flags::HAVE_GC) != 0;
            if own > room || !may_be_shorter && room - own >= ALIGNMENT {
                continue;
            }
            if heads_bytes > 0 && word_at(self.bytes, begin - 16) != Some(0) {
                return Some(Object::Tracked);
            }
            return Some(Object::Other(
                number,
                sizes::of(address, of_type, layout, snapshot),
            ));
        }
        None
    }
}
