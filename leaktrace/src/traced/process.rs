//! One traced process: who it is, what was mapped in each of its images, which probes it carries.

use std::{
    collections::BTreeSet,
    ops::Range,
    path::{Path, PathBuf},
};

use super::{gpu::Gpu, interpreters::Known, python::Python};
use crate::{
    probe::{attach::Links, gear::Gear},
    report::model::{Exit, State},
    symbol::{
        mappings::{Mapping, Mappings},
        objects::ObjectId,
    },
};

/// A program image: what a process is between two `exec`s.
#[derive(Clone, Debug)]
struct Image {
    comm: String,
    /// Its executable, once it is gone; until then that of the process.
    exe: Option<PathBuf>,
    mappings: Mappings,
    interpreter: Option<Known>,
    /// Where it had memory before its arenas were seen.
    older_memory: Vec<Range<u64>>,
}

/// A traced process.
#[derive(Debug)]
pub struct Traced {
    /// Process id.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// Its executable.
    pub exe: Option<PathBuf>,
    /// Running or exited.
    pub state: State,
    /// How it ended, where leaktrace is its parent.
    pub exit: Option<Exit>,
    /// Its main thread has ended and others run.
    pub leader_gone: bool,
    /// It has become a program that must not be probed.
    pub refused: bool,
    /// Resident memory when last looked at.
    pub rss_bytes: Option<u64>,
    /// One more after each `exec`.
    images: Vec<Image>,
    /// Before this time (nanoseconds of `CLOCK_BOOTTIME`) what it mapped is known from `/proc`.
    known_from_ns: u64,
    /// From this time on the kernel side counts its images.
    counted_from_ns: u64,
    /// Objects that are or were probed in it.
    probed: BTreeSet<ObjectId>,
    /// Those whose probes are in place, or paused.
    placed: BTreeSet<ObjectId>,
    linker_watched: bool,
    /// What is known of a Python interpreter in it.
    pub python: Python,
    /// What is probed in it for the memory of GPUs.
    pub gpu: Gpu,
    /// What holds the probes in place, until they are released.
    links: Vec<Held>,
}

/// Links of an object's functions.
#[derive(Debug)]
struct Held {
    object: ObjectId,
    /// The one function that they probe; none where they probe all of them.
    slot: Option<u16>,
    /// What for.
    gear: Gear,
    links: Links,
}

impl Traced {
    /// A process of which nothing is known but its identity.
    pub fn new(pid: u32, comm: String, exe: Option<PathBuf>) -> Self {
        Self {
            pid,
            comm: comm.clone(),
            exe,
            state: State::Running,
            exit: None,
            leader_gone: false,
            refused: false,
            rss_bytes: None,
            images: vec![Image {
                comm,
                exe: None,
                mappings: Mappings::new(),
                interpreter: None,
                older_memory: Vec::new(),
            }],
            known_from_ns: 0,
            counted_from_ns: 0,
            probed: BTreeSet::new(),
            placed: BTreeSet::new(),
            linker_watched: false,
            python: Python::default(),
            gpu: Gpu::default(),
            links: Vec::new(),
        }
    }

    /// The same where it runs an image of a later number: those before it are not known.
    pub fn of_image_number(pid: u32, comm: String, exe: Option<PathBuf>, image: u16) -> Self {
        let mut traced = Self::new(pid, comm, exe);
        for _ in 0..image {
            traced.images.push(traced.images[0].clone());
        }
        traced
    }

    /// What is mapped in the current image is known from elsewhere.
    pub(super) fn set_mappings(&mut self, mappings: Mappings) {
        self.current_mut().mappings = mappings;
    }

    /// What is known of an image that is gone.
    pub(super) fn set_image(&mut self, image: u16, comm: &str, exe: Option<PathBuf>, mappings: Mappings) {
        if let Some(image) = self.images.get_mut(usize::from(image)) {
            comm.clone_into(&mut image.comm);
            image.exe = exe;
            image.mappings = mappings;
        }
    }

    /// Number of the image that runs now.
    pub const fn image(&self) -> u16 {
        (self.images.len() - 1) as u16
    }

    /// What was or is mapped in an image, and its name. An image that the kernel side has counted and the
    /// side-band has not told of is the last one known.
    pub fn of_image(&self, image: u16) -> (&str, &Mappings) {
        let image = self
            .images
            .get(usize::from(image))
            .unwrap_or_else(|| self.current());
        (&image.comm, &image.mappings)
    }

    /// The executable of an image, as far as it is known; images as in [`Self::of_image`].
    pub fn exe_of_image(&self, image: u16) -> Option<&Path> {
        let gone = self
            .images
            .get(usize::from(image))
            .filter(|_| image < self.image());
        gone.map_or(&self.exe, |gone| &gone.exe).as_deref()
    }

    /// The Python interpreter that an image had, as far as it was found; images as in [`Self::of_image`].
    pub fn interpreter_of(&self, image: u16) -> Option<&Known> {
        let image = self.images.get(usize::from(image));
        image.unwrap_or_else(|| self.current()).interpreter.as_ref()
    }

    /// Where an image had memory of its own when Python's arenas began to be seen in it; images as in
    /// [`Self::of_image`].
    pub fn older_memory(&self, image: u16) -> &[Range<u64>] {
        let image = self.images.get(usize::from(image));
        &image.unwrap_or_else(|| self.current()).older_memory
    }

    /// Notes that of the image that runs now.
    pub(super) fn set_older_memory(&mut self, memory: Vec<Range<u64>>) {
        self.current_mut().older_memory = memory;
    }

    /// That of the image that runs now.
    pub fn interpreter(&self) -> Option<&Known> {
        self.current().interpreter.as_ref()
    }

    /// The same, to be changed.
    pub(super) fn interpreter_mut(&mut self) -> &mut Option<Known> {
        &mut self.current_mut().interpreter
    }

    fn current(&self) -> &Image {
        // There is one from the start.
        &self.images[self.images.len() - 1]
    }

    fn current_mut(&mut self) -> &mut Image {
        let last = self.images.len() - 1;
        &mut self.images[last]
    }

    /// What it mapped is about to be read from `/proc`.
    pub const fn known_from(&mut self, now_ns: u64) {
        self.known_from_ns = now_ns;
    }

    /// The kernel side has been told of it.
    pub const fn counted_from(&mut self, now_ns: u64) {
        self.counted_from_ns = now_ns;
    }

    /// Whether a change of that time is already in what `/proc` said.
    pub const fn knows(&self, time_ns: u64) -> bool {
        time_ns < self.known_from_ns
    }

    /// Notes a mapping of the current image.
    pub fn map(&mut self, mapping: Mapping) {
        self.current_mut().mappings.insert(mapping);
    }

    /// Notes a mapping of the current image that came at a known time.
    pub fn map_at(&mut self, mapping: Mapping, time_ns: u64) {
        self.current_mut().mappings.insert_at(mapping, time_ns);
    }

    /// Notes one that came before the last look at what is mapped.
    pub fn remember(&mut self, mapping: Mapping, time_ns: u64) {
        self.current_mut().mappings.remember(mapping, time_ns);
    }

    /// Notes all code that the current image has mapped, in order of address: what was known elsewhere is gone.
    pub fn replace_code(&mut self, code: Vec<Mapping>) {
        let mappings = &mut self.current_mut().mappings;
        let mut gone_from = 0;
        for mapping in code {
            let next = mapping.end;
            mappings.remove(gone_from, mapping.start);
            mappings.insert(mapping);
            gone_from = next;
        }
        mappings.remove(gone_from, u64::MAX);
    }

    /// Where its JIT compilers say what they made.
    pub fn set_jit_map(&mut self, path: PathBuf) {
        self.current_mut().mappings.set_jit_map(Some(path));
    }

    /// It has called `exec`. The number of the image that is gone, unless the kernel side did not count it
    /// yet: then there are no blocks of it.
    pub fn replace_image(&mut self, comm: String, time_ns: u64) -> Option<u16> {
        let gone = self.image();
        self.comm.clone_from(&comm);
        self.current_mut().exe = self.exe.take();
        self.refused = false;
        self.python.replace_image();
        let image = Image {
            comm,
            exe: None,
            mappings: Mappings::new(),
            interpreter: None,
            older_memory: Vec::new(),
        };
        if time_ns < self.counted_from_ns {
            *self.current_mut() = image;
            return None;
        }
        self.images.push(image);
        Some(gone)
    }

    /// Whether an object is probed in it, if only now and then.
    pub fn is_probed(&self, object: ObjectId) -> bool {
        self.placed.contains(&object)
    }

    /// The objects that are probed in it, if only now and then, and what for. Those for GPU memory are left out: they are
    /// never paused.
    pub fn placed(&self) -> impl Iterator<Item = (ObjectId, Gear)> {
        let heap = self.placed.iter().map(|&object| (object, Gear::Heap));
        heap.chain(self.python.placed())
    }

    /// An object is probed from now on.
    pub fn place(&mut self, object: ObjectId) {
        self.probed.insert(object);
        self.placed.insert(object);
    }

    /// Whether it is known when its dynamic linker unmaps libraries.
    pub const fn is_linker_watched(&self) -> bool {
        self.linker_watched
    }

    /// Keeps the probe of its dynamic linker.
    pub fn watch_linker(&mut self, object: ObjectId, links: Links) {
        self.keep(object, Gear::Heap, None, links);
        self.linker_watched = true;
    }

    /// Keeps probes of an object: of the function of a slot, or of all its functions of a gear.
    pub fn keep(&mut self, object: ObjectId, gear: Gear, slot: Option<u16>, links: Links) {
        self.links.push(Held {
            object,
            slot,
            gear,
            links,
        });
    }

    /// Hands over what holds in place the probes that are of no use without an interpreter.
    pub fn take_pythons(&mut self) -> impl Iterator<Item = Links> {
        self.python.release();
        self.links
            .extract_if(.., |held| matches!(held.gear, Gear::Arenas | Gear::Pools))
            .map(|held| held.links)
    }

    /// Whether there are probes of a single function.
    pub fn has(&self, object: ObjectId, slot: u16) -> bool {
        self.links
            .iter()
            .any(|held| held.object == object && held.slot == Some(slot))
    }

    /// Hands over what holds the probes of single functions in place.
    pub fn take_functions(&mut self, slots: &BTreeSet<u16>) -> impl Iterator<Item = Links> {
        self.links
            .extract_if(.., |held| held.slot.is_some_and(|slot| slots.contains(&slot)))
            .map(|held| held.links)
    }

    /// The objects that are or were probed in it and mapped; one may come twice.
    pub fn probed(&self) -> impl Iterator<Item = ObjectId> {
        self.probed.iter().copied().chain(self.gpu.probed())
    }

    /// The same by what for.
    pub fn probed_for(&self) -> impl Iterator<Item = (ObjectId, Gear)> {
        let heap = self.probed.iter().map(|&object| (object, Gear::Heap));
        let gpu = self.gpu.probed().map(|object| (object, Gear::Gpu));
        heap.chain(self.python.probed()).chain(gpu)
    }

    /// Hands over what holds its probes in place.
    pub fn take_links(&mut self) -> impl Iterator<Item = Links> {
        self.placed.clear();
        self.python.release();
        self.gpu.release();
        self.linker_watched = false;
        std::mem::take(&mut self.links).into_iter().map(|held| held.links)
    }

    /// Takes all probes out. What was probed stays known, for the report.
    pub fn release(&mut self) {
        self.placed.clear();
        self.python.release();
        self.gpu.release();
        self.linker_watched = false;
        self.links.clear();
    }
}
