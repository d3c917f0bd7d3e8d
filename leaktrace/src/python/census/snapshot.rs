//! Memory of the target as one census sees it: read in large stretches, each once, so that a million objects cost some
//! hundred system calls. What was read at different times need not fit together: whoever finds that it does not asks
//! for the page again.
//!
//! Must not know what lies in the memory.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::python::memory::{Memory, Piece};

/// Memory is mapped, or is not, in pages of this size, in bytes.
const PAGE_BYTES: usize = 4096;

/// What is read at once, in bytes.
const STRETCH_BYTES: usize = 64 << 10;

/// Pages of a stretch.
const STRETCH_PAGES: usize = STRETCH_BYTES / PAGE_BYTES;

/// Pages that are kept, the latest at each place, once the stretches are as many as they may be: 4 MiB.
const LATEST_PAGES: usize = 1024;

/// First address that no process has (47 bits).
const ADDRESS_END: u64 = 1 << 47;

/// For keys that are addresses or parts of them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AddressHasher(u64);

/// What maps by address use.
pub(super) type ByAddress = BuildHasherDefault<AddressHasher>;

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        // Odd, with its bits spread evenly: 2^64 divided by the golden ratio.
        self.0 = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// Some memory that was read.
struct Stretch {
    bytes: Box<[u8]>,
    /// Which of its pages could be read.
    pages: u16,
}

/// Where the last page was found: objects lie together.
#[derive(Clone, Copy)]
enum Place {
    Stretch(usize),
    Latest(usize),
}

/// What has been read in this census.
pub(super) struct Snapshot<'a> {
    memory: &'a dyn Memory,
    stretches: Vec<Stretch>,
    stretches_max: usize,
    by_number: HashMap<u64, usize, ByAddress>,
    latest: Vec<(u64, Box<[u8]>)>,
    last: Option<(u64, Place)>,
    reads: u64,
}

/// No page has this number.
const NO_PAGE: u64 = u64::MAX;

impl<'a> Snapshot<'a> {
    /// Nothing has been read; at most so much is kept, and 4 MiB.
    pub(super) fn new(memory: &'a dyn Memory, memory_bytes: usize) -> Self {
        Self {
            memory,
            stretches: Vec::new(),
            stretches_max: memory_bytes / STRETCH_BYTES,
            by_number: HashMap::default(),
            latest: Vec::new(),
            last: None,
            reads: 0,
        }
    }

    /// Everything is read again.
    pub(super) fn forget(&mut self) {
        self.stretches.clear();
        self.by_number.clear();
        self.latest.clear();
        self.last = None;
    }

    /// Times that the target's memory was read, each of them one system call.
    pub(super) const fn reads(&self) -> u64 {
        self.reads
    }

    /// What the census reads past this snapshot.
    pub(super) fn read_many(&mut self, pieces: &mut [Piece<'_>]) {
        self.reads += 1;
        self.memory.read_many(pieces);
    }

    /// The words at an address; `None` if it is none, is not that of a word, or nothing is there.
    pub(super) fn words<const N: usize>(&mut self, address: u64) -> Option<[u64; N]> {
        if !plausible(address, N as u64 * 8) {
            return None;
        }
        let mut words = [0; N];
        let offset = (address % PAGE_BYTES as u64) as usize;
        if offset + N * 8 <= PAGE_BYTES {
            let page = self.page(address / PAGE_BYTES as u64)?;
            for (word, bytes) in words.iter_mut().zip(page[offset..].as_chunks::<8>().0) {
                *word = u64::from_le_bytes(*bytes);
            }
        } else {
            for (word, at) in words.iter_mut().zip((address..).step_by(8)) {
                [*word] = self.words(at)?;
            }
        }
        Some(words)
    }

    /// The word at an address.
    pub(super) fn word(&mut self, address: u64) -> Option<u64> {
        self.words(address).map(|[word]| word)
    }

    /// As [`Self::words`], as it is now.
    pub(super) fn fresh<const N: usize>(&mut self, address: u64) -> Option<[u64; N]> {
        if !plausible(address, N as u64 * 8) {
            return None;
        }
        let first = address / PAGE_BYTES as u64;
        let last = (address + N as u64 * 8 - 1) / PAGE_BYTES as u64;
        for number in first..=last {
            self.refresh(number);
        }
        self.words(address)
    }

    /// Bytes up to the first 0, at most `max_bytes` of them; `None` if they cannot be read or go on.
    pub(super) fn c_string(&mut self, address: u64, max_bytes: usize) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        let mut at = address;
        while text.len() < max_bytes {
            if at >= ADDRESS_END {
                return None;
            }
            let offset = (at % PAGE_BYTES as u64) as usize;
            let rest = &self.page(at / PAGE_BYTES as u64)?[offset..];
            let rest = &rest[..rest.len().min(max_bytes - text.len())];
            if let Some(end) = memchr::memchr(0, rest) {
                text.extend_from_slice(&rest[..end]);
                return Some(text);
            }
            text.extend_from_slice(rest);
            at += rest.len() as u64;
        }
        None
    }

    /// Bytes at an address.
    pub(super) fn bytes(&mut self, address: u64, len_bytes: usize) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(len_bytes);
        while bytes.len() < len_bytes {
            let at = address.checked_add(bytes.len() as u64)?;
            if at >= ADDRESS_END {
                return None;
            }
            let offset = (at % PAGE_BYTES as u64) as usize;
            let rest = &self.page(at / PAGE_BYTES as u64)?[offset..];
            bytes.extend_from_slice(&rest[..rest.len().min(len_bytes - bytes.len())]);
        }
        Some(bytes)
    }

    fn page(&mut self, number: u64) -> Option<&[u8]> {
        let place = match self.last {
            Some((last, place)) if last == number => place,
            _ => {
                let place = self.find(number)?;
                self.last = Some((number, place));
                place
            }
        };
        let in_stretch = number as usize % STRETCH_PAGES * PAGE_BYTES;
        Some(match place {
            Place::Stretch(index) => &self.stretches[index].bytes[in_stretch..][..PAGE_BYTES],
            Place::Latest(index) => &self.latest[index].1,
        })
    }

    fn find(&mut self, number: u64) -> Option<Place> {
        let stretch = number / STRETCH_PAGES as u64;
        let index = match self.by_number.get(&stretch) {
            Some(index) => *index,
            None if self.stretches.len() < self.stretches_max => self.add_stretch(stretch),
            None => return self.add_latest(number),
        };
        let is_there = self.stretches[index].pages >> (number % STRETCH_PAGES as u64) & 1 == 1;
        is_there.then_some(Place::Stretch(index))
    }

    fn add_stretch(&mut self, number: u64) -> usize {
        let mut bytes = vec![0; STRETCH_BYTES].into_boxed_slice();
        let address = number * STRETCH_BYTES as u64;
        self.reads += 1;
        let mut pages = 0;
        if self.memory.read(address, &mut bytes).is_ok() {
            pages = u16::MAX;
        } else {
            self.reads += 1;
            let mut pieces: Vec<Piece<'_>> = bytes
                .chunks_mut(PAGE_BYTES)
                .zip((address..).step_by(PAGE_BYTES))
                .map(|(into, address)| Piece::new(address, into))
                .collect();
            self.memory.read_many(&mut pieces);
            for (index, piece) in pieces.iter().enumerate() {
                pages |= u16::from(piece.done) << index;
            }
        }
        let index = self.stretches.len();
        self.stretches.push(Stretch { bytes, pages });
        self.by_number.insert(number, index);
        index
    }

    /// A page on its own, in place of another.
    fn add_latest(&mut self, number: u64) -> Option<Place> {
        if self.latest.is_empty() {
            self.latest = (0..LATEST_PAGES)
                .map(|_| (NO_PAGE, vec![0; PAGE_BYTES].into_boxed_slice()))
                .collect();
        }
        let index = number as usize % LATEST_PAGES;
        let slot = &mut self.latest[index];
        if slot.0 != number {
            self.reads += 1;
            // What was found there before is overwritten, even if this fails.
            self.last = None;
            slot.0 = NO_PAGE;
            self.memory.read(number * PAGE_BYTES as u64, &mut slot.1).ok()?;
            slot.0 = number;
        }
        Some(Place::Latest(index))
    }

    /// Reads a page again.
    fn refresh(&mut self, number: u64) {
        self.last = None;
        let Some(index) = self.by_number.get(&(number / STRETCH_PAGES as u64)) else {
            if let Some(slot) = self.latest.get_mut(number as usize % LATEST_PAGES)
                && slot.0 == number
            {
                slot.0 = NO_PAGE;
            }
            return;
        };
        let in_stretch = number as usize % STRETCH_PAGES;
        let stretch = &mut self.stretches[*index];
        let into = &mut stretch.bytes[in_stretch * PAGE_BYTES..][..PAGE_BYTES];
        self.reads += 1;
        if self.memory.read(number * PAGE_BYTES as u64, into).is_ok() {
            stretch.pages |= 1 << in_stretch;
        } else {
            stretch.pages &= !(1 << in_stretch);
        }
    }
}

/// Whether words can be there.
const fn plausible(address: u64, len_bytes: u64) -> bool {
    address >= PAGE_BYTES as u64 && address.is_multiple_of(8) && address < ADDRESS_END - len_bytes
}
