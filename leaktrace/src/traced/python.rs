//! Functions that are probed for a Python interpreter's sake: as soon as a process has one, and no longer.
//!
//! Must not know how an interpreter is read, nor what its frames are.

use std::collections::BTreeSet;

use super::{process::Traced, set::TracedSet};
use crate::{
    probe::{
        attach::{AttachError, Links},
        elf::Scan,
        gear::Gear,
        process as proc,
    },
    symbol::objects::ObjectId,
};

/// What is known of the interpreter of a process, and of those who map its arenas.
#[derive(Debug, Default)]
pub struct Python {
    /// The object that has the interpreter, if that has arenas.
    interpreter: Option<ObjectId>,
    /// Objects of this image that have functions to probe, and what for.
    wanted: BTreeSet<(ObjectId, Gear)>,
    /// Those whose probes are in place, or paused.
    placed: BTreeSet<(ObjectId, Gear)>,
    /// Those that are or were probed.
    probed: BTreeSet<(ObjectId, Gear)>,
}

impl Python {
    /// The object that has the interpreter, if there is one that has arenas.
    pub const fn interpreter(&self) -> Option<ObjectId> {
        self.interpreter
    }

    /// The objects that are or were probed for it, and what for.
    pub fn probed(&self) -> impl Iterator<Item = (ObjectId, Gear)> {
        self.probed.iter().copied()
    }

    /// The same of those that are probed now, if only now and then.
    pub fn placed(&self) -> impl Iterator<Item = (ObjectId, Gear)> {
        self.placed.iter().copied()
    }

    /// Another program runs. The probes stay until it is known that it needs none: what starts Python is often Python.
    pub(super) fn replace_image(&mut self) {
        self.interpreter = None;
        self.wanted.clear();
    }

    /// No probe is in place any more.
    pub(super) fn release(&mut self) {
        self.placed.clear();
    }
}

/// How the objects of a Python process are seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objects {
    /// The object that has the interpreter.
    pub interpreter: ObjectId,
    /// By the arenas that are mapped for them.
    pub arenas: bool,
    /// By the pools that are taken into use for them.
    pub pools: bool,
    /// What that means in this build, and why not otherwise; a clause.
    pub how: String,
}

impl TracedSet {
    /// How the objects of a process are seen; `None` without an interpreter that has arenas.
    pub fn objects_of(&self, traced: &Traced) -> Option<Objects> {
        let interpreter = traced.python.interpreter?;
        let scan = self.catalog.scan(interpreter)?;
        // What has ended was seen in the same way.
        let is_placed = |gear| traced.python.probed().any(|(_, probed)| probed == gear);
        let arenas = is_placed(Gear::Arenas);
        let pools = is_placed(Gear::Pools) && !scan.of(Gear::Pools).0.is_empty();
        let gears = match (arenas, pools) {
            (true, true) => "by arenas and pools",
            (true, false) => "by arenas",
            (false, true) => "by pools",
            (false, false) => "not at all, since nothing that maps memory is probed",
        };
        let mut how = if scan.inlines_objects {
            format!(
                "PyObject_Malloc is inlined in this build (LTO): objects are seen {gears}, not one by one"
            )
        } else {
            format!(
                "objects are seen {gears}, not one by one: a probe on PyObject_Malloc would cost too much"
            )
        };
        if let Some(skipped) = scan.of(Gear::Pools).1.first().filter(|_| self.python_pools) {
            how = format!("{how}; pools are not probed: {}", skipped.reason);
        }
        Some(Objects {
            interpreter,
            arenas,
            pools,
            how,
        })
    }

    /// Probes what is of use in a process with an interpreter. Whether any is probed that was not.
    pub(super) fn probe_for_python(
        &mut self,
        traced: &mut Traced,
        object: ObjectId,
        scan: &Scan,
    ) -> Result<bool, AttachError> {
        // The kernel side tells arenas from other mappings by what it is told of the interpreter.
        if self.interpreters.is_none() {
            return Ok(false);
        }
        // Those without the global lock have another object allocator, and of unknown ones nothing is known of theirs.
        let has_arenas = scan.python.arena_bytes() > 0;
        if has_arenas {
            traced.python.interpreter.get_or_insert(object);
        }
        let maps_arenas = !scan.of(Gear::Arenas).0.is_empty();
        if maps_arenas {
            traced.python.wanted.insert((object, Gear::Arenas));
        }
        if has_arenas && self.python_pools {
            traced.python.wanted.insert((object, Gear::Pools));
        }
        if traced.python.interpreter.is_none() {
            // The C library is mapped after the program and, as a rule, after all other libraries.
            if maps_arenas {
                let links: Vec<Links> = traced.take_pythons().collect();
                self.release_aside(links);
            }
            return Ok(false);
        }
        let Python { wanted, placed, .. } = &traced.python;
        let missing: Vec<(ObjectId, Gear)> = wanted.difference(placed).copied().collect();
        for (object, gear) in &missing {
            self.place_for_python(traced, *object, *gear)?;
        }
        // An interpreter in a library is mapped before the C library, by which its arenas are seen.
        if missing.iter().any(|(_, gear)| *gear == Gear::Arenas)
            && let Some(objects) = self.objects_of(traced)
        {
            let name = self.catalog.name(objects.interpreter);
            tracing::info!("pid {}: Python in {name}: {}", traced.pid, objects.how);
        }
        Ok(!missing.is_empty())
    }

    fn place_for_python(
        &mut self,
        traced: &mut Traced,
        object: ObjectId,
        gear: Gear,
    ) -> Result<(), AttachError> {
        let Some(scan) = self.catalog.scan(object) else {
            return Ok(());
        };
        let functions = scan.of(gear).0;
        if !functions.is_empty() {
            for (slot, links) in self.links_of(traced.pid, object, gear, functions)? {
                traced.keep(object, gear, slot, links);
            }
        }
        self.log(traced.pid, object, &scan, gear);
        if gear == Gear::Arenas {
            note_older_memory(traced);
        }
        traced.python.placed.insert((object, gear));
        traced.python.probed.insert((object, gear));
        Ok(())
    }
}

/// From now on no arena of a process comes unseen: what memory it has by now is noted. It is to be called when the last
/// of two has happened, that its probes are in place and that the kernel side knows the interpreter.
pub(super) fn note_older_memory(traced: &mut Traced) {
    // A process that has ended has none.
    let mappings = proc::mappings(traced.pid).unwrap_or_default();
    let own = mappings.iter().filter(|mapping| mapping.inode == 0);
    traced.set_older_memory(own.map(|mapping| mapping.start..mapping.end).collect());
}
