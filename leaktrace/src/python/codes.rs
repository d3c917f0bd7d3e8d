//! The code objects of the traced processes that have been seen in stacks, read while they live and kept.
//!
//! The kernel side keeps a code object by its address and its guard, and sends a record for each part of a stack that
//! is new; a thread reads at once what is not known of it. What that can promise:
//!
//! * A code object with another guard is another one: exact. From 3.12 on the guard covers `co_version`, which is
//!   counted up, so two objects never share a guard and an address.
//! * Up to 3.11 it covers what is likely to differ: lines, flags, sizes, addresses of parts. A program that compiles and
//!   drops code of the same shape again and again can get the same of all. Therefore a known object that stands in a new
//!   part is read again, unless that was done a moment ago ([`VERIFIED_FOR`]). If it reads otherwise now, that is a new
//!   generation of the entry: parts that were new before keep the older one ([`Codes::get_in_part`]), parts from then on
//!   have the younger. Within that moment a part may get the older.
//! * A part that is not new gives no record. Where all of a stack is the same, positions included, the kernel side
//!   counts both objects at one site, under the name of the first: nothing here can tell them apart.
//! * An object that was freed, or replaced, between the allocation and the read is [`Resolved::Gone`], for good: another
//!   that is read later with its address and guard is not taken for it. Freed memory is told by what free leaves there
//!   (see [`super::code`]), not with certainty in builds without the global lock.
//! * An object that was read stays known after it is freed: the stacks that it stood in are still shown.
//!
//! Must not know native frames, sites or reports, nor where the records come from.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use leaktrace_common::python::PythonFrame;

use super::{
    code::{self, Code, CodeError, CodeId, Interpreted},
    memory::{Memory, Process},
};

/// How long a code object that was read is taken to be the same.
pub const VERIFIED_FOR: Duration = Duration::from_millis(250);

/// Most code objects that are kept of a process.
const CODES_MAX: usize = 1 << 16;

/// Most bytes that they may take.
const CODES_BYTES_MAX: usize = 128 << 20;

/// Most generations of an entry: code that is compiled anew all the time keeps the first and the last ones.
const GENERATIONS_MAX: usize = 16;

/// Most parts of which it is kept when they were new.
const PARTS_MAX: usize = 1 << 20;

/// What a code object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// Read.
    Code(Arc<Code>),
    /// It was freed or replaced before it was read.
    Gone,
}

/// What has been done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Code objects that were read.
    pub read: u64,
    /// Code objects that were gone.
    pub gone: u64,
    /// Code objects that another one with the same guard has replaced at its address.
    pub replaced: u64,
    /// Parts that could not be looked up, or whose process has no interpreter that is known.
    pub parts_lost: u64,
}

/// The code objects. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Codes(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    processes: HashMap<(u32, u16), Known>,
    counts: Counts,
}

/// Of a process image.
#[derive(Debug)]
struct Known {
    interpreted: Interpreted,
    codes: HashMap<CodeId, Entry>,
    len_bytes: usize,
    /// When each part was new, by `clock`.
    parts: HashMap<u64, u64>,
    /// Counts what is resolved.
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    /// From when on it is what, by [`Known::clock`]; the oldest first, and never empty.
    generations: Vec<(u64, Resolved)>,
    verified: Instant,
    /// When it was last asked for, by [`Known::clock`].
    used: u64,
}

impl Entry {
    fn last(&self) -> Option<&Resolved> {
        self.generations.last().map(|(_, resolved)| resolved)
    }

    /// What it was at a moment.
    fn at(&self, clock: u64) -> Option<&Resolved> {
        let after = self.generations.partition_point(|&(since, _)| since <= clock);
        let (_, resolved) = self.generations.get(after.saturating_sub(1))?;
        Some(resolved)
    }
}

impl Known {
    fn new(interpreted: Interpreted) -> Self {
        Self {
            interpreted,
            codes: HashMap::new(),
            len_bytes: 0,
            parts: HashMap::new(),
            clock: 0,
        }
    }

    /// Which of these are to be read: not known, or not read for a while.
    fn missing(&self, ids: impl Iterator<Item = CodeId>, now: Instant) -> Vec<CodeId> {
        let mut seen = HashSet::new();
        ids.filter(|id| {
            let is_fresh = self
                .codes
                .get(id)
                .is_some_and(|entry| now.saturating_duration_since(entry.verified) < VERIFIED_FOR);
            !is_fresh && seen.insert(*id)
        })
        .collect()
    }

    fn insert(&mut self, id: CodeId, read: Result<Code, CodeError>, now: Instant, counts: &mut Counts) {
        let clock = self.clock;
        let known = self.codes.get_mut(&id);
        let resolved = match (read, known) {
            (Ok(code), None) => {
                counts.read += 1;
                Resolved::Code(Arc::new(code))
            }
            (Err(error), None) => {
                tracing::debug!(address = id.address, %error, "a code object was not read");
                counts.gone += 1;
                Resolved::Gone
            }
            (Ok(code), Some(entry)) => {
                entry.verified = now;
                if matches!(entry.last(), Some(Resolved::Code(known)) if **known == code) {
                    return;
                }
                counts.read += 1;
                counts.replaced += 1;
                if entry.generations.len() >= GENERATIONS_MAX {
                    let (_, dropped) = entry.generations.remove(1);
                    self.len_bytes -= len_bytes(&dropped);
                }
                self.len_bytes += code.len_bytes();
                entry.generations.push((clock, Resolved::Code(Arc::new(code))));
                return;
            }
            // It may have been the known one that the frame belongs to; nothing says otherwise.
            (Err(_), Some(entry)) => {
                entry.verified = now;
                return;
            }
        };
        self.len_bytes += len_bytes(&resolved);
        let entry = Entry {
            generations: vec![(clock, resolved)],
            verified: now,
            used: clock,
        };
        self.codes.insert(id, entry);
    }

    /// Drops the half that was not asked for the longest, if there is too much.
    fn bound(&mut self) {
        if self.codes.len() > CODES_MAX || self.len_bytes > CODES_BYTES_MAX {
            let mut used: Vec<u64> = self.codes.values().map(|entry| entry.used).collect();
            let middle = used.len() / 2;
            let (_, &mut median, _) = used.select_nth_unstable(middle);
            let mut left = self.codes.len() - middle;
            self.codes.retain(|_, entry| {
                let is_kept = entry.used > median || (entry.used == median && left > 0);
                left = left.saturating_sub(usize::from(is_kept));
                is_kept
            });
            let resolved = self.codes.values().flat_map(|entry| &entry.generations);
            self.len_bytes = resolved.map(|(_, resolved)| len_bytes(resolved)).sum();
        }
        if self.parts.len() > PARTS_MAX {
            // Without its moment a part has what is known last.
            self.parts.clear();
        }
    }
}

fn len_bytes(resolved: &Resolved) -> usize {
    match resolved {
        Resolved::Code(code) => code.len_bytes(),
        Resolved::Gone => 0,
    }
}

/// The code object of a frame; `None` for a mark.
fn id_of(frame: &PythonFrame) -> Option<CodeId> {
    let address = frame.code_address();
    (address != 0).then_some(CodeId {
        address,
        guard: frame.guard,
    })
}

impl Codes {
    /// From now on code objects of a process image can be read. To be called before the kernel side is told of the
    /// interpreter, so that no part is lost.
    pub fn publish(&self, tgid: u32, image: u16, interpreted: Interpreted) {
        self.lock()
            .processes
            .insert((tgid, image), Known::new(interpreted));
    }

    /// Forgets a process image and all its code objects.
    pub fn forget(&self, tgid: u32, image: u16) {
        self.lock().processes.remove(&(tgid, image));
    }

    /// What has been done since the start.
    pub fn counts(&self) -> Counts {
        self.lock().counts
    }

    /// What a frame's code object is, as last read; `None` if it was not read, and for a mark.
    pub fn get(&self, tgid: u32, image: u16, frame: &PythonFrame) -> Option<Resolved> {
        self.lock()
            .with_entry((tgid, image), frame, |_, entry| entry.last().cloned())
    }

    /// The same as it was when a part was new, which is right for the frames of that part.
    pub fn get_in_part(&self, tgid: u32, image: u16, part: u64, frame: &PythonFrame) -> Option<Resolved> {
        self.lock().with_entry((tgid, image), frame, |known, entry| {
            let clock = known.get(&part).copied().unwrap_or(u64::MAX);
            entry.at(clock).cloned()
        })
    }

    /// Reads the code objects of these frames that are not known, now.
    pub fn resolve_now(&self, tgid: u32, image: u16, frames: &[PythonFrame]) {
        self.resolve(tgid, image, &Process::new(tgid), &[], frames);
    }

    /// Reads the code objects of the frames of parts that are new.
    pub fn resolve_parts(&self, tgid: u32, image: u16, parts: &[u64], frames: &[PythonFrame]) {
        self.resolve(tgid, image, &Process::new(tgid), parts, frames);
    }

    /// Counts parts that could not be looked up.
    pub(super) fn lost(&self, parts: u64) {
        self.lock().counts.parts_lost += parts;
    }

    fn resolve(&self, tgid: u32, image: u16, memory: &dyn Memory, parts: &[u64], frames: &[PythonFrame]) {
        let now = Instant::now();
        let mut inner = self.lock();
        let Some(known) = inner.processes.get(&(tgid, image)) else {
            inner.counts.parts_lost += parts.len() as u64;
            return;
        };
        let missing = known.missing(frames.iter().filter_map(id_of), now);
        let mut interpreted = known.interpreted.clone();
        // Others may ask while memory is read.
        drop(inner);
        let read = code::read_many(memory, &mut interpreted, &missing);

        let mut inner = self.lock();
        let Inner { processes, counts } = &mut *inner;
        // Forgotten meanwhile.
        let Some(known) = processes.get_mut(&(tgid, image)) else {
            return;
        };
        known.interpreted.code_type = known.interpreted.code_type.or(interpreted.code_type);
        known.clock += 1;
        for (id, read) in missing.into_iter().zip(read) {
            known.insert(id, read, now, counts);
        }
        let clock = known.clock;
        known.parts.extend(parts.iter().map(|&part| (part, clock)));
        known.bound();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // One that panicked has left out an entry at most.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn with_entry<T>(
        &mut self,
        process: (u32, u16),
        frame: &PythonFrame,
        answer: impl FnOnce(&HashMap<u64, u64>, &Entry) -> Option<T>,
    ) -> Option<T> {
        let known = self.processes.get_mut(&process)?;
        let entry = known.codes.get_mut(&id_of(frame)?)?;
        entry.used = known.clock;
        answer(&known.parts, entry)
    }
}

#[cfg(test)]
#[path = "codes_tests.rs"]
mod tests;
