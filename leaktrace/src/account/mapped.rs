//! What a process has mapped since the attach, by the system calls that the kernel side has told of: which addresses, by
//! which call, from which stack.
//!
//! Pure. Must not know how much of it is there, nor what else is mapped.

use std::collections::{BTreeMap, HashMap};

use leaktrace_common::mapping::{MapEvent, flag, kind};

use super::smaps::Area;

/// Stretches that are kept of a process.
pub const INTERVALS_MAX: usize = 1 << 16;

/// The system call that memory is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Call {
    /// `mmap`.
    Map,
    /// `mremap`: what has grown or moved and was mapped before anything was known.
    Remap,
    /// `brk`.
    Break,
}

impl Call {
    /// The call's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Map => "mmap",
            Self::Remap => "mremap",
            Self::Break => "brk",
        }
    }
}

/// Where memory comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// By which call.
    pub call: Call,
    /// From which stack; 0 where it was not taken.
    pub stack_id: u64,
    /// When, nanoseconds of `CLOCK_BOOTTIME`.
    pub time_ns: u64,
    /// Bytes that the call asked for.
    pub length_bytes: u64,
    /// Whether an allocator was under way in the thread.
    pub by_allocator: bool,
    /// Whether it is for a stack.
    pub stack: bool,
    /// Whether it is what was mapped before the attach and has moved since.
    pub before: bool,
}

impl Origin {
    const fn new(event: &MapEvent, call: Call) -> Self {
        Self {
            call,
            stack_id: event.stack_id,
            time_ns: event.time_ns,
            length_bytes: event.length_bytes,
            by_allocator: event.flags & flag::BY_ALLOCATOR != 0,
            stack: event.flags & flag::STACK != 0,
            before: false,
        }
    }

    /// Whether the two are told apart by time and length only.
    fn is_like(&self, other: &Self) -> bool {
        let same = Self {
            time_ns: other.time_ns,
            length_bytes: other.length_bytes,
            ..*self
        };
        same == *other
    }
}

/// A stretch of one origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Interval {
    end: u64,
    origin: Origin,
}

/// What a process has mapped since the attach.
#[derive(Clone, Debug, Default)]
pub struct Mapped {
    /// By first address; they do not overlap.
    intervals: BTreeMap<u64, Interval>,
    /// Mappings that were not kept for want of room.
    dropped: u64,
    /// So many more are not kept before neighbours are made one again.
    patience: usize,
    /// How many mappings were made by each call from each stack, those that are gone included.
    made: HashMap<(Call, u64), u64>,
}

impl Mapped {
    /// Nothing mapped yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stretches that are kept.
    pub fn len(&self) -> usize {
        self.intervals.len()
    }

    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.intervals.is_empty()
    }

    /// Mappings that were not kept for want of room: it is not known who made them.
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// How many mappings this call has made from this stack, those that are gone included.
    pub fn made(&self, call: Call, stack_id: u64) -> u64 {
        self.made.get(&(call, stack_id)).copied().unwrap_or(0)
    }

    fn count(&mut self, call: Call, stack_id: u64) {
        if self.made.len() < INTERVALS_MAX || self.made.contains_key(&(call, stack_id)) {
            *self.made.entry((call, stack_id)).or_default() += 1;
        }
    }

    /// Follows a system call.
    pub fn apply(&mut self, event: &MapEvent) {
        let end = event.start.saturating_add(event.length_bytes);
        match event.kind {
            kind::MAP => {
                self.count(Call::Map, event.stack_id);
                self.cut(event.start, end);
                self.insert(event.start, end, Origin::new(event, Call::Map));
            }
            kind::UNMAP => drop(self.take(event.start, end, event.began_ns)),
            kind::REMAP => self.remap(event),
            // Where the break was is not known of the first call only: that asks for it and moves nothing.
            kind::BREAK if event.old_start != 0 => {
                self.cut(event.start.min(event.old_start), event.start.max(event.old_start));
                if event.start > event.old_start {
                    self.count(Call::Break, event.stack_id);
                    let origin = Origin {
                        length_bytes: event.start - event.old_start,
                        ..Origin::new(event, Call::Break)
                    };
                    self.insert(event.old_start, event.start, origin);
                }
            }
            _ => {}
        }
    }

    /// What was mapped elsewhere or is of another length now. It stays the work of who mapped it, also what it grows by.
    fn remap(&mut self, event: &MapEvent) {
        let (start, end) = (event.start, event.start.saturating_add(event.length_bytes));
        let old_end = event.old_start.saturating_add(event.old_length_bytes);
        let moves = start != event.old_start;
        let old: Vec<(u64, Interval)> = if event.flags & flag::KEEPS_OLD == 0 {
            self.take(event.old_start, old_end, event.began_ns)
        } else {
            self.pieces(event.old_start, old_end)
                .filter_map(|(start, end, origin)| {
                    Some((
                        start,
                        Interval {
                            end,
                            origin: *origin?,
                        },
                    ))
                })
                .collect()
        };
        self.cut(start, end);
        let remapped = Origin::new(event, Call::Remap);
        let before = Origin {
            before: true,
            ..remapped
        };
        let kept_end = start.saturating_add(event.length_bytes.min(event.old_length_bytes));
        // Addresses where it is now.
        let mut at = start;
        let mut last = remapped;
        for (piece, Interval { end, origin }) in old {
            let shifted = |address: u64| start.saturating_add(address - event.old_start).min(kept_end);
            if moves {
                self.insert(at, shifted(piece), before);
            }
            self.insert(shifted(piece), shifted(end), origin);
            at = shifted(end);
            // Only what is next to the new end says whose it is.
            last = if shifted(end) == kept_end {
                origin
            } else {
                remapped
            };
        }
        if moves {
            self.insert(at, kept_end, before);
        }
        self.insert(kept_end, end, last);
    }

    /// After some calls were not told of: what is not mapped any more is forgotten. `areas` are all there are, in order.
    pub fn resync(&mut self, areas: &[Area]) {
        let mut gap = 0;
        for area in areas {
            self.cut(gap, area.start);
            gap = area.end;
        }
        self.cut(gap, u64::MAX);
    }

    /// `start..end` in pieces of one origin, in order; none where it is not known.
    pub fn pieces(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, u64, Option<&Origin>)> {
        let first = self.intervals.range(..start).next_back();
        let first = first.filter(|(_, interval)| interval.end > start);
        let mut inside = first
            .into_iter()
            .chain(self.intervals.range(start..end.max(start)));
        let mut inside_next = inside.next();
        let mut at = start;
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let from = at;
            let Some((&known, interval)) = inside_next else {
                at = end;
                return Some((from, end, None));
            };
            if known > from {
                at = known;
                return Some((from, known, None));
            }
            at = interval.end.min(end);
            inside_next = inside.next();
            Some((from, at, Some(&interval.origin)))
        })
    }

    /// Takes out what was mapped in `start..end` before `began_ns`: what one thread gives back another may have been given
    /// before the first has told of it.
    fn take(&mut self, start: u64, end: u64, began_ns: u64) -> Vec<(u64, Interval)> {
        let is_older = |(_, interval): &(u64, Interval)| interval.origin.time_ns <= began_ns;
        let (older, younger) = self.cut(start, end).into_iter().partition(is_older);
        self.intervals.extend::<Vec<(u64, Interval)>>(younger);
        older
    }

    /// Takes out what lies in `start..end`, splitting what reaches beyond it.
    fn cut(&mut self, start: u64, end: u64) -> Vec<(u64, Interval)> {
        let mut taken = Vec::new();
        if start >= end {
            return taken;
        }
        if let Some((&key, &interval)) = self.intervals.range(..start).next_back()
            && interval.end > start
        {
            self.intervals.insert(
                key,
                Interval {
                    end: start,
                    ..interval
                },
            );
            self.intervals.insert(start, interval);
        }
        while let Some((&key, &interval)) = self.intervals.range(start..end).next() {
            self.intervals.remove(&key);
            if interval.end > end {
                self.intervals.insert(end, interval);
            }
            let end = interval.end.min(end);
            taken.push((key, Interval { end, ..interval }));
        }
        taken
    }

    /// Adds a stretch where nothing is.
    fn insert(&mut self, start: u64, end: u64, origin: Origin) {
        if start >= end {
            return;
        }
        // A mapping that is one with its neighbour costs nothing: an arena that grows bit by bit.
        if let Some((_, before)) = self.intervals.range_mut(..start).next_back()
            && before.end == start
            && before.origin == origin
        {
            before.end = end;
            return;
        }
        if self.intervals.len() >= INTERVALS_MAX && !self.make_room() {
            self.dropped += 1;
            return;
        }
        self.intervals.insert(start, Interval { end, origin });
    }

    /// Makes neighbours one that only differ in when they were mapped. Whether there is room now.
    fn make_room(&mut self) -> bool {
        if self.patience > 0 {
            self.patience -= 1;
            return false;
        }
        let before = self.intervals.len();
        let mut merged: BTreeMap<u64, Interval> = BTreeMap::new();
        for (start, interval) in std::mem::take(&mut self.intervals) {
            match merged.last_entry() {
                Some(mut last) if last.get().end == start && last.get().origin.is_like(&interval.origin) => {
                    last.get_mut().end = interval.end;
                }
                _ => {
                    merged.insert(start, interval);
                }
            }
        }
        self.intervals = merged;
        // All are looked at: where that is of little use, not for each call.
        if before - self.intervals.len() < INTERVALS_MAX / 16 {
            self.patience = INTERVALS_MAX / 16;
        }
        self.intervals.len() < INTERVALS_MAX
    }
}

#[cfg(test)]
#[path = "mapped_tests.rs"]
mod tests;
