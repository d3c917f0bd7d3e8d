//! One process: what it was at first, what it has mapped since, how it was when last looked at.
//!
//! Must not know when to look, nor what a report is.

use std::io;

use leaktrace_common::{
    key::Process as Key,
    mapping::{MapEvent, flag, kind},
};

use super::{
    base::Base,
    change::{Figures, First, Now},
    evidence::{Blocks, Rounding},
    mapped::{Call, Mapped},
    pages::Pagemap,
    pieces::{Piece, cut},
    smaps::{self, Area},
    split::{Known, MappedBytes, Sources, Split, Stretch, split},
};

/// Ranges that are remembered until the next look.
const RANGES_MAX: usize = 4096;

/// A process image whose memory is followed.
#[derive(Debug)]
pub(super) struct Process {
    key: Key,
    first: First,
    /// System calls up to then are in `base`.
    from_ns: u64,
    base: Base,
    mapped: Mapped,
    known: Known,
    /// What an allocator has given back since the last look.
    given_back: Vec<(u64, u64)>,
    /// Whether system calls were missed since the last look.
    has_missed: bool,
    look: Option<Look>,
    last: Option<Settled>,
}

/// A look whose blocks have not been counted yet.
#[derive(Debug)]
struct Look {
    time_ns: u64,
    figures: Figures,
    pieces: Vec<Piece>,
    pages: Pagemap,
}

/// A look and what came of it.
#[derive(Debug)]
struct Settled {
    time_ns: u64,
    figures: Figures,
    split: Split,
}

impl Process {
    /// A process that runs, at `now_ns`: changes are from here on.
    ///
    /// # Errors
    /// When it has ended or may not be looked at.
    pub(super) fn attach(key: Key, now_ns: u64) -> io::Result<Self> {
        let (figures, areas) = read(key.tgid)?;
        let mut process = Self::started(key, now_ns);
        process.first.figures = figures;
        process.base = Base::new(&areas);
        process.from_ns = now_ns;
        Ok(process)
    }

    /// A process that has just begun to run its program: nothing was there.
    pub(super) fn started(key: Key, now_ns: u64) -> Self {
        Self {
            key,
            first: First {
                time_ns: now_ns,
                ..First::default()
            },
            from_ns: 0,
            base: Base::default(),
            mapped: Mapped::new(),
            known: Known::default(),
            given_back: Vec::new(),
            has_missed: false,
            look: None,
            last: None,
        }
    }

    /// Who it is.
    pub(super) const fn key(&self) -> Key {
        self.key
    }

    /// Whether it has been looked at and its blocks are to be counted.
    pub(super) const fn waits(&self) -> bool {
        self.look.is_some()
    }

    /// When it was last looked at, nanoseconds of `CLOCK_BOOTTIME`.
    pub(super) fn looked_ns(&self) -> u64 {
        let last = self.last.as_ref().map(|last| last.time_ns);
        last.unwrap_or(self.first.time_ns)
    }

    /// Follows a system call of its. What came before it was first looked at was there then.
    pub(super) fn apply(&mut self, event: &MapEvent) {
        if event.time_ns <= self.from_ns {
            return;
        }
        let (range, gone) = match event.kind {
            kind::MAP => ((event.start, event.length_bytes), false),
            kind::UNMAP => ((event.start, event.length_bytes), true),
            kind::REMAP => ((event.old_start, event.old_length_bytes), true),
            _ => ((0, 0), false),
        };
        let end = range.0.saturating_add(range.1);
        // It only gives back what is its own: what stood there at the attach, too.
        if gone && event.flags & flag::BY_ALLOCATOR != 0 && self.given_back.len() < RANGES_MAX {
            self.given_back.push((range.0, end));
        }
        self.known.forget(range.0, end);
        self.mapped.apply(event);
    }

    /// Some system calls were not told of.
    pub(super) const fn miss(&mut self) {
        self.has_missed = true;
    }

    /// Mappings that were not kept for want of room.
    pub(super) const fn dropped(&self) -> u64 {
        self.mapped.dropped()
    }

    /// Looks at it, at `now_ns`. The table of blocks is to be read next, for [`Self::settle`].
    ///
    /// # Errors
    /// When it has ended or may not be looked at: what was known last stays.
    pub(super) fn look(&mut self, now_ns: u64) -> io::Result<()> {
        let (figures, areas) = read(self.key.tgid)?;
        if std::mem::take(&mut self.has_missed) {
            self.mapped.resync(&areas);
        }
        for (start, end) in self.given_back.drain(..) {
            self.base.mark_range(start, end);
        }
        let mut pages = Pagemap::open(self.key.tgid, Pagemap::LIMIT_BYTES)?;
        let pieces = cut(&areas, &self.mapped, &self.base, &mut pages);
        self.look = Some(Look {
            time_ns: now_ns,
            figures,
            pieces,
            pages,
        });
        Ok(())
    }

    /// None yet, by what was last looked at.
    pub(super) fn blocks(&self, rounding: Rounding) -> Blocks {
        let pieces = self.look.as_ref().map(|look| look.pieces.as_slice());
        Blocks::new(pieces.unwrap_or_default(), rounding)
    }

    /// Takes the blocks that belong to the last look. Of a process that has ended meanwhile the look before is the last.
    pub(super) fn settle(&mut self, blocks: &Blocks, leads_through_allocator: impl Fn(u64) -> bool) {
        let Some(mut look) = self.look.take() else { return };
        let sources = Sources {
            blocks,
            base: &mut self.base,
            known: &mut self.known,
            pages: &mut look.pages,
        };
        let mut split = split(&look.pieces, sources, leads_through_allocator);
        for (mapper, bytes) in split.mappings.iter_mut().chain(&mut split.stacks) {
            bytes.made = mapper.map_or(0, |(call, stack_id)| self.mapped.made(call, stack_id));
        }
        if look.pages.has_failed() {
            return;
        }
        let unseen = look.pages.unseen_bytes();
        if unseen > 0 {
            tracing::debug!("{}: pages of {unseen} bytes were not looked at", self.key.tgid);
        }
        self.last = Some(Settled {
            time_ns: look.time_ns,
            figures: look.figures,
            split,
        });
    }

    /// What it was at first and was when last looked at.
    pub(super) fn both(&self) -> Option<(First, Now<'_>)> {
        let last = self.last.as_ref()?;
        let first = First {
            levels: self.base.levels(),
            ..self.first
        };
        let now = Now {
            time_ns: last.time_ns,
            figures: last.figures,
            split: &last.split,
        };
        Some((first, now))
    }

    /// What it has mapped by itself and from where, as of the last look; stacks of threads included.
    pub(super) fn mappings(&self) -> impl Iterator<Item = (Call, u64, MappedBytes)> {
        let splits = self.last.iter().map(|last| &last.split);
        let mappings = splits.flat_map(|split| split.mappings.iter().chain(&split.stacks));
        mappings.filter_map(|(mapper, bytes)| mapper.map(|(call, stack_id)| (call, stack_id, *bytes)))
    }

    /// The same one by one.
    pub(super) fn stretches(&self) -> impl Iterator<Item = &Stretch> {
        self.last.iter().flat_map(|last| &last.split.stretches)
    }

    /// It has ended: what is needed for a look only is let go.
    pub(super) fn end(&mut self) {
        self.look = None;
        self.mapped = Mapped::new();
        self.known = Known::default();
    }
}

/// Memory of a process in numbers, and its mappings. Resident memory is that in the middle of the look.
fn read(pid: u32) -> io::Result<(Figures, Vec<Area>)> {
    let before = smaps::resident_bytes(pid)?;
    let areas = smaps::read(pid)?;
    if areas.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "it has ended"));
    }
    let after = smaps::resident_bytes(pid)?;
    Ok((Figures::new(before.midpoint(after), &areas), areas))
}
