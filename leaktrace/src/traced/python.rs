//! Functions that are probed for a Python interpreter's sake: as soon as a process has one, and no longer.
//!
//! Must not know how an interpreter is read, nor what its frames are.

use std::{collections::BTreeSet, rc::Rc};

use super::{process::Traced, set::TracedSet};
use crate::{
    probe::{
        attach::{AttachError, Links},
        elf::Scan,
    },
    symbol::objects::ObjectId,
};

/// What is known of the interpreter of a process, and of those who map its arenas.
#[derive(Debug, Default)]
pub struct Arenas {
    /// The object that has the interpreter.
    interpreter: Option<ObjectId>,
    /// Objects of this image through which arenas can be mapped.
    mappers: BTreeSet<ObjectId>,
    /// Those whose probes are in place, or paused.
    placed: BTreeSet<ObjectId>,
    /// Those that are or were probed.
    probed: BTreeSet<ObjectId>,
}

impl Arenas {
    /// The object that has the interpreter, if there is one.
    pub const fn interpreter(&self) -> Option<ObjectId> {
        self.interpreter
    }

    /// The objects that are or were probed for its arenas.
    pub fn probed(&self) -> impl Iterator<Item = ObjectId> {
        self.probed.iter().copied()
    }

    /// The same of those that are probed now, if only now and then.
    pub fn placed(&self) -> impl Iterator<Item = ObjectId> {
        self.placed.iter().copied()
    }

    /// Another program runs. The probes stay until it is known that it needs none: one that starts Python is likely
    /// to be Python.
    pub(super) fn replace_image(&mut self) {
        self.interpreter = None;
        self.mappers.clear();
    }

    /// No probe is in place any more.
    pub(super) fn release(&mut self) {
        self.placed.clear();
    }
}

impl TracedSet {
    /// Probes what maps arenas, in a process with an interpreter. Whether any is probed that was not.
    pub(super) fn probe_arenas(
        &self,
        traced: &mut Traced,
        object: ObjectId,
        scan: &Rc<Scan>,
    ) -> Result<bool, AttachError> {
        if scan.has_interpreter {
            traced.arenas.interpreter.get_or_insert(object);
        }
        let is_mapper = !scan.arenas.functions.is_empty();
        if is_mapper {
            traced.arenas.mappers.insert(object);
        }
        if traced.arenas.interpreter.is_none() {
            // The C library is mapped after the program and, as a rule, after all other libraries.
            if is_mapper {
                let links: Vec<Links> = traced.take_arenas().collect();
                // The kernel waits for a grace period or two for each link.
                std::thread::spawn(move || drop(links));
            }
            return Ok(false);
        }
        let missing: Vec<ObjectId> = traced
            .arenas
            .mappers
            .difference(&traced.arenas.placed)
            .copied()
            .collect();
        for object in &missing {
            self.place_arenas(traced, *object)?;
        }
        Ok(!missing.is_empty())
    }

    fn place_arenas(&self, traced: &mut Traced, object: ObjectId) -> Result<(), AttachError> {
        let Some(scan) = self.catalog.scan(object) else {
            return Ok(());
        };
        for (slot, links) in self.links_of(traced.pid, object, &scan.arenas.functions)? {
            traced.keep_arenas(object, slot, links);
        }
        self.log(traced.pid, object, &scan.arenas.functions, &scan.arenas.skipped);
        traced.arenas.placed.insert(object);
        traced.arenas.probed.insert(object);
        Ok(())
    }
}
