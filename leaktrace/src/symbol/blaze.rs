//! The [`Symbolizer`] made of blazesym: ELF symbols, DWARF, separate debug files, demangling.
//!
//! Objects are read by file offset, never by process: that needs no live process and no second look at
//! its address space. The only module that knows blazesym's symbolizer.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use blazesym::symbolize::source::{Elf, Source};
use blazesym::symbolize::{CodeInfo, Input, Reason, Sym, Symbolized};

use super::cache::Cache;
use super::demangle::demangle;
use super::jit::JitMaps;
use super::mappings::{Mapping, Mappings, ObjectId};
use super::objects::{Object, Objects};
use super::{SymbolFrame, Symbolizer, bare_frame, lookup_address, printable};

/// Distinct addresses whose functions are remembered. At some 200 bytes each, 13 MiB.
const CACHED_MAX: usize = 1 << 16;

/// An address in an object: file offset of the instruction looked up.
type Place = (ObjectId, u64);

/// A function at a place.
#[derive(Clone, Debug)]
struct Function {
    symbol: Option<Arc<str>>,
    file: Option<Arc<str>>,
    line: Option<u32>,
    inlined: bool,
}

/// The functions at a place, innermost first; empty where there is no symbol.
type Functions = Arc<[Function]>;

/// Symbolizes with blazesym. Everything is found once and kept, within a bound.
#[derive(Debug)]
pub struct Blaze {
    symbolizer: blazesym::symbolize::Symbolizer,
    found: Cache<Place, Functions>,
    jit: JitMaps,
}

impl Default for Blaze {
    fn default() -> Self {
        Self {
            symbolizer: new_symbolizer(),
            found: Cache::new(CACHED_MAX),
            jit: JitMaps::new(),
        }
    }
}

fn new_symbolizer() -> blazesym::symbolize::Symbolizer {
    blazesym::symbolize::Symbolizer::builder()
        .enable_code_info(true)
        .enable_inlined_fns(true)
        // blazesym takes every name for a mangled one: a C function `t` becomes `unsigned short`.
        .enable_demangling(false)
        // A path can come to mean another file during a run: an upgrade under a running process.
        .enable_auto_reload(true)
        .build()
}

/// One address of a stack on its way.
struct Slot<'a> {
    address: u64,
    lookup: u64,
    mapping: Option<&'a Mapping>,
}

impl Slot<'_> {
    fn place(&self, objects: &Objects) -> Option<Place> {
        let mapping = self.mapping?;
        let id = mapping.object?;
        objects
            .get(id)?
            .is_elf
            .then(|| (id, mapping.offset_of(self.lookup)))
    }
}

impl Symbolizer for Blaze {
    fn frames(&mut self, mappings: &Mappings, objects: &Objects, addresses: &[u64]) -> Vec<Vec<SymbolFrame>> {
        let slots: Vec<_> = addresses
            .iter()
            .enumerate()
            .map(|(index, &address)| {
                let lookup = lookup_address(index, address);
                Slot {
                    address,
                    lookup,
                    mapping: mappings.find_code(lookup).or_else(|| mappings.find(lookup)),
                }
            })
            .collect();
        let functions = self.functions_at(objects, slots.iter().filter_map(|slot| slot.place(objects)));
        // Some JIT compilers map their code from a memory file, which is an object but no ELF file.
        let jit_used = |slot: &Slot<'_>| slot.place(objects).is_none();
        let jit_map = mappings.jit_map().filter(|_| slots.iter().any(jit_used));
        if let Some(path) = jit_map {
            self.jit.refresh(path);
        }
        slots
            .iter()
            .map(|slot| {
                let mut bare = bare_frame(slot.address, slot.lookup, slot.mapping, objects);
                if let Some(functions) = slot.place(objects).and_then(|place| functions.get(&place)) {
                    return with_functions(&bare, functions);
                }
                if let Some(path) = jit_map.filter(|_| jit_used(slot)) {
                    bare.symbol = self.jit.find(path, slot.lookup);
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
    /// A symbolizer that has seen nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is at each place: from the cache, the rest in one batch per object.
    fn functions_at(
        &mut self,
        objects: &Objects,
        places: impl Iterator<Item = Place>,
    ) -> HashMap<Place, Functions> {
        let mut found = HashMap::new();
        let mut missing: BTreeMap<ObjectId, Vec<u64>> = BTreeMap::new();
        for place in places {
            if found.contains_key(&place) {
                continue;
            }
            match self.found.get(place) {
                Some(functions) => {
                    found.insert(place, functions);
                }
                None => missing.entry(place.0).or_default().push(place.1),
            }
        }
        for (id, mut offsets) in missing {
            let Some(object) = objects.get(id) else { continue };
            offsets.sort_unstable();
            offsets.dedup();
            for (offset, functions) in self.look_up(object, &offsets) {
                self.found.insert((id, offset), Arc::clone(&functions));
                found.insert((id, offset), functions);
            }
        }
        found
    }

    /// What is at these offsets of the object; nothing where it has no symbol. Where debug information
    /// cannot be read, ELF symbols alone are used.
    fn look_up(&mut self, object: &Object, offsets: &[u64]) -> Vec<(u64, Functions)> {
        let path = object.usable_path();
        let mut found = Vec::with_capacity(offsets.len());
        let mut failed = self.attempt(&path, true, offsets, &mut found);
        if !failed.is_empty() {
            failed = self.attempt(&path, false, &failed, &mut found);
        }
        found.extend(failed.into_iter().map(|offset| (offset, Functions::from([]))));
        found
    }

    /// Adds what is found; returns the offsets for which the attempt failed.
    fn attempt(
        &mut self,
        path: &PathBuf,
        debug_syms: bool,
        offsets: &[u64],
        found: &mut Vec<(u64, Functions)>,
    ) -> Vec<u64> {
        let mut elf = Elf::new(path);
        elf.debug_syms = debug_syms;
        let source = Source::Elf(elf);
        // The parsers read whatever a target has mapped: should one of them panic, its object is shown
        // by offsets and the run goes on. The symbolizer it left behind is not used again.
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let input = Input::FileOffset(offsets);
            self.symbolizer
                .symbolize(&source, input)
                .map(|symbols| symbols.iter().map(functions_of).collect::<Vec<_>>())
        }));
        let symbols = match outcome {
            Ok(Ok(symbols)) if symbols.len() == offsets.len() => symbols,
            Ok(Ok(_)) => return offsets.to_vec(),
            Ok(Err(error)) => {
                tracing::debug!(object = %path.display(), debug_syms, %error, "symbols could not be read");
                return offsets.to_vec();
            }
            Err(_panic) => {
                tracing::warn!(object = %path.display(), debug_syms, "the symbolizer failed on this object");
                self.symbolizer = new_symbolizer();
                return offsets.to_vec();
            }
        };
        let mut failed = Vec::new();
        for (&offset, functions) in offsets.iter().zip(symbols) {
            match functions {
                Some(functions) => found.push((offset, functions)),
                None => failed.push(offset),
            }
        }
        failed
    }
}

/// The functions of one result; none if an error stands behind it.
fn functions_of(symbolized: &Symbolized<'_>) -> Option<Functions> {
    match symbolized {
        Symbolized::Sym(symbol) => Some(all_functions(symbol)),
        Symbolized::Unknown(Reason::IgnoredError) => None,
        Symbolized::Unknown(_) => Some(Functions::from([])),
    }
}

/// blazesym lists inlined functions from the outside in, after the function that contains them.
fn all_functions(symbol: &Sym<'_>) -> Functions {
    let inlined = symbol.inlined.iter().rev();
    inlined
        .map(|function| new_function(&function.name, function.code_info.as_ref(), true))
        .chain([new_function(&symbol.name, symbol.code_info.as_deref(), false)])
        .collect()
}

fn new_function(name: &str, code: Option<&CodeInfo<'_>>, inlined: bool) -> Function {
    Function {
        symbol: (!name.is_empty()).then(|| printable(&demangle(name))),
        file: code.map(|code| printable(&code.to_path().to_string_lossy())),
        line: code.and_then(|code| code.line),
        inlined,
    }
}

#[cfg(test)]
#[path = "blaze_tests.rs"]
mod tests;
