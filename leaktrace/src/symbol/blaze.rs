//! The [`Symbolizer`] of a run: what is found is kept, once for all objects with the same build id; what is
//! not known yet is looked up in the thread of `worker`.
//!
//! Objects are read by file, never by process: that needs no live process and no second look at its address
//! space. What JIT compilers say of their code is read here.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::cache::Cache;
use super::debuginfod::Servers;
use super::jit::JitMaps;
use super::jitdump::JitDumps;
use super::mappings::{Mapping, Mappings, ObjectId};
use super::objects::Objects;
use super::reader::{Function, Functions};
use super::worker::{Said, Told, Worker};
use super::{SymbolFrame, Symbolizer, bare_frame, lookup_address};

/// Distinct addresses whose functions are remembered. At some 200 bytes each, 13 MiB.
const CACHED_MAX: usize = 1 << 16;

/// An address in an object: the first one of its build id, how often better names have come for it since, and
/// the address in its own numbering.
type Place = (ObjectId, u32, u64);

/// Names addresses. Everything is found once and kept, within a bound.
#[derive(Debug)]
pub struct Blaze {
    worker: Worker,
    found: Cache<Place, Functions>,
    /// How often a debug file has come for an object after it was first looked at.
    editions: HashMap<ObjectId, u32>,
    /// Asked for, and not answered yet.
    asked: HashSet<Place>,
    /// Whether a debug file has come since that was last asked.
    better: bool,
    jit: JitMaps,
    dumps: JitDumps,
}

impl Default for Blaze {
    fn default() -> Self {
        Self::with_servers(|_told| Servers::none())
    }
}

/// One address of a stack on its way.
struct Slot<'a> {
    address: u64,
    lookup: u64,
    mapping: Option<&'a Mapping>,
}

impl Slot<'_> {
    /// The first object with that code, and the address in its own numbering.
    fn place(&self, objects: &Objects) -> Option<(ObjectId, u64)> {
        let mapping = self.mapping?;
        let object = objects.get(mapping.object?)?;
        let address = object.address_of(mapping.offset_of(self.lookup))?;
        Some((objects.first_alike(mapping.object?), address))
    }

    /// Whether what lies there is no part of an ELF file: code of a JIT compiler, which some map from a
    /// memory file.
    fn is_jit(&self, objects: &Objects) -> bool {
        let object = self.mapping.and_then(|mapping| mapping.object);
        !object
            .and_then(|id| objects.get(id))
            .is_some_and(|object| object.is_elf)
    }
}

fn slots<'a>(mappings: &'a Mappings, addresses: &[u64]) -> Vec<Slot<'a>> {
    let slot = |(index, &address)| {
        let lookup = lookup_address(index, address);
        Slot {
            address,
            lookup,
            mapping: mappings.find_code(lookup).or_else(|| mappings.find(lookup)),
        }
    };
    addresses.iter().enumerate().map(slot).collect()
}

impl Symbolizer for Blaze {
    fn frames(&mut self, mappings: &Mappings, objects: &Objects, addresses: &[u64]) -> Vec<Vec<SymbolFrame>> {
        let slots = slots(mappings, addresses);
        let functions = self.functions_at(objects, &slots);
        self.put_together(mappings, objects, &slots, &functions)
    }
}

impl Blaze {
    /// As [`Symbolizer::frames`], with what is known by now: waits for nothing.
    pub fn frames_so_far(
        &mut self,
        mappings: &Mappings,
        objects: &Objects,
        addresses: &[u64],
    ) -> Vec<Vec<SymbolFrame>> {
        let slots = slots(mappings, addresses);
        self.hear();
        let places = self.ask_for(objects, &slots);
        let functions = self.known_at(places);
        self.put_together(mappings, objects, &slots, &functions)
    }

    fn put_together(
        &mut self,
        mappings: &Mappings,
        objects: &Objects,
        slots: &[Slot<'_>],
        functions: &HashMap<(ObjectId, u64), Functions>,
    ) -> Vec<Vec<SymbolFrame>> {
        let dump = mappings.jit_dump();
        let jit_map = mappings.jit_map();
        if slots.iter().any(|slot| slot.is_jit(objects)) {
            if let Some((id, object)) = dump.and_then(|id| Some((id, objects.get(id)?))) {
                self.dumps.refresh(id, &object.file);
            }
            if let Some(path) = jit_map {
                self.jit.refresh(path);
            }
        }
        slots
            .iter()
            .map(|slot| {
                let mut bare = bare_frame(slot.address, slot.lookup, slot.mapping, objects);
                let functions = slot.place(objects).and_then(|place| functions.get(&place));
                if let Some(functions) = functions {
                    return with_functions(&bare, functions);
                }
                if slot.is_jit(objects) {
                    bare.symbol = dump
                        .and_then(|id| self.dumps.find(id, slot.lookup))
                        .or_else(|| self.jit.find(jit_map?, slot.lookup));
                }
                vec![bare]
            })
            .collect()
    }
}

fn with_functions(bare: &SymbolFrame, functions: &[Function]) -> Vec<SymbolFrame> {
    if functions.is_empty() {
        return vec![bare.clone()];
    }
    let frame = |function: &Function| SymbolFrame {
        symbol: function.symbol.clone(),
        file: function.file.clone(),
        line: function.line,
        inlined: function.inlined,
        ..bare.clone()
    };
    functions.iter().map(frame).collect()
}

impl Blaze {
    /// A symbolizer that has seen nothing yet, and asks the servers that the environment names.
    pub fn new() -> Self {
        Self::with_servers(|told| Servers::from_environment(|name| std::env::var_os(name), told))
    }

    fn with_servers(servers: impl FnOnce(Told) -> Servers + Send + 'static) -> Self {
        Self {
            worker: Worker::start(servers),
            found: Cache::new(CACHED_MAX),
            editions: HashMap::new(),
            asked: HashSet::new(),
            better: false,
            jit: JitMaps::new(),
            dumps: JitDumps::default(),
        }
    }

    /// Has the names of a stack looked up, for [`Symbolizer::frames`] to find them known. Waits for nothing.
    pub fn ask(&mut self, mappings: &Mappings, objects: &Objects, addresses: &[u64]) {
        self.hear();
        self.ask_for(objects, &slots(mappings, addresses));
    }

    /// How many addresses that were asked for have no answer yet.
    pub fn unanswered(&self) -> usize {
        self.asked.len()
    }

    /// How many debug files are being fetched from servers: names may be better when they are here.
    pub fn fetching(&self) -> usize {
        self.worker.fetching()
    }

    /// Whether, since the last call, a debug file has come: what was found in its object is forgotten, and can
    /// be asked for again.
    pub const fn take_better(&mut self) -> bool {
        std::mem::replace(&mut self.better, false)
    }

    /// Ends when some of what was asked for is known, or a debug file has come.
    pub async fn answered(&mut self) {
        self.worker.has_said().await;
        self.hear();
    }

    /// Takes in what has been said.
    fn hear(&mut self) {
        while let Some(said) = self.worker.try_hear() {
            self.take(said);
        }
    }

    fn take(&mut self, said: Said) {
        match said {
            Said::Found(id, found) => {
                // What is asked for under one edition is answered under it: the thread does one after another.
                let edition = self.edition(id);
                for (address, functions) in found {
                    self.asked.remove(&(id, edition, address));
                    self.found.insert((id, edition, address), functions);
                }
            }
            Said::Better(id) => {
                self.better = true;
                *self.editions.entry(id).or_default() += 1;
                // Their answers come too, and stand for what is asked from now on.
                let edition = self.edition(id);
                let moved: Vec<_> = self.asked.extract_if(|place| place.0 == id).collect();
                self.asked
                    .extend(moved.into_iter().map(|(id, _, address)| (id, edition, address)));
            }
        }
    }

    fn edition(&self, id: ObjectId) -> u32 {
        self.editions.get(&id).copied().unwrap_or_default()
    }

    /// Asks for what is neither known nor asked for; one question an object. The places of all.
    fn ask_for(&mut self, objects: &Objects, slots: &[Slot<'_>]) -> Vec<Place> {
        let places = slots.iter().filter_map(|slot| slot.place(objects));
        let mut places: Vec<Place> = places
            .map(|(id, address)| (id, self.edition(id), address))
            .collect();
        places.sort_unstable();
        places.dedup();
        let mut missing: BTreeMap<ObjectId, Vec<u64>> = BTreeMap::new();
        for place in &places {
            if !self.asked.contains(place) && self.found.get(*place).is_none() {
                missing.entry(place.0).or_default().push(place.2);
            }
        }
        for (id, addresses) in missing {
            let Some(object) = objects.share(id) else { continue };
            let edition = self.edition(id);
            if self.worker.look_up(id, object, addresses.clone()) {
                self.asked
                    .extend(addresses.iter().map(|&address| (id, edition, address)));
            }
        }
        places
    }

    /// What is at each place; waits for what is not known yet.
    fn functions_at(&mut self, objects: &Objects, slots: &[Slot<'_>]) -> HashMap<(ObjectId, u64), Functions> {
        self.hear();
        let places = self.ask_for(objects, slots);
        while places
            .iter()
            .any(|place| self.asked.contains(&(place.0, self.edition(place.0), place.2)))
        {
            match self.worker.hear() {
                Some(said) => self.take(said),
                // The thread is gone: what it was asked is not answered any more.
                None => self.asked.clear(),
            }
        }
        self.known_at(places)
    }

    /// What is known of each place.
    fn known_at(&mut self, places: Vec<Place>) -> HashMap<(ObjectId, u64), Functions> {
        let found = places.into_iter().filter_map(|(id, _, address)| {
            let functions = self.found.get((id, self.edition(id), address))?;
            Some(((id, address), functions))
        });
        found.collect()
    }
}

#[cfg(test)]
#[path = "blaze_tests.rs"]
mod tests;
