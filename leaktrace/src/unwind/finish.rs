//! Walks a stack by framehop, from the registers and bytes of stack that the kernel side has sent: where that could not
//! go on, and to check it. Must not know the tables that the kernel side walks by.

use std::{cell::OnceCell, collections::HashMap, os::unix::fs::FileExt as _, rc::Rc};

use framehop::{
    FrameAddress, MayAllocateDuringUnwind, Unwinder as _,
    x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64},
};
use leaktrace_common::{
    stack::FRAMES_MAX,
    unwind::{raw, ucontext},
};

use super::{
    library::vdso_image,
    sections::{Bytes, Said, Sections},
};
use crate::{
    kernel::raw::Raw,
    symbol::{
        mappings::{Mapping, Mappings},
        objects::{ObjectId, Objects},
    },
};

/// `mov $15, %eax; syscall` as glibc and musl have it: what a signal handler returns to
/// (`__restore_rt`; `rt_sigreturn` is 15, `arch/x86/entry/syscalls/syscall_64.tbl`).
const SIGRETURN: [&[u8]; 2] = [
    b"\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05",
    b"\xb8\x0f\x00\x00\x00\x0f\x05",
];

/// How a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// At the outermost frame.
    Outermost,
    /// Where the bytes that were sent end.
    OutOfBytes,
    /// At this address, where no code was ever mapped.
    NotCode(u64),
    /// At a return address that a return probe has replaced: what it was, only the kernel knows.
    ReturnProbe,
    /// In code of which its file says nothing, and which keeps no frame pointer.
    NothingKnown,
    /// framehop gave up.
    Refused(framehop::Error),
    /// At the bound of frames.
    TooDeep,
}

/// A walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    /// The frames after the one it began at.
    pub frames: Vec<u64>,
    /// How it ended.
    pub end: End,
}

/// Walks stacks.
#[derive(Default)]
pub struct Finisher {
    files: Files,
    images: HashMap<(u32, u16), Image>,
}

impl std::fmt::Debug for Finisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Finisher")
            .field("images", &self.images.len())
            .finish_non_exhaustive()
    }
}

impl Finisher {
    /// Nothing known yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Walks from the frame that `raw` tells of, up to `frames_max` frames.
    pub fn walk(&mut self, raw: &Raw, mappings: &Mappings, objects: &Objects, frames_max: usize) -> Walk {
        let image = self.images.entry((raw.tgid, raw.image)).or_default();
        image.walk(raw, mappings, &mut self.files.with(objects), frames_max)
    }

    /// A process image is gone.
    pub fn forget(&mut self, tgid: u32, image: u16) {
        self.images.remove(&(tgid, image));
    }
}

/// Most frames of a tail: those of a stack but the first two, which the kernel side always has.
pub const TAIL_MAX: usize = FRAMES_MAX - 2;

/// What the mapped files say, read once each.
#[derive(Default)]
struct Files {
    known: HashMap<ObjectId, Option<Rc<Sections>>>,
    vdso: OnceCell<Option<Rc<Sections>>>,
}

impl Files {
    const fn with<'a>(&'a mut self, objects: &'a Objects) -> Opened<'a> {
        Opened { files: self, objects }
    }
}

struct Opened<'a> {
    files: &'a mut Files,
    objects: &'a Objects,
}

impl Opened<'_> {
    fn of(&mut self, mapping: &Mapping) -> Option<Rc<Sections>> {
        if let Some(id) = mapping.object {
            let object = self.objects.get(id)?;
            let known = self.files.known.entry(id).or_insert_with(|| {
                Sections::of_file(&object.file)
                    .inspect_err(|error| {
                        tracing::debug!(
                            "no unwind information of {}: {error}",
                            object.path_in_process.display()
                        );
                    })
                    .ok()
                    .map(Rc::new)
            });
            return known.clone();
        }
        if mapping.name != "[vdso]" {
            return None;
        }
        let vdso = self.files.vdso.get_or_init(|| {
            let image = vdso_image().ok()?;
            Some(Rc::new(Sections::of_bytes(&image).ok()?))
        });
        vdso.clone()
    }

    /// Whether the code at the address is what a signal handler returns to.
    fn is_sigreturn(&self, mapping: &Mapping, address: u64) -> bool {
        let mut code = [0; 9];
        let object = mapping.object.and_then(|id| self.objects.get(id));
        let read = object.is_some_and(|object| {
            object
                .file
                .read_exact_at(&mut code, mapping.offset_of(address))
                .is_ok()
        });
        read && SIGRETURN.iter().any(|wanted| code.starts_with(wanted))
    }
}

/// What an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// No code.
    NotCode,
    /// What the kernel puts in the place of a return address that it watches (kernel/events/uprobes.c).
    ReturnProbe,
    /// What a signal handler returns to.
    Sigreturn,
    /// Code, and what its file says of it.
    Code(Said),
}

/// A file as framehop has it for one image.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Loaded {
    start: u64,
    end: u64,
    object: Option<ObjectId>,
    file_offset: u64,
}

/// One process image.
struct Image {
    unwinder: UnwinderX86_64<Bytes>,
    /// Of this image alone: framehop tells sets of modules apart by a number of 16 bits.
    cache: CacheX86_64<MayAllocateDuringUnwind>,
    loaded: Vec<Loaded>,
}

impl Default for Image {
    fn default() -> Self {
        Self {
            unwinder: UnwinderX86_64::new(),
            cache: CacheX86_64::new(),
            loaded: Vec::new(),
        }
    }
}

impl Image {
    fn walk(&mut self, raw: &Raw, mappings: &Mappings, files: &mut Opened<'_>, frames_max: usize) -> Walk {
        let mut frames = Vec::new();
        let mut registers = UnwindRegsX86_64::new(raw.address, raw.sp, raw.bp);
        let mut at = if raw.kind == raw::INTERRUPTED {
            Some(FrameAddress::from_instruction_pointer(raw.address))
        } else {
            FrameAddress::from_return_address(raw.address)
        };
        let end = loop {
            let Some(address) = at else {
                break End::OutOfBytes;
            };
            if frames.len() > frames_max {
                frames.truncate(frames_max);
                break End::TooDeep;
            }
            match self.place(address, raw.time_ns, mappings, files) {
                Place::NotCode => {
                    // The frame that the walk began at is the kernel side's.
                    frames.pop();
                    break End::NotCode(address.address());
                }
                Place::ReturnProbe => {
                    frames.pop();
                    break End::ReturnProbe;
                }
                Place::Sigreturn => {
                    at = interrupted(raw, registers.sp(), &mut registers);
                    frames.extend(at.map(FrameAddress::address));
                }
                Place::Code(Said::Outermost) => break End::Outermost,
                Place::Code(said) => match self.step(raw, address, &mut registers) {
                    Ok(next) => {
                        frames.push(next);
                        at = FrameAddress::from_return_address(next);
                    }
                    // A frame with a rule that has no caller; without one, framehop guesses by the frame pointer.
                    Err(Stop::NoCaller) if said == Said::Rule => break End::Outermost,
                    Err(Stop::NoCaller) => break End::NothingKnown,
                    Err(Stop::OutOfBytes) => break End::OutOfBytes,
                    Err(Stop::Refused(error)) => break End::Refused(error),
                },
            }
        };
        Walk { frames, end }
    }

    /// One frame further.
    fn step(&mut self, raw: &Raw, at: FrameAddress, registers: &mut UnwindRegsX86_64) -> Result<u64, Stop> {
        let sp = registers.sp();
        let mut short = false;
        let mut read = |address| {
            raw.word(address).ok_or_else(|| {
                // Below the stack pointer framehop does without: an epilogue's rules may still point there.
                short |= address >= sp;
            })
        };
        let next = self
            .unwinder
            .unwind_frame(at, registers, &mut self.cache, &mut read);
        if short {
            // framehop 0.16 takes a rule that it cannot evaluate for none, and remembers that by the address.
            self.cache = CacheX86_64::new();
            return Err(Stop::OutOfBytes);
        }
        next.map_err(Stop::Refused)?.ok_or(Stop::NoCaller)
    }

    /// What the address is; framehop is given the file it lies in.
    fn place(
        &mut self,
        at: FrameAddress,
        time_ns: u64,
        mappings: &Mappings,
        files: &mut Opened<'_>,
    ) -> Place {
        let lookup = at.address_for_lookup();
        let Some(mapping) = mappings.find_code_at(lookup, time_ns) else {
            return Place::NotCode;
        };
        if mapping.name == "[uprobes]" {
            return Place::ReturnProbe;
        }
        if at.is_return_address() && files.is_sigreturn(mapping, at.address()) {
            return Place::Sigreturn;
        }
        let sections = files.of(mapping);
        let bias = sections
            .as_ref()
            .and_then(|sections| sections.bias(mapping.start, mapping.file_offset));
        let (Some(sections), Some(bias)) = (sections, bias) else {
            self.unload(mapping.start, mapping.end);
            return Place::Code(Said::Nothing);
        };
        self.load(mapping, &sections, bias);
        Place::Code(sections.said_of(lookup.wrapping_sub(bias)))
    }

    fn load(&mut self, mapping: &Mapping, sections: &Sections, bias: u64) {
        let loaded = Loaded {
            start: mapping.start,
            end: mapping.end,
            object: mapping.object,
            file_offset: mapping.file_offset,
        };
        if self.loaded.contains(&loaded) {
            return;
        }
        self.unload(mapping.start, mapping.end);
        self.unwinder
            .add_module(sections.module(&mapping.name, mapping.start..mapping.end, bias));
        self.loaded.push(loaded);
    }

    /// Something else is there now.
    fn unload(&mut self, start: u64, end: u64) {
        let unwinder = &mut self.unwinder;
        self.loaded.retain(|loaded| {
            let stays = loaded.end <= start || end <= loaded.start;
            if !stays {
                unwinder.remove_module(loaded.start);
            }
            stays
        });
    }
}

/// Why framehop went no further.
enum Stop {
    NoCaller,
    OutOfBytes,
    Refused(framehop::Error),
}

/// The frame that a signal has interrupted: its registers lie in the `struct ucontext` at `at`.
fn interrupted(raw: &Raw, at: u64, registers: &mut UnwindRegsX86_64) -> Option<FrameAddress> {
    let word = |offset: u64| raw.word(at.checked_add(offset)?);
    let (rip, rsp, rbp) = (word(ucontext::RIP)?, word(ucontext::RSP)?, word(ucontext::RBP)?);
    *registers = UnwindRegsX86_64::new(rip, rsp, rbp);
    Some(FrameAddress::from_instruction_pointer(rip))
}

#[cfg(test)]
#[path = "finish_tests.rs"]
mod tests;
