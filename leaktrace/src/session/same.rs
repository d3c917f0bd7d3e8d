//! Which sites are one in the report: by whose they are, and by the code that their stacks lead through.
//!
//! The same code lies elsewhere in every process, so that addresses tell only within one. Must not know what sites hold,
//! nor names of functions: what is asked here is asked of all sites, shown or not.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher as _},
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
};

use leaktrace_common::{call::Space, python::PythonFrame};

use super::{
    python::{Interpreters, Known as KnownFrame},
    stacks::Known,
    whereabouts::Whereabout,
};
use crate::{
    config::By,
    report::model::Container,
    symbol::{
        mappings::Mappings,
        objects::{ObjectId, Objects},
    },
    track::{Alike, Image, Scope, SiteRef},
};

/// What a process image is called, where it runs and what it has mapped.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct About<'a> {
    /// Its name.
    pub comm: &'a str,
    /// Its executable.
    pub exe: Option<&'a Path>,
    /// Where it runs, as far as that is known.
    pub whereabout: Option<&'a Whereabout>,
    /// What is or was mapped in it; none where that is not known.
    pub mappings: Option<&'a Mappings>,
}

impl About<'_> {
    /// Its container.
    pub(super) fn container(&self) -> Option<&Container> {
        self.whereabout?.container.as_deref()
    }

    /// Its pid in its own namespace, where that is another one.
    pub(super) fn inner_pid(&self) -> Option<u32> {
        self.whereabout?.inner_pid
    }
}

/// What sites of many processes are summed by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Owner {
    Program(PathBuf),
    Comm(String),
    /// By its id; none for what runs in no container.
    Container(Option<String>),
}

/// A frame as it is in all processes that run the same code.
#[derive(Hash)]
enum Step {
    /// An offset in a file.
    File(ObjectId, u64),
    /// Of code that is in no file, the address.
    Address(u64),
    Python {
        name: Arc<str>,
        file: Arc<str>,
        line: Option<u32>,
        is_entry: bool,
    },
    /// A mark between Python frames.
    Mark,
}

/// What tells the steps of a stack from those of others: two hashes of them, as a stack's id is one of its addresses. Kept in
/// place of the steps, of which there are millions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Code([u64; 2]);

/// Makes a [`Code`] of steps, one after the other.
struct Coder([DefaultHasher; 2]);

impl Coder {
    fn new() -> Self {
        // Their keys are fixed: the same steps are the same code throughout a run.
        let mut hashers = [DefaultHasher::new(), DefaultHasher::new()];
        hashers[1].write_u8(1);
        Self(hashers)
    }

    fn add(&mut self, step: &Step) {
        for hasher in &mut self.0 {
            step.hash(hasher);
        }
    }

    fn finish(&self) -> Code {
        Code([self.0[0].finish(), self.0[1].finish()])
    }
}

/// Two stacks of one scope with equal answers are one place.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// Within an image: the addresses, and the Python frames.
    Addresses(Box<[u64]>, Box<[PythonFrame]>),
    /// Beyond it.
    Code(Code),
}

/// What was found of a stack of an image.
#[derive(Debug)]
struct Found {
    code: Code,
    /// What it was found of: a stack is another one once it has been walked on.
    stack: Rc<Known>,
    frames: usize,
    /// The snapshot that has used it last.
    used: u64,
}

/// Answers the tracker's question, snapshot after snapshot.
#[derive(Debug)]
pub(super) struct Same {
    by: By,
    snapshot: u64,
    /// Whose images are, in this snapshot.
    scopes: HashMap<Image, Scope>,
    found: HashMap<(Image, u64), Found>,
}

impl Same {
    /// Sites are summed up by this.
    pub(super) fn new(by: By) -> Self {
        Self {
            by,
            snapshot: 0,
            scopes: HashMap::new(),
            found: HashMap::new(),
        }
    }

    /// Begins a snapshot.
    pub(super) fn begin(&mut self) {
        self.snapshot += 1;
        self.scopes.clear();
    }

    /// Ends it: what it has not asked for is forgotten.
    pub(super) fn end(&mut self) {
        let snapshot = self.snapshot;
        self.found.retain(|_, found| found.used == snapshot);
    }

    /// Where a site belongs. `frames` of its native frames count, the rest is garbage.
    ///
    /// GPU memory is always shown by process: its devices go by numbers of the process's own.
    pub(super) fn group(
        &mut self,
        site: &SiteRef,
        stack: &Rc<Known>,
        frames: usize,
        about: &About<'_>,
        objects: &Objects,
        interpreters: &dyn Interpreters,
    ) -> (Scope, Place) {
        if self.is_by_process(site) {
            let place = Place::Addresses(stack.frames[..frames].into(), stack.python.frames.clone());
            return (Scope::Image(site.image), place);
        }
        let code = self.code(site, stack, frames, about, objects, interpreters);
        (self.scope(site.image, about), Place::Code(code))
    }

    /// What a site of an image that has ended is gathered by when that is not kept: those that [`Self::group`] puts together
    /// are alike. None for what is shown by process.
    pub(super) fn alike(
        &self,
        site: &SiteRef,
        stack: &Known,
        frames: usize,
        about: &About<'_>,
        objects: &Objects,
        interpreters: &dyn Interpreters,
    ) -> Option<Alike> {
        (!self.is_by_process(site)).then(|| Alike {
            scope: self.owner(about),
            code: code(site, stack, frames, about, objects, interpreters).0.0,
        })
    }

    fn is_by_process(&self, site: &SiteRef) -> bool {
        let is_gpus = Space::of(site.key.process.space).is_some_and(Space::is_gpus);
        self.by == By::Process || is_gpus
    }

    fn scope(&mut self, image: Image, about: &About<'_>) -> Scope {
        let scope = self.scopes.get(&image).copied();
        let scope = scope.unwrap_or_else(|| self.owner(about));
        self.scopes.insert(image, scope);
        scope
    }

    /// A hash of who it is stands for it: it is the same throughout a run.
    fn owner(&self, about: &About<'_>) -> Scope {
        let comm = || Owner::Comm(about.comm.to_owned());
        let owner = match self.by {
            By::Site => about.exe.map_or_else(comm, |exe| Owner::Program(exe.to_owned())),
            By::Comm | By::Process => comm(),
            By::Container => Owner::Container(about.container().map(|container| container.id.clone())),
        };
        let mut hasher = DefaultHasher::new();
        owner.hash(&mut hasher);
        Scope::Many(hasher.finish())
    }

    fn code(
        &mut self,
        site: &SiteRef,
        stack: &Rc<Known>,
        frames: usize,
        about: &About<'_>,
        objects: &Objects,
        interpreters: &dyn Interpreters,
    ) -> Code {
        let of = (site.image, site.key.stack_id);
        if let Some(found) = self.found.get_mut(&of)
            && Rc::ptr_eq(&found.stack, stack)
            && found.frames == frames
        {
            found.used = self.snapshot;
            return found.code;
        }
        let (code, all_known) = code(site, stack, frames, about, objects, interpreters);
        // What is not known yet may be at the next snapshot.
        if all_known || site.image.frozen.is_some() {
            let found = Found {
                code,
                stack: Rc::clone(stack),
                frames,
                used: self.snapshot,
            };
            self.found.insert(of, found);
        }
        code
    }
}

/// The code that a stack leads through, and whether all of it is known.
fn code(
    site: &SiteRef,
    stack: &Known,
    frames: usize,
    about: &About<'_>,
    objects: &Objects,
    interpreters: &dyn Interpreters,
) -> (Code, bool) {
    let mut all_known = about.mappings.is_some();
    let mut coder = Coder::new();
    for (index, &address) in stack.frames[..frames].iter().enumerate() {
        let (step, is_known) = native(index, address, about.mappings, objects);
        all_known &= is_known;
        coder.add(&step);
    }
    for (index, frame) in stack.python.frames.iter().enumerate() {
        let (tgid, image) = (site.image.tgid, site.key.process.image);
        let name = || interpreters.name(tgid, image, stack.python.part_of(index), frame);
        let (step, is_known) = python(frame, name);
        all_known &= is_known;
        if let Some(step) = step {
            coder.add(&step);
        }
    }
    (coder.finish(), all_known)
}

/// A native frame, and whether it is known what was mapped there. All but the first are return addresses, which belong to
/// the call before them.
fn native(index: usize, address: u64, mappings: Option<&Mappings>, objects: &Objects) -> (Step, bool) {
    let lookup = if index == 0 {
        address
    } else {
        address.saturating_sub(1)
    };
    let mapping = mappings.and_then(|mappings| mappings.find_code(lookup).or_else(|| mappings.find(lookup)));
    let Some(mapping) = mapping else {
        return (Step::Address(address), false);
    };
    let step = mapping.object.map_or(Step::Address(address), |object| {
        Step::File(objects.first_alike(object), mapping.offset_of(lookup))
    });
    (step, true)
}

/// A Python frame, and whether it has been read; no frame where tracebacks have none.
fn python(frame: &PythonFrame, name: impl FnOnce() -> KnownFrame) -> (Option<Step>, bool) {
    if frame.code_address() == 0 {
        return (Some(Step::Mark), true);
    }
    match name() {
        KnownFrame::Named(named) => {
            let step = Step::Python {
                name: named.name,
                file: named.file,
                line: named.line,
                is_entry: frame.is_entry(),
            };
            (Some(step), true)
        }
        KnownFrame::Trampoline => (None, true),
        KnownFrame::Gone => (Some(Step::Address(frame.code)), true),
        KnownFrame::NotYet => (Some(Step::Address(frame.code)), false),
    }
}

#[cfg(test)]
#[path = "same_tests.rs"]
mod tests;
