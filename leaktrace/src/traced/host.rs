//! Probes that all processes have in common: a link for each file and not for each process that maps it. A process that
//! starts later has them from its first instruction, and one that is no target is told apart by the kernel side.
//!
//! Must not know who the targets are, nor how a function is probed.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use super::{pause::in_order, pauser::Wanted, set::TracedSet};
use crate::{
    probe::{
        attach::{ALL, AttachError, Attacher, Links},
        elf::Function,
        gear::Gear,
        process as proc,
    },
    select,
    symbol::objects::ObjectId,
};

/// Which files are probed for all processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// None: each target has probes of its own.
    #[default]
    Targets,
    /// Those that only targets map; nobody else pays for that.
    Private,
    /// All of them.
    Host,
}

impl Reach {
    /// The name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Targets => "process",
            Self::Private => "private",
            Self::Host => "host",
        }
    }
}

/// What of a file is probed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Part {
    /// The functions of a gear.
    Of(Gear),
    /// `exit` of a C library.
    Exit,
    /// What a dynamic linker tells debuggers.
    Linker,
}

/// A function's slot, where it can be paused, and its probes.
type Placed = (Option<u16>, Links);

/// The probes that are for all processes.
#[derive(Debug, Default)]
pub(super) struct Host {
    pub(super) reach: Reach,
    /// By file and part; for each function where it can be paused.
    placed: HashMap<(ObjectId, Part), Vec<Placed>>,
    /// Files that processes map which are no targets.
    outside: Outside,
}

/// Files that processes map which are no targets, as far as they have been looked for.
#[derive(Debug, Default)]
struct Outside {
    files: HashSet<((u32, u32), u64)>,
    /// Inodes of those on file systems without a device of their own.
    layered: HashSet<u64>,
}

impl Outside {
    fn add(&mut self, device: (u32, u32), inode: u64) {
        self.files.insert((device, inode));
        if device.0 == 0 {
            self.layered.insert(inode);
        }
    }

    /// Whether any of them maps this file. Each container sees a file of its image as one of a device of its own, with the
    /// inode of the file underneath; probes are on that.
    fn has(&self, (device, inode): ((u32, u32), u64)) -> bool {
        self.files.contains(&(device, inode)) || device.0 == 0 && self.layered.contains(&inode)
    }
}

impl Host {
    /// All that is placed, to be taken out.
    pub(super) fn take(&mut self) -> Vec<Links> {
        let placed = std::mem::take(&mut self.placed);
        placed.into_values().flatten().map(|(_, links)| links).collect()
    }

    pub(super) fn has(&self, object: ObjectId, part: Part) -> bool {
        self.placed.contains_key(&(object, part))
    }

    pub(super) fn keep(&mut self, object: ObjectId, part: Part, slot: Option<u16>, links: Links) {
        self.placed.entry((object, part)).or_default().push((slot, links));
    }

    /// Hands over the probes of single functions.
    pub(super) fn take_functions(&mut self, slots: &BTreeSet<u16>) -> Vec<Links> {
        let mut taken = Vec::new();
        for links in self.placed.values_mut() {
            let gone = links.extract_if(.., |(slot, _)| slot.is_some_and(|slot| slots.contains(&slot)));
            taken.extend(gone.map(|(_, links)| links));
        }
        taken
    }

    /// Whether a function has a probe of its own.
    fn has_function(&self, object: ObjectId, slot: u16) -> bool {
        let of_object = self.placed.iter().filter(|((placed, _), _)| *placed == object);
        of_object
            .flat_map(|(_, links)| links)
            .any(|(placed, _)| *placed == Some(slot))
    }

    /// The gears that are placed, by file.
    fn gears(&self) -> Vec<(ObjectId, Gear)> {
        let gear = |part: Part| match part {
            Part::Of(gear) => Some(gear),
            Part::Exit | Part::Linker => None,
        };
        self.placed
            .keys()
            .filter_map(|&(object, part)| Some((object, gear(part)?)))
            .collect()
    }
}

impl TracedSet {
    /// From here on files are probed for all processes, as far as this says. `targets` are those that are known now.
    pub fn reach(&mut self, reach: Reach, targets: &HashSet<u32>) {
        self.host.reach = reach;
        if reach == Reach::Private {
            let others = select::running();
            let others = others.iter().filter(|process| !targets.contains(&process.pid));
            for process in others {
                let mappings = proc::mappings(process.pid).unwrap_or_default();
                let files = mappings
                    .into_iter()
                    .filter(|mapping| mapping.executable && mapping.inode != 0);
                for mapping in files {
                    self.host.outside.add(mapping.device, mapping.inode);
                }
            }
        }
    }

    /// Which files are probed for all processes.
    pub const fn reaches(&self) -> Reach {
        self.host.reach
    }

    /// How many files are.
    pub fn files_for_all(&self) -> usize {
        let files: HashSet<ObjectId> = self.host.placed.keys().map(|(object, _)| *object).collect();
        files.len()
    }

    /// Whether an object is, or would be.
    pub(super) fn is_for_all(&self, object: ObjectId) -> bool {
        match self.host.reach {
            Reach::Targets => false,
            Reach::Host => true,
            Reach::Private => self
                .catalog
                .keys_of(object)
                .all(|key| !self.host.outside.has(key)),
        }
    }

    /// Probes a part of an object for all processes, unless it is. Its links come as for one process.
    pub(super) fn place_for_all(
        &mut self,
        object: ObjectId,
        part: Part,
        functions: &[Function],
    ) -> Result<(), AttachError> {
        if self.host.has(object, part) {
            return Ok(());
        }
        for (slot, links) in self.links_for(ALL, object, functions)? {
            self.host.keep(object, part, slot, links);
        }
        Ok(())
    }

    /// Probes the allocators of many objects for all processes, at the same time: the kernel waits for grace periods at
    /// each. What cannot be is said again when a process that maps it is taken in.
    pub(super) fn place_many(&mut self, objects: &[ObjectId]) {
        let mut wanted = Vec::new();
        for &object in objects {
            if !self.is_for_all(object) || self.host.has(object, Part::Of(Gear::Heap)) {
                continue;
            }
            let Some(scan) = self
                .catalog
                .scanned(object)
                .filter(|scan| !scan.functions.is_empty())
            else {
                continue;
            };
            let path = self.catalog.usable_path(object).unwrap_or_default();
            wanted.push((object, path, scan.functions.clone()));
        }
        if self.pauser.is_some() {
            // Each function by itself: in order.
            for (object, _, functions) in wanted {
                if let Err(error) = self.place_for_all(object, Part::Of(Gear::Heap), &functions) {
                    tracing::warn!("{error}");
                }
            }
            return;
        }
        let attacher: &Arc<Attacher> = &self.attacher;
        let placed: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = wanted
                .iter()
                .map(|(object, path, functions)| {
                    scope.spawn(move || (*object, attacher.attach(path, ALL, functions)))
                })
                .collect();
            threads
                .into_iter()
                .filter_map(|thread| thread.join().ok())
                .collect()
        });
        for (object, links) in placed {
            match links {
                Ok(links) => self.host.keep(object, Part::Of(Gear::Heap), None, links),
                Err(error) => tracing::warn!("{error}"),
            }
        }
    }

    /// Functions that are to be probed for all again.
    pub(super) fn missing_for_all(&self, out: &BTreeSet<u16>) -> Vec<Wanted> {
        let mut wanted = Vec::new();
        for (object, gear) in self.host.gears() {
            let Some(scan) = self.catalog.scan(object).filter(|_| gear != Gear::Gpu) else {
                continue;
            };
            let path = self.catalog.usable_path(object).unwrap_or_default();
            let missing = |function: &&Function| {
                let slot = function.cookie.slot();
                self.out.contains(&slot) && !out.contains(&slot) && !self.host.has_function(object, slot)
            };
            let functions = in_order(scan.of(gear).0).into_iter().filter(missing);
            wanted.extend(functions.map(|function| Wanted {
                pid: ALL,
                object,
                path: path.clone(),
                function: function.clone(),
            }));
        }
        wanted
    }

    /// Whether a function that was put in again is still wanted for all.
    pub(super) fn wants_for_all(&self, object: ObjectId, gear: Gear, slot: u16) -> bool {
        self.host.has(object, Part::Of(gear)) && !self.host.has_function(object, slot)
    }
}
