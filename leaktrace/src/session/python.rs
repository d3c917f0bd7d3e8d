//! Python frames in the stacks of a session: what has to be known of the interpreters, and the merged frames.
//!
//! Must not know how interpreters are found or code objects read: that is behind [`Interpreters`].

use std::{fmt::Debug, io, os::fd::OwnedFd, sync::Arc};

use leaktrace_common::python::{NewPart, PYTHON_FRAMES_MAX, PythonFrame, PythonPart, python_end};

use crate::{
    kernel::{maps::TableError, python as kernel},
    python::{
        codes::Resolved,
        merge::{self, Merged, Native, Place},
        resolver::NewParts,
        runtime::Runtime,
    },
    report::{
        model::Lang,
        python::{Outcome, Python, PythonState},
    },
    symbol::SymbolFrame,
    traced::{
        interpreters::{Known as Interpreter, Proof},
        set::TracedSet,
    },
};

/// The kernel side's table of Python frames.
pub(super) trait Parts: Debug {
    /// A part; none if it is not in the table.
    ///
    /// # Errors
    /// [`TableError`].
    fn part(&self, key: u64) -> Result<Option<Box<PythonPart>>, TableError>;
}

/// The interpreters of all process images, those that are gone included.
pub(super) trait Interpreters {
    /// What the report says of an image's interpreter; none if it has none.
    fn of_image(&self, tgid: u32, image: u16) -> Option<Python>;

    /// Whether the kernel side follows an image's interpreter.
    fn is_followed(&self, tgid: u32, image: u16) -> bool;

    /// Whose code is at an address, which is that of an instruction.
    fn place(&self, tgid: u32, image: u16, address: u64) -> Place;

    /// The name of a frame that is no mark, as it was when `part`, by its key, was new.
    fn name(&self, tgid: u32, image: u16, part: u64, frame: &PythonFrame) -> Known;
}

/// What is known of a Python frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Its function and where in it.
    Named(Named),
    /// Code of the interpreter's own, between two frames of a program: tracebacks leave it out, too.
    Trampoline,
    /// The code object was freed or replaced before it was read.
    Gone,
    /// It is still to be read.
    NotYet,
}

/// A Python function, and where in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    /// Its qualified name; up to Python 3.10 the bare one.
    pub name: Arc<str>,
    /// Its file, as the interpreter knows it.
    pub file: Arc<str>,
    /// The line in it.
    pub line: Option<u32>,
}

impl Parts for kernel::PartTable {
    fn part(&self, key: u64) -> Result<Option<Box<PythonPart>>, TableError> {
        let part = self.get(key);
        let failed = |source| TableError::reading("PYTHON_PARTS", source);
        Ok(part.map_err(failed)?.map(Box::new))
    }
}

impl NewParts for kernel::Parts {
    fn wake(&self) -> io::Result<OwnedFd> {
        Self::wake(self)
    }

    fn next(&mut self) -> Option<NewPart> {
        self.take_new()
    }

    fn frames(&mut self, part: u64) -> Option<Vec<PythonFrame>> {
        let part = self.get(part).ok()??;
        Some(kernel::frames(&part).to_vec())
    }
}

/// The interpreters of the targets.
pub(super) struct OfTargets<'a>(&'a TracedSet);

/// What is known of the targets' interpreters.
pub(super) const fn of_targets(traced: &TracedSet) -> OfTargets<'_> {
    OfTargets(traced)
}

impl OfTargets<'_> {
    fn interpreter(&self, tgid: u32, image: u16) -> Option<&Interpreter> {
        self.0.get(tgid)?.interpreter_of(image)
    }
}

impl Interpreters for OfTargets<'_> {
    fn of_image(&self, tgid: u32, image: u16) -> Option<Python> {
        let process = self.0.get(tgid)?;
        let interpreter = process.interpreter_of(image)?;
        let objects = self.0.objects_of(process);
        let why_native = interpreter.why_native();
        let why = why_native.map(str::to_owned).or_else(|| {
            (!interpreter.lines()).then(|| {
                "this build has no global lock: where its functions are cannot be told, only which they are, and it keeps \
                 no lists of its objects to count"
                    .to_owned()
            })
        });
        Some(Python {
            version: interpreter.version.map(|version| version.to_string()),
            object: self.0.catalog.name(interpreter.object),
            state: match interpreter.proof {
                Proof::Expected => PythonState::Starting,
                Proof::Verified => PythonState::Followed,
                Proof::Native(_) => PythonState::NotFollowed,
            },
            stacks: interpreter.stacks(),
            lines: interpreter.lines(),
            arenas: objects.as_ref().is_some_and(|objects| objects.arenas),
            pools: objects.as_ref().is_some_and(|objects| objects.pools),
            census: interpreter.lines(),
            why,
        })
    }

    fn is_followed(&self, tgid: u32, image: u16) -> bool {
        self.interpreter(tgid, image).is_some_and(Interpreter::stacks)
    }

    fn place(&self, tgid: u32, image: u16, address: u64) -> Place {
        let Some(interpreter) = self.interpreter(tgid, image) else {
            return Place::Outside;
        };
        if interpreter.evaluates(address) {
            return Place::Evaluator;
        }
        let is_its = |runtime: &Arc<Runtime>| runtime.code.contains(&address.wrapping_sub(interpreter.bias));
        match &interpreter.runtime {
            Some(runtime) if is_its(runtime) => Place::Interpreter,
            _ => Place::Outside,
        }
    }

    fn name(&self, tgid: u32, image: u16, part: u64, frame: &PythonFrame) -> Known {
        let codes = &self.0.codes;
        let read = codes.get_in_part(tgid, image, part, frame).or_else(|| {
            // The kernel side could not tell of it.
            codes.resolve_now(tgid, image, &[*frame]);
            codes.get_in_part(tgid, image, part, frame)
        });
        match read {
            Some(Resolved::Code(code)) if code.is_trampoline() => Known::Trampoline,
            Some(Resolved::Code(code)) => Known::Named(Named {
                name: Arc::clone(&code.name),
                file: Arc::clone(&code.file),
                line: code.line(frame.position),
            }),
            Some(Resolved::Gone) => Known::Gone,
            None => Known::NotYet,
        }
    }
}

/// The Python frames of a stack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PythonStack {
    /// Innermost first, marks included.
    pub frames: Box<[PythonFrame]>,
    /// For each part, innermost first, the index of its first frame and its key.
    pub parts: Box<[(usize, u64)]>,
    /// What became of their walk: one of [`python_end`].
    pub end: u16,
}

impl PythonStack {
    /// Puts the parts of a stack together, of which `outermost` is the key.
    ///
    /// # Errors
    /// [`TableError`].
    pub(super) fn read(parts: &dyn Parts, outermost: u64, end: u16) -> Result<Self, TableError> {
        let mut chain = Vec::new();
        let mut key = outermost;
        while key != 0 {
            // Without the inner frames the outer ones cannot be laid over the native ones. More parts than frames
            // is a circle, which the kernel side does not make.
            let part = match parts.part(key)? {
                Some(part) if chain.len() < PYTHON_FRAMES_MAX as usize => part,
                _ => return Ok(Self::full()),
            };
            chain.push((key, part));
            key = chain[chain.len() - 1].1.inner;
        }
        let mut frames = Vec::new();
        let mut parts = Vec::with_capacity(chain.len());
        for (key, part) in chain.iter().rev() {
            parts.push((frames.len(), *key));
            frames.extend_from_slice(kernel::frames(part));
        }
        Ok(Self {
            frames: frames.into(),
            parts: parts.into(),
            end,
        })
    }

    /// Key of the part that has a frame.
    pub(super) fn part_of(&self, index: usize) -> u64 {
        let after = self.parts.partition_point(|&(first, _)| first <= index);
        self.parts[..after].last().map_or(0, |&(_, key)| key)
    }

    fn full() -> Self {
        Self {
            end: python_end::FULL,
            ..Self::default()
        }
    }

    /// What became of it, for the sums; none while a name is still to be read.
    ///
    /// `native` are the addresses of the native frames: before the interpreter was found, only a stack with its loop on
    /// it had Python frames.
    pub(super) fn outcome(
        &self,
        of: &dyn Interpreters,
        tgid: u32,
        image: u16,
        native: &[u64],
    ) -> Option<Outcome> {
        let evaluates = |address: &u64| {
            matches!(
                of.place(tgid, image, address.wrapping_sub(1)),
                Place::Evaluator | Place::EvaluatorPart
            )
        };
        let ended = match self.end {
            python_end::COMPLETE => Outcome::WithLines,
            python_end::NO_FRAMES => Outcome::NoFrames,
            python_end::UNREADABLE => Outcome::Unreadable,
            python_end::TOO_DEEP => Outcome::Truncated,
            python_end::FULL => Outcome::Full,
            _ if native.iter().skip(1).any(evaluates) => Outcome::TooEarly,
            _ => Outcome::NoFrames,
        };
        if ended != Outcome::WithLines {
            return Some(ended);
        }
        let mut outcome = ended;
        let frames = self.frames.iter().enumerate();
        for (index, frame) in frames.filter(|(_, frame)| frame.code_address() != 0) {
            match of.name(tgid, image, self.part_of(index), frame) {
                Known::Named(Named { line: Some(_), .. }) | Known::Trampoline => {}
                Known::Named(Named { line: None, .. }) => outcome = Outcome::NamesOnly,
                Known::Gone => return Some(Outcome::Gone),
                Known::NotYet => return None,
            }
        }
        Some(outcome)
    }

    const fn is_whole(&self) -> bool {
        matches!(self.end, python_end::COMPLETE | python_end::NO_FRAMES)
    }
}

/// The functions of single instructions in a 3.14 that is built with tail calls (Python/ceval.c): the loop calls the first
/// of them.
const TAIL_CALLED: &str = "_TAIL_CALL_";

/// The native frames of a stack with their names, and whose they are.
pub(super) struct NativeStack {
    /// The process.
    pub tgid: u32,
    /// Its image.
    pub image: u16,
    /// For each address its functions, innermost first.
    pub frames: Vec<Vec<SymbolFrame>>,
    /// Whether the walk came to the outermost frame.
    pub is_whole: bool,
}

/// All frames of a stack, and whether the Python ones do not fit to the native ones.
pub(super) fn merged(
    native: NativeStack,
    python: &PythonStack,
    of: &dyn Interpreters,
) -> (Vec<SymbolFrame>, bool) {
    if !of.is_followed(native.tgid, native.image) {
        return (native.frames.into_iter().flatten().collect(), false);
    }
    let known: Vec<Native<'_>> = (native.frames.iter().enumerate())
        .map(|(index, frames)| told_apart(&native, index, frames, of))
        .collect();
    let stack = merge::merge(&known, &python.frames);
    let mismatch = stack.is_mismatch(native.is_whole, python.is_whole());
    let mut frames = Vec::with_capacity(stack.frames.len());
    for frame in &stack.frames {
        match *frame {
            Merged::Python(index) => {
                let frame = &python.frames[index];
                let known = of.name(native.tgid, native.image, python.part_of(index), frame);
                if known != Known::Trampoline {
                    frames.push(python_frame(frame, known));
                }
            }
            Merged::Native { index, plumbing } => {
                let named = native.frames[index].iter().cloned();
                frames.extend(named.map(|frame| SymbolFrame { plumbing, ..frame }));
            }
        }
    }
    (frames, mismatch)
}

fn told_apart<'a>(
    native: &NativeStack,
    index: usize,
    frames: &'a [SymbolFrame],
    of: &dyn Interpreters,
) -> Native<'a> {
    // The last is the function itself; those before were inlined into it.
    let Some(function) = frames.last() else {
        return Native::default();
    };
    let instruction = function.address.saturating_sub(u64::from(index > 0));
    let symbol = function.symbol.as_deref();
    let mut place = of.place(native.tgid, native.image, instruction);
    match place {
        Place::Interpreter if !is_pythons(function) => place = Place::Outside,
        Place::Evaluator if symbol.is_some_and(|symbol| symbol.starts_with(TAIL_CALLED)) => {
            place = Place::EvaluatorPart;
        }
        _ => {}
    }
    Native { place, symbol }
}

/// Whether code in the interpreter's file is the interpreter's: a program that has it linked in has code of its own there.
fn is_pythons(frame: &SymbolFrame) -> bool {
    let object = frame.object.as_deref().unwrap_or_default();
    let file = object.rsplit('/').next().unwrap_or_default();
    let symbol = frame.symbol.as_deref().unwrap_or_default();
    file.starts_with("python")
        || file.starts_with("libpython")
        || symbol.starts_with("Py")
        || symbol.starts_with("_Py")
}

fn python_frame(frame: &PythonFrame, known: Known) -> SymbolFrame {
    let address = frame.code_address();
    let named = match known {
        Known::Named(named) => Some(named),
        Known::Trampoline | Known::Gone | Known::NotYet => None,
    };
    SymbolFrame {
        address,
        lang: Lang::Python,
        symbol: Some(named.as_ref().map_or_else(
            || Arc::from(format!("<code {address:#x}>")),
            |named| Arc::clone(&named.name),
        )),
        line: named.as_ref().and_then(|named| named.line),
        file: named.map(|named| named.file),
        ..SymbolFrame::default()
    }
}

#[cfg(test)]
#[path = "python_tests.rs"]
mod tests;
