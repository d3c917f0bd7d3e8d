//! The frames of each stack: read once from the kernel's table, and walked on where the kernel side could not.

use std::{
    collections::{HashMap, HashSet},
    rc::Rc,
};

use leaktrace_common::{
    stack::FRAMES_MAX,
    unwind::{end_of, raw},
};

use super::python::{Parts, PythonStack};
use crate::{
    kernel::{
        clock::now_ns,
        maps::{KeptStack, TableError, Tables},
        raw::{Raw, RawStacks},
    },
    report::stacks::{Difference, Verified},
    symbol::{mappings::Mappings, objects::Objects},
    traced::{catalog::Catalog, set::TracedSet},
    track::ends,
    unwind::{
        finish::{End, Finisher, TAIL_MAX, Walk},
        verify::{self, Verdict},
    },
};

/// Stacks that are not equal and are reported in full.
const DIFFERENCES_MAX: usize = 20;

/// A process that joins is taken in within this time, or its stacks are not walked on.
const JOINS_WITHIN_NS: u64 = 2_000_000_000;

/// A stack that is to be walked.
#[derive(Debug)]
struct Waiting {
    raw: Raw,
    /// It was not in the kernel's table when first looked for: the kernel side sends a stack before it keeps it.
    tried: bool,
}

/// Stacks kept without a look whether they are still needed, at least.
const SWEEP_FROM: usize = 1 << 14;

/// A stack that has been read.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Native frames, from the inside out.
    pub frames: Box<[u64]>,
    /// Python frames.
    pub python: PythonStack,
    /// How often had been swept when it was read.
    pub sweep: u64,
}

/// Stacks by their ids.
#[derive(Debug)]
pub(super) struct Stacks {
    raw: RawStacks,
    parts: Box<dyn Parts>,
    finisher: Finisher,
    /// As far as they were asked for. None changes, but that it is finished once.
    known: HashMap<u64, Rc<Known>>,
    finished: HashSet<u64>,
    /// How often what is not needed any more was thrown away, and what was left then.
    sweeps: u64,
    left: usize,
    waiting: Vec<Waiting>,
    /// What came of checking; none unless that was asked for.
    verified: Option<Verified>,
}

impl Stacks {
    /// Nothing known yet.
    pub(super) fn new(raw: RawStacks, parts: Box<dyn Parts>, verify: bool) -> Self {
        Self {
            raw,
            parts,
            finisher: Finisher::new(),
            known: HashMap::new(),
            finished: HashSet::new(),
            sweeps: 0,
            left: 0,
            waiting: Vec::new(),
            verified: verify.then(Verified::default),
        }
    }

    /// Takes what the kernel side has sent up to now.
    pub(super) fn receive(&mut self) {
        let received = self.raw.take().into_iter();
        self.waiting
            .extend(received.map(|raw| Waiting { raw, tried: false }));
    }

    /// Stacks that were lost for want of room.
    pub(super) fn dropped(&self) -> u64 {
        self.raw.dropped()
    }

    /// Walks on what was received.
    ///
    /// # Errors
    /// [`TableError`].
    pub(super) fn finish(&mut self, tables: &Tables, traced: &TracedSet) -> Result<(), TableError> {
        for Waiting { raw, tried } in std::mem::take(&mut self.waiting) {
            // Of a process that is about to be taken in.
            let is_early = traced.follows_members()
                && traced
                    .get(raw.tgid)
                    .is_none_or(|process| process.image() < raw.image)
                && now_ns().saturating_sub(raw.time_ns) < JOINS_WITHIN_NS;
            if is_early {
                self.waiting.push(Waiting { raw, tried });
                continue;
            }
            if self.finish_one(&raw, tables, traced)? {
                continue;
            }
            if tried {
                self.not_compared(&raw);
            } else {
                self.waiting.push(Waiting { raw, tried: true });
            }
        }
        Ok(())
    }

    /// Whether the stack's first frames are in the kernel's table.
    fn finish_one(&mut self, raw: &Raw, tables: &Tables, traced: &TracedSet) -> Result<bool, TableError> {
        let Some(kept) = tables.stack(raw.stack_id)? else {
            return Ok(false);
        };
        let Some(process) = traced.get(raw.tgid) else {
            self.not_compared(raw);
            return Ok(true);
        };
        let (_, mappings) = process.of_image(raw.image);
        let objects = &traced.catalog.objects;
        let walk = self.finisher.walk(raw, mappings, objects, TAIL_MAX);
        if raw.kind == raw::VERIFY {
            self.compare(raw.stack_id, &kept.frames, &walk, mappings, &traced.catalog);
        } else if walk.end == End::Outermost && kept.frames.len() + walk.frames.len() <= FRAMES_MAX {
            let frames: Vec<u64> = kept.frames.iter().chain(&walk.frames).copied().collect();
            self.keep(raw.stack_id, &kept, frames.into())?;
            self.finished.insert(raw.stack_id);
        } else {
            tracing::debug!(
                "a stack of {} ends early: {:?} after {} frames more",
                raw.tgid,
                walk.end,
                walk.frames.len()
            );
        }
        Ok(true)
    }

    fn not_compared(&mut self, raw: &Raw) {
        if let Some(verified) = self.verified.as_mut().filter(|_| raw.kind == raw::VERIFY) {
            verified.stacks += 1;
            verified.not_compared += 1;
        }
    }

    fn compare(&mut self, id: u64, kept: &[u64], walk: &Walk, mappings: &Mappings, catalog: &Catalog) {
        let Some(verified) = &mut self.verified else {
            return;
        };
        verified.stacks += 1;
        verified.frames_equal += verify::equal_frames(kept, walk) as u64;
        let at = match verify::compare(kept, end_of(id), walk) {
            Verdict::Equal => {
                verified.equal += 1;
                return;
            }
            Verdict::FramehopEndsEarly => {
                verified.framehop_ends_early += 1;
                // Where the bytes end there is nothing to explain.
                if walk.end == End::OutOfBytes {
                    return;
                }
                2 + walk.frames.len()
            }
            Verdict::KernelEndsEarly => {
                verified.kernel_ends_early += 1;
                kept.len()
            }
            Verdict::Differ(at) => {
                verified.differ += 1;
                at
            }
        };
        if verified.differences.len() < DIFFERENCES_MAX {
            let named = |frames: &mut dyn Iterator<Item = &u64>| {
                frames.map(|&address| named(address, mappings, catalog)).collect()
            };
            verified.differences.push(Difference {
                at,
                kernel_end: ends::name(end_of(id)),
                framehop_end: format!("{:?}", walk.end),
                kernel: named(&mut kept.iter()),
                framehop: named(&mut kept.iter().take(2).chain(&walk.frames)),
            });
        }
    }

    /// A stack; without frames when it is not in the table.
    ///
    /// # Errors
    /// [`TableError`].
    pub(super) fn read(&mut self, tables: &Tables, id: u64) -> Result<Rc<Known>, TableError> {
        if let Some(stack) = self.known.get(&id) {
            return Ok(Rc::clone(stack));
        }
        let Some(kept) = tables.stack(id)? else {
            return Ok(Rc::default());
        };
        self.keep(id, &kept, kept.frames.clone())
    }

    /// Keeps a stack with these native frames.
    fn keep(&mut self, id: u64, kept: &KeptStack, frames: Box<[u64]>) -> Result<Rc<Known>, TableError> {
        let python = PythonStack::read(self.parts.as_ref(), kept.python, kept.python_end)?;
        let sweep = self.sweeps;
        let stack = Rc::new(Known {
            frames,
            python,
            sweep,
        });
        self.known.insert(id, Rc::clone(&stack));
        Ok(stack)
    }

    /// A stack that has been read.
    pub(super) fn known(&self, id: u64) -> Option<&Known> {
        self.known.get(&id).map(AsRef::as_ref)
    }

    /// Whether a stack was walked on to its end.
    pub(super) fn is_finished(&self, id: u64) -> bool {
        self.finished.contains(&id)
    }

    /// Whether it is time to [`Self::sweep`]: processes that come and go bring stacks of their own.
    pub(super) fn is_to_sweep(&self) -> bool {
        self.known.len() > (2 * self.left).max(SWEEP_FROM)
    }

    /// Throws away what no site needs. One that was read since the last sweep stays: its site may not have been seen yet.
    pub(super) fn sweep(&mut self, needed: &HashSet<u64>) {
        let sweep = self.sweeps;
        self.known
            .retain(|id, known| known.sweep == sweep || needed.contains(id));
        let known = &self.known;
        self.finished.retain(|id| known.contains_key(id));
        self.sweeps += 1;
        self.left = self.known.len();
    }

    /// A process image is gone.
    pub(super) fn forget(&mut self, tgid: u32, image: u16) {
        self.finisher.forget(tgid, image);
    }

    /// What came of checking, if that was asked for.
    pub(super) const fn verified(&self) -> Option<&Verified> {
        self.verified.as_ref()
    }
}

/// The file of a stack's last frame.
pub(super) fn last_object(frames: &[u64], mappings: Option<&Mappings>, objects: &Objects) -> String {
    let mapping = frames
        .last()
        .and_then(|address| mappings?.find(address.wrapping_sub(1)));
    match mapping {
        None => "[unknown]".to_owned(),
        Some(mapping) if mapping.name.is_empty() || mapping.name == "//anon" => "[anon]".to_owned(),
        Some(mapping) => match mapping.object.and_then(|id| objects.get(id)) {
            Some(object) => object.path_in_process.display().to_string(),
            None => mapping.name.clone(),
        },
    }
}

/// An address as file and offset.
fn named(address: u64, mappings: &Mappings, catalog: &Catalog) -> String {
    let Some(mapping) = mappings.find(address.wrapping_sub(1)) else {
        return format!("{address:#x}");
    };
    let object = mapping
        .object
        .map_or_else(|| mapping.name.clone(), |id| catalog.name(id));
    format!("{object}+{:#x}", mapping.offset_of(address))
}
